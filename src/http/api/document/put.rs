//! Single documents: `PUT`, `POST`, `DELETE`, `COPY` (`GET` is in `reading`).

use std::sync::Arc;

use http::{StatusCode, header};
use percent_encoding::percent_decode_str;

use super::incoming::{self, AttachmentRules, named_revision, parse_revision, require_path};
use super::local;
use super::write::{write, written};
use crate::app::App;
use crate::blocking::blocking;
use crate::db::parse::Split;
use crate::db::{Database, Incoming, Mode, Source, check_document_id};
use crate::error::Error;
use crate::http::request::{Request, Verb};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// The number of times `COPY` reads its source before it reports missing attachments as damage.
const COPY_ATTEMPTS: usize = 3;

/// Writes one edit and responds with its revision and 201, or 200 for a deletion by `PUT`. With `batch=ok` it
/// responds with 202 and no revision, and hides conflicts, as in CouchDB, where the client does not wait for
/// the write. settee has written the edit before it responds.
async fn answered(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    id: &str,
    edit: Incoming,
    mode: Mode,
) -> Result<Answer> {
    // A PUT that deletes has the status of a DELETE.
    let status = if edit.deleted && request.verb == Verb::Put { StatusCode::OK } else { StatusCode::CREATED };
    let revision = write(app, request, database, edit, mode).await;
    if request.query.get("batch") == Some("ok") {
        return match revision {
            Ok(_) | Err(Failure::Domain(Error::Conflict)) => {
                Ok(Answer::json_text(StatusCode::ACCEPTED, format!("{{\"ok\":true,\"id\":{}}}", quote(id))))
            }
            Err(failure) => Err(failure),
        };
    }
    Ok(written(request, status, database, id, &revision?.to_string()))
}

/// `PUT /{db}/{id}`.
pub async fn put(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    if let Some(name) = id.strip_prefix("_local/") {
        return local::put(app, request, &database, name).await;
    }
    check_document_id(&id, database.is_partitioned())?;
    let mode = match request.query.get("new_edits") {
        None | Some("true") => Mode::Interactive,
        Some("false") => Mode::Replicated,
        Some(_) => return Err(Failure::bad_request("`new_edits` parameter must be a boolean.")),
    };
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let edit = if content_type.to_ascii_lowercase().starts_with("multipart/related") {
        super::multipart_in::receive(request, &database, id.clone(), mode).await?
    } else {
        let text = request.json_text().await?;
        let split = crate::db::parse::split(text.as_bytes(), &incoming::limits(request))?;
        incoming::check(&database, request, &id, &split)?;
        from_split(request, &database, id.clone(), split, mode).await?
    };
    answered(app, request, &database, &id, edit, mode).await
}

/// Builds the edit from a parsed document and the parameters of its request.
async fn from_split(
    request: &Request,
    database: &Arc<Database>,
    id: String,
    mut split: Split,
    mode: Mode,
) -> Result<Incoming> {
    match mode {
        Mode::Interactive => split.rev = named_revision(request, split.rev.take())?,
        Mode::Replicated => require_path(&mut split, request)?,
    }
    Ok(incoming::prepare(database, id, split, AttachmentRules::of(request), mode == Mode::Replicated).await?)
}

/// `POST /{db}`.
pub async fn post(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let text = request.json_text().await?;
    let split = crate::db::parse::split(text.as_bytes(), &incoming::limits(request))?;
    let id = match &split.id {
        Some(id) => id.clone(),
        None => app.uuids.make(&request.settings.uuids),
    };
    if let Some(name) = id.strip_prefix("_local/") {
        return local::store(app, request, &database, name, split).await;
    }
    incoming::check(&database, request, &id, &split)?;
    let mode = match request.query.get("new_edits") {
        Some("false") => Mode::Replicated,
        _ => Mode::Interactive,
    };
    let edit = from_split(request, &database, id.clone(), split, mode).await?;
    answered(app, request, &database, &id, edit, mode).await
}

/// `DELETE /{db}/{id}`.
pub async fn delete(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    if let Some(name) = id.strip_prefix("_local/") {
        return local::delete(app, request, &database, name).await;
    }
    let eyes = Eyes::of(app, &request.user, &database)?;
    eyes.check_own(&id)?;
    let rev = named_revision(request, None)?;
    // A missing document is 404, not 409.
    let found = super::open_revs::find(&database, &id, None).await?;
    eyes.see(found)?;
    let edit = Incoming {
        id: id.clone(),
        parent: rev,
        path: (0, Vec::new()),
        deleted: true,
        json: "{}".into(),
        attachments: Vec::new(),
    };
    let revision = write(app, request, &database, edit, Mode::Interactive).await?;
    Ok(written(request, StatusCode::OK, &database, &id, &revision.to_string()))
}

/// `COPY /{db}/{id}` with `Destination: id[?rev=...]`.
pub async fn copy(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    let source_rev = request.query.get("rev").map(parse_revision).transpose()?;
    let (target, target_rev) = destination(request)?;
    let (json, attachments) = match id.strip_prefix("_local/") {
        Some(name) => (local::read(app, request, &database, name).await?.json, Vec::new()),
        None => copied(app, request, &database, &id, source_rev).await?,
    };
    if let Some(name) = target.strip_prefix("_local/") {
        let number = local::write(app, request, &database, name, json, target_rev.as_ref()).await?;
        return Ok(written(request, StatusCode::CREATED, &database, &target, &format!("0-{number}")));
    }
    check_document_id(&target, database.is_partitioned())?;
    let edit =
        Incoming { id: target.clone(), parent: target_rev, path: (0, Vec::new()), deleted: false, json, attachments };
    let revision = write(app, request, &database, edit, Mode::Interactive).await?;
    Ok(written(request, StatusCode::CREATED, &database, &target, &revision.to_string()))
}

/// Reads the body of a revision to be copied, and pins its attachments. If the content of one is gone, the
/// revision was compacted or purged after it was read, so it is read again.
async fn copied(
    app: &App,
    request: &Request,
    database: &Arc<Database>,
    id: &str,
    rev: Option<Revision>,
) -> Result<(String, Vec<(String, Source)>)> {
    let eyes = Eyes::of(app, &request.user, database)?;
    eyes.check(id)?;
    for _ in 0..COPY_ATTEMPTS {
        let body = eyes.see(super::open_revs::find(database, id, rev.clone()).await?)?.body;
        if body.attachments.is_empty() {
            return Ok((body.json, Vec::new()));
        }
        let (of, attachments) = (database.clone(), body.attachments);
        if let Some(sources) = blocking(move || of.pin_attachments(&attachments)).await? {
            return Ok((body.json, sources));
        }
    }
    Err(Error::Damaged(format!("the content of an attachment of {id}")).into())
}

/// Parses the `Destination` header: a document id, or a URL of a document on this server.
fn destination(request: &Request) -> Result<(String, Option<Revision>)> {
    let Some(value) = request.header("destination") else {
        return Err(Failure::bad_request("Destination header is mandatory for COPY."));
    };
    let path = match value.split_once("://") {
        None => value,
        Some((_, rest)) => {
            let host = request.header(header::HOST).unwrap_or("");
            match rest.split_once('/') {
                Some((to, path)) if to == host => path.split_once('/').map_or("", |(_, id)| id),
                _ => return Err(Failure::bad_request("Destination URL must be relative.")),
            }
        }
    };
    let (id, query) = path.split_once('?').map_or((path, ""), |(id, query)| (id, query));
    let id = percent_decode_str(id.trim_start_matches('/'))
        .decode_utf8()
        .map_err(|_| Failure::bad_request("Destination must be valid UTF-8."))?
        .into_owned();
    let rev = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "rev").map(|(_, rev)| rev.into_owned());
    let rev = match (rev, request.header(header::IF_MATCH)) {
        (Some(rev), _) => Some(parse_revision(&rev)?),
        (None, Some(etag)) => Some(parse_revision(etag.trim_matches('"'))?),
        (None, None) => None,
    };
    Ok((id, rev))
}

/// `POST /{db}/{id}`: the form that old browsers send, with files as attachments. As in CouchDB, it is
/// accepted only from pages of this server (`couch_httpd:validate_referer`): browsers send forms without a
/// CORS check, so another site could send one with the user's session.
pub async fn form(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    let host = request.header(header::HOST).unwrap_or("");
    let referer = request.header(header::REFERER);
    match referer.and_then(|referer| referer.split_once("://")).and_then(|(_, rest)| rest.split('/').next()) {
        None if referer.is_none() => {
            return Err(Failure::bad_request("Referer header required."));
        }
        Some(from) if from == host => {}
        _ => return Err(Failure::bad_request("Referer header must match host.")),
    }
    check_document_id(&id, database.is_partitioned())?;
    let said = request.header(header::CONTENT_TYPE).unwrap_or("");
    if !said.starts_with("multipart/form-data") {
        return Err(Error::BadContentType("Content-Type must be multipart/form-data".into()).into());
    }
    Eyes::of(app, &request.user, &database)?.check_own(&id)?;
    let edit = super::multipart_in::receive_form(request, &database, id.clone()).await?;
    let revision = write(app, request, &database, edit, Mode::Interactive).await?;
    Ok(written(request, StatusCode::CREATED, &database, &id, &revision.to_string()))
}
