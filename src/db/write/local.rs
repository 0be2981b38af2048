//! `_local` documents, for example replication checkpoints. They are not replicated, and have no revision
//! tree and no sequence.
//!
//! Their revision is `0-N`. As in CouchDB (`couch_db_updater:increment_local_doc_revs`), a write increments
//! the revision that it names, and never conflicts.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::db::Database;
use crate::db::commit::draft::Draft;
use crate::db::commit::queue::{Frees, Work};
use crate::db::record::LocalRecord;
use crate::error::{Error, Result};
use crate::store::keyspace;

/// A write of a `_local` document.
pub enum LocalWrite {
    /// `json`: compact JSON text without underscore members. `previous`: the `N` of the revision that the
    /// write names.
    Put {
        json: String,
        previous: Option<u64>,
    },
    Delete,
}

struct Locals {
    writes: Vec<(String, LocalWrite)>,
    revisions: Vec<u64>,
    reply: oneshot::Sender<Result<Vec<u64>>>,
}

impl Database {
    /// Reads a `_local` document; `id` is without the prefix `_local/`.
    pub fn local(&self, id: &str) -> Result<LocalRecord> {
        self.shared.counts.read(1);
        match self.store.get(&keyspace::local(self.number, id))? {
            Some(value) => LocalRecord::decode(id, &value),
            None => Err(Error::Missing),
        }
    }

    /// Writes a `_local` document. Returns the `N` of its new revision `0-N`.
    pub async fn write_local(self: &Arc<Self>, id: &str, write: LocalWrite) -> Result<u64> {
        let mut revisions = self.write_locals(vec![(id.to_owned(), write)]).await?;
        revisions.pop().ok_or_else(|| Error::Internal("a _local document has no revision".into()))
    }

    /// Writes many `_local` documents in one commit. Returns the `N` of each one's new revision, in order.
    pub async fn write_locals(self: &Arc<Self>, writes: Vec<(String, LocalWrite)>) -> Result<Vec<u64>> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.submit(|reply| Locals { writes, revisions: Vec::new(), reply }).await
    }
}

impl Work for Locals {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        let bytes = |write: &LocalWrite| match write {
            LocalWrite::Put { json, .. } => json.len(),
            LocalWrite::Delete => 0,
        };
        self.writes.iter().map(|(_, write)| bytes(write)).sum()
    }

    fn is_light(&self) -> bool {
        true
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        self.revisions.clear();
        for (id, write) in &self.writes {
            let (revision, record) = match write {
                LocalWrite::Put { json, previous } => {
                    let revision = previous.unwrap_or(0).saturating_add(1);
                    (revision, Some(LocalRecord { revision, json: json.clone() }.encode()))
                }
                LocalWrite::Delete => (0, None),
            };
            draft.put_local(id, record);
            self.revisions.push(revision);
        }
        Ok(())
    }

    fn frees(&self) -> Frees {
        match self.writes.iter().all(|(_, write)| matches!(write, LocalWrite::Delete)) {
            true => Frees::Always,
            false => Frees::Never,
        }
    }

    fn is_write(&self) -> bool {
        true
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Locals { revisions, reply, .. } = *self;
        let _ = reply.send(committed.map(|()| revisions));
    }
}
