//! Keeps the index of conflicted documents ([`crate::db::conflicted`]) in step with what a draft changes.

use super::draft::Draft;
use super::tally::Tally;
use crate::db::conflicted::{Conflicted, VERSION};
use crate::error::Result;
use crate::store::keyspace;

impl Draft<'_> {
    fn count(&mut self, kind: Conflicted) -> &mut u64 {
        &mut self.info.conflicts.counts[kind as usize]
    }

    /// Removes an entry.
    fn remove_entry(&mut self, kind: Conflicted, sequence: u64) {
        self.stores_index = true;
        self.batch.delete(keyspace::conflict(self.number, kind as u8, sequence));
        if self.info.conflicts.covers(sequence) {
            let count = self.count(kind);
            *count = count.saturating_sub(1);
        }
    }

    fn put_entry(&mut self, kind: Conflicted, sequence: u64) {
        self.stores_index = true;
        self.batch.put(keyspace::conflict(self.number, kind as u8, sequence), vec![VERSION]);
        *self.count(kind) += 1;
    }

    /// Moves the entries of a changed document from the sequence of its stored record to its new one.
    pub(super) fn index_change(&mut self, old: Option<u64>, new: u64, was: &Tally, is: &Tally) {
        for kind in Conflicted::ALL {
            let (was, is, moves) = (was.is(kind), is.is(kind), old != Some(new));
            if let Some(old) = old.filter(|_| was && (moves || !is)) {
                self.remove_entry(kind, old);
            }
            // A row at an unchanged sequence has unchanged leaves, so it is conflicted only if it was before.
            if is && moves {
                self.put_entry(kind, new);
            }
        }
    }

    /// Indexes rows that were found to be conflicted, if they are still there, and notes that all rows up to `upto` are
    /// indexed.
    pub(crate) fn index_found(&mut self, rows: &[(Conflicted, u64)], upto: u64) -> Result<()> {
        for (kind, sequence) in rows.iter().filter(|(_, sequence)| *sequence <= upto) {
            let is_indexed = self.info.conflicts.covers(*sequence);
            if !is_indexed && self.store.get(&keyspace::sequence(self.number, *sequence))?.is_some() {
                self.put_entry(*kind, *sequence);
            }
        }
        let index = &mut self.info.conflicts;
        index.done = index.done.max(upto.min(index.goal));
        Ok(())
    }

    /// Removes entries whose rows are gone.
    pub(crate) fn drop_entries(&mut self, entries: &[(Conflicted, u64)]) -> Result<()> {
        for (kind, sequence) in entries {
            let row = keyspace::sequence(self.number, *sequence);
            let entry = keyspace::conflict(self.number, *kind as u8, *sequence);
            if matches!(self.store.get_many(&[row, entry])?[..], [None, Some(_)]) {
                self.remove_entry(*kind, *sequence);
            }
        }
        Ok(())
    }

    /// Makes an embedded store write the index record, although only its `upto` has changed.
    pub(crate) fn store_index(&mut self) {
        self.stores_index = true;
    }

    /// On an embedded store, writes the index record if an entry or the progress of the index has changed. While the
    /// index is incomplete, every change writes it, so that a restart continues from there.
    pub(super) fn finish_index(&mut self) {
        let (info, before) = (&mut self.info, &self.before);
        if info.commits > 0 || self.store.is_shared() {
            return;
        }
        let changed = self.stores_index
            || info.conflicts != before.conflicts
            || !info.conflicts.is_complete() && info.sequence != before.sequence;
        if changed {
            info.conflicts.stored = info.sequence;
            self.batch.put(keyspace::conflict_index(self.number), info.conflicts.encode(info.sequence));
        }
    }
}
