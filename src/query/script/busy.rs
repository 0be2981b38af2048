//! A worker at a job, as the watcher sees it: CPU time, progress, and whether it may go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::process::{Handle, Killed};

/// CPU time of a job from which on it gets what others leave.
const STANDS_BACK: Duration = Duration::from_millis(250);
/// A worker hears that its time is over by itself, unless it is in native code. Then it gets as much again, within these.
const GRACE: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// How many times its CPU time an item may take on the wall, and how long in any case.
const WALL: u32 = 10;
const LEAST_WALL: Duration = Duration::from_secs(60);
/// A script that nobody waits for may go on for so long: most end sooner than their worker could be replaced.
const UNHEARD: Duration = Duration::from_millis(200);

/// A worker at a job, as the watcher last saw it.
pub(super) struct Busy {
    pub owner: u64,
    cancel: Arc<AtomicBool>,
    pub since: Instant,
    /// It counts no more as one of those that share the cores.
    pub slow: bool,
    pub stands_back: bool,
    /// When nobody waited for it any more.
    unheard: Option<Instant>,
    /// The item at work: by what it is known, when it was first seen, and the CPU time of the process then.
    beat: u64,
    seen: Instant,
    cpu: Option<Duration>,
    /// CPU time of the job, as far as it is known, in processes that were replaced, and in this one before the job.
    pub used: Duration,
    before: Option<Duration>,
    /// Items were answered since the look before the last.
    pub progressed: bool,
}

impl Busy {
    pub fn new(owner: u64, cancel: Arc<AtomicBool>, handle: Option<&Handle>) -> Busy {
        let now = Instant::now();
        Busy {
            owner,
            cancel,
            since: now,
            slow: false,
            stands_back: false,
            unheard: None,
            beat: handle.map_or(0, Handle::beat).wrapping_sub(1),
            seen: now,
            cpu: None,
            used: Duration::ZERO,
            before: None,
            progressed: false,
        }
    }

    /// Its process was replaced.
    pub fn look_again(&mut self, handle: &Handle) {
        self.beat = handle.beat().wrapping_sub(1);
        self.seen = Instant::now();
        (self.cpu, self.before) = (None, None);
        if self.stands_back {
            handle.stand_back();
        }
    }
}

/// What the watcher decided about a worker.
pub(super) enum Verdict {
    Goes(Killed),
    Stays,
}

impl Busy {
    /// Looks at the worker's process.
    pub fn look(&mut self, handle: &Handle, limits: &Limits, now: Instant) -> Verdict {
        let cpu = handle.cpu();
        let beat = handle.beat();
        self.progressed = beat != self.beat;
        if self.progressed || handle.waits() {
            (self.beat, self.seen, self.cpu) = (beat, now, cpu);
        }
        let before = *self.before.get_or_insert(cpu.unwrap_or_default());
        self.used = self.used.max(cpu.unwrap_or_default().saturating_sub(before));
        if !self.stands_back && self.used > STANDS_BACK {
            self.stands_back = true;
            handle.stand_back();
        }
        if self.cancel.load(Ordering::Relaxed) && now - *self.unheard.get_or_insert(now) > UNHEARD {
            return Verdict::Goes(Killed::Cancelled);
        }
        if handle.waits() {
            return Verdict::Stays;
        }
        let of_item = cpu.zip(self.cpu).map_or(Duration::ZERO, |(now, then)| now.saturating_sub(then));
        let wall = limits.timeout.saturating_mul(WALL).max(LEAST_WALL);
        if of_item > limits.timeout.saturating_add(limits.timeout.clamp(GRACE[0], GRACE[1])) || now - self.seen > wall {
            return Verdict::Goes(Killed::Time);
        }
        Verdict::Stays
    }
}
