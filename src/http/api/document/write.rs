//! Writes one decoded document and answers with its revision.

use std::sync::Arc;

use http::{StatusCode, header};

use crate::app::App;
use crate::db::{Database, Incoming, Mode};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::Result;
use crate::json::quote;
use crate::policy::document_write;
use crate::rev::Revision;

/// `{"ok":true,"id":...,"rev":...}` with the revision as `ETag` and, for 201, the document's URL as
/// `Location`.
pub fn written(request: &Request, status: StatusCode, database: &Database, id: &str, rev: &str) -> Answer {
    let text = format!("{{\"ok\":true,\"id\":{},\"rev\":{}}}", quote(id), quote(rev));
    let answer = Answer::json_text(status, text).etag(rev);
    if status == StatusCode::CREATED {
        let path = format!("/{}/{}", encode(database.name()), encode(id));
        answer.with_text(header::LOCATION, &request.absolute_uri(&path))
    } else {
        answer
    }
}

/// Percent-encodes a path segment as CouchDB does in `Location`.
pub fn encode(segment: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    match segment.strip_prefix("_design/") {
        Some(rest) => format!("_design/{}", utf8_percent_encode(rest, PLAIN)),
        None => utf8_percent_encode(segment, PLAIN).to_string(),
    }
}

/// Writes one edit and returns its revision.
pub async fn write(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    edit: Incoming,
    mode: Mode,
) -> Result<Revision> {
    let mut results = document_write::update(app, request.by(), database, vec![edit], mode).await?;
    Ok(results.pop().unwrap_or(Err(Error::Conflict))?)
}
