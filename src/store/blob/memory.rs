//! A blob store in memory, for tests.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::Arc;

use md5::{Digest, Md5};
use parking_lot::Mutex;
use sha2::Sha256;

use super::blobs::{BlobId, BlobWriter, Blobs, Pin, Pins, Written};
use crate::store::{Result, StoreError};

/// A blob store in memory. Clones share its content, which is lost when the last one is dropped.
#[derive(Clone, Default)]
pub struct MemoryBlobs {
    blobs: Arc<Mutex<BTreeMap<BlobId, Arc<[u8]>>>>,
    pins: Pins,
}

impl MemoryBlobs {
    /// Creates an empty store.
    pub fn new() -> MemoryBlobs {
        MemoryBlobs::default()
    }
}

struct Writer {
    to: MemoryBlobs,
    bytes: Vec<u8>,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let id: BlobId = Sha256::digest(&self.bytes).into();
        let pin = self.to.pins.pin(&id);
        let (length, md5) = (self.bytes.len() as u64, Md5::digest(&self.bytes).into());
        self.to.blobs.lock().insert(id, self.bytes.into());
        Ok(Written { id, length, md5, pin })
    }
}

impl Blobs for MemoryBlobs {
    fn create(&self) -> Result<Box<dyn BlobWriter>> {
        Ok(Box::new(Writer { to: self.clone(), bytes: Vec::new() }))
    }

    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>> {
        let blob = self.blobs.lock().get(id).cloned();
        let blob = blob.ok_or_else(|| StoreError::Damaged(format!("attachment {} is gone", crate::hex::hex(id))))?;
        let mut cursor = Cursor::new(blob);
        cursor.set_position(offset);
        Ok(Box::new(cursor))
    }

    fn contains(&self, id: &BlobId) -> Result<bool> {
        Ok(self.blobs.lock().contains_key(id))
    }

    fn pin(&self, id: &BlobId) -> Pin {
        self.pins.pin(id)
    }

    fn remove_unless(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool> {
        self.pins.unless_pinned(id, || {
            if referenced()? {
                return Ok(false);
            }
            Ok(self.blobs.lock().remove(id).is_some())
        })
    }

    fn list(&self, after: Option<&BlobId>, limit: usize) -> Result<Vec<BlobId>> {
        let low = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(*after));
        let blobs = self.blobs.lock();
        Ok(blobs.range((low, std::ops::Bound::Unbounded)).take(limit).map(|(id, _)| *id).collect())
    }

    fn disk_bytes(&self) -> u64 {
        self.blobs.lock().values().map(|blob| blob.len() as u64).sum()
    }
}
