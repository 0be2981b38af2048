//! The threads that run scripts.
//!
//! As many threads as cores take jobs from one queue. A script that runs long, or a list function that waits for its
//! client, must not keep the others waiting, so a watcher thread marks workers that are busy for long as *slow* while
//! jobs wait, and a slow worker no longer counts as one of the cores' threads: another is started in its place, up to a
//! limit. Once there are more than enough, a worker that finds nothing to do ends.
//!
//! ```text
//! submit -> queue -> worker: job(&mut Worker) -> reply (oneshot)
//!                      ^ watcher, every 100 ms while something runs:
//!                        slow? start another.   far over its time in native code? answer for it.
//! ```
//!
//! Invariants: `live` threads exist, `slow` of them are marked; a thread is started only when a job waits that no idle
//! thread will take and `live - slow < cores` and `live < most`.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::oneshot;

use super::Limits;
use super::engine::{Environment, Failure, STACK, Watch, timed_out};
use crate::error::{Error, Result};

/// Jobs that may wait; one more is refused at once.
const QUEUE_LIMIT: usize = 20_000;
/// Environments that one thread keeps.
const ENVIRONMENTS: usize = 32;
/// How often the watcher looks, and from when on a busy worker is slow.
const SLOW: Duration = Duration::from_millis(100);
/// A script this far over its time does not hear interrupts; its caller is answered without it.
const DEAF: Duration = Duration::from_secs(2);
/// A thread beyond the cores' ends after this long without a job.
const IDLE: Duration = Duration::from_secs(5);

/// What an environment was made for; equal keys may share one on the same thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// The map functions of a view signature.
    Map { database: u64, signature: String },
    /// A list of reduce functions.
    Reduce { database: u64, functions: Arc<Vec<String>> },
    /// A design document's functions, called by one user (its `userCtx`).
    Design { database: u64, id: String, rev: String, user: String },
}

/// What one thread has: its environments, the least recently used first, and its clock.
pub(super) struct Worker {
    environments: Vec<(Key, Environment)>,
    watch: Arc<Watch>,
    limits: Arc<RwLock<Limits>>,
}

impl Worker {
    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    /// A new environment that is not kept.
    pub fn fresh(&self) -> std::result::Result<Environment, Failure> {
        Environment::new(self.limits().memory, self.watch.clone())
    }

    /// Runs `work` in the environment of `key`, made with `fill` when this thread has none. After a fatal failure the
    /// environment is gone.
    pub fn within<R>(
        &mut self,
        key: &Key,
        fill: impl FnOnce(&Environment) -> std::result::Result<(), Failure>,
        work: impl FnOnce(&Environment) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        let entry = match self.environments.iter().position(|(kept, _)| kept == key) {
            Some(at) => self.environments.remove(at),
            None => {
                if self.environments.len() >= ENVIRONMENTS {
                    self.environments.remove(0);
                }
                let made = self.fresh()?;
                fill(&made)?;
                (key.clone(), made)
            }
        };
        let answer = work(&entry.1);
        if !matches!(&answer, Err(failure) if failure.fatal) {
            self.environments.push(entry);
        }
        answer
    }
}

type Work = Box<dyn FnOnce(&mut Worker) + Send>;
/// Answers the caller with an error when the job cannot.
type Excuse = Box<dyn FnOnce(Error) + Send>;

struct Job {
    work: Work,
    excuse: Excuse,
    cancel: Arc<AtomicBool>,
}

struct Busy {
    since: Instant,
    watch: Arc<Watch>,
    excuse: Option<Excuse>,
    slow: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Workers at a job, by thread number.
    busy: HashMap<u64, Busy>,
    idle: usize,
    live: usize,
    slow: usize,
    next: u64,
    watching: bool,
    closed: bool,
}

struct Pool {
    state: Mutex<State>,
    work: Condvar,
    /// Wakes the watcher: something runs, or the pool is closed.
    watch: Condvar,
    limits: Arc<RwLock<Limits>>,
}

/// The handle; its last clone ends the threads.
pub(super) struct Threads {
    pool: Arc<Pool>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.closed = true;
        state.queue.clear();
        self.pool.work.notify_all();
        self.pool.watch.notify_all();
    }
}

impl Threads {
    pub fn new(limits: Limits) -> Threads {
        let limits = Arc::new(RwLock::new(limits));
        let pool = Pool { state: Mutex::default(), work: Condvar::new(), watch: Condvar::new(), limits };
        Threads { pool: Arc::new(pool) }
    }

    pub fn limits(&self) -> Limits {
        *self.pool.limits.read()
    }

    pub fn set_limits(&self, limits: Limits) {
        *self.pool.limits.write() = limits;
    }

    /// Queues `work`; it starts as soon as a thread is free, whether or not the answer is awaited yet.
    pub fn submit<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<R> + Send + 'static,
    ) -> Pending<R> {
        let cancel = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let pending = Pending { answer, cancel: cancel.clone() };
        // The worker and the watcher may both want to answer; whoever comes first does.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let first = reply.clone();
        let excuse: Excuse = Box::new(move |error| {
            if let Some(reply) = first.lock().take() {
                let _ = reply.send(Err(error));
            }
        });
        let work: Work = Box::new(move |worker| {
            let outcome = work(worker);
            if let Some(reply) = reply.lock().take() {
                let _ = reply.send(outcome);
            }
        });
        let mut state = self.pool.state.lock();
        if state.closed || state.queue.len() >= QUEUE_LIMIT {
            drop(state);
            excuse(Error::Script { word: "timeout".into(), reason: "too many scripts wait to run".into() });
            return pending;
        }
        state.queue.push_back(Job { work, excuse, cancel });
        self.pool.clone().staff(&mut state);
        drop(state);
        self.pool.work.notify_one();
        pending
    }
}

impl Pool {
    /// Starts a thread if a job waits that nobody will take.
    fn staff(self: Arc<Pool>, state: &mut State) {
        let limits = *self.limits.read();
        if state.closed
            || state.queue.len() <= state.idle
            || state.live - state.slow >= limits.threads.max(1)
            || state.live >= limits.most_threads.max(1)
        {
            return;
        }
        let number = state.next;
        let pool = self.clone();
        let builder = std::thread::Builder::new().name("script".into()).stack_size(STACK);
        match builder.spawn(move || pool.serve(number)) {
            Ok(_) => {
                state.next += 1;
                state.live += 1;
            }
            Err(error) => {
                tracing::error!("no thread for scripts: {error}");
                if state.live == 0 {
                    for job in state.queue.drain(..) {
                        (job.excuse)(Error::Internal("no thread for scripts".into()));
                    }
                }
            }
        }
        if !state.watching {
            let pool = self.clone();
            let builder = std::thread::Builder::new().name("script-watch".into());
            state.watching = builder.spawn(move || pool.watch_over()).is_ok();
        }
    }

    /// The life of one thread.
    fn serve(self: Arc<Pool>, number: u64) {
        let watch = Arc::new(Watch::new());
        let mut worker = Worker { environments: Vec::new(), watch: watch.clone(), limits: self.limits.clone() };
        while let Some(job) = self.next(number, &watch) {
            watch.owner(job.cancel.clone());
            if !job.cancel.load(Ordering::Relaxed) {
                let work = job.work;
                if catch_unwind(AssertUnwindSafe(|| work(&mut worker))).is_err() {
                    tracing::error!("a script job panicked; its environments are dropped");
                    worker.environments.clear();
                }
            }
            watch.stop();
            let mut state = self.state.lock();
            if let Some(busy) = state.busy.remove(&number) {
                state.slow -= usize::from(busy.slow);
                drop(state);
                // Answers only if the job did not (it panicked); otherwise nothing happens.
                if let Some(excuse) = busy.excuse {
                    excuse(Error::Internal("the script engine failed".into()));
                }
            }
        }
    }

    /// The next job, marked as started; None when this thread is to end.
    fn next(&self, number: u64, watch: &Arc<Watch>) -> Option<BusyJob> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                state.live -= 1;
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                let busy = Busy { since: Instant::now(), watch: watch.clone(), excuse: Some(job.excuse), slow: false };
                let first = state.busy.is_empty();
                state.busy.insert(number, busy);
                if first {
                    self.watch.notify_one();
                }
                return Some(BusyJob { work: job.work, cancel: job.cancel });
            }
            state.idle += 1;
            let waited = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if waited && state.queue.is_empty() && state.live - state.slow > self.limits.read().threads.max(1) {
                state.live -= 1;
                return None;
            }
        }
    }

    /// Looks after workers that take long, until the pool is closed.
    fn watch_over(self: Arc<Pool>) {
        let mut state = self.state.lock();
        while !state.closed {
            if state.busy.is_empty() {
                self.watch.wait(&mut state);
                continue;
            }
            self.watch.wait_for(&mut state, SLOW);
            let waiting = state.queue.len() > state.idle;
            let mut excuses = Vec::new();
            let mut slowed = 0;
            for busy in state.busy.values_mut() {
                if waiting && !busy.slow && busy.since.elapsed() > SLOW {
                    busy.slow = true;
                    slowed += 1;
                }
                if busy.watch.overdue().is_some_and(|by| by > DEAF) {
                    excuses.extend(busy.excuse.take());
                }
            }
            state.slow += slowed;
            while state.queue.len() > state.idle {
                let before = state.live;
                self.clone().staff(&mut state);
                if state.live == before {
                    break;
                }
            }
            for excuse in excuses {
                tracing::error!("a script does not hear that its time is over; its thread is given up");
                excuse(timed_out());
            }
        }
    }
}

struct BusyJob {
    work: Work,
    cancel: Arc<AtomicBool>,
}

/// An answer on its way. Dropping it tells the script to stop.
#[must_use = "dropping a pending answer cancels the script"]
pub struct Pending<R> {
    answer: oneshot::Receiver<Result<R>>,
    cancel: Arc<AtomicBool>,
}

impl<R> Pending<R> {
    /// Waits on a thread that may block (never on one of the async runtime's).
    pub fn wait(mut self) -> Result<R> {
        let (_, none) = oneshot::channel();
        let answer = std::mem::replace(&mut self.answer, none);
        answer.blocking_recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl<R> Future for Pending<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(ended())))
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

fn ended() -> Error {
    Error::Internal("the script engine has stopped".into())
}
