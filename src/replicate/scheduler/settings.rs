//! The scheduler's settings (`[replicator]`, `[replicator.shares]`).

use std::collections::HashMap;
use std::time::Duration;

/// How jobs are scheduled.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Passes that run at the same time, at most.
    pub max_jobs: usize,
    /// Jobs that are exchanged in a round, at most, while others wait.
    pub max_churn: usize,
    /// The time between two rounds.
    pub interval: Duration,
    /// The longest random delay of a start while many jobs start.
    pub startup_jitter: Duration,
    /// Events of a job that are kept.
    pub max_history: usize,
    /// A job that has run for longer than this has recovered: earlier crashes count no longer.
    pub health_threshold: Duration,
    /// Name of a `_replicator` database → its shares, where they are not [`SHARES`].
    pub shares: HashMap<String, u64>,
}

/// The shares of a database without a setting.
pub const SHARES: u64 = 100;

impl Default for Settings {
    /// CouchDB's.
    fn default() -> Settings {
        Settings {
            max_jobs: 500,
            max_churn: 20,
            interval: Duration::from_secs(60),
            startup_jitter: Duration::from_secs(5),
            max_history: 20,
            health_threshold: Duration::from_secs(120),
            shares: HashMap::new(),
        }
    }
}

impl Settings {
    /// The shares of the jobs with this key.
    pub fn shares_of(&self, key: &str) -> u64 {
        self.shares.get(key).copied().unwrap_or(SHARES).clamp(1, 1000)
    }
}
