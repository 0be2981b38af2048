//! What scripts may use: time, processes, memory; and how much memory a worker process gets.

use std::time::Duration;

/// An input of n bytes may need this many times n as JavaScript values, on top of the memory limit.
pub(super) const INPUT_FACTOR: usize = 24;
/// As above with all that a process holds of an input beside that.
const PROCESS_FACTOR: usize = INPUT_FACTOR + 4;
/// Room for inputs that every worker has.
const SLACK: usize = 16 << 20;
/// What a worker needs beside its environments: its program, its stack, what it sends.
const PROGRAM: usize = 16 << 20;

/// What scripts are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Scripts of one database that share the cores; usually as many as there are.
    pub threads: usize,
    /// Worker processes at most (`os_process_limit`), if there is memory for so many: see [`Limits::workers`].
    pub processes: usize,
    /// Bytes that one environment may use, beside what its input needs.
    pub memory: usize,
    /// Bytes that all worker processes may use together (`max_script_memory`).
    pub all_memory: usize,
    /// CPU time of one call: one document mapped, one validation, one row of a list (`os_process_timeout`).
    pub timeout: Duration,
    /// What happens when a reduce function does not reduce (`query_server_config/reduce_limit`).
    pub reduce_limit: ReduceLimit,
    /// Bytes of a reduction from which on it is looked at (`reduce_limit_threshold`).
    pub reduce_limit_threshold: usize,
    /// How many times a reduction must fit into its input (`reduce_limit_ratio`).
    pub reduce_limit_ratio: f64,
}

impl Limits {
    /// Worker processes at most: as many as fit into two thirds of the memory, and one at least.
    pub fn workers(&self) -> usize {
        let fitting = (self.all_memory - self.room()) / process_memory(self).max(1);
        fitting.min(self.processes).max(1)
    }

    /// Memory for inputs that are too large for a worker of the usual size: a third of all.
    pub(super) fn room(&self) -> usize {
        self.all_memory / 3
    }
}

/// `query_server_config/reduce_limit`: `true`, `false`, `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceLimit {
    On,
    Off,
    Log,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            processes: 100,
            memory: 64 << 20,
            all_memory: 1 << 30,
            timeout: Duration::from_secs(5),
            reduce_limit: ReduceLimit::On,
            reduce_limit_threshold: 5000,
            reduce_limit_ratio: 2.0,
        }
    }
}

/// The memory of a worker's process without room for large inputs.
pub(super) fn process_memory(limits: &Limits) -> usize {
    limits.memory.saturating_add(PROGRAM).saturating_add(SLACK)
}

/// What a job needs beyond [`process_memory`], whose longest input has `bytes`.
pub(super) fn room(bytes: usize) -> usize {
    let needed = bytes.saturating_mul(PROCESS_FACTOR);
    if needed <= SLACK { 0 } else { needed }
}
