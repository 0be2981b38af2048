//! The only code that changes a database.
//!
//! Each database has at most one running writer; an idle database has none. A call that finds no running
//! writer starts one on a blocking thread. The writer drains the queue into one draft, commits it, wakes the
//! watchers, answers, and ends when the queue is empty. Concurrent writes of many clients therefore share one
//! commit and one sync. At most 32 writers run at the same time. If more databases are written, their writers take
//! turns.
//!
//! Every commit has a fixed cost. Clients that write continuously return shortly after they are answered, so
//! after answering several works the writer waits for about as many to arrive, at most as long as the last
//! commit took. A client that writes alone never waits.
//!
//! On a shared store, a few small works are written by a task instead ([`super::writer_task`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::db::Database;
use crate::db::commit::draft::{Draft, Finished};
use crate::db::commit::queue::{ENOUGH, Frees, Pace, Work};
use crate::db::prefetched::At;
use crate::db::record::Info;
use crate::error::{Error, Result};
use crate::store::{self, Batch, Durability, StoreError, keyspace};

/// A draft takes works from the queue until it holds about this many bytes...
const DRAFT_BYTES: usize = 8 << 20;
/// ...or this many documents.
const DRAFT_DOCUMENTS: usize = 4096;
/// Limits the writers that run at the same time. Each occupies a thread, even while it waits for a sync that it shares
/// with others, and the allocator keeps about 1 MB per thread. One limit for the process, like its threads.
pub(super) static TURNS: Semaphore = Semaphore::const_new(32);
/// Held by tests that take all turns: two of them in one process would wait for each other.
#[cfg(test)]
pub(super) static TAKES_ALL_TURNS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// The pause before a writer checks again whether a backup still holds the database.
const HELD_PAUSE: Duration = Duration::from_millis(20);
/// For this long after a conflict, a writer takes a turn among the nodes before it reads.
const CONTENDED: Duration = Duration::from_secs(1);

impl Database {
    /// Submits a work to the writer and waits for its answer. `make` receives the sender of the answer.
    pub(crate) async fn submit<T, W: Work + 'static>(
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
            self.clone().start();
        }
        answer.await.unwrap_or_else(|_| Err(Error::Internal("the writer ended without an answer".into())))
    }

    fn start(self: Arc<Self>) {
        match self.store.is_shared() {
            true => self.start_task(),
            false => self.start_writer(),
        }
    }

    /// Runs the writer on a blocking thread, as soon as it is its turn.
    pub(super) fn start_writer(self: Arc<Self>) {
        let writer = Writer(Some(self));
        match TURNS.try_acquire() {
            Ok(turn) => {
                crate::blocking::spawn_blocking(move || writer.drain(turn));
            }
            Err(_) => {
                tokio::spawn(async move {
                    let turn = TURNS.acquire().await.expect("the semaphore is never closed");
                    crate::blocking::spawn_blocking(move || writer.drain(turn));
                });
            }
        }
    }

    /// Commits the waiting works. Ends when none are left, or when another database waits for the turn.
    fn drain(self: Arc<Self>, mut turn: SemaphorePermit<'static>) {
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
            let left = self.queue.lock().waiting.len();
            // A commit to a shared store waits for another server while this one is idle. The writer therefore waits
            // for half of the works: the other clients send theirs during the commit.
            let share = if self.store.is_shared() { 2 } else { 1 };
            pace.wrote(count / share, left / share, begun, Instant::now());
            // A released turn goes to the database that has waited for longest, if any waits.
            drop(turn);
            match TURNS.try_acquire() {
                Ok(next) => turn = next,
                Err(_) => return self.start_writer(),
            }
        }
    }

    fn write(&self, mut works: Vec<Box<dyn Work>>) {
        let mut conflicts = 0;
        loop {
            // Checked before reading anything for them: many may be refused at once.
            works = works.into_iter().filter_map(still_wanted).collect();
            if works.is_empty() {
                return;
            }
            let result = match self.attempt(&mut works) {
                // Works for which the draft had no room follow in the next one.
                Ok(done) if done < works.len() => {
                    works.drain(..done).for_each(|work| work.answer(Ok(())));
                    works[0].committed();
                    continue;
                }
                Ok(_) => Ok(()),
                Err(Attempt::Held) => {
                    std::thread::sleep(HELD_PAUSE);
                    match self.refresh() {
                        // If the database was deleted, the next attempt finds that.
                        Ok(_) => continue,
                        Err(error) => Err(error),
                    }
                }
                Err(Attempt::Again) => {
                    conflicts += 1;
                    store::pause_after_conflict(&*self.store, conflicts);
                    continue;
                }
                // The other works are retried from the start without this one, because it may have changed the draft.
                Err(Attempt::Without(at, error)) => {
                    works.remove(at).answer(Err(error));
                    continue;
                }
                // On a full disk, works that free space still succeed, but only in commits of their own. If the store
                // cannot index an id of one work, the others succeed in commits of their own, too.
                Err(Attempt::Failed(Error::Full | Error::IllegalDocId(_))) if works.len() > 1 => {
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

    /// Applies works to a draft until it has no room, and commits it. Returns how many works are complete; the
    /// next one may be committed in part.
    fn attempt(&self, works: &mut [Box<dyn Work>]) -> std::result::Result<usize, Attempt> {
        if self.is_gone() {
            return Err(Attempt::Failed(Error::NoDatabase));
        }
        let _turn = self.turn()?;
        let epoch = self.epoch();
        let info = self.info();
        if info.held_until > 0 && info.held_until > self.clock.since_epoch().as_secs() {
            return Err(Attempt::Held);
        }
        let ids: Vec<String> = works.iter().flat_map(|work| work.ids()).collect();
        let designs = ids.iter().any(|id| id.starts_with("_design/"));
        let is_shared = self.store.is_shared();
        let known = match is_shared {
            true => self.prefetched.take(&At::of(&info), ids.iter().map(|id| keyspace::document(self.number, id))),
            false => HashMap::new(),
        };
        let mut draft = Draft::load(&*self.store, self.number, &info, ids, known)?;
        if self.is_partitioned() {
            draft = draft.partitioned(self.shared.partition_limit.load(Ordering::Relaxed));
        }
        let complete = apply(works, &mut draft)?;
        let applied = &works[..works.len().min(complete + 1)];
        let mut finished = draft.finish()?;
        finished.batch.frees = Frees::of_commit(applied.iter().map(|work| work.frees()), finished.smaller);
        if applied.iter().all(|work| work.is_derived()) {
            finished.batch.durability = Durability::Relaxed;
        }
        if finished.batch.writes.is_empty() {
            return Ok(complete);
        }
        let records = if is_shared { records_in(self.number, &finished.batch) } else { HashSet::new() };
        match self.store.commit(std::mem::take(&mut finished.batch)) {
            Ok(()) => {
                if designs {
                    self.designs_changed();
                }
                self.written(&works[..complete], finished, records, (&info, epoch));
                Ok(complete)
            }
            // Another node committed, or the database was deleted.
            Err(StoreError::Conflict) => {
                self.contend();
                if self.refresh()? { Err(Attempt::Again) } else { Err(Attempt::Failed(Error::NoDatabase)) }
            }
            Err(error) => Err(Attempt::Failed(error.into())),
        }
    }
}

impl Database {
    /// Takes over what was committed. `written`: the works that are complete. `records`: the keys of the document records
    /// that were written, on a shared store. `before`: counters and epoch on top of which it was committed.
    pub(super) fn written(
        &self,
        works: &[Box<dyn Work>],
        finished: Finished,
        records: HashSet<Vec<u8>>,
        (before, epoch): (&Info, u64),
    ) {
        if self.store.is_shared() {
            self.prefetched.committed(At::of(before), At::of(&finished.info), records);
        }
        let calls = works.iter().filter(|work| work.is_write()).count();
        self.shared.counts.wrote(calls, finished.written, finished.inserted);
        self.committed(finished.info, before.sequence, epoch);
    }

    /// After a conflict with another node: the next commits take turns with those of the other nodes.
    pub(super) fn contend(&self) {
        self.heard.lock().contended_until = Some(Instant::now() + CONTENDED);
    }

    /// Whether another node has written this database a moment ago.
    pub(super) fn is_contended(&self) -> bool {
        self.heard.lock().contended_until.is_some_and(|until| until >= Instant::now())
    }

    /// After a conflict with another node: waits for the turn to write, if it can be had, and reads the counters again.
    fn turn(&self) -> Result<Option<Box<dyn Send>>> {
        if !self.store.is_shared() || !self.is_contended() {
            return Ok(None);
        }
        let turn = self.store.turn(self.number);
        if !self.refresh()? {
            return Err(Error::NoDatabase);
        }
        Ok(turn)
    }
}

/// A database's writer. If it is dropped because the runtime ends, the waiting works get an error.
pub(super) struct Writer(pub(super) Option<Arc<Database>>);

impl Writer {
    fn drain(mut self, turn: SemaphorePermit<'static>) {
        if let Some(database) = self.0.take() {
            database.drain(turn);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(database) = self.0.take() else { return };
        let mut queue = database.queue.lock();
        queue.working = false;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(waiting);
    }
}

/// Applies works to a draft until it has no room. Returns how many are complete; the next one may be applied in part.
pub(super) fn apply(works: &mut [Box<dyn Work>], draft: &mut Draft) -> std::result::Result<usize, Attempt> {
    for (at, work) in works.iter_mut().enumerate() {
        work.apply(draft).map_err(|error| Attempt::Without(at, error))?;
        if !work.is_complete() {
            return Ok(at);
        }
    }
    Ok(works.len())
}

/// The keys of the document records that a batch writes.
pub(super) fn records_in(number: u64, batch: &Batch) -> HashSet<Vec<u8>> {
    let prefix = keyspace::document(number, "");
    batch.writes.iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix)).cloned().collect()
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

/// Why works were not committed.
pub(super) enum Attempt {
    Again,
    /// A backup on some node of a shared store holds the database.
    Held,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::clock::Clock;
    use crate::db::{CreateOptions, Databases};
    use crate::store::MemoryBlobs;
    use crate::store::memory::Memory;

    type Answers = Arc<Mutex<Vec<&'static str>>>;

    /// Fills a draft, and records when it is answered.
    struct Large(&'static str, Answers, oneshot::Sender<Result<()>>);

    impl Work for Large {
        fn ids(&self) -> Vec<String> {
            Vec::new()
        }

        fn bytes(&self) -> usize {
            DRAFT_BYTES
        }

        fn apply(&mut self, draft: &mut Draft) -> Result<()> {
            draft.put_local(self.0, Some(vec![0; 10]));
            Ok(())
        }

        fn answer(self: Box<Self>, committed: Result<()>) {
            self.1.lock().push(self.0);
            let _ = self.2.send(committed);
        }
    }

    #[tokio::test]
    async fn a_database_with_much_to_write_lets_others_have_their_turn() {
        let (store, blobs) = (Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()));
        let databases = Databases::open(store, blobs, Clock::fixed(Duration::from_secs(1))).unwrap();
        let _alone = TAKES_ALL_TURNS.lock().await;
        let mut turns = TURNS.acquire_many(32).await.unwrap();
        let answers = Answers::default();
        let mut tasks = Vec::new();
        for (name, works) in [("busy", 10), ("other", 1)] {
            let database = databases.create(name, CreateOptions::default(), None).unwrap();
            for _ in 0..works {
                let (of, answers) = (database.clone(), answers.clone());
                tasks.push(tokio::spawn(async move { of.submit(|reply| Large(name, answers, reply)).await }));
            }
            while database.queue.lock().waiting() < works {
                tokio::task::yield_now().await;
            }
            // On this single thread, tasks run in the order of their start: now the writer waits for its turn.
            tokio::task::yield_now().await;
        }
        assert_eq!(*answers.lock(), [""; 0], "all turns are taken");
        drop(turns.split(1).unwrap());
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(answers.lock().len(), 11);
        assert_eq!(answers.lock().iter().position(|name| *name == "other"), Some(1));
    }

    #[test]
    fn a_runtime_that_ends_before_a_writers_turn_leaves_a_database_that_can_be_written() {
        let (store, blobs) = (Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()));
        let databases = Databases::open(store, blobs, Clock::fixed(Duration::from_secs(1))).unwrap();
        let database = databases.create("db", CreateOptions::default(), None).unwrap();
        let _alone = TAKES_ALL_TURNS.blocking_lock();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime();
        let turns = ended.block_on(TURNS.acquire_many(32)).unwrap();
        let waits = ended.spawn({
            let database = database.clone();
            async move { database.set_revs_limit(7).await }
        });
        ended.block_on(async {
            while database.queue.lock().waiting() == 0 {
                tokio::task::yield_now().await;
            }
        });
        drop(ended);
        drop(turns);
        assert!(runtime().block_on(waits).is_err(), "its task has ended");
        runtime().block_on(database.set_revs_limit(8)).unwrap();
        assert_eq!(database.info().revs_limit, 8);
    }

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
