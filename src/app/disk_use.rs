//! Whether the files of an embedded store are much larger than what they hold.

use crate::error::Result;
use crate::maintain::survey::Survey;
use crate::query::index::upkeep;
use crate::store::Store;

/// A store of up to so many bytes on disk is not worth a word.
const SMALL: u64 = 100_000_000;
/// How many times what it holds a store may take.
const TIMES: u64 = 3;

/// Returns the bytes of the store's files, and about how many bytes they hold, if the files take more than three
/// times as much. Reads only counters; the data of a deleted database does not count. Blocks on the disk.
pub fn wasteful(store: &dyn Store) -> Result<Option<(u64, u64)>> {
    let disk = store.disk_bytes();
    if disk <= SMALL {
        return Ok(None);
    }
    let live = Survey::of(store)?.bytes + upkeep::stored_bytes(store)?;
    Ok((disk > TIMES * live).then_some((disk, live)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::db::record::{Info, NameRecord};
    use crate::store::memory::Memory;
    use crate::store::{Batch, Direction, Entry, PageLimit, keyspace, range::KeyRange};

    /// A store whose files have a given size.
    struct Sized(Arc<Memory>, u64);

    impl Store for Sized {
        fn get_many(&self, keys: &[Vec<u8>]) -> crate::store::Result<Vec<Option<Vec<u8>>>> {
            self.0.get_many(keys)
        }
        fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> crate::store::Result<Vec<Entry>> {
            self.0.scan(range, direction, limit)
        }
        fn commit(&self, batch: Batch) -> crate::store::Result<()> {
            self.0.commit(batch)
        }
        fn engine(&self) -> &'static str {
            "memory"
        }
        fn disk_bytes(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn only_a_large_store_of_more_than_three_times_its_data_is_wasteful() {
        let memory = Arc::new(Memory::new());
        let record = NameRecord { number: 1, instance: [0; 16], created: 0, partitioned: false, q: 1, n: 1 };
        let mut batch = Batch::new();
        batch.put(keyspace::name("db"), record.encode());
        batch.put(keyspace::info(1), Info { external: 40_000_000, ..Info::default() }.encode());
        memory.commit(batch).unwrap();
        let wasteful = |disk: u64| wasteful(&Sized(memory.clone(), disk)).unwrap();
        assert_eq!(wasteful(90_000_000), None);
        assert_eq!(wasteful(120_000_000), None);
        assert_eq!(wasteful(121_000_000), Some((121_000_000, 40_000_000)));
        assert_eq!(super::wasteful(&Sized(Arc::default(), SMALL)).unwrap(), None);
        assert_eq!(super::wasteful(&Sized(Arc::default(), SMALL + 1)).unwrap(), Some((SMALL + 1, 0)));
    }
}
