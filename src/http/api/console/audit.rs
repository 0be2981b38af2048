//! GET `/_node/{node}/_audit`: the newest audit events.

use crate::app::App;
use crate::audit::Kind;
use crate::audit::recent::Wanted;
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// Events of an answer: without `limit`, and at most.
const LIMIT: u64 = 100;
const MOST: u64 = 1000;

/// Parameters: `user` (a part of the name), `event`, `from`, `to` (milliseconds since 1970), `limit`, and `after`: `next`
/// of the answer before.
pub fn newest(app: &App, request: &Request) -> Result<Answer> {
    let query = &request.query;
    let event = query.get("event").unwrap_or("");
    if !event.is_empty() && !Kind::ALL.iter().any(|kind| kind.word() == event) {
        let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        return Err(query_error(format!("event is one of {}", words.join(", "))));
    }
    let wanted = Wanted {
        user: query.get("user").unwrap_or(""),
        event,
        from: query.natural("from")?.unwrap_or(0),
        to: query.natural("to")?.unwrap_or(u64::MAX),
        before: query.natural("after")?.unwrap_or(u64::MAX),
        limit: query.natural("limit")?.unwrap_or(LIMIT).clamp(1, MOST) as usize,
    };
    Ok(Answer::ok(&app.recent.audit.find(wanted)))
}
