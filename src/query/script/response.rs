//! Parses the answers of show, list, update and rewrite functions, as CouchDB does.
//!
//! CouchDB: `chttpd_external:parse_external_response`, `couch_query_servers:validate_rewrite_response`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::failure::mend;
use crate::error::{Error, Result};

/// An HTTP response, without types of the HTTP layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `code`; 200 by default.
    pub code: u16,
    /// The headers of the function. If it sets no `Content-Type`, a default one is the first.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the function set the body as `json`.
    pub json: bool,
}

impl Response {
    /// Parses `{code, json | body | base64, headers, stop}`. As in CouchDB, any other member is an error.
    pub fn read(response: &str) -> Result<Response> {
        let Ok(Value::Object(members)) = serde_json::from_str(&mend(response)) else {
            return Err(invalid(response));
        };
        let mut answer = Response { code: 200, headers: Vec::new(), body: Vec::new(), json: false };
        let mut content_type = "application/json";
        for (name, value) in members {
            match (name.as_str(), value) {
                ("", _) | ("stop", _) => {}
                ("code", value) => {
                    let code = value.as_f64().filter(|code| code.fract() == 0.0 && (100.0..1000.0).contains(code));
                    answer.code = code.ok_or_else(|| invalid(&format!("{{\"code\":{value}}}")))? as u16;
                }
                ("json", value) => {
                    answer.body = value.to_string().into_bytes();
                    answer.json = true;
                    content_type = "application/json";
                }
                ("body", value) => {
                    answer.body = text(value).into_bytes();
                    content_type = "text/html; charset=utf-8";
                }
                ("base64", Value::String(coded)) => {
                    let spaceless: String = coded.split_ascii_whitespace().collect();
                    answer.body = STANDARD.decode(spaceless).map_err(|_| invalid("{\"base64\":...}"))?;
                    content_type = "application/binary";
                }
                ("headers", Value::Object(headers)) => {
                    answer.headers = headers.into_iter().map(|(name, value)| (name, text(value))).collect();
                }
                (name, value) => return Err(invalid(&format!("{{\"{name}\":{value}}}"))),
            }
        }
        if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            answer.headers.insert(0, ("Content-Type".into(), content_type.into()));
        }
        Ok(answer)
    }

    /// Sets a header and removes any of this name that the function set.
    pub fn set(&mut self, name: &str, value: String) {
        self.headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value));
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn invalid(what: &str) -> Error {
    let reason = format!("Invalid data from external server: {}", what.chars().take(200).collect::<String>());
    Error::Script { word: "external_response_error".into(), reason }
}

/// The answer of an update function: a document to store, if any, and the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The document as a JSON object.
    pub doc: Option<String>,
    /// For [`Response::read`].
    pub response: String,
}

impl Updated {
    pub(super) fn read(answer: &str) -> Result<Updated> {
        #[derive(serde::Deserialize)]
        struct Members {
            doc: Box<serde_json::value::RawValue>,
            response: Box<serde_json::value::RawValue>,
        }
        let members: Members =
            serde_json::from_str(&mend(answer)).map_err(|error| Error::Internal(format!("update answer: {error}")))?;
        let doc = members.doc.get();
        Ok(Updated { doc: doc.starts_with('{').then(|| doc.to_owned()), response: members.response.get().to_owned() })
    }
}

/// The answer of a rewrite function: another request, or a response if there is a `code`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    pub code: Option<u16>,
    pub method: Option<String>,
    pub path: Option<String>,
    /// If present, replaces the request's query.
    pub query: Option<Vec<(String, String)>>,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
}

impl Rewrite {
    /// Returns `None` if the function found no rule for the request.
    pub(super) fn read(answer: &str) -> Result<Option<Rewrite>> {
        let bad = |what: &str| Error::Script { word: "rewrite_error".into(), reason: what.into() };
        let members = match serde_json::from_str(&mend(answer)) {
            Ok(Value::Null) => return Ok(None),
            Ok(Value::Object(members)) => members,
            _ => return Err(bad("bad rewrite")),
        };
        let mut rewrite = Rewrite::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                ("method", Value::String(method)) => rewrite.method = Some(method),
                ("method", _) => return Err(bad("bad method")),
                ("path", Value::String(path)) => rewrite.path = Some(path),
                ("path", _) => return Err(bad("bad path")),
                ("body", Value::String(body)) => rewrite.body = Some(body),
                ("body", _) => return Err(bad("bad body")),
                ("headers", Value::Object(headers)) => rewrite.headers = pairs(headers).map_err(|text| bad(&text))?,
                ("headers", _) => return Err(bad("bad headers")),
                ("query", Value::Object(query)) => rewrite.query = Some(pairs(query).map_err(|text| bad(&text))?),
                ("query", _) => return Err(bad("bad query")),
                ("code", value) => {
                    let code = value.as_u64().filter(|code| (200..600).contains(code));
                    rewrite.code = Some(code.ok_or_else(|| bad("bad code"))? as u16);
                }
                _ => {}
            }
        }
        Ok(Some(rewrite))
    }
}

fn pairs(members: Map<String, Value>) -> std::result::Result<Vec<(String, String)>, String> {
    let pair = |(name, value)| match value {
        Value::String(value) => Ok((name, value)),
        other => Err(format!("object key/value must be strings {name}={other}")),
    };
    members.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_parsed() {
        let read = |json: &str| Response::read(json).unwrap();
        let typed = |code, kind: &str, body: &str, json| Response {
            code,
            headers: vec![("Content-Type".into(), kind.into())],
            body: body.into(),
            json,
        };
        assert_eq!(read("{}"), typed(200, "application/json", "", false));
        assert_eq!(read(r#"{"body":"x","code":404}"#), typed(404, "text/html; charset=utf-8", "x", false));
        assert_eq!(read(r#"{"json":{"b":1,"a":2}}"#), typed(200, "application/json", r#"{"b":1,"a":2}"#, true));
        assert_eq!(read(r#"{"base64":"aGVs\nbG8="}"#), typed(200, "application/binary", "hello", false));
        assert_eq!(
            read(r#"{"headers":{"content-type":"a/b","X":1},"body":"y"}"#).headers,
            [("content-type".into(), "a/b".into()), ("X".into(), "1".into())]
        );
        for bad in [r#"{"none":1}"#, "[]", r#"{"code":"x"}"#, r#"{"code":7}"#, r#"{"base64":"%"}"#, r#"{"headers":[]}"#]
        {
            let told = Response::read(bad);
            assert!(matches!(&told, Err(Error::Script { word, .. }) if word == "external_response_error"), "{bad}");
        }
    }

    #[test]
    fn rewrites_are_parsed() {
        assert_eq!(Rewrite::read("null"), Ok(None));
        let rewrite =
            Rewrite::read(r#"{"path":"a","method":"PUT","query":{"k":"v"},"headers":{"H":"v"},"body":"b","x":1}"#);
        let pair = |a: &str, b: &str| vec![(a.to_owned(), b.to_owned())];
        assert_eq!(
            rewrite.unwrap().unwrap(),
            Rewrite {
                code: None,
                method: Some("PUT".into()),
                path: Some("a".into()),
                query: Some(pair("k", "v")),
                headers: pair("H", "v"),
                body: Some("b".into())
            }
        );
        for (bad, reason) in [
            ("0", "bad rewrite"),
            (r#"{"path":1}"#, "bad path"),
            (r#"{"code":100}"#, "bad code"),
            (r#"{"query":{"a":1}}"#, "object key/value must be strings a=1"),
        ] {
            let error = Error::Script { word: "rewrite_error".into(), reason: reason.into() };
            assert_eq!(Rewrite::read(bad), Err(error), "{bad}");
        }
    }
}
