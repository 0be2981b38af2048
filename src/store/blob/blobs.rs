//! Attachment content: immutable, content-addressed blobs, stored beside the ordered map.
//!
//! A blob is written and synced, renamed into place, and its directory synced, before [`BlobWriter::finish`]
//! returns. A commit that names it therefore never refers to a missing blob. The result of
//! [`BlobWriter::finish`] also **pins** the blob: the garbage collection never removes a pinned blob, and the
//! caller holds the pin until the commit that refers to the blob has returned.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::Result;

/// The name of a blob: the SHA-256 of the stored bytes; in an encrypted folder, a keyed hash of that.
pub type BlobId = [u8; 32];

/// Protects a blob from removal while it lives.
pub type Pin = Arc<dyn Send + Sync>;

/// A blob that is on disk.
#[derive(Clone)]
pub struct Written {
    /// The blob's name.
    pub id: BlobId,
    /// Length of the stored bytes.
    pub length: u64,
    /// MD5 of the stored bytes, which CouchDB uses as the digest of an attachment.
    pub md5: [u8; 16],
    /// Keeps the blob from being removed.
    pub pin: Pin,
}

/// Receives a blob's bytes. If dropped before `finish`, it leaves nothing behind.
pub trait BlobWriter: Send {
    /// Appends bytes to the blob.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes the blob durable, or finds that it exists already.
    fn finish(self: Box<Self>) -> Result<Written>;
}

/// Storage for blobs. Calls block, so async callers run them on a blocking thread.
pub trait Blobs: Send + Sync + 'static {
    /// Starts a new blob.
    fn create(&self) -> Result<Box<dyn BlobWriter>>;

    /// Reads a blob from `offset` on. `Damaged` if the blob does not exist.
    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>>;

    /// Whether the blob exists. If it was pinned with [`Blobs::pin`] before the call, it continues to exist.
    fn contains(&self, id: &BlobId) -> Result<bool>;

    /// Pins an existing blob, for a stub that a new revision takes over from its parent. The blob may have
    /// been removed just before, so the caller must call [`Blobs::contains`] afterwards.
    fn pin(&self, id: &BlobId) -> Pin;

    /// Removes the blob unless it is pinned or `referenced` returns true, that is, a body refers to it. While
    /// `referenced` runs, nobody can pin the blob. Returns whether the blob was removed.
    fn remove_unless(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool>;

    /// Returns up to `limit` blob ids after `after`, in order: one page of the sweep.
    fn list(&self, after: Option<&BlobId>, limit: usize) -> Result<Vec<BlobId>>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// Counts pins. The lock of a blob's shard serializes pinning and removal.
#[derive(Clone)]
pub(crate) struct Pins(Arc<[Shard; SHARDS]>);

type Shard = Mutex<HashMap<BlobId, Held>>;
const SHARDS: usize = 16;

/// A pinned blob.
#[derive(Default)]
struct Held {
    pins: usize,
    /// The blob was written and synced while pinned, so it exists and is complete.
    written: bool,
}

impl Default for Pins {
    fn default() -> Pins {
        Pins(Arc::new(std::array::from_fn(|_| Shard::default())))
    }
}

impl Pins {
    fn shard(&self, id: &BlobId) -> &Shard {
        &self.0[id[0] as usize % SHARDS]
    }

    /// Pins the blob until the returned pin and all its clones are dropped.
    pub fn pin(&self, id: &BlobId) -> Pin {
        self.shard(id).lock().entry(*id).or_default().pins += 1;
        Arc::new(Pinned { pins: self.clone(), id: *id })
    }

    /// The pinned blobs.
    pub fn all(&self) -> Vec<BlobId> {
        self.0.iter().flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Whether the blob is pinned.
    pub fn holds(&self, id: &BlobId) -> bool {
        self.shard(id).lock().contains_key(id)
    }

    /// Notes that a pinned blob has been written.
    pub fn written(&self, id: &BlobId) {
        if let Some(held) = self.shard(id).lock().get_mut(id) {
            held.written = true;
        }
    }

    /// Whether a pinned blob has been written since it was first pinned.
    pub fn is_written(&self, id: &BlobId) -> bool {
        self.shard(id).lock().get(id).is_some_and(|held| held.written)
    }

    /// Calls `remove` while nobody can pin the blob. Returns `Ok(false)` if it is pinned.
    pub fn unless_pinned(&self, id: &BlobId, remove: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let pinned = self.shard(id).lock();
        if pinned.contains_key(id) { Ok(false) } else { remove() }
    }
}

struct Pinned {
    pins: Pins,
    id: BlobId,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pinned = self.pins.shard(&self.id).lock();
        if let Some(held) = pinned.get_mut(&self.id) {
            held.pins -= 1;
            if held.pins == 0 {
                pinned.remove(&self.id);
            }
        }
    }
}
