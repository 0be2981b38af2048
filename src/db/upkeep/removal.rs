//! Removes the records of a deleted database in the background.

use std::time::Instant;

use crate::db::Databases;
use crate::db::codec::decode_u64;
use crate::db::commit::old_bodies::references_of;
use crate::db::freshness::REMOVAL_DELAY;
use crate::db::record::BodyRecord;
use crate::error::{Error, Result};
use crate::store::{Batch, Direction, Durability, PageLimit, Store, StoreError, keyspace};

/// Entries that one step of a removal deletes at most.
const REMOVED_AT_ONCE: usize = 2000;
/// Deleted databases that one removal step considers. The step removes entries of the first one that does not
/// fail.
const DOOMED_AT_ONCE: usize = 1000;

/// Removes some entries of the deleted database that `doomed_key` names. When none are left, removes that
/// key.
fn remove_of(store: &dyn Store, doomed_key: Vec<u8>) -> Result<()> {
    let number = doomed_key
        .get(1..)
        .and_then(decode_u64)
        .ok_or_else(|| Error::Damaged("the number of a deleted database".into()))?;
    let mut batch = Batch { durability: Durability::Relaxed, frees: true, ..Batch::new() };
    let body_prefix = keyspace::kind_prefix(number, keyspace::Kind::Body);
    for range in [keyspace::database(number), keyspace::indexes(number)] {
        match store.scan(&range, Direction::Forward, PageLimit::entries(REMOVED_AT_ONCE)) {
            Ok(page) => {
                for (key, value) in page {
                    if key.starts_with(&body_prefix) {
                        forget_blobs(store, &mut batch, number, &key, &value)?;
                    }
                    batch.delete(key);
                }
            }
            // The first entry of the page is damaged: remove that entry alone, without reading its value.
            Err(StoreError::Damaged(what)) => {
                tracing::warn!("removing a damaged entry of a deleted database: {what}");
                for key in store.keys(&range, 1)? {
                    if key.starts_with(&body_prefix) {
                        forget_blobs(store, &mut batch, number, &key, &[])?;
                    }
                    batch.delete(key);
                }
            }
            Err(error) => return Err(error.into()),
        }
        if !batch.writes.is_empty() {
            return Ok(store.commit(batch)?);
        }
    }
    batch.delete(doomed_key);
    Ok(store.commit(batch)?)
}

/// Deletes a body's blob references.
fn forget_blobs(store: &dyn Store, batch: &mut Batch, number: u64, key: &[u8], value: &[u8]) -> Result<()> {
    let rest = keyspace::rest_of(key);
    let (Some(sequence), Some(index)) = (
        rest.get(..8).and_then(decode_u64),
        rest.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes),
    ) else {
        return Ok(());
    };
    match BodyRecord::decode("", value.to_vec()) {
        Ok(record) => {
            for attachment in record.attachments {
                batch.delete(keyspace::blob_reference(&attachment.blob, number, sequence, index));
            }
        }
        Err(_) => references_of(store, number, sequence, index)?.into_iter().for_each(|key| batch.delete(key)),
    }
    Ok(())
}

impl Databases {
    /// Removes entries of deleted databases, a bounded number per call. Returns true if there may be more to
    /// remove. Damaged entries are removed without being read. An error in one database does not stop the
    /// removal of the others.
    pub fn remove_some(&self) -> Result<bool> {
        let store = &**self.store();
        let doomed = store.keys(&keyspace::all_doomed(), DOOMED_AT_ONCE)?;
        let mut failed = None;
        for key in self.due(doomed) {
            match remove_of(store, key) {
                Ok(()) => return Ok(true),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// The keys of those deleted databases whose entries may be removed now. On a shared store, other nodes may
    /// read a database until they have learned of its deletion.
    fn due(&self, mut doomed: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        if !self.store().is_shared() {
            return doomed;
        }
        let now = Instant::now();
        let mut seen = self.freshness.doomed.lock();
        let before = std::mem::take(&mut *seen);
        doomed.retain(|key| {
            let Some(number) = key.get(1..).and_then(decode_u64) else { return true };
            let first = before.get(&number).copied().unwrap_or(now);
            seen.insert(number, first);
            now - first >= REMOVAL_DELAY
        });
        doomed
    }
}
