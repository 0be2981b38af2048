//! Databases: names, documents, writes, the changes feed.
//!
//! ```text
//! catalog     the databases of the server     write/   incoming edits, validation, the writer, _local
//! db_updates  the feed of all databases       read/    documents, the changes order, attachments
//! database    one open database               upkeep/  purge, compaction, limits, removal
//! commit/     the parts of one commit         record, codec, names   stored forms
//! freshness, nodes   what other nodes change in a shared store    histories   failovers that lost commits
//! conflicted       the index of conflicted documents
//! recent_changes   rows that many feeds read at once       prefetched    records that were read with the counters
//! ```
//!
//! `db` calls neither `query` nor `auth`: it takes the [`Validate`] hook, and callers filter the feeds.

mod auto_purge_record;
pub(crate) mod catalog;
pub(crate) mod codec;
mod commit;
mod conflicted;
mod counts;
mod database;
pub mod db_updates;
mod freshness;
mod histories;
mod names;
mod nodes;
mod prefetched;
pub mod read;
mod recent_changes;
pub mod record;
pub mod upkeep;
pub mod write;

pub use self::auto_purge_record::{AutoPurge, TimeToLive};
pub use self::catalog::{CreateOptions, Databases};
pub use self::commit::partition::{PartitionInfo, count as count_partition};
pub use self::commit::prepared_edit::{Leaf, Mode};
pub(crate) use self::commit::tally::Tally;
pub use self::conflicted::{ConflictIndex, Conflicted};
pub use self::counts::Counts;
pub use self::database::{Database, Moved};
pub use self::db_updates::{DbEvent, DbEventKind};
pub use self::freshness::SERVER;
pub use self::histories::Histories;
pub use self::names::{
    LONGEST_ID, check_attachment_name, check_database_name, check_document_id, check_has_partition, partition_of,
};
pub use self::prefetched::Kept;
pub use self::read::attachment::{Content, Upload, Uploaded};
pub use self::read::by_id::{Listed, Listing};
pub use self::read::by_sequence::{ChangesPage, Since};
pub use self::read::conflicts::ConflictQuery;
pub use self::read::find::{Found, InMemory, Wanted, Within};
pub use self::read::revisions::{AT_ONCE, MissingRevisions, Opened};
pub use self::upkeep::auto_purge::check_auto_purge;
pub use self::upkeep::hold::Hold;
pub use self::upkeep::purge::Purged;
pub use self::write::incoming::{Incoming, Source};
pub use self::write::local::LocalWrite;
pub use self::write::parse;
pub use self::write::validate::{AllowAll, Guard, Proposal, Terms, Validate};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_nodes;
