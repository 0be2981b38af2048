//! The state of each document whose replication has not ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::body::Wish;
use super::state::{Counts, State};
use crate::clock::iso8601;
use crate::replicate::scheduler::{self, JobId, Origin};
use crate::replicate::{Endpoint, Filter, Parameters};

/// Names a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub database: Arc<str>,
    pub id: Arc<str>,
}

impl Key {
    /// Where the document's job comes from.
    pub fn origin(&self) -> Origin {
        Origin::Document { database: self.database.clone(), id: self.id.clone() }
    }
}

/// A database that is followed.
pub(super) struct Followed {
    pub number: u64,
    /// The last change that was looked at.
    pub done: u64,
}

/// A document whose replication has not ended.
pub(super) struct Row {
    /// Distinguishes work that was begun for an earlier version of the document.
    pub version: u64,
    /// Of the body: see [`super::body::digest`].
    pub digest: u64,
    /// The wish; given to the job when it is scheduled, and kept here only if its filter is looked at again.
    pub wish: Option<Arc<Wish>>,
    /// Where it replicates, for people.
    pub ends: Box<Ends>,
    /// The job, once its id is known. The job of the previous version goes on until then.
    pub job: Option<JobId>,
    /// The digest of the document version that started `job`. The job's result is written only to that version.
    pub job_digest: u64,
    /// The last failure to compute the id.
    pub error: Option<Box<str>>,
    pub errors: u32,
    /// In seconds since the epoch.
    pub updated: u64,
    pub started: u64,
}

/// Copies of what `_scheduler/docs` shows.
pub(super) struct Shown {
    pub job: Option<JobId>,
    ends: Ends,
    error: Option<Box<str>>,
    errors: u32,
    updated: u64,
    started: u64,
}

/// The two ends of a replication and their proxies, without credentials.
#[derive(Clone)]
pub(super) struct Ends {
    source: Box<str>,
    target: Box<str>,
    source_proxy: Option<Box<str>>,
    target_proxy: Option<Box<str>>,
}

impl Ends {
    pub fn of(parameters: &Parameters) -> Ends {
        let Parameters { source, target, .. } = parameters;
        let proxy = |end: &Endpoint| end.proxy().map(String::into_boxed_str);
        Ends {
            source: source.to_string().into(),
            target: target.to_string().into(),
            source_proxy: proxy(source),
            target_proxy: proxy(target),
        }
    }
}

impl Row {
    /// Whether its id depends on a function of the source, which may change.
    pub fn has_filter_function(wish: &Wish) -> bool {
        matches!(&wish.parameters.filter, Filter::Named(name) if !name.starts_with('_'))
    }

    pub fn shown(&self) -> Shown {
        Shown {
            job: self.job.clone(),
            ends: (*self.ends).clone(),
            error: self.error.clone(),
            errors: self.errors,
            updated: self.updated,
            started: self.started,
        }
    }
}

impl Shown {
    /// The members of `_scheduler/docs`. `summary`: the scheduler's state of the job.
    pub fn to_json(&self, database: &str, id: &str, summary: Option<scheduler::Listed>) -> Value {
        let (state, info, errors, updated) = match (summary, &self.error, &self.job) {
            (Some(job), _, _) => (state_of(job.state), job.info, job.error_count, job.last_updated),
            (None, Some(error), _) => (State::Error, json!({"error": error}), self.errors, self.updated),
            // Complete, but the document does not say so yet.
            (None, None, Some(_)) => (State::Pending, Value::Null, 0, self.updated),
            (None, None, None) => (State::Initializing, Value::Null, self.errors, self.updated),
        };
        json!({
            "database": database,
            "doc_id": id,
            "id": self.job.as_deref(),
            "node": "nonode@nohost",
            "source": self.ends.source,
            "target": self.ends.target,
            "state": state.word(),
            "info": info,
            "error_count": errors,
            "last_updated": iso8601(updated),
            "start_time": iso8601(self.started),
            "source_proxy": self.ends.source_proxy,
            "target_proxy": self.ends.target_proxy,
        })
    }
}

fn state_of(state: scheduler::State) -> State {
    match state {
        scheduler::State::Pending => State::Pending,
        scheduler::State::Running => State::Running,
        scheduler::State::Crashing => State::Crashing,
    }
}

/// All rows.
#[derive(Default)]
pub(super) struct Rows {
    databases: HashMap<Arc<str>, BTreeMap<Arc<str>, Row>>,
    total: usize,
    versions: u64,
}

impl Rows {
    pub fn get(&self, database: &str, id: &str) -> Option<&Row> {
        self.databases.get(database)?.get(id)
    }

    /// The row of a document, if it is of this version.
    pub fn of_version(&mut self, key: &Key, version: u64) -> Option<&mut Row> {
        self.of_key(key).filter(|row| row.version == version)
    }

    pub fn of_key(&mut self, key: &Key) -> Option<&mut Row> {
        self.databases.get_mut(&key.database)?.get_mut(&key.id)
    }

    pub fn insert(&mut self, key: &Key, row: Row) {
        let rows = self.databases.entry(key.database.clone()).or_default();
        self.total += usize::from(rows.insert(key.id.clone(), row).is_none());
    }

    pub fn remove(&mut self, key: &Key) -> Option<Row> {
        let rows = self.databases.get_mut(&key.database)?;
        let row = rows.remove(&key.id)?;
        if rows.is_empty() {
            self.databases.remove(&key.database);
        }
        self.total -= 1;
        Some(row)
    }

    /// Removes the rows of a database.
    pub fn remove_all(&mut self, database: &str) -> BTreeMap<Arc<str>, Row> {
        let rows = self.databases.remove(database).unwrap_or_default();
        self.total -= rows.len();
        rows
    }

    /// A number that no row has had.
    pub fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    pub fn len(&self) -> usize {
        self.total
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts { total: self.total, ..Counts::default() };
        for row in self.databases.values().flat_map(BTreeMap::values) {
            match (&row.job, &row.error) {
                (None, Some(_)) => counts.error += 1,
                (None, None) => counts.initializing += 1,
                (Some(_), _) => {}
            }
        }
        counts
    }
}
