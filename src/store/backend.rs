//! What an engine has to do to become a [`Store`](super::Store) under the [`Committer`](super::committer::Committer): an ordered
//! map of framed bytes. Group commit, expectations, checksums and recovery are the committer's and are written once.

use std::collections::BTreeMap;

use super::tally::Tally;
use super::{Direction, KeyRange, PageLimit, Result};

/// The writes of one group of commits: every key once, with its framed value or `None` for a delete.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Takes the entries of a read: key and framed value, or what is wrong with that entry alone.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], Result<&[u8]>);

/// Takes the values of a read by keys: the key's index, and its framed value if there is one.
pub(super) type VisitIndexed<'a> = &'a mut dyn FnMut(usize, Result<Option<&[u8]>>);

/// What makes the room that deletions have freed good for other writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reclaiming {
    Unneeded,
    /// [`Backend::reopen`] makes [`Backend::spare_bytes`] grow.
    Reopening,
    /// [`Backend::compact`] makes the files smaller.
    Compacting,
}

/// An engine. Reads come from many threads; `apply` and `reopen` from one at a time.
///
/// A read must never show what an `apply` has not yet made durable, nor what an `apply` that failed has left behind.
pub(super) trait Backend: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Calls `visit(index, value)` once for each of `keys`, in order.
    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()>;

    /// A page of the entries of `range`.
    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit, visit: Visit<'_>) -> Result<()>;

    /// The first `entries` keys of `range`, read without their values: a damaged value can still be deleted. Shows what is
    /// in flight; callers are the committer, and readers who read the values next.
    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Applies all of `writes` and the record of `tally`, or nothing; with `sync` they, and everything applied before, are on
    /// disk when it returns. `tally` learns what stood at each key before. After an error, the backend is not written to again
    /// before `reopen`; but after `Damaged`, which means that something could not be read and nothing was begun.
    fn apply(&self, writes: &Writes, sync: bool, tally: &mut Tally<'_>) -> Result<()>;

    /// How far its log has got on disk, and how long its file is: for the mark, asked after a synced `apply`.
    fn position(&self) -> (u64, u64) {
        (0, 0)
    }

    /// 1 and the unused parts of its file, for the mark of a clean stop; 0 if that says nothing.
    fn unused(&self) -> u64 {
        0
    }

    /// Closes the engine and opens it again, as after a restart: what was acknowledged is there.
    fn reopen(&self) -> Result<()>;

    /// Bytes that can be written without the files taking more of the device, as far as the engine knows. Asked only where
    /// the device is full.
    fn spare_bytes(&self) -> Result<u64> {
        Ok(0)
    }

    /// How the engine is made to use again what deletions have freed.
    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Unneeded
    }

    /// Gives the device back what has been freed: see [`Reclaiming::Compacting`]. Reads wait.
    fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Bytes that the engine's files take.
    fn disk_bytes(&self) -> u64;
}
