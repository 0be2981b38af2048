//! Listing of documents by id: `_all_docs` and related endpoints. Ids are ordered by their bytes, as in
//! CouchDB.

use std::ops::Bound;

use crate::db::Database;
use crate::db::record::{DocumentRecord, LeafRow, LocalRecord};
use crate::error::Result;
use crate::store::range::{KeyRange, is_empty};
use crate::store::{Direction, PageLimit, keyspace};

/// One listed document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The document id.
    pub id: String,
    /// The winning revision.
    pub winner: LeafRow,
}

/// A range of ids with a scan direction.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The bound where the scan starts: the higher one with `Direction::Backward`.
    pub start: Bound<String>,
    /// The bound where the scan ends: the lower one with `Direction::Backward`.
    pub end: Bound<String>,
    /// The direction of the scan.
    pub direction: Direction,
}

impl Listing {
    /// The range of all ids.
    pub fn all(direction: Direction) -> Listing {
        Listing { start: Bound::Unbounded, end: Bound::Unbounded, direction }
    }

    /// Restricts the range to ids that start with `prefix`.
    pub fn within(mut self, prefix: &str) -> Listing {
        let first = Bound::Included(prefix.to_owned());
        // U+10FFFF has the highest UTF-8 encoding, so this bound is above all ids with the prefix, except
        // those that continue with U+10FFFF twice.
        let last = Bound::Excluded(format!("{prefix}\u{10FFFF}\u{10FFFF}"));
        let (low, high) = match self.direction {
            Direction::Forward => (&mut self.start, &mut self.end),
            Direction::Backward => (&mut self.end, &mut self.start),
        };
        if below(low, &first) {
            *low = first;
        }
        if above(high, &last) {
            *high = last;
        }
        self
    }

    fn range(&self, prefix: &[u8], after: Option<&str>) -> Option<KeyRange> {
        let start = match after {
            Some(after) => Bound::Excluded(after.to_owned()),
            None => self.start.clone(),
        };
        let (low, high) = match self.direction {
            Direction::Forward => (start, self.end.clone()),
            Direction::Backward => (self.end.clone(), start),
        };
        let key = |id: String| [prefix, id.as_bytes()].concat();
        let low = match low {
            Bound::Unbounded => Bound::Included(prefix.to_vec()),
            Bound::Included(id) => Bound::Included(key(id)),
            Bound::Excluded(id) => Bound::Excluded(key(id)),
        };
        let high = match high {
            Bound::Unbounded => keyspace::after_prefix(prefix),
            Bound::Included(id) => Bound::Included(key(id)),
            Bound::Excluded(id) => Bound::Excluded(key(id)),
        };
        let range = (low, high);
        (!is_empty(&range)).then_some(range)
    }
}

fn below(bound: &Bound<String>, other: &Bound<String>) -> bool {
    match (bound, other) {
        (Bound::Unbounded, _) => true,
        (Bound::Included(id) | Bound::Excluded(id), Bound::Included(other) | Bound::Excluded(other)) => id < other,
        (_, Bound::Unbounded) => false,
    }
}

fn above(bound: &Bound<String>, other: &Bound<String>) -> bool {
    match (bound, other) {
        (Bound::Unbounded, _) => true,
        (Bound::Included(id) | Bound::Excluded(id), Bound::Included(other) | Bound::Excluded(other)) => id > other,
        (_, Bound::Unbounded) => false,
    }
}

impl Database {
    /// Reads the next page of a listing, after the id `after`. Returns the documents that are not deleted,
    /// and the last id read, from which the caller continues (`None` at the end). A page may have no rows, if
    /// all its documents are deleted, without being the last.
    pub fn list(
        &self,
        listing: &Listing,
        after: Option<&str>,
        limit: PageLimit,
    ) -> Result<(Vec<Listed>, Option<String>)> {
        let prefix = keyspace::kind_prefix(self.number, keyspace::Kind::Document);
        let Some(range) = listing.range(&prefix, after) else { return Ok((Vec::new(), None)) };
        let page = self.store.scan(&range, listing.direction, limit)?;
        // If the database was deleted during the scan, the page may be incomplete.
        self.check_there()?;
        let mut rows = Vec::with_capacity(page.len());
        let mut last = None;
        for (key, value) in &page {
            let id = std::str::from_utf8(keyspace::rest_of(key)).unwrap_or_default();
            let (_, winner) = DocumentRecord::decode_winner(id, value)?;
            if !winner.deleted {
                rows.push(Listed { id: id.to_owned(), winner });
            }
            last = Some(id);
        }
        Ok((rows, last.map(str::to_owned)))
    }

    /// Returns the winner of each id, deleted or not, in the order of `ids`; `None` for missing documents.
    pub fn winners<I: AsRef<str>>(&self, ids: &[I]) -> Result<Vec<Option<LeafRow>>> {
        let wanted: Vec<Vec<u8>> = ids.iter().map(|id| keyspace::document(self.number, id.as_ref())).collect();
        let values = self.store.get_many(&wanted)?;
        ids.iter()
            .zip(values)
            .map(|(id, value)| match value {
                None => Ok(None),
                Some(value) => Ok(Some(DocumentRecord::decode_winner(id.as_ref(), &value)?.1)),
            })
            .collect()
    }

    /// Reads the sequence and the winner of a document, without decoding its tree.
    pub fn winner(&self, id: &str) -> Result<Option<(u64, LeafRow)>> {
        let value = self.store.get(&keyspace::document(self.number, id))?;
        value.map(|value| DocumentRecord::decode_winner(id, &value)).transpose()
    }

    /// Counts the documents (without deleted ones) before `start`, in the given direction. Returns `None` if
    /// there are more than about `most` entries before it.
    pub fn rank(&self, start: &Bound<String>, direction: Direction, most: usize) -> Result<Option<u64>> {
        let end = match start {
            Bound::Unbounded => return Ok(Some(0)),
            Bound::Included(id) => Bound::Excluded(id.clone()),
            Bound::Excluded(id) => Bound::Included(id.clone()),
        };
        let before = Listing { start: Bound::Unbounded, end, direction };
        let (mut after, mut looked, mut rank) = (None, 0, 0);
        while looked < most {
            let limit = (most - looked).min(500);
            let (rows, last) = self.list(&before, after.as_deref(), PageLimit::entries(limit))?;
            rank += rows.len() as u64;
            looked += limit;
            if last.is_none() {
                return Ok(Some(rank));
            }
            after = last;
        }
        Ok(None)
    }

    /// Reads the next page of `_local` documents. The ids are without the prefix `_local/`.
    pub fn list_local(
        &self,
        listing: &Listing,
        after: Option<&str>,
        limit: PageLimit,
    ) -> Result<Vec<(String, LocalRecord)>> {
        let prefix = keyspace::kind_prefix(self.number, keyspace::Kind::Local);
        let Some(range) = listing.range(&prefix, after) else { return Ok(Vec::new()) };
        let page = self.store.scan(&range, listing.direction, limit)?;
        page.iter()
            .map(|(key, value)| {
                let id = std::str::from_utf8(keyspace::rest_of(key)).unwrap_or_default();
                Ok((id.to_owned(), LocalRecord::decode(id, value)?))
            })
            .collect()
    }
}
