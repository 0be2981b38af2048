//! What a pass is given, and how it ends.

use serde_json::{Map, Value};

use crate::replicate::parameters::Parameters;
use crate::replicate::replication_id::ReplicationId;

/// A replication with its id.
#[derive(Debug, Clone)]
pub struct Replication {
    pub id: ReplicationId,
    pub parameters: Parameters,
}

/// How a pass ended without a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A one-shot replication is complete.
    Completed(Completed),
    /// A continuous replication whose source is a database here has read everything up to this sequence of the
    /// source. Start the next pass when the source has a higher one, or when a checkpoint is due
    /// (`Progress::checkpoint_due`).
    CaughtUp {
        /// The sequence, as `Database::info().sequence` counts.
        sequence: u64,
    },
    /// The pass was stopped, after a last checkpoint.
    Stopped,
}

/// What `_replicate` answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// Whether nothing was new.
    pub no_changes: bool,
    /// `session_id`, `source_last_seq`, `replication_id_version`, `history`, and for `doc_ids` the counters.
    /// Empty if nothing was ever replicated.
    pub members: Map<String, Value>,
}

impl Completed {
    /// The body of the answer, with `ok`.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("ok".into(), true.into());
        if self.no_changes {
            body.insert("no_changes".into(), true.into());
        }
        body.extend(self.members.clone());
        Value::Object(body)
    }
}
