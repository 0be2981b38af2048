//! The watcher of the script workers: starts their processes, and ends those that exceed their limits or are
//! no longer needed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::busy::Verdict;
use super::limits::Limits;
use super::pool::Pool;
use super::process::{Killed, Process};
use super::run::ProcessSource;
use super::turns::{Job, State, Status};

/// How long an owner gets fewer workers after a job that used much CPU time or was killed.
const PENALTY: Duration = Duration::from_secs(30);

/// How often the watcher looks while jobs run, and while all workers are idle.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);
/// A worker whose job takes longer is slow: it no longer counts against `Limits::threads`.
const SLOW: Duration = Duration::from_millis(100);
/// A job that uses more CPU time than this marks its owner as slow.
const LONG: Duration = Duration::from_secs(1);
/// Idle workers end after this time.
const IDLE: Duration = Duration::from_secs(30);
/// How long after the last job a spare worker is kept.
const SPARE: Duration = Duration::from_secs(20);
/// If no job of an owner starts or makes progress for this long, its waiting jobs are rejected.
const PATIENCE: Duration = Duration::from_secs(30);

impl Pool {
    /// Starts the watcher, once.
    pub(super) fn watch_over(self: &Arc<Pool>, state: &mut State) {
        if !state.watching {
            let pool = self.clone();
            let thread = std::thread::Builder::new().name("script-watch".into());
            // Restarts after a panic: without a watcher, no worker would start or end.
            let watch = move || while catch_unwind(AssertUnwindSafe(|| pool.clone().watch())).is_err() {};
            state.watching = thread.spawn(watch).is_ok();
        }
    }

    /// Main function of the watcher's thread; returns when the pool is closed.
    fn watch(self: Arc<Pool>) {
        let mut state = self.state.lock();
        while !state.closed {
            if let Some((memory, wanted)) = state.wanted.pop_front() {
                drop(state);
                let started = Process::start(memory);
                if started.is_ok() {
                    self.counters.started.fetch_add(1, Ordering::Relaxed);
                }
                // If the thread has ended meanwhile, dropping the process ends it.
                let _ = wanted.send(started);
                state = self.state.lock();
                continue;
            }
            self.look(&mut state);
            let now = Instant::now();
            if !state.wanted.is_empty() {
                continue;
            }
            if state.workers.is_empty() && state.owners.is_empty() {
                state.drowsy = true;
                self.watch.wait(&mut state);
                state.drowsy = false;
            } else if state.last_job.is_some_and(|last| now - last < SELDOM) || state.is_at_work() {
                self.watch.wait_for(&mut state, OFTEN);
            } else {
                state.drowsy = true;
                self.watch.wait_for(&mut state, SELDOM);
                state.drowsy = false;
            }
        }
    }

    fn look(self: &Arc<Pool>, state: &mut State) {
        let (limits, now) = (self.limits(), Instant::now());
        self.look_at_busy(state, &limits, now);
        let idle_since = |status: &Status| match status {
            Status::Idle(since) => Some(*since),
            _ => None,
        };
        let over = |since: Instant| now.saturating_duration_since(since) > IDLE;
        let idle: Vec<u64> = state
            .workers
            .iter()
            .filter(|(_, worker)| idle_since(&worker.status).is_some_and(over))
            .map(|(number, _)| *number)
            .collect();
        idle.into_iter().for_each(|number| state.end(number));
        self.answer_the_impatient(state, now);
        // A spare worker saves the next request the start of a process.
        let spare = |state: &State| {
            state.workers.values().any(|worker| worker.owner.is_none() && !matches!(worker.status, Status::Ending))
        };
        let wanted = state.last_job.is_some_and(|last| now.saturating_duration_since(last) < SPARE);
        if wanted && !spare(state) && state.workers.len() + 1 < limits.workers() {
            self.begin_worker(state);
        }
        self.schedule(state);
    }

    fn look_at_busy(&self, state: &mut State, limits: &Limits, now: Instant) {
        let mut slowed = 0;
        let (mut long, mut progressed) = (Vec::new(), Vec::new());
        for worker in state.workers.values_mut() {
            let (Status::Busy(busy), Some(handle)) = (&mut worker.status, &worker.handle) else { continue };
            if !busy.slow && now.saturating_duration_since(busy.since) > SLOW {
                busy.slow = true;
                slowed += 1;
            }
            if let Verdict::Goes(why) = busy.look(handle, limits, now) {
                if why == Killed::Time && handle.killed() == Killed::No {
                    self.counters.overran.fetch_add(1, Ordering::Relaxed);
                    let database = busy.owner;
                    tracing::warn!(target: "settee::script", database, "a script worker exceeded its CPU time and is killed");
                }
                handle.kill(why);
                long.push(busy.owner);
            } else if busy.used > LONG {
                long.push(busy.owner);
            }
            progressed.extend(busy.progressed.then_some(busy.owner));
        }
        state.fast -= slowed;
        for owner in long {
            if let Some(owner) = state.owners.get_mut(&owner) {
                owner.slow_until = Some(now + PENALTY);
            }
        }
        for owner in progressed {
            if let Some(owner) = state.owners.get_mut(&owner) {
                owner.since = now;
            }
        }
    }

    /// Rejects jobs whose owner got no worker for too long, drops cancelled jobs, and removes unused owners.
    fn answer_the_impatient(&self, state: &mut State, now: Instant) {
        let owners: Vec<u64> = state.owners.keys().copied().collect();
        for number in owners {
            drop(state.take_out(number, Job::is_cancelled));
            let Some(owner) = state.owners.get(&number) else { continue };
            if !owner.queue.is_empty() && now.saturating_duration_since(owner.since) > PATIENCE {
                tracing::warn!(target: "settee::script", "scripts of a database waited too long for a worker and are rejected");
                state.take_out(number, |_| true).into_iter().for_each(|job| self.refuse(job));
            }
            state.forget(number);
        }
    }
}

impl State {
    fn is_at_work(&self) -> bool {
        let at_work = |status: &Status| matches!(status, Status::Busy(_) | Status::Starting);
        self.owners.values().any(|owner| !owner.queue.is_empty())
            || self.workers.values().any(|worker| at_work(&worker.status))
    }
}
