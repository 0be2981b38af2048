//! `_bulk_docs`: writes many documents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::attachment_upload::AttachmentRules;
use super::{edit, local};
use crate::app::App;
use crate::blocking::{beside, blocking};
use crate::db::parse::Split;
use crate::db::{Database, Incoming, LocalWrite, Mode};
use crate::error::{self, Error};
use crate::http::api::session::devices::{self, Checkpoint};
use crate::http::request::{Request, invalid_json};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result, wire};
use crate::json::quote;
use crate::policy::{document_write, users_database};
use crate::rev::Revision;

/// `{"docs": [...], "new_edits": ...}` with the documents left as text.
#[derive(Deserialize)]
struct BulkDocs<'a> {
    #[serde(borrow)]
    docs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    new_edits: Option<&'a RawValue>,
    #[serde(borrow, default)]
    all_or_nothing: Option<&'a RawValue>,
}

/// About what a document of `_bulk_docs` takes in memory beside its text, until it is written and answered.
const DOCUMENT: usize = 512;

/// `POST /{db}/_bulk_docs`.
pub async fn bulk_docs(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    app.metrics.bulk_requests.fetch_add(1, Ordering::Relaxed);
    request.must_be_json()?;
    let text = request.json_text().await?;
    let Decoded { mode, all_or_nothing, splits } = decode(app, request, &database, &text).await?;
    if all_or_nothing {
        return Ok(refuse_all(&splits));
    }
    let length = text.len();
    drop(text);
    let Sorted { ordinary, locals, is_local } = Sorted::of(splits);
    let ids: Vec<String> = ordinary.iter().map(|(id, _)| id.clone()).collect();
    let rules = AttachmentRules::of(request);
    let incoming = convert(&database, ordinary, rules, mode, length).await?;
    let written = document_write::update(app, request.by(), &database, incoming, mode).await?;
    let locals = write_locals(app, request, &database, locals).await;
    Ok(answer(mode, is_local, ids.into_iter().zip(written), locals))
}

/// The body of a request.
struct Decoded {
    mode: Mode,
    all_or_nothing: bool,
    /// The documents with their ids, in order.
    splits: Vec<(String, Split)>,
}

/// Parses and checks all documents of a request.
async fn decode(app: &App, request: &mut Request, database: &Database, text: &str) -> Result<Decoded> {
    let limits = edit::limits(request);
    let body: BulkDocs = beside(text.len(), || serde_json::from_str(text)).map_err(|_| not_an_object(text))?;
    let new_edits = match body.new_edits.map(RawValue::get) {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(Failure::bad_request("`new_edits` parameter must be a boolean.")),
    };
    let docs = body.docs.ok_or_else(|| Failure::bad_request("POST body must include `docs` parameter."))?;
    let docs: Vec<&RawValue> = beside(text.len(), || serde_json::from_str(docs.get()))
        .map_err(|_| Failure::bad_request("`docs` parameter must be an array."))?;
    request.body.hold((text.len() + docs.len() * DOCUMENT) as u64).await?;
    let read = |doc: &RawValue| {
        let split = crate::db::parse::split(doc.get().as_bytes(), &limits)?;
        let id = match &split.id {
            Some(id) => id.clone(),
            None => app.uuids.make(&request.settings.uuids),
        };
        match id.strip_prefix("_local/") {
            Some(name) => local::check_name(name)?,
            None => edit::check(database, request, &id, &split)?,
        }
        if !new_edits && edit::path_of(&split).is_none() {
            return Err(edit::no_path());
        }
        Ok((id, split))
    };
    let splits = beside(text.len(), || docs.into_iter().map(read).collect::<Result<Vec<_>>>())?;
    let mode = if new_edits { Mode::Interactive } else { Mode::Replicated };
    Ok(Decoded { mode, all_or_nothing: body.all_or_nothing.map(RawValue::get) == Some("true"), splits })
}

/// The answer to `all_or_nothing`. CouchDB gave it up with clusters, and says so of every document.
fn refuse_all(splits: &[(String, Split)]) -> Answer {
    let (word, reason) = ("not_implemented", "all_or_nothing is not supported");
    let rows = splits.iter().map(|(id, split)| {
        let rev = split.rev.as_ref().map_or_else(|| "0".to_owned(), Revision::to_string);
        json!({"id": id, "rev": rev, "error": word, "reason": reason})
    });
    Answer::json(StatusCode::EXPECTATION_FAILED, &rows.collect::<Vec<Value>>())
}

/// The documents of a request, `_local` documents apart.
struct Sorted {
    ordinary: Vec<(String, Split)>,
    locals: Vec<(String, LocalWrite)>,
    /// For each document in order, whether it is in `locals`.
    is_local: Vec<bool>,
}

impl Sorted {
    fn of(splits: Vec<(String, Split)>) -> Sorted {
        let (mut ordinary, mut locals) = (Vec::with_capacity(splits.len()), Vec::new());
        let mut is_local = Vec::new();
        for (id, split) in splits {
            is_local.push(id.starts_with("_local/"));
            match id.strip_prefix("_local/") {
                Some(name) => {
                    let write = if split.deleted {
                        LocalWrite::Delete
                    } else {
                        let previous = split.rev.as_ref().and_then(local::number_of);
                        LocalWrite::Put { json: split.body, previous }
                    };
                    locals.push((name.to_owned(), write));
                }
                None => ordinary.push((id, split)),
            }
        }
        Sorted { ordinary, locals, is_local }
    }
}

/// Builds the edits, and writes inline attachments to the blob store. `length`: that of the request.
async fn convert(
    database: &Arc<Database>,
    splits: Vec<(String, Split)>,
    rules: AttachmentRules,
    mode: Mode,
    length: usize,
) -> error::Result<Vec<Incoming>> {
    let has_content = splits.iter().any(|(_, split)| !split.attachments.is_empty());
    let database = database.clone();
    let convert = move || {
        let convert = |(id, split)| edit::to_incoming(&database, id, split, &rules, mode == Mode::Replicated);
        splits.into_iter().map(convert).collect::<error::Result<Vec<_>>>()
    };
    if has_content { blocking(convert).await } else { beside(length, convert) }
}

/// One row per document, in the order of the request. Replicated documents have rows for failures only.
fn answer(
    mode: Mode,
    is_local: Vec<bool>,
    written: impl IntoIterator<Item = (String, error::Result<Revision>)>,
    locals: Vec<(String, error::Result<u64>)>,
) -> Answer {
    let (mut written, mut locals) = (written.into_iter(), locals.into_iter());
    let mut out = String::with_capacity(is_local.len() * 96);
    out.push('[');
    for is_local in is_local {
        let (id, result) = if is_local {
            let (name, number) = locals.next().expect("one result per local document");
            (format!("_local/{name}"), number.map(|number| format!("0-{number}")))
        } else {
            let (id, result) = written.next().expect("one result per edit");
            (id, result.map(|revision| revision.to_string()))
        };
        let row = match result {
            Ok(_) if mode == Mode::Replicated => continue,
            Ok(revision) => format!("{{\"ok\":true,\"id\":{},\"rev\":{}}}", quote(&id), quote(&revision)),
            Err(error) => refused(&id, error),
        };
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&row);
    }
    out.push(']');
    Answer::json_text(StatusCode::CREATED, out)
}

/// Writes the `_local` documents of a request in one commit, and notes its last checkpoint. Returns one
/// result per document, in order.
async fn write_locals(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    writes: Vec<(String, LocalWrite)>,
) -> Vec<(String, error::Result<u64>)> {
    if writes.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = writes.iter().map(|(name, _)| name.clone()).collect();
    let checkpoint = writes.iter().rev().find_map(|(_, write)| match write {
        LocalWrite::Put { json, .. } => Checkpoint::read(request, database.name(), json),
        LocalWrite::Delete => None,
    });
    // Validating the other documents may have taken seconds.
    let allowed = match users_database::check_local(app, &request.user, database) {
        Ok(()) => request.standing.confirm(&request.user).await,
        refused => refused,
    };
    let written = match allowed {
        Ok(()) => database.write_locals(writes).await,
        Err(refused) => Err(refused),
    };
    match written {
        Ok(numbers) => {
            if let Some(checkpoint) = checkpoint {
                devices::record(app, checkpoint).await;
            }
            names.into_iter().zip(numbers.into_iter().map(Ok)).collect()
        }
        Err(error) => names.into_iter().map(|name| (name, Err(error.clone()))).collect(),
    }
}

/// A row for an edit that was not written. A damaged or failing store fails the row, not the others.
fn refused(id: &str, error: Error) -> String {
    let failure = Failure::Domain(error);
    let (_, word, reason) = wire(&failure);
    json!({"id": id, "error": word, "reason": reason}).to_string()
}

fn not_an_object(text: &str) -> Failure {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) if !value.get().starts_with('{') => Failure::bad_request("Request body must be a JSON object"),
        _ => invalid_json(),
    }
}
