//! From a parsed document to the edit that `db` accepts.

use std::sync::Arc;

use super::attachment_upload::AttachmentRules;
use super::refusal;
use super::revision::named_revision;
use crate::blocking::blocking;
use crate::db::parse::{Limits, Split, Stub};
use crate::db::{Database, Incoming, Mode, Source, check_attachment_name, check_document_id};
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::error::{self, Failure};
use crate::rev::RevisionHash;

/// The limits on the JSON of a document.
pub fn limits(request: &Request) -> Limits {
    Limits {
        depth: request.settings.max_json_depth,
        bytes: usize::try_from(request.settings.max_document_size).unwrap_or(usize::MAX),
    }
}

/// Parses the text of the one document that a request writes. `id`: as in its path.
pub fn split(request: &Request, database: &Database, id: &str, text: &[u8], mode: Mode) -> Result<Split> {
    crate::db::parse::split(text, &limits(request))
        .map_err(|error| refusal::of_text(request, database.name(), id, error, mode, text))
}

/// Checks the document's id and the names of its attachments. `id` takes precedence over the id in `split`.
pub fn check(database: &Database, request: &Request, id: &str, split: &Split) -> Result<()> {
    check_document_id(id, database.is_partitioned())?;
    if id.len() as u64 > request.settings.max_document_id_length {
        return Err(Error::IllegalDocId("Document id is too long".into()));
    }
    split.attachments.iter().try_for_each(|(name, _)| check_attachment_name(name))
}

/// The revision path of a replicated document: from `_revisions`, otherwise the one revision in `_rev`.
pub fn path_of(split: &Split) -> Option<(u64, Vec<RevisionHash>)> {
    match (&split.revisions, &split.rev) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(revision)) => Some((revision.generation, vec![revision.hash.clone()])),
        (None, None) => None,
    }
}

/// Writes inline attachments to the blob store and returns the edit. The caller must have replaced
/// attachments that `follow` in a multipart body. Blocks on disk I/O.
pub fn to_incoming(
    database: &Arc<Database>,
    id: String,
    split: Split,
    rules: &AttachmentRules,
    keep_revpos: bool,
) -> Result<Incoming> {
    let path = path_of(&split).unwrap_or_default();
    let mut attachments = Vec::with_capacity(split.attachments.len());
    for (name, stub) in split.attachments {
        let source = match stub {
            Stub::Stub { fields } => Source::Stub { revpos: fields.revpos },
            Stub::Follows { .. } => {
                return Err(Error::BadRequest(format!(
                    "attachment {name} has `follows`, but the request has no part for it"
                )));
            }
            Stub::Inline { fields, data } => {
                rules.check_size(&name, data.len() as u64)?;
                let content_type = fields.content_type.as_deref().unwrap_or("application/octet-stream");
                // `encoding` counts only for parts of a multipart body, as in CouchDB.
                let mut upload = rules.start(database, &name, content_type, false)?;
                upload.write(&data)?;
                let mut uploaded = upload.finish()?;
                uploaded.attachment.revpos = fields.revpos.unwrap_or(0);
                let keep_revpos = keep_revpos && fields.revpos.is_some();
                Source::Written { attachment: uploaded.attachment, keep_revpos, pin: uploaded.pin }
            }
        };
        attachments.push((name, source));
    }
    Ok(Incoming { id, parent: split.rev, path, deleted: split.deleted, json: split.body, attachments })
}

/// Calls [`to_incoming`]; on a blocking thread if the document has attachments.
pub async fn prepare(
    database: &Arc<Database>,
    id: String,
    split: Split,
    rules: AttachmentRules,
    keep_revpos: bool,
) -> Result<Incoming> {
    if split.attachments.is_empty() {
        return to_incoming(database, id, split, &rules, keep_revpos);
    }
    let database = database.clone();
    blocking(move || to_incoming(&database, id, split, &rules, keep_revpos)).await
}

/// Checks a document and the revision that the request names for it: in the body, the query or `If-Match`. A
/// replicated document must name one.
pub fn admit(database: &Database, request: &Request, id: &str, split: &mut Split, mode: Mode) -> error::Result<()> {
    check(database, request, id, split).map_err(|error| refusal::of_one(request, database.name(), id, error, mode))?;
    match mode {
        Mode::Interactive => split.rev = named_revision(request, split.rev.take())?,
        Mode::Replicated if split.rev.is_none() => split.rev = named_revision(request, None)?,
        Mode::Replicated => {}
    }
    match mode == Mode::Replicated && path_of(split).is_none() {
        true => Err(no_path()),
        false => Ok(()),
    }
}

/// The error of a replicated document without a revision.
pub fn no_path() -> Failure {
    Failure::bad_request("When `new_edits: false`, the document needs `_rev` or `_revisions` specified")
}
