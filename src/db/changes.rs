//! The by-sequence order: each document once, at the sequence of its last change.

use std::ops::Bound;

use super::Database;
use super::record::{DocumentRecord, SequenceRow};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keys};

/// Where a feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// After this sequence.
    Sequence(u64),
    /// After whatever is the last sequence when the feed begins.
    Now,
}

/// A page of the changes order.
#[derive(Debug, Clone, Default)]
pub struct ChangesPage {
    pub rows: Vec<(u64, SequenceRow)>,
    /// Whether the order ended within this page.
    pub done: bool,
}

/// Remaining rows are counted one by one up to here; above, they are told as the distance of the sequences.
const COUNTED: usize = 500;

impl Since {
    /// Reads a `since`: `now`, `N`, or `N-<instance>`. A sequence of another instance of this name reads from the start:
    /// its client may see a change twice, never miss one.
    pub(crate) fn parse(text: &str, instance: &str) -> Result<Since> {
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
        // A bare number beyond 64 bits is beyond every sequence.
        let number = number.parse().unwrap_or(u64::MAX);
        match of {
            Some(of) if of != instance => Ok(Since::Sequence(0)),
            _ => Ok(Since::Sequence(number)),
        }
    }
}

impl Database {
    /// Reads a `since` of this database.
    pub fn parse_since(&self, text: &str) -> Result<Since> {
        Since::parse(text, &self.instance())
    }

    /// Up to `limit` rows after `after` (ascending), or before `after` (descending; `u64::MAX` begins at the end). Rows
    /// beyond the last sequence of when it was called are left for the next call: whoever goes on from there misses none.
    pub fn changes(&self, after: u64, direction: Direction, limit: PageLimit) -> Result<ChangesPage> {
        if self.is_gone() {
            return Err(Error::NoDatabase);
        }
        let last = self.info().sequence;
        let (low, high) = keys::kind(self.number, keys::Kind::Sequence);
        let mut range = match direction {
            Direction::Forward if after >= last => return Ok(ChangesPage { done: true, ..ChangesPage::default() }),
            Direction::Forward => (
                Bound::Excluded(keys::sequence(self.number, after)),
                Bound::Included(keys::sequence(self.number, last)),
            ),
            Direction::Backward if after == u64::MAX => (low, high),
            Direction::Backward => (low, Bound::Excluded(keys::sequence(self.number, after))),
        };
        let page = self.store.scan(&range, direction, limit)?;
        let mut bytes = 0;
        let mut rows = Vec::with_capacity(page.len());
        for (key, value) in &page {
            bytes += key.len() + value.len();
            rows.push((keys::sequence_of(key), SequenceRow::decode(value)?));
        }
        let mut done = rows.len() < limit.entries && bytes < limit.bytes;
        // A damaged row ends the page before it. It must not pass for the end of the feed: readers would go on from there,
        // and never hear of what is behind.
        if let (true, Some((end, _))) = (done, page.into_iter().next_back())
            && (direction == Direction::Backward || keys::sequence_of(&end) < last)
        {
            match direction {
                Direction::Forward => range.0 = Bound::Excluded(end),
                Direction::Backward => range.1 = Bound::Excluded(end),
            }
            done = self.store.keys(&range, 1)?.is_empty();
        }
        Ok(ChangesPage { rows, done })
    }

    /// Which of these documents have changed after `since`, in the order of their sequences: reads those documents, not
    /// the feed.
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

    /// The rows of these documents after `since`, in sequence order: reads those documents, not the feed.
    pub fn changes_of(&self, ids: &[String], since: u64) -> Result<Vec<(u64, SequenceRow)>> {
        if self.is_gone() {
            return Err(Error::NoDatabase);
        }
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
        rows.sort_by_key(|(sequence, _)| *sequence);
        rows.dedup_by_key(|(sequence, _)| *sequence);
        Ok(rows)
    }

    /// How many rows come after `sequence`: exact for the last few hundred sequences, else an upper bound.
    pub fn pending(&self, sequence: u64) -> Result<u64> {
        let info = self.info();
        let distance = info.sequence.saturating_sub(sequence);
        if distance == 0 {
            return Ok(0);
        }
        if distance as usize > COUNTED {
            return Ok(distance.min(info.documents + info.deleted));
        }
        Ok(self.changes(sequence, Direction::Forward, PageLimit::entries(COUNTED))?.rows.len() as u64)
    }

    /// The sequence and winner of a document, without its tree.
    pub fn winner(&self, id: &str) -> Result<Option<(u64, super::record::LeafRow)>> {
        let value = self.store.get(&keys::document(self.number, id))?;
        value.map(|value| DocumentRecord::decode_winner(id, &value)).transpose()
    }
}
