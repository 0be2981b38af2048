//! JSONP, for web pages written before CORS existed: the response is `/* CouchDB */callback({...});` instead
//! of JSON (`couch_httpd.erl`, `initialize_jsonp`).
//!
//! Disabled unless `chttpd/allow_jsonp` is set: with JSONP, any web page can read data with the session of
//! the user who opens that page.

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderValue};

use super::answer::Answer;
use super::error::{Failure, Result};
use crate::config::Settings;

/// Returns the name of the callback function, if the request is a GET that names one (`?callback=`) and JSONP
/// is enabled.
///
/// # Errors
/// 400 if the name has characters other than ASCII letters, digits, `.`, `_`, `[` and `]`.
pub fn callback(method: &Method, named: Option<&str>, settings: &Settings) -> Result<Option<String>> {
    let named = named.filter(|name| !name.is_empty());
    let Some(name) = named.filter(|_| *method == Method::GET && settings.flag("chttpd", "allow_jsonp")) else {
        return Ok(None);
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._[]".contains(&byte);
    match name.bytes().all(fits) {
        true => Ok(Some(name.to_owned())),
        false => Err(Failure::bad_request("invalid_callback")),
    }
}

/// Converts a JSON response to a script that passes the JSON to `callback`. Other responses are returned
/// unchanged.
pub fn wrap(mut answer: Answer, callback: &str) -> Answer {
    if answer.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return answer;
    }
    answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/javascript"));
    answer.headers.remove(header::CONTENT_LENGTH);
    let begin = Bytes::from(format!("/* CouchDB */{callback}("));
    answer.body = answer.body.between(begin, Bytes::from_static(b");\n"));
    answer
}
