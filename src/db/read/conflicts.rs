//! Lists the conflicted documents from their index.

use std::ops::Bound;

use crate::db::Database;
use crate::db::conflicted::{ConflictIndex, Conflicted};
use crate::db::record::SequenceRow;
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 20;
/// A page of conflicts ends after rows of this many bytes: a document may have thousands of leaves.
const MOST_BYTES: usize = 4 << 20;

/// Which conflicts are listed.
#[derive(Debug, Clone, Copy)]
pub struct ConflictQuery {
    pub kind: Conflicted,
    /// Only documents that changed after this sequence.
    pub since: u64,
    pub direction: Direction,
    /// Continue after the document that changed at this sequence.
    pub after: Option<u64>,
    /// Maximum number of rows.
    pub limit: usize,
}

/// Conflicted documents with the sequences of their last changes, and the last of these if there are more documents.
pub type ConflictPage = (Vec<(u64, SequenceRow)>, Option<u64>);

impl Database {
    /// The counts of conflicted documents, and how far the index is.
    pub fn conflict_index(&self) -> ConflictIndex {
        self.info().conflicts
    }

    /// Lists conflicted documents with the sequences of their last changes, in sequence order. The second part of
    /// the result is the last sequence if there are more documents.
    pub fn conflicts(&self, query: ConflictQuery) -> Result<ConflictPage> {
        if self.is_gone() {
            return Err(Error::NoDatabase);
        }
        let key = |sequence| keyspace::conflict(self.number, query.kind as u8, sequence);
        let mut range = keyspace::conflicts(self.number, query.kind as u8);
        range.0 = Bound::Excluded(key(query.since));
        match (query.after, query.direction) {
            (Some(after), Direction::Forward) => range.0 = Bound::Excluded(key(after.max(query.since))),
            (Some(after), Direction::Backward) => range.1 = Bound::Excluded(key(after)),
            (None, _) => {}
        }
        if crate::store::range::is_empty(&range) {
            return Ok((Vec::new(), None));
        }
        let mut page = self.store.scan(&range, query.direction, PageLimit::entries(query.limit + 1))?;
        let more = page.len() > query.limit;
        page.truncate(query.limit);
        let sequences: Vec<u64> = page.iter().filter_map(|(key, _)| keyspace::sequence_of_conflict(key)).collect();
        let (mut rows, mut bytes) = (Vec::with_capacity(sequences.len()), 0);
        for (at, some) in sequences.chunks(ROWS_AT_ONCE).enumerate() {
            let keys: Vec<Vec<u8>> = some.iter().map(|at| keyspace::sequence(self.number, *at)).collect();
            for (sequence, row) in some.iter().zip(self.store.get_many(&keys)?) {
                // A document that changed since the page was read now has another sequence.
                if let Some(row) = row {
                    bytes += row.len();
                    rows.push((*sequence, SequenceRow::decode(&row)?));
                }
            }
            let read = (at + 1) * ROWS_AT_ONCE;
            if bytes > MOST_BYTES && read < sequences.len() {
                return Ok((rows, some.last().copied()));
            }
        }
        Ok((rows, sequences.last().copied().filter(|_| more)))
    }
}
