//! Checkpoints: how far a replication has come, kept as `_local` documents on both ends.
//!
//! ```text
//! _local/<replication id>
//!   session_id, source_last_seq, replication_id_version,
//!   history: [ {session_id, start_time, end_time, start_last_seq, end_last_seq, recorded_seq, counters}, ... ]
//! ```
//! Both ends hold the same document, or had the same one before one of them lost its last writes. The newest
//! session that both know says where to start (CouchDB: `compare_replication_logs`). The source's copy is
//! written first, and both only after the target has made everything durable, so the lower of two recorded
//! sequences is always safe. CouchDB takes the source's; settee takes the lower one, because a target that was
//! restored from a backup has an older copy than the source.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::progress::{Counters, Progress};

/// The version of replication ids that checkpoints name.
pub(crate) const ID_VERSION: u64 = 4;
/// The most rows of a history.
pub(crate) const HISTORY: usize = 50;

/// A checkpoint as a peer has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    /// `_rev`.
    pub rev: String,
    /// The other members.
    pub body: Map<String, Value>,
}

/// What two checkpoints agree on.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Common {
    /// The sequence that both have recorded; `null` if they have nothing in common.
    pub since: Value,
    /// The rows of the history from the common one on, the newest first.
    pub history: Vec<Value>,
}

/// Finds the newest session that both checkpoints know.
pub(crate) fn common(source: Option<&Stored>, target: Option<&Stored>) -> Common {
    let (Some(source), Some(target)) = (source, target) else { return Common::default() };
    let (from, to) = (rows(&source.body), rows(&target.body));
    let session = source.body.get("session_id").filter(|session| session.is_string());
    if session.is_some() && session == target.body.get("session_id") {
        let recorded = |body: &Map<String, Value>| body.get("source_last_seq").cloned().unwrap_or_default();
        return Common { since: lower(recorded(&source.body), recorded(&target.body)), history: from.to_vec() };
    }
    for (at, row) in from.iter().take(HISTORY).enumerate() {
        let same = to
            .iter()
            .take(HISTORY)
            .find(|other| row["session_id"].is_string() && other["session_id"] == row["session_id"]);
        if let Some(other) = same {
            let since = lower(row["recorded_seq"].clone(), other["recorded_seq"].clone());
            return Common { since, history: from[at..].to_vec() };
        }
    }
    Common::default()
}

fn rows(body: &Map<String, Value>) -> &[Value] {
    body.get("history").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The number that a sequence starts with: `12` and `"12-abc"`.
pub(crate) fn number_of(sequence: &Value) -> Option<u64> {
    match sequence {
        Value::Null => Some(0),
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let digits = text.find(|byte: char| !byte.is_ascii_digit()).map_or(text.as_str(), |end| &text[..end]);
            digits.parse().ok()
        }
        _ => None,
    }
}

/// The lower of two sequences; the first where they cannot be compared.
fn lower(first: Value, second: Value) -> Value {
    match (number_of(&first), number_of(&second)) {
        (Some(a), Some(b)) if b < a => second,
        _ => first,
    }
}

/// A session: the subject of one row of the history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    /// 32 hex digits.
    pub id: String,
    /// Seconds since the epoch.
    pub started: u64,
    pub start_seq: Value,
}

/// Makes the next checkpoint: the session on top of the history that both ends have.
pub(crate) fn next(
    session: &Session,
    counters: &Counters,
    through: &Value,
    now: u64,
    is_by_ids: bool,
    mut history: Vec<Value>,
) -> Map<String, Value> {
    // The row of this session is written again with each checkpoint.
    if history.first().is_some_and(|row| row["session_id"] == session.id.as_str()) {
        history.remove(0);
    }
    let (start_time, end_time) = (date(session.started), date(now));
    let row = json!({
        "session_id": session.id,
        "start_time": start_time,
        "end_time": end_time,
        "start_last_seq": shown(&session.start_seq),
        "end_last_seq": through,
        "recorded_seq": through,
        "missing_checked": counters.missing_checked,
        "missing_found": counters.missing_found,
        "docs_read": counters.docs_read,
        "docs_written": counters.docs_written,
        "doc_write_failures": counters.doc_write_failures,
        "bulk_get_docs": counters.bulk_get_docs,
        "bulk_get_attempts": counters.bulk_get_attempts,
    });
    history.insert(0, row);
    history.truncate(HISTORY);
    let mut body = Map::new();
    body.insert("session_id".into(), session.id.as_str().into());
    body.insert("source_last_seq".into(), through.clone());
    body.insert("replication_id_version".into(), ID_VERSION.into());
    if is_by_ids {
        // As CouchDB 1.0 answered a replication by ids.
        body.insert("start_time".into(), start_time.into());
        body.insert("end_time".into(), end_time.into());
        body.insert("docs_read".into(), counters.docs_read.into());
        body.insert("docs_written".into(), counters.docs_written.into());
        body.insert("doc_write_failures".into(), counters.doc_write_failures.into());
    }
    body.insert("history".into(), history.into());
    body
}

/// A sequence as checkpoints write it: the first one is 0.
fn shown(sequence: &Value) -> Value {
    if sequence.is_null() { 0.into() } else { sequence.clone() }
}

/// A time as RFC 1123 writes it.
fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The session of a job: the one that `progress` has begun, or a new one.
pub(crate) fn session(progress: &Progress, since: &Value, make: impl FnOnce() -> (String, u64)) -> Session {
    let mut state = progress.state.lock();
    if state.session.is_none() {
        let (id, started) = make();
        (state.session, state.started, state.start_seq) = (Some(id.into()), started, since.clone());
    }
    let id = state.session.as_deref().unwrap_or_default().to_owned();
    Session { id, started: state.started, start_seq: state.start_seq.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(session: &str, seq: Value, history: Value) -> Stored {
        let body = json!({"session_id": session, "source_last_seq": seq, "history": history});
        Stored { rev: "0-1".into(), body: body.as_object().unwrap().clone() }
    }

    fn row(session: &str, seq: Value) -> Value {
        json!({"session_id": session, "recorded_seq": seq})
    }

    #[test]
    fn the_newest_common_session_says_where_to_start() {
        let rows = [
            ("nothing stored", None, None, Value::Null, 0),
            ("only on one end", Some(stored("a", json!(5), json!([row("a", json!(5))]))), None, Value::Null, 0),
            (
                "the same on both",
                Some(stored("a", json!("5-x"), json!([row("a", json!("5-x"))]))),
                Some(stored("a", json!("5-x"), json!([row("a", json!("5-x"))]))),
                json!("5-x"),
                1,
            ),
            (
                "the target has an older state of the session",
                Some(stored("a", json!("9-x"), json!([row("a", json!("9-x"))]))),
                Some(stored("a", json!("5-x"), json!([row("a", json!("5-x"))]))),
                json!("5-x"),
                1,
            ),
            (
                "the target lost the last session",
                Some(stored("b", json!(9), json!([row("b", json!(9)), row("a", json!(5))]))),
                Some(stored("a", json!(5), json!([row("a", json!(5))]))),
                json!(5),
                1,
            ),
            (
                "the source lost the last session",
                Some(stored("a", json!(5), json!([row("a", json!(5)), row("z", json!(2))]))),
                Some(stored("b", json!(9), json!([row("b", json!(9)), row("a", json!(5))]))),
                json!(5),
                2,
            ),
            (
                "nothing in common",
                Some(stored("a", json!(5), json!([row("a", json!(5))]))),
                Some(stored("b", json!(9), json!([row("b", json!(9))]))),
                Value::Null,
                0,
            ),
            (
                "no sessions at all",
                Some(stored("", json!(5), json!(7))),
                Some(stored("x", json!(9), json!([7, {}]))),
                Value::Null,
                0,
            ),
        ];
        for (name, source, target, since, length) in rows {
            let found = common(source.as_ref(), target.as_ref());
            assert_eq!((found.since, found.history.len()), (since, length), "{name}");
        }
    }

    #[test]
    fn a_session_has_one_row_and_a_history_at_most_fifty() {
        let session = Session { id: "s".into(), started: 0, start_seq: Value::Null };
        let old: Vec<Value> = (0..60).map(|at| row(&format!("old{at}"), json!(at))).collect();
        let first = next(&session, &Counters::default(), &json!("7-x"), 60, false, old);
        let history = first["history"].as_array().unwrap().clone();
        assert_eq!(history.len(), HISTORY);
        assert_eq!(history[0]["start_time"], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(history[0]["end_time"], "Thu, 01 Jan 1970 00:01:00 GMT");
        assert_eq!((&history[0]["start_last_seq"], &history[1]["session_id"]), (&json!(0), &json!("old0")));
        let second = next(&session, &Counters::default(), &json!("8-x"), 90, true, history);
        let history = second["history"].as_array().unwrap();
        assert_eq!((&history[0]["recorded_seq"], &history[1]["session_id"]), (&json!("8-x"), &json!("old0")));
        assert_eq!(second["docs_read"], 0);
    }
}
