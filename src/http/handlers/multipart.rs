//! Reads and writes documents with attachments as MIME multipart (RFC 2046; CouchDB:
//! `couch_httpd_multipart`).
//!
//! ```text
//! multipart/related            multipart/mixed (open_revs=...)      multipart/mixed (_bulk_get)
//!   JSON with "follows"          per leaf: JSON, or a related         the same, with X-Doc-Id and X-Rev-Id
//!   attachment, attachment       one inside, or {"missing": rev}      on documents with attachments
//! ```
//! Attachments are sent as they are stored: compressed ones with `Content-Encoding: gzip`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::attachment::{Chunks, receive as receive_content};
use super::bulk::Pages;
use super::document::{named_revision, require_path};
use super::edits::{self, AttachmentRules};
use super::pieces::{self, Reading};
use super::reading::{Leaves, missing};
use crate::app::answer_budget::Held;
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::db::read::render::{self, Attachments, Show};
use crate::db::record::Attachment;
use crate::db::{Database, Found, Incoming, Mode, Source, Uploaded};
use crate::error::Error;
use crate::http::answer::Answer;
use crate::http::body::RequestBody;
use crate::http::failure::{Failure, Result};
use crate::http::request::Request;
use crate::http::server::accepts;
use crate::http::stream::Sender;
use crate::json::Stub;

/// Maximum size of the headers of a part in bytes.
const MOST_HEADER_BYTES: usize = 16 << 10;
/// Bytes of an attachment read from the blob store at once.
const STEP: usize = 256 << 10;

/// Returns the first of `kinds` that the client accepts. `None` means JSON: the client accepts none of them,
/// or it names JSON explicitly and none of `kinds`.
pub fn wanted(request: &Request, kinds: &[&'static str]) -> Option<&'static str> {
    let accept = request.header(header::ACCEPT).unwrap_or("");
    if accept.contains("application/json") && !kinds.iter().any(|kind| accept.contains(kind)) {
        return None;
    }
    kinds.iter().find(|kind| accepts(&request.headers, kind)).copied()
}

/// A random boundary, which no content can be expected to contain.
pub fn boundary(clock: &Clock) -> String {
    clock.uuid()
}

/// The same rendering with attachments as parts that follow the JSON.
fn follows(show: &Show) -> Show {
    let attachments = match &show.attachments {
        Attachments::InlineSince(since) => Attachments::Follows(Some(since.clone())),
        _ => Attachments::Follows(None),
    };
    Show { attachments, encoding_info: true, ..show.clone() }
}

/// Responds with a document and its attachments as `multipart/related`, or with plain JSON if no attachment
/// follows.
pub async fn document(
    request: &Request,
    database: Arc<Database>,
    found: Found,
    held: Option<Arc<Held>>,
    show: Show,
) -> Result<Answer> {
    let show = follows(&show);
    let attachments: Vec<Attachment> = render::following(&found, &show).into_iter().cloned().collect();
    let text = json_of(&found, &show)?;
    if attachments.is_empty() {
        return Ok(Answer::json_text(StatusCode::OK, text).holding(held));
    }
    let boundary = boundary(database.clock());
    let content_type = format!("multipart/related; boundary=\"{boundary}\"");
    let length = related_length(&boundary, &text, &attachments);
    Answer::stream_of_length(&request.line, &content_type, length, move |mut out| async move {
        out.holds(held);
        related(&mut out, &database, &boundary, &text, attachments).await
    })
    .await
}

/// The number of bytes that [`related`] writes.
fn related_length(boundary: &str, text: &str, attachments: &[Attachment]) -> u64 {
    let between = "\r\n--".len() + boundary.len();
    let first = first_part(boundary, text).len() + between;
    let others =
        attachments.iter().map(|attachment| (part_head(attachment).len() + between) as u64 + attachment.stored);
    first as u64 + others.sum::<u64>() + "--".len() as u64
}

fn first_part(boundary: &str, text: &str) -> String {
    format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{text}")
}

fn part_head(attachment: &Attachment) -> String {
    let encoding = if attachment.gzip { "\r\nContent-Encoding: gzip" } else { "" };
    format!(
        "\r\nContent-Disposition: attachment; filename=\"{}\"\r\nContent-Type: {}\r\nContent-Length: {}{encoding}\r\n\r\n",
        header_safe(&attachment.name),
        header_safe(&attachment.content_type),
        attachment.stored,
    )
}

fn json_of(found: &Found, show: &Show) -> Result<String> {
    pieces::text(render::document(found, show))
        .ok_or_else(|| Error::Internal("a document whose attachments follow is one text".into()).into())
}

/// Writes a `multipart/related` document from its first delimiter to its last.
async fn related(
    out: &mut Sender,
    database: &Arc<Database>,
    boundary: &str,
    text: &str,
    attachments: Vec<Attachment>,
) -> Result<()> {
    out.widen();
    out.text(first_part(boundary, text)).await;
    out.write(format!("\r\n--{boundary}")).await;
    for attachment in attachments {
        out.write(part_head(&attachment)).await;
        let mut content = Reading::open(database.blobs(), attachment, false, 0).await?;
        while let Some(bytes) = content.next(STEP).await? {
            out.send(bytes.into()).await;
        }
        out.write(format!("\r\n--{boundary}")).await;
    }
    out.write("--").await;
    Ok(())
}

/// Makes untrusted text safe in a quoted value of a part's header: percent-encodes quotes, line breaks and
/// NUL.
fn header_safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\r' | '\n' | '\0' => safe.push_str(&format!("%{:02X}", character as u32)),
            other => safe.push(other),
        }
    }
    safe
}

/// `open_revs` as `multipart/mixed`.
pub(super) async fn open_revisions(request: &Request, mut leaves: Leaves, show: Show) -> Result<Answer> {
    let show = follows(&show);
    let outer = boundary(leaves.database.clock());
    let content_type = format!("multipart/mixed; boundary=\"{outer}\"");
    let answer = Answer::stream(&request.line, "multipart/mixed", move |mut out| async move {
        // Loaded before the first byte is written, so that a failure becomes a proper error response.
        let mut next = leaves.next(&mut out).await?;
        out.write(format!("--{outer}")).await;
        while let Some(group) = next {
            for answer in group {
                match answer {
                    Ok(found) => {
                        let inner = boundary(leaves.database.clock());
                        out.write("\r\n").await;
                        one(&mut out, &leaves.database, &found, &show, &inner).await?;
                    }
                    Err(revision) => {
                        let head = "\r\nContent-Type: application/json; error=\"true\"\r\n\r\n";
                        out.write(format!("{head}{}", missing(&revision))).await;
                    }
                }
                out.write(format!("\r\n--{outer}")).await;
            }
            next = leaves.next(&mut out).await?;
        }
        out.write("--").await;
        Ok(())
    })
    .await?;
    Ok(answer.with_text(header::CONTENT_TYPE, &content_type).uncompressed())
}

/// One document inside an outer multipart: its `Content-Type` and its body.
async fn one(out: &mut Sender, database: &Arc<Database>, found: &Found, show: &Show, inner: &str) -> Result<()> {
    let attachments: Vec<Attachment> = render::following(found, show).into_iter().cloned().collect();
    let text = json_of(found, show)?;
    if attachments.is_empty() {
        out.text(format!("Content-Type: application/json\r\n\r\n{text}")).await;
        return Ok(());
    }
    out.write(format!("Content-Type: multipart/related; boundary=\"{inner}\"\r\n\r\n")).await;
    related(out, database, inner, &text, attachments).await
}

/// `_bulk_get` as `multipart/mixed` or `multipart/related`.
pub(super) async fn bulk_get(
    request: &Request,
    database: Arc<Database>,
    kind: &'static str,
    show: Show,
    mut pages: Pages,
) -> Result<Answer> {
    let outer = boundary(database.clock());
    let content_type = format!("{kind}; boundary=\"{outer}\"");
    let answer = Answer::stream(&request.line, kind, move |mut out| async move {
        let mut any = false;
        while let Some(page) = pages.next(&mut out).await? {
            for (mut entry, mut answers) in page {
                any = true;
                let mut show = show.clone();
                if let Some(since) = entry.since.take() {
                    show.attachments = Attachments::InlineSince(since);
                }
                let show = follows(&show);
                if let Some(wrong) = &entry.wrong {
                    refused(&mut out, &outer, wrong).await;
                }
                while !answers.is_empty() {
                    for answer in answers {
                        match answer {
                            Ok(found) => {
                                out.write(format!("\r\n--{outer}\r\n")).await;
                                if !render::following(&found, &show).is_empty() {
                                    let id = header_safe(&found.id);
                                    out.write(format!("X-Doc-Id: {id}\r\nX-Rev-Id: {}\r\n", found.revision)).await;
                                }
                                let inner = boundary(database.clock());
                                one(&mut out, &database, &found, &show, &inner).await?;
                            }
                            Err(error) => refused(&mut out, &outer, &error).await,
                        }
                    }
                    answers = pages.rest(&mut entry, &mut out).await?;
                }
            }
        }
        if any {
            out.write(format!("\r\n--{outer}--\r\n")).await;
        }
        Ok(())
    })
    .await?;
    Ok(answer.with_text(header::CONTENT_TYPE, &content_type).uncompressed())
}

/// Writes an error in the place of a document.
async fn refused(out: &mut Sender, outer: &str, error: &Value) {
    out.write(format!("\r\n--{outer}\r\nContent-Type: application/json; error=\"true\"\r\n\r\n{error}")).await;
}

/// Reads a document as `multipart/related`: first the JSON, then the attachments that it marks with
/// `follows`. A part is matched to an attachment by its file name, or else by the order in the JSON.
pub async fn receive(request: &mut Request, database: &Arc<Database>, id: String, mode: Mode) -> Result<Incoming> {
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let boundary = boundary_of(&content_type)?;
    let limits = edits::limits(request);
    let rules = AttachmentRules::of(request);
    let mut body = std::mem::replace(&mut request.body, RequestBody::empty());
    let mut parts = Parts::new(&mut body, &boundary);
    let headers = parts.next().await?.ok_or_else(|| malformed("no first part"))?;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|value| value.to_str().is_ok_and(|value| value.starts_with("application/json")));
    if !is_json {
        return Err(malformed("the first part is not application/json"));
    }
    let text = collect(&mut parts, limits.bytes, &id).await?;
    let mut split = crate::json::split(&text, &limits)?;
    edits::check(database, request, &id, &split)?;
    match mode {
        Mode::Interactive => split.rev = named_revision(request, split.rev.take())?,
        Mode::Replicated => require_path(&mut split, request)?,
    }
    let (following, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut split.attachments).into_iter().partition(|(_, stub)| matches!(stub, Stub::Follows { .. }));
    split.attachments = others;
    let places: HashMap<String, usize> =
        following.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
    let mut waiting: Vec<Option<(String, Stub)>> = following.into_iter().map(Some).collect();
    let (mut received, mut first) = (Vec::with_capacity(waiting.len()), 0);
    while received.len() < waiting.len() {
        let headers = parts.next().await?.ok_or_else(|| malformed("fewer parts than attachments that follow"))?;
        let named = headers
            .get(header::CONTENT_DISPOSITION)
            .and_then(|value| parameter(&String::from_utf8_lossy(value.as_bytes()), "filename"));
        // Matched by file name, or else the first attachment still missing.
        let named = named.and_then(|name| places.get(&name).copied()).filter(|at| waiting[*at].is_some());
        while waiting.get(first).is_some_and(Option::is_none) {
            first += 1;
        }
        let Some((name, Stub::Follows { fields })) = waiting[named.unwrap_or(first)].take() else { continue };
        let header_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = fields.content_type.or(header_type).unwrap_or_else(|| "application/octet-stream".into());
        let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|value| value.as_bytes() == b"gzip");
        let gzipped = encoded || fields.encoding.as_deref() == Some("gzip");
        let upload = {
            let (database, rules, name) = (database.clone(), rules.clone(), name.clone());
            blocking(move || rules.start(&database, &name, &content_type, gzipped)).await?
        };
        let uploaded = receive_content(&mut parts, upload, &rules, &name).await?;
        let mut attachment = uploaded.attachment;
        if let Some(length) = fields.length
            && length != attachment.length
            && length != attachment.stored
        {
            return Err(malformed(&format!("the length of attachment {name} differs from its stub")));
        }
        attachment.revpos = fields.revpos.unwrap_or(0);
        let keep_revpos = mode == Mode::Replicated && fields.revpos.is_some();
        received.push((name, Source::Written { attachment, keep_revpos, pin: uploaded.pin }));
    }
    parts.finish().await?;
    request.refresh();
    let mut edit = edits::prepare(database, id, split, rules, mode == Mode::Replicated).await?;
    edit.attachments.extend(received);
    Ok(edit)
}

/// Reads the form that old browsers send (`multipart/form-data`): `_doc` with the document's JSON, or `_rev`
/// with a revision whose members are kept; and files in `_attachments` fields. The new attachments are listed
/// before the ones that are kept.
pub async fn receive_form(request: &mut Request, database: &Arc<Database>, id: String) -> Result<Incoming> {
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let boundary = boundary_of(&content_type)?;
    let limits = edits::limits(request);
    let rules = AttachmentRules::of(request);
    let mut body = std::mem::replace(&mut request.body, RequestBody::empty());
    let mut parts = Parts::new(&mut body, &boundary);
    let (mut doc, mut rev, mut files) = (None, None, Vec::new());
    while let Some(headers) = parts.next().await? {
        let disposition =
            headers.get(header::CONTENT_DISPOSITION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let disposition = disposition.unwrap_or_default().into_owned();
        let name = parameter(&disposition, "name").unwrap_or_default();
        if name == "_attachments" {
            let file = parameter(&disposition, "filename").unwrap_or_default();
            edits::check_attachment_name(&file)?;
            let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
            let upload = {
                let (database, rules, file) = (database.clone(), rules.clone(), file.clone());
                blocking(move || rules.start(&database, &file, &content_type, false)).await?
            };
            let uploaded = receive_content(&mut parts, upload, &rules, &file).await?;
            let Uploaded { attachment, pin, .. } = uploaded;
            files.push((file, Source::Written { attachment, keep_revpos: false, pin }));
            continue;
        }
        let text = collect(&mut parts, limits.bytes, &id).await?;
        match name.as_str() {
            "_doc" => doc = Some(text),
            "_rev" => rev = Some(String::from_utf8_lossy(&text).trim().to_owned()),
            _ => {}
        }
    }
    parts.finish().await?;
    request.refresh();
    let new: HashSet<String> = files.iter().map(|(file, _)| file.clone()).collect();
    let is_new = |name: &str| new.contains(name);
    let (parent, json, others) = match (doc, rev) {
        (Some(doc), _) => {
            let mut split = crate::json::split(&doc, &limits)?;
            edits::check(database, request, &id, &split)?;
            split.attachments.retain(|(name, _)| !is_new(name));
            split.rev = named_revision(request, split.rev.take())?;
            let edit = edits::prepare(database, id.clone(), split, rules, false).await?;
            (edit.parent, edit.json, edit.attachments)
        }
        (None, Some(rev)) => {
            let rev = edits::parse_revision(&rev)?;
            let found = super::reading::find(database, &id, Some(rev.clone())).await?;
            let others = found.body.attachments.iter().filter(|attachment| !is_new(&attachment.name));
            let others = others.map(|attachment| (attachment.name.clone(), Source::Stub { revpos: None })).collect();
            (Some(rev), found.body.json, others)
        }
        (None, None) => return Err(edits::parse_revision("").unwrap_err().into()),
    };
    files.extend(others);
    Ok(Incoming { id, parent, path: (0, Vec::new()), deleted: false, json, attachments: files })
}

/// Reads a whole part into memory: JSON, or a short field. The bytes count against the budget for request
/// bodies.
async fn collect(parts: &mut Parts<'_, RequestBody>, most: usize, id: &str) -> Result<BytesMut> {
    let mut text = BytesMut::new();
    while let Some(chunk) = parts.content().await? {
        // A rough bound: `text` includes stubs and whitespace, so only `json::split` checks the exact limit.
        if text.len() + chunk.len() > most.saturating_mul(2).saturating_add(1 << 20) {
            return Err(Error::TooLarge { word: "document_too_large", reason: id.to_owned() }.into());
        }
        parts.body.hold((text.len() + chunk.len()) as u64).await?;
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// The `boundary` parameter of a multipart `Content-Type`; 400 if it is missing, empty or longer than 200
/// bytes.
pub fn boundary_of(content_type: &str) -> Result<String> {
    parameter(content_type, "boundary")
        .filter(|boundary| !boundary.is_empty() && boundary.len() <= 200)
        .ok_or_else(|| Failure::bad_request("Missing boundary in multipart Content-Type"))
}

fn malformed(what: &str) -> Failure {
    Failure::bad_request(format!("Malformed multipart body: {what}"))
}

/// Returns a parameter of a header value such as `multipart/related; boundary="x"`. Does not support escaped
/// quotes.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (key, after) = rest.split_once('=')?;
        let (text, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text.to_owned());
        }
        rest = next;
    }
}

/// A streaming parser for a multipart body: part by part, and the content of each part in chunks.
pub struct Parts<'a, B> {
    body: &'a mut B,
    /// `\r\n--boundary`
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: At,
}

#[derive(PartialEq, Clone, Copy)]
enum At {
    /// Before the first delimiter. The buffer initially holds a line break, so that the first delimiter
    /// matches like the others.
    Preamble,
    /// Inside a part's content.
    Content,
    /// Directly after a delimiter.
    Delimiter,
    End,
}

impl<'a, B: Chunks + Send> Parts<'a, B> {
    /// Creates a parser for a body with the given boundary.
    pub fn new(body: &'a mut B, boundary: &str) -> Parts<'a, B> {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Parts { body, delimiter, buffer: BytesMut::from(&b"\r\n"[..]), state: At::Preamble }
    }

    async fn more(&mut self) -> Result<()> {
        match self.body.chunk().await? {
            Some(chunk) => {
                self.buffer.extend_from_slice(&chunk);
                Ok(())
            }
            None => Err(malformed("it ends before its last boundary")),
        }
    }

    /// Returns the headers of the next part, or `None` after the last part. Skips the unread rest of the
    /// current part.
    pub async fn next(&mut self) -> Result<Option<HeaderMap>> {
        while matches!(self.state, At::Preamble | At::Content) {
            self.content().await?;
        }
        if self.state == At::End {
            return Ok(None);
        }
        while self.buffer.len() < 2 {
            self.more().await?;
        }
        if self.buffer.starts_with(b"--") {
            self.state = At::End;
            return Ok(None);
        }
        let end = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.buffer.len() > MOST_HEADER_BYTES => {
                    return Err(malformed("a part's headers are too long"));
                }
                None => self.more().await?,
            }
        };
        let head = self.buffer.split_to(end);
        self.buffer.advance(4);
        self.state = At::Content;
        Ok(Some(parse_headers(&head)?))
    }

    /// Returns the next chunk of the part's content, or `None` at its end.
    pub async fn content(&mut self) -> Result<Option<Bytes>> {
        loop {
            if !matches!(self.state, At::Preamble | At::Content) {
                return Ok(None);
            }
            if let Some(at) = memchr::memmem::find(&self.buffer, &self.delimiter) {
                let content = self.buffer.split_to(at).freeze();
                self.buffer.advance(self.delimiter.len());
                self.state = At::Delimiter;
                return Ok(Some(content).filter(|content| !content.is_empty()));
            }
            // The last bytes may be the beginning of a delimiter; all before them is content.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.more().await?;
        }
    }

    /// Reads the body to its end, so that the connection can be reused.
    pub async fn finish(&mut self) -> Result<()> {
        while self.next().await?.is_some() {}
        while self.body.chunk().await?.is_some() {}
        Ok(())
    }
}

impl<B: Chunks + Send> Chunks for Parts<'_, B> {
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.content().await
    }
}

/// Parses the headers of a part. Skips the first line, which is the rest of the delimiter line.
fn parse_headers(head: &[u8]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or_else(|| malformed("a header without a colon"))?;
        let name = http::HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        match (name, value) {
            (Ok(name), Ok(value)) => headers.insert(name, value),
            _ => return Err(malformed("a part's header")),
        };
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (value, name, wanted) in [
            ("multipart/related; boundary=abc", "boundary", Some("abc")),
            ("multipart/related;boundary=\"a;b c\"; x=y", "boundary", Some("a;b c")),
            ("multipart/related; x=\"1\"; Boundary=abc", "boundary", Some("abc")),
            ("attachment; filename=\"f.txt\"", "filename", Some("f.txt")),
            ("multipart/related", "boundary", None),
            ("multipart/related; boundary=\"abc", "boundary", None),
            ("a; b", "c", None),
        ] {
            assert_eq!(parameter(value, name).as_deref(), wanted, "{value}");
        }
    }

    #[test]
    fn headers_of_a_part() {
        let headers = parse_headers(b"\r\nContent-Type: text/plain\r\nX: y").unwrap();
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["x"], "y");
        assert!(parse_headers(b"").unwrap().is_empty());
        assert!(parse_headers(b"\r\nnonsense").is_err());
    }
}
