//! How far a replication is. Written by the pass, read by `_active_tasks` and `_scheduler` at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

/// The counters of a job, over all its passes: keep it between them. A job that continues with the same
/// `Progress` continues its session in the checkpoints, instead of beginning another one.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) changes_done: AtomicU64,
    pub(crate) docs_read: AtomicU64,
    pub(crate) docs_written: AtomicU64,
    pub(crate) doc_write_failures: AtomicU64,
    pub(crate) missing_checked: AtomicU64,
    pub(crate) missing_found: AtomicU64,
    pub(crate) bulk_get_docs: AtomicU64,
    pub(crate) bulk_get_attempts: AtomicU64,
    pub(crate) state: Mutex<State>,
}

/// What is not a counter.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// 32 hex digits; `None` before the first pass.
    pub(crate) session: Option<Box<str>>,
    /// When the session began, in seconds since the epoch.
    pub(crate) started: u64,
    /// The sequence of the source at which the session began, as JSON.
    pub(crate) start_seq: Value,
    pub(crate) changes_pending: Option<u64>,
    pub(crate) source_seq: Value,
    pub(crate) through_seq: Value,
    pub(crate) checkpointed_source_seq: Value,
    /// When the last checkpoint was written, since the epoch.
    pub(crate) checkpointed_at: Option<Duration>,
    /// When the next checkpoint of a job that rests is due, since the epoch.
    pub(crate) checkpoint_due: Option<Duration>,
    /// The counters of earlier sessions.
    earlier: Counters,
    /// Where the last pass has ended without a failure.
    position: Option<Position>,
}

/// Where a pass has ended, so that the next one need not read the checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub since: Value,
    /// What both checkpoints agree on.
    pub recorded: Value,
    /// The databases that it holds for.
    pub source: Box<str>,
    pub target: Box<str>,
}

/// The counters at one moment. Sequences are JSON as the source writes them: text, a number, or `null` at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes of the source that were dealt with.
    pub changes_done: u64,
    pub docs_read: u64,
    pub docs_written: u64,
    pub doc_write_failures: u64,
    /// Revisions that the target was asked about.
    pub missing_checked: u64,
    /// Those that it did not have.
    pub missing_found: u64,
    pub bulk_get_docs: u64,
    pub bulk_get_attempts: u64,
    /// `None` if the source does not say.
    pub changes_pending: Option<u64>,
    /// The last sequence that was read of the source.
    pub source_seq: Value,
    /// Everything up to this sequence is on the target.
    pub through_seq: Value,
    /// Everything up to this sequence is recorded on both ends.
    pub checkpointed_source_seq: Value,
}

impl Progress {
    /// Nothing was done yet.
    pub fn new() -> Progress {
        Progress::default()
    }

    /// A page of the source was read.
    pub(crate) fn read_through(&self, through: &Value, pending: Option<u64>) {
        let mut state = self.state.lock();
        state.source_seq = through.clone();
        state.changes_pending = pending;
    }

    pub(crate) fn rest_at(&self, position: Position) {
        self.state.lock().position = Some(position);
    }

    /// Takes the position: it holds for the next pass only if that one ends without a failure, and is not dropped.
    pub(crate) fn take_position(&self) -> Option<Position> {
        self.state.lock().position.take()
    }

    /// When a job that rests is to be started again to write a checkpoint, since the epoch, even if nothing is new by
    /// then; `None` if everything is recorded. Without that, a restart of the server compares some changes again.
    pub fn checkpoint_due(&self) -> Option<Duration> {
        self.state.lock().checkpoint_due
    }

    /// Whether the next pass may start where the last one has ended.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        self.state.lock().position.is_some()
    }

    #[cfg(test)]
    pub(crate) fn set_checkpoint_due(&self, due: Option<Duration>) {
        self.state.lock().checkpoint_due = due;
    }

    /// A session begins, after one whose row in the history of the checkpoints this is.
    pub(crate) fn begin_after(&self, row: &Value) {
        let of = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0).min(u64::MAX >> 1);
        let mut state = self.state.lock();
        if state.session.is_none() {
            state.earlier = Counters {
                docs_read: of("docs_read"),
                docs_written: of("docs_written"),
                doc_write_failures: of("doc_write_failures"),
                missing_checked: of("missing_checked"),
                missing_found: of("missing_found"),
                bulk_get_docs: of("bulk_get_docs"),
                bulk_get_attempts: of("bulk_get_attempts"),
                ..Counters::default()
            };
        }
    }

    /// The counters of all sessions with a common history, as CouchDB shows them.
    pub fn totals(&self) -> Counters {
        let earlier = self.state.lock().earlier.clone();
        let now = self.counters();
        Counters {
            docs_read: now.docs_read + earlier.docs_read,
            docs_written: now.docs_written + earlier.docs_written,
            doc_write_failures: now.doc_write_failures + earlier.doc_write_failures,
            missing_checked: now.missing_checked + earlier.missing_checked,
            missing_found: now.missing_found + earlier.missing_found,
            bulk_get_docs: now.bulk_get_docs + earlier.bulk_get_docs,
            bulk_get_attempts: now.bulk_get_attempts + earlier.bulk_get_attempts,
            ..now
        }
    }

    /// The counters of this job.
    pub fn counters(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.state.lock();
        Counters {
            changes_done: of(&self.changes_done),
            docs_read: of(&self.docs_read),
            docs_written: of(&self.docs_written),
            doc_write_failures: of(&self.doc_write_failures),
            missing_checked: of(&self.missing_checked),
            missing_found: of(&self.missing_found),
            bulk_get_docs: of(&self.bulk_get_docs),
            bulk_get_attempts: of(&self.bulk_get_attempts),
            changes_pending: state.changes_pending,
            source_seq: state.source_seq.clone(),
            through_seq: state.through_seq.clone(),
            checkpointed_source_seq: state.checkpointed_source_seq.clone(),
        }
    }
}
