//! Writes documents on their way into a database of this server.

use std::sync::Arc;

use super::blocking::blocking;
use crate::db::record::Attachment;
use crate::db::{Database, Incoming, Source, Wanted, check_attachment_name, check_document_id};
use crate::error::{Error, Result};
use crate::replicate::access::{Access, Limits};
use crate::replicate::memory::Held;
use crate::replicate::peer::{Attached, Content, Document, Verdict};
use crate::rev::Revision;

/// Writes documents. Returns one verdict for each, in order. They are durable when this returns.
///
/// # Errors
/// What concerns all of them: the user may not write, or the store fails.
pub(super) async fn write(
    access: &dyn Access,
    database: &Arc<Database>,
    documents: Vec<Document>,
) -> Result<Vec<Verdict>> {
    let limits = access.limits();
    let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(documents.len());
    let (mut places, mut ready) = (Vec::new(), Vec::new());
    for (at, document) in documents.into_iter().enumerate() {
        let mut verdict = check(database, &document, limits).err().map(|error| Verdict::Refused(error.to_string()));
        let document = match verdict.is_none() && document.has_stubs() {
            true => with_contents(database, document).await?,
            false => Some(document),
        };
        match document.filter(|_| verdict.is_none()) {
            Some(document) => {
                places.push(at);
                ready.push(document);
            }
            None => verdict = verdict.or(Some(Verdict::MissingStub)),
        }
        verdicts.push(verdict);
    }
    for (at, verdict) in places.into_iter().zip(write_all(access, database, ready).await?) {
        verdicts[at] = Some(verdict);
    }
    Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or(Verdict::Written)).collect())
}

/// Bodies of ancestors that are looked through for the contents of attachments.
const LOOKED_THROUGH: usize = 3;

/// Finds the contents of the attachments that were left out: in the newest stored ancestors, by name and digest.
/// `None` if one of them is not there.
async fn with_contents(database: &Arc<Database>, mut document: Document) -> Result<Option<Document>> {
    let database = database.clone();
    blocking(move || {
        let Some(record) = database.record(&document.id)? else { return Ok(None) };
        let (start, hashes) = &document.path;
        let ancestors = hashes.iter().enumerate().skip(1).map_while(|(steps, hash)| {
            let generation = start.checked_sub(steps as u64)?;
            Some(Revision { generation, hash: hash.clone() })
        });
        let stored = |revision: &Revision| record.tree.get(revision).is_some_and(|node| node.body.is_some());
        let stored: Vec<Revision> = ancestors.filter(stored).take(LOOKED_THROUGH).collect();
        for revision in stored {
            let found = match database.find(&document.id, Wanted::Revision(&revision)) {
                Ok(found) => found,
                Err(Error::Missing) => continue,
                Err(error) => return Err(error),
            };
            for attached in &mut document.attachments {
                let same = |known: &&Attachment| known.name == attached.about.name && known.md5 == attached.about.md5;
                let Content::Stub = attached.content else { continue };
                if let Some(known) = found.body.attachments.iter().find(same)
                    && let Some(pins) = database.pins(std::slice::from_ref(known))?
                {
                    let about = Attachment { revpos: attached.about.revpos, ..known.clone() };
                    *attached = Attached { about, content: Content::Blob(pins[0].clone()) };
                }
            }
            if !document.has_stubs() {
                return Ok(Some(document));
            }
        }
        Ok(None)
    })
    .await
}

/// Whether a document fits this server at all.
fn check(database: &Database, document: &Document, limits: Limits) -> Result<()> {
    check_document_id(&document.id, database.is_partitioned())?;
    if document.id.len() > limits.id {
        return Err(Error::IllegalDocId("Document id is too long".into()));
    }
    if document.json.len() > limits.document {
        return Err(Error::TooLarge { word: "document_too_large", reason: document.id.clone() });
    }
    for attached in &document.attachments {
        check_attachment_name(&attached.about.name)?;
        if attached.about.length.max(attached.about.stored) > limits.attachment {
            return Err(Error::TooLarge { word: "attachment_too_large", reason: attached.about.name.clone() });
        }
    }
    Ok(())
}

async fn write_all(access: &dyn Access, database: &Arc<Database>, documents: Vec<Document>) -> Result<Vec<Verdict>> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    // The memory is held until the commit has returned.
    let (edits, _held): (Vec<Incoming>, Vec<_>) = documents.into_iter().map(edit).unzip();
    let results = access.write(database, edits).await?;
    results.into_iter().map(|result| result.map_or_else(verdict, |_| Ok(Verdict::Written))).collect()
}

fn edit(document: Document) -> (Incoming, Option<Held>) {
    let attachments = document.attachments.into_iter().map(|attached| {
        let name = attached.about.name.clone();
        let source = match attached.content {
            Content::Blob(pin) => Source::Written { attachment: attached.about, keep_revpos: true, pin },
            Content::Stub => Source::Stub { revpos: Some(attached.about.revpos) },
        };
        (name, source)
    });
    let edit = Incoming {
        attachments: attachments.collect(),
        id: document.id,
        parent: None,
        path: document.path,
        deleted: document.deleted,
        json: document.json,
    };
    (edit, document.held)
}

/// What the refusal of one document means: it is passed over, or the pass ends.
fn verdict(error: Error) -> Result<Verdict> {
    match error {
        // Of this server, and not of the document. The pass ends, and starts again at its checkpoint.
        Error::Again(_)
        | Error::Down(_)
        | Error::Locked(_)
        | Error::Conflict
        | Error::Full
        | Error::Damaged(_)
        | Error::Internal(_)
        | Error::NoDatabase => Err(error),
        Error::Script { ref word, .. } if word == "timeout" || word == "os_process_error" => Err(error),
        Error::MissingStub(_) => Ok(Verdict::MissingStub),
        Error::BadRequest(_)
        | Error::QueryParse(_)
        | Error::IllegalDocId(_)
        | Error::IllegalDatabaseName(_)
        | Error::DatabaseNameTooLong(_)
        | Error::DocValidation(_)
        | Error::Unauthorized(_)
        | Error::Forbidden(_)
        | Error::Missing
        | Error::Deleted
        | Error::NotFound(_)
        | Error::PartitionOverflow(_)
        | Error::DatabaseExists
        | Error::TooLarge { .. }
        | Error::RangeNotSatisfiable
        | Error::BadContentType(_)
        | Error::Script { .. }
        | Error::Thrown { .. }
        | Error::Mango { .. } => Ok(Verdict::Refused(error.to_string())),
    }
}
