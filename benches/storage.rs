//! What the storage costs: the store under threads, and the whole server over it, both engines in one run.
//!
//! `cargo bench --bench storage [-- DOCUMENTS]` prints the rows of the storage part of docs/performance.md. DOCUMENTS (default 200,000) is the
//! size of the large database; the figures there are for 1,000,000.
//!
//! "raw" writes through the store what the server writes for the same work (per document: its record, its row in the changes order,
//! its body, the counters; the old row removed), with the same number of syncs and nothing above.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use settee::store::{Batch, Direction, Engine, PageLimit, keys, open};

const TIME: Duration = Duration::from_secs(5);
const THREADS: u64 = 32;
/// Documents of one bulk request.
const BULK: u64 = 1000;

fn main() {
    let documents = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    println!("| | sled | redb |\n|---|---|---|");
    let columns = Engine::ALL.iter().map(|engine| measure(*engine, documents)).collect::<Vec<_>>();
    for (at, (name, _)) in columns[0].iter().enumerate() {
        let values: Vec<&str> = columns.iter().map(|column| column[at].1.as_str()).collect();
        println!("| {name} | {} |", values.join(" | "));
    }
}

fn measure(engine: Engine, documents: u64) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| {
        eprintln!("{engine}: {name}: {value}");
        rows.push((name.to_owned(), value));
    };
    let dir = tempfile::tempdir().expect("a folder");

    let raw = raw_single(&dir.path().join("raw1"), engine, 1);
    row("raw commits/s, 1 thread", format!("{raw:.0}"));
    let raw = raw_single(&dir.path().join("raw32"), engine, THREADS);
    row("raw commits/s, 32 threads", format!("{raw:.0}"));
    let server = Server::start(&dir.path().join("http"), engine);
    server.ask("PUT", "/db", "");
    let one = puts(&server, 1);
    row("PUT/s, 1 connection", format!("{one:.0}"));
    let many = puts(&server, THREADS);
    row("PUT/s, 32 connections", format!("{many:.0}"));
    row("PUT at 32 connections, share of raw", format!("{:.0} %", 100.0 * many / raw));
    drop(server);

    let raw = raw_bulk(&dir.path().join("rawbulk"), engine, documents);
    row("raw documents/s, batches of 1000", format!("{raw:.0}"));
    let data = dir.path().join("bulk");
    let server = Server::start(&data, engine);
    server.ask("PUT", "/db", "");
    let bulk = load(&server, documents);
    row("_bulk_docs documents/s", format!("{bulk:.0}"));
    row("_bulk_docs, share of raw", format!("{:.0} %", 100.0 * bulk / raw));
    row("memory after the load", megabytes(server.memory()));
    drop(server);
    let live = live_bytes(&data);
    row("disk per live byte after the load", format!("{:.1}", disk(&data) as f64 / live as f64));

    let begun = Instant::now();
    let server = Server::start(&data, engine);
    server.ask("GET", "/db", "");
    row(&format!("start with {documents} documents"), format!("{:.2} s", begun.elapsed().as_secs_f64()));
    row("memory after the start", megabytes(server.memory()));
    drop(server);
    let begun = Instant::now();
    let server = Server::start(&data, engine);
    server.ask("GET", "/db", "");
    row("start after SIGKILL", format!("{:.2} s", begun.elapsed().as_secs_f64()));

    // Every tenth document is written ten times more.
    for round in 0..10 {
        for first in (0..documents / 10).step_by(BULK as usize) {
            let docs: Vec<String> = (first..(first + BULK).min(documents / 10))
                .map(|number| {
                    let (generation, parent) = (round + 2, if round == 0 { hash(number, 0) } else { hash(number, round) });
                    let new = hash(number, round + 1);
                    format!(
                        r#"{{"_id":"doc{number:08}","_rev":"{generation}-{new}","_revisions":{{"start":{generation},"ids":["{new}","{parent}"]}},"text":"{}"}}"#,
                        text(number + round)
                    )
                })
                .collect();
            server.ask("POST", "/db/_bulk_docs", &format!(r#"{{"new_edits":false,"docs":[{}]}}"#, docs.join(",")));
        }
    }
    server.ask("POST", "/db/_compact", "");
    while server.ask("GET", "/db", "").contains(r#""compact_running":true"#) {
        std::thread::sleep(Duration::from_millis(100));
    }
    row("memory after churn and compaction", megabytes(server.memory()));
    drop(server);
    row("disk per live byte after churn and _compact", format!("{:.1}", disk(&data) as f64 / live_bytes(&data) as f64));
    let begun = Instant::now();
    settee::store::compact(&data, None, &mut |_| {}).expect("it can be rewritten");
    row("compact-store", format!("{:.1} s", begun.elapsed().as_secs_f64()));
    row("disk per live byte after compact-store", format!("{:.1}", disk(&data) as f64 / live_bytes(&data) as f64));
    rows
}

fn megabytes(kilobytes: u64) -> String {
    format!("{} MB", kilobytes / 1024)
}

fn text(number: u64) -> String {
    format!("{number} lorem ipsum dolor sit amet, consectetur adipiscing elit. ").repeat(8)
}

/// A stored document takes four writes; `value` is what its body holds.
fn document(batch: &mut Batch, number: u64, sequence: u64, info: &[u8]) {
    let id = format!("doc{number:08}");
    batch.put(keys::document(1, &id), vec![b'd'; 60]);
    batch.put(keys::sequence(1, sequence), vec![b'q'; 50]);
    batch.put(keys::body(1, sequence, 0), text(number).into_bytes());
    batch.put(keys::info(1), info.to_vec());
}

fn raw_single(folder: &Path, engine: Engine, threads: u64) -> f64 {
    let opened = open(folder, Some(engine)).expect("it opens");
    let next = AtomicU64::new(1);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < TIME {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut batch = Batch::new();
                    document(&mut batch, number, number, b"twenty bytes of info");
                    opened.store.commit(batch).expect("it commits");
                }
            });
        }
    });
    next.into_inner() as f64 / begun.elapsed().as_secs_f64()
}

fn raw_bulk(folder: &Path, engine: Engine, documents: u64) -> f64 {
    let opened = open(folder, Some(engine)).expect("it opens");
    let begun = Instant::now();
    for first in (0..documents).step_by(BULK as usize) {
        let mut batch = Batch::new();
        for number in first..first + BULK {
            document(&mut batch, number, number, b"twenty bytes of info");
        }
        opened.store.commit(batch).expect("it commits");
    }
    documents as f64 / begun.elapsed().as_secs_f64()
}

fn hash(number: u64, round: u64) -> String {
    format!("{:032x}", u128::from(number) << 64 | u128::from(round + 1))
}

/// Loads as a replication does, so that the revisions are known.
fn load(server: &Server, documents: u64) -> f64 {
    let mut client = server.connect();
    let mut spent = Duration::ZERO;
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
    }
    documents as f64 / spent.as_secs_f64()
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

/// Keys and values of everything that is stored.
fn live_bytes(data: &Path) -> u64 {
    let opened = open(data, None).expect("it opens");
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
    fn start(data: &Path, engine: Engine) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_settee"));
        command.env("COUCHDB_USER", "admin").env("COUCHDB_PASSWORD", "secret");
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

    /// Resident kilobytes.
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
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
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
