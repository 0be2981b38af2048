//! Compaction of a database: removes the bodies of old revisions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::{Frees, Work};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// Documents per step of a compaction.
const COMPACTED_AT_ONCE: usize = 200;

/// A running compaction. The database counts as compacting until this is dropped.
pub struct Compaction(Arc<Database>);

impl Compaction {
    /// Removes the bodies of old revisions, a few documents per step, between writes. Calls `progress` with
    /// the last compacted sequence and the sequence at which the compaction ends.
    pub async fn run(self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        self.0.compact_all(progress).await
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.0.compacting.store(false, Ordering::Release);
    }
}

impl Database {
    /// Marks the database as compacting. `None` if a compaction is running already. [`Compaction::run`] does
    /// the work.
    pub fn begin_compaction(self: &Arc<Self>) -> Option<Compaction> {
        let busy = self.compacting.swap(true, Ordering::AcqRel);
        (!busy).then(|| Compaction(self.clone()))
    }

    /// Runs a compaction to its end, unless one is running already.
    pub async fn compact(self: &Arc<Self>, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        match self.begin_compaction() {
            Some(compaction) => compaction.run(progress).await,
            None => Ok(()),
        }
    }

    async fn compact_all(self: &Arc<Self>, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let goal = self.info().sequence;
        loop {
            let done = self.info().compacted;
            progress(done.min(goal), goal);
            if done >= goal {
                break;
            }
            let database = self.clone();
            let (ids, upto) = blocking(move || database.next_to_compact(done, goal)).await?;
            self.submit(|reply| Compact { ids, upto, applied: 0, done: 0, reply }).await?;
        }
        self.forget_purges().await
    }

    /// The next documents that changed after `done`, and the sequence up to which they cover the changes
    /// order. A damaged row of the changes order is skipped, and its document keeps its old bodies.
    fn next_to_compact(&self, done: u64, goal: u64) -> Result<(Vec<String>, u64)> {
        let page = match self.changes(done, Direction::Forward, PageLimit::entries(COMPACTED_AT_ONCE)) {
            Err(Error::Damaged(what)) => {
                tracing::warn!(database = %self.name, "compaction skips a damaged row: {what}");
                let (_, high) = keyspace::kind(self.number, keyspace::Kind::Sequence);
                let low = std::ops::Bound::Excluded(keyspace::sequence(self.number, done));
                let damaged = self.store.keys(&(low, high), 1)?;
                return Ok((Vec::new(), damaged.first().map_or(goal, |key| keyspace::sequence_of(key))));
            }
            page => page?,
        };
        let last = page.rows.last().map_or(0, |(sequence, _)| *sequence);
        let upto = if page.done || last == 0 { goal.max(last) } else { last };
        Ok((page.rows.into_iter().map(|(_, row)| row.id).collect(), upto))
    }
}

struct Compact {
    ids: Vec<String>,
    upto: u64,
    /// How many documents are compacted in the draft, and how many are committed.
    applied: usize,
    done: usize,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for Compact {
    fn ids(&self) -> Vec<String> {
        self.ids[self.done..].to_vec()
    }

    fn bytes(&self) -> usize {
        self.ids.len() * 1000
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.applied = self.done;
        for id in &self.ids[self.done..] {
            if !draft.holds(id) {
                break;
            }
            draft.compact(id)?;
            self.applied += 1;
        }
        if self.is_complete() {
            draft.info.compacted = draft.info.compacted.max(self.upto);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.applied == self.ids.len()
    }

    fn committed(&mut self) {
        self.done = self.applied;
    }

    fn frees(&self) -> Frees {
        Frees::Always
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let _ = self.reply.send(committed);
    }
}
