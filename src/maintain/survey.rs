//! Totals over all databases, from which progress bars compute their position.

use std::collections::BTreeMap;

use crate::db::record::{Info, NameRecord};
use crate::error::Result;
use crate::store::{Direction, PageLimit, Store, keyspace, pages};

/// Bytes of a row of the changes order with its keys: about this much.
const ROW_BYTES: u64 = 96;

/// Totals, summed from the counters of the databases.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Number of documents, including deleted ones.
    pub documents: u64,
    /// Sum of the last sequences of all databases.
    pub changes: u64,
    /// About how many bytes of keys and values the databases have in the store, without views. Attachments count, too.
    pub bytes: u64,
    /// Database number → (changes in the databases with lower numbers, changes in this one).
    databases: BTreeMap<u64, (u64, u64)>,
}

impl Survey {
    /// Reads the counters of all databases.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn of(store: &dyn Store) -> Result<Survey> {
        let mut survey = Survey::default();
        for page in pages(store, keyspace::names(None, None), Direction::Forward, PageLimit::entries(1000)) {
            let page = page?;
            let mut numbers = Vec::with_capacity(page.len());
            for (_, record) in &page {
                numbers.push(NameRecord::decode(record)?.number);
            }
            let wanted: Vec<_> = numbers.iter().map(|number| keyspace::info(*number)).collect();
            for (number, info) in numbers.into_iter().zip(store.get_many(&wanted)?) {
                let info = info.map(|info| Info::decode(&info)).transpose()?.unwrap_or_default();
                survey.documents += info.documents + info.deleted;
                survey.bytes += info.external + info.old + info.records + ROW_BYTES * (info.documents + info.deleted);
                survey.databases.insert(number, (0, info.sequence));
            }
        }
        for (before, own) in survey.databases.values_mut() {
            *before = survey.changes;
            survey.changes += *own;
        }
        Ok(survey)
    }

    /// Returns the number of changes before `key`, for a scan over all keys that has reached `key`. Returns
    /// `None` unless `key` is the key of a body.
    pub fn changes_before(&self, key: &[u8]) -> Option<u64> {
        let (number, sequence) = keyspace::place_of_body(key)?;
        let (before, own) = self.databases.get(&number)?;
        Some(before + sequence.min(*own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;
    use crate::store::memory::Memory;

    #[test]
    fn changes_are_summed_in_the_order_of_database_numbers() {
        let store = Memory::new();
        assert_eq!(Survey::of(&store).unwrap(), Survey::default());
        let mut batch = Batch::new();
        for (name, number, documents, sequence) in [("a", 7, 3, 40), ("b", 2, 5, 10), ("c", 9, 0, 0)] {
            let record = NameRecord { number, instance: [0; 16], created: 0, partitioned: false, q: 1, n: 1 };
            let info = Info { documents, deleted: 1, sequence, external: 1000, old: 10, ..Info::default() };
            batch.put(keyspace::name(name), record.encode());
            batch.put(keyspace::info(number), info.encode());
        }
        store.commit(batch).unwrap();
        let survey = Survey::of(&store).unwrap();
        assert_eq!((survey.documents, survey.changes, survey.bytes), (11, 50, 3 * 1010 + 11 * 96));
        assert_eq!(survey.changes_before(&keyspace::body(2, 4, 0)), Some(4));
        assert_eq!(survey.changes_before(&keyspace::body(7, 4, 1)), Some(14));
        assert_eq!(survey.changes_before(&keyspace::body(7, 400, 0)), Some(50), "never more than there are");
        assert_eq!(survey.changes_before(&keyspace::body(8, 4, 0)), None);
        assert_eq!(survey.changes_before(&keyspace::document(7, "long enough to hold a number")), None);
    }
}
