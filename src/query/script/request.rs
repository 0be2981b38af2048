//! Builds the request object that is passed to filters, shows, lists, updates and rewrites.
//!
//! CouchDB: `chttpd_external:json_req_obj`, with `scrub_json_request` at its default. The object never
//! contains credentials: `cookie` is always empty, and headers that authenticate a request are omitted.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The request as the HTTP layer received it.
#[derive(Debug, Clone, Default)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a str,
    /// The path that the client requested, as decoded segments, beginning with the database.
    pub requested_path: &'a [String],
    /// The path after rewrites; equal to `requested_path` if there were none.
    pub path: &'a [String],
    /// Path and query as received.
    pub raw_path: &'a str,
    /// Names and values of the query parameters.
    pub query: &'a [(String, String)],
    /// All headers; the names may be in upper or lower case.
    pub headers: &'a [(String, String)],
    /// The body.
    pub body: RequestBody<'a>,
    /// The client's address.
    pub peer: &'a str,
}

/// The value of `req.body`.
#[derive(Debug, Clone, Copy, Default)]
pub enum RequestBody<'a> {
    /// No body. As in CouchDB, `req.body` is then the text `undefined`.
    #[default]
    None,
    /// A body that is passed as text.
    Bytes(&'a [u8]),
    /// A body that was already parsed as JSON (POST to a list).
    Json(&'a str),
}

/// The parts of a request object that the server adds.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext<'a> {
    /// The response of `GET /{db}`, as JSON.
    pub info: &'a str,
    /// A new UUID.
    pub uuid: &'a str,
    /// Id of the document that the path names.
    pub id: Option<&'a str>,
    /// The user, as JSON: `{"db":..,"name":..,"roles":[..]}`.
    pub user: &'a str,
    /// The `_security` object, as JSON.
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

/// Headers that contain credentials.
const CREDENTIALS: [&str; 6] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-auth-couchdb-token",
    "x-auth-couchdb-username",
    "x-auth-couchdb-roles",
];

/// Returns the request object of filters, shows, lists and updates, as JSON.
///
/// # Errors
/// `BadRequest` if a query parameter that has to be JSON is not valid JSON.
pub fn request_object(parts: &RequestParts<'_>, context: &RequestContext<'_>) -> Result<String> {
    object(parts, context, true)
}

/// Returns the request object of a rewrite function, which has no `info`, `uuid`, `id` and `form`.
///
/// # Errors
/// As [`request_object`].
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

/// Converts query parameters: those that contain JSON are parsed, the others are text.
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

/// Converts headers: omits credentials, capitalizes names as scripts expect them (`Content-Type`), and joins
/// repeated headers.
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

/// Converts `x-my-header` to `X-My-Header`: the HTTP layer has names in lower case, and scripts expect their
/// usual form.
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
    fn the_request_object_contains_no_credentials() {
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
