//! Decides which script runs when, and in which worker process.
//!
//! Jobs wait in a queue per owner, which is the database whose functions they run, and owners take turns. A
//! worker only ever runs jobs of one owner. Memory limits the number of workers. The number of workers that
//! remain free limits how many workers one owner gets.
//!
//! ```text
//! submit > queue of the owner > a worker's thread: job(&mut Seat) > reply (oneshot)
//!                                  ^ watcher, every 50 ms while something runs:
//!                                    starts processes, kills those that exceed their CPU time,
//!                                    ends idle ones, rejects jobs that wait too long
//! ```
//!
//! A worker is a thread of the server and a process that the thread owns. If the process dies during a job,
//! the job can replace it; if a job leaves no living process, the thread ends. The watcher starts all
//! processes, because Linux sends the parent-death signal when the *thread* that started a process ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::counters::Counters;
use super::failure::no_room;
use super::limits::{Limits, process_memory};
use super::pending::ended;
use super::process::{Killed, Process};
use super::run::{ProcessSource, Seat};
use super::turns::{Job, Order, Size, State, Status, Worker};
use crate::error::{Error, Result};

pub(super) struct Pool {
    pub state: Mutex<State>,
    /// Wakes the watcher.
    pub watch: Condvar,
    pub limits: RwLock<Limits>,
    pub counters: Counters,
    /// Whether the missing protections of the system have been logged.
    noted: AtomicBool,
}

impl Pool {
    pub fn new(limits: Limits) -> Pool {
        Pool {
            state: Mutex::default(),
            watch: Condvar::new(),
            limits: RwLock::new(limits),
            counters: Counters::default(),
            noted: AtomicBool::new(false),
        }
    }

    /// Rejects a job.
    pub fn refuse(&self, job: Job) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        (job.excuse)(no_room());
    }

    /// Assigns idle workers to the jobs whose turn it is, and starts workers if too few are idle.
    pub fn schedule(self: &Arc<Pool>, state: &mut State) {
        let limits = self.limits();
        let mut missing = 0;
        // Visits each owner. After an assignment, all owners are visited again.
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
                tracing::error!("cannot start a thread for scripts: {error}");
                self.give_up(state);
            }
        }
    }

    /// Rejects all jobs if there is no worker and none can be started.
    fn give_up(&self, state: &mut State) {
        if state.workers.is_empty() {
            let owners: Vec<u64> = state.turns.iter().copied().collect();
            for job in owners.into_iter().flat_map(|owner| state.take_out(owner, |_| true)).collect::<Vec<_>>() {
                (job.excuse)(Error::Internal("no script worker can be started".into()));
            }
        }
    }

    /// Main function of a worker's thread.
    fn serve(self: Arc<Pool>, number: u64, orders: &mpsc::Receiver<Order>) {
        let memory = process_memory(&self.limits()) as u64;
        let mut seat = Seat { source: self.clone(), number, process: None, room: 0, lines: 0 };
        match self.replace(number, memory) {
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
            // The watcher may have killed the process after the job was done. It does not kill idle workers.
            let ends = seat.process.as_ref().is_none_or(|process| process.handle.killed() != Killed::No);
            let tired = self.rest(&mut state, number, size, ends);
            if tired {
                break;
            }
        }
        // Ends the process before another worker may take its place.
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
            tracing::error!("a script job panicked; its worker process ends");
            seat.process = None;
        }
        limit(seat, memory);
        seat.room = 0;
    }

    /// Marks a worker as idle after a job. Returns `true` if the worker must end instead.
    fn rest(self: &Arc<Pool>, state: &mut MutexGuard<'_, State>, number: u64, size: Size, gone: bool) -> bool {
        let Some(worker) = state.workers.get_mut(&number) else { return true };
        let before = std::mem::replace(&mut worker.status, Status::Ending);
        let Status::Busy(busy) = before else { return true };
        // A worker with much memory or low priority is not reused.
        let tired = gone || busy.stands_back || size.room > 64 << 20 || state.closed;
        if !tired && let Some(worker) = state.workers.get_mut(&number) {
            worker.status = Status::Idle(Instant::now());
        }
        state.done(size, !busy.slow);
        self.schedule(state);
        tired
    }
}

impl ProcessSource for Pool {
    fn limits(&self) -> Limits {
        *self.limits.read()
    }

    fn replace(&self, number: u64, memory: u64) -> Result<Process> {
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
            tracing::warn!("script workers run without some protections of the system: {note}");
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

    fn count_died(&self) {
        self.counters.died();
    }
}
