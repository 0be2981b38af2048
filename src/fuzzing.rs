//! Entry points for `fuzz/`. Each function passes arbitrary bytes to one parser of untrusted input and
//! asserts properties of the result. A parser must not panic, hang or allocate without bound. Compiled only
//! with the feature `fuzzing`.

mod accounts;
mod queries;

use std::collections::HashSet;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::config::Settings;
use crate::db::parse;
use crate::db::{Histories, Since};
use crate::http::api::document::attachment;
use crate::http::connection::request_line::RequestLineRepair;
use crate::http::request::Target;
use crate::http::response::cors;
use crate::http::routing::required_access;
use crate::http::routing::route_table::route;
use crate::json;
use crate::net::multipart::{Chunks, Following, Head, Malformed, Parts, header_safe, value_safe};
use crate::rev::{Digests, Merged, Revision, RevisionHash, Tree, new_revision};

pub use self::accounts::{addresses, cookies, settings, tokens};
pub use self::queries::{bookmarks, collation, finds, patterns, selectors, views};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Splits the text into its first line and the rest.
fn line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// Documents: settee's parser and serde_json accept the same input and agree on its value; a stored body
/// parses again to the same body.
pub fn document(data: &[u8]) {
    let limits = parse::Limits { depth: 64, bytes: 1 << 20 };
    let given = serde_json::from_slice::<Value>(data);
    match parse::compact(data, &limits) {
        Ok(text) => {
            match (serde_json::from_str::<Value>(&text), &given) {
                (Ok(value), Ok(given)) => assert_eq!(&value, given, "both parsers see one document"),
                // settee accepts integers of any size, serde_json only those in the range of a double.
                (Err(_), Err(_)) => assert!(has_huge_integer(text.as_bytes()), "only one parser takes {text}"),
                // The integer was the value of a duplicate member, which `compact` drops.
                (Ok(_), Err(_)) => assert!(has_huge_integer(data), "only one parser takes {text}"),
                _ => panic!("compacting changes what it is: {text}"),
            }
            assert_eq!(parse::compact(text.as_bytes(), &limits).as_deref(), Ok(text.as_str()));
            for element in json::elements(&text) {
                assert_eq!(parse::compact(element.as_bytes(), &limits).as_deref(), Ok(element));
            }
        }
        Err(_) => assert!(given.is_err() || crate::http::request::too_deep(data, limits.depth), "JSON is taken"),
    }
    let Ok(split) = parse::split(data, &limits) else { return };
    let again = parse::split(split.body.as_bytes(), &limits).expect("a body is a document");
    assert_eq!(again.body, split.body);
    let revision = |body: &str| new_revision(false, None, body, Digests::Known(&[]));
    assert_eq!(revision(&again.body), revision(&split.body));
    if let Some((_, hashes)) = &split.revisions {
        assert!(!hashes.is_empty());
        let path = split.revisions.clone().unwrap_or_default();
        let mut tree = Tree::new();
        tree.merge(path.0, &path.1, split.deleted, None);
        tree.check();
    }
    if let Some(id) = &split.id {
        parse::check_id(id).expect("a document's id is checked");
    }
    let names: HashSet<&str> = split.attachments.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), split.attachments.len(), "no attachment twice");
    let Ok(body) = serde_json::from_str::<serde_json::Map<String, Value>>(&split.body) else {
        assert!(has_huge_integer(split.body.as_bytes()));
        return;
    };
    assert!(!body.contains_key("_id") && !body.contains_key("_rev") && !body.contains_key("_attachments"));
    assert_eq!(json::members(&split.body).count(), body.len(), "no member twice");
    for (name, value) in json::members(&split.body) {
        assert_eq!(Some(&serde_json::from_str::<Value>(value).expect("a member is JSON")), body.get(&*name));
    }
}

/// Whether the text contains a run of digits that may exceed the range of a double.
fn has_huge_integer(text: &[u8]) -> bool {
    text.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 300)
}

/// Gzipped bodies: the counted size equals the size of the decompressed body, and never exceeds the limit.
pub fn inflated(data: &[u8]) {
    for limit in [0, 100, 1 << 20] {
        if let Ok(bytes) = crate::http::request::body::inflated_bytes(data, limit) {
            assert!(bytes <= limit);
            assert_eq!(
                crate::http::request::body::inflate(data, bytes).map(|inflated| inflated.len() as u64),
                Ok(bytes)
            );
        }
    }
}

/// A body that arrives in chunks of `size` bytes.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl Chunks for Pieces<'_> {
    type Error = Malformed;

    async fn chunk(&mut self) -> Result<Option<Bytes>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (piece, rest) = self.rest.split_at(self.size.min(self.rest.len()));
        self.rest = rest;
        Ok(Some(Bytes::copy_from_slice(piece)))
    }
}

type Part = (Head, Vec<u8>);

/// Multipart bodies: the result does not depend on the chunks in which the body arrives. The input is the
/// chunk size (one byte), a line with the content type, and the body. The same input is names and types of attachments.
pub fn multipart(data: &[u8]) {
    attachments(data);
    let Some((size, data)) = data.split_first() else { return };
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(content_type) = std::str::from_utf8(&data[..end]) else { return };
    let body = data.get(end + 1..).unwrap_or_default();
    for name in ["filename", "name", "boundary"] {
        let _ = crate::net::multipart::parameter(content_type, name);
    }
    let Ok(boundary) = crate::net::multipart::boundary_of(content_type) else { return };
    let read = |size: usize| -> Result<Vec<Part>, Malformed> {
        block_on(async {
            let mut body = Pieces { rest: body, size };
            let mut parts = Parts::new(&mut body, &boundary);
            let mut all = Vec::new();
            while let Some(headers) = parts.next().await? {
                let mut content = Vec::new();
                while let Some(piece) = parts.content().await? {
                    content.extend_from_slice(&piece);
                }
                all.push((headers, content));
            }
            parts.finish().await?;
            Ok(all)
        })
    };
    let whole = read(body.len().max(1));
    let small = read(usize::from(*size) + 1);
    // With other chunks, the header limit may hit at another position; so compare only if both reads succeed.
    if let (Ok(whole), Ok(small)) = (&whole, &small) {
        assert_eq!(whole, small);
    }
    if let Ok(whole) = &whole {
        let contents: Vec<&[u8]> = whole.iter().map(|(_, content)| content.as_slice()).collect();
        assert_eq!(contents, parts_of(body, &boundary), "as cut out of the whole body");
    }
}

/// Parts of attachments as CouchDB writes them, with unescaped names and types, and as settee does: each content is
/// found, with the name that it belongs to. The input is the chunk size (one byte), and lines with names and types in
/// turn, which end with U+001E.
fn attachments(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut texts = text.split('\u{1e}');
    let (mut attachments, mut names) = (Vec::new(), HashSet::new());
    while let (Some(name), Some(content_type)) = (texts.next(), texts.next()) {
        if names.insert(name) && !name.contains("--b") && !content_type.contains("--b") {
            attachments.push((name, content_type));
        }
    }
    for is_safe in [true, false] {
        let mut body = String::from("--b");
        for (at, (name, content_type)) in attachments.iter().enumerate() {
            let (name, content_type) = match is_safe {
                true => (header_safe(name), value_safe(content_type)),
                false => ((*name).into(), (*content_type).into()),
            };
            body.push_str(&format!("\r\nContent-Disposition: attachment; filename=\"{name}\""));
            body.push_str(&format!("\r\nContent-Type: {content_type}\r\nContent-Length: 1\r\n\r\n{at}\r\n--b"));
        }
        body.push_str("--");
        let mut body = Pieces { rest: body.as_bytes(), size: usize::from(*size) + 1 };
        let read = block_on(async {
            let mut parts = Parts::new(&mut body, "b");
            let mut missing = Following::new(attachments.iter().map(|(name, _)| (*name).to_owned()).collect());
            let mut wanted = 0;
            while let Some(expected) = missing.expected() {
                let (name, content_type) = attachments[expected];
                let head = parts.next_attachment(name, content_type).await?.expect("a part");
                let mut content = Vec::new();
                while let Some(piece) = parts.content().await? {
                    content.extend_from_slice(&piece);
                }
                assert_eq!(content, wanted.to_string().as_bytes());
                assert_eq!(missing.take(&head), Some(wanted), "parts in order");
                wanted += 1;
            }
            parts.finish().await
        });
        assert_eq!(read, Ok::<(), Malformed>(()));
    }
}

/// The part contents of a well-formed multipart body: a simple reference implementation that splits at the
/// delimiters.
fn parts_of<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("\r\n--{boundary}");
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|window| window == what);
    let mut rest = match body.strip_prefix(&delimiter.as_bytes()[2..]) {
        Some(rest) => rest,
        None => match find(body, delimiter.as_bytes()) {
            Some(at) => &body[at + delimiter.len()..],
            None => return Vec::new(),
        },
    };
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let Some(head) = find(rest, b"\r\n\r\n") else { break };
        let content = &rest[head + 4..];
        let Some(end) = find(content, delimiter.as_bytes()) else { break };
        parts.push(&content[..end]);
        rest = &content[end + delimiter.len()..];
    }
    parts
}

/// Request line and headers, as parsed by the connection, the router, CORS and the handlers.
pub fn head(data: &[u8]) {
    let mended = block_on(async {
        let mut socket = RequestLineRepair::new(data);
        let (mut all, mut some) = (Vec::new(), [0; 97]);
        while let Ok(taken @ 1..) = socket.read(&mut some).await {
            all.extend_from_slice(&some[..taken]);
        }
        all
    });
    assert!(mended.len() >= data.len(), "nothing is lost");
    let mut lines = mended.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let Some(first) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = header::HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    let settings = Settings::default();
    let _ = cors::preflight(&settings.cors, &headers);
    let _ = cors::is_foreign(&settings.cors, &headers);
    cors::decorate(&settings.cors, &headers, &mut HeaderMap::new());
    if let Some(tags) = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) {
        let whole = headers.get_all(header::IF_NONE_MATCH).iter().count() == 1 && tags == "\"1-abc\"";
        assert!(!whole || crate::http::request::matches_etag(&headers, "1-abc"));
        assert!(
            tags.contains("\"1-abc\"")
                || headers.get_all(header::IF_NONE_MATCH).iter().count() > 1
                || !crate::http::request::matches_etag(&headers, "1-abc")
        );
    }
    let _ = crate::http::request::accepts(&headers, "text/html");
    if let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        for length in [0, 1, 10, u64::MAX] {
            for (from, to) in attachment::parse_ranges(range, length).unwrap_or_default() {
                assert!(from <= to && to < length, "a range lies within");
            }
        }
    }
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), target.parse()) else { return };
    let Ok(target) = Target::read(&method, &uri, &headers, &settings) else { return };
    assert!(target.segments.iter().all(|segment| !segment.is_empty()));
    assert_eq!(target.segments, segments_of(uri.path()), "as decoded byte by byte");
    for name in ["descending", "limit", "key"] {
        let _ = (target.query.flag(name, true), target.query.natural(name), target.query.json(name));
    }
    let routed = route(&target);
    let _ = required_access::needed_by_path(&target.segments);
    if let Ok(routed) = &routed {
        required_access::needed(routed, "_users");
    }
}

/// The segments of a valid path, decoded byte by byte: a reference implementation.
fn segments_of(path: &str) -> Vec<String> {
    let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0) as u8;
    let decode = |part: &str| {
        let (mut bytes, mut out) = (part.bytes(), Vec::new());
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'%' => hex(bytes.next()) << 4 | hex(bytes.next()),
                b'+' => b' ',
                other => other,
            });
        }
        String::from_utf8(out).expect("a path that is text")
    };
    path.split('/').filter(|part| !part.is_empty()).map(decode).collect()
}

/// `since` values: the server parses the sequences that it returns, and a number parses to that number.
pub fn since(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let plain = text.trim().trim_matches('"');
    let histories = Histories::default();
    match Since::parse(text, "abc", &histories) {
        Ok(Since::Now) => assert_eq!(plain, "now"),
        Ok(Since::Sequence(0)) => {}
        Ok(Since::Sequence(number)) => {
            let digits = plain.split_once("-abc").map_or(plain, |(digits, _)| digits);
            assert!(digits.parse() == Ok(number) || number == u64::MAX, "{text}");
            let said = Since::Sequence(number);
            assert_eq!(Since::parse(&format!("{number}-abc"), "abc", &histories), Ok(said));
            assert_eq!(Since::parse(&format!("{number}-abc.7"), "abc", &histories), Ok(said));
        }
        Err(_) => assert!(plain.parse::<u64>().is_err() || plain.starts_with('+')),
    }
}

/// Revisions, revision paths, and encoded revision trees.
pub fn revisions(data: &[u8]) {
    if let Some(tree) = Tree::decode(data) {
        let _ = (tree.winner(), tree.leaves().len());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut tree = Tree::new();
    for line in text.lines().take(64) {
        // `3-c b a` is a path, newest revision first; `merge` ignores revisions that would be below
        // generation 1.
        let mut words = line.split(' ');
        let Some(first) = words.next() else { continue };
        let Ok(newest) = Revision::from_str(first) else { continue };
        assert_eq!(Revision::from_str(&newest.to_string()).as_ref(), Ok(&newest), "read back");
        let mut hashes = vec![newest.hash.clone()];
        hashes.extend(words.map(RevisionHash::parse));
        let deleted = line.len() % 3 == 0;
        let before = tree.clone();
        let merged = tree.merge(newest.generation, &hashes, deleted, None);
        tree.check();
        assert_eq!(merged == Merged::Unchanged, tree == before, "what is told of a merge is true");
        assert_eq!(tree.get(&newest).is_some(), newest.generation > 0);
        assert_eq!(tree.merge(newest.generation, &hashes, deleted, None), Merged::Unchanged, "a second time");
        let below = tree.leaves_below(&newest);
        assert!(newest.generation == 0 || !below.is_empty(), "every revision has a leaf above it");
        let unknown = Revision { generation: 1, hash: RevisionHash::parse("unknown") };
        let asked = [newest.clone(), unknown.clone()];
        let missing = tree.missing(&asked);
        assert_eq!(missing.contains(&&newest), tree.get(&newest).is_none());
    }
    let leaves = tree.leaves();
    if let Some(winner) = tree.winner() {
        assert!(leaves.iter().all(|leaf| {
            let rank = |deleted: bool, revision: &Revision| (!deleted, revision.clone());
            rank(leaf.deleted, &leaf.revision) <= rank(winner.deleted, &winner.revision)
        }));
    }
    let mut bytes = Vec::new();
    tree.encode(&mut bytes);
    assert_eq!(Tree::decode(&bytes).as_ref(), Some(&tree), "read back");
    let leaves: Vec<Revision> = leaves.iter().map(|leaf| leaf.revision.clone()).collect();
    for limit in [5, 2, 1] {
        tree.stem(limit);
        tree.check();
        assert_eq!(
            tree.leaves().iter().map(|leaf| &leaf.revision).collect::<Vec<_>>(),
            leaves.iter().collect::<Vec<_>>()
        );
    }
    let doomed: Vec<Revision> = leaves.iter().step_by(2).cloned().collect();
    let (removed, _) = tree.remove_leaves(&doomed);
    tree.check();
    assert_eq!(removed, doomed);
}
