//! What scripts did since the start, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

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
