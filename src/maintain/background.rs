//! What a server does by itself: frees old bodies, sweeps attachments. (What deleted databases left is removed as soon as
//! they are deleted, by `http::app`.)
//!
//! One task, one thing at a time, in small steps through the same doors as clients: never in the way of writes for longer
//! than one step. Nothing is written down about it; after a restart it looks again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::sweep;
use crate::db::{Database, Databases};
use crate::error::Result;

/// Between two rounds over the open databases.
pub const ROUND: Duration = Duration::from_secs(30);
/// Between two sweeps of the attachments, unless something was compacted.
const SWEEP: Duration = Duration::from_secs(15 * 60);
/// Old bodies below this many bytes are left alone: freeing them would cost more than they do.
const WORTH: u64 = 4 << 20;

/// The same where the device is full.
const WORTH_WHEN_FULL: u64 = 64 << 10;

/// Whether compacting is worth its while: old bodies take more than a few megabytes, and half of what the live ones do. On
/// a full device less is enough.
pub fn is_worth_compacting(database: &Database, full: bool) -> bool {
    let info = database.info();
    if full { info.old > WORTH_WHEN_FULL } else { info.old > WORTH && info.old > info.external / 2 }
}

/// Runs until the task is dropped, a round `every` so often and whenever `wake` says so. `compact` compacts one database,
/// visibly; what `sweeping` gives lives while attachments are swept.
pub async fn run<C: Future<Output = ()>, S>(
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
            tracing::warn!(%error, "background work failed and will be tried again");
        }
    }
}

/// Databases that nobody has open have not been written to, and need nothing.
async fn round<C: Future<Output = ()>, S>(
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
        let visible = sweeping();
        let removed = sweep(databases.store(), databases.blobs()).await?;
        drop(visible);
        if removed > 0 {
            tracing::info!(removed, "attachments that nothing names were removed");
        }
        *swept = Some(Instant::now());
    }
    Ok(())
}
