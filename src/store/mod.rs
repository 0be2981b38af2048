//! The seam: an ordered map of bytes with atomic, durable, conditional commits, and beside it content-addressed blobs.
//!
//! Everything persistent but attachment content goes through [`Store`]. No engine gives a snapshot across calls, so
//! nothing above may need one: a reader that finds a body gone reads the record again.
//!
//! `docs/storage-format.md` lists every key and value; `keys` builds the keys; engines know nothing of either.

mod backend;
mod blob_files;
mod blob_form;
pub mod blobs;
mod cipher;
mod committer;
#[cfg(test)]
mod conformance;
pub mod faults;
mod frame;
mod key;
pub mod keys;
mod mark;
pub mod memory;
mod memory_blobs;
mod open;
mod redb;
mod rewrite;
pub mod salvage;
pub mod sealed;
mod sled;
mod sled_log;
mod space;
mod tally;

pub use key::Key;
pub use memory_blobs::MemoryBlobs;
pub use open::{
    Engine, OpenError, Opened, Options, begin_filling, encrypted_under, finish, open, open_existing, open_with,
};
pub use rewrite::{Renamed, Rewrite, Sealing, Step, compact, rewrite};

use std::fmt;
use std::ops::Bound;

/// What a store call can fail with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// An expectation of the batch did not hold; nothing was written.
    Conflict,
    /// No room on the device; nothing was written. Reads go on.
    Full,
    /// The engine failed (an I/O error, say). The store refuses writes until it has recovered; nothing is acknowledged.
    Unavailable(String),
    /// Stored bytes cannot be right.
    Damaged(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Conflict => out.write_str("an expectation did not hold"),
            StoreError::Full => out.write_str("no room on the device"),
            StoreError::Unavailable(cause) => write!(out, "the store is unavailable: {cause}"),
            StoreError::Damaged(what) => write!(out, "stored data is damaged: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for crate::error::Error {
    fn from(error: StoreError) -> Self {
        use crate::error::Error;
        match error {
            StoreError::Conflict => Error::Internal("a store expectation did not hold".into()),
            StoreError::Full => Error::Full,
            StoreError::Unavailable(cause) => Error::Internal(cause),
            StoreError::Damaged(what) => Error::Damaged(what),
        }
    }
}

/// The result of every store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Bytes that a key may have. An engine's index pages hold hundreds of keys each and must stay well under its segment.
/// A key must not be empty and must not begin with 0xFF.
pub const MAX_KEY: usize = 6 << 10;

/// A range of keys.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Whether no key can be in a range. Engines may panic on one that ends before it starts.
pub fn is_empty((low, high): &KeyRange) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// How much one page of a scan may hold. A page has at least one entry if the range has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Entries at most.
    pub entries: usize,
    /// Bytes of keys and values at which the page is full.
    pub bytes: usize,
}

impl PageLimit {
    /// `entries` at most, and no more than about 1 MiB.
    pub fn entries(entries: usize) -> PageLimit {
        PageLimit { entries, bytes: 1 << 20 }
    }
}

/// What a commit changes. Applied in the order: expectations are tested, ranges deleted, then `writes` in order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `(key, value)`: the commit happens only if each key holds exactly this value (`None`: is absent).
    pub expect: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Ranges deleted whole. Callers keep them small (some thousand entries): an engine may delete key by key.
    pub delete_ranges: Vec<KeyRange>,
    /// Puts (`Some`) and deletes (`None`). The last write of a key wins.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Whether the commit must be on disk when it returns.
    pub durability: Durability,
    /// It makes room in the end: where there is none for others, it may take of what is kept free for that.
    pub frees: bool,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push((key, Some(value)));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.push((key, None));
    }

    pub fn expect(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.expect.push((key, value));
    }
}

/// Whether a commit is synced before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk when the call returns: everything that a client is told of.
    #[default]
    Synced,
    /// Atomic and ordered, but synced only with a later commit: data that can be rebuilt (view indexes).
    Relaxed,
}

/// An ordered map of bytes. Called from many threads at once; every call may block on the disk, so async callers
/// run it off their own threads.
pub trait Store: Send + Sync + 'static {
    /// The values of `keys`, in their order. One call for a whole request's keys.
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>>;

    /// As [`Store::get_many`], but a damaged value is an error of its own and does not hide the others.
    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        Ok(self.get_many(keys)?.into_iter().map(Ok).collect())
    }

    /// A page of the entries of `range` in `direction`. A damaged entry ends the page before it; a page that would begin
    /// with one is `Damaged`, naming it. The caller goes on from the last key; nothing stays open.
    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>>;

    /// Keys only, in ascending order, at most `entries`: also those whose values are damaged.
    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let page = self.scan(range, Direction::Forward, PageLimit::entries(entries))?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// Applies `batch` whole or not at all. Durable when it returns (see [`Durability`]). One committer merges the
    /// batches that wait into one write and one sync, in the order of their arrival; each batch's expectations are
    /// tested against everything committed before it.
    fn commit(&self, batch: Batch) -> Result<()>;

    /// The value of one key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.get_many(&[key.to_vec()])?.pop().flatten())
    }

    /// Whether it takes writes and nothing is unsettled: after a failed commit it is not known until the engine has been
    /// opened again whether the commit is there. A store that has failed tries to recover when it is asked, so whoever
    /// watches it heals it. `Full`: a write has failed for want of room, and reads go on.
    fn ready(&self) -> Result<()> {
        self.get(keys::FORMAT).map(drop)
    }

    /// Counts all entries and holds the count against what the commits add up to. Reads everything; nobody may write meanwhile.
    ///
    /// # Errors
    /// `Damaged` if entries are missing, or are older than they were.
    fn complete(&self) -> Result<()> {
        Ok(())
    }

    /// Moves when relaxed commits may have been lost: when the engine is opened again after a failure. Whoever keeps in
    /// memory what it has read looks at it before and after.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether the device of the store is full: writes that make no room were refused when last asked, or go only where
    /// deletions have made room within the store. Work that frees something is then worth more than it costs.
    fn is_short_of_room(&self) -> bool {
        false
    }

    /// The engine's name, as `--store` takes it.
    fn engine(&self) -> &'static str;

    /// Bytes that the engine's files take on disk.
    fn disk_bytes(&self) -> u64;
}
