//! The target of a request: method, decoded path and query.

use http::HeaderMap;
use percent_encoding::percent_decode;

use super::query::Query;
use crate::config::Settings;
use crate::error::Error;
use crate::http::response::error::{Failure, Result};
use crate::net::header_text::header_text;

/// The methods that routes know. HEAD is [`Verb::Get`] with `Request::head` set, as in CouchDB.
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
    let said = headers.get("x-http-method-override").and_then(header_text);
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
        Ok(text) => Ok(text.into_owned()),
        Err(_) if index == 0 => Err(Error::IllegalDatabaseName(illegal_database_name(part)).into()),
        Err(_) if index == 1 => Err(Error::IllegalDocId("Document id must be valid UTF-8".into()).into()),
        Err(_) => Err(Failure::bad_request("Attachment name is not UTF-8 encoded")),
    }
}

/// CouchDB's words for a database name that is not allowed.
fn illegal_database_name(name: &str) -> String {
    format!(
        "Name: '{name}'. Only lowercase characters (a-z), digits (0-9), and any of the characters _, $, (, ), +, -, and / \
         are allowed. Must begin with a letter."
    )
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
            ("/db/a%00b/%00", &["db", "a\0b", "\0"]),
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
}
