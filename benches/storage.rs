//! Benchmarks the storage layers: the bare engine, the store, the database layer, and the whole server, with
//! both engines in one run.
//!
//! `cargo bench --bench storage [-- DOCUMENTS]` prints the storage table of docs/performance.md in Markdown.
//! DOCUMENTS (default 200,000) is the size of the large database; the figures in the docs are for 1,000,000.
//! `cargo bench --bench storage -- encryption [DOCUMENTS]` instead compares runs with and without encryption
//! at rest.
//!
//! "engine" is sled or redb alone, with the writes that the store issues for one document (record, row in the
//! changes order, body, counters). It merges the commits of all waiting threads into one commit with one
//! sync. It has no checksums, no expected values and no snapshots for readers. "store" is the `Store` trait
//! over that engine. Both write the same bytes with the same syncs as the server.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use settee::clock::Clock;
use settee::db::{AllowAll, CreateOptions, Databases, Incoming, Mode};
use settee::store::{Batch, Direction, Engine, Key, Opened, Options, PageLimit, Rewrite, keyspace, open_with, rewrite};

const TIME: Duration = Duration::from_secs(4);
const THREADS: u64 = 32;
/// Documents in one bulk request.
const BULK: u64 = 1000;
/// Documents in the bulk load of the store and the engine. They are compared with as many first documents of
/// the server.
const COMPARED: u64 = 200_000;
/// Number of updates of every tenth document.
const CHURN: u64 = 5;

fn main() {
    let documents: u64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    let documents = documents.next_multiple_of(10 * BULK);
    if std::env::args().any(|argument| argument == "encryption") {
        return encryption(documents);
    }
    let begun = Instant::now();
    let columns = Engine::ALL.iter().map(|engine| measure(*engine, documents)).collect::<Vec<_>>();
    println!("| {documents} documents of 0.5 KB | sled | redb |\n|---|---:|---:|");
    for (at, (name, _)) in columns[0].iter().enumerate() {
        let values: Vec<&str> = columns.iter().map(|column| column[at].1.as_str()).collect();
        println!("| {name} | {} |", values.join(" | "));
    }
    eprintln!("took {:.0} s", begun.elapsed().as_secs_f64());
}

fn measure(engine: Engine, documents: u64) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| {
        eprintln!("{engine}: {name}: {value}");
        rows.push((name.to_owned(), value));
    };
    let dir = tempfile::tempdir().expect("a folder");
    let key = key();
    let share = |part: f64, whole: f64| format!("{:.0} %", 100.0 * part / whole);

    let alone = engine_single(&dir.path().join("engine32"), engine, THREADS);
    row("commits/s of the engine alone, 32 threads, group commit", format!("{alone:.0}"));
    row(
        "commits/s of the store, 1 thread",
        format!("{:.0}", store_single(&dir.path().join("store1"), engine, key.as_ref(), 1)),
    );
    let store = store_single(&dir.path().join("store32"), engine, key.as_ref(), THREADS);
    row("commits/s of the store, 32 threads", format!("{store:.0}"));
    let db = db_single(&dir.path().join("db32"), engine, key.as_ref());
    row("documents/s, one each of 32 writers at the database layer", format!("{db:.0}"));
    let server = Server::start(&dir.path().join("http"), engine, key.as_ref());
    server.ask("PUT", "/db", "");
    row("PUT/s, 1 connection", format!("{:.0}", puts(&server, 1)));
    let put = puts(&server, THREADS);
    row("PUT/s, 32 connections", format!("{put:.0}"));
    drop(server);
    row("group commit at the database layer, share of the engine alone", share(db, alone));
    row("group commit at the database layer, share of the store", share(db, store));
    row("PUT at 32 connections, share of the engine alone", share(put, alone));
    row("PUT at 32 connections, share of the store", share(put, store));

    let compared = documents.min(COMPARED);
    let alone = engine_bulk(&dir.path().join("enginebulk"), engine, compared);
    row("bulk load, documents/s of the engine alone, batches of 1000", format!("{alone:.0}"));
    let store = store_bulk(&dir.path().join("storebulk"), engine, key.as_ref(), compared);
    row("bulk load, documents/s of the store, batches of 1000", format!("{store:.0}"));
    for folder in ["engine32", "store1", "store32", "db32", "http", "enginebulk", "storebulk"] {
        std::fs::remove_dir_all(dir.path().join(folder)).expect("it can be removed");
    }
    let data = dir.path().join("bulk");
    let server = Server::start(&data, engine, key.as_ref());
    server.ask("PUT", "/db", "");
    let (bulk, whole) = load(&server, documents, compared);
    row("bulk load, documents/s through _bulk_docs, the same documents", format!("{bulk:.0}"));
    row("bulk load, documents/s through _bulk_docs, all documents", format!("{whole:.0}"));
    row("bulk load through _bulk_docs, share of the store", share(bulk, store));
    row("bulk load through _bulk_docs, share of the engine alone", share(bulk, alone));
    row("memory after the load", megabytes(server.memory()));
    drop(server);
    let live = live_bytes(&data, key.as_ref());
    row("disk per live byte after the load", format!("{:.1}", disk(&data) as f64 / live as f64));

    let started = || {
        let begun = Instant::now();
        let server = Server::start(&data, engine, key.as_ref());
        server.ask("GET", "/db", "");
        (server, format!("{:.2} s", begun.elapsed().as_secs_f64()))
    };
    let (server, time) = started();
    row("start", time);
    row("memory after the start", megabytes(server.memory()));
    server.ask("GET", "/db/_all_docs?include_docs=true&limit=50000", "");
    row("memory after reading 50,000 documents", megabytes(server.memory()));
    drop(server);
    let (server, time) = started();
    row("start after SIGKILL", time);

    // Updates a tenth of the documents CHURN times.
    for round in 0..CHURN {
        for first in (0..documents / 10).step_by(BULK as usize) {
            let docs: Vec<String> = (first..first + BULK)
                .map(|number| {
                    let (generation, parent, new) = (round + 2, hash(number, round), hash(number, round + 1));
                    format!(
                        r#"{{"_id":"doc{number:08}","_rev":"{generation}-{new}","_revisions":{{"start":{generation},"ids":["{new}","{parent}"]}},"text":"{}"}}"#,
                        text(number + round)
                    )
                })
                .collect();
            server.ask("POST", "/db/_bulk_docs", &format!(r#"{{"new_edits":false,"docs":[{}]}}"#, docs.join(",")));
        }
    }
    let begun = Instant::now();
    server.ask("POST", "/db/_compact", "");
    while server.ask("GET", "/db", "").contains(r#""compact_running":true"#) {
        std::thread::sleep(Duration::from_millis(100));
    }
    row("_compact after churn", format!("{:.1} s", begun.elapsed().as_secs_f64()));
    row("memory after churn and _compact", megabytes(server.memory()));
    drop(server);
    let live = live_bytes(&data, key.as_ref());
    row("disk per live byte after churn and _compact", format!("{:.1}", disk(&data) as f64 / live as f64));
    let begun = Instant::now();
    rewrite(&data, &Rewrite { key: key.clone(), ..Rewrite::default() }, |entry, _| Ok(entry), &mut |_| {})
        .expect("it can be rewritten");
    row("compact-store", format!("{:.1} s", begun.elapsed().as_secs_f64()));
    row("disk per live byte after compact-store", format!("{:.1}", disk(&data) as f64 / live as f64));
    rows
}

/// Measures the cost of encryption at rest: two runs without a key and two with one, alternating; the best of
/// each counts.
fn encryption(documents: u64) {
    let key = Key::generate();
    let columns = Engine::ALL.iter().map(|engine| {
        let mut best: [Vec<(&str, f64)>; 2] = [Vec::new(), Vec::new()];
        for round in 0..4 {
            let which = round % 2;
            let rows = cost(*engine, (which == 1).then_some(&key), documents);
            let known = std::mem::take(&mut best[which]);
            let known = known.into_iter().map(|(_, rate)| rate).chain(std::iter::repeat(0.0));
            best[which] = rows.into_iter().zip(known).map(|((name, rate), known)| (name, rate.max(known))).collect();
        }
        best
    });
    let columns: Vec<_> = columns.collect();
    println!(
        "| {documents} documents of 0.5 KB | sled | encrypted | encrypted ÷ plain | redb | encrypted | encrypted ÷ plain |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (at, (name, _)) in columns[0][0].iter().enumerate() {
        let cells = columns.iter().map(|[plain, sealed]| {
            let (plain, sealed) = (plain[at].1, sealed[at].1);
            format!("{plain:.0} | {sealed:.0} | {:.2}", sealed / plain)
        });
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

/// Size of the attachment in bytes.
const ATTACHMENT: usize = 64 << 20;

fn cost(engine: Engine, key: Option<&Key>, documents: u64) -> Vec<(&'static str, f64)> {
    let mut rows = Vec::new();
    let mut row = |name, rate: f64| {
        eprintln!("{engine}, {}: {name}: {rate:.0}", if key.is_some() { "encrypted" } else { "plain" });
        rows.push((name, rate));
    };
    let dir = tempfile::tempdir().expect("a folder");
    let folder = |name: &str| dir.path().join(name);
    row("commits/s of the store, 32 threads", store_single(&folder("store32"), engine, key, THREADS));
    row("bulk load, documents/s of the store", store_bulk(&folder("storebulk"), engine, key, documents));
    let server = Server::start(&folder("http"), engine, key);
    server.ask("PUT", "/db", "");
    row("PUT/s, 32 connections", puts(&server, THREADS));
    drop(server);
    let data = folder("bulk");
    let server = Server::start(&data, engine, key);
    server.ask("PUT", "/db", "");
    row("bulk load, documents/s through _bulk_docs", load(&server, documents, documents).1);
    drop(server);
    let server = Server::start(&data, engine, key);
    let rate = |count: f64, ask: &mut dyn FnMut()| {
        let begun = Instant::now();
        ask();
        count / begun.elapsed().as_secs_f64()
    };
    let all = "/db/_all_docs?include_docs=true";
    row("reading, documents/s after a start", rate(documents as f64, &mut || drop(server.ask("GET", all, ""))));
    row("reading again, documents/s", rate(documents as f64, &mut || drop(server.ask("GET", all, ""))));
    let mut attachment: String = (0..).map(text).take(ATTACHMENT / 400).collect();
    attachment.truncate(ATTACHMENT);
    let megabytes = attachment.len() as f64 / 1e6;
    let mut client = server.connect();
    let put = &mut || drop(client.send("PUT", "/db/large/attachment", "application/octet-stream", &attachment));
    row("an attachment of 64 MiB in, MB/s", rate(megabytes, put));
    row("and out, MB/s", rate(megabytes, &mut || drop(server.ask("GET", "/db/large/attachment", ""))));
    rows
}

/// The encryption key for all stores and servers of this run, from the environment.
fn key() -> Option<Key> {
    let text = std::env::var("SETTEE_ENCRYPTION_KEY").ok().filter(|text| !text.is_empty())?;
    Some(Key::parse(&text).expect("a key"))
}

fn open(folder: &Path, engine: Option<Engine>, key: Option<&Key>) -> Opened {
    open_with(folder, Options { engine, key: key.cloned(), ..Options::default() }).expect("it opens")
}

fn megabytes(kilobytes: u64) -> String {
    format!("{} MB", kilobytes / 1024)
}

fn text(number: u64) -> String {
    format!("{number} lorem ipsum dolor sit amet, consectetur adipiscing elit. ").repeat(8)
}

/// The four writes that store one document; [`text`] is its body.
fn document(number: u64, sequence: u64) -> [(Vec<u8>, Vec<u8>); 4] {
    let id = format!("doc{number:08}");
    [
        (keyspace::document(1, &id), vec![b'd'; 60]),
        (keyspace::sequence(1, sequence), vec![b'q'; 50]),
        (keyspace::body(1, sequence, 0), text(number).into_bytes()),
        (keyspace::info(1), b"twenty bytes of info".to_vec()),
    ]
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// An engine without the store: commits and syncs the given entries.
type Bare = Box<dyn Fn(Entries) + Send + Sync>;

fn bare(folder: &Path, engine: Engine) -> Bare {
    std::fs::create_dir_all(folder).expect("a folder");
    match engine {
        Engine::Sled => {
            let config = sled::Config::new().path(folder).cache_capacity(16 << 20).segment_size(8 << 20);
            let db = config.flush_every_ms(Some(500)).mode(sled::Mode::LowSpace).open().expect("it opens");
            let log = std::fs::File::open(folder.join("db")).expect("its log");
            Box::new(move |entries| {
                let mut batch = sled::Batch::default();
                entries.into_iter().for_each(|(key, value)| batch.insert(key, value));
                db.apply_batch(batch).expect("it commits");
                db.flush().expect("it flushes");
                log.sync_data().expect("it syncs");
            })
        }
        Engine::Redb => {
            const TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("entries");
            let db = redb::Builder::new().set_cache_size(64 << 20).create(folder.join("redb")).expect("it opens");
            Box::new(move |entries| {
                let transaction = db.begin_write().expect("it begins");
                {
                    let mut table = transaction.open_table(TABLE).expect("a table");
                    for (key, value) in &entries {
                        table.insert(key.as_slice(), value.as_slice()).expect("it inserts");
                    }
                }
                transaction.commit().expect("it commits");
            })
        }
    }
}

/// The waiting commits, and whether a thread is committing.
type Queue = (Vec<(Entries, Arc<AtomicBool>)>, bool);

/// Group commit: the first thread that finds no commit running commits the entries of all waiting threads at
/// once.
struct Group {
    bare: Bare,
    queue: Mutex<Queue>,
    done: Condvar,
}

impl Group {
    fn commit(&self, entries: Entries) {
        let mine = Arc::new(AtomicBool::new(false));
        let mut queue = self.queue.lock().expect("a lock");
        queue.0.push((entries, mine.clone()));
        while !mine.load(Ordering::Relaxed) {
            if queue.1 {
                queue = self.done.wait(queue).expect("a lock");
                continue;
            }
            queue.1 = true;
            let group = std::mem::take(&mut queue.0);
            drop(queue);
            let mut merged = std::collections::BTreeMap::new();
            let mut told = Vec::new();
            for (entries, done) in group {
                merged.extend(entries);
                told.push(done);
            }
            (self.bare)(merged.into_iter().collect());
            queue = self.queue.lock().expect("a lock");
            queue.1 = false;
            told.iter().for_each(|done| done.store(true, Ordering::Relaxed));
            self.done.notify_all();
        }
    }
}

/// Calls `commit` with ascending numbers from 1, in `threads` threads, for [`TIME`]. Returns calls per
/// second.
fn in_threads(threads: u64, commit: impl Fn(u64) + Sync) -> f64 {
    let next = AtomicU64::new(1);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < TIME {
                    commit(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    (next.into_inner() - 1) as f64 / begun.elapsed().as_secs_f64()
}

fn engine_single(folder: &Path, engine: Engine, threads: u64) -> f64 {
    let group = Group { bare: bare(folder, engine), queue: Mutex::default(), done: Condvar::new() };
    in_threads(threads, |number| group.commit(document(number, number).into()))
}

fn store_single(folder: &Path, engine: Engine, key: Option<&Key>, threads: u64) -> f64 {
    let opened = open(folder, Some(engine), key);
    in_threads(threads, |number| {
        let mut batch = Batch::new();
        document(number, number).into_iter().for_each(|(key, value)| batch.put(key, value));
        opened.store.commit(batch).expect("it commits");
    })
}

/// Measures [`THREADS`] writers at the database layer, each of which writes one document at a time, without
/// HTTP.
fn db_single(folder: &Path, engine: Engine, key: Option<&Key>) -> f64 {
    let opened = open(folder, Some(engine), key);
    let databases = Databases::open(opened.store, opened.blobs, Clock::system()).expect("it opens");
    let database = databases.create("db", CreateOptions::default(), None).expect("a database");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    runtime.block_on(async {
        let writers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (database, next) = (database.clone(), next.clone());
                tokio::spawn(async move {
                    while begun.elapsed() < TIME {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let json = format!(r#"{{"text":"{}"}}"#, text(number));
                        let id = format!("doc{number:08}");
                        let path = (0, Vec::new());
                        let edit = Incoming { id, parent: None, path, deleted: false, json, attachments: Vec::new() };
                        let written = database.update(vec![edit], Mode::Interactive, &AllowAll).await;
                        assert!(written.expect("it commits")[0].is_ok());
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("it ends");
        }
    });
    next.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn in_bulk(documents: u64, commit: impl Fn(Entries)) -> f64 {
    let mut spent = Duration::ZERO;
    for first in (0..documents).step_by(BULK as usize) {
        let entries: Entries = (first..first + BULK).flat_map(|number| document(number, number)).collect();
        let begun = Instant::now();
        commit(entries);
        spent += begun.elapsed();
    }
    documents as f64 / spent.as_secs_f64()
}

fn engine_bulk(folder: &Path, engine: Engine, documents: u64) -> f64 {
    let bare = bare(folder, engine);
    in_bulk(documents, |entries| {
        bare(entries.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect())
    })
}

fn store_bulk(folder: &Path, engine: Engine, key: Option<&Key>, documents: u64) -> f64 {
    let opened = open(folder, Some(engine), key);
    in_bulk(documents, |entries| {
        let writes = entries.into_iter().map(|(key, value)| (key, Some(value))).collect();
        opened.store.commit(Batch { writes, ..Batch::new() }).expect("it commits");
    })
}

fn hash(number: u64, round: u64) -> String {
    format!("{:032x}", u128::from(number) << 64 | u128::from(round + 1))
}

/// Writes the documents as a replication does, with revisions that the caller can compute. Returns documents
/// per second of the first `compared` documents, and of all.
fn load(server: &Server, documents: u64, compared: u64) -> (f64, f64) {
    let mut client = server.connect();
    let mut spent = Duration::ZERO;
    let mut first_part = 0.0;
    for first in (0..documents).step_by(BULK as usize) {
        let docs: Vec<String> = (first..first + BULK)
            .map(|number| {
                format!(r#"{{"_id":"doc{number:08}","_rev":"1-{}","text":"{}"}}"#, hash(number, 0), text(number))
            })
            .collect();
        let body = format!(r#"{{"new_edits":false,"docs":[{}]}}"#, docs.join(","));
        let begun = Instant::now();
        client.ask("POST", "/db/_bulk_docs", &body);
        spent += begun.elapsed();
        if first + BULK == compared {
            first_part = compared as f64 / spent.as_secs_f64();
        }
    }
    (first_part, documents as f64 / spent.as_secs_f64())
}

fn puts(server: &Server, connections: u64) -> f64 {
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..connections {
            let done = &done;
            scope.spawn(move || {
                let mut client = server.connect();
                let mut number = 0;
                while begun.elapsed() < TIME {
                    number += 1;
                    let path = format!("/db/put-{connections}-{connection}-{number}");
                    client.ask("PUT", &path, &format!(r#"{{"text":"{}"}}"#, text(number)));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / begun.elapsed().as_secs_f64()
}

/// Total size of all stored keys and values in bytes.
fn live_bytes(data: &Path, key: Option<&Key>) -> u64 {
    let opened = open(data, None, key);
    let mut range = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let mut bytes = 0;
    loop {
        let page = opened.store.scan(&range, Direction::Forward, PageLimit::entries(10_000)).expect("it reads");
        let Some((last, _)) = page.last() else { return bytes };
        range.0 = std::ops::Bound::Excluded(last.clone());
        bytes += page.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
    }
}

fn disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let entries = entries.flatten().filter(|entry| entry.file_name() != "reserve");
    entries
        .map(|entry| {
            entry.metadata().map_or(0, |found| if found.is_dir() { disk(&entry.path()) } else { found.blocks() * 512 })
        })
        .sum()
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(data: &Path, engine: Engine, key: Option<&Key>) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_settee"));
        command.env("COUCHDB_USER", "admin").env("COUCHDB_PASSWORD", "secret");
        match key {
            Some(key) => command.env("SETTEE_ENCRYPTION_KEY", key.text().as_str()),
            None => command.env_remove("SETTEE_ENCRYPTION_KEY"),
        };
        command.args([
            "serve",
            "--bind",
            "127.0.0.1:0",
            "--log",
            "info",
            "--log-format",
            "json",
            "--store",
            engine.name(),
        ]);
        command.arg("--data").arg(data).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("a log") > 0, "the server ended");
            if let Some((_, rest)) = line.split_once(r#""address":""#) {
                break rest.split('"').next().expect("an address").to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { child, address }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Client(BufReader::new(stream))
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        self.connect().ask(method, path, body)
    }

    /// Resident memory in kilobytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        self.send(method, path, "application/json", body)
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: &str) -> String {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all((head + body).as_bytes()).expect("it takes the request");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it answers");
        assert!(line.starts_with("HTTP/1.1 2"), "{method} {path}: {line}");
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("a header");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            chunked |= lower.starts_with("transfer-encoding:");
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = Vec::new();
        loop {
            if chunked {
                line.clear();
                self.0.read_line(&mut line).expect("a chunk");
                length = usize::from_str_radix(line.trim(), 16).expect("a length");
            }
            let start = answer.len();
            answer.resize(start + length, 0);
            self.0.read_exact(&mut answer[start..]).expect("a body");
            if !chunked {
                break;
            }
            self.0.read_line(&mut line).expect("the end of a chunk");
            if length == 0 {
                break;
            }
        }
        String::from_utf8(answer).expect("text")
    }
}
