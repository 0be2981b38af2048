//! Reads revisions with their histories from another server.
//!
//! ```text
//! _bulk_get (many documents, attachments as stubs)
//!    └─ with attachments, too large, an error, or no _bulk_get at all ─> GET open_revs as multipart, one by one
//!          └─ a server that answers with JSON ─> GET of each attachment
//! ```
//! Attachments come in the form in which the source stores them, so that they keep their digests, and are streamed
//! into the blob store of this server.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;

use super::answer::Answer;
use super::arrived::{self, Arrived, Unfit};
use super::asked::{AT_ONCE, Asked, Found, ended, too_large};
use super::connection::{Connection, SMALL};
use super::multipart;
use super::requester::{Ask, is_of_somebody_else, is_worth_a_retry};
use super::rows::{Row, Rows};
use super::text::{document_path, encode, shown};
use crate::blocking::beside;
use crate::db::check_document_id;
use crate::db::parse::{Stub, StubFields};
use crate::replicate::failure::Failure;
use crate::replicate::peer::{Attached, Document, Missing, Sink};
use crate::rev::Revision;

/// Ancestors that are named.
const ANCESTORS: usize = 50;
/// Bytes of a URL.
const LONGEST_URL: usize = 7000;
/// Bytes of a row of `_bulk_get`. A larger document is read alone.
const ROW: usize = 4 << 20;
/// How long a revision that is listed and not there is waited for: a cluster may be a little behind itself.
const SHORTLY: Duration = Duration::from_secs(2);

/// What is still to be read.
struct Wanted {
    left: Vec<Missing>,
    places: HashMap<String, usize>,
}

impl Wanted {
    fn new(left: Vec<Missing>) -> Wanted {
        let places = left.iter().enumerate().map(|(at, missing)| (missing.id.clone(), at)).collect();
        Wanted { left, places }
    }

    /// The revisions of a document that are still to be read.
    fn revisions(&self, id: &str) -> &[Revision] {
        self.places.get(id).map_or(&[], |at| self.left[*at].revisions.as_slice())
    }

    /// A document was delivered: it stands for every revision that its history has.
    fn delivered(&mut self, id: &str, has: impl Fn(&Revision) -> bool) {
        if let Some(at) = self.places.get(id) {
            self.left[*at].revisions.retain(|revision| !has(revision));
        }
    }

    fn is_empty(&self) -> bool {
        self.left.iter().all(|missing| missing.revisions.is_empty())
    }
}

/// Delivers the revisions.
///
/// # Errors
/// A revision that the source lists cannot be read.
pub(super) async fn fetch(
    connection: &Connection<'_>,
    wanted: Vec<Missing>,
    sink: &mut dyn Sink,
) -> Result<(), Failure> {
    let mut wanted = Wanted::new(wanted);
    if connection.uses_bulk_get() {
        bulk_get(connection, &mut wanted, sink).await?;
    }
    let mut left = wanted.left.into_iter().filter(|missing| !missing.revisions.is_empty());
    // In no order: one that waits for the permit of another must not come before it.
    let mut reads = FuturesUnordered::new();
    loop {
        while reads.len() < connection.reads_at_once()
            && let Some(missing) = left.next()
        {
            reads.push(one(connection, missing, None));
        }
        let Some(found) = meanwhile(sink, reads.next()).await? else { return Ok(()) };
        let One { id, documents, passed_over, rest, large } = found?;
        for document in documents {
            sink.deliver(document).await?;
        }
        for (revision, why) in passed_over {
            sink.pass_over(&id, &revision, &why);
        }
        if let Some(missing) = rest {
            // A document with many large leaves: the next ones, when the first are delivered. It keeps its permit: those
            // that hold the others do not go on before this one.
            reads.push(one(connection, missing, large));
        }
    }
}

/// Waits for the source. When others wait for the memory of what was delivered before, that is written: they may have
/// the connection or the permit that this waits for.
async fn meanwhile<T>(sink: &mut dyn Sink, work: impl Future<Output = T> + Send) -> Result<T, Failure> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = sink.wanted() => {}
        }
        sink.flush().await?;
    }
}

#[derive(Deserialize)]
struct BulkRow<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    docs: Vec<BulkDoc<'a>>,
}

#[derive(Deserialize)]
struct BulkDoc<'a> {
    #[serde(borrow, default)]
    ok: Option<&'a RawValue>,
}

/// Reads what `_bulk_get` returns; the rest stays in `wanted`.
async fn bulk_get(connection: &Connection<'_>, wanted: &mut Wanted, sink: &mut dyn Sink) -> Result<(), Failure> {
    let mut failures = 0;
    while !wanted.is_empty() {
        match bulk_get_once(connection, wanted, sink).await {
            Ok(()) => break,
            Err(failure) if !is_worth_a_retry(&failure) => return Err(failure),
            Err(Failure::Status { .. }) => {
                // The server fails at it, and may do better one by one.
                connection.leave_bulk_get();
                break;
            }
            Err(failure) if failures >= connection.requester.parameters.retries_per_request => return Err(failure),
            Err(_) => {
                failures += 1;
                meanwhile(sink, connection.requester.pause(failures)).await?;
            }
        }
    }
    Ok(())
}

async fn bulk_get_once(connection: &Connection<'_>, wanted: &mut Wanted, sink: &mut dyn Sink) -> Result<(), Failure> {
    let mut docs = Vec::new();
    for missing in &wanted.left {
        docs.extend(missing.revisions.iter().map(|rev| json!({"id": missing.id, "rev": rev.to_string()})));
    }
    let asked = docs.len();
    let ask = Ask::with(Method::POST, "/_bulk_get?revs=true&latest=true", json!({ "docs": docs }).to_string());
    drop(docs);
    let mut answer = meanwhile(sink, connection.requester.send(&ask)).await??;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(connection.requester.status(answer).await),
        _ => {
            // Servers without it answer with many statuses.
            connection.give_up_bulk_get();
            return Ok(());
        }
    }
    let mut rows = Rows::new("results", connection.largest_text().min(ROW));
    let (mut delivered, mut single) = (0, 0);
    while let Some(piece) = meanwhile(sink, answer.next()).await?? {
        rows.push(&piece)?;
        while let Some(row) = rows.next() {
            let Row::Whole(row) = row else { continue };
            let Ok(row) = serde_json::from_slice::<BulkRow<'_>>(&row) else {
                return Err(Failure::Protocol("a row of _bulk_get is malformed".into()));
            };
            for text in row.docs.iter().filter_map(|doc| doc.ok) {
                let text = text.get().as_bytes();
                let read =
                    beside(text.len(), || arrived::read(text, &row.id, wanted.revisions(&row.id), connection.limits));
                let Ok(arrived) = read else { continue };
                if !arrived.split.attachments.is_empty() {
                    single += 1;
                    continue;
                }
                let document = arrived.with(Vec::new());
                wanted.delivered(&row.id, |revision| document.descends_from(revision));
                delivered += 1;
                sink.deliver(document).await?;
            }
        }
    }
    let outside = rows.finish()?;
    if outside.is_empty() {
        return Err(Failure::Network("the answer of _bulk_get is empty".into()));
    }
    sink.count_bulk_get(asked as u64, delivered);
    if 2 * (delivered + single) < asked as u64 {
        connection.leave_bulk_get();
    }
    Ok(())
}

/// The revisions of one document that were read.
#[derive(Default)]
struct One<'a> {
    id: String,
    documents: Vec<Document>,
    passed_over: Vec<(Revision, String)>,
    /// What would be too much at once.
    rest: Option<Missing>,
    /// The permit for large documents, until these are delivered.
    large: Option<SemaphorePermit<'a>>,
}

/// Reads revisions of one document.
async fn one<'a>(
    connection: &'a Connection<'a>,
    mut missing: Missing,
    large: Option<SemaphorePermit<'a>>,
) -> Result<One<'a>, Failure> {
    let mut one = One { id: missing.id.clone(), large, ..One::default() };
    // Such as a longer one than there can be here: the source may refuse the path, too.
    if let Err(error) = check_document_id(&missing.id, false) {
        one.passed_over.extend(missing.revisions.drain(..).map(|revision| (revision, error.to_string())));
    }
    let (mut failures, mut waited, mut at_once) = (0, false, usize::MAX);
    while !missing.revisions.is_empty() {
        let bytes = one.documents.iter().map(Document::bytes).sum::<usize>();
        if bytes > AT_ONCE {
            one.rest = Some(missing);
            break;
        }
        let asked = some_of(&missing, at_once);
        let mut found = Found { bytes, large: one.large.take(), ..Found::default() };
        let read = open_revs(connection, &missing.id, &asked, &missing.ancestors, &mut found).await;
        one.large = found.large.take();
        let moved = !found.documents.is_empty();
        for document in found.documents.drain(..) {
            missing.revisions.retain(|revision| !document.descends_from(revision));
            one.documents.push(document);
        }
        match read {
            Ok(Read::Answered) => {}
            Ok(Read::Refused(why)) => {
                one.passed_over.extend(missing.revisions.drain(..).map(|revision| (revision, why.clone())));
            }
            Err(failure) if !is_worth_a_retry(&failure) => return Err(failure),
            Err(failure) if !moved && failures >= connection.requester.parameters.retries_per_request => {
                return Err(failure);
            }
            Err(_) => {
                failures = if moved { 1 } else { failures + 1 };
                connection.requester.pause(failures).await;
                continue;
            }
        }
        if found.is_put_off {
            one.large = connection.large.acquire().await.ok();
            continue;
        }
        if moved || missing.revisions.is_empty() {
            continue;
        }
        match (found.too_much, found.wrong) {
            (Some(why), _) if asked.len() == 1 => {
                missing.revisions.retain(|revision| *revision != asked[0]);
                one.passed_over.push((asked[0].clone(), why));
            }
            // Which of them it is shows when they come alone.
            (Some(_), _) => at_once = 1,
            (None, Some(why)) => return Err(Failure::Protocol(format!("document {}: {why}", shown(&missing.id)))),
            (None, None) if !waited => {
                waited = true;
                tokio::time::sleep(SHORTLY).await;
            }
            (None, None) => {
                let (id, revision) = (shown(&missing.id), &asked[0]);
                let text = format!("revision {revision} of document {id} is listed, and cannot be read");
                return Err(Failure::Protocol(text));
            }
        }
    }
    Ok(one)
}

/// As many revisions as fit into a URL.
fn some_of(missing: &Missing, most: usize) -> Vec<Revision> {
    let mut bytes = document_path(&missing.id).len() + 40 * missing.ancestors.len().min(ANCESTORS);
    let fits = |revision: &&Revision| {
        bytes += revision.to_string().len() + 10;
        bytes <= LONGEST_URL
    };
    let count = missing.revisions.iter().take(most).take_while(fits).count().max(1);
    missing.revisions[..count.min(missing.revisions.len())].to_vec()
}

/// Revisions as the value of a parameter.
fn listed(revisions: &[Revision]) -> String {
    let texts: Vec<String> = revisions.iter().map(Revision::to_string).collect();
    encode(&json!(texts).to_string())
}

/// How a request for revisions ended.
enum Read {
    Answered,
    /// The user may not read this document.
    Refused(String),
}

/// Asks for revisions, and reads the answer.
async fn open_revs<'a>(
    connection: &'a Connection<'a>,
    id: &str,
    revisions: &[Revision],
    ancestors: &[Revision],
    found: &mut Found<'a>,
) -> Result<Read, Failure> {
    let mut path = format!("{}?revs=true&latest=true&open_revs={}", document_path(id), listed(revisions));
    let since = match ancestors {
        [] => String::new(),
        _ => format!("&atts_since={}", listed(&ancestors[..ancestors.len().min(ANCESTORS)])),
    };
    let has_ancestors = !since.is_empty() && path.len() + since.len() <= LONGEST_URL;
    if has_ancestors {
        path.push_str(&since);
    }
    let path_bytes = path.len();
    let ask = Ask { accept: "multipart/mixed, application/json;q=0.1", ..Ask::get(path) };
    let mut answer = connection.requester.send(&ask).await?;
    if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        drop(answer);
        // The right to one document, or to all? And is it so, or was it only once?
        connection.read_about().await?;
        answer = connection.requester.send(&ask).await?;
    }
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(Read::Answered),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let status = answer.status;
            let body = answer.whole(SMALL).await?;
            return match is_of_somebody_else(status, &body) {
                true => Err(connection.requester.of_somebody_else(status)),
                false => Ok(Read::Refused(connection.requester.failure_of(status, &body).reason())),
            };
        }
        status if is_too_long(path_bytes, status) => {
            let failure = connection.requester.status(answer).await;
            return Ok(Read::Refused(too_long(path_bytes, &failure)));
        }
        _ => return Err(connection.requester.status(answer).await),
    }
    let content_type = answer.header(http::header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let asked = Asked { connection, id, revisions, has_ancestors };
    if content_type.starts_with("multipart/mixed") {
        multipart::read(&asked, answer, &content_type, found).await?;
    } else {
        json_answer(&asked, answer, found).await?;
    }
    Ok(Read::Answered)
}

/// Whether the source, or a proxy before it, has no room for a path so long: the names of one document are at fault. With
/// a shorter path, these statuses say nothing of the document.
fn is_too_long(path_bytes: usize, status: StatusCode) -> bool {
    path_bytes > LONGEST_URL
        && matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        )
}

fn too_long(path_bytes: usize, failure: &Failure) -> String {
    format!("the source refuses a path of {path_bytes} bytes: {}", failure.reason())
}

/// Reads `[{"ok": document}, {"missing": revision}]`.
async fn json_answer<'a>(asked: &Asked<'_, 'a>, answer: Answer, found: &mut Found<'a>) -> Result<(), Failure> {
    let may_have = |bytes| found.may_have(asked.connection, bytes);
    let body = match answer.whole_while(2 * asked.connection.largest_text(), may_have).await {
        Ok(Some(body)) => body,
        Ok(None) => return Ok(()),
        Err(Failure::Protocol(why)) => {
            found.unfit(Unfit::TooMuch(why));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let Ok(rows) = serde_json::from_slice::<Vec<BulkDoc<'_>>>(&body) else {
        return Err(Failure::Network("the answer of open_revs is malformed".into()));
    };
    for text in rows.into_iter().filter_map(|row| row.ok) {
        let text = text.get().as_bytes();
        match beside(text.len(), || arrived::read(text, asked.id, asked.revisions, asked.connection.limits)) {
            Ok(arrived) => match with_contents(asked, arrived).await? {
                Ok(document) => found.add(document),
                Err(unfit) => found.unfit(unfit),
            },
            Err(unfit) => found.unfit(unfit),
        }
    }
    Ok(())
}

/// Reads the contents of all attachments, one by one.
async fn with_contents(asked: &Asked<'_, '_>, mut arrived: Arrived) -> Result<Result<Document, Unfit>, Failure> {
    let generation = arrived.revision.generation;
    let mut attachments = Vec::with_capacity(arrived.split.attachments.len());
    for (name, stub) in std::mem::take(&mut arrived.split.attachments) {
        match content(asked, &arrived.revision, generation, name, stub).await? {
            Ok(attached) => attachments.push(attached),
            Err(unfit) => return Ok(Err(unfit)),
        }
    }
    Ok(Ok(arrived.with(attachments)))
}

/// The content of one attachment: from the JSON, or by a request of its own.
async fn content(
    asked: &Asked<'_, '_>,
    revision: &Revision,
    generation: u64,
    name: String,
    stub: Stub,
) -> Result<Result<Attached, Unfit>, Failure> {
    let fields = match stub {
        Stub::Inline { fields, data } => return multipart::inline(asked, &name, fields, data, generation).await,
        Stub::Stub { fields } | Stub::Follows { fields } => fields,
    };
    let path = format!("{}/{}?rev={}", document_path(asked.id), encode(&name), encode(&revision.to_string()));
    let path_bytes = path.len();
    let mut answer = asked.connection.requester.send(&Ask { accept: "*/*", ..Ask::get(path) }).await?;
    if answer.status != StatusCode::OK {
        let status = answer.status;
        let failure = asked.connection.requester.status(answer).await;
        return match is_too_long(path_bytes, status) {
            true => Ok(Err(Unfit::TooMuch(too_long(path_bytes, &failure)))),
            false => Err(failure),
        };
    }
    let received = multipart::receive(asked.connection, &mut answer, name.clone(), fields.clone(), false).await?;
    let Some(upload) = received else { return Ok(Err(too_large(&name))) };
    // It comes uncompressed, and the digest may be that of the compressed form.
    let fields = match fields.encoding {
        Some(_) => StubFields { digest: None, ..fields },
        None => fields,
    };
    let stored = crate::blocking::spawn_blocking(move || arrived::end(upload, &fields, generation));
    Ok(Ok(stored.await.map_err(ended)??))
}
