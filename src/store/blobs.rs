//! Attachment content: immutable, content-addressed blobs beside the ordered map.
//!
//! A blob is written, synced, renamed into place and its directory synced before [`BlobWriter::finish`] returns, so the
//! commit that names it can never point at nothing. What [`BlobWriter::finish`] returns also **pins** the blob: the
//! collector leaves a pinned blob alone, and the pin lives until the commit that refers to it has returned.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Result;

/// What a blob is called: the SHA-256 of the stored bytes, and in an encrypted folder a keyed hash of that.
pub type BlobId = [u8; 32];

/// Keeps the collector's hands off a blob while it lives.
pub type Pin = Arc<dyn Send + Sync>;

/// A blob that is on disk.
#[derive(Clone)]
pub struct Written {
    pub id: BlobId,
    /// Bytes stored.
    pub length: u64,
    /// MD5 of the stored bytes: CouchDB's digest of an attachment.
    pub md5: [u8; 16],
    pub pin: Pin,
}

/// Takes a blob's bytes. Dropped unfinished, it leaves nothing behind.
pub trait BlobWriter: Send {
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes the blob durable, or finds that it is there already.
    fn finish(self: Box<Self>) -> Result<Written>;
}

/// Where blobs are kept. Calls block; async callers run them off their own threads.
pub trait Blobs: Send + Sync + 'static {
    fn create(&self) -> Result<Box<dyn BlobWriter>>;

    /// The bytes of a blob from `offset` on. `Damaged` if the blob is not there.
    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>>;

    /// Whether the blob is there. After [`Blobs::pin`], it then stays.
    fn contains(&self, id: &BlobId) -> Result<bool>;

    /// Pins an existing blob (a stub that a new revision takes over from its parent). It may have been removed just
    /// before: ask [`Blobs::contains`] afterwards.
    fn pin(&self, id: &BlobId) -> Pin;

    /// Removes the blob unless it is pinned or `referenced` says, asked while nobody can pin it, that a body names it.
    /// Returns whether it was removed.
    fn remove_unless(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool>;

    /// Up to `limit` blob ids after `after`, in order: the sweep's page.
    fn list(&self, after: Option<&BlobId>, limit: usize) -> Result<Vec<BlobId>>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// Counts pins. A blob's pins and its removal exclude each other by the lock of its shard.
#[derive(Clone)]
pub(super) struct Pins(Arc<[Shard; SHARDS]>);

type Shard = Mutex<HashMap<BlobId, Held>>;
const SHARDS: usize = 16;

/// A pinned blob.
#[derive(Default)]
struct Held {
    pins: usize,
    /// It was written and synced while it was pinned, so it is there and whole.
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

    pub fn pin(&self, id: &BlobId) -> Pin {
        self.shard(id).lock().entry(*id).or_default().pins += 1;
        Arc::new(Pinned { pins: self.clone(), id: *id })
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

    /// Runs `remove` while nobody can pin the blob; `Ok(false)` if it is pinned.
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
