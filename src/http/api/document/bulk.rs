//! Many documents at once: `_bulk_docs`, `_bulk_get`, `_revs_diff`, `_missing_revs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::attachment_upload::AttachmentRules;
use super::bulk_entries::{Answers, Asked, Entry, Pages, asked};
use super::revision::parse_revision;
use super::{body_writer, edit, get, local};
use crate::app::App;
use crate::blocking::{beside, blocking};
use crate::db::read::render::{self, Attachments, Show};
use crate::db::{Database, LocalWrite, MissingRevisions, Mode};
use crate::error::Error;
use crate::http::api::session::devices::{self, Checkpoint};
use crate::http::request::{Request, invalid_json};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result, wire};
use crate::json::quote;
use crate::policy::visibility::Eyes;
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
    let rules = AttachmentRules::of(request);
    let limits = edit::limits(request);
    let (mode, splits) = {
        let body: BulkDocs = beside(text.len(), || serde_json::from_str(&text)).map_err(|_| not_an_object(&text))?;
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
                None => edit::check(&database, request, &id, &split)?,
            }
            if !new_edits && edit::path_of(&split).is_none() {
                return Err(Failure::bad_request(
                    "When `new_edits: false`, the document needs `_rev` or `_revisions` specified",
                ));
            }
            Ok((id, split))
        };
        let splits = beside(text.len(), || docs.into_iter().map(read).collect::<Result<Vec<_>>>())?;
        // CouchDB gave this up with clusters, and says so of every document.
        if body.all_or_nothing.map(RawValue::get) == Some("true") {
            let (word, reason) = ("not_implemented", "all_or_nothing is not supported");
            let rows = splits.iter().map(|(id, split)| {
                let rev = split.rev.as_ref().map_or_else(|| "0".to_owned(), Revision::to_string);
                json!({"id": id, "rev": rev, "error": word, "reason": reason})
            });
            return Ok(Answer::json(StatusCode::EXPECTATION_FAILED, &rows.collect::<Vec<Value>>()));
        }
        (if new_edits { Mode::Interactive } else { Mode::Replicated }, splits)
    };
    let length = text.len();
    drop(text);
    let (mut ordinary, mut locals, mut is_local) = (Vec::with_capacity(splits.len()), Vec::new(), Vec::new());
    for (id, split) in splits {
        match id.strip_prefix("_local/") {
            Some(local) => {
                let write = if split.deleted {
                    LocalWrite::Delete
                } else {
                    let previous = split.rev.as_ref().and_then(local::number_of);
                    LocalWrite::Put { json: split.body, previous }
                };
                locals.push((local.to_owned(), write));
                is_local.push(true);
            }
            None => {
                ordinary.push((id, split));
                is_local.push(false);
            }
        }
    }
    let ids: Vec<String> = ordinary.iter().map(|(id, _)| id.clone()).collect();
    let has_content = ordinary.iter().any(|(_, split)| !split.attachments.is_empty());
    let keep_revpos = mode == Mode::Replicated;
    let convert = {
        let database = database.clone();
        move || {
            ordinary
                .into_iter()
                .map(|(id, split)| edit::to_incoming(&database, id, split, &rules, keep_revpos))
                .collect::<crate::error::Result<Vec<_>>>()
        }
    };
    let incoming = if has_content { blocking(convert).await? } else { beside(length, convert)? };
    let written = document_write::update(app, request.by(), &database, incoming, mode).await?;
    let mut written = ids.into_iter().zip(written);
    let mut locals = write_locals(app, request, &database, locals).await.into_iter();
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
    Ok(Answer::json_text(StatusCode::CREATED, out))
}

/// Writes the `_local` documents of a request in one commit, and notes its last checkpoint. Returns one
/// result per document, in order.
async fn write_locals(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    writes: Vec<(String, LocalWrite)>,
) -> Vec<(String, crate::error::Result<u64>)> {
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

/// An entry whose document the reader does not see is answered without a look at it.
fn unseen(eyes: &Eyes, asked: Asked) -> Asked {
    let Asked::For { id, .. } = &asked else { return asked };
    let Err(error) = eyes.check(id) else { return asked };
    let failure = Failure::Domain(error);
    let (_, word, reason) = wire(&failure);
    let (word, reason) = (word.into_owned(), reason.into_owned());
    Asked::Wrong { id: id.as_str().into(), rev: "undefined".into(), word: word.into(), reason }
}

/// `POST /{db}/_bulk_get`.
pub async fn bulk_get(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    app.metrics.bulk_requests.fetch_add(1, Ordering::Relaxed);
    request.must_be_json()?;
    let body = request.json_object().await?;
    let Some(docs) = body.get("docs") else { return Err(Failure::bad_request("Missing JSON list of 'docs'.")) };
    let Some(docs) = docs.as_array() else { return Err(Failure::bad_request("Missing JSON list of 'docs'.")) };
    for name in ["open_revs", "new_edits", "w", "rev", "atts_since"] {
        if request.query.get(name).is_some() {
            return Err(Failure::bad_request(format!("\"{name}\" query parameter is not acceptable")));
        }
    }
    let query = get::DocQuery::parse(&request.query)?;
    let latest = query.latest;
    let eyes = Eyes::of(app, &request.user, &database)?;
    let asked = docs.iter().map(|entry| unseen(&eyes, asked(entry, database.is_partitioned()))).collect::<Vec<Asked>>();
    // Unlike `open_revs`: whoever takes JSON, be it by `*/*`, gets JSON (`bulk_get_is_multipart`).
    let kinds = match crate::http::request::accepts(&request.headers, "application/json") {
        true => None,
        false => crate::http::request::wanted(request, &["multipart/mixed", "multipart/related"]),
    };
    match kinds {
        None => {
            let show = query.show;
            Answer::stream(&request.line, "application/json", move |mut out| async move {
                let mut pages = Pages { database: database.clone(), eyes, latest, asked: asked.into() };
                let mut first = true;
                while let Some(page) = pages.next(&mut out).await? {
                    for (entry, answers) in page {
                        out.write(if first { "{\"results\":[" } else { "," }).await;
                        first = false;
                        write_result(&mut out, &mut pages, &show, entry, answers).await?;
                    }
                }
                out.write(if first { "{\"results\":[]}\n" } else { "]}\n" }).await;
                Ok(())
            })
            .await
        }
        Some(kind) => {
            let pages = Pages { database: database.clone(), eyes, latest, asked: asked.into() };
            super::multipart_out::bulk_get(request, database, kind, query.show, pages).await
        }
    }
}

async fn write_result(
    out: &mut Sender,
    pages: &mut Pages,
    show: &Show,
    mut entry: Entry,
    mut answers: Answers,
) -> Result<()> {
    out.write(format!("{{\"id\":{},\"docs\":[", entry.id)).await;
    if let Some(wrong) = &entry.wrong {
        out.write(json!({ "error": wrong }).to_string()).await;
    }
    let mut show = show.clone();
    if let Some(since) = entry.since.take() {
        show.attachments = Attachments::InlineSince(since);
    }
    let mut comma = "";
    while !answers.is_empty() {
        for answer in answers {
            out.write(comma).await;
            comma = ",";
            match answer {
                Ok(found) => {
                    out.write("{\"ok\":").await;
                    body_writer::write(out, pages.database.blobs(), render::document(&found, &show)).await?;
                    out.write("}").await;
                }
                Err(error) => out.write(json!({ "error": error }).to_string()).await,
            }
        }
        answers = pages.rest(&mut entry, out).await?;
    }
    out.write("]}").await;
    Ok(())
}

/// The body of `_revs_diff` and `_missing_revs`: `{id: [rev, ...], ...}`.
async fn wanted_revisions(request: &mut Request) -> Result<Vec<(String, Vec<Revision>)>> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let mut wanted = Vec::with_capacity(body.len());
    for (id, revisions) in body {
        let revisions = revisions.as_array().ok_or_else(|| Failure::bad_request("Invalid rev format"))?;
        let parsed = revisions
            .iter()
            .map(|revision| parse_revision(revision.as_str().unwrap_or("")))
            .collect::<crate::error::Result<Vec<_>>>()?;
        wanted.push((id, parsed));
    }
    Ok(wanted)
}

fn texts(revisions: &[Revision]) -> Vec<String> {
    revisions.iter().map(Revision::to_string).collect()
}

/// What is missing of the revisions that a request names: all of them, of a document that the reader does not see.
async fn missing_of(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Vec<MissingRevisions>> {
    let wanted = wanted_revisions(request).await?;
    let eyes = Eyes::of(app, &request.user, &database)?;
    let (seen, unseen): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(id, _)| eyes.check_own(id).is_ok());
    let mut missing = blocking(move || database.revisions_missing(&seen)).await?;
    missing.extend(unseen.into_iter().filter(|(_, revs)| !revs.is_empty()).map(|(id, revs)| (id, revs, Vec::new())));
    Ok(missing)
}

/// `POST /{db}/_revs_diff`.
pub async fn revs_diff(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let missing = missing_of(app, request, database).await?;
    let mut answer = serde_json::Map::new();
    for (id, missing, ancestors) in missing {
        let mut row = json!({"missing": texts(&missing)});
        if !ancestors.is_empty() {
            row["possible_ancestors"] = texts(&ancestors).into();
        }
        answer.insert(id, row);
    }
    Ok(Answer::ok(&answer))
}

/// `POST /{db}/_missing_revs`.
pub async fn missing_revs(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let missing = missing_of(app, request, database).await?;
    let rows: serde_json::Map<String, Value> =
        missing.into_iter().map(|(id, missing, _)| (id, texts(&missing).into())).collect();
    Ok(Answer::ok(&json!({ "missing_revs": rows })))
}
