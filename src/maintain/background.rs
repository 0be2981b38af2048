//! Background maintenance: compacts databases and sweeps unreferenced attachments. (`server::jobs` removes
//! the data of deleted databases right after their deletion.)
//!
//! One task does one thing at a time, in small steps and through the same writer as client requests, so that
//! it delays writes for at most one step. It stores no state; after a restart it checks all databases again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::sweep;
use crate::db::{Database, Databases};
use crate::error::Result;

/// Pause between two rounds over the open databases.
pub const ROUND: Duration = Duration::from_secs(30);
/// Time between two sweeps of the attachments. A compaction triggers a sweep earlier.
const SWEEP: Duration = Duration::from_secs(15 * 60);
/// Minimum size of the old bodies in bytes. Below it, compaction costs more than it frees.
const WORTH: u64 = 4 << 20;

/// The same minimum while the device is full.
const WORTH_WHEN_FULL: u64 = 64 << 10;

/// Whether the database needs compaction: its old bodies take more than `WORTH`, and more than half of the
/// live bodies. On a full device, `WORTH_WHEN_FULL` is enough.
pub fn is_worth_compacting(database: &Database, full: bool) -> bool {
    let info = database.info();
    if full { info.old > WORTH_WHEN_FULL } else { info.old > WORTH && info.old > info.external / 2 }
}

/// Runs one round per interval `every`, and whenever `wake` is notified, until the task is dropped. `compact`
/// compacts one database and shows it as an active task. The guard that `sweeping` returns lives during a
/// sweep of the attachments; without one, another node sweeps.
pub async fn run<C: Future<Output = ()>, G, S: Future<Output = Result<Option<G>>>>(
    databases: Arc<Databases>,
    every: Duration,
    wake: &Notify,
    compact: impl Fn(Arc<Database>) -> C,
    sweeping: impl Fn() -> S,
) {
    let mut swept: Option<Instant> = None;
    loop {
        let _ = tokio::time::timeout(every, wake.notified()).await;
        if let Err(error) = round(&databases, &compact, &sweeping, &mut swept).await {
            tracing::warn!(%error, "background maintenance failed and will be retried");
        }
    }
}

/// Runs one round. Only open databases can have been written to, so others need no compaction.
async fn round<C: Future<Output = ()>, G, S: Future<Output = Result<Option<G>>>>(
    databases: &Arc<Databases>,
    compact: &impl Fn(Arc<Database>) -> C,
    sweeping: &impl Fn() -> S,
    swept: &mut Option<Instant>,
) -> Result<()> {
    let full = databases.store().is_short_of_room();
    let mut freed = full;
    for database in databases.all_opened() {
        if is_worth_compacting(&database, full) && !database.is_compacting() {
            compact(database).await;
            freed = true;
        }
    }
    if freed || swept.is_none_or(|at| at.elapsed() > SWEEP) {
        if let Some(visible) = sweeping().await? {
            let removed = sweep(databases.store(), databases.blobs()).await?;
            drop(visible);
            if removed > 0 {
                tracing::info!(removed, "unreferenced attachments were removed");
            }
        }
        *swept = Some(Instant::now());
    }
    Ok(())
}
