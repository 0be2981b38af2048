//! The queue of a database's writer: what waits, and how long the writer gathers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Condvar;

use super::draft::Draft;
use crate::error::Result;

/// The longest time for which a writer waits for more works...
const PATIENCE: Duration = Duration::from_millis(2);

/// ...unless the waiting works have this many bytes already.
pub(crate) const ENOUGH: usize = 64 << 10;

/// Whether a work eventually frees space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frees {
    /// Always, whatever it writes now.
    Always,
    /// If each document that it changes becomes smaller (see [`Finished::smaller`](super::draft::Finished)).
    WhenSmaller,
    Never,
}

impl Frees {
    /// Whether a commit of works that free as `all` says frees space. `smaller`: see
    /// [`Finished::smaller`](super::draft::Finished).
    pub fn of_commit(mut all: impl Iterator<Item = Frees>, smaller: bool) -> bool {
        all.all(|frees| match frees {
            Frees::Always => true,
            Frees::WhenSmaller => smaller,
            Frees::Never => false,
        })
    }
}

/// A task for the writer. It may be applied more than once: a commit that conflicts is retried with a new
/// draft.
pub(crate) trait Work: Send {
    /// Ids of the documents that the draft must load, in the order in which `apply` needs them.
    fn ids(&self) -> Vec<String>;
    /// Approximate number of bytes that the work writes.
    fn bytes(&self) -> usize;
    /// Re-checks that the work may still be done; called before each attempt. An error fails only this work.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// As [`Work::check`], if that neither reads the store nor waits; otherwise `None`.
    fn check_at_once(&self) -> Option<Result<()>> {
        Some(Ok(()))
    }
    /// Whether `apply` reads nothing beside the documents of `ids`.
    fn is_light(&self) -> bool {
        false
    }
    /// Adds the work's changes to the draft and keeps its results. An error fails only this work. Stops at the
    /// first document that the draft has not loaded ([`Draft::holds`]).
    fn apply(&mut self, draft: &mut Draft) -> Result<()>;
    /// Whether the last `apply` has reached the end of the work. If not, the writer commits the draft, calls
    /// `committed`, and applies the rest to a new draft.
    fn is_complete(&self) -> bool {
        true
    }
    /// What was applied is committed: `ids` and `apply` now continue after it.
    fn committed(&mut self) {}
    /// Whether the work frees space, and is therefore allowed on a full disk.
    fn frees(&self) -> Frees {
        Frees::Never
    }
    /// Whether everything that the work writes can be rebuilt, so that it may be synced with a later commit.
    fn is_derived(&self) -> bool {
        false
    }
    /// Whether the work writes documents. Such works are counted.
    fn is_write(&self) -> bool {
        false
    }
    /// Sends the answer to the caller, after the commit has returned.
    fn answer(self: Box<Self>, committed: Result<()>);
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Box<dyn Work>>,
    pub(crate) working: bool,
    /// The number of works for which the writer waits; 0 if it does not wait.
    pub(crate) wanted: usize,
}

#[cfg(test)]
impl Queue {
    /// Works that the writer has not taken yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// How many works a writer waits for, and until when.
#[derive(Default)]
pub(crate) struct Pace {
    pub(crate) wanted: usize,
    pub(crate) until: Option<Instant>,
}

impl Pace {
    /// Records a commit of `works` works that took from `begun` to `now`, after which `left` works are
    /// waiting.
    pub(crate) fn wrote(&mut self, works: usize, left: usize, begun: Instant, now: Instant) {
        self.wanted = works + left;
        self.until = (self.wanted > 1).then(|| now + (now - begun).min(PATIENCE));
    }

    /// Waits for the expected works to arrive.
    pub(crate) fn gather(&self, queue: &mut parking_lot::MutexGuard<'_, Queue>, arrived: &Condvar) {
        let Some(until) = self.until else { return };
        queue.wanted = self.wanted;
        let bytes = |queue: &Queue| queue.waiting.iter().map(|work| work.bytes()).sum::<usize>();
        while queue.waiting.len() < self.wanted && bytes(queue) < ENOUGH {
            if arrived.wait_until(queue, until).timed_out() {
                break;
            }
        }
        queue.wanted = 0;
    }
}
