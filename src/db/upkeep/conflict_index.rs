//! Completes a database's index of conflicted documents, if it has none yet or an older settee wrote to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::Work;
use crate::db::commit::tally::Tally;
use crate::db::conflicted::Conflicted;
use crate::db::record::DocumentRecord;
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// Rows and entries that are read at once.
const AT_ONCE: usize = 1000;
/// The stored record of the index may be behind by this many sequences before [`Database::store_conflict_index`]
/// writes it.
const BEHIND: u64 = 256;

type Entries = Vec<(Conflicted, u64)>;

/// Ends the indexing of a database when it is dropped.
struct Running(Arc<Database>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.indexing.store(false, Ordering::Release);
    }
}

impl Database {
    /// Indexes the conflicted documents that have no entries yet, between writes. Does nothing if the index is
    /// complete or being completed. Calls `progress` with the last indexed sequence and the last one to index.
    pub async fn index_conflicts(self: &Arc<Self>, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        if self.conflict_index().is_complete() || self.indexing.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let _running = Running(self.clone());
        for kind in Conflicted::ALL {
            self.drop_dangling(kind).await?;
        }
        loop {
            let (done, goal) = self.conflict_index().progress();
            progress(done, goal);
            if done >= goal {
                return Ok(());
            }
            let database = self.clone();
            let (entries, upto) = blocking(move || database.conflicted_after(done, goal)).await?;
            self.submit(|reply| IndexWork { step: Step::Found(entries, upto), reply }).await?;
        }
    }

    /// Stores how far the index reaches, if the stored record is far behind: a restart then has little to read.
    pub async fn store_conflict_index(self: &Arc<Self>) -> Result<()> {
        let index = self.conflict_index();
        let info = self.info();
        if self.store.is_shared() || info.commits > 0 || info.sequence - index.stored.min(info.sequence) < BEHIND {
            return Ok(());
        }
        self.submit(|reply| IndexWork { step: Step::Store, reply }).await
    }

    /// Removes the entries whose rows an older settee has moved.
    async fn drop_dangling(self: &Arc<Self>, kind: Conflicted) -> Result<()> {
        let mut after = 0;
        loop {
            let database = self.clone();
            let (entries, last) = blocking(move || database.dangling_after(kind, after)).await?;
            if !entries.is_empty() {
                self.submit(|reply| IndexWork { step: Step::Drop(entries), reply }).await?;
            }
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Reads a page of entries after a sequence. Returns those without a row, and the last sequence of a full page.
    fn dangling_after(&self, kind: Conflicted, after: u64) -> Result<(Entries, Option<u64>)> {
        let mut range = keyspace::conflicts(self.number, kind as u8);
        range.0 = std::ops::Bound::Excluded(keyspace::conflict(self.number, kind as u8, after));
        let page = self.store.keys(&range, AT_ONCE)?;
        let sequences: Vec<u64> = page.iter().filter_map(|key| keyspace::sequence_of_conflict(key)).collect();
        let rows: Vec<Vec<u8>> = sequences.iter().map(|at| keyspace::sequence(self.number, *at)).collect();
        let mut dangling = Vec::new();
        for (sequence, row) in sequences.iter().zip(self.store.get_each(&rows)?) {
            // A damaged row still exists.
            if matches!(row, Ok(None)) {
                dangling.push((kind, *sequence));
            }
        }
        Ok((dangling, sequences.last().copied().filter(|_| page.len() == AT_ONCE)))
    }

    /// The conflicted documents among a page of the changes after `done`, and the sequence up to which it covers them.
    /// A damaged row is skipped: `settee check` names it.
    fn conflicted_after(&self, done: u64, goal: u64) -> Result<(Entries, u64)> {
        let page = match self.changes(done, Direction::Forward, PageLimit::entries(AT_ONCE)) {
            Err(Error::Damaged(what)) => {
                tracing::warn!(database = %self.name, "the index of conflicts skips a damaged row: {what}");
                let (_, high) = keyspace::kind(self.number, keyspace::Kind::Sequence);
                let low = std::ops::Bound::Excluded(keyspace::sequence(self.number, done));
                let damaged = self.store.keys(&(low, high), 1)?;
                return Ok((Vec::new(), damaged.first().map_or(goal, |key| keyspace::sequence_of(key))));
            }
            page => page?,
        };
        let mut entries = Vec::new();
        for (sequence, row) in &page.rows {
            let open = row.leaves.iter().filter(|leaf| !leaf.deleted).count();
            if open > 1 {
                entries.push((Conflicted::Edits, *sequence));
            }
            if open > 0 && open < row.leaves.len() && self.has_deletion_beside(&row.id)? {
                entries.push((Conflicted::Deletion, *sequence));
            }
        }
        let upto = match page.rows.last() {
            Some((last, _)) if !page.done => *last,
            _ => goal,
        };
        Ok((entries, upto))
    }

    fn has_deletion_beside(&self, id: &str) -> Result<bool> {
        let stored = self.store.get_each(&[keyspace::document(self.number, id)])?.pop();
        let Some(Ok(Some(value))) = stored else { return Ok(false) };
        Ok(DocumentRecord::decode(id, &value).is_ok_and(|record| Tally::of(&record.tree).is(Conflicted::Deletion)))
    }
}

enum Step {
    /// Writes the record of an embedded database.
    Store,
    /// Adds the entries of the conflicted rows that were found, and records up to which sequence rows are indexed.
    Found(Entries, u64),
    /// Removes entries whose rows are gone.
    Drop(Entries),
}

struct IndexWork {
    step: Step,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for IndexWork {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        match &self.step {
            Step::Store => 50,
            Step::Found(entries, _) | Step::Drop(entries) => entries.len() * 20,
        }
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        match &self.step {
            Step::Store => {
                draft.store_index();
                Ok(())
            }
            Step::Found(entries, upto) => draft.index_found(entries, *upto),
            Step::Drop(entries) => draft.drop_entries(entries),
        }
    }

    fn is_derived(&self) -> bool {
        true
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let _ = self.reply.send(committed);
    }
}

#[cfg(test)]
mod tests;
