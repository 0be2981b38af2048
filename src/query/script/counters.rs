//! Counters of script workers, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges since the start of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Current number of worker processes, and how many of them run a job.
    pub workers: u64,
    pub busy: u64,
    /// Jobs in the queues.
    pub waiting: u64,
    /// Worker processes started.
    pub started: u64,
    /// Workers killed because a call exceeded its CPU time.
    pub overran: u64,
    /// Workers that ended by themselves, usually because they ran out of memory.
    pub died: u64,
    /// Documents that views and filters skipped.
    pub skipped: u64,
    /// Jobs rejected, or given up, because too many were waiting.
    pub refused: u64,
}

/// Counters behind [`Stats`]. Relaxed ordering suffices: nothing depends on them.
#[derive(Default)]
pub(super) struct Counters {
    pub started: AtomicU64,
    pub overran: AtomicU64,
    pub died: AtomicU64,
    pub skipped: AtomicU64,
    pub refused: AtomicU64,
}

impl Counters {
    pub fn died(&self) {
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    pub fn skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }
}
