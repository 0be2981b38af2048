//! The request object that filters, shows, lists, updates and rewrites are given.
//!
//! CouchDB: `chttpd_external:json_req_obj`, and `scrub_json_request` in its default: no credential is ever in it, so
//! `cookie` is always empty, and the headers that sign a request in are left out.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a request was, as the HTTP layer knows it.
#[derive(Debug, Clone, Default)]
pub struct RequestParts<'a> {
    pub method: &'a str,
    /// The path as the client asked for it, decoded segments, the database first.
    pub requested_path: &'a [String],
    /// The path after rewrites; the same when there was none.
    pub path: &'a [String],
    /// Path and query as they came.
    pub raw_path: &'a str,
    pub query: &'a [(String, String)],
    /// All headers; names in any case.
    pub headers: &'a [(String, String)],
    pub body: RequestBody<'a>,
    /// The client's address.
    pub peer: &'a str,
}

/// What `req.body` is.
#[derive(Debug, Clone, Copy, Default)]
pub enum RequestBody<'a> {
    /// No body: CouchDB gives the text `undefined`.
    #[default]
    None,
    Bytes(&'a [u8]),
    /// A body that was read as JSON before (a list's POST).
    Json(&'a str),
}

/// What the database adds to a request object; all JSON.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext<'a> {
    /// The answer of `GET /{db}`.
    pub info: &'a str,
    pub uuid: &'a str,
    /// The document that the path names.
    pub id: Option<&'a str>,
    /// `{"db":..,"name":..,"roles":[..]}`
    pub user: &'a str,
    pub security: &'a str,
}

#[derive(Serialize)]
struct RequestObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Option<&'a str>>,
    method: &'a str,
    requested_path: &'a [String],
    path: &'a [String],
    raw_path: &'a str,
    query: Map<String, Value>,
    headers: Map<String, Value>,
    body: Box<RawValue>,
    peer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<Map<String, Value>>,
    cookie: Map<String, Value>,
    #[serde(rename = "userCtx")]
    user: &'a RawValue,
    #[serde(rename = "secObj")]
    security: &'a RawValue,
}

/// Headers that sign a request in.
const CREDENTIALS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-auth-couchdb-token",
    "x-auth-couchdb-username",
    "x-auth-couchdb-roles",
];

/// The request object of filters, shows, lists and updates, as JSON.
pub fn request_object(parts: &RequestParts<'_>, context: &RequestContext<'_>) -> Result<String> {
    object(parts, context, true)
}

/// The request object of a rewrite function: without `info`, `uuid`, `id` and `form`.
pub fn rewrite_request_object(parts: &RequestParts<'_>, user: &str, security: &str) -> Result<String> {
    object(parts, &RequestContext { info: "null", uuid: "", id: None, user, security }, false)
}

fn object(parts: &RequestParts<'_>, context: &RequestContext<'_>, whole: bool) -> Result<String> {
    let raw = |json| serde_json::from_str::<&RawValue>(json).map_err(|error| Error::Internal(error.to_string()));
    let text = |value: &str| to_raw_value(value).map_err(|error| Error::Internal(error.to_string()));
    let body = match parts.body {
        RequestBody::None => text("undefined")?,
        RequestBody::Bytes(bytes) => text(&String::from_utf8_lossy(bytes))?,
        RequestBody::Json(json) => raw(json)?.to_owned(),
    };
    let object = RequestObject {
        info: whole.then(|| raw(context.info)).transpose()?,
        uuid: whole.then_some(context.uuid),
        id: whole.then_some(context.id),
        method: parts.method,
        requested_path: parts.requested_path,
        path: parts.path,
        raw_path: parts.raw_path,
        query: query(parts.query)?,
        headers: headers(parts.headers),
        body,
        peer: parts.peer,
        form: whole.then(|| form(parts)),
        cookie: Map::new(),
        user: raw(context.user)?,
        security: raw(context.security)?,
    };
    serde_json::to_string(&object).map_err(|error| Error::Internal(error.to_string()))
}

/// Query parameters as text, but those that are JSON by nature as that.
fn query(pairs: &[(String, String)]) -> Result<Map<String, Value>> {
    let mut query = Map::new();
    for (name, value) in pairs {
        let value = match name.as_str() {
            "startkey" | "endkey" | "key" | "descending" => {
                serde_json::from_str(value).map_err(|_| Error::BadRequest("invalid UTF-8 JSON".into()))?
            }
            _ => Value::String(value.clone()),
        };
        query.insert(name.clone(), value);
    }
    Ok(query)
}

/// Headers by the names that scripts look for (`Accept`, `Content-Type`), repeated ones in one.
fn headers(pairs: &[(String, String)]) -> Map<String, Value> {
    let mut headers = Map::new();
    for (name, value) in pairs {
        if CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential)) {
            continue;
        }
        match headers.entry(canonical(name)).or_insert_with(|| Value::String(String::new())) {
            Value::String(kept) if kept.is_empty() => kept.push_str(value),
            Value::String(kept) => {
                kept.push_str(", ");
                kept.push_str(value);
            }
            _ => {}
        }
    }
    headers
}

/// `x-my-header` as `X-My-Header`: names reach us in lower case, and scripts know them by their usual form.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let letter = |letter: char| {
        let cased = if upper { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        upper = letter == '-';
        cased
    };
    name.chars().map(letter).collect()
}

fn form(parts: &RequestParts<'_>) -> Map<String, Value> {
    let is_form = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case("content-type") && value.starts_with("application/x-www-form-urlencoded")
    };
    match parts.body {
        RequestBody::Bytes(body) if matches!(parts.method, "POST" | "PUT") && parts.headers.iter().any(is_form) => {
            let pairs = form_urlencoded::parse(body);
            pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned()))).collect()
        }
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn the_object_holds_no_credential() {
        let headers = owned(&[
            ("authorization", "Basic c2VjcmV0"),
            ("Cookie", "AuthSession=secret"),
            ("x-auth-couchdb-token", "secret"),
            ("proxy-authorization", "secret"),
            ("accept", "text/html"),
            ("x-foo", "a"),
            ("X-Foo", "b"),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ]);
        let path = ["db".to_owned(), "_design".into(), "d".into()];
        let parts = RequestParts {
            method: "POST",
            requested_path: &path,
            path: &path,
            raw_path: "/db/_design/d?key=%5B1%5D",
            query: &owned(&[("key", "[1]"), ("n", "1")]),
            headers: &headers,
            body: RequestBody::Bytes(b"a=1+2&b=%C3%A9"),
            peer: "127.0.0.1",
        };
        let context = RequestContext {
            info: r#"{"db_name":"db"}"#,
            uuid: "u",
            id: None,
            user: r#"{"db":"db","name":null,"roles":[]}"#,
            security: "{}",
        };
        let object = request_object(&parts, &context).unwrap();
        assert!(!object.contains("ecret") && !object.contains("c2VjcmV0"), "{object}");
        assert_eq!(
            object,
            concat!(
                r#"{"info":{"db_name":"db"},"uuid":"u","id":null,"method":"POST","requested_path":["db","_design","d"],"#,
                r#""path":["db","_design","d"],"raw_path":"/db/_design/d?key=%5B1%5D","query":{"key":[1],"n":"1"},"#,
                r#""headers":{"Accept":"text/html","X-Foo":"a, b","Content-Type":"application/x-www-form-urlencoded; "#,
                r#"charset=utf-8"},"body":"a=1+2&b=%C3%A9","peer":"127.0.0.1","form":{"a":"1 2","b":"é"},"cookie":{},"#,
                r#""userCtx":{"db":"db","name":null,"roles":[]},"secObj":{}}"#
            )
        );
        let rewrite =
            rewrite_request_object(&RequestParts { method: "GET", ..Default::default() }, "{}", "{}").unwrap();
        assert_eq!(
            rewrite,
            concat!(
                r#"{"method":"GET","requested_path":[],"path":[],"raw_path":"","query":{},"headers":{},"#,
                r#""body":"undefined","peer":"","cookie":{},"userCtx":{},"secObj":{}}"#
            )
        );
        let bad = RequestParts { query: &owned(&[("key", "nope")]), ..parts };
        assert!(matches!(request_object(&bad, &context), Err(Error::BadRequest(_))));
    }
}
