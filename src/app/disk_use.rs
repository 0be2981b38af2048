//! Whether the files of an embedded store are much larger than what they hold.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::Result;
use crate::maintain::survey::Survey;
use crate::query::index::upkeep;
use crate::store::Store;

/// A store of up to so many bytes on disk is not worth a rewrite.
const SMALL: u64 = 50_000_000;
/// Percent of what it holds that a store may take: until a client asks for a compaction, and then.
const BY_ITSELF: u64 = 300;
const ASKED: u64 = 150;

/// Wakes the job that gives disk space back.
#[derive(Debug, Default)]
pub struct Wake {
    notify: Notify,
    asked: AtomicBool,
}

impl Wake {
    /// After much was deleted.
    pub fn some_was_freed(&self) {
        self.notify.notify_one();
    }

    /// After a compaction that a client has asked for.
    pub fn compaction_was_asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Waits for one of these, for at most `time`. Returns percent for [`Sizes::are_wasteful`].
    pub async fn wait(&self, time: Duration) -> u64 {
        let _ = tokio::time::timeout(time, self.notify.notified()).await;
        if self.asked.swap(false, Ordering::Relaxed) { ASKED } else { BY_ITSELF }
    }
}

/// The size of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of its files.
    pub disk: u64,
    /// About how many bytes they hold. The data of a deleted database does not count.
    pub live: u64,
}

impl Sizes {
    /// Reads only counters. Blocks on the disk.
    pub fn of(store: &dyn Store) -> Result<Sizes> {
        let disk = store.disk_bytes();
        let live = match disk <= SMALL {
            true => disk,
            false => Survey::of(store)?.bytes + upkeep::stored_bytes(store)?,
        };
        Ok(Sizes { disk, live })
    }

    /// Whether the files take more than so many percent of what they hold, and a quarter more than a rewrite would leave of
    /// them. `last`: the sizes after the last one.
    pub fn are_wasteful(&self, percent: u64, last: Option<Sizes>) -> bool {
        let share = |of: u64, numerator: u64, denominator: u64| {
            u64::try_from(u128::from(of) * u128::from(numerator) / u128::from(denominator.max(1))).unwrap_or(u64::MAX)
        };
        let left =
            last.map_or(0, |last| if last.live == 0 { last.disk } else { share(last.disk, self.live, last.live) });
        self.disk > SMALL && self.disk > share(self.live, percent, 100) && self.disk > share(left, 5, 4)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (disk, live) = (self.disk / 1_000_000, self.live / 1_000_000);
        write!(out, "the files of the store take {disk} MB, what they hold {live} MB")
    }
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
    fn only_a_large_store_of_many_times_its_data_is_wasteful() {
        let memory = Arc::new(Memory::new());
        let record = NameRecord { number: 1, instance: [0; 16], created: 0, partitioned: false, q: 1, n: 1 };
        let mut batch = Batch::new();
        batch.put(keyspace::name("db"), record.encode());
        batch.put(keyspace::info(1), Info { external: 40_000_000, ..Info::default() }.encode());
        memory.commit(batch).unwrap();
        let of = |disk: u64| Sizes::of(&Sized(memory.clone(), disk)).unwrap();
        assert_eq!(of(120_000_000), Sizes { disk: 120_000_000, live: 40_000_000 });
        let wasteful = |disk: u64, percent| of(disk).are_wasteful(percent, None);
        assert!(!wasteful(49_000_000, ASKED) && !wasteful(120_000_000, BY_ITSELF) && wasteful(121_000_000, BY_ITSELF));
        assert!(!wasteful(60_000_000, ASKED) && wasteful(61_000_000, ASKED));
        let empty = Sizes { disk: SMALL, live: 0 };
        assert!(!empty.are_wasteful(ASKED, None));
        assert!(Sizes { disk: SMALL + 1, ..empty }.are_wasteful(BY_ITSELF, None));
    }

    #[test]
    fn what_the_last_rewrite_could_not_free_is_not_tried_again() {
        let sizes = |disk: u64, live: u64| Sizes { disk: disk * 1_000_000, live: live * 1_000_000 };
        // A rewrite leaves twice what the store holds.
        let last = Some(sizes(200, 100));
        assert!(!sizes(240, 100).are_wasteful(ASKED, last) && sizes(260, 100).are_wasteful(ASKED, last));
        assert!(sizes(200, 60).are_wasteful(ASKED, last), "much was deleted");
        assert!(!sizes(260, 100).are_wasteful(BY_ITSELF, last));
        // What is not counted, such as `_local` documents.
        let last = Some(sizes(100, 1));
        assert!(!sizes(110, 1).are_wasteful(BY_ITSELF, last) && sizes(130, 1).are_wasteful(BY_ITSELF, last));
        let last = Some(sizes(1, 0));
        assert!(sizes(60, 0).are_wasteful(BY_ITSELF, last) && sizes(60, 10).are_wasteful(BY_ITSELF, last));
    }

    #[tokio::test]
    async fn a_compaction_that_was_asked_for_counts_once() {
        let wake = Wake::default();
        let now = Duration::ZERO;
        assert_eq!(wake.wait(now).await, BY_ITSELF);
        wake.compaction_was_asked();
        wake.some_was_freed();
        assert_eq!(wake.wait(now).await, ASKED);
        assert_eq!(wake.wait(now).await, BY_ITSELF);
    }
}
