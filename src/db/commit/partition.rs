//! Partitions of a partitioned database: the counters of each, which the writer updates with every change,
//! and the limit on its size.

use std::collections::HashMap;

use super::tally::{Tally, shift};
use crate::db::codec::{Reader, Writer};
use crate::db::names::partition_of;
use crate::db::record::DocumentRecord;
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, Store, keyspace, pages};

const VERSION: u8 = 1;

/// The counters of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Number of documents whose winner is not deleted.
    pub documents: u64,
    /// Number of documents whose winner is deleted.
    pub deleted: u64,
    /// Size of the bodies and attachments of all leaves, in bytes.
    pub bytes: u64,
}

impl PartitionInfo {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        for number in [self.documents, self.deleted, self.bytes] {
            out.number(number);
        }
        out.0
    }

    fn decode(partition: &str, value: &[u8]) -> Result<PartitionInfo> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            Some(PartitionInfo { documents: fields.number()?, deleted: fields.number()?, bytes: fields.number()? })
        };
        read().ok_or_else(|| Error::Damaged(format!("the counters of partition {partition}")))
    }

    pub(crate) fn shift(&mut self, was: &Tally, is: &Tally) {
        shift(&mut self.documents, was.live, is.live);
        shift(&mut self.deleted, was.deleted, is.deleted);
        shift(&mut self.bytes, was.leaf_bytes, is.leaf_bytes);
    }

    /// Returns the stored counters. If there are none yet (after a restore), counts the documents.
    pub fn of(store: &dyn Store, number: u64, partition: &str) -> Result<PartitionInfo> {
        match store.get(&keyspace::partition(number, partition))? {
            Some(value) => PartitionInfo::decode(partition, &value),
            None => count(store, number, partition),
        }
    }
}

/// Computes the counters by reading all documents of the partition.
pub fn count(store: &dyn Store, number: u64, partition: &str) -> Result<PartitionInfo> {
    let range = keyspace::prefix(&keyspace::document(number, &format!("{partition}:")));
    let mut info = PartitionInfo::default();
    for page in pages(store, range, Direction::Forward, PageLimit::entries(500)) {
        for (key, value) in page? {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key));
            info.shift(&Tally::default(), &Tally::of(&DocumentRecord::decode(&id, &value)?.tree));
        }
    }
    Ok(info)
}

/// The partitions that a draft changes.
pub(crate) struct Partitions {
    touched: HashMap<String, PartitionInfo>,
    /// Maximum size of a partition in bytes; 0 for no limit.
    limit: u64,
}

impl Partitions {
    /// Creates an empty set with this limit on the size of a partition.
    pub fn of_at_most(limit: u64) -> Partitions {
        Partitions { touched: HashMap::new(), limit }
    }

    fn at(&mut self, store: &dyn Store, number: u64, partition: &str) -> Result<&mut PartitionInfo> {
        if !self.touched.contains_key(partition) {
            self.touched.insert(partition.to_owned(), PartitionInfo::of(store, number, partition)?);
        }
        Ok(self.touched.get_mut(partition).expect("was just put there"))
    }

    /// Refuses an edit that enlarges a document in a full partition (`couch_db_updater:is_overflowed`). `was`
    /// and `is` are the sizes of the document before and after the edit.
    pub fn check(&mut self, store: &dyn Store, number: u64, id: &str, was: u64, is: u64) -> Result<()> {
        let limit = self.limit;
        match partition_of(id) {
            Some(partition) if limit > 0 && is > was && self.at(store, number, partition)?.bytes >= limit => {
                Err(Error::PartitionOverflow(id.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Applies the change of a document to the counters of its partition.
    pub fn changed(&mut self, store: &dyn Store, number: u64, id: &str, was: &Tally, is: &Tally) -> Result<()> {
        if let Some(partition) = partition_of(id).filter(|_| !id.starts_with("_design/")) {
            self.at(store, number, partition)?.shift(was, is);
        }
        Ok(())
    }

    /// Returns the changed counters, which are to be stored.
    pub fn finish(self) -> impl Iterator<Item = (String, PartitionInfo)> {
        self.touched.into_iter()
    }
}
