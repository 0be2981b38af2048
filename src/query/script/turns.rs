//! The state of the pool: queues, workers, and the rules by which jobs get workers.
//!
//! Invariants: an owner is in `turns` exactly while its queue is not empty; `running` and `busy` count
//! running jobs; `workers` has at most `Limits::workers` entries; and the extra memory of all running jobs is
//! at most `Limits::room`.
//!
//! A list function keeps its worker while it waits for its client, and for rows that another worker may have
//! to compute. List functions therefore get at most half of the workers, and other jobs of the same owner
//! overtake waiting ones.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::busy::Busy;
use super::limits::Limits;
use super::process::{Handle, Process};
use super::run::Seat;
use crate::error::Error;

/// Maximum number and size in bytes of the waiting jobs of one owner, and of all owners.
const OWNER_JOBS: usize = 2000;
const OWNER_BYTES: usize = 128 << 20;
const ALL_JOBS: usize = 20_000;
const ALL_BYTES: usize = 512 << 20;
pub(super) type Work = Box<dyn FnOnce(&mut Seat) + Send>;
/// Answers the caller with an error if the job does not run.
pub(super) type Excuse = Box<dyn FnOnce(Error) + Send>;

/// Properties of a job that scheduling needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// The database whose functions it runs.
    pub owner: u64,
    /// Memory that it holds while it waits, in bytes.
    pub bytes: usize,
    /// Extra memory that its worker needs, in bytes (see `limits::room`).
    pub room: usize,
    /// Whether it is a list function, which may wait for other jobs.
    pub list: bool,
}

pub(super) struct Job {
    pub work: Work,
    pub excuse: Excuse,
    pub size: Size,
    pub cancel: Arc<AtomicBool>,
}

pub(super) enum Order {
    Run(Job),
    End,
}

pub(super) enum Status {
    Starting,
    Idle(Instant),
    Busy(Busy),
    Ending,
}

/// A worker as the pool sees it.
pub(super) struct Worker {
    pub orders: mpsc::Sender<Order>,
    /// The owner whose jobs it runs; `None` before its first job.
    pub owner: Option<u64>,
    pub status: Status,
    pub handle: Option<Arc<Handle>>,
}

/// An owner with jobs or with a recent penalty.
pub(super) struct Owner {
    pub queue: VecDeque<Job>,
    bytes: usize,
    running: usize,
    /// Running list functions.
    lists: usize,
    /// Running jobs that need extra memory.
    large: usize,
    /// When one of its jobs last started or made progress, or when the first one was queued.
    pub since: Instant,
    /// Until this time, the owner gets fewer workers, because a job used much CPU time or was killed.
    pub slow_until: Option<Instant>,
}

#[derive(Default)]
pub(super) struct State {
    pub owners: HashMap<u64, Owner>,
    /// Owners with waiting jobs, in the order in which they get workers.
    pub turns: VecDeque<u64>,
    pub jobs: usize,
    bytes: usize,
    pub workers: HashMap<u64, Worker>,
    pub next: u64,
    pub busy: usize,
    /// Busy workers that are not slow.
    pub fast: usize,
    /// Busy workers that run list functions.
    lists: usize,
    /// Extra memory of the running jobs, in bytes.
    room: usize,
    /// Requests for a process with this memory limit, from the threads that will own it.
    pub wanted: VecDeque<(u64, mpsc::Sender<std::io::Result<Process>>)>,
    pub watching: bool,
    /// Whether the watcher sleeps for longer than is allowed while jobs run, so that a new job has to wake it.
    pub drowsy: bool,
    pub last_job: Option<Instant>,
    pub closed: bool,
}

impl State {
    pub fn queue(&mut self, job: Job) -> std::result::Result<(), Job> {
        let full = self.closed || self.jobs >= ALL_JOBS || self.bytes.saturating_add(job.size.bytes) > ALL_BYTES;
        let owner = self.owners.entry(job.size.owner).or_insert_with(|| Owner {
            queue: VecDeque::new(),
            bytes: 0,
            running: 0,
            lists: 0,
            large: 0,
            since: Instant::now(),
            slow_until: None,
        });
        let owner_full = owner.queue.len() >= OWNER_JOBS || owner.bytes.saturating_add(job.size.bytes) > OWNER_BYTES;
        // An empty queue accepts a job of any size.
        if full || owner_full && !owner.queue.is_empty() {
            return Err(job);
        }
        if owner.queue.is_empty() {
            owner.since = Instant::now();
            self.turns.push_back(job.size.owner);
        }
        self.jobs += 1;
        self.bytes += job.size.bytes;
        owner.bytes += job.size.bytes;
        owner.queue.push_back(job);
        Ok(())
    }

    /// Removes and returns the jobs of an owner's queue that `which` selects.
    pub fn take_out(&mut self, owner: u64, which: impl Fn(&Job) -> bool) -> Vec<Job> {
        let Some(found) = self.owners.get_mut(&owner) else { return Vec::new() };
        let (out, left): (VecDeque<Job>, VecDeque<Job>) = found.queue.drain(..).partition(|job| which(job));
        found.queue = left;
        let bytes: usize = out.iter().map(|job| job.size.bytes).sum();
        found.bytes -= bytes;
        self.bytes -= bytes;
        self.jobs -= out.len();
        if found.queue.is_empty() {
            self.turns.retain(|turn| *turn != owner);
        }
        out.into()
    }

    /// Index of the owner's next job in its queue: the first one, unless it is a list function that must
    /// wait.
    fn next_job(&self, owner: &Owner, limits: &Limits) -> Option<usize> {
        let lists_may = self.lists < (limits.workers() / 2).max(1);
        owner.queue.iter().position(|job| lists_may || !job.size.list)
    }

    /// Whether the owner's next job may start now.
    pub fn may_start(&self, owner: &Owner, limits: &Limits) -> bool {
        let most = limits.workers();
        let free = most.saturating_sub(self.busy);
        let Some(job) = self.next_job(owner, limits).and_then(|at| owner.queue.get(at)) else { return false };
        let running = if job.size.list { owner.running } else { owner.running - owner.lists };
        let slow = owner.slow_until.is_some_and(|until| until > Instant::now());
        // Slow owners leave a quarter of all workers to the others.
        if free == 0 || slow && free <= most / 4 {
            return false;
        }
        // The more workers an owner has, the more must remain free. The limit on cores applies from its
        // second job on.
        let share = if slow { free / 2 } else { free };
        if running > 0 && (running > share || self.fast >= limits.threads.max(1)) {
            return false;
        }
        let room = limits.room();
        let taken = self.room.saturating_add(job.size.room.min(room));
        job.size.room == 0 || taken <= room && (owner.large == 0 || taken <= room / 2)
    }

    /// Returns an idle worker for this owner: one of its own, or an unused one.
    pub fn idle_for(&self, owner: u64) -> Option<u64> {
        let idle = |worker: &Worker| matches!(worker.status, Status::Idle(_));
        let own = self.workers.iter().find(|(_, worker)| idle(worker) && worker.owner == Some(owner));
        let found = own.or_else(|| self.workers.iter().find(|(_, worker)| idle(worker) && worker.owner.is_none()));
        found.map(|(number, _)| *number)
    }

    /// Number of workers that will soon be available, or make room for others.
    pub fn coming(&self) -> usize {
        let coming = |worker: &&Worker| matches!(worker.status, Status::Starting | Status::Ending);
        self.workers.values().filter(coming).count()
    }

    /// Sends the next job of an owner to a worker.
    pub fn assign(&mut self, owner_number: u64, number: u64, limits: &Limits) {
        let Some(at) = self.owners.get(&owner_number).and_then(|owner| self.next_job(owner, limits)) else { return };
        let Some(owner) = self.owners.get_mut(&owner_number) else { return };
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let Some(mut job) = owner.queue.remove(at) else { return };
        job.size.room = job.size.room.min(limits.room());
        owner.bytes -= job.size.bytes;
        self.bytes -= job.size.bytes;
        self.jobs -= 1;
        owner.running += 1;
        owner.lists += usize::from(job.size.list);
        self.lists += usize::from(job.size.list);
        owner.large += usize::from(job.size.room > 0);
        owner.since = Instant::now();
        self.busy += 1;
        self.fast += 1;
        self.room += job.size.room;
        worker.owner = Some(owner_number);
        worker.status = Status::Busy(Busy::new(job.size.owner, job.cancel.clone(), worker.handle.as_deref()));
        self.last_job = Some(owner.since);
        // If the thread has ended, it removes itself from the workers, and the dropped job resolves with an
        // error.
        let _ = worker.orders.send(Order::Run(job));
    }

    /// Updates the counts after a job has ended.
    pub fn done(&mut self, size: Size, fast: bool) {
        self.busy -= 1;
        self.fast -= usize::from(fast);
        self.room -= size.room;
        self.lists -= usize::from(size.list);
        if let Some(owner) = self.owners.get_mut(&size.owner) {
            owner.running -= 1;
            owner.lists -= usize::from(size.list);
            owner.large -= usize::from(size.room > 0);
        }
        self.forget(size.owner);
    }

    /// Removes an owner if it has neither jobs nor a penalty.
    pub fn forget(&mut self, owner: u64) {
        let now = Instant::now();
        let nothing = |owner: &Owner| {
            owner.queue.is_empty() && owner.running == 0 && owner.slow_until.is_none_or(|until| until <= now)
        };
        if self.owners.get(&owner).is_some_and(nothing) {
            self.owners.remove(&owner);
        }
    }
}

impl State {
    /// Ends the worker that has been idle for longest. Returns `false` if no worker is idle.
    pub fn end_an_idle_one(&mut self) -> bool {
        let idle = |worker: &Worker| match worker.status {
            Status::Idle(since) => Some(since),
            _ => None,
        };
        let oldest = self.workers.iter().filter_map(|(number, worker)| Some((idle(worker)?, *number))).min();
        oldest.is_some_and(|(_, number)| {
            self.end(number);
            true
        })
    }

    pub fn end(&mut self, number: u64) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.status = Status::Ending;
            let _ = worker.orders.send(Order::End);
        }
    }
}

impl Job {
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
