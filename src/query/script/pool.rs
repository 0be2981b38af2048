//! Which script runs when, and in which worker process.
//!
//! Jobs wait in a queue of their owner, which is the database whose functions they run, and owners take turns. A worker
//! runs jobs of one owner only, for all of its life. How many workers there are is bounded by memory, and how many of
//! them one owner has by how many are left for others.
//!
//! ```text
//! submit > queue of the owner > a worker's thread: job(&mut Seat) > reply (oneshot)
//!                                  ^ watcher, every 50 ms while something runs:
//!                                    starts processes; counts their CPU time and kills those that are over it;
//!                                    ends idle ones; answers jobs that wait too long
//! ```
//!
//! A worker is a thread here and a process that it owns. The thread ends with the process at the latest after the job in
//! which the process died; within a job the process can be replaced. Processes are started by the watcher, as Linux ends
//! a child that asked for it when the *thread* that started it ends.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tokio::sync::oneshot;

use super::Limits;
use super::failure::no_room;
use super::gather::Gathered;
use super::process::{Killed, Process};
use super::run::{Seat, process_memory};
use super::turns::{Excuse, Job, Order, Size, State, Status, Work, Worker};
use crate::error::{Error, Result};

/// How long an owner that overran gets fewer workers.
pub(super) const PENALTY: Duration = Duration::from_secs(30);

/// What scripts did since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Worker processes now, and those at work.
    pub workers: u64,
    pub busy: u64,
    /// Jobs that wait.
    pub waiting: u64,
    /// Worker processes started.
    pub started: u64,
    /// Workers killed for their CPU time.
    pub overran: u64,
    /// Workers that ended by themselves: out of memory.
    pub died: u64,
    /// Documents that views and filters went on without.
    pub skipped: u64,
    /// Jobs refused, or given up, as too many waited.
    pub refused: u64,
}

/// Counters behind [`Stats`]. Relaxed: they are for people and dashboards.
#[derive(Default)]
pub(super) struct Counters {
    pub started: AtomicU64,
    pub overran: AtomicU64,
    died: AtomicU64,
    skipped: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub fn died(&self) {
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    pub fn skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Pool {
    pub state: Mutex<State>,
    /// Wakes the watcher.
    pub watch: Condvar,
    limits: RwLock<Limits>,
    pub counters: Counters,
    /// Whether it was logged what the system cannot do for workers.
    noted: AtomicBool,
}

/// The handle; its last clone ends the workers.
pub(super) struct Threads {
    pool: Arc<Pool>,
    /// Validations that wait together.
    pub gathered: Arc<Gathered>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.closed = true;
        state.owners.clear();
        state.turns.clear();
        state.wanted.clear();
        for worker in state.workers.values() {
            let _ = worker.orders.send(Order::End);
            worker.handle.as_ref().inspect(|handle| handle.kill(Killed::Idle));
        }
        self.pool.watch.notify_all();
    }
}

impl Threads {
    pub fn new(limits: Limits) -> Threads {
        let pool = Pool {
            state: Mutex::default(),
            watch: Condvar::new(),
            limits: RwLock::new(limits),
            counters: Counters::default(),
            noted: AtomicBool::new(false),
        };
        Threads { pool: Arc::new(pool), gathered: Arc::default() }
    }

    pub fn limits(&self) -> Limits {
        self.pool.limits()
    }

    pub fn set_limits(&self, limits: Limits) {
        *self.pool.limits.write() = limits;
    }

    pub fn counters(&self) -> &Counters {
        &self.pool.counters
    }

    pub fn stats(&self) -> Stats {
        let state = self.pool.state.lock();
        let counters = &self.pool.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            workers: state.workers.len() as u64,
            busy: state.busy as u64,
            waiting: state.jobs as u64,
            started: count(&counters.started),
            overran: count(&counters.overran),
            died: count(&counters.died),
            skipped: count(&counters.skipped),
            refused: count(&counters.refused),
        }
    }

    /// Queues `work`; it starts as soon as it is its turn, whether or not the answer is awaited yet.
    pub fn submit<R: Send + 'static>(
        &self,
        size: Size,
        work: impl FnOnce(&mut Seat) -> Result<R> + Send + 'static,
    ) -> Pending<R> {
        let cancel = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let pending = Pending { answer, cancel: cancel.clone() };
        let reply = Arc::new(Mutex::new(Some(reply)));
        let first = reply.clone();
        let excuse: Excuse = Box::new(move |error| {
            if let Some(reply) = first.lock().take() {
                let _ = reply.send(Err(error));
            }
        });
        let work: Work = Box::new(move |seat| {
            let outcome = work(seat);
            if let Some(reply) = reply.lock().take() {
                let _ = reply.send(outcome);
            }
        });
        self.queue(Job { work, excuse, size, cancel });
        pending
    }

    /// Queues `work`, which answers those who wait for it by itself. Before it, or in its place, `excuse` may be called.
    pub fn submit_for_several(
        &self,
        size: Size,
        work: impl FnOnce(&mut Seat) + Send + 'static,
        excuse: impl FnOnce(Error) + Send + 'static,
    ) {
        self.queue(Job { work: Box::new(work), excuse: Box::new(excuse), size, cancel: Arc::default() });
    }

    fn queue(&self, job: Job) {
        let mut state = self.pool.state.lock();
        match state.queue(job) {
            Ok(()) => {
                self.pool.watch_over(&mut state);
                self.pool.schedule(&mut state);
            }
            Err(job) => {
                drop(state);
                self.pool.refuse(job);
            }
        }
    }
}

impl Pool {
    pub fn limits(&self) -> Limits {
        *self.limits.read()
    }

    pub fn stats(&self) -> &Counters {
        &self.counters
    }

    /// Answers a job that will not run.
    pub fn refuse(&self, job: Job) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        (job.excuse)(no_room());
    }

    /// Gives workers to the jobs whose turn it is, and has more workers started where some are missing.
    pub fn schedule(self: &Arc<Pool>, state: &mut State) {
        let limits = self.limits();
        let mut missing = 0;
        // Each owner has its turn; one that got a worker is asked again after the others.
        let mut left = state.turns.len();
        while left > 0 && !state.closed {
            left -= 1;
            let Some(number) = state.turns.pop_front() else { break };
            state.turns.push_back(number);
            if state.owners.get(&number).and_then(|owner| owner.queue.front()).is_some_and(Job::is_cancelled) {
                drop(state.take_out(number, Job::is_cancelled));
            }
            let Some(owner) = state.owners.get(&number) else { continue };
            if !state.may_start(owner, &limits) {
                continue;
            }
            let Some(worker) = state.idle_for(number) else {
                missing += 1;
                continue;
            };
            state.assign(number, worker, &limits);
            if state.owners.get(&number).is_some_and(|owner| owner.queue.is_empty()) {
                state.turns.retain(|turn| *turn != number);
            }
            (left, missing) = (state.turns.len(), 0);
        }
        for _ in state.coming()..missing {
            if state.workers.len() < limits.workers() {
                self.begin_worker(state);
            } else if !state.end_an_idle_one() {
                break;
            }
        }
        if state.drowsy {
            state.drowsy = false;
            self.watch.notify_one();
        }
    }

    /// Starts the thread of a worker.
    pub fn begin_worker(self: &Arc<Pool>, state: &mut State) {
        let number = state.next;
        let pool = self.clone();
        let (orders, taken) = mpsc::channel();
        let thread = std::thread::Builder::new().name("script".into());
        match thread.spawn(move || pool.serve(number, &taken)) {
            Ok(_) => {
                state.next += 1;
                state.workers.insert(number, Worker { orders, owner: None, status: Status::Starting, handle: None });
            }
            Err(error) => {
                tracing::error!("no thread for scripts: {error}");
                self.give_up(state);
            }
        }
    }

    /// If there is no worker at all, and none can be started, nobody waits for one.
    fn give_up(&self, state: &mut State) {
        if state.workers.is_empty() {
            let owners: Vec<u64> = state.turns.iter().copied().collect();
            for job in owners.into_iter().flat_map(|owner| state.take_out(owner, |_| true)).collect::<Vec<_>>() {
                (job.excuse)(Error::Internal("no process for scripts can be started".into()));
            }
        }
    }

    /// The life of a worker's thread.
    fn serve(self: Arc<Pool>, number: u64, orders: &mpsc::Receiver<Order>) {
        let memory = process_memory(&self.limits()) as u64;
        let mut seat = Seat { pool: self.clone(), number, process: None, room: 0, lines: 0 };
        match self.clone().replace(number, memory) {
            Ok(process) => {
                seat.process = Some(process);
                let mut state = self.state.lock();
                if let Some(worker) = state.workers.get_mut(&number) {
                    worker.status = Status::Idle(Instant::now());
                }
                self.schedule(&mut state);
            }
            Err(error) => {
                tracing::error!("{error}");
                let mut state = self.state.lock();
                state.workers.remove(&number);
                self.give_up(&mut state);
                return;
            }
        }
        while let Ok(Order::Run(job)) = orders.recv() {
            let size = job.size;
            self.work(&mut seat, job);
            let mut state = self.state.lock();
            // The watcher may have killed it after the job was done; from now on it does not.
            let ends = seat.process.as_ref().is_none_or(|process| process.handle.killed() != Killed::No);
            let tired = self.rest(&mut state, number, size, ends);
            if tired {
                break;
            }
        }
        // The process ends before the worker's place is free.
        seat.process = None;
        let mut state = self.state.lock();
        state.workers.remove(&number);
        self.schedule(&mut state);
    }

    fn work(&self, seat: &mut Seat, job: Job) {
        if job.is_cancelled() {
            return;
        }
        let size = job.size;
        (seat.room, seat.lines) = (size.room, 0);
        let memory = process_memory(&self.limits()) as u64;
        let limit = |seat: &Seat, bytes: u64| {
            if size.room > 0 {
                seat.process.as_ref().inspect(|process| _ = process.handle.limit_memory(bytes));
            }
        };
        limit(seat, memory + size.room as u64);
        let work = job.work;
        if catch_unwind(AssertUnwindSafe(|| work(seat))).is_err() {
            tracing::error!("a script job panicked; its worker is ended");
            seat.process = None;
        }
        limit(seat, memory);
        seat.room = 0;
    }

    /// A worker has done a job. True if it is to end, which it then does.
    fn rest(self: &Arc<Pool>, state: &mut MutexGuard<'_, State>, number: u64, size: Size, gone: bool) -> bool {
        let Some(worker) = state.workers.get_mut(&number) else { return true };
        let before = std::mem::replace(&mut worker.status, Status::Ending);
        let Status::Busy(busy) = before else { return true };
        // One that holds much memory, or that had to stand back, is no good for others.
        let tired = gone || busy.stands_back || size.room > 64 << 20 || state.closed;
        if !tired && let Some(worker) = state.workers.get_mut(&number) {
            worker.status = Status::Idle(Instant::now());
        }
        state.done(size, !busy.slow);
        self.schedule(state);
        tired
    }

    /// A process for a worker's thread, ready to work.
    pub fn replace(self: Arc<Pool>, number: u64, memory: u64) -> Result<Process> {
        let (sender, started) = mpsc::channel();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(ended());
            }
            state.wanted.push_back((memory, sender));
            self.watch.notify_one();
        }
        let failed = |error: std::io::Error| Error::Internal(format!("a script worker cannot be started: {error}"));
        let mut process = started.recv().map_err(|_| ended())?.map_err(failed)?;
        let note = process.ready().map_err(failed)?;
        if !note.is_empty() && !self.noted.swap(true, Ordering::Relaxed) {
            tracing::warn!("script workers run without some of the system's protection: {note}");
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err(ended());
        }
        if let Some(worker) = state.workers.get_mut(&number) {
            worker.handle = Some(process.handle.clone());
            if let Status::Busy(busy) = &mut worker.status {
                busy.look_again(&process.handle);
            }
        }
        Ok(process)
    }

    /// Starts the watcher, once.
    fn watch_over(self: &Arc<Pool>, state: &mut State) {
        if !state.watching {
            let pool = self.clone();
            let thread = std::thread::Builder::new().name("script-watch".into());
            // Without a watcher nothing would start or end any more.
            let watch = move || while catch_unwind(AssertUnwindSafe(|| pool.clone().watch())).is_err() {};
            state.watching = thread.spawn(watch).is_ok();
        }
    }
}

/// An answer on its way. Dropping it tells the script to stop.
#[must_use = "dropping a pending answer cancels the script"]
pub struct Pending<R> {
    answer: oneshot::Receiver<Result<R>>,
    cancel: Arc<AtomicBool>,
}

impl<R> Pending<R> {
    /// An answer, and the way to give it.
    pub(super) fn new() -> (oneshot::Sender<Result<R>>, Pending<R>) {
        let (reply, answer) = oneshot::channel();
        (reply, Pending { answer, cancel: Arc::default() })
    }

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
