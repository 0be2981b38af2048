//! The index of conflicted documents: one entry for each, under the sequence of its last change, so that a list
//! needs no scan of the database.
//!
//! Every commit that changes a conflicted document moves its entry, in the same batch, and counts it in the
//! [`Info`](super::record::Info) record. Documents without conflicts cost nothing. A database that has no index
//! yet (an older settee wrote it, it was restored or converted) is indexed in the background, row by row:
//!
//! ```text
//! rows of the changes order   1 ............... done ................ goal ............... now
//!                             indexed, counted       not yet: entries      indexed, counted
//!                                                    do not count
//! ```
//!
//! A change moves a row to after `goal`, so the gap between `done` and `goal` only shrinks, and the sequence of a
//! row alone tells whether its entry is counted. An entry is valid exactly if a row exists at its sequence,
//! because a row never changes its leaves.
//!
//! On a shared store this state is part of the `Info` record, which every commit expects. On an embedded store the
//! `Info` record keeps the form that older settees read, and the state is a separate record, written when it
//! changes. Rows after its `upto` were written by this version without a conflict, or by an older settee, or
//! after the last write of the record: the next start scans them. An older settee also moves documents
//! without moving their entries; such entries are removed before the gap is closed.

use super::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::store;

/// The version byte of the record and of entries.
pub(super) const VERSION: u8 = 1;

/// The two kinds of conflicts, each with its own list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Conflicted {
    /// More than one leaf is not deleted.
    Edits = 0,
    /// A leaf is not deleted, and a deletion was made beside it: its parent is an ancestor of that leaf.
    Deletion = 1,
}

impl Conflicted {
    /// All kinds.
    pub const ALL: [Conflicted; 2] = [Conflicted::Edits, Conflicted::Deletion];
}

/// How far the index of a database is, and its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConflictIndex {
    /// Number of counted entries of each kind.
    pub(super) counts: [u64; 2],
    /// All rows up to this sequence are indexed.
    pub(super) done: u64,
    /// All rows after this sequence are indexed.
    pub(super) goal: u64,
    /// On an embedded store, in memory only: the `upto` of the stored record.
    pub(super) stored: u64,
}

impl ConflictIndex {
    /// The index of a database whose rows up to `sequence` are not indexed.
    pub fn missing(sequence: u64) -> ConflictIndex {
        ConflictIndex { goal: sequence, ..ConflictIndex::default() }
    }

    /// The number of documents that are conflicted in this way, among those that are indexed.
    pub fn count(&self, kind: Conflicted) -> u64 {
        self.counts[kind as usize]
    }

    /// Whether all documents are indexed.
    pub fn is_complete(&self) -> bool {
        self.done >= self.goal
    }

    /// The sequences up to which documents are indexed, and up to which they must be.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.min(self.goal), self.goal)
    }

    /// Whether the row at this sequence is indexed, and its entry counted.
    pub(super) fn covers(&self, sequence: u64) -> bool {
        sequence <= self.done || sequence > self.goal
    }

    /// Appends the fields that an `Info` record on a shared store has.
    pub(super) fn encode_into(&self, out: &mut Writer) {
        for number in [self.counts[0], self.counts[1], self.done, self.goal] {
            out.number(number);
        }
    }

    /// Reads what [`ConflictIndex::encode_into`] has written.
    pub(super) fn decode_from(fields: &mut Reader) -> Option<ConflictIndex> {
        let counts = [fields.number()?, fields.number()?];
        Some(ConflictIndex { counts, done: fields.number()?, goal: fields.number()?, stored: 0 })
    }

    /// The record of an embedded database whose last sequence is `upto`.
    pub(super) fn encode(&self, upto: u64) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.number(upto);
        self.encode_into(&mut out);
        out.0
    }

    /// The index of an embedded database whose last sequence is `sequence`, from its record.
    pub fn read(record: Option<&[u8]>, sequence: u64) -> Result<ConflictIndex> {
        let Some(record) = record else { return Ok(ConflictIndex::missing(sequence)) };
        let read = || {
            let mut fields = Reader::version(record, VERSION)?;
            let upto = fields.number()?;
            Some((upto, ConflictIndex::decode_from(&mut fields)?))
        };
        let (upto, index) = read().ok_or_else(|| Error::Damaged("the record of a database's conflicts".into()))?;
        Ok(match upto == sequence {
            true => ConflictIndex { stored: upto, ..index },
            false if index.is_complete() && upto < sequence => {
                ConflictIndex { done: upto, goal: sequence, stored: upto, ..index }
            }
            // An older settee wrote before the index was complete.
            false => ConflictIndex::missing(sequence),
        })
    }

    /// As [`ConflictIndex::read`]. A damaged record counts as absent: all documents are indexed again.
    pub(super) fn recover(record: store::Result<Option<Vec<u8>>>, sequence: u64) -> Result<ConflictIndex> {
        let read = record.map_err(Error::from).and_then(|record| ConflictIndex::read(record.as_deref(), sequence));
        match read {
            Err(Error::Damaged(what)) => {
                tracing::warn!("the index of conflicts is rebuilt: {what}");
                Ok(ConflictIndex::missing(sequence))
            }
            other => other,
        }
    }
}
