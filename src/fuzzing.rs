//! What `fuzz/` calls: each function takes any bytes, gives them to one parser of outside bytes, and holds what comes out
//! against what must be true of it. None may panic, hang or take memory without bound. Only with the feature `fuzzing`.

use std::cmp::Ordering;
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::auth::jwks::{Jwks, NoKeys};
use crate::auth::session::{self, Algorithm, Cookie, Secrets};
use crate::config::Settings;
use crate::http::handlers::attachment::{self, Chunks};
use crate::http::handlers::multipart::{self, Parts};
use crate::http::lenient::Lenient;
use crate::http::request::{Query, Target};
use crate::http::{self as server, answer, cors, route};
use crate::json;
use crate::query::script::Design;
use crate::query::selector::Selector;
use crate::query::view::{Definition, Params};
use crate::rev::{Revision, RevisionHash, Tree};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// The first line, and the rest.
fn line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// Documents: what is kept is what a second parser reads, with the last of equal members; splitting it again changes nothing.
pub fn document(data: &[u8]) {
    let limits = json::Limits { depth: 64, bytes: 1 << 20 };
    if let Ok(text) = json::compact(data, &limits) {
        let value: Value = serde_json::from_str(&text).expect("compact text is JSON");
        if let Ok(given) = serde_json::from_slice::<Value>(data) {
            assert_eq!(value, given, "both parsers see one document");
        }
        assert_eq!(json::compact(text.as_bytes(), &limits).as_deref(), Ok(text.as_str()));
        for element in json::elements(&text) {
            serde_json::from_str::<&serde_json::value::RawValue>(element).expect("an element is JSON");
        }
    }
    let Ok(split) = json::split(data, &limits) else { return };
    let body: serde_json::Map<String, Value> = serde_json::from_str(&split.body).expect("a body is an object");
    let again = json::split(split.body.as_bytes(), &limits).expect("a body is a document");
    assert_eq!(again.body, split.body);
    assert!(!body.contains_key("_id") && !body.contains_key("_rev") && !body.contains_key("_attachments"));
    assert_eq!(json::members(&split.body).count(), body.len(), "no member twice");
    if let Some((generation, hashes)) = &split.revisions {
        assert!(!hashes.is_empty() && *generation >= 1);
    }
    if let Some(id) = &split.id {
        let _ = json::check_id(id);
    }
}

/// A body that comes in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl Chunks for Pieces<'_> {
    async fn chunk(&mut self) -> server::Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (piece, rest) = self.rest.split_at(self.size.min(self.rest.len()));
        self.rest = rest;
        Ok(Some(Bytes::copy_from_slice(piece)))
    }
}

type Part = (HeaderMap, Vec<u8>);

/// Multipart: the pieces in which a body arrives do not matter. The first byte is their size, then a content type's line.
pub fn multipart(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(content_type) = std::str::from_utf8(&data[..end]) else { return };
    let body = data.get(end + 1..).unwrap_or_default();
    for name in ["filename", "name", "boundary"] {
        let _ = multipart::parameter(content_type, name);
    }
    let Ok(boundary) = multipart::boundary_of(content_type) else { return };
    let read = |size: usize| -> server::Result<Vec<Part>> {
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
    // A limit on headers may be met at another place; what was read must be the same.
    if let (Ok(whole), Ok(small)) = (&whole, &small) {
        assert_eq!(whole, small);
    }
}

/// A request's first line and headers, as the connection, the router, CORS and the handlers read them.
pub fn head(data: &[u8]) {
    let mended = block_on(async {
        let mut socket = Lenient::new(data);
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
    let _ = answer::matches_etag(&headers, "1-abc");
    let _ = server::server::accepts(&headers, "text/html");
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
    assert!(target.segments.iter().all(|segment| !segment.is_empty() && !segment.contains('\0')));
    for name in ["descending", "limit", "key"] {
        let _ = (target.query.flag(name, true), target.query.natural(name), target.query.json(name));
    }
    let routed = route::route(&target);
    let _ = server::access::needed_by_path(&target.segments);
    if let Ok(routed) = &routed {
        server::access::needed(routed, "_users");
    }
}

/// Cookies: what this server did not sign is nobody's; what it did is read back.
pub fn cookies(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secrets = Secrets::new(Some("a secret"));
    let all = Algorithm::list("sha256, sha, sha512");
    if let Some(value) = session::find(text)
        && let Ok(Some(cookie)) = Cookie::parse(value)
    {
        assert!(!cookie.verify(&secrets, "salt", &all, 1_000), "a forged cookie");
        let _ = cookie.time_left(1_000, 600);
    }
    let (name, _) = line(text);
    if !name.contains(':')
        && let Some(value) = session::issue(name, "salt", 1_000, &secrets, &all)
    {
        let cookie = Cookie::parse(&value).expect("our own cookie").expect("somebody's");
        assert_eq!((cookie.name.as_str(), cookie.issued), (name, 1_000));
        assert!(cookie.verify(&secrets, "salt", &all, 1_000) && !cookie.verify(&secrets, "other", &all, 1_000));
    }
}

/// Bearer tokens and published keys: the first line a token, or the whole a set of keys.
pub fn tokens(data: &[u8]) {
    thread_local! {
        static SETTINGS: crate::auth::Settings = {
            let mut table = crate::config::Table::new();
            for (section, key, value) in [
                ("jwt_keys", "hmac:_default", "YS1zZWNyZXQ="),
                ("jwt_auth", "required_claims", "exp, nbf, {iss, \"me\"}"),
                ("jwt_auth", "roles_claim_path", "a.b\\.c.d"),
            ] {
                table.entry(section.into()).or_default().insert(key.into(), value.into());
            }
            crate::auth::Settings::read(&table)
        };
    }
    let _ = Jwks::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (token, _) = line(text);
    SETTINGS.with(|settings| {
        assert!(settings.jwt.authenticate(token, 1_000, &NoKeys).is_err(), "a forged token");
        // Header and claims that come apart, so that more than their base64 is tried.
        if let Some((header, claims)) = text.split_once('\n') {
            use base64::Engine;
            let coded = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
            let token = format!("{}.{}.AAAA", coded(header), coded(claims));
            assert!(settings.jwt.authenticate(&token, 1_000, &NoKeys).is_err(), "a forged token");
            let _ = crate::auth::token::Access::parse(&token);
        }
    });
    if let Some(access) = crate::auth::token::Access::parse(token) {
        assert!(!access.verify(&Secrets::new(Some("a secret")), "salt", 0), "a forged access token");
    }
}

/// Revisions, paths of them, and stored trees.
pub fn revisions(data: &[u8]) {
    if let Some(tree) = Tree::decode(data) {
        let _ = (tree.winner(), tree.leaves().len());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut tree = Tree::new();
    for line in text.lines().take(64) {
        // `3-c b a` is a path, the newest first.
        let mut words = line.split(' ');
        let Some(first) = words.next() else { continue };
        let Ok(newest) = Revision::from_str(first) else { continue };
        assert_eq!(Revision::from_str(&newest.to_string()).as_ref(), Ok(&newest), "read back");
        let mut hashes = vec![newest.hash.clone()];
        hashes.extend(words.take(newest.generation.min(64) as usize - 1).map(RevisionHash::parse));
        tree.merge(newest.generation, &hashes, line.len() % 3 == 0, None);
        tree.check();
        assert!(tree.get(&newest).is_some());
    }
    let mut bytes = Vec::new();
    tree.encode(&mut bytes);
    let again = Tree::decode(&bytes).expect("our own tree");
    assert_eq!(again.nodes().len(), tree.nodes().len());
    tree.stem(3);
    tree.check();
}

/// Selectors: the first line is one, the second a document's body. It can be written and read again, and both ways to
/// match agree.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (selector, rest) = line(text);
    let (body, _) = line(rest);
    let Ok(selector) = serde_json::from_str::<Value>(selector) else { return };
    let Ok(selector) = Selector::parse(&selector) else { return };
    let _ = (selector.field_names(), selector.is_text_search());
    let written = selector.to_json();
    let again = Selector::parse(&written).expect("a normalised selector is a selector");
    assert_eq!(again.to_json(), written);
    let limits = json::Limits { depth: 64, bytes: 1 << 16 };
    let Ok(split) = json::split(body.as_bytes(), &limits) else { return };
    let matched = selector.matches_body("id", "1-a", &split.body).expect("a body of ours");
    assert_eq!(again.matches_body("id", "1-a", &split.body), Ok(matched));
    if !selector.wants_special_members() {
        let mut whole: serde_json::Map<String, Value> = serde_json::from_str(&split.body).expect("an object");
        whole.insert("_id".into(), "id".into());
        whole.insert("_rev".into(), "1-a".into());
        assert_eq!(selector.matches(&Value::Object(whole)), matched);
    }
}

/// View queries: a query string, and on the second line a body.
pub fn views(data: &[u8]) {
    thread_local! {
        static DEFINITION: Definition = {
            let source = r#"{"views":{"m":{"map":"function (d) {}"},"r":{"map":"function (d) {}","reduce":"_sum"}}}"#;
            let design = Design::new(1, "_design/d".into(), "1-a".into(), source.into()).expect("a design document");
            Definition::read(&design, false).expect("a definition")
        };
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (query, body) = line(text);
    let mut params = Params::default();
    for (name, value) in Query::parse(query).iter() {
        if params.set_text(name, value).is_err() {
            return;
        }
    }
    if let Ok(Value::Object(members)) = serde_json::from_str(body)
        && params.set_all(&members).is_err()
    {
        return;
    }
    DEFINITION.with(|definition| {
        for view in ["m", "r"] {
            let Ok(view) = definition.view(view) else { continue };
            for most in [None, Some(10)] {
                let _ = params.plan(definition, view, most);
            }
        }
    });
}

/// Collation: three lines of JSON are in one order, whichever two are compared.
pub fn collation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = json::Limits { depth: 64, bytes: 1 << 16 };
    let keys: Vec<String> =
        text.lines().take(3).filter_map(|line| json::compact(line.as_bytes(), &limits).ok()).collect();
    for a in &keys {
        for b in &keys {
            let order = json::compare(a, b);
            assert_eq!(order, json::compare(b, a).reverse());
            for c in &keys {
                if order != Ordering::Greater && json::compare(b, c) != Ordering::Greater {
                    assert_ne!(json::compare(a, c), Ordering::Greater, "{a} {b} {c}");
                }
            }
            if a != b {
                let raw = json::raw_sort_key(a).cmp(&json::raw_sort_key(b));
                assert_eq!(raw, json::raw_sort_key(b).cmp(&json::raw_sort_key(a)).reverse());
            }
        }
        let _ = json::compare_strings(a, "\"x\"");
    }
}
