//! `_local` documents, for example replication checkpoints. They are not replicated, and have no revision
//! tree and no sequence.
//!
//! Their revision is `0-N`. As in CouchDB (`couch_db_updater:increment_local_doc_revs`), a write increments
//! the revision that it names, and never conflicts.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::draft::Draft;
use super::queue::Work;
use super::writer::Frees;
use crate::db::Database;
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

struct Local {
    id: String,
    write: LocalWrite,
    revision: u64,
    reply: oneshot::Sender<Result<u64>>,
}

impl Database {
    /// Reads a `_local` document; `id` is without the prefix `_local/`.
    pub fn local(&self, id: &str) -> Result<LocalRecord> {
        match self.store.get(&keyspace::local(self.number, id))? {
            Some(value) => LocalRecord::decode(id, &value),
            None => Err(Error::Missing),
        }
    }

    /// Writes a `_local` document. Returns the `N` of its new revision `0-N`.
    pub async fn write_local(self: &Arc<Self>, id: &str, write: LocalWrite) -> Result<u64> {
        let id = id.to_owned();
        self.submit(|reply| Local { id, write, revision: 0, reply }).await
    }
}

impl Work for Local {
    fn ids(&self) -> Vec<String> {
        Vec::new()
    }

    fn bytes(&self) -> usize {
        match &self.write {
            LocalWrite::Put { json, .. } => json.len(),
            LocalWrite::Delete => 0,
        }
    }

    fn apply(&mut self, draft: &mut Draft) -> Result<()> {
        match &self.write {
            LocalWrite::Put { json, previous } => {
                self.revision = previous.unwrap_or(0).saturating_add(1);
                let record = LocalRecord { revision: self.revision, json: json.clone() };
                draft.put_local(&self.id, Some(record.encode()));
            }
            LocalWrite::Delete => draft.put_local(&self.id, None),
        }
        Ok(())
    }

    fn frees(&self) -> Frees {
        match self.write {
            LocalWrite::Put { .. } => Frees::Never,
            LocalWrite::Delete => Frees::Always,
        }
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Local { revision, reply, .. } = *self;
        let _ = reply.send(committed.map(|()| revision));
    }
}
