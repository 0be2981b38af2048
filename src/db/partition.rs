//! Partitions of a partitioned database: how much each holds, kept by the writer with every change, and the limit on it.

use std::collections::HashMap;
use std::ops::Bound;

use super::Database;
use super::bytes::{Reader, Writer};
use super::draft::Tally;
use super::names::partition_of;
use super::record::DocumentRecord;
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, Store, keys};

const VERSION: u8 = 1;

/// What a partition holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Documents whose winner is not deleted.
    pub documents: u64,
    /// Documents whose winner is deleted.
    pub deleted: u64,
    /// Bytes of the leaves' bodies and attachments.
    pub bytes: u64,
}

impl PartitionInfo {
    pub(super) fn encode(self) -> Vec<u8> {
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

    pub(super) fn shift(&mut self, was: &Tally, is: &Tally) {
        let shift = |counter: &mut u64, was: u64, is: u64| *counter = (*counter + is).saturating_sub(was);
        shift(&mut self.documents, was.live, is.live);
        shift(&mut self.deleted, was.deleted, is.deleted);
        shift(&mut self.bytes, was.leaf_bytes, is.leaf_bytes);
    }

    /// The stored counters; where there are none yet (a restored database), the documents are counted.
    pub fn of(store: &dyn Store, number: u64, partition: &str) -> Result<PartitionInfo> {
        match store.get(&keys::partition(number, partition))? {
            Some(value) => PartitionInfo::decode(partition, &value),
            None => count(store, number, partition),
        }
    }
}

/// Reads the documents of a partition.
pub fn count(store: &dyn Store, number: u64, partition: &str) -> Result<PartitionInfo> {
    let mut range = keys::prefix(&keys::document(number, &format!("{partition}:")));
    let mut info = PartitionInfo::default();
    loop {
        let page = store.scan(&range, Direction::Forward, PageLimit::entries(500))?;
        let Some((last, _)) = page.last() else { return Ok(info) };
        range.0 = Bound::Excluded(last.clone());
        for (key, value) in &page {
            let id = String::from_utf8_lossy(keys::rest_of(key));
            info.shift(&Tally::default(), &Tally::of(&DocumentRecord::decode(&id, value)?.tree));
        }
    }
}

/// The partitions that a draft touches.
pub(super) struct Partitions {
    touched: HashMap<String, PartitionInfo>,
    /// Bytes that a partition may hold; 0: any.
    limit: u64,
}

impl Partitions {
    pub fn of_at_most(limit: u64) -> Partitions {
        Partitions { touched: HashMap::new(), limit }
    }

    fn at(&mut self, store: &dyn Store, number: u64, partition: &str) -> Result<&mut PartitionInfo> {
        if !self.touched.contains_key(partition) {
            self.touched.insert(partition.to_owned(), PartitionInfo::of(store, number, partition)?);
        }
        Ok(self.touched.get_mut(partition).expect("was just put there"))
    }

    /// Refuses an edit that makes a document of a full partition larger (`couch_db_updater:is_overflowed`). What counts is
    /// the size before the draft.
    pub fn check(&mut self, store: &dyn Store, number: u64, id: &str, was: u64, is: u64) -> Result<()> {
        let limit = self.limit;
        match partition_of(id) {
            Some(partition) if limit > 0 && is > was && self.at(store, number, partition)?.bytes >= limit => {
                Err(Error::PartitionOverflow(id.to_owned()))
            }
            _ => Ok(()),
        }
    }

    pub fn changed(&mut self, store: &dyn Store, number: u64, id: &str, was: &Tally, is: &Tally) -> Result<()> {
        if let Some(partition) = partition_of(id).filter(|_| !id.starts_with("_design/")) {
            self.at(store, number, partition)?.shift(was, is);
        }
        Ok(())
    }

    /// The counters to be written.
    pub fn finish(self) -> impl Iterator<Item = (String, PartitionInfo)> {
        self.touched.into_iter()
    }
}

impl Database {
    /// What a partition holds. Blocks on the disk.
    pub fn partition(&self, partition: &str) -> Result<PartitionInfo> {
        PartitionInfo::of(&*self.store, self.number, partition)
    }
}
