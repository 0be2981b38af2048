//! The writer of a shared store as a task.
//!
//! A commit to a shared store waits for another server. A writer on a thread of its own would sleep meanwhile, and each
//! commit would wake it: with writes to many databases, that costs more than the rest of the write. A task therefore writes
//! a few small works at a time. It does nothing that may wait on a thread: everything else, and everything after a conflict
//! with another node, is left to the thread.
//!
//! ```text
//! submit ─> task: few small works that read nothing else? ─ yes ─> draft ─> begin_commit ─> answer, next
//!                        │ no                                                   │ conflict
//!                        └──────────────> thread (writer.rs) <──────────────────┘
//! ```

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::writer::{Attempt, Writer, apply, records_in};
use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::{Frees, Work};
use crate::db::prefetched::At;
use crate::error::{Error, Result};
use crate::store::{StoreError, keyspace};

/// The most works in a commit of a task. If more wait, the thread gathers them.
const WORKS: usize = 4;
/// The most documents of these works...
const DOCUMENTS: usize = 32;
/// ...and the most bytes.
const BYTES: usize = 64 << 10;
/// Limits the tasks that run at the same time, because each has a draft in memory.
static TASKS: Semaphore = Semaphore::const_new(128);

type Works = Vec<Box<dyn Work>>;

/// What a task has done with works.
enum Written {
    /// They are answered with this result.
    Ended(Works, Result<()>),
    /// The thread writes them.
    Left(Works),
}

impl Database {
    /// Runs the writer as a task, or on a thread if many tasks run.
    pub(super) fn start_task(self: Arc<Self>) {
        match TASKS.try_acquire() {
            Ok(turn) => {
                tokio::spawn(Writer(Some(self)).drain_as_task(turn));
            }
            Err(_) => self.start_writer(),
        }
    }

    /// Takes the waiting works, if a task may write them. Empty: the thread is to write them.
    fn take_few(&self) -> Works {
        if self.is_contended() || self.is_partitioned() || self.info().held_until > 0 {
            return Vec::new();
        }
        let mut queue = self.queue.lock();
        let waiting = &queue.waiting;
        let is_small = waiting.len() <= WORKS
            && waiting.iter().all(|work| work.is_light())
            && waiting.iter().map(|work| work.bytes()).sum::<usize>() <= BYTES
            && waiting.iter().map(|work| work.ids().len()).sum::<usize>() <= DOCUMENTS;
        if is_small { queue.waiting.drain(..).collect() } else { Vec::new() }
    }

    async fn write_few(&self, works: Works) -> Written {
        let mut wanted = Vec::with_capacity(works.len());
        let mut is_sure = true;
        for work in works {
            match work.check_at_once() {
                Some(Err(refused)) => work.answer(Err(refused)),
                checked => {
                    is_sure &= checked.is_some();
                    wanted.push(work);
                }
            }
        }
        if !is_sure {
            return Written::Left(wanted);
        }
        match self.commit_few(&mut wanted).await {
            Ok(()) => Written::Ended(wanted, Ok(())),
            Err(Few::Left) => Written::Left(wanted),
            Err(Few::Attempt(Attempt::Without(at, error))) => {
                wanted.remove(at).answer(Err(error));
                Written::Left(wanted)
            }
            Err(Few::Attempt(Attempt::Failed(Error::Full | Error::IllegalDocId(_)))) if wanted.len() > 1 => {
                Written::Left(wanted)
            }
            Err(Few::Attempt(Attempt::Failed(error))) => Written::Ended(wanted, Err(error)),
            Err(Few::Attempt(Attempt::Again | Attempt::Held)) => Written::Left(wanted),
        }
    }

    async fn commit_few(&self, works: &mut [Box<dyn Work>]) -> std::result::Result<(), Few> {
        if works.is_empty() {
            return Ok(());
        }
        if self.is_gone() {
            return Err(Error::NoDatabase.into());
        }
        let epoch = self.epoch();
        let info = self.info();
        let ids: Vec<String> = works.iter().flat_map(|work| work.ids()).collect();
        if ids.iter().any(|id| id.starts_with("_design/")) {
            return Err(Few::Left);
        }
        let keys: Vec<Vec<u8>> = ids.iter().map(|id| keyspace::document(self.number, id)).collect();
        let mut known = self.prefetched.take(&At::of(&info), keys.iter().cloned());
        let missing: Vec<Vec<u8>> = keys.into_iter().filter(|key| !known.contains_key(key)).collect();
        if !missing.is_empty() {
            known.extend(self.read_records(missing).await?);
        }
        let (mut finished, records) = {
            let mut draft = Draft::load(&*self.store, self.number, &info, ids, known).map_err(Attempt::from)?;
            if apply(works, &mut draft)? < works.len() || !draft.finishes_at_once() {
                return Err(Few::Left);
            }
            let finished = draft.finish().map_err(Attempt::from)?;
            let records = records_in(self.number, &finished.batch);
            (finished, records)
        };
        if finished.batch.writes.is_empty() {
            return Ok(());
        }
        finished.batch.frees = Frees::of_commit(works.iter().map(|work| work.frees()), finished.smaller);
        match self.store.begin_commit(std::mem::take(&mut finished.batch)).await {
            Ok(()) => {
                self.written(works, finished, records, (&info, epoch));
                Ok(())
            }
            // Another node committed, or the database was deleted.
            Err(StoreError::Conflict) => {
                self.contend();
                Err(Few::Left)
            }
            Err(error) => Err(Error::from(error).into()),
        }
    }

    /// Reads document records. `Left`: one of them is damaged.
    async fn read_records(&self, keys: Vec<Vec<u8>>) -> std::result::Result<HashMap<Vec<u8>, Option<Vec<u8>>>, Few> {
        let values = self.store.begin_get_each(keys.clone()).await.map_err(Error::from)?;
        let read = |(key, value): (Vec<u8>, std::result::Result<_, StoreError>)| Some((key, value.ok()?));
        keys.into_iter().zip(values).map(read).collect::<Option<_>>().ok_or(Few::Left)
    }
}

/// Why a task has not committed works.
enum Few {
    /// The thread is to write them.
    Left,
    Attempt(Attempt),
}

impl From<Attempt> for Few {
    fn from(attempt: Attempt) -> Few {
        Few::Attempt(attempt)
    }
}

impl From<Error> for Few {
    fn from(error: Error) -> Few {
        Few::Attempt(Attempt::Failed(error))
    }
}

impl Writer {
    async fn drain_as_task(mut self, _turn: SemaphorePermit<'static>) {
        while let Some(database) = self.0.clone() {
            let works = database.take_few();
            if works.is_empty() {
                return self.leave(Vec::new());
            }
            // A panic here is a bug in the writer. Its works are dropped, so that their callers get an error, and the
            // writer continues.
            let written = AssertUnwindSafe(database.write_few(works)).catch_unwind().await;
            let (works, result) = match written {
                Ok(Written::Ended(works, result)) => (works, result),
                Ok(Written::Left(works)) => return self.leave(works),
                Err(_) => {
                    let name = database.name();
                    tracing::error!(database = %name, "the writer panicked");
                    (Vec::new(), Ok(()))
                }
            };
            // Before the answers: the runtime may end with the last of them.
            let mut queue = database.queue.lock();
            if queue.waiting.is_empty() {
                queue.working = false;
                self.0 = None;
            }
            drop(queue);
            works.into_iter().for_each(|work| work.answer(result.clone()));
        }
    }

    /// Lets a thread write `works` and what waits behind them.
    fn leave(&mut self, works: Works) {
        let Some(database) = self.0.take() else { return };
        let mut queue = database.queue.lock();
        works.into_iter().rev().for_each(|work| queue.waiting.push_front(work));
        drop(queue);
        database.start_writer();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::incoming::Incoming;
    use super::super::local::LocalWrite;
    use super::super::validate::AllowAll;
    use super::super::writer::{TAKES_ALL_TURNS, TURNS};
    use super::*;
    use crate::clock::Clock;
    use crate::db::commit::prepared_edit::Mode;
    use crate::db::{CreateOptions, Databases};
    use crate::rev::Revision;
    use crate::store::MemoryBlobs;
    use crate::store::shared_memory::{Calls, Cluster};

    fn node(cluster: &Arc<Cluster>) -> Arc<Databases> {
        Databases::open(cluster.node(), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap()
    }

    async fn put(database: &Arc<Database>, id: &str, parent: Option<Revision>, length: usize) -> Result<Revision> {
        let edit = Incoming { parent, ..Incoming::created(id, format!(r#"{{"text":"{}"}}"#, "x".repeat(length))) };
        database.update(vec![edit], Mode::Interactive, &AllowAll).await?.remove(0)
    }

    #[tokio::test]
    async fn a_task_writes_small_works_and_leaves_others_to_the_thread() {
        let cluster = Cluster::new(Clock::system());
        let (one, two) = (node(&cluster), node(&cluster));
        let here = one.create("db", CreateOptions::default(), None).unwrap();
        let there = two.get("db").unwrap();
        here.set_revs_limit(2).await.unwrap();
        // A thread has set it, and answers before it ends. Without a turn it would stay the writer.
        while here.queue.lock().working {
            tokio::task::yield_now().await;
        }
        // No thread can run.
        let _alone = TAKES_ALL_TURNS.lock().await;
        let turns = TURNS.acquire_many(32).await.unwrap();
        cluster.refuse_async_threads(true);
        let first = put(&here, "a", None, 9).await.unwrap();
        let second = put(&here, "a", Some(first.clone()), 9).await.unwrap();
        assert!(matches!(put(&here, "a", Some(first), 9).await, Err(Error::Conflict)));
        here.write_local("l", LocalWrite::Put { json: "{}".into(), previous: None }).await.unwrap();
        // The other node has other counters.
        let other = tokio::spawn({
            let there = there.clone();
            async move { put(&there, "b", None, 9).await }
        });
        while there.heard.lock().contended_until.is_none() {
            tokio::task::yield_now().await;
        }
        // One revision is to be stemmed.
        let stemmed = tokio::spawn({
            let here = here.clone();
            async move { put(&here, "a", Some(second), 9).await }
        });
        let is_left = || {
            let queue = here.queue.lock();
            queue.working && queue.waiting() == 1
        };
        while !is_left() {
            tokio::task::yield_now().await;
        }
        let large = tokio::spawn({
            let here = here.clone();
            async move { put(&here, "large", None, BYTES + 1).await }
        });
        while here.queue.lock().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(!other.is_finished() && !stemmed.is_finished() && !large.is_finished(), "they wait for a thread");
        drop(turns);
        other.await.unwrap().unwrap();
        assert_eq!(stemmed.await.unwrap().unwrap().generation, 3);
        large.await.unwrap().unwrap();
        cluster.refuse_async_threads(false);
        assert_eq!(here.info_now().unwrap().documents, 3);
    }

    #[test]
    fn a_runtime_that_ends_leaves_a_writer_that_works() {
        let cluster = Cluster::new(Clock::system());
        let database = node(&cluster).create("db", CreateOptions::default(), None).unwrap();
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let ended = runtime();
        let before = cluster.asked();
        cluster.set_reads(Calls::Held);
        ended.spawn({
            let database = database.clone();
            async move { put(&database, "a", None, 9).await }
        });
        while cluster.asked() == before {
            std::thread::yield_now();
        }
        ended.shutdown_background();
        cluster.set_reads(Calls::Answered);
        let (next, end) = (runtime(), Instant::now() + Duration::from_secs(30));
        // The runtime drops its tasks on another thread.
        while let Err(error) = next.block_on(put(&database, "b", None, 9)) {
            assert!(Instant::now() < end, "{error:?}");
        }
    }
}
