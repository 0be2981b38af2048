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

pub use self::attachment::{Content, Upload, Uploaded};
pub use self::autopurge::{AutoPurge, TimeToLive, check_auto_purge};
pub use self::changes::{ChangesPage, Since};
pub use self::database::{Database, Moved};
pub use self::edit::{AllowAll, Guard, Incoming, Leaf, Mode, Proposal, Source, Terms, Validate};
pub use self::list::{Listed, Listing};
pub use self::local::LocalWrite;
pub use self::maintain::{Hold, Purged};
pub use self::names::{LONGEST_ID, check_database_name, check_document_id, partition_of};
pub use self::partition::{PartitionInfo, count as count_partition};
pub use self::read::{AT_ONCE, Found, MissingRevisions, Opened, Wanted, Within};
pub use self::registry::{CreateOptions, Databases, DbEvent, DbEventKind};

#[cfg(test)]
mod tests;
