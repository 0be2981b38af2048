//! A worker that runs a job, as the watcher sees it: CPU time, progress, and when to kill it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::process::{Handle, Killed};

/// A job that has used this much CPU time continues at low priority.
const STANDS_BACK: Duration = Duration::from_millis(250);
/// A worker notices by itself that an item's time is over, unless it runs native code. The watcher kills it
/// after a grace period as long as the time limit, within these bounds.
const GRACE: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// Maximum wall-clock time of an item: this many times its CPU time limit, and at least `LEAST_WALL`.
const WALL: u32 = 10;
const LEAST_WALL: Duration = Duration::from_secs(60);
/// How long a cancelled script may continue. Most scripts end sooner than their worker could be replaced.
const UNHEARD: Duration = Duration::from_millis(200);

/// A worker that runs a job, as the watcher last saw it.
pub(super) struct Busy {
    pub owner: u64,
    cancel: Arc<AtomicBool>,
    pub since: Instant,
    /// Whether it no longer counts against `Limits::threads`.
    pub slow: bool,
    pub stands_back: bool,
    /// When the watcher first saw that the job was cancelled.
    unheard: Option<Instant>,
    /// The current item: its beat, when the watcher first saw it, and the CPU time of the process then.
    beat: u64,
    seen: Instant,
    cpu: Option<Duration>,
    /// CPU time of the job so far (in the process in which it used most), and the CPU time of the current
    /// process before the job.
    pub used: Duration,
    before: Option<Duration>,
    /// Whether the last call of `look` found that the worker had begun another item.
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

    /// Resets the measurements: the process was replaced.
    pub fn look_again(&mut self, handle: &Handle) {
        self.beat = handle.beat().wrapping_sub(1);
        self.seen = Instant::now();
        (self.cpu, self.before) = (None, None);
        if self.stands_back {
            handle.stand_back();
        }
    }
}

/// The watcher's decision about a worker.
pub(super) enum Verdict {
    Goes(Killed),
    Stays,
}

impl Busy {
    /// Measures the worker's process and decides about it.
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
