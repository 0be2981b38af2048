//! All documents whose replication has not ended.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::rows::{Followed, Key, Rows};
use super::state::Counts;
use crate::clock::Clock;
use crate::db::Databases;
use crate::replicate::scheduler::Scheduler;

/// The replications of all `_replicator` databases.
pub struct Documents {
    pub(super) databases: Arc<Databases>,
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) clock: Clock,
    pub(super) rows: Mutex<Rows>,
    /// Bounds the documents that are written at the same time.
    pub(super) writes: Semaphore,
    /// Bounds the filter functions that are fetched at the same time.
    pub(super) fetches: Semaphore,
    /// The databases that are followed.
    pub(super) followed: Mutex<HashMap<Arc<str>, Followed>>,
}

/// Documents that are written at the same time, at most.
const WRITES: usize = 16;
/// Filter functions that are fetched at the same time, at most.
const FETCHES: usize = 20;

impl Documents {
    /// Creates the list, without rows. [`Documents::run`] fills it.
    pub fn new(databases: Arc<Databases>, scheduler: Arc<Scheduler>, clock: Clock) -> Arc<Documents> {
        Arc::new(Documents {
            databases,
            scheduler,
            clock,
            rows: Mutex::default(),
            writes: Semaphore::new(WRITES),
            fetches: Semaphore::new(FETCHES),
            followed: Mutex::default(),
        })
    }

    /// The documents of a database whose replication has not ended, as [`Documents::show`] shows them.
    pub fn counts(&self) -> Counts {
        self.rows.lock().counts()
    }

    /// The state of a document's replication, as `_scheduler/docs` shows it; `None` if it has ended, or never
    /// began.
    pub fn show(&self, database: &str, id: &str) -> Option<Value> {
        let row = self.rows.lock().get(database, id)?.shown();
        let summary = row.job.as_ref().and_then(|job| self.scheduler.summary(job));
        Some(row.to_json(database, id, summary))
    }

    /// Forgets a document whose outcome is written.
    pub(super) fn forget_version(&self, key: &Key, digest: u64) {
        let mut rows = self.rows.lock();
        if rows.of_key(key).is_some_and(|row| row.digest == digest) {
            rows.remove(key);
        }
    }
}
