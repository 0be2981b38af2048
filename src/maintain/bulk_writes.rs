//! Batches the writes that fill a new data folder into large commits.
//!
//! The commits are relaxed (not synced): the folder is not in use before [`BulkWrites::finish`] has synced
//! all of them.

use crate::error::Result;
use crate::store::{Batch, Durability, Store};

/// Bytes of keys and values per commit.
const BATCH: usize = 4 << 20;

/// A pending batch of writes to one store.
pub(super) struct BulkWrites<'a> {
    store: &'a dyn Store,
    batch: Batch,
    bytes: usize,
}

impl<'a> BulkWrites<'a> {
    /// Starts an empty batch of writes to `store`.
    pub fn new(store: &'a dyn Store) -> BulkWrites<'a> {
        BulkWrites { store, batch: relaxed(), bytes: 0 }
    }

    /// Puts an entry. Commits the batch if it is large enough.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.bytes += key.len() + value.len();
        self.batch.put(key, value);
        if self.bytes >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Deletes an entry, in the next commit.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    /// Commits the pending batch, so that reads of the store see it.
    pub fn flush(&mut self) -> Result<()> {
        let batch = std::mem::replace(&mut self.batch, relaxed());
        self.bytes = 0;
        if !batch.writes.is_empty() {
            self.store.commit(batch)?;
        }
        Ok(())
    }

    /// Commits the pending batch and syncs: all writes are durable on return.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.store.commit(Batch::new())?;
        Ok(())
    }
}

fn relaxed() -> Batch {
    Batch { durability: Durability::Relaxed, ..Batch::new() }
}
