//! GET `/_node/{node}/_logs`: the newest lines of the log.

use tracing::Level;

use crate::app::App;
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::error::Result;
use crate::log::recent::Wanted;

/// Lines of an answer: without `limit`, and at most.
const LIMIT: u64 = 200;
const MOST: u64 = 2000;

/// Parameters: `level` (this one and worse ones), `after` (an id), `limit`, `text`.
pub fn newest(app: &App, request: &Request) -> Result<Answer> {
    let query = &request.query;
    let level = match query.get("level").unwrap_or("info") {
        "error" => Level::ERROR,
        "warn" => Level::WARN,
        "info" => Level::INFO,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        _ => return Err(query_error("level is one of error, warn, info, debug, trace")),
    };
    let limit = query.natural("limit")?.unwrap_or(LIMIT).min(MOST) as usize;
    let (after, text) = (query.natural("after")?, query.get("text").unwrap_or(""));
    Ok(Answer::ok(&app.recent.log.find(Wanted { level, after, limit, text })))
}
