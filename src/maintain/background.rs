//! What a server does by itself: removes what deleted databases left, frees old bodies, sweeps attachments.
//!
//! One task, one thing at a time, in small steps through the same doors as clients: never in the way of writes for longer
//! than one step. Nothing is written down about it; after a restart it looks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::sweep;
use crate::db::{Database, Databases, blocking};
use crate::error::Result;
use crate::store::{Direction, PageLimit, keys};

/// Between two rounds over all databases.
const ROUND: Duration = Duration::from_secs(60);
/// Between two sweeps of the attachments, unless something was deleted.
const SWEEP: Duration = Duration::from_secs(15 * 60);
/// Old bodies below this many bytes are left alone: freeing them would cost more than they do.
const WORTH: u64 = 4 << 20;

/// A piece of background work, as `_active_tasks` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// CouchDB's word: `database_compaction`.
    pub kind: &'static str,
    pub database: String,
    /// Changes done, and in all.
    pub done: u64,
    pub total: u64,
    /// Since the epoch.
    pub started: Duration,
    pub updated: Duration,
}

/// What is being done now. Clones share it.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<HashMap<String, Task>>>);

impl Tasks {
    /// All tasks, in the order of their start.
    pub fn list(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = self.0.lock().values().cloned().collect();
        tasks.sort_by(|left, right| (left.started, &left.database).cmp(&(right.started, &right.database)));
        tasks
    }
}

/// Compacts one database, and shows it as a task meanwhile. What `_compact` and the background call.
pub async fn compact(databases: &Databases, database: &Arc<Database>, tasks: &Tasks) -> Result<()> {
    let clock = databases.clock();
    let started = clock.since_epoch();
    let _gone = Ended { tasks, name: database.name() };
    let progress = |done, total| {
        let task = Task {
            kind: "database_compaction",
            database: database.name().to_owned(),
            done,
            total,
            started,
            updated: clock.since_epoch(),
        };
        tasks.0.lock().insert(task.database.clone(), task);
    };
    database.compact(&progress).await
}

struct Ended<'a> {
    tasks: &'a Tasks,
    name: &'a str,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.tasks.0.lock().remove(self.name);
    }
}

/// Whether compacting is worth its while: old bodies take up more than a few megabytes and half of the live data.
fn is_worth_compacting(database: &Database) -> bool {
    let info = database.info();
    info.old > WORTH && info.old > info.external / 2
}

/// Runs until the task is dropped.
pub async fn run(databases: Arc<Databases>, tasks: Tasks) {
    let mut swept: Option<Instant> = None;
    loop {
        let round = round(&databases, &tasks, &mut swept).await;
        if let Err(error) = round {
            tracing::warn!("background work failed and will be tried again: {error}");
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn round(databases: &Arc<Databases>, tasks: &Tasks, swept: &mut Option<Instant>) -> Result<()> {
    let mut freed = false;
    loop {
        let some = databases.clone();
        if !blocking(move || some.remove_some()).await? {
            break;
        }
        freed = true;
        // Leaves the store to others between two steps.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    freed |= compact_all(databases, tasks).await?;
    if freed || swept.is_none_or(|at| at.elapsed() > SWEEP) {
        let removed = sweep(databases.store(), databases.blobs()).await?;
        if removed > 0 {
            tracing::info!(removed, "attachments that nothing named were removed");
        }
        *swept = Some(Instant::now());
    }
    Ok(())
}

/// Compacts the databases that are open (others have not been written to) and worth it.
async fn compact_all(databases: &Arc<Databases>, tasks: &Tasks) -> Result<bool> {
    let mut freed = false;
    let mut after = String::new();
    loop {
        let (some, last) = (databases.clone(), after.clone());
        let names = blocking(move || {
            let (_, high) = keys::names(None, None);
            let low = std::ops::Bound::Excluded(keys::name(&last));
            let page = some.store().scan(&(low, high), Direction::Forward, PageLimit::entries(1000))?;
            Ok(page.iter().map(|(key, _)| keys::name_of(key).to_owned()).collect::<Vec<_>>())
        })
        .await?;
        let Some(last) = names.last() else { return Ok(freed) };
        after = last.clone();
        for name in names {
            let Some(database) = databases.opened(&name) else { continue };
            if is_worth_compacting(&database) && !database.is_compacting() {
                compact(databases, &database, tasks).await?;
                freed = true;
            }
        }
    }
}
