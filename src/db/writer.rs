//! The only code that changes a database.
//!
//! Each database has at most one running writer; an idle database has none. A call that finds no running
//! writer starts one on a blocking thread. The writer drains the queue into one draft, commits it, wakes the
//! watchers, answers, and ends when the queue is empty. Concurrent writes of many clients therefore share one
//! commit and one sync.
//!
//! Every commit has a fixed cost. Clients that write continuously return shortly after they are answered, so
//! after answering several works the writer waits for about as many to arrive, at most as long as the last
//! commit took. A client that writes alone never waits.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Condvar;
use tokio::sync::oneshot;

use super::Database;
use super::draft::Draft;
use super::edit::{Edit, Guard, Mode};
use crate::error::{Error, Result};
use crate::rev::Revision;
use crate::store::StoreError;

/// A draft takes works from the queue until it holds about this many bytes...
const DRAFT_BYTES: usize = 8 << 20;
/// ...or this many documents.
const DRAFT_DOCUMENTS: usize = 4096;
/// The longest time for which a writer waits for more works...
const PATIENCE: Duration = Duration::from_millis(2);
/// ...unless the waiting works have this many bytes already.
const ENOUGH: usize = 64 << 10;

/// A task for the writer. It may be applied more than once: a commit that conflicts is retried with a new
/// draft.
pub(super) trait Work: Send {
    /// Ids of the documents that the draft must load.
    fn ids(&self) -> Vec<String>;
    /// Approximate number of bytes that the work writes.
    fn bytes(&self) -> usize;
    /// Re-checks that the work may still be done; called before each attempt. An error fails only this work.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Adds the work's changes to the draft and keeps its results. An error fails only this work.
    fn apply(&mut self, draft: &mut Draft) -> Result<()>;
    /// Whether the work frees space, and is therefore allowed on a full disk.
    fn frees(&self) -> Frees {
        Frees::Never
    }
    /// Sends the answer to the caller, after the commit has returned.
    fn answer(self: Box<Self>, committed: Result<()>);
}

/// Whether a work eventually frees space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frees {
    /// Always, whatever it writes now.
    Always,
    /// If each document that it changes becomes smaller (see [`Finished::smaller`](super::draft::Finished)).
    WhenSmaller,
    Never,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Box<dyn Work>>,
    working: bool,
    /// The number of works for which the writer waits; 0 if it does not wait.
    wanted: usize,
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
struct Pace {
    wanted: usize,
    until: Option<Instant>,
}

impl Pace {
    /// Records a commit of `works` works that took from `begun` to `now`, after which `left` works are
    /// waiting.
    fn wrote(&mut self, works: usize, left: usize, begun: Instant, now: Instant) {
        self.wanted = works + left;
        self.until = (self.wanted > 1).then(|| now + (now - begun).min(PATIENCE));
    }

    /// Waits for the expected works to arrive.
    fn gather(&self, queue: &mut parking_lot::MutexGuard<'_, Queue>, arrived: &Condvar) {
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

impl Database {
    /// Submits a work to the writer and waits for its answer. `make` receives the sender of the answer.
    pub(super) async fn submit<T, W: Work + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(oneshot::Sender<Result<T>>) -> W,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(make(reply));
        let start = {
            let mut queue = self.queue.lock();
            let large = queue.wanted > 0 && work.bytes() >= ENOUGH;
            queue.waiting.push_back(work);
            if queue.wanted > 0 && (large || queue.waiting.len() >= queue.wanted) {
                self.arrived.notify_one();
            }
            !std::mem::replace(&mut queue.working, true)
        };
        if start {
            let database = self.clone();
            tokio::task::spawn_blocking(move || database.drain());
        }
        answer.await.unwrap_or_else(|_| Err(Error::Internal("the writer ended without an answer".into())))
    }

    fn drain(&self) {
        let mut pace = Pace::default();
        loop {
            let works = {
                let mut queue = self.queue.lock();
                pace.gather(&mut queue, &self.arrived);
                let works = take_some(&mut queue.waiting);
                if works.is_empty() {
                    queue.working = false;
                    return;
                }
                works
            };
            let (begun, count) = (Instant::now(), works.len());
            // A panic here is a bug in the writer. Its works are dropped, so that their callers get an error,
            // and the writer continues.
            if catch_unwind(AssertUnwindSafe(|| self.write(works))).is_err() {
                tracing::error!(database = %self.name, "the writer panicked");
            }
            pace.wrote(count, self.queue.lock().waiting.len(), begun, Instant::now());
        }
    }

    fn write(&self, mut works: Vec<Box<dyn Work>>) {
        loop {
            // Checked before reading anything for them: many may be refused at once.
            works = works.into_iter().filter_map(still_wanted).collect();
            if works.is_empty() {
                return;
            }
            let result = match self.attempt(&mut works) {
                Ok(()) => Ok(()),
                Err(Attempt::Again) => continue,
                // The others are retried from the start without it, because it may have changed the draft.
                Err(Attempt::Without(at, error)) => {
                    works.remove(at).answer(Err(error));
                    continue;
                }
                // On a full disk, works that free space still succeed, but only in commits of their own.
                Err(Attempt::Failed(Error::Full)) if works.len() > 1 => {
                    works.into_iter().for_each(|work| self.write(vec![work]));
                    return;
                }
                Err(Attempt::Failed(error)) => Err(error),
            };
            for work in works {
                work.answer(result.clone());
            }
            return;
        }
    }

    fn attempt(&self, works: &mut [Box<dyn Work>]) -> std::result::Result<(), Attempt> {
        if self.is_gone() {
            return Err(Attempt::Failed(Error::NoDatabase));
        }
        let info = self.info();
        let ids: Vec<String> = works.iter().flat_map(|work| work.ids()).collect();
        let designs = ids.iter().any(|id| id.starts_with("_design/"));
        let mut draft = Draft::load(&*self.store, self.number, &info, ids)?;
        if self.is_partitioned() {
            draft = draft.partitioned(self.partition_limit.load(Ordering::Relaxed));
        }
        for (at, work) in works.iter_mut().enumerate() {
            work.apply(&mut draft).map_err(|error| Attempt::Without(at, error))?;
        }
        let mut finished = draft.finish()?;
        finished.batch.frees = works.iter().all(|work| match work.frees() {
            Frees::Always => true,
            Frees::WhenSmaller => finished.smaller,
            Frees::Never => false,
        });
        if finished.batch.writes.is_empty() {
            return Ok(());
        }
        match self.store.commit(finished.batch) {
            Ok(()) => {
                if designs {
                    self.designs_changed();
                }
                self.publish(finished.info);
                Ok(())
            }
            // Another writer committed (in a future cluster, another node), or the database was deleted.
            Err(StoreError::Conflict) => {
                if self.reload()? {
                    Err(Attempt::Again)
                } else {
                    Err(Attempt::Failed(Error::NoDatabase))
                }
            }
            Err(error) => Err(Attempt::Failed(error.into())),
        }
    }
}

/// Returns the work if it may still be done. Otherwise answers it with the error.
fn still_wanted(work: Box<dyn Work>) -> Option<Box<dyn Work>> {
    match work.check() {
        Ok(()) => Some(work),
        Err(refused) => {
            work.answer(Err(refused));
            None
        }
    }
}

enum Attempt {
    Again,
    /// The work at this index failed, and only that one.
    Without(usize, Error),
    Failed(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Attempt {
        Attempt::Failed(error)
    }
}

/// Takes the oldest waiting works that fit into one draft; at least one if any are waiting.
fn take_some(waiting: &mut VecDeque<Box<dyn Work>>) -> Vec<Box<dyn Work>> {
    let mut works = Vec::new();
    let (mut bytes, mut documents) = (0, 0);
    while let Some(next) = waiting.front() {
        bytes += next.bytes();
        documents += next.ids().len();
        if !works.is_empty() && (bytes > DRAFT_BYTES || documents > DRAFT_DOCUMENTS) {
            break;
        }
        works.extend(waiting.pop_front());
    }
    works
}

/// A request's document edits, the most common work.
pub(super) struct Edits {
    edits: Vec<Edit>,
    mode: Mode,
    guard: Option<Box<dyn Guard>>,
    results: Vec<Result<Revision>>,
    reply: oneshot::Sender<Result<Vec<Result<Revision>>>>,
}

impl Edits {
    pub fn new(
        edits: Vec<Edit>,
        mode: Mode,
        guard: Option<Box<dyn Guard>>,
        reply: oneshot::Sender<Result<Vec<Result<Revision>>>>,
    ) -> Edits {
        Edits { edits, mode, guard, results: Vec::new(), reply }
    }
}

impl Work for Edits {
    fn ids(&self) -> Vec<String> {
        self.edits.iter().map(|edit| edit.id.clone()).collect()
    }

    fn bytes(&self) -> usize {
        self.edits.iter().map(|edit| edit.body.json.len() + 200).sum()
    }

    fn check(&self) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.check())
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.results = self.edits.iter().map(|edit| draft.edit(edit, self.mode)).collect();
        Ok(())
    }

    fn frees(&self) -> Frees {
        Frees::WhenSmaller
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Edits { results, reply, edits, .. } = *self;
        // Release the pins first: a caller that has its answer may expect the sweep to see the blobs
        // unpinned.
        drop(edits);
        let _ = reply.send(committed.map(|()| results));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_after_several_works_and_never_after_one() {
        let begun = Instant::now();
        let after = |micros| begun + Duration::from_micros(micros);
        let mut pace = Pace::default();
        assert_eq!((pace.wanted, pace.until), (0, None), "the first work is written at once");
        pace.wrote(1, 0, begun, after(900));
        assert_eq!(pace.until, None, "a single writer never waits");
        pace.wrote(5, 3, begun, after(900));
        assert_eq!((pace.wanted, pace.until), (8, Some(after(1800))));
        pace.wrote(5, 3, begun, after(90_000));
        assert_eq!(pace.until, Some(after(92_000)), "at most PATIENCE, even after a slow commit");
    }
}
