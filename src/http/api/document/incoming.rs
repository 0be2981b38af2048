//! Decodes documents in requests: from JSON text to the edits that `db` accepts.

use std::sync::Arc;

use http::header;

use super::incoming;
use crate::blocking::blocking;
use crate::db::parse::{Limits, Split, Stub};
use crate::db::{Database, Incoming, Source, Upload, check_document_id};
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::error::Failure;
use crate::rev::{Revision, RevisionHash};

/// The limits on the JSON of a document.
pub fn limits(request: &Request) -> Limits {
    Limits {
        depth: request.settings.max_json_depth,
        bytes: usize::try_from(request.settings.max_document_size).unwrap_or(usize::MAX),
    }
}

/// Parses a revision id from a request.
pub fn parse_revision(text: &str) -> Result<Revision> {
    text.parse().map_err(|_| Error::BadRequest("Invalid rev format".into()))
}

/// Checks an attachment's name (CouchDB: `chttpd_db:validate_attachment_name`).
pub fn check_attachment_name(name: &str) -> Result<()> {
    if name.starts_with('_') {
        return Err(Error::BadRequest(format!("Attachment name '{name}' starts with prohibited character '_'")));
    }
    if name.is_empty() {
        return Err(Error::BadRequest("Attachment name is empty".into()));
    }
    if name.len() > 4096 {
        return Err(Error::BadRequest("Attachment name is too long".into()));
    }
    Ok(())
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
                let gzipped = fields.encoding.as_deref() == Some("gzip");
                let mut upload = rules.start(database, &name, content_type, gzipped)?;
                upload.write(&data)?;
                let mut uploaded = upload.finish()?;
                uploaded.attachment.revpos = fields.revpos.unwrap_or(0);
                let keep_revpos = keep_revpos && fields.revpos.is_some();
                Source::Written { attachment: uploaded.attachment, keep_revpos, pin: uploaded.pin }
            }
        };
        attachments.push((name, source));
    }
    let path = match (&split.revisions, &split.rev) {
        (Some(path), _) => path.clone(),
        (None, Some(revision)) => (revision.generation, vec![revision.hash.clone()]),
        (None, None) => (0, Vec::new()),
    };
    Ok(Incoming { id, parent: split.rev, path, deleted: split.deleted, json: split.body, attachments })
}

/// The settings for attachments.
#[derive(Debug, Clone)]
pub struct AttachmentRules {
    /// Maximum size of an attachment in bytes.
    pub max_size: u64,
    level: u32,
    types: Vec<String>,
}

impl AttachmentRules {
    /// The settings in force for a request.
    pub fn of(request: &Request) -> AttachmentRules {
        AttachmentRules {
            max_size: request.settings.max_attachment_size,
            level: request.settings.compression.level,
            types: request.settings.compression.types.clone(),
        }
    }

    /// Checks the size of the attachment `name` against the maximum.
    pub fn check_size(&self, name: &str, bytes: u64) -> Result<()> {
        if bytes > self.max_size {
            return Err(Error::TooLarge { word: "attachment_too_large", reason: name.to_owned() });
        }
        Ok(())
    }

    /// Begins an upload. `gzipped` says that the client compressed the content with gzip.
    pub fn start(&self, database: &Database, name: &str, content_type: &str, gzipped: bool) -> Result<Upload> {
        let level = if self.compresses(content_type) { self.level } else { 0 };
        Upload::start(&**database.blobs(), name, content_type, gzipped, level)
    }

    /// Whether content of this type is stored compressed. The setting has patterns like `text/*`
    /// (`couch_att`).
    fn compresses(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or("").trim();
        self.types.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => essence.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)),
            None => essence.eq_ignore_ascii_case(pattern),
        })
    }
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

/// The revision that the client names in the body, the query or `If-Match`. Fails with 400 if they differ
/// (CouchDB: `couch_doc_from_req`).
pub fn named_revision(
    request: &Request,
    body: Option<Revision>,
) -> crate::http::response::error::Result<Option<Revision>> {
    let query = request.query.get("rev").filter(|rev| !rev.is_empty()).map(parse_revision).transpose()?;
    let explicit = match (body, query) {
        (Some(body), Some(query)) if body != query => {
            return Err(Failure::bad_request("Document rev from request body and query string have different values"));
        }
        (body, query) => body.or(query),
    };
    let etag = match request.header(header::IF_MATCH) {
        Some(value) => Some(parse_revision(value.trim().trim_start_matches("W/").trim_matches('"'))?),
        None => None,
    };
    match (explicit, etag) {
        (Some(explicit), Some(etag)) if explicit != etag => {
            Err(Failure::bad_request("Document rev and etag have different values"))
        }
        (explicit, etag) => Ok(explicit.or(etag)),
    }
}

/// Checks that a replicated document names its revision, in the body, the query or `If-Match`.
pub fn require_path(split: &mut Split, request: &Request) -> crate::http::response::error::Result<()> {
    if split.rev.is_none() {
        split.rev = named_revision(request, None)?;
    }
    match incoming::path_of(split) {
        Some(_) => Ok(()),
        None => {
            Err(Failure::bad_request("When `new_edits: false`, the document needs `_rev` or `_revisions` specified"))
        }
    }
}
