//! The only code that changes a database.
//!
//! At most one writer is at work per database, and none for an idle one: the call that finds no writer starts one on a
//! blocking thread; it drains what waits into one draft, commits it, wakes the watchers, answers, and ends when nothing
//! waits. Single writes of many clients so share one commit, and one sync.
//!
//! A commit has its price, however little is in it. Clients that write all the time come back a moment after they were
//! answered: a writer that has just answered several waits for about as many, never longer than the last commit took. Who
//! writes alone never waits.

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

/// A draft takes up works until it holds about this many bytes...
const DRAFT_BYTES: usize = 8 << 20;
/// ...or this many documents.
const DRAFT_DOCUMENTS: usize = 4096;
/// A writer waits at most so long for more to write...
const PATIENCE: Duration = Duration::from_millis(2);
/// ...and not at all if it has so many bytes already.
const ENOUGH: usize = 64 << 10;

/// One thing to be done by the writer. May be applied more than once: a commit whose expectation fails is made anew.
pub(super) trait Work: Send {
    /// The documents to load.
    fn ids(&self) -> Vec<String>;
    /// Bytes that it will write, roughly.
    fn bytes(&self) -> usize;
    /// Whether it may still be done; asked before each attempt. An error fails this work alone.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Adds its changes to the draft and keeps its results. An error fails this work alone.
    fn apply(&mut self, draft: &mut Draft) -> Result<()>;
    /// Whether it makes room, and so is still done on a full disk.
    fn frees(&self) -> Frees {
        Frees::Never
    }
    /// Answers, once the commit has returned.
    fn answer(self: Box<Self>, committed: Result<()>);
}

/// Whether a work makes room in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frees {
    /// Whatever it is asked for.
    Always,
    /// If each document that it changes becomes smaller (see [`Finished::smaller`](super::draft::Finished)).
    WhenSmaller,
    Never,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Box<dyn Work>>,
    working: bool,
    /// The writer waits for so many works; 0: for none.
    wanted: usize,
}

#[cfg(test)]
impl Queue {
    /// Works that no writer has taken up.
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
    /// A commit of `works` works took from `begun` to `now`, and `left` are waiting.
    fn wrote(&mut self, works: usize, left: usize, begun: Instant, now: Instant) {
        self.wanted = works + left;
        self.until = (self.wanted > 1).then(|| now + (now - begun).min(PATIENCE));
    }

    /// Waits for those that are expected back.
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
    /// Hands a work to the writer and waits for its answer. `make` gets the sender of the answer.
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
            // A panic here is a bug of ours; its works are dropped (their callers get an error), the writer goes on.
            if catch_unwind(AssertUnwindSafe(|| self.write(works))).is_err() {
                tracing::error!(database = %self.name, "the writer panicked");
            }
            pace.wrote(count, self.queue.lock().waiting.len(), begun, Instant::now());
        }
    }

    fn write(&self, mut works: Vec<Box<dyn Work>>) {
        loop {
            // Before anything is read for them: many may be refused at once.
            works = works.into_iter().filter_map(still_wanted).collect();
            if works.is_empty() {
                return;
            }
            let result = match self.attempt(&mut works) {
                Ok(()) => Ok(()),
                Err(Attempt::Again) => continue,
                // The others are tried without it, from the start: it may have changed the draft.
                Err(Attempt::Without(at, error)) => {
                    works.remove(at).answer(Err(error));
                    continue;
                }
                // What makes room is still written, but not in one commit with what makes none.
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
            // Somebody else wrote (another node, one day), or the database was deleted under us.
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

/// Answers a work that may not be done any more.
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
    /// The work at this place has failed, and it alone.
    Without(usize, Error),
    Failed(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Attempt {
        Attempt::Failed(error)
    }
}

/// The oldest waiting works that fit one draft; at least one if any waits.
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

/// Document edits: the common work.
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
        // The pins go before the answer: whoever hears of the write may count on the collector to see it.
        drop(edits);
        let _ = reply.send(committed.map(|()| results));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_a_crowd_and_never_for_one() {
        let begun = Instant::now();
        let after = |micros| begun + Duration::from_micros(micros);
        let mut pace = Pace::default();
        assert_eq!((pace.wanted, pace.until), (0, None), "the first is written at once");
        pace.wrote(1, 0, begun, after(900));
        assert_eq!(pace.until, None, "who writes alone never waits");
        pace.wrote(5, 3, begun, after(900));
        assert_eq!((pace.wanted, pace.until), (8, Some(after(1800))));
        pace.wrote(5, 3, begun, after(90_000));
        assert_eq!(pace.until, Some(after(92_000)), "however long a commit takes");
    }
}
