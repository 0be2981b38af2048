//! Jobs as `_scheduler/jobs` and `_active_tasks` show them. Never with credentials.

use serde_json::{Map, Value, json};

use super::driver::Scheduler;
use super::job::{Job, Origin};
use super::table::{Phase, Row};
use crate::clock::iso8601;
use crate::replicate::Counters;

/// The name of this node, as CouchDB has it without a cluster.
const NODE: &str = "nonode@nohost";
/// Sleeping jobs that `_active_tasks` lists, at most.
const MOST_ASLEEP: usize = 1000;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    /// Also while it sleeps, waiting for changes.
    Running,
    Crashing,
}

impl State {
    /// CouchDB's word.
    pub fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Crashing => "crashing",
        }
    }
}

/// What `_scheduler/docs` shows of a document's job.
#[derive(Debug, Clone)]
pub struct Listed {
    pub state: State,
    /// Counters, `{"error": ...}`, or `null` before the first pass.
    pub info: Value,
    pub error_count: u32,
    /// In seconds since the epoch.
    pub last_updated: u64,
}

impl Row {
    fn state(&self) -> State {
        match &self.phase {
            Phase::Running(_) | Phase::Asleep { .. } => State::Running,
            Phase::BackingOff { .. } => State::Crashing,
            Phase::Pending(_) if self.history.last_crash().is_some() => State::Crashing,
            Phase::Pending(_) => State::Pending,
        }
    }

    /// The counters; `null` before the first pass.
    fn info(&self) -> Value {
        match self.started_on {
            0 => Value::Null,
            _ => info(&self.job.progress.totals()),
        }
    }

    fn pid(&self) -> Value {
        match &self.phase {
            Phase::Running(pass) => format!("<0.{}.0>", pass.number).into(),
            Phase::Asleep { .. } => "<0.0.0>".into(),
            Phase::Pending(_) | Phase::BackingOff { .. } => Value::Null,
        }
    }
}

/// Counters under CouchDB's names.
pub fn info(counters: &Counters) -> Value {
    json!({
        "revisions_checked": counters.missing_checked,
        "missing_revisions_found": counters.missing_found,
        "docs_read": counters.docs_read,
        "docs_written": counters.docs_written,
        "changes_pending": counters.changes_pending,
        "doc_write_failures": counters.doc_write_failures,
        "bulk_get_docs": counters.bulk_get_docs,
        "bulk_get_attempts": counters.bulk_get_attempts,
        "checkpointed_source_seq": sequence(&counters.checkpointed_source_seq),
        "source_seq": sequence(&counters.source_seq),
        "through_seq": sequence(&counters.through_seq),
    })
}

/// A sequence is shown as text, whatever the source's is.
fn sequence(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        Value::Null => 0.into(),
        other => other.to_string().into(),
    }
}

fn origin(job: &Job) -> (Value, Value) {
    match &job.origin {
        Origin::Request => (Value::Null, Value::Null),
        Origin::Document { database, id } => ((**database).into(), (**id).into()),
    }
}

fn job_json(row: &Row) -> Value {
    let job = &row.job;
    let (database, doc_id) = origin(job);
    json!({
        "database": database,
        "id": &*job.id,
        "pid": row.pid(),
        "source": job.replication.parameters.source.to_string(),
        "target": job.replication.parameters.target.to_string(),
        "user": job.user.user.name,
        "doc_id": doc_id,
        "info": row.info(),
        "history": row.history.to_json(),
        "node": NODE,
        "start_time": iso8601(job.added),
    })
}

fn task_json(row: &Row, now: u64) -> Value {
    let job = &row.job;
    let (database, doc_id) = origin(job);
    let mut task = json!({
        "node": NODE,
        "pid": row.pid(),
        "type": "replication",
        "user": job.user.user.name,
        "replication_id": &*job.id,
        "database": database,
        "doc_id": doc_id,
        "source": job.replication.parameters.source.to_string(),
        "target": job.replication.parameters.target.to_string(),
        "continuous": job.is_continuous(),
        "checkpoint_interval": job.replication.parameters.checkpoint_interval.as_millis() as u64,
        "started_on": row.started_on,
        "updated_on": now,
    });
    if let (Some(members), Value::Object(counters)) = (task.as_object_mut(), info(&job.progress.totals())) {
        members.extend(counters);
    }
    task
}

impl Scheduler {
    /// All jobs by id, without the first `skip`, `limit` at most; and how many there are.
    pub fn list(&self, skip: usize, limit: usize) -> (usize, Vec<Value>) {
        let table = self.table.lock();
        let mut rows: Vec<&Row> = table.rows().collect();
        rows.sort_unstable_by(|left, right| left.job.id.cmp(&right.job.id));
        (rows.len(), rows.into_iter().skip(skip).take(limit).map(job_json).collect())
    }

    /// One job.
    pub fn show(&self, id: &str) -> Option<Value> {
        self.table.lock().get(id).map(job_json)
    }

    /// What `_scheduler/docs` shows of a job.
    pub fn summary(&self, id: &str) -> Option<Listed> {
        let table = self.table.lock();
        let row = table.get(id)?;
        let state = row.state();
        let info = match (state, row.history.last_crash()) {
            (State::Crashing, Some(reason)) => json!({"error": reason}),
            _ => row.info(),
        };
        Some(Listed { state, info, error_count: row.crashes, last_updated: row.history.last_updated() })
    }

    /// The entries of `_active_tasks`: the jobs that run, and those that sleep.
    pub fn tasks(&self) -> Vec<Value> {
        let now = self.now().epoch.as_secs();
        let table = self.table.lock();
        let running = |row: &&Row| matches!(row.phase, Phase::Running(_));
        let asleep = |row: &&Row| matches!(row.phase, Phase::Asleep { .. });
        let mut tasks: Vec<Map<String, Value>> = table
            .rows()
            .filter(running)
            .chain(table.rows().filter(asleep).take(MOST_ASLEEP))
            .filter_map(|row| match task_json(row, now) {
                Value::Object(task) => Some(task),
                _ => None,
            })
            .collect();
        tasks.sort_by_key(|task| task.get("started_on").and_then(Value::as_u64));
        tasks.into_iter().map(Value::Object).collect()
    }
}
