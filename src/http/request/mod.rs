//! A request as handlers see it: decoded path, ordered query, headers, a bounded body, who asks.

pub mod body;
pub mod client_address;
pub mod multipart;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http::header::{self, HeaderMap};
use percent_encoding::percent_decode;
use serde_json::Value;
use tower_http::compression::predicate::Predicate;

use self::body::RequestBody;
use super::response::error::{Failure, Result};
use super::security::authorization::Standing;
use crate::app::answer_budget::Line;
use crate::auth::UserCtx;
use crate::blocking::beside;
use crate::config::Settings;
use crate::error::Error;

/// The methods that routes know. HEAD is [`Verb::Get`] with [`Request::head`] set, as in CouchDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Put,
    Post,
    Delete,
    Copy,
    Options,
    Other,
}

/// One request.
pub struct Request {
    pub verb: Verb,
    /// HEAD: the answer goes out without its body.
    pub head: bool,
    /// Percent-decoded parts of the path, empty ones left out.
    pub segments: Vec<String>,
    /// Path and query as they came.
    pub target: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub user: UserCtx,
    /// The session or access token that the user came with.
    pub session: Option<crate::auth::Session>,
    /// The authorization, which is checked again at the end of the body and before a commit.
    pub standing: Arc<Standing>,
    /// `X-Couch-Request-ID`.
    pub id: String,
    pub peer: Option<IpAddr>,
    /// The connection is encrypted.
    pub secure: bool,
    /// The settings that hold for the whole of this request.
    pub settings: Arc<Settings>,
    pub received: Instant,
    /// The connection that the answer goes to: what the answer holds counts for it.
    pub line: Line,
}

/// What a request line and headers say, before the rest is known.
pub struct Target {
    pub verb: Verb,
    pub head: bool,
    pub segments: Vec<String>,
    pub query: Query,
}

impl Target {
    /// Reads method, path and query (`chttpd.erl`, `handle_request_int`).
    pub fn read(method: &http::Method, uri: &http::Uri, headers: &HeaderMap, settings: &Settings) -> Result<Target> {
        let (verb, head) = verb_of(method, headers);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        if target.len() as u64 > settings.max_uri_length {
            return Err(Failure::UriTooLong);
        }
        check_encoding(target)?;
        let segments = uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .enumerate()
            .map(|(index, part)| decode(part, index, settings.plus_is_space))
            .collect::<Result<Vec<String>>>()?;
        Ok(Target { verb, head, segments, query: Query::parse(uri.query().unwrap_or("")) })
    }
}

/// `X-HTTP-Method-Override` counts on POST only.
fn verb_of(method: &http::Method, headers: &HeaderMap) -> (Verb, bool) {
    let said = headers.get("x-http-method-override").and_then(|value| value.to_str().ok());
    let name = match said {
        Some(said @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "TRACE" | "CONNECT" | "COPY"))
            if method == http::Method::POST =>
        {
            said
        }
        _ => method.as_str(),
    };
    match name {
        "GET" => (Verb::Get, false),
        "HEAD" => (Verb::Get, true),
        "PUT" => (Verb::Put, false),
        "POST" => (Verb::Post, false),
        "DELETE" => (Verb::Delete, false),
        "COPY" => (Verb::Copy, false),
        "OPTIONS" => (Verb::Options, false),
        _ => (Verb::Other, false),
    }
}

fn check_encoding(target: &str) -> Result<()> {
    let bytes = target.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    match (0..bytes.len()).any(|at| bytes[at] == b'%' && !(is_hex(at + 1) && is_hex(at + 2))) {
        true => Err(Failure::bad_request("invalid_url_encoding")),
        false => Ok(()),
    }
}

fn decode(part: &str, index: usize, plus_is_space: bool) -> Result<String> {
    let spaced;
    let part = if plus_is_space && part.contains('+') {
        spaced = part.replace('+', " ");
        &spaced
    } else {
        part
    };
    let text = percent_decode(part.as_bytes()).decode_utf8();
    match text {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ if index == 0 => Err(Error::IllegalDatabaseName(illegal_database_name(part)).into()),
        _ if index == 1 => Err(Error::IllegalDocId("Document id must be valid UTF-8".into()).into()),
        _ => Err(Failure::bad_request("Attachment name is not UTF-8 encoded")),
    }
}

/// CouchDB's words for a database name that is not allowed.
pub fn illegal_database_name(name: &str) -> String {
    format!(
        "Name: '{name}'. Only lowercase characters (a-z), digits (0-9), and any of the characters _, $, (, ), +, -, and / \
         are allowed. Must begin with a letter."
    )
}

impl Request {
    /// A header's text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Refuses a body that does not say that it is JSON (415), as CouchDB's `validate_ctype`.
    pub fn must_be_json(&self) -> Result<()> {
        let said = self.header(header::CONTENT_TYPE).unwrap_or("");
        if said.split(';').next() == Some("application/json") {
            Ok(())
        } else {
            Err(Error::BadContentType("Content-Type must be application/json".into()).into())
        }
    }

    /// Takes the user's roles from the last check. The body makes one at its end.
    pub fn refresh(&mut self) {
        if let Some(user) = self.standing.renewed() {
            self.user = user;
        }
    }

    /// The whole body, inflated if it is gzipped.
    pub async fn whole(&mut self) -> Result<Bytes> {
        let bytes = self.body.whole(&self.settings, &self.headers).await?;
        self.refresh();
        Ok(bytes)
    }

    /// The whole body, inflated if it is gzipped, as JSON text that is UTF-8 and not too deep; nothing else is checked.
    pub async fn json_text(&mut self) -> Result<String> {
        let bytes = self.whole().await?;
        if bytes.is_empty() {
            return Err(invalid_json());
        }
        let depth = self.settings.max_json_depth;
        beside(bytes.len(), || {
            if too_deep(&bytes, depth) {
                return Err(Failure::bad_request(format!("JSON nests deeper than {depth}")));
            }
            String::from_utf8(bytes.into()).map_err(|_| invalid_json())
        })
    }

    /// The whole body as a JSON value.
    pub async fn json(&mut self) -> Result<serde_json::Value> {
        let text = self.json_text().await?;
        // `[[],[],...]` takes fifty times as much as values.
        let values = beside(text.len(), || values(text.as_bytes()));
        self.body.hold((text.len() + values * VALUE) as u64).await?;
        self.refresh();
        beside(text.len(), || serde_json::from_str(&text)).map_err(|_| invalid_json())
    }

    /// The whole body as a JSON object.
    pub async fn json_object(&mut self) -> Result<serde_json::Map<String, serde_json::Value>> {
        match self.json().await? {
            serde_json::Value::Object(members) => Ok(members),
            _ => Err(Failure::bad_request("Request body must be a JSON object")),
        }
    }

    /// Whether `If-None-Match` names this tag (without quotes).
    pub fn has_etag(&self, tag: &str) -> bool {
        self::matches_etag(&self.headers, tag)
    }

    /// `scheme://host` + `path`, as the client sees this server (`chttpd.erl`, `absolute_uri`).
    pub fn absolute_uri(&self, path: &str) -> String {
        let named = |key: &str| self.settings.get("chttpd", key).and_then(|name| self.headers.get(name)?.to_str().ok());
        let host = named("x_forwarded_host").or_else(|| self.header(header::HOST)).unwrap_or("localhost:5984");
        let secure =
            named("x_forwarded_ssl") == Some("on") || named("x_forwarded_proto") == Some("https") || self.secure;
        format!("{}://{host}{path}", if secure { "https" } else { "http" })
    }
}

/// CouchDB's answer to a body that is no JSON.
pub fn invalid_json() -> Failure {
    Failure::bad_request("invalid UTF-8 JSON")
}

/// Whether arrays and objects nest deeper than `most`. Strings are skipped; the text need not be valid.
pub fn too_deep(text: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// About what a value takes in memory beside its text, with its name and what is made of it.
const VALUE: usize = 160;

/// How many values JSON text has, about.
fn values(text: &[u8]) -> usize {
    let (mut count, mut at) = (1, 0);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b',' | b'[' | b'{' => count += 1,
            b'"' => {
                while let Some(end) = memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
                    at += end + 1;
                    if text[at - 1] == b'"' {
                        break;
                    }
                    at += 1;
                }
            }
            _ => {}
        }
    }
    count
}

/// A query's parameters in their order, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=2`; `+` is a space, broken UTF-8 is replaced.
    pub fn parse(text: &str) -> Query {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Puts a pair in front, as partition requests do.
    pub fn put_first(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.insert(0, (name.to_owned(), value.to_owned()));
    }

    /// `true` or `false`, any case; `default` if absent (`couch_mrview_http:parse_boolean`).
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => Err(query_error(format!("Invalid boolean parameter: {}", quoted(value)))),
        }
    }

    /// A whole number (`couch_mrview_http:parse_int`).
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let wrong = |value: &str| query_error(format!("Invalid value for integer: {}", quoted(value)));
        self.get(name).map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }

    /// A whole number that is not negative (`couch_mrview_http:parse_pos_int`).
    pub fn natural(&self, name: &str) -> Result<Option<u64>> {
        let wrong = |value: &str| query_error(format!("Invalid value for positive integer: {}", quoted(value)));
        match self.integer(name)? {
            Some(number) => u64::try_from(number).map(Some).map_err(|_| wrong(self.get(name).unwrap_or(""))),
            None => Ok(None),
        }
    }

    /// A JSON value (`chttpd:qs_json_value`).
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>> {
        self.get(name).map(|value| serde_json::from_str(value).map_err(|_| invalid_json())).transpose()
    }
}

/// 400 `query_parse_error`.
pub fn query_error(reason: impl Into<String>) -> Failure {
    Error::QueryParse(reason.into()).into()
}

/// Erlang's `~p` of a string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether `Accept` takes a type; none at all takes everything.
pub fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else { return true };
    let family = wanted.split('/').next().unwrap_or("");
    accept.split(',').filter_map(|one| one.split(';').next()).map(str::trim).any(|one| {
        one == "*/*" || one.eq_ignore_ascii_case(wanted) || one.strip_suffix("/*").is_some_and(|one| one == family)
    })
}

/// Returns the first of `kinds` that the client accepts. `None` means JSON: the client accepts none of them,
/// or it names JSON explicitly and none of `kinds`.
pub fn wanted(request: &Request, kinds: &[&'static str]) -> Option<&'static str> {
    let accept = request.header(header::ACCEPT).unwrap_or("");
    if accept.contains("application/json") && !kinds.iter().any(|kind| accept.contains(kind)) {
        return None;
    }
    kinds.iter().find(|kind| accepts(&request.headers, kind)).copied()
}

/// Whether `If-None-Match` contains the tag (given without quotes), as a strong or a weak one.
pub fn matches_etag(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split([',', ' ']).any(|one| {
            let one = one.strip_prefix("W/").unwrap_or(one);
            one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag)
        })
    })
}

/// Reads the members of a form or of a JSON object. Ignores JSON members that are not strings.
pub(crate) async fn read_form(request: &mut Request) -> Result<Vec<(String, String)>> {
    request.body.tighten(MAX_FORM);
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_ascii_lowercase();
    if content_type.starts_with("application/x-www-form-urlencoded") {
        let body = request.whole().await?;
        return Ok(form_urlencoded::parse(&body).into_owned().collect());
    }
    if !content_type.starts_with("application/json") {
        let reason = "Content-Type must be 'application/x-www-form-urlencoded' or 'application/json'";
        return Err(Error::BadContentType(reason.into()).into());
    }
    let members = request.json_object().await?;
    Ok(members.into_iter().filter_map(|(name, value)| text(value).map(|value| (name, value))).collect())
}

/// Maximum size of a sign-in form in bytes.
const MAX_FORM: u64 = 64 << 10;

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str) -> Result<Target> {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        Target::read(&method, &uri.parse().unwrap(), &HeaderMap::new(), &Settings::default())
    }

    #[test]
    fn paths_are_decoded_part_by_part() {
        for (uri, segments) in [
            ("/", &[][..]),
            ("//db///doc/", &["db", "doc"]),
            ("/db/a%2Fb/c", &["db", "a/b", "c"]),
            ("/db/_design%2Fx", &["db", "_design/x"]),
            ("/db/a+b", &["db", "a b"]),
            ("/db/a%2Bb", &["db", "a+b"]),
            ("/db/%E2%82%AC", &["db", "€"]),
        ] {
            assert_eq!(target("GET", uri).ok().unwrap().segments, segments, "{uri}");
        }
    }

    #[test]
    fn broken_paths_are_refused() {
        for (uri, failure) in [
            ("/db%", Failure::bad_request("invalid_url_encoding")),
            ("/db?x=%2", Failure::bad_request("invalid_url_encoding")),
            ("/db%%3Ae", Failure::bad_request("invalid_url_encoding")),
            ("/db/%FF", Error::IllegalDocId("Document id must be valid UTF-8".into()).into()),
        ] {
            assert_eq!(target("GET", uri).err(), Some(failure), "{uri}");
        }
    }

    #[test]
    fn the_override_counts_on_post_only() {
        let mut headers = HeaderMap::new();
        headers.insert("x-http-method-override", http::HeaderValue::from_static("DELETE"));
        assert_eq!(verb_of(&http::Method::POST, &headers), (Verb::Delete, false));
        assert_eq!(verb_of(&http::Method::GET, &headers), (Verb::Get, false));
        headers.insert("x-http-method-override", http::HeaderValue::from_static("PATCH"));
        assert_eq!(verb_of(&http::Method::POST, &headers), (Verb::Post, false));
    }

    #[test]
    fn typed_parameters() {
        let query = Query::parse("a=true&b=FALSE&c=maybe&n=12&m=-1&j=%5B1%5D&k=%5B&a=false");
        assert_eq!(query.flag("a", false), Ok(true));
        assert_eq!(query.flag("b", true), Ok(false));
        assert_eq!(query.flag("none", true), Ok(true));
        assert_eq!(query.flag("c", true), Err(query_error("Invalid boolean parameter: \"maybe\"")));
        assert_eq!(query.natural("n"), Ok(Some(12)));
        assert_eq!(query.natural("m"), Err(query_error("Invalid value for positive integer: \"-1\"")));
        assert_eq!(query.integer("c"), Err(query_error("Invalid value for integer: \"maybe\"")));
        assert_eq!(query.json("j"), Ok(Some(serde_json::json!([1]))));
        assert_eq!(query.json("k"), Err(invalid_json()));
    }

    #[test]
    fn values_are_counted_outside_strings() {
        for (text, count) in [("1", 1), ("[]", 2), ("[1,2,3]", 4), (r#"{"a,[":",\",[","b":[{}]}"#, 5), (r#"["\"#, 2)] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn depth_counts_outside_strings() {
        assert!(!too_deep(br#"{"a":"[[[[[[","b":[1]}"#, 2));
        assert!(!too_deep(br#"["\"[[[["]"#, 1));
        assert!(too_deep(b"[[[", 2));
        assert!(!too_deep(b"[][][][]", 1));
    }
}
