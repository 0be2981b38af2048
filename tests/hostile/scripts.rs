//! Functions that never end, take all memory, or spin where nothing hears an interrupt; documents that are too much for
//! an innocent function. Meanwhile another database is read, queried and written to.
//!
//! `SETTEE_ROUNDS=10000` makes as many random functions, and adds the tests that take minutes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::server::Server;

/// What the server and its workers may hold together: `max_script_memory`, and what the server has for all else.
const MEMORY: u64 = (1 << 30) + (700 << 20);
/// The 99th percentile of what the others wait: the goal of a release build on an idle machine is 200 ms.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });

/// Bodies of functions. Each is slow in another place, most of them in native code.
const ATTACKS: &[&str] = &[
    // Small when the sandbox looks, large when the engine does.
    "Array.prototype.copyWithin.call(GROWS, 0, 1)",
    "Array.prototype.reverse.call(GROWS)",
    "Array.prototype.unshift.call(GROWS, 1)",
    "Array.prototype.shift.call(GROWS)",
    "Array.prototype.splice.call(GROWS, 0, 1)",
    "Array.prototype.fill.call(GROWS, 1)",
    "Array.prototype.indexOf.call(GROWS, 'none')",
    "Array.prototype.lastIndexOf.call(GROWS, 'none')",
    "Array.prototype.includes.call(GROWS, 'none')",
    "Array.prototype.join.call(GROWS, '')",
    "Array.prototype.sort.call(GROWS)",
    "Array.prototype.concat.call([], Object.defineProperty(GROWS, Symbol.isConcatSpreadable, { value: true }))",
    "Array.prototype.flat.call(GROWS)",
    "Array.prototype.toLocaleString.call(GROWS)",
    "Array.from(GROWS)",
    "String.raw({ raw: { length: 9007199254740991 } })",
    "Reflect.apply(Math.max, null, { length: 4294967295 })",
    "[].reverse.call(new Array(4294967295))",
    "new Array(4294967295).join('x')",
    // Long strings.
    "var s = 'a'.repeat(1 << 24); s.indexOf('a'.repeat(1 << 23) + 'b')",
    "var s = 'a'.repeat(1 << 24); s.lastIndexOf('a'.repeat(1 << 23) + 'b')",
    "var s = 'x'; while (true) s += s",
    "var s = 'x'; while (true) s = s.repeat(2)",
    "'\\u0344'.repeat(1 << 22).normalize('NFD').normalize('NFC')",
    "'x'.padEnd(1 << 29).split('')",
    "('x'.repeat(1 << 20)).replace(/x/g, 'x'.repeat(1 << 10))",
    "encodeURIComponent('\\u20ac'.repeat(1 << 24))",
    // Expressions.
    "/(a+)+$/.test('a'.repeat(50) + 'b')",
    "/(?:a|a|a)*$/.test('a'.repeat(50) + 'b')",
    "new RegExp('(' + 'a?'.repeat(3000) + ')'.concat('{1,9}')).test('a'.repeat(3000))",
    // JSON.
    "JSON.parse('['.repeat(1 << 24))",
    "JSON.parse('[' + '{},'.repeat(1 << 22) + '0]')",
    "var o = []; for (var i = 0; i < 1e6; i++) o = [o]; JSON.stringify(o)",
    "JSON.stringify({ toJSON: function () { return { a: this, b: this }; } })",
    "JSON.stringify(new Array(1 << 24))",
    // Calls of its own from inside the engine.
    "var a = []; for (var i = 0; i < 1e5; i++) a.push(i); while (true) a.sort(function () { return Math.random() - 0.5; })",
    "[1, 2, 3].sort(function f() { return [3, 2, 1].sort(f); })",
    "var p = new Proxy({}, { get: function () { return 9007199254740991; }, has: function () { return true; } }); Array.prototype.includes.call(p, 'none')",
    "var p = new Proxy({}, { ownKeys: function () { while (true); } }); Object.keys(p)",
    "(function f() { f(); })()",
    "(function f() { try { f(); } finally { f(); } })()",
    "Promise.resolve().then(function f() { return Promise.resolve().then(f); })",
    "throw { get error() { while (true); } }",
    "throw { get name() { throw this; }, get stack() { throw this; }, toString: function () { throw this; } }",
    "throw Object.defineProperty(new Error('x'), 'message', { get: function () { return 'x'.repeat(1 << 29); } })",
    "while (true) { try { while (true); } catch (e) {} finally { continue; } }",
    // Memory.
    "var a = []; while (true) a.push({})",
    "var a = []; while (true) a.push(new Uint8Array(1 << 20).fill(1))",
    "new Uint8Array(1 << 31); new ArrayBuffer(1 << 40)",
    "var m = new Map(); for (var i = 0; ; i++) m.set({}, i)",
    "globalThis.kept = globalThis.kept || []; for (var i = 0; i < 40; i++) kept.push('x'.repeat(1 << 20) + i)",
    "globalThis.n = (globalThis.n || 0) + 1; globalThis['kept' + n] = new Uint8Array(30 << 20).fill(n)",
    "Math.max(...new Array(1 << 24))",
    "new Function(new Array(1 << 22).join('a+') + '1')()",
    // Numbers.
    "var n = 3n; while (true) n = n * n",
    "2n ** (1n << 40n)",
    "(10n ** 1000000n).toString()",
    // Lines of the log.
    "while (true) log('x'.repeat(4000))",
];

/// An object that is longer each time somebody looks.
const GROWS: &str = "(function () { var n = 0; return { get length() { return n++ ? 9007199254740991 : 3; } }; })()";

fn function(attack: &str) -> String {
    format!("function (doc, req) {{ {}; }}", attack.replace("GROWS", GROWS))
}

struct Bench {
    server: Server,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A server whose functions may take `timeout` milliseconds.
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

    /// Uses the other database until told to stop; what each request took.
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

    /// Runs `attack` on `threads` threads while the other database is used and memory is watched.
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

/// Processes that `parent` started.
fn children(parent: u32) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let is_child = |number: &u32| {
        let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{number}/stat"))).unwrap_or_default();
        // The name stands in brackets and may hold anything.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    numbers.filter(is_child).collect()
}

/// Bytes of memory that a process and its children hold for themselves.
fn memory(process: u32) -> u64 {
    let own = |number: u32| {
        let statm = std::fs::read_to_string(format!("/proc/{number}/statm")).unwrap_or_default();
        let pages: Vec<u64> = statm.split_whitespace().filter_map(|pages| pages.parse().ok()).collect();
        pages.get(1).unwrap_or(&0).saturating_sub(*pages.get(2).unwrap_or(&0)) * 4096
    };
    own(process) + children(process).into_iter().map(own).sum::<u64>()
}

fn rounds() -> Option<usize> {
    std::env::var("SETTEE_ROUNDS").ok()?.parse().ok()
}

/// Waits for a condition.
fn until(what: &str, most: Duration, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < most, "{what}: not after {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_kind_of_endless_function_ends_and_harms_nobody_else() {
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
fn a_hundred_and_ten_endless_functions_leave_room_for_others() {
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
fn documents_of_a_member_end_no_view_and_no_filter() {
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
        // Where writes are validated it is validated, or refused by itself.
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
    // Each has its row, or is named as one that has none.
    assert_eq!(ids.len() as u64 - 2 + skipped.unwrap_or(0), parts.len() as u64, "{ids:?} {skipped:?}");
    let changes = bench.get("/db/_changes?filter=d/even");
    assert!(changes.is_ok(), "{}", String::from_utf8_lossy(&changes.body));
    let ids: Vec<Value> = changes.json()["results"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["first", "last"]);
}

#[test]
fn a_view_goes_on_without_the_document_that_it_cannot_get_through() {
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
    // Once the document is another one, it has its row.
    let revision = bench.get("/db/loop").json()["_rev"].clone();
    bench.put("/db/loop", &json!({"_rev": revision, "kind": "fine"}));
    assert_eq!(bench.get("/db/_design/d/_view/v").json()["total_rows"], 61);
    let info = bench.get("/db/_design/d/_info").json();
    assert_eq!(info["view_index"]["skipped_documents"]["count"], 2, "{info}");
}

#[test]
fn random_functions_harm_nobody_else() {
    let rounds = rounds().unwrap_or(40);
    let bench = Bench::start(100);
    bench.put("/db", &json!(null));
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
            let (name, body) = (format!("f{n}"), random.function());
            let design = json!({
                "shows": { "s": body }, "updates": { "s": body }, "views": { "s": { "map": body } },
                "validate_doc_update": if n % 16 == 0 { json!("function (doc) { if (doc.v) throw({ forbidden: 1 }); }") } else { json!(null) }
            });
            let _ = client.json("PUT", &format!("/db/_design/{name}"), &design).unwrap();
            let path = match n % 3 {
                0 => format!("/db/_design/{name}/_show/s"),
                1 => format!("/db/_design/{name}/_view/s?limit=1"),
                _ => format!("/db/_design/{name}/_update/s/x"),
            };
            let answer = client.json(if n % 3 == 2 { "PUT" } else { "GET" }, &path, &json!({})).unwrap();
            assert!(answer.status < 600, "{body}");
            let revision = client.get(&format!("/db/_design/{name}")).unwrap().json()["_rev"].clone();
            if let Some(revision) = revision.as_str() {
                let _ = client.ask("DELETE", &format!("/db/_design/{name}?rev={revision}"), "application/json", b"");
            }
        }
    });
}

/// Makes functions out of pieces that are each known to be unpleasant.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn function(&mut self) -> String {
        let statements: Vec<String> = (0..1 + self.below(4)).map(|_| self.statement(0)).collect();
        format!(
            "function (doc, req) {{ var a = [], o = {{}}, s = 'ab', n = 1; {} emit(1, s); return [null, 'x']; }}",
            statements.join(" ")
        )
    }

    fn statement(&mut self, depth: usize) -> String {
        let deep = depth > 2;
        match self.below(if deep { 6 } else { 12 }) {
            0 => format!("a.push({});", self.value(depth)),
            1 => format!("s = String({}).slice(0, 1 << {});", self.value(depth), self.below(27)),
            2 => format!("s += s + {};", self.value(depth)),
            3 => format!("globalThis.g{} = {};", self.below(3), self.value(depth)),
            4 => format!("emit({}, {});", self.value(depth), self.value(depth)),
            5 => format!("{};", ATTACKS[self.below(ATTACKS.len())].replace("GROWS", GROWS)),
            6 => format!(
                "for (var i{depth} = 0; i{depth} < {}; i{depth}++) {{ {} }}",
                self.number(),
                self.statement(depth + 1)
            ),
            7 => format!("try {{ {} }} catch (e) {{ {} }}", self.statement(depth + 1), self.statement(depth + 1)),
            8 => format!("try {{ {} }} finally {{ {} }}", self.statement(depth + 1), self.statement(depth + 1)),
            9 => format!("Promise.resolve().then(function f() {{ {} return f; }});", self.statement(depth + 1)),
            10 => format!("(function f(x) {{ {} if (x) f(x - 1); }})({});", self.statement(depth + 1), self.number()),
            _ => format!("throw {};", self.value(depth)),
        }
    }

    fn number(&mut self) -> &'static str {
        self.one(&["3", "1000", "1e5", "1 << 24", "4294967295", "9007199254740991", "Infinity", "NaN", "-1"])
    }

    fn value(&mut self, depth: usize) -> String {
        if depth > 3 {
            return self.one(&["a", "o", "s", "doc", "req", "null", "GROWS"]).replace("GROWS", GROWS);
        }
        let inner = |random: &mut Random| random.value(depth + 1);
        match self.below(12) {
            0 => self.number().into(),
            1 => format!("[{}, {}]", inner(self), inner(self)),
            2 => format!("new Array({})", self.number()),
            3 => format!("'x'.repeat({})", self.number()),
            4 => {
                let method = self.one(&[
                    "reverse",
                    "fill",
                    "copyWithin",
                    "unshift",
                    "splice",
                    "join",
                    "sort",
                    "indexOf",
                    "concat",
                    "flat",
                    "map",
                    "slice",
                    "at",
                    "includes",
                    "with",
                    "toSorted",
                    "toSpliced",
                    "keys",
                    "lastIndexOf",
                ]);
                format!("Array.prototype.{method}.call({}, {}, {})", inner(self), inner(self), inner(self))
            }
            5 => {
                let method = self.one(&[
                    "indexOf",
                    "split",
                    "replace",
                    "match",
                    "padStart",
                    "repeat",
                    "localeCompare",
                    "normalize",
                    "matchAll",
                    "replaceAll",
                    "lastIndexOf",
                    "toUpperCase",
                    "trim",
                    "codePointAt",
                ]);
                format!("String.prototype.{method}.call({}, {})", inner(self), inner(self))
            }
            6 => format!(
                "{{ get length() {{ return {}; }}, toString: function () {{ return {}; }} }}",
                self.number(),
                inner(self)
            ),
            7 => format!("new Proxy({{}}, {{ get: function (t, k) {{ return {}; }} }})", inner(self)),
            8 => format!("JSON.{}({})", self.one(&["parse", "stringify"]), inner(self)),
            9 => format!("new RegExp({})", inner(self)),
            10 => format!(
                "new {}({})",
                self.one(&["Uint8Array", "Float64Array", "Map", "Set", "Date", "Error", "ArrayBuffer"]),
                inner(self)
            ),
            _ => format!(
                "Object.{}({})",
                self.one(&["keys", "freeze", "entries", "assign", "create", "getOwnPropertyNames"]),
                inner(self)
            ),
        }
    }
}

#[test]
fn workers_end_with_their_server_and_leave_nothing_behind() {
    let bench = Bench::start(60_000);
    bench.put("/db", &json!(null));
    let shows = json!({ "s": function("Array.prototype.reverse.call(GROWS)") });
    bench.put("/db/_design/d", &json!({ "shows": shows }));
    let process = bench.server.process();
    let workers = children(process);
    assert!(!workers.is_empty(), "functions run in processes of their own");
    for worker in &workers {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    }
    let address = bench.server.address.clone();
    let asking = Arc::new(AtomicBool::new(false));
    let spinning = {
        let asking = asking.clone();
        std::thread::spawn(move || {
            let mut client = Client::connect(&address).unwrap();
            asking.store(true, Ordering::Relaxed);
            let _ = client.get("/db/_design/d/_show/s");
        })
    };
    // One of them spins where it hears nothing.
    let spins = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
    };
    until("a worker spins", Duration::from_secs(30), || children(process).iter().any(|number| spins(number)));
    let workers = children(process);
    bench.server.kill();
    // Dead ones stay until the system's first process, whose they are now, asks for them.
    let gone = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    };
    until("all workers are gone", Duration::from_secs(30), || workers.iter().all(|number| gone(number)));
    spinning.join().unwrap();
}

#[test]
fn idle_workers_end() {
    if rounds().is_none() {
        println!("left out of the short form: it waits for half a minute");
        return;
    }
    let bench = Bench::start(5000);
    assert!(!children(bench.server.process()).is_empty());
    until("no worker is left", Duration::from_secs(90), || children(bench.server.process()).is_empty());
    assert_eq!(bench.get("/others/_design/d/_view/v").json()["total_rows"], 1);
}
