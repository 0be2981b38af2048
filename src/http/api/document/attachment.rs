//! Single attachments: `GET`, `PUT`, `DELETE /{db}/{id}/{name}`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::attachment_upload::{AttachmentRules, receive};
use super::body_writer::Reading;
use super::incoming::{Change, Decoded, Reply};
use super::revision::{named_revision, parse_revision};
use super::write::write;
use crate::app::App;
use crate::blocking::blocking;
use crate::db::record::Attachment;
use crate::db::{Database, Found, Incoming, Mode, Source, check_attachment_name, check_document_id};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::error::{Failure, Result};
use crate::http::response::{Answer, content_type_of, sandbox};
use crate::net::multipart::value_safe;
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// Bytes of an attachment read from the blob store at once.
const STEP: usize = 256 << 10;
/// Maximum number of ranges in a request; a request with more gets the whole attachment (`chttpd_db`).
const MOST_RANGES: usize = 9;

/// `PUT /{db}/{id}/{name}`.
pub async fn put(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    id: String,
    name: String,
) -> Result<Answer> {
    check_attachment_name(&name)?;
    check_document_id(&id, database.is_partitioned())?;
    let encoding = request.header(header::CONTENT_ENCODING).unwrap_or("identity").trim().to_ascii_lowercase();
    let gzipped = match encoding.as_str() {
        "identity" => false,
        "gzip" => true,
        _ => {
            let reason = "Only gzip and identity content-encodings are supported";
            return Err(Error::BadContentType(reason.into()).into());
        }
    };
    let rules = AttachmentRules::of(request);
    if let Some(length) = request.body.length() {
        rules.check_size(&name, length)?;
    }
    Eyes::of(app, &request.user, &database)?.check_own(&id)?;
    let rev = named_revision(request, None)?;
    // Checks the revision before the upload, so that a conflict fails early; the writer checks it again.
    let Rest { json, deleted, others } = rest_of(&database, &id, &name, rev.clone()).await?;
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("application/octet-stream").to_owned();
    let upload = {
        let (database, rules, name) = (database.clone(), rules.clone(), name.clone());
        blocking(move || rules.start(&database, &name, &content_type, gzipped)).await?
    };
    let sent_md5 = request.header("content-md5").map(str::to_owned);
    let uploaded = receive(&mut request.body, upload, &rules, &name).await?;
    request.refresh();
    if let Some(sent) = sent_md5 {
        use base64::Engine;
        if base64::engine::general_purpose::STANDARD.encode(uploaded.sent_md5) != sent.trim() {
            return Err(Failure::bad_request(
                "Possible message corruption: the content's MD5 is not what Content-MD5 says.",
            ));
        }
    }
    let reply = Reply::created_attachment(request, &database, &id, &name);
    let mut attachments =
        vec![(name, Source::Written { attachment: uploaded.attachment, keep_revpos: false, pin: uploaded.pin })];
    attachments.extend(others);
    let edit = Incoming { id, parent: rev, path: (0, Vec::new()), deleted, json, attachments };
    write(app, request.by(), &database, decoded(edit, reply)).await
}

/// `DELETE /{db}/{id}/{name}`.
pub async fn delete(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    id: String,
    name: String,
) -> Result<Answer> {
    check_attachment_name(&name)?;
    Eyes::of(app, &request.user, &database)?.check_own(&id)?;
    let rev = named_revision(request, None)?;
    let found = find_revision(&database, &id, rev.clone()).await?;
    let name = stored_name(request, name, &found.body.attachments);
    if !found.body.attachments.iter().any(|attachment| attachment.name == name) {
        return Err(missing_attachment());
    }
    let Rest { json, deleted, others } = match rev {
        Some(_) => without(found, &name),
        None => Rest::nothing(),
    };
    let edit = Incoming { id, parent: rev, path: (0, Vec::new()), deleted, json, attachments: others };
    write(app, request.by(), &database, decoded(edit, Reply::ok())).await
}

fn decoded(edit: Incoming, reply: Reply) -> Decoded {
    Decoded { id: edit.id.clone(), change: Change::Document(edit, Mode::Interactive), reply }
}

/// A document without one of its attachments. A deleted leaf stays deleted when its attachments change.
struct Rest {
    json: String,
    deleted: bool,
    /// Stubs of its other attachments.
    others: Vec<(String, Source)>,
}

impl Rest {
    /// What a new document has.
    fn nothing() -> Rest {
        Rest { json: "{}".into(), deleted: false, others: Vec::new() }
    }
}

/// Returns the document to which the attachment is added.
async fn rest_of(database: &Arc<Database>, id: &str, name: &str, rev: Option<Revision>) -> Result<Rest> {
    match rev {
        None => Ok(Rest::nothing()),
        Some(rev) => Ok(without(find_revision(database, id, Some(rev)).await?, name)),
    }
}

/// Reads the document at `rev`. As in CouchDB, a missing revision fails with 409 and the error `not_found`.
async fn find_revision(database: &Arc<Database>, id: &str, rev: Option<Revision>) -> Result<Found> {
    let named = rev.is_some();
    match super::open_revs::find(database, id, rev).await {
        Err(Error::Missing) if named => {
            let status = StatusCode::CONFLICT;
            Err(Failure::Refused { status, word: "not_found", reason: "missing_rev".into() })
        }
        other => Ok(other?),
    }
}

/// The name under which an attachment is stored. A `+` in a path is a space, as in CouchDB; but nano puts names into
/// paths as they are, so if there is no attachment of that name, the `+` stands for itself.
fn stored_name(request: &Request, name: String, attachments: &[Attachment]) -> String {
    let has = |name: &str| attachments.iter().any(|attachment| attachment.name == name);
    let path = request.target.split('?').next().unwrap_or("");
    if has(&name) || !path.contains('+') {
        return name;
    }
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let literal = percent_encoding::percent_decode_str(&parts.join("/")).decode_utf8_lossy().into_owned();
    // As many bytes from the end as the decoded name has: a space is as long as a `+`.
    let at = literal.len().checked_sub(name.len()).filter(|at| literal.is_char_boundary(*at));
    match at.map(|at| &literal[at..]) {
        Some(literal) if literal.replace('+', " ") == name.replace('+', " ") && has(literal) => literal.to_owned(),
        _ => name,
    }
}

fn missing_attachment() -> Failure {
    Error::NotFound("Document is missing attachment".into()).into()
}

fn without(found: Found, name: &str) -> Rest {
    let others = found.body.attachments.iter().filter(|attachment| attachment.name != name);
    let others = others.map(|attachment| (attachment.name.clone(), Source::Stub { revpos: None })).collect();
    Rest { json: found.body.json, deleted: found.deleted, others }
}

/// The revision in `rev`, otherwise in `If-Match`, as CouchDB documents it. An `If-Match` that is no revision, such as
/// the ETag of an attachment, names none.
fn revision_to_read(request: &Request) -> Result<Option<Revision>> {
    let query = request.query.get("rev").map(parse_revision).transpose()?;
    let header = request.header(header::IF_MATCH);
    let header = header.and_then(|etag| etag.trim().trim_start_matches("W/").trim_matches('"').parse().ok());
    match (query, header) {
        (Some(query), Some(header)) if query != header => {
            Err(Failure::bad_request("Document rev and etag have different values"))
        }
        (query, header) => Ok(query.or(header)),
    }
}

/// `GET /{db}/{id}/{name}`.
pub async fn get(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    id: String,
    name: String,
) -> Result<Answer> {
    let rev = revision_to_read(request)?;
    let eyes = Eyes::of(app, &request.user, &database)?;
    eyes.check_own(&id)?;
    let found = eyes.see(super::open_revs::find(&database, &id, rev).await?)?;
    let name = stored_name(request, name, &found.body.attachments);
    let Some(attachment) = found.body.attachments.into_iter().find(|attachment| attachment.name == name) else {
        return Err(missing_attachment());
    };
    let etag = attachment.digest()["md5-".len()..].to_owned();
    if request.has_etag(&etag) {
        let answer = Answer::not_modified(&etag);
        let vary = HeaderValue::from_static("Accept-Encoding");
        return Ok(if attachment.gzip { answer.with(header::VARY, vary) } else { answer });
    }
    let takes_gzip = accepts_gzip(request);
    let decode = attachment.gzip && !takes_gzip;
    let length = if attachment.gzip && takes_gzip { attachment.stored } else { attachment.length };
    let mut answer = match ranges(request, &attachment, length) {
        Ranges::Whole => {
            let answer = content(request, &database, &attachment, decode, 0, length).await?;
            // The digest is that of the stored bytes: not of a part, nor of decompressed ones.
            match attachment.gzip {
                true => answer,
                false => answer.with_text(HeaderName::from_static("content-md5"), &etag),
            }
        }
        Ranges::One(from, to) => {
            let mut answer = content(request, &database, &attachment, decode, from, to - from + 1).await?;
            answer.status = StatusCode::PARTIAL_CONTENT;
            answer.with_text(header::CONTENT_RANGE, &format!("bytes {from}-{to}/{length}"))
        }
        Ranges::Many(ranges) => {
            return Ok(sandboxed(request, many(request, &database, attachment, ranges, length).await?));
        }
        Ranges::Unsatisfiable => {
            let refused = Answer::failure(&Error::RangeNotSatisfiable.into());
            return Ok(refused.with_text(header::CONTENT_RANGE, &format!("bytes */{length}")));
        }
    };
    let ranges = if attachment.gzip { "none" } else { "bytes" };
    answer = answer.etag(&etag).with(header::ACCEPT_RANGES, HeaderValue::from_static(ranges));
    if attachment.gzip {
        answer = answer.with(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if attachment.gzip && takes_gzip {
        answer = answer.with(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(sandboxed(request, answer))
}

/// Adds the policy that prevents attachments from running scripts with the session of the user who opens them
/// (`[csp] attachments_enable`, on by default).
fn sandboxed(request: &Request, answer: Answer) -> Answer {
    match sandbox(&request.settings, ["attachments_enable", "attachments_header_value"]) {
        Some(policy) => answer.with(header::CONTENT_SECURITY_POLICY, policy),
        None => answer,
    }
}

fn accepts_gzip(request: &Request) -> bool {
    let Some(accepted) = request.header(header::ACCEPT_ENCODING) else { return false };
    accepted.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let refused =
            parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q == 0.0)));
        named && !refused
    })
}

/// Responds with `length` bytes of the attachment from the offset `from`.
pub(crate) async fn content(
    request: &Request,
    database: &Arc<Database>,
    attachment: &Attachment,
    decode: bool,
    from: u64,
    length: u64,
) -> Result<Answer> {
    if request.head {
        let answer = Answer::bytes(StatusCode::OK, bytes::Bytes::new())
            .with(header::CONTENT_TYPE, content_type_of(&attachment.content_type))
            .with(header::CACHE_CONTROL, HeaderValue::from_static("must-revalidate"));
        return Ok(answer.with(header::CONTENT_LENGTH, length.into()).uncompressed());
    }
    let content_type = attachment.content_type.clone();
    // Opened before the headers are sent, so that a damaged blob becomes a proper error response.
    let mut reading = Reading::open(database.blobs(), attachment.clone(), decode, from).await?;
    Answer::stream_of_length(&request.line, &content_type, length, move |mut out| async move {
        out.widen();
        let mut left = length;
        while left > 0 {
            let Some(bytes) = reading.next(STEP.min(left as usize)).await? else {
                return Err(Error::Damaged("an attachment is shorter than its record says".into()).into());
            };
            left -= bytes.len() as u64;
            out.send(bytes.into()).await;
        }
        Ok(())
    })
    .await
}

enum Ranges {
    Whole,
    One(u64, u64),
    Many(Vec<(u64, u64)>),
    Unsatisfiable,
}

/// Parses `Range` (RFC 9110, 14.1.2). A malformed header, and any range of compressed content, selects the
/// whole attachment.
fn ranges(request: &Request, attachment: &Attachment, length: u64) -> Ranges {
    if attachment.gzip {
        return Ranges::Whole;
    }
    let Some(value) = request.header(header::RANGE) else { return Ranges::Whole };
    match parse_ranges(value, length) {
        None => Ranges::Whole,
        Some(ranges) => match ranges.as_slice() {
            [] => Ranges::Unsatisfiable,
            [(from, to)] => Ranges::One(*from, *to),
            many if many.len() <= MOST_RANGES => Ranges::Many(ranges),
            _ => Ranges::Whole,
        },
    }
}

/// Parses the value of a `Range` header for content of `length` bytes, as CouchDB does (`chttpd_db`,
/// `parse_ranges`). Ends are inclusive. Returns `None`, which selects the whole content, if the value is
/// malformed or a range starts at 0 and has no end. Returns an empty list if one of the ranges is not
/// satisfiable.
pub(crate) fn parse_ranges(value: &str, length: u64) -> Option<Vec<(u64, u64)>> {
    let list = value.strip_prefix("bytes=")?;
    let last = length.saturating_sub(1);
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let mut ranges = Vec::new();
    let mut unsatisfiable = length == 0;
    for one in list.split(',') {
        let (from, to) = match one.trim().split_once('-')? {
            ("", "") => return None,
            ("", suffix) => match number(suffix)? {
                0 => (1, 0),
                suffix => (length.saturating_sub(suffix), last),
            },
            (from, "") => match number(from)? {
                0 => return None,
                from => (from, last),
            },
            (from, to) => (number(from)?, number(to)?.min(last)),
        };
        unsatisfiable |= to < from;
        ranges.push((from, to));
    }
    Some(if unsatisfiable { Vec::new() } else { ranges })
}

/// Responds with several ranges as `multipart/byteranges`.
async fn many(
    request: &Request,
    database: &Arc<Database>,
    attachment: Attachment,
    ranges: Vec<(u64, u64)>,
    length: u64,
) -> Result<Answer> {
    let boundary = crate::net::multipart::boundary(database.clock());
    let content_type = format!("multipart/byteranges; boundary=\"{boundary}\"");
    let database = database.clone();
    let answer = Answer::stream(&request.line, "multipart/byteranges", move |mut out| async move {
        out.widen();
        out.write(format!("--{boundary}")).await;
        for (from, to) in ranges {
            let head = format!(
                "\r\nContent-Type: {}\r\nContent-Range: bytes {from}-{to}/{length}\r\n\r\n",
                value_safe(&attachment.content_type)
            );
            out.write(head).await;
            let mut reading = Reading::open(database.blobs(), attachment.clone(), false, from).await?;
            let mut left = to - from + 1;
            while left > 0 {
                let Some(bytes) = reading.next(STEP.min(left as usize)).await? else { break };
                left -= bytes.len() as u64;
                out.send(bytes.into()).await;
            }
            out.write(format!("\r\n--{boundary}")).await;
        }
        out.write("--").await;
        Ok(())
    })
    .await?;
    let mut answer = answer.with_text(header::CONTENT_TYPE, &content_type).uncompressed();
    answer.status = StatusCode::PARTIAL_CONTENT;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::parse_ranges;

    #[test]
    fn ranges_are_parsed_as_in_couchdb() {
        for (value, wanted) in [
            ("bytes=0-3", Some(vec![(0, 3)])),
            ("bytes=4-", Some(vec![(4, 9)])),
            ("bytes=-3", Some(vec![(7, 9)])),
            ("bytes=-30", Some(vec![(0, 9)])),
            ("bytes=0-300", Some(vec![(0, 9)])),
            ("bytes=0-1, 3-4", Some(vec![(0, 1), (3, 4)])),
            ("bytes=10-", Some(vec![])),
            ("bytes=-0", Some(vec![])),
            ("bytes=5-2", Some(vec![])),
            ("bytes=0-", None),
            ("bytes=0-,0-,0-", None),
            ("bytes=0-1,10-", Some(vec![])),
            ("bytes=a-b", None),
            ("bytes=-", None),
            ("bytes", None),
            ("lines=0-3", None),
        ] {
            assert_eq!(parse_ranges(value, 10), wanted, "{value}");
        }
    }
}
