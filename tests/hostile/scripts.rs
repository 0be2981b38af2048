//! Functions that never end, use all memory, or loop in native code where QuickJS does not check for an
//! interrupt, and documents that are too large for a harmless function. Meanwhile another database is read,
//! queried and written.
//!
//! `SETTEE_ROUNDS=10000` runs that many random functions, and adds the tests that take minutes.

mod attacks;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use attacks::{ATTACKS, GROWS, Random, function};

use crate::allowed_skips;
use crate::client::{Answer, Client};
use crate::server::Server;

/// Maximum memory of the server and its workers together: `max_script_memory`, and an allowance for
/// everything else.
const MEMORY: u64 = (1 << 30) + (700 << 20);
/// Maximum 99th percentile of the latency of other users' requests. The goal for a release build on an idle
/// machine is 200 ms.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });

/// A server with the database `others`, whose users must not be affected by an attack.
struct Bench {
    server: Server,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Starts a server whose functions may run for `timeout` milliseconds.
    fn start(timeout: u64) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(folder.path(), "sled").expect("it starts");
        let mut client = server.client();
        let path = "/_node/_local/_config/couchdb/os_process_timeout";
        assert!(client.json("PUT", path, &json!(timeout.to_string())).unwrap().is_ok());
        assert!(client.json("PUT", "/others", &json!(null)).unwrap().is_ok());
        let design = json!({
            "validate_doc_update": "function (doc) { if (doc.n < 0) throw({ forbidden: 'negative' }); }",
            "views": { "v": { "map": "function (doc) { emit(doc.n, null); }" } },
            "filters": { "even": "function (doc) { return doc.n % 2 === 0; }" }
        });
        assert!(client.json("PUT", "/others/_design/d", &design).unwrap().is_ok());
        assert!(client.json("PUT", "/others/a", &json!({"n": 1})).unwrap().is_ok());
        assert_eq!(client.get("/others/_design/d/_view/v").unwrap().json()["rows"][0]["key"], 1);
        Bench { server, _folder: folder }
    }

    fn put(&self, path: &str, body: &Value) {
        let answer = self.server.client().json("PUT", path, body).unwrap();
        assert!(answer.is_ok(), "{path}: {}", String::from_utf8_lossy(&answer.body));
    }

    fn get(&self, path: &str) -> Answer {
        self.server.client().get(path).unwrap()
    }

    /// Reads, writes and queries the database `others` until `stop` is set. Returns the sorted durations of
    /// the requests.
    fn use_others(&self, stop: &AtomicBool) -> Vec<Duration> {
        let mut client: Client = self.server.client();
        let mut took = Vec::new();
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let began = Instant::now();
            assert!(client.get("/others/a").unwrap().is_ok());
            took.push(began.elapsed());
            let began = Instant::now();
            let written = client.json("PUT", &format!("/others/o{n}"), &json!({"n": n})).unwrap();
            assert!(written.is_ok(), "a validated write: {}", String::from_utf8_lossy(&written.body));
            took.push(began.elapsed());
            let began = Instant::now();
            let view = client.get("/others/_design/d/_view/v?limit=1").unwrap();
            assert!(view.is_ok(), "a view: {}", String::from_utf8_lossy(&view.body));
            took.push(began.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        took.sort_unstable();
        took
    }

    /// Runs `attack` on `threads` threads, and checks meanwhile the latency of the database `others` and the
    /// memory use.
    fn under_attack(&self, threads: usize, attack: impl Fn() + Sync) {
        let stop = AtomicBool::new(false);
        let (took, most) = std::thread::scope(|scope| {
            let others = scope.spawn(|| self.use_others(&stop));
            let memory = scope.spawn(|| {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    most = most.max(memory(self.server.process()));
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            });
            let attackers: Vec<_> = (0..threads).map(|_| scope.spawn(&attack)).collect();
            let ended: Vec<_> = attackers.into_iter().map(|attacker| attacker.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(ended.into_iter().all(|ended| ended.is_ok()), "an attack was not answered as it should be");
            (others.join().expect("the others are served"), memory.join().expect("memory can be read"))
        });
        let p99 = took[took.len() * 99 / 100 - usize::from(took.len() % 100 == 0)];
        println!(
            "others: {} requests, p99 {p99:?}, longest {:?}; memory {} MiB",
            took.len(),
            took[took.len() - 1],
            most >> 20
        );
        assert!(p99 < PATIENCE, "the others wait {p99:?}");
        assert!(most < MEMORY, "{} MiB are held", most >> 20);
    }
}

/// Returns the child processes of `parent`.
fn children(parent: u32) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let is_child = |number: &u32| {
        let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{number}/stat"))).unwrap_or_default();
        // The process name is in parentheses and may contain any character, so parse what follows the last
        // one.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    numbers.filter(is_child).collect()
}

/// Returns the private memory (resident minus shared) of a process and its children, in bytes.
fn memory(process: u32) -> u64 {
    let own = |number: u32| {
        let statm = std::fs::read_to_string(format!("/proc/{number}/statm")).unwrap_or_default();
        let pages: Vec<u64> = statm.split_whitespace().filter_map(|pages| pages.parse().ok()).collect();
        pages.get(1).unwrap_or(&0).saturating_sub(*pages.get(2).unwrap_or(&0)) * 4096
    };
    own(process) + children(process).into_iter().map(own).sum::<u64>()
}

/// The value of `SETTEE_ROUNDS`; `None` selects the short version of the tests.
fn rounds() -> Option<usize> {
    std::env::var("SETTEE_ROUNDS").ok()?.parse().ok()
}

/// Waits until `condition` holds; fails after `most`.
fn until(what: &str, most: Duration, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < most, "{what}: not after {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_attack_function_is_stopped_and_does_not_affect_others() {
    let bench = Bench::start(100);
    bench.put("/db", &json!(null));
    let shows: Value = ATTACKS.iter().enumerate().map(|(n, attack)| (n.to_string(), json!(function(attack)))).collect();
    bench.put("/db/_design/d", &json!({ "shows": shows }));
    let next = AtomicUsize::new(0);
    bench.under_attack(4, || {
        let mut client = bench.server.client();
        while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < ATTACKS.len()) {
            let answer = client.get(&format!("/db/_design/d/_show/{n}")).unwrap();
            assert!(answer.status < 600, "{}", ATTACKS[n]);
        }
    });
}

#[test]
fn a_hundred_and_ten_endless_functions_do_not_starve_others() {
    let bench = Bench::start(if rounds().is_some() { 5000 } else { 100 });
    bench.put("/db", &json!(null));
    let spins = function("Array.prototype.reverse.call(GROWS)");
    let shows = json!({ "native": spins, "plain": "function () { while (true); }" });
    bench.put("/db/_design/d", &json!({ "shows": shows }));
    let count = AtomicUsize::new(0);
    bench.under_attack(110, || {
        let kind = ["native", "plain"][count.fetch_add(1, Ordering::Relaxed) % 2];
        let answer = bench.get(&format!("/db/_design/d/_show/{kind}"));
        assert_eq!(answer.status, 500, "{}", String::from_utf8_lossy(&answer.body));
        let word = answer.json()["error"].as_str().unwrap_or("").to_owned();
        assert!(["os_process_error", "timeout", "render_error"].contains(&word.as_str()), "{word}");
    });
}

#[test]
fn large_documents_do_not_abort_views_or_filters() {
    let bench = Bench::start(5000);
    let mut client = bench.server.client();
    let design = json!({
        "views": { "v": { "map": "function (doc) { emit(doc.n, null); }" } },
        "filters": { "even": "function (doc) { return doc.n % 2 === 0; }" }
    });
    bench.put("/db", &json!(null));
    bench.put("/db/_design/d", &design);
    bench.put("/db/first", &json!({"n": 2}));
    let parts = [("objects", "{}"), ("arrays", "[]"), ("members", "{\"a\":{}}"), ("nested", "[[[[]]]]")];
    let parts = &parts[..if rounds().is_some() { 4 } else { 1 }];
    for (name, part) in parts {
        let body = format!("{{\"n\":7,\"large\":[{}0]}}", format!("{part},").repeat(7_000_000 / (part.len() + 1)));
        let answer = client.ask("PUT", &format!("/db/{name}"), "application/json", body.as_bytes()).unwrap();
        assert_eq!(answer.status, 201, "{name}");
        // In the database with a validation function, the write is validated, or it alone is refused.
        let answer = client.ask("PUT", &format!("/others/{name}"), "application/json", body.as_bytes()).unwrap();
        assert!(answer.is_ok() || answer.status == 500, "{name}: {}", answer.status);
    }
    bench.put("/db/last", &json!({"n": 10}));
    bench.put("/others/last", &json!({"n": 10}));
    let view = bench.get("/db/_design/d/_view/v");
    assert!(view.is_ok(), "{}", String::from_utf8_lossy(&view.body));
    let ids: Vec<Value> = view.json()["rows"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert!(ids.contains(&json!("first")) && ids.contains(&json!("last")), "{ids:?}");
    let skipped = bench.get("/db/_design/d/_info").json()["view_index"]["skipped_documents"]["count"].as_u64();
    // Each large document has a row, or is counted as skipped.
    assert_eq!(ids.len() as u64 - 2 + skipped.unwrap_or(0), parts.len() as u64, "{ids:?} {skipped:?}");
    let changes = bench.get("/db/_changes?filter=d/even");
    assert!(changes.is_ok(), "{}", String::from_utf8_lossy(&changes.body));
    let ids: Vec<Value> = changes.json()["results"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["first", "last"]);
}

#[test]
fn a_view_skips_documents_on_which_its_map_function_fails_to_finish() {
    let bench = Bench::start(300);
    bench.put("/db", &json!(null));
    let spins = "Array.prototype.reverse.call(GROWS)".replace("GROWS", GROWS);
    let map = format!(
        "function (doc) {{ if (doc.kind === 'loop') while (true); if (doc.kind === 'native') {spins}; \
         if (doc.kind === 'memory') {{ var all = []; while (true) all.push({{}}); }} emit(doc._id, null); }}"
    );
    let filter = "function (doc) { if (doc.kind === 'loop') while (true); return doc.kind === 'fine'; }";
    bench.put("/db/_design/d", &json!({ "views": { "v": { "map": map } }, "filters": { "f": filter } }));
    let mut documents: Vec<Value> = (0..60).map(|n| json!({"_id": format!("fine{n}"), "kind": "fine"})).collect();
    for (at, kind) in [(10, "loop"), (30, "native"), (45, "memory")] {
        documents.insert(at, json!({"_id": kind, "kind": kind}));
    }
    let written = bench.server.client().json("POST", "/db/_bulk_docs", &json!({ "docs": documents })).unwrap();
    assert!(written.is_ok());
    let view = bench.get("/db/_design/d/_view/v");
    assert!(view.is_ok(), "{}", String::from_utf8_lossy(&view.body));
    assert_eq!(view.json()["total_rows"], 60);
    let info = bench.get("/db/_design/d/_info").json();
    let skipped = &info["view_index"]["skipped_documents"];
    assert_eq!(skipped["count"], 3, "{info}");
    let mut ids: Vec<&str> = skipped["last"].as_array().unwrap().iter().filter_map(|one| one["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["loop", "memory", "native"]);
    assert!(bench.get("/_node/_local/_stats/settee/scripts/skipped").json()["value"].as_u64() >= Some(3));
    let changes = bench.get("/db/_changes?filter=d/f");
    assert!(changes.is_ok(), "{}", String::from_utf8_lossy(&changes.body));
    assert_eq!(changes.json()["results"].as_array().unwrap().len(), 60);
    // After an update that the map function can process, the document has its row.
    let revision = bench.get("/db/loop").json()["_rev"].clone();
    bench.put("/db/loop", &json!({"_rev": revision, "kind": "fine"}));
    assert_eq!(bench.get("/db/_design/d/_view/v").json()["total_rows"], 61);
    let info = bench.get("/db/_design/d/_info").json();
    assert_eq!(info["view_index"]["skipped_documents"]["count"], 2, "{info}");
}

/// After a function has run out of time, settee tries it on a small document of its own. What the functions log of that
/// document would puzzle a reader of the log.
#[test]
fn the_log_names_no_document_that_does_not_exist() {
    let bench = Bench::start(300);
    bench.put("/db", &json!(null));
    // Maps run in the order of their sources.
    let (logs, spins) = ("function (doc) { log('map of ' + doc._id); }", "function (doc) { while (true); }");
    bench.put("/db/_design/d", &json!({ "views": { "a": { "map": logs }, "b": { "map": spins } } }));
    bench.put("/db/mine", &json!({}));
    assert_eq!(bench.get("/db/_design/d/_view/a").status, 500);
    let log = || String::from_utf8_lossy(&bench.get("/_node/_local/_logs?limit=1000").body).into_owned();
    until("the request's line in the log", Duration::from_secs(60), || log().contains("/db/_design/d/_view/a"));
    let log = log();
    assert!(log.contains("map of mine"), "{log}");
    assert!(!log.contains("map of small"), "{log}");
}

#[test]
fn random_functions_do_not_affect_others() {
    let rounds = rounds().unwrap_or(40);
    let bench = Bench::start(100);
    // The deleted design documents of earlier functions stay in the changes that a function is called on.
    const IN_ONE_DATABASE: usize = 200;
    for n in 0..rounds.div_ceil(IN_ONE_DATABASE) {
        bench.put(&format!("/db{n}"), &json!(null));
        bench.put(&format!("/db{n}/a"), &json!({"n": 1}));
    }
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    let seed = std::env::var("SETTEE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(seed);
    println!("SETTEE_SEED={seed}");
    let next = AtomicUsize::new(0);
    bench.under_attack(4, || {
        let mut client = bench.server.client();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= rounds {
                return;
            }
            let mut random = Random(seed.wrapping_add(n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let (db, name, body) = (format!("db{}", n / IN_ONE_DATABASE), format!("f{n}"), random.function());
            let design = json!({
                "shows": { "s": body }, "updates": { "s": body }, "filters": { "s": body }, "views": { "s": { "map": body } }
            });
            let made = client.json("PUT", &format!("/{db}/_design/{name}"), &design).unwrap();
            assert_eq!(made.status, 201, "{body}: {}", String::from_utf8_lossy(&made.body));
            let path = match n % 4 {
                0 => format!("/{db}/_design/{name}/_show/s"),
                1 => format!("/{db}/_design/{name}/_view/s?limit=1"),
                2 => format!("/{db}/_design/{name}/_update/s/x"),
                _ => format!("/{db}/_changes?filter={name}/s"),
            };
            match client.json(if n % 4 == 2 { "PUT" } else { "GET" }, &path, &json!({})) {
                Ok(answer) => assert!(answer.status < 600, "{body}"),
                // The filter failed after the first rows had been sent: the server cannot change the status any more.
                Err(error) if n % 4 == 3 && error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    client = bench.server.client();
                }
                Err(error) => panic!("{path}: {error}: {body}"),
            }
            let revision = client.get(&format!("/{db}/_design/{name}")).unwrap().json()["_rev"].clone();
            if let Some(revision) = revision.as_str() {
                let gone = format!("/{db}/_design/{name}?rev={revision}");
                assert!(client.ask("DELETE", &gone, "application/json", b"").unwrap().is_ok());
            }
        }
    });
}

#[test]
fn workers_exit_when_their_server_is_killed() {
    let bench = Bench::start(60_000);
    bench.put("/db", &json!(null));
    let shows = json!({ "s": function("Array.prototype.reverse.call(GROWS)") });
    bench.put("/db/_design/d", &json!({ "shows": shows }));
    let process = bench.server.process();
    assert!(!children(process).is_empty(), "functions run in processes of their own");
    // A spare worker that was just started may not have confined itself yet.
    let confined = |worker: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2")
    };
    until("all workers are confined", Duration::from_secs(30), || children(process).iter().all(confined));
    let address = bench.server.address.clone();
    let spinning = std::thread::spawn(move || {
        let mut client = Client::connect(&address).unwrap();
        let _ = client.get("/db/_design/d/_show/s");
    });
    // A worker that has used more than 30 clock ticks (usually 10 ms each) is looping in native code:
    // starting takes less.
    let spins = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        rest.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() > 30
    };
    until("a worker spins", Duration::from_secs(30), || children(process).iter().any(spins));
    let workers = children(process);
    bench.server.kill();
    // A dead worker stays a zombie until init, its new parent, reaps it.
    let gone = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    until("all workers are gone", Duration::from_secs(30), || workers.iter().all(&gone));
    spinning.join().unwrap();
}

#[test]
fn idle_workers_exit() {
    if rounds().is_none() {
        return allowed_skips::skip("the short form leaves out this test, which waits for half a minute");
    }
    let bench = Bench::start(5000);
    assert!(!children(bench.server.process()).is_empty());
    until("no worker is left", Duration::from_secs(90), || children(bench.server.process()).is_empty());
    assert_eq!(bench.get("/others/_design/d/_view/v").json()["total_rows"], 1);
}
