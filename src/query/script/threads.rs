//! The handle of the pool: queues jobs, and ends all workers when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::counters::{Counters, Stats};
use super::limits::Limits;
use super::pending::Pending;
use super::pool::Pool;
use super::process::Killed;
use super::run::{ProcessSource, Seat};
use super::turns::{Excuse, Job, Order, Size, Work};
use crate::error::{Error, Result};

/// The handle of the pool. Dropping it ends the workers.
pub(super) struct Threads {
    pool: Arc<Pool>,
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
        Threads { pool: Arc::new(Pool::new(limits)) }
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

    /// The process ids of the workers that have started.
    #[cfg(test)]
    pub fn processes(&self) -> Vec<i32> {
        let state = self.pool.state.lock();
        let pids = state.workers.values().filter_map(|worker| i32::try_from(worker.handle.as_ref()?.pid()).ok());
        pids.collect()
    }

    /// Queues `work`. It runs when its turn comes, even if the answer is not awaited yet.
    pub fn submit<R: Send + 'static>(
        &self,
        size: Size,
        work: impl FnOnce(&mut Seat) -> Result<R> + Send + 'static,
    ) -> Pending<R> {
        let (reply, pending) = Pending::new();
        let cancel = pending.cancel();
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

    /// Queues `work`, which answers its callers by itself. `excuse` is called instead if the work cannot run.
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
