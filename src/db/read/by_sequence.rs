//! The by-sequence index: contains each document once, at the sequence of its last change.

use std::ops::Bound;

use crate::db::record::SequenceRow;
use crate::db::{Database, Histories};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// The start of a changes feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// After this sequence.
    Sequence(u64),
    /// After the last sequence at the time when the feed starts.
    Now,
}

/// A page of the by-sequence index.
#[derive(Debug, Clone, Default)]
pub struct ChangesPage {
    /// Rows with their sequences.
    pub rows: Vec<(u64, SequenceRow)>,
    /// Whether there are no more rows after this page.
    pub done: bool,
    /// A forward page has all changes up to this sequence, and a caller continues after it. It is the last sequence
    /// when the page was read, or that of the last row if the page is not [`done`](ChangesPage::done).
    pub through: u64,
}

/// Up to this distance of the sequences, [`Database::pending`] counts the remaining rows; above, it returns
/// an estimate.
const COUNTED: usize = 500;

impl Since {
    /// Parses a `since`: `now`, `N`, `N-<instance>` or `N-<instance>.<epoch>`. A sequence of another instance, that
    /// is, of a deleted database with the same name, starts from the beginning, so that the client may see a change
    /// twice but never misses one.
    pub(crate) fn parse(text: &str, instance: &str, histories: &Histories) -> Result<Since> {
        let text = text.trim().trim_matches('"');
        if text == "now" {
            return Ok(Since::Now);
        }
        let malformed = || Error::BadRequest("Malformed sequence supplied in 'since' parameter.".into());
        let (number, of) = match text.split_once('-') {
            Some((number, of)) => (number, Some(of)),
            None => (text, None),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        // A number of more than 64 bits is greater than every sequence.
        let number = number.parse().unwrap_or(u64::MAX);
        let Some(of) = of else { return Ok(Since::Sequence(number)) };
        let read_in = match of.strip_prefix(instance) {
            Some("") => Some(None),
            Some(rest) => rest.strip_prefix('.').and_then(|epoch| epoch.parse().ok()).map(Some),
            None => None,
        };
        Ok(Since::Sequence(read_in.map_or(0, |epoch| histories.position(number, epoch))))
    }
}

impl Database {
    /// Parses a `since` for this database.
    pub fn parse_since(&self, text: &str) -> Result<Since> {
        Since::parse(text, &self.instance(), &self.info().histories)
    }

    /// Reads up to `limit` rows after the sequence `after` (forward), or before it (backward; `u64::MAX`
    /// starts at the end). Rows that are committed during the call are left for the next call, so that a
    /// caller that continues from the last row misses none.
    pub fn changes(&self, after: u64, direction: Direction, limit: PageLimit) -> Result<ChangesPage> {
        self.check_there()?;
        let info = self.info();
        let last = info.sequence;
        let (low, high) = keyspace::kind(self.number, keyspace::Kind::Sequence);
        let mut range = match direction {
            Direction::Forward if after >= last => {
                return Ok(ChangesPage { rows: Vec::new(), done: true, through: after });
            }
            Direction::Forward => (
                Bound::Excluded(keyspace::sequence(self.number, after)),
                Bound::Included(keyspace::sequence(self.number, last)),
            ),
            Direction::Backward if after == u64::MAX => (low, high),
            Direction::Backward => (low, Bound::Excluded(keyspace::sequence(self.number, after))),
        };
        let page = self.store.scan(&range, direction, limit)?;
        // If the database was deleted during the scan, the page may be incomplete.
        self.check_there()?;
        let mut bytes = 0;
        let mut rows = Vec::with_capacity(page.len());
        for (key, value) in &page {
            bytes += key.len() + value.len();
            rows.push((keyspace::sequence_of(key), SequenceRow::decode(value)?));
        }
        let mut done = rows.len() < limit.entries && bytes < limit.bytes;
        // The scan stops before a damaged row. A short page must not count as the end of the feed: readers
        // would never see the rows after the damaged one.
        if let (true, Some((end, _))) = (done, page.into_iter().next_back())
            && (direction == Direction::Backward || keyspace::sequence_of(&end) < last)
        {
            match direction {
                Direction::Forward => range.0 = Bound::Excluded(end),
                Direction::Backward => range.1 = Bound::Excluded(end),
            }
            done = self.store.keys(&range, 1)?.is_empty();
        }
        if done && direction == Direction::Forward {
            self.recent.keep(&info, after, &rows);
        }
        let end = rows.last().map_or(after, |(sequence, _)| *sequence);
        Ok(ChangesPage { rows, done, through: if done { last.max(end) } else { end } })
    }

    /// The rows after the sequence `after`, if they are few and another reader has just read them. Reads no disk.
    pub fn recent_changes(&self, after: u64, most: usize) -> Option<ChangesPage> {
        let info = self.info();
        let rows = self.recent.after(&info, after).filter(|rows| rows.len() < most && !self.is_gone())?;
        Some(ChangesPage { rows: rows.to_vec(), done: true, through: info.sequence })
    }

    /// Returns (sequence, id) of those documents that have changed after `since`, in sequence order. Reads
    /// the documents and not the by-sequence index.
    pub fn changed_of(&self, ids: &[&str], since: u64) -> Result<Vec<(u64, String)>> {
        let mut changed = Vec::new();
        for some in ids.chunks(1000) {
            for (id, record) in some.iter().zip(self.records(some)?) {
                if let Some(record) = record.filter(|record| record.sequence > since) {
                    changed.push((record.sequence, (*id).to_owned()));
                }
            }
        }
        changed.sort_unstable();
        changed.dedup();
        Ok(changed)
    }

    /// Returns the rows of those documents that have changed after `since`, in sequence order. Reads the
    /// documents and not the by-sequence index.
    pub fn changes_of(&self, ids: &[String], since: u64) -> Result<Vec<(u64, SequenceRow)>> {
        let mut rows = Vec::new();
        for some in ids.chunks(1000) {
            for (id, record) in some.iter().zip(self.records(some)?) {
                if let Some(record) = record
                    && record.sequence > since
                {
                    rows.push((record.sequence, record.sequence_row(id)));
                }
            }
        }
        // If the database was deleted meanwhile, documents may be missing.
        self.check_there()?;
        rows.sort_by_key(|(sequence, _)| *sequence);
        rows.dedup_by_key(|(sequence, _)| *sequence);
        Ok(rows)
    }

    /// The number of rows after `sequence`: counted if at most `COUNTED` sequences remain, otherwise an
    /// upper bound.
    pub fn pending(&self, sequence: u64) -> Result<u64> {
        self.count_rows(sequence, Direction::Forward, self.info().sequence.saturating_sub(sequence))
    }

    /// As [`Database::pending`], for the rows before `sequence`, which a descending feed has left.
    pub fn pending_before(&self, sequence: u64) -> Result<u64> {
        self.count_rows(sequence, Direction::Backward, sequence.saturating_sub(1))
    }

    /// The number of rows beyond `sequence`, where `left` sequences remain.
    fn count_rows(&self, sequence: u64, direction: Direction, left: u64) -> Result<u64> {
        if left == 0 {
            return Ok(0);
        }
        if left as usize > COUNTED {
            let info = self.info();
            return Ok(left.min(info.documents + info.deleted));
        }
        Ok(self.changes(sequence, direction, PageLimit::entries(COUNTED))?.rows.len() as u64)
    }
}
