//! Counts and sizes of one partition.

use crate::db::Database;
use crate::db::commit::partition::PartitionInfo;
use crate::error::Result;

impl Database {
    /// Returns the counters of a partition. Blocks on disk I/O.
    pub fn partition(&self, partition: &str) -> Result<PartitionInfo> {
        PartitionInfo::of(&*self.store, self.number, partition)
    }
}
