//! `/_node/{node}/...`: statistics, system information, versions, restart (CouchDB: `chttpd_node.erl`).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::counter::Counter;
use super::replication_counters::replication_counters;
use crate::app::App;
use crate::app::metrics::BOUNDS_MS;
use crate::app::process::{memory, threads};
use crate::blocking::blocking;
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// GET `/_node/_local`.
pub fn name(app: &App) -> Result<Answer> {
    Ok(Answer::ok(&json!({"name": app.nodes.name()})))
}

/// GET `/_node/_local/_nodes`: the nodes of a shared store, this one first. Not in CouchDB.
pub async fn nodes(app: &Arc<App>) -> Result<Answer> {
    let shared = app.clone();
    let nodes = blocking(move || Ok(shared.nodes.list(shared.node_state()?))).await?;
    Ok(Answer::ok(&json!({"nodes": nodes})))
}

/// GET `_versions`: settee's version, and CouchDB's members with settee's values.
pub fn versions() -> Result<Answer> {
    Ok(Answer::ok(&json!({
        "settee": {"version": env!("CARGO_PKG_VERSION")},
        "collation_driver": {"name": "icu4x"},
        "javascript_engine": {"name": "quickjs"},
    })))
}

/// POST `_restart`: finishes the running requests, then restarts with the same data.
pub fn restart(app: &App) -> Result<Answer> {
    app.shutdown.begin_restart();
    Ok(Answer::ok(&json!({"ok": true})))
}

/// The metrics of `_stats` and `_prometheus`, under CouchDB's names.
fn counters(app: &App) -> Vec<Counter> {
    let metrics = &app.metrics;
    let scripts = app.scripts.stats();
    let number =
        |count: &std::sync::atomic::AtomicU64| i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
    let one = Counter::new;
    let (fast, slow) = app.auth.hashings();
    let (cache_hits, cache_misses) = app.auth.cached();
    let counts = app.databases.counts();
    let mut list = vec![
        one(
            &["couchdb", "password_hashing_fast"],
            "counter",
            i64::try_from(fast).unwrap_or(i64::MAX),
            "number of fast password hashing operations",
        ),
        one(
            &["couchdb", "password_hashing_slow"],
            "counter",
            i64::try_from(slow).unwrap_or(i64::MAX),
            "number of slow password hashing operations",
        ),
        one(&["couchdb", "auth_cache_hits"], "counter", signed(cache_hits), "number of authentication cache hits"),
        one(
            &["couchdb", "auth_cache_misses"],
            "counter",
            signed(cache_misses),
            "number of authentication cache misses",
        ),
        one(
            &["couchdb", "database_reads"],
            "counter",
            signed(counts.reads()),
            "number of times a document was read from a database",
        ),
        one(
            &["couchdb", "database_writes"],
            "counter",
            signed(counts.writes()),
            "number of times a database was changed",
        ),
        one(
            &["couchdb", "document_inserts"],
            "counter",
            signed(counts.document_inserts()),
            "number of documents inserted",
        ),
        one(
            &["couchdb", "document_writes"],
            "counter",
            signed(counts.document_writes()),
            "number of document write operations",
        ),
        one(&["couchdb", "httpd", "requests"], "counter", number(&metrics.requests), "number of HTTP requests"),
        one(
            &["couchdb", "httpd", "aborted_requests"],
            "counter",
            number(&metrics.aborted_requests),
            "number of aborted requests",
        ),
        one(
            &["couchdb", "httpd", "bulk_requests"],
            "counter",
            number(&metrics.bulk_requests),
            "number of bulk requests",
        ),
        one(&["couchdb", "httpd", "view_reads"], "counter", number(&metrics.view_reads), "number of view reads"),
        one(
            &["couchdb", "httpd", "clients_requesting_changes"],
            "counter",
            metrics.clients_requesting_changes.value(),
            "number of clients for continuous _changes",
        ),
        one(
            &["couchdb", "open_databases"],
            "counter",
            signed(app.databases.open_count() as u64),
            "number of open databases",
        ),
        one(&["settee", "open_connections"], "gauge", metrics.open_connections.value(), "number of open connections"),
        one(
            &["settee", "open_http2_connections"],
            "gauge",
            metrics.open_http2_connections.value(),
            "number of open connections with HTTP/2",
        ),
        one(
            &["settee", "open_http2_streams"],
            "gauge",
            metrics.open_streams.value(),
            "number of open requests over HTTP/2",
        ),
        one(
            &["settee", "http2_floods"],
            "counter",
            number(&metrics.floods),
            "number of connections closed because their clients cancelled too many requests over HTTP/2",
        ),
        one(
            &["settee", "refused_connections"],
            "counter",
            number(&metrics.refused_connections),
            "number of connections, and of requests over HTTP/2, refused because their address had too many",
        ),
        one(
            &["settee", "answer_memory"],
            "gauge",
            app.answers.held() as i64,
            "bytes of responses held until clients have read them",
        ),
        one(
            &["settee", "answers_given_up"],
            "counter",
            app.answers.given_up() as i64,
            "number of connections closed because their clients read too slowly while others waited for memory",
        ),
        one(&["settee", "sign_ins"], "counter", number(&metrics.sign_ins), "number of successful password checks"),
        one(
            &["settee", "sign_in_failures"],
            "counter",
            number(&metrics.sign_in_failures),
            "number of wrong passwords, cookies and tokens",
        ),
        one(
            &["settee", "lockouts"],
            "counter",
            number(&metrics.lockouts),
            "number of sign-ins refused because too many failed before",
        ),
        one(&["settee", "denials"], "counter", number(&metrics.denials), "number of responses with status 401 or 403"),
        one(
            &["settee", "suspicious", "mass_deletion"],
            "counter",
            number(&metrics.mass_deletions),
            "number of minutes in which a user deleted very many documents",
        ),
        one(
            &["settee", "suspicious", "id_scanning"],
            "counter",
            number(&metrics.id_scans),
            "number of minutes in which a user asked for very many missing documents",
        ),
        one(
            &["settee", "suspicious", "guessing"],
            "counter",
            number(&metrics.guessing),
            "number of minutes in which an address sent many wrong passwords",
        ),
        one(
            &["settee", "rate_limited"],
            "counter",
            number(&metrics.rate_limited),
            "number of responses with status 429",
        ),
        one(
            &["settee", "scripts", "workers"],
            "gauge",
            signed(scripts.workers),
            "number of processes for design functions",
        ),
        one(&["settee", "scripts", "busy"], "gauge", signed(scripts.busy), "number of processes that run a call"),
        one(
            &["settee", "scripts", "waiting"],
            "gauge",
            signed(scripts.waiting),
            "number of calls that wait for a process",
        ),
        one(
            &["settee", "scripts", "started"],
            "counter",
            signed(scripts.started),
            "number of processes started for design functions",
        ),
        one(
            &["settee", "scripts", "overran"],
            "counter",
            signed(scripts.overran),
            "number of processes killed because they exceeded their CPU time",
        ),
        one(
            &["settee", "scripts", "died"],
            "counter",
            signed(scripts.died),
            "number of processes that exited on their own, usually out of memory",
        ),
        one(
            &["settee", "scripts", "skipped"],
            "counter",
            signed(scripts.skipped),
            "number of documents that views and filters skipped",
        ),
        one(
            &["settee", "scripts", "refused"],
            "counter",
            signed(scripts.refused),
            "number of calls refused or cancelled because too many waited",
        ),
        one(
            &["settee", "sent_bytes"],
            "counter",
            number(&metrics.sent_bytes),
            "bytes of responses, before compression",
        ),
    ];
    for (method, count) in metrics.methods() {
        let path = vec!["couchdb".to_owned(), "httpd_request_methods".to_owned(), method.to_owned()];
        list.push(Counter {
            path,
            kind: "counter",
            value: signed(count),
            about: "number of HTTP requests with this method",
        });
    }
    for (status, count) in metrics.statuses() {
        let path = vec!["couchdb".to_owned(), "httpd_status_codes".to_owned(), status.to_string()];
        list.push(Counter {
            path,
            kind: "counter",
            value: signed(count),
            about: "number of HTTP responses with this status",
        });
    }
    list.extend(replication_counters(app));
    list
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// GET `_stats[/path...]`; `null` for an unknown path.
pub fn stats(app: &App, path: &[String]) -> Result<Answer> {
    let mut whole = Map::new();
    for counter in counters(app) {
        let mut place = &mut whole;
        let (last, parents) = counter.path.split_last().expect("every counter has a name");
        for part in parents {
            let next = place.entry(part.clone()).or_insert_with(|| Value::Object(Map::new()));
            place = next.as_object_mut().expect("a counter's name is not the beginning of another's");
        }
        let value = json!({"value": counter.value, "type": counter.kind, "desc": counter.about});
        place.insert(last.clone(), value);
    }
    let (buckets, total) = app.metrics.times();
    let count: u64 = buckets.iter().sum();
    let mean = if count == 0 { 0.0 } else { total * 1000.0 / count as f64 };
    if let Some(couchdb) = whole.get_mut("couchdb").and_then(Value::as_object_mut) {
        let histogram: Vec<Value> =
            BOUNDS_MS.iter().zip(&buckets).map(|(bound, count)| json!([bound, count])).collect();
        let value = json!({"n": count, "arithmetic_mean": mean, "histogram": histogram});
        let about = "length of a request inside CouchDB without MochiWeb";
        couchdb.insert("request_time".into(), json!({"value": value, "type": "histogram", "desc": about}));
    }
    let mut found = Value::Object(whole);
    for part in path {
        found = match found {
            Value::Object(mut members) => members.remove(part).unwrap_or(Value::Null),
            _ => Value::Null,
        };
    }
    Ok(Answer::ok(&found))
}

/// GET `_system`: CouchDB's members. Those that do not apply to settee are zero or empty.
pub fn system(app: &App) -> Result<Answer> {
    let (resident, virtual_size) = memory();
    Ok(Answer::ok(&json!({
        "uptime": app.started.elapsed().as_secs(),
        "memory": {"resident": resident, "virtual": virtual_size},
        "run_queue": 0,
        "process_count": threads(),
        "open_connections": app.metrics.open_connections.value(),
        "io_output": app.metrics.sent_bytes.load(Ordering::Relaxed),
        "os_proc_count": 0,
        "stale_proc_count": 0,
        "internal_replication_jobs": 0,
        "store": {"engine": app.store.engine(), "disk_bytes": app.store.disk_bytes()},
        "distribution": {},
        "message_queues": {},
    })))
}

/// GET `_prometheus`: the same metrics in the Prometheus text format, under CouchDB's metric names.
pub fn prometheus(app: &App) -> Result<Answer> {
    let mut text = String::with_capacity(8 << 10);
    let mut line = |name: &str, kind: &str, about: &str, rows: &[(String, String)]| {
        let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let bare = |value: String| vec![(String::new(), value)];
    for counter in counters(app) {
        let parts: Vec<&str> = counter.path.iter().map(String::as_str).collect();
        let (name, rows) = match parts.as_slice() {
            ["couchdb", "httpd_request_methods" | "httpd_status_codes", _] => continue,
            parts => (parts.join("_"), bare(counter.value.to_string())),
        };
        let suffix = if counter.kind == "counter" { "_total" } else { "" };
        line(&format!("{name}{suffix}"), counter.kind, counter.about, &rows);
    }
    let methods: Vec<(String, String)> = app
        .metrics
        .methods()
        .into_iter()
        .map(|(method, count)| (format!("{{method=\"{method}\"}}"), count.to_string()))
        .collect();
    line("couchdb_httpd_request_methods", "counter", "number of HTTP requests by method", &methods);
    let statuses: Vec<(String, String)> = app
        .metrics
        .statuses()
        .into_iter()
        .map(|(status, count)| (format!("{{code=\"{status}\"}}"), count.to_string()))
        .collect();
    line("couchdb_httpd_status_codes", "counter", "number of HTTP responses by status", &statuses);
    line("couchdb_uptime_seconds", "counter", "couchdb uptime", &bare(app.started.elapsed().as_secs().to_string()));
    line("settee_resident_memory_bytes", "gauge", "resident memory", &bare(memory().0.to_string()));
    line("settee_store_disk_bytes", "gauge", "bytes of the store on disk", &bare(app.store.disk_bytes().to_string()));
    let (buckets, total) = app.metrics.times();
    let name = "couchdb_request_time_seconds";
    let _ = writeln!(text, "# HELP {name} length of a request\n# TYPE {name} histogram");
    let mut sum = 0;
    for (index, count) in buckets.iter().enumerate() {
        sum += count;
        let bound = BOUNDS_MS.get(index).map_or("+Inf".to_owned(), |bound| (*bound as f64 / 1000.0).to_string());
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
    }
    let _ = writeln!(text, "{name}_sum {total}\n{name}_count {sum}");
    Ok(Answer::bytes(StatusCode::OK, text)
        .with(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=2.0; charset=utf-8")))
}
