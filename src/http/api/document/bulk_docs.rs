//! `_bulk_docs`: writes many documents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::attachment_upload::AttachmentRules;
use super::refusal::{self, RefusalLog};
use super::{edit, local};
use crate::app::App;
use crate::blocking::{beside, blocking};
use crate::db::parse::{Limits, Split};
use crate::db::{Database, Incoming, LocalWrite, Mode};
use crate::error::{self, Error};
use crate::http::api::session::devices::{self, Checkpoint};
use crate::http::request::{Request, invalid_json};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
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

/// Approximate memory of a document of `_bulk_docs` in addition to its text, until it is written and answered.
const DOCUMENT: usize = 512;

/// `POST /{db}/_bulk_docs`.
pub async fn bulk_docs(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    app.metrics.bulk_requests.fetch_add(1, Ordering::Relaxed);
    request.must_be_json()?;
    let text = request.json_text_of_any_depth().await?;
    let Decoded { mode, all_or_nothing, members } = decode(app, request, &database, &text).await?;
    if all_or_nothing {
        return Ok(refuse_all(&members));
    }
    let length = text.len();
    drop(text);
    let Sorted { ordinary, locals, places } = Sorted::of(members);
    let names: Vec<(String, Option<Revision>)> =
        ordinary.iter().map(|(id, split)| (id.clone(), split.rev.clone())).collect();
    let rules = AttachmentRules::of(request);
    let (edits, refused) = convert(&database, ordinary, rules, mode, length).await?;
    let mut written = document_write::update(app, request.by(), &database, edits, mode).await?.into_iter();
    let results = refused.into_iter().map(|refused| match refused {
        Some(error) => Err(error),
        None => written.next().unwrap_or(Err(Error::Conflict)),
    });
    let results: Vec<error::Result<Revision>> = results.collect();
    let locals = write_locals(app, request, &database, locals).await;
    let (mut log, count) = (RefusalLog::new(request, database.name()), places.len() as u64);
    let answer = answer(mode, places, names.into_iter().zip(results), locals, &mut log);
    if let Some(syncing) = request.syncing.as_ref().filter(|_| mode == Mode::Replicated) {
        syncing.pushed(count, length as u64, log.rows());
    }
    Ok(answer)
}

/// The body of a request.
struct Decoded {
    mode: Mode,
    all_or_nothing: bool,
    /// The documents, in order.
    members: Vec<Member>,
}

/// A document of a request.
enum Member {
    /// With its id.
    Decoded(String, Split),
    /// Refused by itself. `id` and `rev` are JSON.
    Refused { id: String, rev: Option<String>, error: Error },
}

/// Parses and checks all documents of a request.
async fn decode(app: &App, request: &mut Request, database: &Database, text: &str) -> Result<Decoded> {
    let limits = edit::limits(request);
    let body: BulkDocs = beside(text.len(), || serde_json::from_str(text)).map_err(|_| not_an_object(text))?;
    let mode = match body.new_edits.map(RawValue::get) {
        None | Some("true") => Mode::Interactive,
        Some("false") => Mode::Replicated,
        Some(_) => return Err(Failure::bad_request("`new_edits` parameter must be a boolean.")),
    };
    let docs = body.docs.ok_or_else(|| Failure::bad_request("POST body must include `docs` parameter."))?;
    let docs: Vec<&RawValue> = beside(text.len(), || serde_json::from_str(docs.get()))
        .map_err(|_| Failure::bad_request("`docs` parameter must be an array."))?;
    request.body.hold((text.len() + docs.len() * DOCUMENT) as u64).await?;
    let read = |doc: &RawValue| match decode_member(app, request, database, doc, &limits) {
        Ok((id, split)) if mode == Mode::Interactive || edit::path_of(&split).is_some() => {
            Ok(Member::Decoded(id, split))
        }
        Ok(_) => Err(edit::no_path()),
        Err(error) if refusal::is_by_itself(&error, mode, doc.get(), limits.depth) => {
            let (id, rev) = (refusal::id_of(doc.get()), refusal::rev_of(doc.get()));
            Ok(Member::Refused { id, rev, error })
        }
        Err(error) => Err(error.into()),
    };
    let members = beside(text.len(), || docs.into_iter().map(read).collect::<Result<Vec<_>>>())?;
    Ok(Decoded { mode, all_or_nothing: body.all_or_nothing.map(RawValue::get) == Some("true"), members })
}

/// Parses and checks one document, which gets an id if it has none.
fn decode_member(
    app: &App,
    request: &Request,
    database: &Database,
    doc: &RawValue,
    limits: &Limits,
) -> error::Result<(String, Split)> {
    let split = crate::db::parse::split(doc.get().as_bytes(), limits)?;
    let id = match &split.id {
        Some(id) => id.clone(),
        None => app.uuids.make(&request.settings.uuids),
    };
    match id.strip_prefix("_local/") {
        Some(name) => local::check_name(name)?,
        None => edit::check(database, request, &id, &split)?,
    }
    Ok((id, split))
}

/// The answer to `all_or_nothing`. CouchDB gave it up with clusters, and says so of every document.
fn refuse_all(members: &[Member]) -> Answer {
    let (word, reason) = ("not_implemented", "all_or_nothing is not supported");
    let rows = members.iter().map(|member| {
        let (id, rev) = match member {
            Member::Decoded(id, split) => (quote(id), split.rev.as_ref().map(Revision::to_string)),
            Member::Refused { id, .. } => (id.clone(), None),
        };
        let rev = quote(rev.as_deref().unwrap_or("0"));
        format!("{{\"id\":{id},\"rev\":{rev},\"error\":\"{word}\",\"reason\":\"{reason}\"}}")
    });
    Answer::json_text(StatusCode::EXPECTATION_FAILED, format!("[{}]", rows.collect::<Vec<_>>().join(",")))
}

/// The documents of a request, `_local` documents apart.
struct Sorted {
    ordinary: Vec<(String, Split)>,
    locals: Vec<(String, LocalWrite)>,
    /// For each document in order, where it is.
    places: Vec<Place>,
}

/// Where a document of a request went.
enum Place {
    Ordinary,
    Local,
    /// `id` and `rev` are JSON.
    Refused {
        id: String,
        rev: Option<String>,
        error: Error,
    },
}

impl Sorted {
    fn of(members: Vec<Member>) -> Sorted {
        let (mut ordinary, mut locals) = (Vec::with_capacity(members.len()), Vec::new());
        let mut places = Vec::with_capacity(members.len());
        for member in members {
            let (id, split) = match member {
                Member::Decoded(id, split) => (id, split),
                Member::Refused { id, rev, error } => {
                    places.push(Place::Refused { id, rev, error });
                    continue;
                }
            };
            match id.strip_prefix("_local/") {
                Some(name) => {
                    let write = if split.deleted {
                        LocalWrite::Delete
                    } else {
                        let previous = split.rev.as_ref().and_then(local::number_of);
                        LocalWrite::Put { json: split.body, previous }
                    };
                    locals.push((name.to_owned(), write));
                    places.push(Place::Local);
                }
                None => {
                    ordinary.push((id, split));
                    places.push(Place::Ordinary);
                }
            }
        }
        Sorted { ordinary, locals, places }
    }
}

/// Builds the edits, and writes inline attachments to the blob store. `length`: that of the request. Also returns for
/// each document why it is refused by itself.
async fn convert(
    database: &Arc<Database>,
    splits: Vec<(String, Split)>,
    rules: AttachmentRules,
    mode: Mode,
    length: usize,
) -> error::Result<(Vec<Incoming>, Vec<Option<Error>>)> {
    let has_content = splits.iter().any(|(_, split)| !split.attachments.is_empty());
    let database = database.clone();
    let convert = move || {
        let (mut edits, mut refused) = (Vec::with_capacity(splits.len()), Vec::with_capacity(splits.len()));
        for (id, split) in splits {
            match edit::to_incoming(&database, id, split, &rules, mode == Mode::Replicated) {
                Ok(edit) => {
                    edits.push(edit);
                    refused.push(None);
                }
                Err(error) if mode == Mode::Replicated && refusal::is_of_document(&error) => {
                    refused.push(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((edits, refused))
    };
    if has_content { blocking(convert).await } else { beside(length, convert) }
}

/// One row per document, in the order of the request. Replicated documents have rows for failures only.
fn answer(
    mode: Mode,
    places: Vec<Place>,
    written: impl IntoIterator<Item = ((String, Option<Revision>), error::Result<Revision>)>,
    locals: Vec<(String, error::Result<u64>)>,
    log: &mut RefusalLog<'_>,
) -> Answer {
    let (mut written, mut locals) = (written.into_iter(), locals.into_iter());
    let mut out = String::with_capacity(places.len() * 96);
    out.push('[');
    for place in places {
        let (id, rev, result) = match place {
            Place::Local => {
                let (name, number) = locals.next().expect("one result per local document");
                (quote(&format!("_local/{name}")), None, number.map(|number| format!("0-{number}")))
            }
            Place::Ordinary => {
                let ((id, rev), result) = written.next().expect("one result per edit");
                (quote(&id), rev.map(|rev| quote(&rev.to_string())), result.map(|revision| revision.to_string()))
            }
            Place::Refused { id, rev, error } => (id, rev, Err(error)),
        };
        let row = match result {
            Ok(_) if mode == Mode::Replicated => continue,
            Ok(revision) => format!("{{\"ok\":true,\"id\":{id},\"rev\":{}}}", quote(&revision)),
            // A damaged or failing store fails the row, not the others.
            Err(error) => {
                if mode == Mode::Replicated {
                    log.refused(&id, &error);
                }
                refusal::row(&id, rev.as_deref(), &error, mode)
            }
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
    let checkpoint = writes.iter().enumerate().rev().find_map(|(at, (name, write))| match write {
        LocalWrite::Put { json, .. } => Some((at, Checkpoint::read(request, database, name, json)?)),
        LocalWrite::Delete => None,
    });
    // Validating the other documents may have taken seconds.
    let allowed = match users_database::check_local(app, &request.user, database) {
        Ok(()) => request.authorization.confirm(&request.user).await,
        refused => refused,
    };
    let written = match allowed {
        Ok(()) => store_locals(database, writes).await,
        Err(refused) => names.iter().map(|_| Err(refused.clone())).collect(),
    };
    if let Some((last, checkpoint)) = checkpoint
        && written[last].is_ok()
    {
        devices::record(app, checkpoint).await;
    }
    names.into_iter().zip(written).collect()
}

/// Writes `_local` documents in one commit. If the disk is full, the deletions among them are committed alone.
async fn store_locals(database: &Arc<Database>, writes: Vec<(String, LocalWrite)>) -> Vec<error::Result<u64>> {
    let is_deletion = |write: &LocalWrite| matches!(write, LocalWrite::Delete);
    let deleted: Vec<Option<String>> =
        writes.iter().map(|(name, write)| is_deletion(write).then(|| name.clone())).collect();
    match database.write_locals(writes).await {
        Ok(numbers) => numbers.into_iter().map(Ok).collect(),
        Err(Error::Full) => {
            let alone = deleted.iter().flatten().map(|name| (name.clone(), LocalWrite::Delete)).collect();
            let done = database.write_locals(alone).await.map(|_| 0);
            deleted.into_iter().map(|name| if name.is_some() { done.clone() } else { Err(Error::Full) }).collect()
        }
        Err(error) => deleted.into_iter().map(|_| Err(error.clone())).collect(),
    }
}

fn not_an_object(text: &str) -> Failure {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) if !value.get().starts_with('{') => Failure::bad_request("Request body must be a JSON object"),
        _ => invalid_json(),
    }
}
