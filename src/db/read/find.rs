//! Reading one revision of a document.
//!
//! The engines have no snapshots across calls, so a compaction may remove a body after a reader has read its
//! record. A reader that does not find a body reads the record again.

use std::sync::Arc;

use crate::db::Database;
use crate::db::prefetched::At;
use crate::db::record::{BodyRecord, DocumentRecord};
use crate::error::{Error, Result};
use crate::rev::{Body, Node, Revision, Tree};
use crate::store::keyspace;

/// Which revision of a document to read.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// The winner, unless the document is deleted.
    Winner,
    /// This revision, leaf or not, deleted or not, if its body is still stored.
    Revision(&'a Revision),
    /// The leaf that descends from this revision (the first in winner order); the winner if the revision is unknown.
    Latest(&'a Revision),
}

/// A revision with its body and the tree that contains it.
#[derive(Debug, Clone)]
pub struct Found {
    pub id: String,
    pub revision: Revision,
    pub deleted: bool,
    pub body: BodyRecord,
    /// The sequence under which this body is stored.
    pub local_sequence: u64,
    pub tree: Arc<Tree>,
    /// The most ancestors to show. The tree may hold more: it is stemmed when it is written, and
    /// `_revs_limit` may have been lowered since.
    pub history: usize,
}

/// The result of a read that is limited to a number of bytes of bodies with their attachments.
#[derive(Debug, Clone)]
pub enum Within<T> {
    Fits(T),
    /// Nothing was loaded: the first body alone takes this many bytes.
    Large(u64),
}

/// Attempts to read a body before a missing one is reported as damage.
const ATTEMPTS: usize = 5;

/// What [`Database::find_in_memory`] returns.
pub enum InMemory {
    All(Within<Found>),
    /// The body has to be read, and if there is nothing here, the record, too.
    NotAll(Option<Selected>),
}

/// A revision of which the body is to be read.
pub struct Selected {
    revision: Revision,
    deleted: bool,
    /// Where its body is.
    place: Body,
    tree: Arc<Tree>,
}

impl Selected {
    pub(super) fn new(node: &Node, place: Body, tree: Arc<Tree>) -> Selected {
        Selected { revision: node.revision.clone(), deleted: node.deleted, place, tree }
    }

    fn body_key(&self, number: u64) -> Vec<u8> {
        keyspace::body(number, self.place.sequence, self.place.index)
    }
}

/// Selects the revision to read from the stored record of a document. `Large`: its body takes more than `most` bytes.
///
/// # Errors
/// [`Error::Missing`] if there is none, or its body is not stored any more; [`Error::Deleted`] if the winner is wanted and
/// the document is deleted.
fn select(id: &str, record: Option<Vec<u8>>, wanted: Wanted, most: u64) -> Result<Within<Selected>> {
    let record = DocumentRecord::decode(id, &record.ok_or(Error::Missing)?)?;
    let tree = Arc::new(record.tree);
    let node = match wanted {
        Wanted::Winner => match tree.winner() {
            Some(winner) if winner.deleted => return Err(Error::Deleted),
            winner => winner,
        },
        Wanted::Revision(revision) => tree.get(revision),
        Wanted::Latest(revision) => tree.leaves_below(revision).into_iter().next().or_else(|| tree.winner()),
    };
    let node = node.ok_or(Error::Missing)?;
    let place = node.body.ok_or(Error::Missing)?;
    if place.bytes > most {
        return Ok(Within::Large(place.bytes));
    }
    Ok(Within::Fits(Selected::new(node, place, tree.clone())))
}

fn no_body(id: &str) -> Error {
    Error::Damaged(format!("the body of document {id} is not there"))
}

impl Database {
    /// One revision of a document.
    ///
    /// # Errors
    /// [`Error::Missing`] if the document or revision does not exist, or compaction has removed its body;
    /// [`Error::Deleted`] if the winner is wanted and the document is deleted.
    pub fn find(&self, id: &str, wanted: Wanted) -> Result<Found> {
        match self.find_within(id, wanted, u64::MAX)? {
            Within::Fits(found) => Ok(found),
            Within::Large(_) => Err(Error::Internal("no document is that large".into())),
        }
    }

    /// Like [`Database::find`], but does not load a body that takes more than `most` bytes with its
    /// attachments.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_within(&self, id: &str, wanted: Wanted, most: u64) -> Result<Within<Found>> {
        self.find_from(id, None, wanted, most)
    }

    /// As [`Database::find_within`], beginning with what [`Database::find_in_memory`] has found of it.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_from(&self, id: &str, mut known: Option<Selected>, wanted: Wanted, most: u64) -> Result<Within<Found>> {
        let key = keyspace::document(self.number, id);
        for _ in 0..ATTEMPTS {
            let selected = match known.take() {
                Some(selected) => Within::Fits(selected),
                None => select(id, self.store.get(&key)?, wanted, most)?,
            };
            let selected = match selected {
                Within::Fits(selected) => selected,
                Within::Large(bytes) => return Ok(Within::Large(bytes)),
            };
            if let Some(body) = self.body(id, selected.place)? {
                return Ok(Within::Fits(self.found(id, selected, body)));
            }
        }
        Err(no_body(id))
    }

    /// Like [`Database::find_within`], if the store has all that it reads in memory. Otherwise returns what it has. Never
    /// waits for the disk.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub fn find_in_memory(&self, id: &str, wanted: Wanted, most: u64) -> Result<InMemory> {
        let Some(record) = self.store.recent(&keyspace::document(self.number, id)) else {
            return Ok(InMemory::NotAll(None));
        };
        let selected = match select(id, Some(record), wanted, most)? {
            Within::Fits(selected) => selected,
            Within::Large(bytes) => return Ok(InMemory::All(Within::Large(bytes))),
        };
        let Some(body) = self.store.recent(&selected.body_key(self.number)) else {
            return Ok(InMemory::NotAll(Some(selected)));
        };
        self.shared.counts.read(1);
        Ok(InMemory::All(Within::Fits(self.found(id, selected, BodyRecord::decode(id, body)?))))
    }

    /// Like [`Database::find_within`], but waits for a shared store without a thread, and uses the record that was read at
    /// the start of the request.
    ///
    /// # Errors
    /// See [`Database::find`].
    pub async fn find_within_as_task(&self, id: &str, wanted: Wanted<'_>, most: u64) -> Result<Within<Found>> {
        let key = keyspace::document(self.number, id);
        let mut known = self.prefetched.take(&At::of(&self.info()), std::iter::once(key.clone())).remove(&key);
        for _ in 0..ATTEMPTS {
            let record = match known.take() {
                Some(record) => record,
                None => self.begin_get(key.clone()).await?,
            };
            let selected = match select(id, record, wanted, most)? {
                Within::Fits(selected) => selected,
                Within::Large(bytes) => return Ok(Within::Large(bytes)),
            };
            self.shared.counts.read(1);
            let body = self.begin_get(selected.body_key(self.number)).await?;
            if let Some(body) = body {
                let body = BodyRecord::decode(id, body)?;
                return Ok(Within::Fits(self.found(id, selected, body)));
            }
        }
        Err(no_body(id))
    }

    async fn begin_get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let value = self.store.begin_get_each(vec![key]).await?.pop();
        Ok(value.transpose()?.flatten())
    }

    pub(super) fn found(&self, id: &str, selected: Selected, body: BodyRecord) -> Found {
        Found {
            id: id.to_owned(),
            revision: selected.revision,
            deleted: selected.deleted,
            body,
            local_sequence: selected.place.sequence,
            tree: selected.tree,
            history: self.info().revs_limit as usize,
        }
    }
}
