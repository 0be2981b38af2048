//! The rows of the changes order that a waiting feed reads when it wakes, kept in memory.
//!
//! One commit wakes all feeds of a database, and each of them then requests the same few rows. The first one reads
//! them; the others take them from here. The rows are valid for one state of the database, identified by its
//! counters, which every commit rewrites.

use std::sync::Arc;

use parking_lot::Mutex;

use super::record::{Info, SequenceRow};

/// Most sequences between the rows that are kept and the end of the order.
const MOST_SEQUENCES: u64 = 32;
/// Most leaves of these rows together: a document in conflict may have thousands.
const MOST_LEAVES: usize = 256;

/// The rows of the last short read.
#[derive(Default)]
pub(crate) struct RecentChanges(Mutex<Option<Kept>>);

struct Kept {
    info: Info,
    after: u64,
    rows: Rows,
}

/// Rows with their sequences.
type Rows = Arc<[(u64, SequenceRow)]>;

impl RecentChanges {
    /// The rows after `after`, if they were kept in the state `info`.
    pub(crate) fn after(&self, info: &Info, after: u64) -> Option<Rows> {
        let kept = self.0.lock();
        let kept = kept.as_ref().filter(|kept| kept.after == after && kept.info == *info)?;
        Some(kept.rows.clone())
    }

    /// Keeps all rows after `after`, which were read in the state `info`.
    pub(crate) fn keep(&self, info: &Info, after: u64, rows: &[(u64, SequenceRow)]) {
        let leaves: usize = rows.iter().map(|(_, row)| row.leaves.len()).sum();
        if !rows.is_empty() && info.sequence.saturating_sub(after) <= MOST_SEQUENCES && leaves <= MOST_LEAVES {
            *self.0.lock() = Some(Kept { info: info.clone(), after, rows: rows.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::clock::Clock;
    use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode};
    use crate::rev::Revision;
    use crate::store::{Direction, PageLimit};

    async fn put(database: &Arc<Database>, id: &str) -> Revision {
        let (path, attachments) = ((0, Vec::new()), Vec::new());
        let edit = Incoming { id: id.into(), parent: None, path, deleted: false, json: "{}".into(), attachments };
        let written = database.update(vec![edit], Mode::Interactive, &AllowAll).await.expect("written");
        written.into_iter().next().expect("one edit").expect("a revision")
    }

    #[tokio::test]
    async fn rows_are_kept_until_the_database_changes() {
        let store = Arc::new(crate::store::memory::Memory::new());
        let blobs = Arc::new(crate::store::MemoryBlobs::new());
        let clock = Clock::fixed(std::time::Duration::from_secs(1));
        let databases = Databases::open(store, blobs, clock).expect("opens");
        let database = databases.create("db", CreateOptions::default(), None).expect("created");
        let read = |after: u64| {
            let page = database.changes(after, Direction::Forward, PageLimit::entries(100)).expect("read");
            page.rows.into_iter().map(|(_, row)| row.id).collect::<Vec<_>>()
        };
        let recent = |after: u64, most: usize| {
            let page = database.recent_changes(after, most)?;
            Some(page.rows.into_iter().map(|(_, row)| row.id).collect::<Vec<_>>())
        };
        let first = put(&database, "a").await;
        assert_eq!(recent(0, 100), None, "nobody has read them");
        assert_eq!(Some(read(0)), recent(0, 100));
        assert_eq!((recent(1, 100), recent(0, 1)), (None, None), "another start, or a full page");
        put(&database, "b").await;
        assert_eq!(recent(0, 100), None);
        assert_eq!(read(1), ["b"]);
        assert_eq!(recent(1, 100), Some(vec!["b".to_owned()]));
        database.purge(vec![("a".into(), vec![first])]).await.expect("purged");
        assert_eq!(recent(1, 100), None, "a purge is a change");
        assert_eq!(read(0), ["b"]);
        for number in 0..40 {
            put(&database, &format!("d{number}")).await;
        }
        assert_eq!(read(1).len(), 41);
        assert_eq!(recent(1, 100), None, "too many to keep");
        read(40);
        assert!(recent(40, 100).is_some());
        databases.delete("db").expect("deleted");
        assert_eq!(recent(40, 100), None);
    }
}
