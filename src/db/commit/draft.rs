//! A commit under construction: the documents it changes, loaded once, and the batch that makes the changes
//! durable.
//!
//! Only the database's writer uses a draft. Every document that a draft changes takes exactly one new
//! sequence, no matter how many edits of it the draft holds. Each document therefore has exactly one row in
//! the changes order:
//!
//! ```text
//! load (one get_many) > apply edits, purges, ... > finish: per changed document
//!     delete q/<old sequence>   put q/<new sequence>   put d/<id>   (bodies are put as edits arrive)
//! and one put of the counters, conditional on the counters that the draft started from.
//! ```

use std::collections::HashMap;

use super::partition::Partitions;
use super::prepared_edit::{Edit, Leaf, Mode};
use super::tally::{Tally, shift};
use crate::db::record::{BodyRecord, DocumentRecord, Info, PurgeRecord};
use crate::error::{Error, Result};
use crate::rev::{Body, Digests, Merged, Revision, RevisionHash, Tree, new_revision};
use crate::store::{Batch, Mark, Store, keyspace};

/// A document may count as smaller although its record grows by up to this many bytes: room for one more
/// revision in its tree.
const MORE_TREE: u64 = 1 << 10;

/// Documents that a draft loads in one call.
const LOADED_AT_ONCE: usize = 512;
/// Bytes of records after which a draft loads no more documents. Decoded trees take several times as much.
const LOADED_BYTES: usize = 16 << 20;
/// The result of [`Draft::finish`].
pub(crate) struct Finished {
    pub batch: Batch,
    pub info: Info,
    /// At least one document was changed, and each changed document has fewer bytes in its leaves or fewer
    /// leaves that are not deleted. Stored data bounds how often such commits can succeed, so they are
    /// allowed on a full disk.
    pub smaller: bool,
    /// Documents with a new sequence.
    pub written: u64,
    /// Those among them that had no record.
    pub inserted: u64,
}

pub(crate) struct Draft<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) number: u64,
    pub(super) before: Info,
    pub info: Info,
    pub batch: Batch,
    documents: HashMap<String, Slot>,
    /// Ids of the documents to write: those with a new sequence, and compacted ones.
    changed: Vec<String>,
    /// Set in a partitioned database.
    partitions: Option<Partitions>,
    /// The draft writes `_security`.
    pub(super) writes_security: bool,
    /// The draft changes entries of the index of conflicts, or writes its record for another reason.
    pub(super) stores_index: bool,
}

/// One loaded document.
#[derive(Default)]
struct Slot {
    tree: Tree,
    /// Sequence of the stored record, and its length in bytes. `None`: no record is stored.
    stored: Option<(u64, usize)>,
    was: Tally,
    /// The new sequence that the document takes in this draft.
    sequence: Option<u64>,
    next_index: u32,
    /// Set if the stored record cannot be read: every change of this document fails with this error, and
    /// other documents are not affected.
    damaged: Option<Error>,
    /// Compaction rewrites the record; readers see no change.
    rewritten: bool,
}

impl<'a> Draft<'a> {
    /// Creates a draft on top of the counters `info`, and loads the documents of `ids`: at least the first one,
    /// and as many of the next as fit into memory. `known`: records by their keys that were read before, and are those of
    /// the counters.
    pub fn load(
        store: &'a dyn Store,
        number: u64,
        info: &Info,
        ids: Vec<String>,
        mut known: HashMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<Draft<'a>> {
        let mut draft = Draft {
            store,
            number,
            before: info.clone(),
            info: info.clone(),
            batch: Batch::new(),
            documents: HashMap::with_capacity(ids.len()),
            changed: Vec::new(),
            partitions: None,
            writes_security: false,
            stores_index: false,
        };
        let mut ids = ids.into_iter().peekable();
        let mut bytes = 0;
        while ids.peek().is_some() && bytes < LOADED_BYTES {
            let mut some: Vec<String> =
                ids.by_ref().take(LOADED_AT_ONCE).filter(|id| !draft.documents.contains_key(id)).collect();
            some.sort_unstable();
            some.dedup();
            bytes += draft.load_some(some, &mut known)?;
        }
        Ok(draft)
    }

    /// Loads documents in one call. Returns the length of their records.
    fn load_some(&mut self, ids: Vec<String>, known: &mut HashMap<Vec<u8>, Option<Vec<u8>>>) -> Result<usize> {
        let keys: Vec<Vec<u8>> = ids.iter().map(|id| keyspace::document(self.number, id)).collect();
        let before: Vec<_> = keys.iter().map(|key| known.remove(key)).collect();
        let wanted: Vec<Vec<u8>> =
            keys.into_iter().zip(&before).filter(|(_, known)| known.is_none()).map(|(key, _)| key).collect();
        let mut read = if wanted.is_empty() { Vec::new() } else { self.store.get_each(&wanted)? }.into_iter();
        let values = before
            .into_iter()
            .map(|known| known.map(Ok).or_else(|| read.next()).expect("a value is read for each key"));
        let mut bytes = 0;
        for (id, value) in ids.into_iter().zip(values) {
            let mut slot = Slot::default();
            match value.map_err(Error::from).and_then(|value| {
                value.map(|value| Ok((DocumentRecord::decode(&id, &value)?, value.len()))).transpose()
            }) {
                Ok(None) => {}
                Ok(Some((record, length))) => {
                    slot.was = Tally::of(&record.tree);
                    slot.stored = Some((record.sequence, length));
                    slot.tree = record.tree;
                    bytes += length;
                }
                Err(error) => slot.damaged = Some(error),
            }
            self.documents.insert(id, slot);
        }
        Ok(bytes)
    }

    /// Whether the document is loaded. If it is not, the draft has no room for it.
    pub fn holds(&self, id: &str) -> bool {
        self.documents.contains_key(id)
    }

    /// Makes the draft one of a partitioned database. A partition may hold at most `limit` bytes (0: no
    /// limit).
    pub fn partitioned(mut self, limit: u64) -> Draft<'a> {
        self.partitions = Some(Partitions::of_at_most(limit));
        self
    }

    /// Applies one edit. Returns the revision that it creates (interactive) or brings (replicated).
    ///
    /// # Errors
    /// [`Error::Conflict`] if an interactive edit does not extend a leaf of a living document, or if the
    /// document's leaves have changed although the edit's [`Terms`](crate::db::Terms) require them to be
    /// unmoved.
    pub fn edit(&mut self, edit: &Edit, mode: Mode) -> Result<Revision> {
        self.intact(&edit.id)?;
        if let Some(seen) = &edit.seen {
            let slot = self.documents.get(&edit.id).expect("the draft has loaded what it edits");
            if Leaf::all(&slot.tree) != *seen {
                return Err(Error::Conflict);
            }
        }
        match mode {
            Mode::Interactive => self.interactive(edit),
            Mode::Replicated => {
                let (generation, hashes) = &edit.path;
                // The tree ignores a revision of generation 0, so answering with success would be wrong.
                if *generation == 0 {
                    return Err(Error::BadRequest("Invalid rev format".into()));
                }
                let revision = Revision { generation: *generation, hash: hashes[0].clone() };
                self.merge(&edit.id, *generation, hashes, edit.deleted, &edit.body);
                Ok(revision)
            }
        }
    }

    fn intact(&self, id: &str) -> Result<()> {
        match self.documents.get(id).and_then(|slot| slot.damaged.clone()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn interactive(&mut self, edit: &Edit) -> Result<Revision> {
        let slot = self.documents.get(&edit.id).expect("the draft has loaded what it edits");
        let parent = actual_parent(&slot.tree, edit)?;
        let revision = match &edit.made {
            Some((assumed, revision)) if *assumed == parent => revision.clone(),
            _ => edit.revision_on(parent.as_ref()),
        };
        if let Some(partitions) = self.partitions.as_mut().filter(|_| !edit.deleted && !edit.id.starts_with("_design/"))
        {
            let was = slot.tree.winner().and_then(|winner| winner.body).map_or(0, |body| body.bytes);
            partitions.check(self.store, self.number, &edit.id, was, edit.body.bytes())?;
        }
        let is_winner = slot.tree.winner().map(|winner| &winner.revision) == parent.as_ref();
        let mut hashes = vec![revision.hash.clone()];
        hashes.extend(parent.map(|parent| parent.hash));
        match self.merge(&edit.id, revision.generation, &hashes, edit.deleted, &edit.body) {
            Merged::Extended | Merged::Branched => {}
            Merged::Unchanged | Merged::Filled => return Err(Error::Conflict),
        }
        if edit.deleted && edit.deletes_all && is_winner {
            self.delete_leaves(&edit.id);
        }
        Ok(revision)
    }

    /// Deletes all leaves of a document that are not deleted yet.
    fn delete_leaves(&mut self, id: &str) {
        let slot = self.documents.get(id).expect("the draft has loaded what it edits");
        let living: Vec<Revision> =
            slot.tree.leaves().into_iter().filter(|leaf| !leaf.deleted).map(|leaf| leaf.revision.clone()).collect();
        let body = BodyRecord { attachments: Vec::new(), json: "{}".into() };
        for leaf in living {
            let tombstone = new_revision(true, Some(&leaf), &body.json, Digests::Known(&[]));
            self.merge(id, tombstone.generation, &[tombstone.hash, leaf.hash], true, &body);
        }
    }

    fn merge(
        &mut self,
        id: &str,
        generation: u64,
        hashes: &[RevisionHash],
        deleted: bool,
        content: &BodyRecord,
    ) -> Merged {
        let slot = self.documents.get_mut(id).expect("the draft has loaded what it edits");
        let sequence = slot.sequence.unwrap_or(self.info.sequence + 1);
        let body = Body { sequence, index: slot.next_index, bytes: content.bytes() };
        let revision = Revision { generation, hash: hashes[0].clone() };
        let before = slot.tree.get(&revision).is_some().then(|| slot.tree.clone());
        let merged = slot.tree.merge(generation, hashes, deleted, Some(body));
        if merged == Merged::Unchanged {
            return merged;
        }
        // Merging only restores ancestors that stemming removes again, so nothing has changed.
        if let Some(before) = before {
            let mut stemmed = slot.tree.clone();
            stemmed.stem(self.info.revs_limit);
            if stemmed == before {
                slot.tree = before;
                return Merged::Unchanged;
            }
        }
        if slot.sequence.is_none() {
            slot.sequence = Some(sequence);
            self.info.sequence = sequence;
            if !slot.rewritten {
                self.changed.push(id.to_owned());
            }
        }
        if slot.tree.get(&revision).is_some_and(|node| node.body == Some(body)) {
            slot.next_index += 1;
            for attachment in &content.attachments {
                let reference = keyspace::blob_reference(&attachment.blob, self.number, body.sequence, body.index);
                self.batch.put(reference, Vec::new());
            }
            self.put(keyspace::body(self.number, body.sequence, body.index), content.encode(), true);
        }
        merged
    }

    /// Removes leaves as if they had never existed. Returns the leaves that were removed.
    pub fn purge(&mut self, uuid: &str, id: &str, revisions: &[Revision]) -> Result<Vec<Revision>> {
        self.intact(id)?;
        let slot = self.documents.get_mut(id).expect("the draft has loaded what it purges");
        let (removed, bodies) = slot.tree.remove_leaves(revisions);
        if !removed.is_empty() && slot.sequence.is_none() {
            self.info.sequence += 1;
            slot.sequence = Some(self.info.sequence);
            if !slot.rewritten {
                self.changed.push(id.to_owned());
            }
        }
        self.drop_bodies(id, &bodies)?;
        self.info.purge_sequence += 1;
        let record = PurgeRecord { uuid: uuid.to_owned(), id: id.to_owned(), revisions: removed.clone() };
        self.batch.put(keyspace::purge(self.number, self.info.purge_sequence), record.encode());
        let sequence = self.info.purge_sequence.to_be_bytes().to_vec();
        self.batch.put(keyspace::purge_uuid(self.number, uuid), sequence);
        Ok(removed)
    }

    /// Drops the bodies of a document's old revisions. Readers of its leaves see no change.
    pub fn compact(&mut self, id: &str) -> Result<()> {
        if self.intact(id).is_err() {
            return Ok(());
        }
        let slot = self.documents.get_mut(id).expect("the draft has loaded what it compacts");
        let bodies = slot.tree.drop_old_bodies();
        // Compaction keeps the document's sequence. After an edit in the same draft, the document has a new
        // one. (It cannot reuse the old sequence, under which bodies are stored already.)
        if !bodies.is_empty() && slot.sequence.is_none() && !std::mem::replace(&mut slot.rewritten, true) {
            self.changed.push(id.to_owned());
        }
        self.drop_bodies(id, &bodies)
    }

    /// Writes a record. `is_new`: the record does not exist while the counters are those that this draft expects,
    /// because its sequence is new, or it was read and not found.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, is_new: bool) {
        if is_new && self.store.is_shared() {
            self.batch.put_new(key, value);
        } else {
            self.batch.put(key, value);
        }
    }

    /// Counts the commit and records its epoch, for the other nodes of a shared store.
    fn count_commit(&mut self, designs: bool) -> Result<()> {
        let info = &mut self.info;
        info.commits += 1;
        info.histories.commit(self.store.epoch()?, self.before.sequence);
        if self.writes_security {
            info.security_at = info.commits;
        }
        if designs {
            info.designs_at = info.commits;
        }
        Ok(())
    }

    /// Whether [`Draft::finish`] reads nothing: no changed document can have revisions to stem.
    pub fn finishes_at_once(&self) -> bool {
        let is_short = |id: &String| {
            self.documents.get(id).is_some_and(|slot| slot.tree.nodes().len() <= self.info.revs_limit as usize)
        };
        self.partitions.is_none() && self.changed.iter().all(is_short)
    }

    /// Completes the batch: stems and writes the changed documents, and updates the counters.
    pub fn finish(mut self) -> Result<Finished> {
        let mut smaller = !self.changed.is_empty();
        let designs = self.changed.iter().any(|id| id.starts_with("_design/"));
        let (mut written, mut inserted) = (0, 0);
        for id in std::mem::take(&mut self.changed) {
            let mut slot = self.documents.remove(&id).expect("a changed document is loaded");
            let kept = slot.stored.map(|(sequence, _)| sequence);
            let sequence = slot.sequence.or(kept).expect("a changed document has its sequence");
            written += u64::from(slot.sequence.is_some());
            inserted += u64::from(slot.stored.is_none());
            let stemmed = slot.tree.stem(self.info.revs_limit);
            self.drop_bodies(&id, &stemmed)?;
            let old_length = slot.stored.map_or(0, |(_, length)| length as u64);
            if let Some((old, _)) = slot.stored
                && old != sequence
            {
                self.batch.delete(keyspace::sequence(self.number, old));
            }
            let document = keyspace::document(self.number, &id);
            let mut new_length = 0;
            let is = Tally::of(&slot.tree);
            if slot.tree.is_empty() {
                self.batch.delete(document);
            } else {
                let record = DocumentRecord { sequence, tree: slot.tree };
                let row = record.sequence_row(&id).encode();
                let value = record.encode();
                new_length = value.len() as u64;
                self.put(keyspace::sequence(self.number, sequence), row, slot.sequence.is_some());
                self.put(document, value, slot.stored.is_none());
            }
            if let Some(partitions) = &mut self.partitions {
                partitions.changed(self.store, self.number, &id, &slot.was, &is)?;
            }
            self.index_change(kept, sequence, &slot.was, &is);
            smaller &= is.is_less_than(&slot.was) && new_length <= old_length + MORE_TREE;
            let info = &mut self.info;
            shift(&mut info.documents, slot.was.live, is.live);
            shift(&mut info.deleted, slot.was.deleted, is.deleted);
            shift(&mut info.external, slot.was.leaf_bytes, is.leaf_bytes);
            shift(&mut info.old, slot.was.all_bytes - slot.was.leaf_bytes, is.all_bytes - is.leaf_bytes);
            shift(&mut info.records, old_length, new_length);
        }
        for (partition, info) in self.partitions.take().into_iter().flat_map(Partitions::finish) {
            self.batch.put(keyspace::partition(self.number, &partition), info.encode());
        }
        if self.store.is_shared() && (self.info != self.before || !self.batch.writes.is_empty()) {
            self.count_commit(designs)?;
        }
        self.finish_index();
        if self.info.sequence != self.before.sequence {
            self.batch.mark = Some(Mark { database: self.number, sequence: self.info.sequence });
        }
        if self.info != self.before {
            let key = keyspace::info(self.number);
            self.batch.expect(key.clone(), Some(self.before.encode()));
            self.batch.put(key, self.info.encode());
        } else if !self.batch.writes.is_empty() {
            self.batch.expect(keyspace::info(self.number), Some(self.before.encode()));
        }
        Ok(Finished { batch: self.batch, info: self.info, smaller, written, inserted })
    }
}

/// The revision that an interactive edit extends. As in CouchDB (`couch_db:prep_and_validate_update`,
/// `couch_db_updater:merge_rev_tree`), an edit without a revision recreates a deleted document on top of its
/// winning tombstone; an edit that names a revision of a deleted document is a conflict.
fn actual_parent(tree: &Tree, edit: &Edit) -> Result<Option<Revision>> {
    let winner = tree.winner();
    match (&edit.parent, winner) {
        (None, None) => Ok(None),
        (None, Some(winner)) if winner.deleted && !edit.deleted => Ok(Some(winner.revision.clone())),
        (None, Some(_)) | (Some(_), None) => Err(Error::Conflict),
        (Some(_), Some(winner)) if winner.deleted => Err(Error::Conflict),
        (Some(parent), Some(_)) => match tree.get(parent) {
            Some(node) if node.is_leaf() => Ok(Some(parent.clone())),
            _ => Err(Error::Conflict),
        },
    }
}
