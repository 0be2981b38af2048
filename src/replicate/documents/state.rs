//! The state of a document's replication.

use serde_json::{Map, Value};

use crate::replicate::parameters::parse::shown;

/// How many documents wait to become a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: usize,
    pub initializing: usize,
    /// Their filter function cannot be read.
    pub error: usize,
}

/// The members of `_scheduler/docs` from a stored document that has ended. `None` if it has not.
pub fn ended(database: &str, id: &str, members: &Map<String, Value>) -> Option<(State, Value)> {
    let time = members.get("_replication_state_time").cloned().unwrap_or_default();
    let (state, info, errors, start) = match members.get("_replication_state")?.as_str()? {
        "completed" => {
            let mut stats = members.get("_replication_stats").and_then(Value::as_object).cloned().unwrap_or_default();
            let start = stats.shift_remove("start_time").unwrap_or_default();
            (State::Completed, Value::Object(stats), 0, start)
        }
        "failed" => {
            let info = match members.get("_replication_state_reason") {
                Some(reason @ Value::String(_)) => serde_json::json!({"error": reason}),
                Some(reason @ Value::Object(_)) => reason.clone(),
                _ => Value::Null,
            };
            (State::Failed, info, 1, time.clone())
        }
        _ => return None,
    };
    let shown = |name: &str| shown(members.get(name));
    let json = serde_json::json!({
        "database": database,
        "doc_id": id,
        "id": null,
        "source": shown("source"),
        "target": shown("target"),
        "state": state.word(),
        "error_count": errors,
        "info": info,
        "start_time": start,
        "last_updated": time,
    });
    Some((state, json))
}

/// The state of a document's replication: CouchDB's `couch_replicator:replication_states`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Initializing,
    Error,
    Running,
    Pending,
    Crashing,
    Completed,
    Failed,
}

impl State {
    /// All states, in CouchDB's order.
    pub const ALL: [State; 7] = [
        State::Initializing,
        State::Error,
        State::Running,
        State::Pending,
        State::Crashing,
        State::Completed,
        State::Failed,
    ];

    /// CouchDB's word.
    pub fn word(self) -> &'static str {
        match self {
            State::Initializing => "initializing",
            State::Error => "error",
            State::Running => "running",
            State::Pending => "pending",
            State::Crashing => "crashing",
            State::Completed => "completed",
            State::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn parse(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.word() == word)
    }
}
