//! JSONP, for pages from before CORS: `/* CouchDB */callback({...});` in the place of JSON (`couch_httpd.erl`,
//! `initialize_jsonp`). Off unless `chttpd/allow_jsonp`: with it, any page reads with the session of who opens it.

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderValue};

use super::answer::Answer;
use super::failure::{Failure, Result};
use super::request::Query;
use crate::config::Settings;

/// The function that the answer is to call, if one is named and may be.
///
/// # Errors
/// 400 for a name of other characters than those of a path of JavaScript members.
pub fn callback(method: &Method, query: &Query, settings: &Settings) -> Result<Option<String>> {
    let named = query.get("callback").filter(|name| !name.is_empty());
    let Some(name) = named.filter(|_| *method == Method::GET && settings.flag("chttpd", "allow_jsonp")) else {
        return Ok(None);
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._[]".contains(&byte);
    match name.bytes().all(fits) {
        true => Ok(Some(name.to_owned())),
        false => Err(Failure::bad_request("invalid_callback")),
    }
}

/// A JSON answer as a script that hands it to `callback`; others stay as they are.
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
