//! `_purge`: removes revisions from a document without a trace in its history.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::{Frees, Work};
use crate::db::record::PurgeRecord;
use crate::error::Result;
use crate::rev::Revision;
use crate::store::{Direction, PageLimit, keyspace};

/// A document id with revisions: those to purge, or those that a purge has removed.
pub type Purged = (String, Vec<Revision>);

struct Purge {
    wanted: Vec<(String, String, Vec<Revision>)>,
    removed: Vec<Purged>,
    /// How many documents are purged and committed.
    done: usize,
    reply: oneshot::Sender<Result<Vec<Purged>>>,
}

impl Work for Purge {
    fn ids(&self) -> Vec<String> {
        self.wanted[self.done..].iter().map(|(_, id, _)| id.clone()).collect()
    }

    fn bytes(&self) -> usize {
        self.wanted.len() * 200
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.removed.truncate(self.done);
        for (uuid, id, revisions) in &self.wanted[self.done..] {
            if !draft.holds(id) {
                break;
            }
            self.removed.push((id.clone(), draft.purge(uuid, id, revisions)?));
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.removed.len() == self.wanted.len()
    }

    fn committed(&mut self) {
        self.done = self.removed.len();
    }

    fn frees(&self) -> Frees {
        Frees::WhenSmaller
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Purge { mut removed, done, reply, .. } = *self;
        let answer = match committed {
            // The first documents are purged: the answer names these alone.
            Err(error) if done > 0 => {
                tracing::warn!(%error, "a purge ended after its first {done} documents");
                removed.truncate(done);
                Ok(removed)
            }
            committed => committed.map(|()| removed),
        };
        let _ = reply.send(answer);
    }
}

struct Forget {
    old: Vec<(u64, String)>,
    reply: oneshot::Sender<Result<()>>,
}

impl Work for Forget {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        self.old.len() * 50
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        for (sequence, uuid) in &self.old {
            draft.forget_purge(*sequence, uuid);
        }
        Ok(())
    }

    fn frees(&self) -> Frees {
        Frees::Always
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let _ = self.reply.send(committed);
    }
}

impl Database {
    /// Implements `_purge`: removes leaves as if they had never existed. Revisions in `wanted` that are not
    /// leaves are ignored.
    pub async fn purge(self: &Arc<Self>, wanted: Vec<Purged>) -> Result<Vec<Purged>> {
        let wanted = wanted.into_iter().map(|(id, revisions)| (self.clock.uuid(), id, revisions)).collect();
        self.submit(|reply| Purge { wanted, removed: Vec::new(), done: 0, reply }).await
    }

    /// Purge requests after the purge sequence `after`, oldest first: (purge sequence, request).
    pub fn purges(&self, after: u64, limit: usize) -> Result<Vec<(u64, PurgeRecord)>> {
        let (_, high) = keyspace::kind(self.number, keyspace::Kind::Purge);
        let low = std::ops::Bound::Excluded(keyspace::purge(self.number, after));
        let page = self.store.scan(&(low, high), Direction::Forward, PageLimit::entries(limit))?;
        page.iter().map(|(key, value)| Ok((keyspace::sequence_of(key), PurgeRecord::decode(value)?))).collect()
    }

    /// Removes the oldest purge requests, beyond `_purged_infos_limit`.
    pub(crate) async fn forget_purges(self: &Arc<Self>) -> Result<()> {
        loop {
            let info = self.info();
            let kept = info.purge_sequence.saturating_sub(u64::from(info.purged_infos_limit));
            if info.forgotten_purges >= kept {
                return Ok(());
            }
            let after = info.forgotten_purges;
            let database = self.clone();
            let old = blocking(move || database.purges(after, 500)).await?;
            let old: Vec<(u64, String)> = old
                .into_iter()
                .filter(|(sequence, _)| *sequence <= kept)
                .map(|(sequence, record)| (sequence, record.uuid))
                .collect();
            if old.is_empty() {
                return Ok(());
            }
            self.submit(|reply| Forget { old, reply }).await?;
        }
    }
}
