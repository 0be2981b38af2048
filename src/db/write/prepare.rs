//! Prepares edits for the writer: resolves stubs, computes revisions, and makes proposals for validation.

use std::collections::{HashMap, VecDeque};

use super::incoming::{Incoming, Source};
use super::validate::{Proposal, Terms};
use crate::db::Database;
use crate::db::commit::prepared_edit::{Edit, Leaf, Mode, digests};
use crate::db::read::render::{function_path, proposed};
use crate::db::record::{Attachment, BodyRecord, DocumentRecord};
use crate::error::{Error, Result};
use crate::rev::{Digests, Node, Revision, RevisionHash, new_revision};
use crate::store::blob::blobs::Pin;

/// Edits whose documents are read in one call.
const PREPARED_AT_ONCE: usize = 512;
/// Bytes of documents that are passed to validation in one call.
const PROPOSED_BYTES: usize = 16 << 20;

impl Database {
    /// Pins the attachments of a revision for an edit that takes them over. `None` if the content of one is
    /// not there: the revision must be read again. Blocks on disk I/O.
    pub fn pin_attachments(&self, attachments: &[Attachment]) -> Result<Option<Vec<(String, Source)>>> {
        let mut sources = Vec::with_capacity(attachments.len());
        for attachment in attachments {
            let Some(pin) = self.pin(&attachment.blob)? else { return Ok(None) };
            let source = Source::Written { attachment: attachment.clone(), keep_revpos: false, pin };
            sources.push((attachment.name.clone(), source));
        }
        Ok(Some(sources))
    }

    /// Resolves stubs and computes revisions, outside the writer. Reads only the documents of edits that need
    /// it. Takes edits from the front of `incoming`, as many as may be in memory together with their proposals.
    #[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
    pub(super) fn prepare(
        &self,
        incoming: &mut VecDeque<Incoming>,
        mode: Mode,
        proposals: bool,
        terms: Terms,
    ) -> Result<Vec<Result<(Edit, Option<Proposal>)>>> {
        let needs = |edit: &&Incoming| {
            proposals || edit.attachments.iter().any(|(_, source)| matches!(source, Source::Stub { .. }))
        };
        let count = incoming.len().min(PREPARED_AT_ONCE);
        let mut ids: Vec<&str> = incoming.range(..count).filter(needs).map(|edit| edit.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut records = HashMap::new();
        if !ids.is_empty() {
            for (id, record) in ids.iter().zip(self.records(&ids)?) {
                if let Some(record) = record {
                    records.insert((*id).to_owned(), record);
                }
            }
        }
        let (mut prepared, mut bytes) = (Vec::with_capacity(count), 0);
        while prepared.len() < count && bytes < PROPOSED_BYTES {
            let Some(edit) = incoming.pop_front() else { break };
            let record = records.get(&edit.id);
            let ready = self.prepare_one(edit, mode, record, proposals, terms);
            if let Ok((_, Some(proposal))) = &ready {
                bytes += proposal.new.len() + proposal.old.as_ref().map_or(0, String::len);
            }
            prepared.push(ready);
        }
        Ok(prepared)
    }

    fn prepare_one(
        &self,
        mut edit: Incoming,
        mode: Mode,
        record: Option<&DocumentRecord>,
        propose: bool,
        terms: Terms,
    ) -> Result<(Edit, Option<Proposal>)> {
        if terms.unmoved {
            edit.path.1.truncate(2);
        }
        let leaves =
            if propose { record.map(|record| Leaf::all(&record.tree)).unwrap_or_default() } else { Vec::new() };
        // Like CouchDB, refuse an edit for its revision before looking at its stubs.
        if mode == Mode::Interactive && record.is_some_and(|record| is_stale(&edit, record)) {
            return Err(Error::Conflict);
        }
        let previous = record.and_then(|record| previous(&edit, mode, record));
        let has_stub = edit.attachments.iter().any(|(_, source)| matches!(source, Source::Stub { .. }));
        let old_body = match previous.and_then(|node| node.body) {
            Some(body) if has_stub || propose => self.body(&edit.id, body)?,
            _ => None,
        };
        let sources = std::mem::take(&mut edit.attachments);
        let (attachments, pins) = self.resolve(&edit, mode, sources, old_body.as_ref().filter(|_| has_stub))?;
        let body = BodyRecord { attachments, json: std::mem::take(&mut edit.json) };
        let made = match mode {
            Mode::Replicated => None,
            Mode::Interactive => {
                let digests = digests(&body.attachments);
                let revision = new_revision(edit.deleted, edit.parent.as_ref(), &body.json, Digests::Known(&digests));
                Some((edit.parent.clone(), revision))
            }
        };
        let seen = (propose && terms.unmoved).then(|| leaves.clone());
        let proposal = propose.then(|| {
            let tree = record.map(|record| &record.tree);
            let old = previous.zip(old_body.as_ref()).zip(tree).map(|((node, body), tree)| {
                let path = function_path(tree, &node.revision);
                proposed(&edit.id, Some(&node.revision), Some(&path), node.deleted, body)
            });
            proposal(&edit, mode, &body, old, leaves)
        });
        let ready = Edit {
            id: edit.id,
            parent: edit.parent,
            path: edit.path,
            deleted: edit.deleted,
            body,
            seen,
            deletes_all: terms.deletes_all,
            made,
            _pins: pins,
        };
        Ok((ready, proposal))
    }

    /// Returns the attachments of an edit, with the pins of their blobs. Stubs are taken from the body `old`.
    fn resolve(
        &self,
        edit: &Incoming,
        mode: Mode,
        sources: Vec<(String, Source)>,
        old: Option<&BodyRecord>,
    ) -> Result<(Vec<Attachment>, Vec<Pin>)> {
        let mut attachments = Vec::with_capacity(sources.len());
        let mut pins = Vec::new();
        let old: HashMap<&str, &Attachment> =
            old.into_iter().flat_map(|body| &body.attachments).map(|old| (old.name.as_str(), old)).collect();
        for (name, source) in sources {
            match source {
                Source::Written { mut attachment, keep_revpos, pin } => {
                    if !keep_revpos {
                        attachment.revpos = generation(edit, mode);
                    }
                    attachments.push(attachment);
                    pins.push(pin);
                }
                Source::Stub { revpos } => {
                    let found = old
                        .get(name.as_str())
                        .filter(|found| mode == Mode::Replicated || revpos.is_none_or(|revpos| revpos == found.revpos));
                    let missing = || Error::MissingStub(format!("Invalid attachment stub in {} for {}", edit.id, name));
                    let Some(found) = found else { return Err(missing()) };
                    pins.push(self.pin(&found.blob)?.ok_or_else(missing)?);
                    attachments.push((*found).clone());
                }
            }
        }
        Ok((attachments, pins))
    }
}

/// The generation of the revision that the edit creates or brings.
fn generation(edit: &Incoming, mode: Mode) -> u64 {
    match mode {
        Mode::Interactive => edit.parent.as_ref().map_or(0, |parent| parent.generation) + 1,
        Mode::Replicated => edit.path.0,
    }
}

/// Whether an interactive edit extends no leaf, or has no parent although the document exists.
fn is_stale(edit: &Incoming, record: &DocumentRecord) -> bool {
    match &edit.parent {
        Some(parent) => !record.tree.get(parent).is_some_and(|node| node.is_leaf()),
        None => record.tree.winner().is_some_and(|winner| !winner.deleted),
    }
}

/// The nearest stored revision that the edit extends.
fn previous<'r>(edit: &Incoming, mode: Mode, record: &'r DocumentRecord) -> Option<&'r Node> {
    match mode {
        Mode::Interactive => edit.parent.as_ref().and_then(|parent| record.tree.get(parent)),
        Mode::Replicated => {
            let (start, hashes) = &edit.path;
            hashes
                .iter()
                .enumerate()
                .map_while(|(steps, hash)| {
                    let generation = start.checked_sub(steps as u64)?;
                    Some(Revision { generation, hash: hash.clone() })
                })
                .find_map(|revision| record.tree.get(&revision).filter(|node| node.body.is_some()))
        }
    }
}

/// The path that an interactive edit names with `_revisions`, otherwise its parent alone.
fn named_path(edit: &Incoming, parent: &Revision) -> (u64, Vec<RevisionHash>) {
    let (start, hashes) = &edit.path;
    match *start == parent.generation && hashes.first() == Some(&parent.hash) {
        true => edit.path.clone(),
        false => (parent.generation, vec![parent.hash.clone()]),
    }
}

/// What validation receives of an edit with this body. The new document of an interactive edit names the revisions
/// that the client named, and not the one that the edit creates.
fn proposal(edit: &Incoming, mode: Mode, body: &BodyRecord, old: Option<String>, leaves: Vec<Leaf>) -> Proposal {
    let revision = match mode {
        Mode::Replicated => Some(Revision { generation: edit.path.0, hash: edit.path.1[0].clone() }),
        Mode::Interactive => edit.parent.clone(),
    };
    let path = match mode {
        Mode::Interactive => edit.parent.as_ref().map(|parent| named_path(edit, parent)),
        Mode::Replicated => Some(edit.path.clone()),
    };
    let parent = match mode {
        Mode::Interactive => edit.parent.clone(),
        Mode::Replicated => {
            let generation = edit.path.0.checked_sub(1);
            let hash = edit.path.1.get(1).cloned();
            generation.zip(hash).map(|(generation, hash)| Revision { generation, hash })
        }
    };
    Proposal {
        id: edit.id.clone(),
        parent,
        leaves,
        new: proposed(&edit.id, revision.as_ref(), path.as_ref(), edit.deleted, body),
        old,
    }
}
