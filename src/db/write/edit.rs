//! The edits that clients send, and their preparation for the writer: resolve stubs, make the revision, run
//! validation.

use std::collections::HashMap;
use std::sync::Arc;

use super::document_edits::Edits;
use super::validate::{Proposal, Terms, Validate};
use crate::db::Database;
use crate::db::commit::prepared_edit::{Edit, Leaf, Mode, digests};
use crate::db::record::{Attachment, BodyRecord, DocumentRecord};
use crate::error::{Error, Result};
use crate::rev::{Revision, RevisionHash, new_revision};
use crate::store::blob::blobs::Pin;
use crate::store::keyspace;

/// A decoded edit from a client or a peer.
pub struct Incoming {
    pub id: String,
    /// Interactive mode: the revision that the edit extends.
    pub parent: Option<Revision>,
    /// Replicated mode: generation and hashes of the revision and its ancestors, newest first; never empty.
    pub path: (u64, Vec<RevisionHash>),
    pub deleted: bool,
    /// The body: compact JSON text without members that start with `_`.
    pub json: String,
    /// Attachments by name.
    pub attachments: Vec<(String, Source)>,
}

/// Where an attachment of an edit comes from.
pub enum Source {
    /// Taken from the parent revision, by name. `revpos`, if set, must equal the parent's (CouchDB:
    /// `couch_doc:merge_stubs`).
    Stub { revpos: Option<u64> },
    /// Stored as a blob already. The edit sets `attachment.revpos` unless `keep_revpos`.
    Written { attachment: Attachment, keep_revpos: bool, pin: Pin },
}

/// Bytes of JSON that are hashed on an async thread. Hashing up to this size is cheaper than a thread
/// hand-off.
const HASHED_INLINE: usize = 64 << 10;

/// Whether edits can be prepared without reading and without much computation.
fn is_light(incoming: &[Incoming], mode: Mode) -> bool {
    let plain =
        incoming.iter().all(|edit| edit.attachments.iter().all(|(_, source)| matches!(source, Source::Written { .. })));
    let hashed = match mode {
        Mode::Interactive => incoming.iter().map(|edit| edit.json.len()).sum(),
        Mode::Replicated => 0,
    };
    plain && hashed <= HASHED_INLINE
}

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

    /// Writes `incoming`. Each edit succeeds or fails on its own: returns one result per edit, in order. The
    /// edits are durable on return.
    ///
    /// Returns the new revisions in interactive mode, and the given revisions in replicated mode.
    ///
    /// # Errors
    /// Per edit: `Conflict`, or the verdict of `validate`. For the whole call, with nothing written:
    /// `MissingStub` (the client must send the attachment's content again), the error of `validate`'s guard,
    /// or an error of the store.
    pub async fn update(
        self: &Arc<Self>,
        incoming: Vec<Incoming>,
        mode: Mode,
        validate: &dyn Validate,
    ) -> Result<Vec<Result<Revision>>> {
        let (terms, guard) = (validate.terms(self), validate.guard(self));
        let asks = validate.applies(self) || incoming.iter().any(|edit| edit.id.starts_with("_design/"));
        let mut prepared = if asks || !is_light(&incoming, mode) {
            let database = self.clone();
            crate::blocking::blocking(move || database.prepare(incoming, mode, asks, terms)).await?
        } else {
            self.prepare(incoming, mode, asks, terms)?
        };
        if let Some(Err(missing)) = prepared.iter().find(|entry| matches!(entry, Err(Error::MissingStub(_)))) {
            return Err(missing.clone());
        }
        if asks {
            let mut proposals = Vec::new();
            let mut asked = Vec::new();
            for (at, entry) in prepared.iter_mut().enumerate() {
                if let Ok((_, proposal)) = entry
                    && let Some(proposal) = proposal.take()
                {
                    asked.push(at);
                    proposals.push(proposal);
                }
            }
            let verdicts = validate.validate(self, proposals).await;
            for (at, verdict) in asked.into_iter().zip(verdicts) {
                if let Err(refused) = verdict {
                    prepared[at] = Err(refused);
                }
            }
        }
        let mut results: Vec<Option<Result<Revision>>> = Vec::with_capacity(prepared.len());
        let mut edits = Vec::with_capacity(prepared.len());
        for entry in prepared {
            match entry {
                Ok((edit, _)) => {
                    edits.push(edit);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        if edits.is_empty() {
            return Ok(results.into_iter().flatten().collect());
        }
        let mut written = self.submit(|reply| Edits::new(edits, mode, guard, reply)).await?.into_iter();
        Ok(results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| written.next().expect("one result per edit")))
            .collect())
    }

    /// Resolves stubs and computes revisions, outside the writer. Reads only the documents of edits that need
    /// it.
    #[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
    fn prepare(
        &self,
        incoming: Vec<Incoming>,
        mode: Mode,
        proposals: bool,
        terms: Terms,
    ) -> Result<Vec<Result<(Edit, Option<Proposal>)>>> {
        let needs = |edit: &Incoming| {
            proposals || edit.attachments.iter().any(|(_, source)| matches!(source, Source::Stub { .. }))
        };
        let mut ids: Vec<&str> = incoming.iter().filter(|edit| needs(edit)).map(|edit| edit.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut records = HashMap::new();
        if !ids.is_empty() {
            let wanted: Vec<Vec<u8>> = ids.iter().map(|id| keyspace::document(self.number, id)).collect();
            for (id, value) in ids.iter().zip(self.store.get_many(&wanted)?) {
                if let Some(value) = value {
                    records.insert((*id).to_owned(), DocumentRecord::decode(id, &value)?);
                }
            }
        }
        Ok(incoming
            .into_iter()
            .map(|edit| {
                let record = records.get(&edit.id);
                self.prepare_one(edit, mode, record, proposals, terms)
            })
            .collect())
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
        let generation = match mode {
            Mode::Interactive => edit.parent.as_ref().map_or(0, |parent| parent.generation) + 1,
            Mode::Replicated => edit.path.0,
        };
        // Like CouchDB, refuse an edit for its revision before looking at its stubs.
        if let (Mode::Interactive, Some(record)) = (mode, record) {
            let stale = match &edit.parent {
                Some(parent) => !record.tree.get(parent).is_some_and(|node| node.is_leaf()),
                None => record.tree.winner().is_some_and(|winner| !winner.deleted),
            };
            if stale {
                return Err(Error::Conflict);
            }
        }
        let previous = match (mode, record) {
            (_, None) => None,
            (Mode::Interactive, Some(record)) => edit.parent.as_ref().and_then(|parent| record.tree.get(parent)),
            (Mode::Replicated, Some(record)) => {
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
        };
        let has_stub = edit.attachments.iter().any(|(_, source)| matches!(source, Source::Stub { .. }));
        let old_body = match previous.and_then(|node| node.body) {
            Some(body) if has_stub || propose => self.body(&edit.id, body)?,
            _ => None,
        };
        let mut attachments = Vec::with_capacity(edit.attachments.len());
        let mut pins = Vec::new();
        let old: HashMap<&str, &Attachment> = match &old_body {
            Some(body) if has_stub => body.attachments.iter().map(|old| (old.name.as_str(), old)).collect(),
            _ => HashMap::new(),
        };
        for (name, source) in edit.attachments {
            match source {
                Source::Written { mut attachment, keep_revpos, pin } => {
                    if !keep_revpos {
                        attachment.revpos = generation;
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
        let body = BodyRecord { attachments, json: edit.json };
        let made = match mode {
            Mode::Replicated => None,
            Mode::Interactive => {
                let digests = digests(&body.attachments);
                let revision = new_revision(edit.deleted, edit.parent.as_ref(), &body.json, &digests);
                Some((edit.parent.clone(), revision))
            }
        };
        let seen = (propose && terms.unmoved).then(|| leaves.clone());
        let proposal = propose.then(|| {
            let old = previous
                .zip(old_body.as_ref())
                .map(|(node, body)| crate::db::read::render::plain(&edit.id, &node.revision, node.deleted, body));
            let revision = match (&made, mode) {
                (_, Mode::Replicated) => Some(Revision { generation, hash: edit.path.1[0].clone() }),
                _ => edit.parent.clone(),
            };
            let path = match mode {
                Mode::Interactive => made.as_ref().map(|(parent, made)| {
                    let mut hashes = vec![made.hash.clone()];
                    hashes.extend(parent.as_ref().map(|parent| parent.hash.clone()));
                    (made.generation, hashes)
                }),
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
                new: crate::db::read::render::proposed(&edit.id, revision.as_ref(), path.as_ref(), edit.deleted, &body),
                old,
            }
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
}

#[cfg(test)]
mod tests;
