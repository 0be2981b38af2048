//! Each counter that `_stats` and `_prometheus` serve moves when what it counts happens.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

/// `tom` with the password `mp3`, and with a wrong one.
const TOM: &str = "Authorization: Basic dG9tOm1wMw==";
const WRONG: &str = "Authorization: Basic dG9tOndyb25n";

/// Runs without end in one native call, which only the end of its process stops.
const SPINS: &str = "Array.prototype.reverse.call((function () { var n = 0; \
    return { get length() { return n++ ? 9007199254740991 : 3; } }; })());";

/// What this test cannot move, and the test that does.
const ELSEWHERE: [(&str, &str); 35] = [
    ("settee/http2_floods", "hostile: requests_that_are_cancelled_once_they_run_end_the_connection"),
    ("settee_http2_floods_total", "the same"),
    ("settee/answers_given_up", "answer_memory: the_slowest_are_given_up_when_others_wait_and_no_more_than_needed"),
    ("settee_answers_given_up_total", "the same"),
    ("settee/scripts/refused", "worker_tests: a_full_queue_answers_at_once"),
    ("settee_scripts_refused_total", "the same"),
    ("settee/scripts/died", "worker_tests: a_worker_that_ends_by_itself_is_counted"),
    ("settee_scripts_died_total", "the same"),
    ("settee_store_disk_bytes", "the store of this test has no file"),
    (
        "couch_replicator/jobs/adds",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_adds_total", "the same"),
    (
        "couch_replicator/jobs/crashed",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_crashed", "the same"),
    (
        "couch_replicator/jobs/crashes",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_crashes_total", "the same"),
    (
        "couch_replicator/jobs/starts",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_starts_total", "the same"),
    (
        "couch_replicator/jobs/total",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_total", "the same"),
    (
        "couch_replicator/jobs/running",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_running", "the same"),
    (
        "couch_replicator/jobs/asleep",
        "replicate::scheduler::tests: a_job_that_has_read_everything_sleeps_until_its_source_has_a_commit",
    ),
    ("couch_replicator_jobs_asleep", "the same"),
    ("couch_replicator/jobs/pending", "replicate::scheduler::tests: rounds_exchange_the_jobs_that_ran_longest"),
    ("couch_replicator_jobs_pending", "the same"),
    ("couch_replicator/jobs/stops", "replicate::scheduler::tests: when_the_server_stops_passes_are_told"),
    ("couch_replicator_jobs_stops_total", "the same"),
    ("couch_replicator/jobs/removes", "replicator.test.js"),
    ("couch_replicator_jobs_removes_total", "the same"),
    (
        "couch_replicator/jobs/completions",
        "replicate::scheduler::tests: the_driver_runs_jobs_and_reports_what_becomes_of_them",
    ),
    ("couch_replicator_jobs_completions_total", "the same"),
    ("couch_replicator/docs/initializing", "replicator.test.js"),
    ("couch_replicator_docs_initializing", "the same"),
    ("couch_replicator/docs/error", "replicator.test.js"),
    ("couch_replicator_docs_error", "the same"),
];

/// Sends a request. Boxed: the client's buffers in every future that calls this are too large for the stack
/// of a test.
fn boxed<'a>(
    running: &Running,
    line: &'a str,
    headers: &'a [&'a str],
    body: &'a str,
) -> std::pin::Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
    Box::pin(ask(running.address, line, headers, body.as_bytes()))
}

/// The frames of a request over HTTP/2 that waits for changes of `/db`.
fn longpoll_over_http2() -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/db/_changes?feed=longpoll&since=now"),
        ("authorization", ADMIN.strip_prefix("Authorization: ").unwrap()),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &headers, &block].concat()
}

/// The smallest and the largest value of each counter so far.
#[derive(Default)]
struct Seen(BTreeMap<String, (f64, f64)>);

impl Seen {
    fn note(&mut self, name: String, value: f64) {
        let (least, most) = self.0.entry(name).or_insert((value, value));
        (*least, *most) = (least.min(value), most.max(value));
    }

    /// Reads both pages.
    async fn sample(&mut self, running: &Running) {
        let stats = boxed(running, "GET /_node/_local/_stats", &[ADMIN], "").await.json();
        self.walk(String::new(), &stats);
        let page = boxed(running, "GET /_node/_local/_prometheus", &[ADMIN], "").await.text();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            self.note(name.to_owned(), value.parse().unwrap());
        }
    }

    fn walk(&mut self, path: String, value: &Value) {
        match (value.get("type"), value.get("value").and_then(Value::as_f64)) {
            (Some(_), Some(number)) => self.note(path, number),
            // A histogram: its number of requests.
            (Some(_), None) => self.note(path, value["value"]["n"].as_f64().unwrap()),
            (None, _) => {
                for (name, value) in value.as_object().unwrap() {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    self.walk(path, value);
                }
            }
        }
    }

    fn moved(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|(least, most)| least != most)
    }

    /// Samples until these counters have moved, for 15 s at most: the test then names those that have not.
    async fn until(&mut self, running: &Running, names: &[&str]) {
        let begun = std::time::Instant::now();
        while !names.iter().all(|name| self.moved(name)) && begun.elapsed() < Duration::from_secs(15) {
            self.sample(running).await;
        }
    }
}

async fn send(running: &Running, line: &str, headers: &[&str], body: &str, status: u16) -> Reply {
    let reply = boxed(running, line, headers, body).await;
    assert_eq!(reply.status, status, "{line}: {}", reply.text());
    reply
}

fn design() -> String {
    json!({
        "views": {"v": {"map": "function (doc) { emit(doc._id, null); }"}},
        "filters": {"spins": "function (doc) { if (doc._id == 'bad') while (true); return true; }"},
        "shows": {
            "endless": "function () { while (true) {} }",
            "spins": format!("function () {{ {SPINS} }}"),
            "refuses": "function () { throw(['error', 'not_acceptable', 'no']); }"
        }
    })
    .to_string()
}

/// Requests with every status and every method that has a counter, and those that other counters count.
async fn ask_for_everything(running: &Running) {
    let admin = [ADMIN, JSON];
    send(running, "GET /", &[], "", 200).await;
    send(running, "PUT /db", &admin, "", 201).await;
    send(running, "PUT /db/_design/d", &admin, &design(), 201).await;
    send(running, "PUT /db/bad", &admin, "{}", 201).await;
    send(running, "PUT /db/later?batch=ok", &admin, "{}", 202).await;
    let preflight = ["Origin: http://localhost", "Access-Control-Request-Method: PUT"];
    send(running, "OPTIONS /db", &preflight, "", 204).await;
    let rev =
        send(running, "PUT /db/doc/file", &[ADMIN, "Content-Type: application/octet-stream"], "content", 201).await;
    let rev = rev.json()["rev"].as_str().unwrap().to_owned();
    send(running, "GET /db/doc/file", &[ADMIN, "Range: bytes=1-2"], "", 206).await;
    send(running, "GET /db/doc/file", &[ADMIN, "Range: bytes=100-"], "", 416).await;
    send(running, "GET /_utils", &[], "", 301).await;
    send(running, "POST /_session?next=/", &[JSON], r#"{"name":"ann","password":"secret"}"#, 302).await;
    send(running, "GET /db/doc", &[ADMIN, &format!("If-None-Match: \"{rev}\"")], "", 304).await;
    send(running, "HEAD /db/doc", &[ADMIN], "", 200).await;
    send(running, "COPY /db/doc", &[ADMIN, "Destination: copy"], "", 201).await;
    send(running, "PUT /db/doc", &admin, "{", 400).await;
    send(running, "GET /db/none", &admin, "", 404).await;
    send(running, "POST /", &admin, "", 405).await;
    send(running, "PATCH /", &admin, "", 405).await;
    send(running, "GET /db/_design/d/_show/refuses", &admin, "", 406).await;
    send(running, "PUT /db/doc", &admin, "{}", 409).await;
    send(running, "PUT /db", &admin, "", 412).await;
    send(running, "PUT /db/large", &admin, &format!("{{\"a\":\"{}\"}}", "x".repeat(20_000)), 413).await;
    send(running, &format!("GET /{}", "x".repeat(3000)), &admin, "", 414).await;
    send(running, "POST /db/_bulk_docs", &[ADMIN, "Content-Type: text/plain"], "{}", 415).await;
    send(running, "POST /db/_bulk_docs", &admin, r#"{"docs":[{"_id":"x"}],"all_or_nothing":true}"#, 417).await;
    send(running, "POST /db/_bulk_docs", &admin, r#"{"docs":[{"_id":"x"}]}"#, 201).await;
    send(running, "GET /db/_design/d/_view/v", &admin, "", 200).await;
    send(running, "GET /db/_changes?filter=d/spins", &admin, "", 200).await;
    send(running, "GET /db/_design/d/_show/endless", &admin, "", 500).await;
    send(running, "GET /db/_design/d/_show/spins", &admin, "", 500).await;
    send(running, &format!("DELETE /db/doc?rev={rev}"), &admin, "", 200).await;
    let tom = json!({"type": "user", "name": "tom", "password": "mp3", "roles": []}).to_string();
    send(running, "PUT /_users/org.couchdb.user:tom", &admin, &tom, 201).await;
    send(running, "GET /db", &[TOM], "", 403).await;
    for status in [401, 401, 403] {
        send(running, "GET /db", &[WRONG], "", status).await;
    }
}

#[tokio::test]
async fn every_counter_that_is_served_moves() {
    let running = server(&[
        ("couchdb", "os_process_timeout", "300"),
        ("couchdb", "max_document_size", "10000"),
        ("chttpd", "max_uri_length", "2000"),
        ("audit", "mass_deletion", "1"),
        ("audit", "id_scanning", "1"),
        ("audit", "guessing", "1"),
        ("chttpd_auth_lockout", "threshold", "2"),
        ("rate_limits", "exempt", "10.0.0.0/8"),
    ])
    .await;
    let mut seen = Seen::default();
    seen.sample(&running).await;
    ask_for_everything(&running).await;
    // A feed that waits, and then a client that leaves it.
    let mut feed = Client::connect(running.address).await;
    feed.send("GET /db/_changes?feed=continuous&since=0", &[ADMIN], b"").await;
    seen.until(&running, &["couchdb/httpd/clients_requesting_changes"]).await;
    drop(feed);
    seen.until(&running, &["couchdb/httpd/aborted_requests"]).await;
    // An answer that its client does not read.
    let large = "x".repeat(8 << 20);
    send(&running, "PUT /db/large/file", &[ADMIN, "Content-Type: application/octet-stream"], &large, 201).await;
    let mut slow = Client::connect(running.address).await;
    slow.send("GET /db/large/file", &[ADMIN], b"").await;
    seen.until(&running, &["settee/answer_memory"]).await;
    drop(slow);
    // A replication that fails.
    send(&running, "PUT /_replicator/fails", &[ADMIN, JSON], r#"{"source":"none","target":"db"}"#, 201).await;
    seen.until(&running, &["couch_replicator/docs/total"]).await;
    // More functions at once than there are workers.
    let endless: Vec<_> =
        (0..60).map(|_| tokio::spawn(ask(running.address, "GET /db/_design/d/_show/endless", &[ADMIN], b""))).collect();
    seen.until(&running, &["settee/scripts/busy", "settee/scripts/waiting"]).await;
    endless.into_iter().for_each(|one| one.abort());
    let set = |key: &str, value: &str| {
        let section = if key.starts_with("user") { "rate_limits" } else { "settee" };
        running.app.config.set(section, key, value, false).unwrap();
        running.app.reconfigure();
    };
    set("user_per_second", "1");
    set("user_burst", "1");
    within(async { while boxed(&running, "GET /db", &[ADMIN], "").await.status != 429 {} }).await;
    set("user_per_second", "0");
    let mut over_http2 = Client::connect(running.address).await;
    over_http2.raw(&longpoll_over_http2()).await;
    seen.until(&running, &["settee/open_http2_connections", "settee/open_http2_streams"]).await;
    let mut kept = Client::connect(running.address).await;
    Box::pin(async {
        kept.send("GET /", &[], b"").await;
        kept.reply(false).await.unwrap();
    })
    .await;
    set("max_connections_per_address", "1");
    within(Box::pin(async {
        let mut refused = Client::connect(running.address).await;
        refused.send("GET /", &[], b"").await;
        assert!(refused.reply(false).await.is_none());
    }))
    .await;
    set("max_connections_per_address", "0");
    seen.until(&running, &["settee/refused_connections", "couchdb_uptime_seconds"]).await;
    let still: Vec<&str> = seen
        .0
        .keys()
        .map(String::as_str)
        .filter(|name| !seen.moved(name) && !ELSEWHERE.iter().any(|(known, _)| known == name))
        .collect();
    assert!(still.is_empty(), "these counters never moved: {still:#?}");
    for (name, by) in ELSEWHERE {
        assert!(seen.0.contains_key(name), "{name} is not served any more ({by})");
    }
}

#[tokio::test]
async fn a_large_attachment_that_was_sent_whole_is_not_counted_as_aborted() {
    let running = server(&[]).await;
    send(&running, "PUT /db", &[ADMIN], "", 201).await;
    let large = "x".repeat(1 << 20);
    send(&running, "PUT /db/large/file", &[ADMIN, "Content-Type: application/octet-stream"], &large, 201).await;
    let reply = send(&running, "GET /db/large/file", &[ADMIN], "", 200).await;
    assert_eq!(reply.body.len(), large.len());
    // A request is counted when its answer is sent; the one that asks is not counted yet.
    within(async {
        for sent in 1.. {
            let stats = boxed(&running, "GET /_node/_local/_stats", &[ADMIN], "").await.json();
            let httpd = &stats["couchdb"]["httpd"];
            assert_eq!(httpd["aborted_requests"]["value"], 0);
            if stats["couchdb"]["httpd_request_methods"]["GET"]["value"].as_u64() == Some(sent) {
                break;
            }
        }
    })
    .await;
}
