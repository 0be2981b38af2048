//! What an engine implements to become a [`Store`](crate::store::Store) under the
//! [`Committer`](super::committer::Committer): an ordered map of framed bytes. The committer implements group
//! commit, expectations, checksums and recovery once, for all engines.

use std::collections::BTreeMap;

use super::tally::Tally;
use crate::store::range::KeyRange;
use crate::store::{Direction, PageLimit, Result, StoreError};

/// The writes of one group of commits: each key once, with its framed value, or `None` for a delete.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Callback for each entry of a read: the key and the framed value, or the error of that entry alone.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], Result<&[u8]>);

/// Callback for each key of a read: its index, and its framed value if there is one.
pub(crate) type VisitIndexed<'a> = &'a mut dyn FnMut(usize, Result<Option<&[u8]>>);

/// How an engine makes space that deletions have freed available to other writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaiming {
    Unneeded,
    /// [`Backend::reopen`] increases [`Backend::spare_bytes`].
    Reopening,
    /// [`Backend::compact`] shrinks the files.
    Compacting,
}

/// An engine. Many threads read concurrently; only one thread at a time calls `apply` or `reopen`.
///
/// A read must never return the writes of a synced `apply` before they are durable, nor the writes of an
/// `apply` that failed.
pub(crate) trait Backend: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Calls `visit(index, value)` once for each of `keys`, in order.
    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()>;

    /// Visits one page of the entries of `range`.
    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit, visit: Visit<'_>) -> Result<()>;

    /// Visits the first `entries` keys of `range` without reading their values, so that a damaged value can
    /// still be deleted. May return keys of a batch in flight. Called by the committer, and by readers that
    /// read the values next.
    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Applies all of `writes` and the record of `tally`, or nothing. With `sync`, they and everything
    /// applied before are on disk when it returns. Reports to `tally` the value that each key held before.
    /// After an error the caller does not write again before `reopen`, except after `Damaged`, which means
    /// that something could not be read and nothing was begun.
    fn apply(&self, writes: &Writes, sync: bool, tally: &mut Tally<'_>) -> Result<()>;

    /// The durable end of the engine's log and the length of its file, for the mark. Called after a synced
    /// `apply`.
    fn position(&self) -> (u64, u64) {
        (0, 0)
    }

    /// For the mark of a clean stop: the number of unused parts of the engine's file plus 1; 0 if the engine
    /// has no such parts.
    fn unused(&self) -> u64 {
        0
    }

    /// Closes the engine and opens it again, as a restart does. Everything acknowledged must still be there.
    fn reopen(&self) -> Result<()>;

    /// Bytes on the disk that [`Backend::reopen`] may need.
    fn bytes_to_reopen(&self) -> u64 {
        0
    }

    /// Bytes that the engine can write without growing its files, as far as it knows. Called only when the
    /// disk is full.
    fn spare_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    /// How the engine can be made to reuse the space that deletions have freed.
    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Unneeded
    }

    /// Returns freed space to the file system: see [`Reclaiming::Compacting`]. Blocks reads.
    fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Bytes of the engine's files on disk.
    fn disk_bytes(&self) -> u64;
}

/// Converts the error of a write. `Damaged` would mean that nothing was begun, so it becomes `Unavailable`.
pub(crate) fn begun(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged(what) => StoreError::Unavailable(what),
        error => error,
    }
}

/// The error of a call while the engine is closed, because it could not be opened again after a failure.
pub(crate) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed after a failure".into())
}
