//! Databases: names, documents, the write path, the changes feed.
//!
//! ```text
//! registry   which databases there are               edit     what a client wants > writer
//! database   one open database                       draft    one commit in the making
//! read       documents and revisions                 writer   the only code that changes a database
//! render     documents as JSON                       changes  the by-sequence order, and waiting on it
//! list       documents by id                         local    _local documents
//! attachment content in, content out                 maintain purge, compaction, limits, removal
//! ```
//!
//! `db` calls neither `query` nor `auth`: it takes the [`Validate`] hook, and feeds are filtered above it.

mod attachment;
mod autopurge;
mod bytes;
mod changes;
mod database;
mod draft;
mod edit;
mod list;
mod local;
mod maintain;
mod names;
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
pub use edit::{AllowAll, Incoming, Mode, Proposal, Source, Validate};
pub use list::{Listed, Listing};
pub use local::LocalWrite;
pub use maintain::{Hold, Purged};
pub use names::{LONGEST_ID, check_database_name, check_document_id, partition_of};
pub use read::{AT_ONCE, Found, Wanted};
pub use registry::{CreateOptions, Databases, DbEvent, DbEventKind};

use crate::error::{Error, Result};

/// Runs a blocking domain call off the async threads.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(failed) => Err(Error::Internal(format!("a domain call ended early: {failed}"))),
    }
}
