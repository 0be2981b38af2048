//! Writes to another server: `_revs_diff`, `_bulk_docs`, and documents with attachments as multipart.

use std::collections::HashMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::connection::{Connection, SMALL};
use super::outgoing;
use super::requester::Ask;
use super::text::{document_path, shown, text_of};
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Change, Document, Missing, Verdict};
use crate::rev::Revision;

/// Bytes of an answer with one row for each document.
const LARGE: usize = 16 << 20;

#[derive(Deserialize)]
struct Diff {
    #[serde(default)]
    missing: Vec<String>,
    #[serde(default)]
    possible_ancestors: Vec<String>,
}

/// Which of these revisions the server does not have.
pub(super) async fn revs_diff(connection: &Connection<'_>, changes: Vec<Change>) -> Result<Vec<Missing>, Failure> {
    let texts = |revisions: &[Revision]| revisions.iter().map(Revision::to_string).collect::<Vec<_>>();
    let wanted: Map<String, Value> =
        changes.iter().map(|change| (change.id.clone(), texts(&change.revisions).into())).collect();
    let ask = Ask::with(Method::POST, "/_revs_diff", Value::Object(wanted).to_string());
    let (status, body) = connection.requester.fetch(&ask, LARGE).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(gone(connection)),
        _ => return Err(connection.requester.failure_of(status, &body)),
    }
    let mut rows: HashMap<String, Diff> =
        serde_json::from_slice(&body).map_err(|_| Failure::Protocol("the answer of _revs_diff is malformed".into()))?;
    let mut missing = Vec::new();
    for Change { id, revisions } in changes {
        let Some(Diff { missing: named, possible_ancestors }) = rows.remove(&id) else { continue };
        // What was not asked for is ignored.
        let named: Vec<Revision> = named.iter().filter_map(|revision| revision.parse().ok()).collect();
        let revisions: Vec<Revision> = revisions.into_iter().filter(|revision| named.contains(revision)).collect();
        if !revisions.is_empty() {
            let ancestors = possible_ancestors.iter().filter_map(|revision| revision.parse().ok()).collect();
            missing.push(Missing { id, revisions, ancestors });
        }
    }
    Ok(missing)
}

fn gone(connection: &Connection<'_>) -> Failure {
    Failure::DbNotFound(format!("{}/", connection.requester.endpoint.url))
}

/// Writes documents. Returns one verdict for each, in order.
pub(super) async fn write(connection: &Connection<'_>, documents: Vec<Document>) -> Result<Vec<Verdict>, Failure> {
    let mut verdicts = vec![Verdict::Written; documents.len()];
    let (with, without): (Vec<_>, Vec<_>) =
        documents.into_iter().enumerate().partition(|(_, document)| document.has_contents());
    // One by one: with a stub that the server cannot resolve, it refuses the whole call.
    let (alone, together): (Vec<_>, Vec<_>) = without.into_iter().partition(|(_, document)| document.has_stubs());
    if !together.is_empty() {
        bulk_docs(connection, &together, &mut verdicts).await?;
    }
    for (at, document) in with.into_iter().chain(alone) {
        verdicts[at] = put(connection, &document).await?;
    }
    Ok(verdicts)
}

#[derive(Deserialize)]
struct WriteRow {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    rev: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    reason: Option<Value>,
}

/// Writes documents in one request. If the server refuses the whole request, one by one.
async fn bulk_docs(
    connection: &Connection<'_>,
    documents: &[(usize, Document)],
    verdicts: &mut [Verdict],
) -> Result<(), Failure> {
    let bytes: usize = documents.iter().map(|(_, document)| document.bytes()).sum();
    let mut body = String::with_capacity(bytes + 100);
    body.push_str("{\"new_edits\":false,\"docs\":[");
    for (at, (_, document)) in documents.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        body.push_str(&outgoing::text(document, false));
    }
    body.push_str("]}");
    let ask = Ask::with(Method::POST, "/_bulk_docs", body);
    let (status, body) = connection.requester.fetch_of_document(&ask, LARGE).await?;
    match status {
        StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(gone(connection)),
        // One document that is too large, or that the server cannot read, may be the reason. One by one, it shows.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST => {
            for (at, document) in documents {
                verdicts[*at] = put(connection, document).await?;
            }
            return Ok(());
        }
        _ => return Err(connection.requester.failure_of(status, &body)),
    }
    let rows: Vec<WriteRow> =
        serde_json::from_slice(&body).map_err(|_| Failure::Protocol("the answer of _bulk_docs is malformed".into()))?;
    for row in rows {
        let WriteRow { id, rev, error: Some(error), reason } = row else { continue };
        let text = shown(&format!("{error}: {}", text_of(reason.as_ref())));
        let Some(id) = id else {
            return Err(Failure::Protocol(format!("the target refused a document without naming it: {text}")));
        };
        if is_of_the_server(&error) {
            return Err(Failure::Status {
                status: 500,
                text: format!("the target did not write {}: {text}", shown(&id)),
            });
        }
        let is_it = |(at, document): &&(usize, Document)| {
            document.id == id
                && verdicts[*at] == Verdict::Written
                && rev.as_ref().is_none_or(|rev| document.revision().to_string() == *rev)
        };
        if let Some((at, _)) = documents.iter().find(is_it) {
            verdicts[*at] = Verdict::Refused(text);
        }
    }
    Ok(())
}

/// Whether the error of a row is about the server, and not about the document: then the document must be sent
/// again.
fn is_of_the_server(error: &str) -> bool {
    const WORDS: [&str; 12] = [
        "internal_server_error",
        "internal_error",
        "service_unavailable",
        "insufficient_storage",
        "too_many_requests",
        "timeout",
        "os_process_error",
        "nodedown",
        "no_majority",
        "error",
        "conflict",
        "badarg",
    ];
    WORDS.contains(&error)
}

/// Writes one document, with the contents of its attachments.
async fn put(connection: &Connection<'_>, document: &Document) -> Result<Verdict, Failure> {
    let path = format!("{}?new_edits=false", document_path(&document.id));
    let ask = match document.has_contents() {
        false => Ask::with(Method::PUT, path, outgoing::text(document, false)),
        true => {
            let compressed = document.attachments.iter().any(|attached| attached.about.gzip);
            let decode = compressed && !connection.reads_compressed().await;
            let content = outgoing::multipart(document, decode, &connection.blobs, connection.requester.clock);
            Ask { method: Method::PUT, content, ..Ask::get(path) }
        }
    };
    let (mut status, mut body) = connection.requester.fetch_of_document(&ask, SMALL).await?;
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // The rules for this document, or the right to all of them? And is it so, or was it only once?
        connection.read_about().await?;
        (status, body) = connection.requester.fetch_of_document(&ask, SMALL).await?;
    }
    let failure = || connection.requester.failure_of(status, &body);
    match status {
        StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK => {
            connection.requester.check_done(status, &body).map(|()| Verdict::Written)
        }
        StatusCode::PRECONDITION_FAILED if document.has_stubs() => Ok(Verdict::MissingStub),
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => Ok(Verdict::Refused(failure().reason())),
        StatusCode::NOT_FOUND => Err(gone(connection)),
        _ => Err(failure()),
    }
}

/// Creates the database.
pub(super) async fn create(connection: &Connection<'_>) -> Result<(), Failure> {
    let params = &connection.requester.parameters.create_target_params;
    let query: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let path = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let ask = Ask { method: Method::PUT, ..Ask::get(path) };
    let (status, body) = connection.requester.fetch(&ask, SMALL).await?;
    match (status, connection.requester.failure_of(status, &body)) {
        (StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK | StatusCode::PRECONDITION_FAILED, _) => Ok(()),
        // A user without the right to create a database may still write to it.
        (_, failure @ (Failure::Unauthorized(_) | Failure::Forbidden(_))) => {
            connection.read_about().await.map(|_| ()).map_err(|_| failure)
        }
        (_, failure) => Err(Failure::CannotCreate(failure.reason())),
    }
}

/// Makes all that was written durable. Servers that write every change at once may not know this call.
pub(super) async fn ensure_full_commit(connection: &Connection<'_>) -> Result<(), Failure> {
    let ask = Ask::with(Method::POST, "/_ensure_full_commit", json!({}).to_string());
    let ask = Ask { is_beside: true, ..ask };
    let (status, body) = connection.requester.fetch(&ask, SMALL).await?;
    match status {
        StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(()),
        _ => Err(connection.requester.failure_of(status, &body)),
    }
}
