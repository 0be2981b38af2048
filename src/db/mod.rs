//! Databases: names, documents, writes, the changes feed.
//!
//! ```text
//! registry   the databases of the server             edit     preparation of edits for the writer
//! database   one open database                       draft    one commit under construction
//! read       documents and revisions                 writer   the only code that changes a database
//! render     documents as JSON                       changes  the changes order, and waiting for changes
//! list       documents by id                         local    _local documents
//! attachment uploads and content                     maintain purge, compaction, limits, removal
//! ```
//!
//! `db` calls neither `query` nor `auth`: it takes the [`Validate`] hook, and callers filter the feeds.

mod attachment;
mod autopurge;
pub(crate) mod bytes;
mod changes;
mod database;
mod draft;
mod edit;
mod list;
mod local;
mod maintain;
mod names;
mod partition;
mod read;
pub mod record;
mod registry;
pub mod render;
mod writer;

#[cfg(test)]
mod tests;

pub use attachment::{Content, Upload, Uploaded};
pub use autopurge::{AutoPurge, TimeToLive, check_auto_purge};
pub use changes::{ChangesPage, Since};
pub use database::{Database, Moved};
pub use edit::{AllowAll, Guard, Incoming, Leaf, Mode, Proposal, Source, Terms, Validate};
pub use list::{Listed, Listing};
pub use local::LocalWrite;
pub use maintain::{Hold, Purged};
pub use names::{LONGEST_ID, check_database_name, check_document_id, partition_of};
pub use partition::{PartitionInfo, count as count_partition};
pub use read::{AT_ONCE, Found, MissingRevisions, Opened, Wanted, Within};
pub use registry::{CreateOptions, Databases, DbEvent, DbEventKind};

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Runs a short read of a few records. A hand-off to another thread mostly costs more than such a read, so it
/// runs on the calling async thread, as long as at least one other worker thread stays free in case the disk
/// is slow. Otherwise it runs on a blocking thread.
pub async fn reading<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let others = tokio::runtime::Handle::current().metrics().num_workers().saturating_sub(1);
    match Turn::take(others) {
        Some(_turn) => call(),
        None => blocking(call).await,
    }
}

/// Permission to read on an async thread; dropping it returns the permission.
struct Turn;

/// Number of permissions in use. One count for the process, because its worker threads are shared too.
static TURNS: AtomicUsize = AtomicUsize::new(0);

impl Turn {
    fn take(most: usize) -> Option<Turn> {
        let one_more = |turns| (turns < most).then_some(turns + 1);
        TURNS.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).ok().map(|_| Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs a blocking call off the async threads.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(failed) => Err(Error::Internal(format!("a domain call ended early: {failed}"))),
    }
}
