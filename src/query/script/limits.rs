//! Limits of scripts (time, processes, memory), and the memory limit of a worker process.

use std::time::Duration;

/// Factor between the size of an input and the memory of its JavaScript values, which comes on top of the
/// memory limit.
pub(super) const INPUT_FACTOR: usize = 24;
/// As [`INPUT_FACTOR`], with the other copies of the input that a process holds.
const PROCESS_FACTOR: usize = INPUT_FACTOR + 4;
/// Memory that every worker has for inputs, in bytes.
const SLACK: usize = 16 << 20;
/// Memory that a worker needs in addition to its environments, in bytes: program, stack, output.
const PROGRAM: usize = 16 << 20;

/// Limits of scripts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// While this many scripts run (slow ones do not count), a database with a running script gets no other
    /// worker; by default the number of cores.
    pub threads: usize,
    /// Maximum number of worker processes (`os_process_limit`). Memory may limit it further: see
    /// [`Limits::workers`].
    pub processes: usize,
    /// Maximum memory of one environment in bytes, in addition to what its input needs.
    pub memory: usize,
    /// Maximum memory of all worker processes together, in bytes (`max_script_memory`).
    pub all_memory: usize,
    /// Maximum CPU time of one call: one document mapped, one validation, one row of a list
    /// (`os_process_timeout`).
    pub timeout: Duration,
    /// What happens if a reduction does not shrink (`query_server_config/reduce_limit`).
    pub reduce_limit: ReduceLimit,
    /// Size in bytes above which a reduction is checked (`reduce_limit_threshold`).
    pub reduce_limit_threshold: usize,
    /// How many times smaller than its input a reduction must be (`reduce_limit_ratio`).
    pub reduce_limit_ratio: f64,
}

impl Limits {
    /// Maximum number of worker processes: as many as fit into two thirds of the memory, but at least one.
    pub fn workers(&self) -> usize {
        let fitting = (self.all_memory - self.room()) / process_memory(self).max(1);
        fitting.min(self.processes).max(1)
    }

    /// Memory reserved for inputs that are too large for a worker of the usual size: a third of all.
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

/// Memory limit of a worker process in bytes, without extra memory for large inputs.
pub(super) fn process_memory(limits: &Limits) -> usize {
    limits.memory.saturating_add(PROGRAM).saturating_add(SLACK)
}

/// Extra memory, beyond [`process_memory`], that a job needs whose longest input has `bytes` bytes.
pub(super) fn room(bytes: usize) -> usize {
    let needed = bytes.saturating_mul(PROCESS_FACTOR);
    if needed <= SLACK { 0 } else { needed }
}
