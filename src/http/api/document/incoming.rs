//! Decodes requests that write one document.
//!
//! ```text
//! decode (once) ─> policy ─> writer ─> answer
//!  this file       └────── write.rs ──────┘
//! ```
//! Everything that a request says of its document (path, parameters, headers, body) is read here. What follows
//! sees only the [`Decoded`] write and who asks.

use std::borrow::Cow;
use std::sync::Arc;

use http::{StatusCode, header};
use percent_encoding::percent_decode;

use super::attachment_upload::AttachmentRules;
use super::revision::{explicit_revision, named_revision, parse_revision};
use super::{edit, multipart_in};
use crate::app::App;
use crate::db::parse::Split;
use crate::db::{Database, Incoming, Mode, check_document_id};
use crate::error::Error;
use crate::http::api::session::devices::Checkpoint;
use crate::http::request::{Request, Verb};
use crate::http::response::error::{Failure, Result};
use crate::rev::Revision;

/// A write of one document.
pub struct Decoded {
    /// The id in the answer, with `_local/`.
    pub id: String,
    pub change: Change,
    pub reply: Reply,
}

impl Decoded {
    /// Whether the write is that of a replicator.
    pub fn mode(&self) -> Mode {
        match self.change {
            Change::Document(_, mode) => mode,
            Change::Local { .. } | Change::DeleteLocal { .. } => Mode::Interactive,
        }
    }
}

/// What is written.
pub enum Change {
    Document(Incoming, Mode),
    /// Of a `_local` document, whose `name` is its id without `_local/`.
    Local {
        name: String,
        json: String,
        rev: Option<Revision>,
        /// Set if the document is the checkpoint of a replication.
        checkpoint: Option<Checkpoint>,
    },
    DeleteLocal {
        name: String,
    },
}

/// How the write is answered.
pub struct Reply {
    pub status: StatusCode,
    /// The `Location` of what was created.
    pub location: Option<String>,
    /// `batch=ok`: respond with 202 and no revision, and hide conflicts.
    pub batch: bool,
}

impl Reply {
    /// 201 with the URL of the document.
    pub fn created(request: &Request, database: &Database, id: &str) -> Reply {
        let path = format!("/{}/{}", encode(database.name()), encode(id));
        Reply { status: StatusCode::CREATED, location: Some(request.absolute_uri(&path)), batch: false }
    }

    /// 201 with the URL of an attachment.
    pub fn created_attachment(request: &Request, database: &Database, id: &str, name: &str) -> Reply {
        let path = format!("/{}/{}/{}", encode(database.name()), encode(id), encode(name));
        Reply { status: StatusCode::CREATED, location: Some(request.absolute_uri(&path)), batch: false }
    }

    /// 200.
    pub fn ok() -> Reply {
        Reply { status: StatusCode::OK, location: None, batch: false }
    }
}

/// Percent-encodes a path segment as CouchDB does in `Location`.
pub fn encode(segment: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    match segment.strip_prefix("_design/") {
        Some(rest) => format!("_design/{}", utf8_percent_encode(rest, PLAIN)),
        None => utf8_percent_encode(segment, PLAIN).to_string(),
    }
}

/// Decodes `PUT /{db}/{id}`.
pub async fn put(request: &mut Request, database: &Arc<Database>, id: String) -> Result<Decoded> {
    if id.starts_with("_local/") {
        let split = document(request).await?;
        return local(request, database, id, split);
    }
    check_document_id(&id, database.is_partitioned())?;
    let mode = match request.query.get("new_edits") {
        None | Some("true") => Mode::Interactive,
        Some("false") => Mode::Replicated,
        Some(_) => return Err(Failure::bad_request("`new_edits` parameter must be a boolean.")),
    };
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("");
    let edit = if content_type.to_ascii_lowercase().starts_with("multipart/related") {
        multipart_in::receive(request, database, id, mode).await?
    } else {
        let split = match mode {
            Mode::Interactive => document(request).await?,
            Mode::Replicated => {
                let text = request.json_text_of_any_depth().await?;
                edit::split(request, database, &id, text.as_bytes(), mode)?
            }
        };
        from_split(request, database, id, split, mode).await?
    };
    Ok(ordinary(request, database, edit, mode))
}

/// Decodes `POST /{db}`.
pub async fn post(app: &App, request: &mut Request, database: &Arc<Database>) -> Result<Decoded> {
    request.must_be_json()?;
    let split = document(request).await?;
    let id = match &split.id {
        Some(id) => id.clone(),
        None => app.uuids.make(&request.settings.uuids),
    };
    if id.starts_with("_local/") {
        return local(request, database, id, split);
    }
    let mode = match request.query.get("new_edits") {
        Some("false") => Mode::Replicated,
        _ => Mode::Interactive,
    };
    let edit = from_split(request, database, id, split, mode).await?;
    Ok(ordinary(request, database, edit, mode))
}

/// Parses the body as a document.
async fn document(request: &mut Request) -> Result<Split> {
    let text = request.json_text().await?;
    Ok(crate::db::parse::split(text.as_bytes(), &edit::limits(request))?)
}

/// Builds the edit from a parsed document and the parameters of its request.
async fn from_split(
    request: &Request,
    database: &Arc<Database>,
    id: String,
    mut split: Split,
    mode: Mode,
) -> Result<Incoming> {
    edit::admit(database, request, &id, &mut split, mode)?;
    Ok(edit::prepare(database, id, split, AttachmentRules::of(request), mode == Mode::Replicated).await?)
}

fn ordinary(request: &Request, database: &Database, edit: Incoming, mode: Mode) -> Decoded {
    // A PUT that deletes has the status of a DELETE.
    let reply = match edit.deleted && request.verb == Verb::Put {
        true => Reply::ok(),
        false => Reply::created(request, database, &edit.id),
    };
    let reply = Reply { batch: request.query.get("batch") == Some("ok"), ..reply };
    Decoded { id: edit.id.clone(), change: Change::Document(edit, mode), reply }
}

/// A write of a `_local` document. Drops inline attachments silently, as CouchDB does.
fn local(request: &Request, database: &Database, id: String, split: Split) -> Result<Decoded> {
    if split.deleted {
        return Ok(local_deletion(id));
    }
    let rev = explicit_revision(request, split.rev)?;
    let name = local_name(&id);
    let checkpoint = Checkpoint::read(request, database, &name, &split.body);
    let reply = Reply::created(request, database, &id);
    Ok(Decoded { id, change: Change::Local { name, json: split.body, rev, checkpoint }, reply })
}

fn local_deletion(id: String) -> Decoded {
    let name = local_name(&id);
    Decoded { id, change: Change::DeleteLocal { name }, reply: Reply::ok() }
}

fn local_name(id: &str) -> String {
    id.strip_prefix("_local/").unwrap_or(id).to_owned()
}

/// Decodes `DELETE /{db}/{id}`.
pub fn delete(request: &Request, id: String) -> Result<Decoded> {
    if id.starts_with("_local/") {
        return Ok(local_deletion(id));
    }
    let edit = Incoming {
        id: id.clone(),
        parent: named_revision(request, None)?,
        path: (0, Vec::new()),
        deleted: true,
        json: "{}".into(),
        attachments: Vec::new(),
    };
    Ok(Decoded { id, change: Change::Document(edit, Mode::Interactive), reply: Reply::ok() })
}

/// `COPY /{db}/{id}` with `Destination: id[?rev=...]`.
pub struct Copy {
    pub source_rev: Option<Revision>,
    pub target: String,
    pub target_rev: Option<Revision>,
    pub reply: Reply,
}

/// Decodes `COPY /{db}/{id}`.
pub fn copy(request: &Request, database: &Database) -> Result<Copy> {
    let source_rev = request.query.get("rev").map(parse_revision).transpose()?;
    let (target, target_rev) = destination(request)?;
    let reply = Reply::created(request, database, &target);
    Ok(Copy { source_rev, target, target_rev, reply })
}

/// What is copied of a document.
pub struct Copied {
    pub json: String,
    /// The copy of a tombstone is one, too.
    pub deleted: bool,
    pub attachments: Vec<(String, crate::db::Source)>,
}

impl Copy {
    /// The write of the copy of a document. Attachments go with an ordinary document only.
    pub fn of(self, copied: Copied, database: &Database) -> Result<Decoded> {
        let Copied { json, deleted, attachments } = copied;
        let Copy { target: id, target_rev, reply, .. } = self;
        if let Some(name) = id.strip_prefix("_local/") {
            // Not a checkpoint of this client, whatever the source says.
            let change = Change::Local { name: name.to_owned(), json, rev: target_rev, checkpoint: None };
            return Ok(Decoded { id, change, reply });
        }
        check_document_id(&id, database.is_partitioned())?;
        let path = (0, Vec::new());
        let edit = Incoming { id: id.clone(), parent: target_rev, path, deleted, json, attachments };
        Ok(Decoded { id, change: Change::Document(edit, Mode::Interactive), reply })
    }
}

/// Parses the `Destination` header: the percent-encoded id of a document of this database, optionally with
/// `?rev=`. As in CouchDB, a URL is refused, also one of this server: it could name another database.
fn destination(request: &Request) -> Result<(String, Option<Revision>)> {
    let Some(value) = request.headers.get("destination").map(|value| value.as_bytes()) else {
        return Err(Failure::bad_request("Destination header is mandatory for COPY."));
    };
    if value.starts_with(b"http://") || value.starts_with(b"https://") {
        return Err(Failure::bad_request("Destination URL must be relative."));
    }
    let (id, query) = match value.iter().position(|byte| *byte == b'?') {
        Some(at) => (&value[..at], String::from_utf8_lossy(&value[at + 1..])),
        None => (value, Cow::Borrowed("")),
    };
    let id = decode_id(id, request.settings.plus_is_space)?;
    let rev = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "rev").map(|(_, rev)| rev.into_owned());
    let rev = match (rev, request.header(header::IF_MATCH)) {
        (Some(rev), _) => Some(parse_revision(&rev)?),
        (None, Some(etag)) => Some(parse_revision(etag.trim_matches('"'))?),
        (None, None) => None,
    };
    Ok((id, rev))
}

/// Percent-decodes the id of a document, as in a path.
fn decode_id(encoded: &[u8], plus_is_space: bool) -> Result<String> {
    let plain = |byte: &u8| if plus_is_space && *byte == b'+' { b' ' } else { *byte };
    let encoded: Vec<u8> = encoded.iter().map(plain).collect();
    let decoded = percent_decode(&encoded).decode_utf8();
    let id = decoded.map_err(|_| Error::IllegalDocId("Document id must be valid UTF-8".into()))?;
    Ok(id.into_owned())
}

/// Decodes `POST /{db}/{id}`: the form that old browsers send, with files as attachments. As in CouchDB, it
/// is accepted only from pages of this server (`couch_httpd:validate_referer`): browsers send forms without a
/// CORS check, so another site could send one with the user's session.
pub fn check_form(request: &Request, database: &Database, id: &str) -> Result<()> {
    let host = request.header(header::HOST).unwrap_or("");
    let referer = request.header(header::REFERER);
    match referer.and_then(|referer| referer.split_once("://")).and_then(|(_, rest)| rest.split('/').next()) {
        None if referer.is_none() => {
            return Err(Failure::bad_request("Referer header required."));
        }
        Some(from) if from == host => {}
        _ => return Err(Failure::bad_request("Referer header must match host.")),
    }
    check_document_id(id, database.is_partitioned())?;
    let said = request.header(header::CONTENT_TYPE).unwrap_or("");
    if !said.starts_with("multipart/form-data") {
        return Err(Error::BadContentType("Content-Type must be multipart/form-data".into()).into());
    }
    Ok(())
}

/// Decodes the body of the form.
pub async fn form(request: &mut Request, database: &Arc<Database>, id: String) -> Result<Decoded> {
    let edit = multipart_in::receive_form(request, database, id.clone()).await?;
    let reply = Reply::created(request, database, &id);
    Ok(Decoded { id, change: Change::Document(edit, Mode::Interactive), reply })
}

/// Decodes the document that an update function returns.
pub async fn from_script(request: &Request, database: &Arc<Database>, text: &str) -> Result<Incoming> {
    let split = crate::db::parse::split(text.as_bytes(), &edit::limits(request))?;
    let id = split.id.clone().unwrap_or_default();
    edit::check(database, request, &id, &split)?;
    Ok(edit::prepare(database, id, split, AttachmentRules::of(request), false).await?)
}
