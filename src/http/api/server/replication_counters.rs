//! The metrics of replications, under CouchDB's names.

use super::counter::Counter;
use crate::app::App;

/// The metrics of replications.
pub(super) fn replication_counters(app: &App) -> Vec<Counter> {
    let jobs = app.replications.scheduler.counts();
    let docs = app.replications.documents.counts();
    let gauge = |name: &str, value: usize, about| {
        Counter::new(&["couch_replicator", "jobs", name], "gauge", i64::try_from(value).unwrap_or(i64::MAX), about)
    };
    let counter = |name: &str, value: u64, about| {
        Counter::new(&["couch_replicator", "jobs", name], "counter", i64::try_from(value).unwrap_or(i64::MAX), about)
    };
    let document = |name: &str, value: usize, about| {
        Counter::new(&["couch_replicator", "docs", name], "gauge", i64::try_from(value).unwrap_or(i64::MAX), about)
    };
    vec![
        gauge("total", jobs.total, "number of replications"),
        gauge("running", jobs.running, "number of replications that run"),
        gauge("asleep", jobs.asleep, "number of continuous replications that wait for changes of a database here"),
        gauge("pending", jobs.pending, "number of replications that wait for their turn"),
        gauge("crashed", jobs.crashing, "number of replications that failed and will be tried again"),
        counter("adds", jobs.adds, "number of replications added"),
        counter("removes", jobs.removes, "number of replications removed"),
        counter("starts", jobs.starts, "number of passes started"),
        counter("stops", jobs.stops, "number of passes stopped for others"),
        counter("crashes", jobs.crashes, "number of passes that failed"),
        counter("completions", jobs.completions, "number of replications completed"),
        document("total", docs.total, "number of replication documents that have not ended"),
        document("initializing", docs.initializing, "number of replication documents that become a replication"),
        document("error", docs.error, "number of replication documents whose filter cannot be read"),
    ]
}
