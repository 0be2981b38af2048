//! How settee compares, in one run on one machine: with a bare hyper server that answers as many bytes, with the raw
//! store writing the same bytes with the same syncs, and with pouchdb-server 4.2.0 from npm.
//!
//! `benches/run.sh` calls it (it installs the npm packages and raises the limit of open files). Prints a Markdown table
//! for `docs/performance.md`. Numbers of different machines say little; ratios of one run say much.
//!
//! Every server is a process of its own; the load comes from this one over loopback, so both share the cores.
//! `BENCH_SECONDS` is how long each row runs (5), `BENCH_WAITING` how many longpolls wait (10000), `BENCH_ONLY` a word
//! that a row's name must have.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

/// Documents in the database that is read.
const DOCUMENTS: u64 = 10_000;
/// Documents in one `_bulk_docs` and one `_bulk_get`.
const BULK: u64 = 500;
/// Tells the bare server how many bytes to answer.
const SIZE: &str = "x-bench-bytes";
const AUTHORIZATION: &str = "Basic YmVuY2g6YmVuY2g=";

fn main() -> Outcome<()> {
    let bare = std::env::args().nth(1).as_deref() == Some("bare");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if bare { runtime.block_on(bare_server()) } else { runtime.block_on(run()) }
}

// ---- the bare server -------------------------------------------------------------------------------------------

/// Reads each request whole and answers as many bytes as its header asks for. Prints its address.
async fn bare_server() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let bytes = Bytes::from(vec![b'x'; 64 << 20]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bytes = bytes.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let bytes = bytes.clone();
                async move {
                    let size = request.headers().get(SIZE).and_then(|value| value.to_str().ok()?.parse().ok());
                    request.into_body().collect().await?;
                    let answer = bytes.slice(..size.unwrap_or(0usize).min(bytes.len()));
                    Ok::<_, hyper::Error>(Response::new(Full::new(answer)))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

// ---- the servers that are measured -----------------------------------------------------------------------------

/// A server in a process of its own, killed when dropped.
struct Target {
    name: &'static str,
    address: SocketAddr,
    /// pouchdb-server is measured as an admin party: nobody is asked for a password.
    signed_in: bool,
    child: Child,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    async fn settee(folder: &Path) -> Outcome<Target> {
        let address = free_address().await?;
        let child = Command::new(env!("CARGO_BIN_EXE_settee"))
            .args(["serve", "--bind", &address.to_string(), "--data"])
            .arg(folder.join("settee"))
            .envs([("COUCHDB_USER", "bench"), ("COUCHDB_PASSWORD", "bench"), ("RUST_LOG", "warn")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Target { name: "settee", address, signed_in: true, child }.ready("/_up").await
    }

    async fn bare() -> Outcome<Target> {
        let mut child = Command::new(std::env::current_exe()?).arg("bare").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("the bare server has no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        Target { name: "bare hyper", address: line.trim().parse()?, signed_in: true, child }.ready("/").await
    }

    /// `None` when it is not installed.
    async fn pouchdb_server(folder: &Path) -> Outcome<Option<Target>> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/node_modules/.bin/pouchdb-server");
        if !program.exists() {
            return Ok(None);
        }
        let (data, address) = (folder.join("pouchdb-server"), free_address().await?);
        std::fs::create_dir_all(&data)?;
        let child = Command::new(program)
            .args(["--no-color", "-n", "--host", "127.0.0.1", "--port", &address.port().to_string(), "--dir"])
            .arg(&data)
            .current_dir(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Some(Target { name: "pouchdb-server", address, signed_in: false, child }.ready("/").await?))
    }

    async fn ready(mut self, path: &str) -> Outcome<Target> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(mut connection) = self.connect().await
                && let Ok((status, _)) = connection.ask(&Ask::get(path), 0).await
                && status.is_success()
            {
                return Ok(self);
            }
            if let Some(how) = self.child.try_wait()? {
                return Err(format!("{} ended at its start: {how}", self.name).into());
            }
            if Instant::now() > end {
                return Err(format!("{} did not start", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn connect(&self) -> Outcome<Connection> {
        Connection::open(self.address, self.signed_in).await
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    async fn ask(&self, ask: Ask) -> Outcome<(StatusCode, Bytes)> {
        self.connect().await?.ask(&ask, 0).await
    }
}

async fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

// ---- the load --------------------------------------------------------------------------------------------------

/// One request, and how many things (documents, rows) it is worth.
struct Ask {
    method: Method,
    path: String,
    body: Bytes,
    units: u64,
}

impl Ask {
    fn get(path: &str) -> Ask {
        Ask { method: Method::GET, path: path.into(), body: Bytes::new(), units: 1 }
    }

    fn new(method: Method, path: String, body: String, units: u64) -> Ask {
        Ask { method, path, body: Bytes::from(body), units }
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    signed_in: bool,
}

impl Connection {
    async fn open(address: SocketAddr, signed_in: bool) -> Outcome<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, signed_in })
    }

    async fn send(&mut self, ask: &Ask, size: usize) -> Outcome<Response<Incoming>> {
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.path)
            .header("host", "bench")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header(SIZE, size);
        if self.signed_in {
            request = request.header("authorization", AUTHORIZATION);
        }
        let request = request.body(Full::new(ask.body.clone()))?;
        Ok(self.sender.send_request(request).await?)
    }

    async fn ask(&mut self, ask: &Ask, size: usize) -> Outcome<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.send(ask, size).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// What a load came to.
#[derive(Clone, Copy)]
struct Load {
    /// Units a second.
    rate: f64,
    /// Mean size of an answer in bytes.
    size: usize,
}

/// `connections` that each ask, wait for the whole answer, and ask again, for `seconds`.
async fn load<F>(target: &Target, connections: usize, seconds: f64, size: usize, make: F) -> Outcome<Load>
where
    F: Fn(u64) -> Ask + Send + Sync + 'static,
{
    let (make, counter) = (Arc::new(make), Arc::new(AtomicU64::new(0)));
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let mut connection = target.connect().await?;
        let (make, counter) = (make.clone(), counter.clone());
        tasks.spawn(async move {
            let (mut units, mut bytes, mut requests) = (0, 0, 0);
            while Instant::now() < end {
                let ask = make(counter.fetch_add(1, Ordering::Relaxed));
                let (status, answer) = connection.ask(&ask, size).await?;
                if !status.is_success() {
                    let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
                    return Err(Failure::from(format!("{} {}: {status} {text}", ask.method, ask.path)));
                }
                units += ask.units;
                bytes += answer.len();
                requests += 1;
            }
            Ok((units, bytes, requests))
        });
    }
    let (mut units, mut bytes, mut requests) = (0, 0, 0);
    while let Some(done) = tasks.join_next().await {
        let (u, b, r) = done??;
        (units, bytes, requests) = (units + u, bytes + b, requests + r);
    }
    Ok(Load { rate: units as f64 / begin.elapsed().as_secs_f64(), size: bytes / requests.max(1) })
}

/// Some 500 bytes of JSON that do not all compress to nothing.
fn document(id: &str, number: u64) -> String {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let text = "the quick brown fox jumps over the lazy dog ".repeat(8);
    format!(
        r#"{{"_id":"{id}","type":"bench","number":{number},"noise":"{noise:016x}","nested":{{"list":[1,2,3],"flag":true}},"text":"{text}"}}"#
    )
}

fn bulk(prefix: &str, first: u64, count: u64) -> String {
    let documents: Vec<_> = (first..first + count).map(|n| document(&format!("{prefix}{n:08}"), n)).collect();
    format!(r#"{{"docs":[{}]}}"#, documents.join(","))
}

// ---- the rows --------------------------------------------------------------------------------------------------

/// A row of the table: a value for each column.
struct Row {
    name: String,
    unit: &'static str,
    values: BTreeMap<&'static str, f64>,
}

struct Bench {
    seconds: f64,
    only: Option<String>,
    folder: PathBuf,
    settee: Target,
    bare: Target,
    peer: Option<Target>,
    rows: Vec<Row>,
}

impl Bench {
    fn wanted(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    fn add(&mut self, name: String, unit: &'static str, values: BTreeMap<&'static str, f64>) {
        eprintln!("{name}: {values:.0?} {unit}");
        self.rows.push(Row { name, unit, values });
    }

    /// The same load on settee, then on the bare server with answers of that size, then on pouchdb-server.
    async fn compare<F>(
        &mut self,
        name: &str,
        unit: &'static str,
        connections: usize,
        raw: Option<f64>,
        make: F,
    ) -> Outcome<()>
    where
        F: Fn(u64) -> Ask + Send + Sync + Clone + 'static,
    {
        if !self.wanted(name) {
            return Ok(());
        }
        let mut values = BTreeMap::new();
        let settee = load(&self.settee, connections, self.seconds, 0, make.clone()).await?;
        values.insert("settee", settee.rate);
        let bare = load(&self.bare, connections, self.seconds, settee.size, make.clone()).await?;
        values.insert("bare hyper", bare.rate);
        if let Some(raw) = raw {
            values.insert("raw store", raw);
        }
        if let Some(peer) = &self.peer {
            match load(peer, connections, self.seconds, 0, make).await {
                Ok(load) => drop(values.insert("pouchdb-server", load.rate)),
                Err(error) => eprintln!("{name}: pouchdb-server: {error}"),
            }
        }
        self.add(name.to_string(), unit, values);
        Ok(())
    }

    fn servers(&self) -> impl Iterator<Item = &Target> {
        [Some(&self.settee), self.peer.as_ref()].into_iter().flatten()
    }
}

/// Commits of `documents` documents each, from `threads` threads at once, on a store of its own: documents a second.
fn raw_store(folder: &Path, name: &str, threads: u64, documents: u64, seconds: f64) -> Outcome<f64> {
    use settee::store::{Batch, keys, open};
    let opened = open(&folder.join(format!("raw-{name}")), None).map_err(|error| error.to_string())?;
    let counter = AtomicU64::new(0);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| -> Outcome<()> {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Outcome<()> {
                    while Instant::now() < end {
                        let first = counter.fetch_add(documents, Ordering::Relaxed);
                        let mut batch = Batch::new();
                        for n in first..first + documents {
                            batch.put(keys::body(1, n, 0), document(&format!("{n:08}"), n).into_bytes());
                        }
                        opened.store.commit(batch)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| "a writer of the raw store panicked")??;
        }
        Ok(())
    })?;
    Ok(counter.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

async fn run() -> Outcome<()> {
    let number =
        |name: &str, default: f64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let folder = tempfile::tempdir()?;
    let settee = Target::settee(folder.path()).await?;
    let bare = Target::bare().await?;
    let peer = match Target::pouchdb_server(folder.path()).await {
        Ok(peer) => peer,
        Err(error) => {
            eprintln!("pouchdb-server is left out: {error}");
            None
        }
    };
    let mut bench = Bench {
        seconds: number("BENCH_SECONDS", 5.0),
        only: std::env::var("BENCH_ONLY").ok(),
        folder: folder.path().to_path_buf(),
        settee,
        bare,
        peer,
        rows: Vec::new(),
    };
    measure(&mut bench).await?;
    waiting(&mut bench, number("BENCH_WAITING", 10_000.0) as usize).await?;
    clients(&mut bench)?;
    print(&bench)
}

async fn measure(bench: &mut Bench) -> Outcome<()> {
    for target in bench.servers() {
        for name in ["read", "write"] {
            let (status, text) = target.ask(Ask::new(Method::PUT, format!("/{name}"), String::new(), 1)).await?;
            if !status.is_success() {
                return Err(format!("{}: PUT /{name}: {status} {text:?}", target.name).into());
            }
        }
        for first in (0..DOCUMENTS).step_by(BULK as usize) {
            target.ask(Ask::new(Method::POST, "/read/_bulk_docs".into(), bulk("d", first, BULK), BULK)).await?;
        }
    }
    let (seconds, folder) = (bench.seconds, bench.folder.clone());
    let raw = |wanted: bool, name: &'static str, threads, documents| -> Outcome<Option<f64>> {
        wanted
            .then(|| tokio::task::block_in_place(|| raw_store(&folder, name, threads, documents, seconds)))
            .transpose()
    };

    for connections in [1, 4] {
        let name = format!("_bulk_docs, {BULK} documents each, {connections} connections");
        let beside = raw(bench.wanted(&name), if connections == 1 { "bulk1" } else { "bulk4" }, connections, BULK)?;
        bench
            .compare(&name, "documents/s", connections as usize, beside, move |n| {
                Ask::new(
                    Method::POST,
                    "/write/_bulk_docs".into(),
                    bulk(&format!("b{connections}-"), n * BULK, BULK),
                    BULK,
                )
            })
            .await?;
    }
    for connections in [1, 32] {
        let name = format!("PUT document, {connections} connections");
        let beside = raw(bench.wanted(&name), if connections == 1 { "put1" } else { "put32" }, connections, 1)?;
        bench
            .compare(&name, "requests/s", connections as usize, beside, move |n| {
                let id = format!("p{connections}-{n:08}");
                Ask::new(Method::PUT, format!("/write/{id}"), document(&id, n), 1)
            })
            .await?;
    }
    for connections in [1, 32] {
        let name = format!("GET document, {connections} connections");
        bench
            .compare(&name, "requests/s", connections, None, |n| {
                Ask::get(&format!("/read/d{:08}", n.wrapping_mul(7919) % DOCUMENTS))
            })
            .await?;
    }
    for (what, query) in [("without", ""), ("with", "?include_docs=true")] {
        let name = format!("_changes {what} documents, 1 connection");
        bench
            .compare(&name, "rows/s", 1, None, move |_| {
                Ask::new(Method::GET, format!("/read/_changes{query}"), String::new(), DOCUMENTS)
            })
            .await?;
    }
    bench
        .compare(&format!("_bulk_get, {BULK} documents each, 4 connections"), "documents/s", 4, None, |n| {
            let first = n * BULK % (DOCUMENTS - BULK);
            let ids: Vec<_> = (first..first + BULK).map(|n| format!(r#"{{"id":"d{n:08}"}}"#)).collect();
            Ask::new(
                Method::POST,
                "/read/_bulk_get?revs=true".into(),
                format!(r#"{{"docs":[{}]}}"#, ids.join(",")),
                BULK,
            )
        })
        .await
}

/// Memory while `count` longpolls wait, and how long one change takes until the last of them has heard it.
async fn waiting(bench: &mut Bench, count: usize) -> Outcome<()> {
    let name = format!("{count} waiting longpolls");
    if !bench.wanted(&name) {
        return Ok(());
    }
    let (mut memory, mut heard) = (BTreeMap::new(), BTreeMap::new());
    for target in bench.servers() {
        match tokio::time::timeout(Duration::from_secs(180), wait_on(target, count)).await {
            Ok(Ok((bytes, seconds))) => {
                memory.insert(target.name, bytes as f64 / 1024.0);
                heard.insert(target.name, seconds * 1000.0);
            }
            Ok(Err(error)) if target.name == "settee" => return Err(error),
            Ok(Err(error)) => eprintln!("{name}: {}: {error}", target.name),
            Err(_) if target.name == "settee" => return Err("the longpolls did not all hear of the change".into()),
            Err(_) => eprintln!("{name}: {}: not all heard within 180 s", target.name),
        }
    }
    let each = memory.iter().map(|(name, kib)| (*name, kib / count as f64)).collect();
    bench.add(format!("{name}: memory more"), "KiB", memory);
    bench.add(format!("{name}: memory each"), "KiB", each);
    bench.add(format!("{name}: until the last heard"), "ms", heard);
    Ok(())
}

async fn wait_on(target: &Target, count: usize) -> Outcome<(u64, f64)> {
    target.ask(Ask::new(Method::PUT, "/waiting".into(), String::new(), 1)).await?;
    let before = target.memory();
    let ask = Arc::new(Ask::get("/waiting/_changes?feed=longpoll&since=now&timeout=170000&heartbeat=170000"));
    let (address, signed_in) = (target.address, target.signed_in);
    let begun = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(tokio::sync::Semaphore::new(256));
    let mut tasks: JoinSet<Outcome<()>> = JoinSet::new();
    for _ in 0..count {
        let (ask, begun, gate) = (ask.clone(), begun.clone(), gate.clone());
        tasks.spawn(async move {
            let permit = gate.acquire().await?;
            let mut connection = Connection::open(address, signed_in).await?;
            // pouchdb-server sends the head only with the first byte of its answer: not all can be waited for.
            let head = connection.send(&ask, 0);
            tokio::pin!(head);
            let early = tokio::time::timeout(Duration::from_millis(500), &mut head).await;
            drop(permit);
            begun.fetch_add(1, Ordering::Relaxed);
            let answer = match early {
                Ok(answer) => answer?,
                Err(_) => head.await?,
            };
            let body = answer.into_body().collect().await?.to_bytes();
            if !body.windows(6).any(|window| window == b"wakeup") {
                return Err(format!("a longpoll ended without the change: {body:?}").into());
            }
            Ok(())
        });
    }
    while begun.load(Ordering::Relaxed) < count as u64 {
        if let Some(done) = tasks.try_join_next() {
            done??;
            return Err("a longpoll ended before there was a change".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let memory = target.memory().saturating_sub(before);
    let from = Instant::now();
    target.ask(Ask::new(Method::PUT, "/waiting/wakeup".into(), "{}".into(), 1)).await?;
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((memory, from.elapsed().as_secs_f64()))
}

/// PouchDB 9 from npm, pushing and pulling.
fn clients(bench: &mut Bench) -> Outcome<()> {
    let name = format!("PouchDB 9 of {DOCUMENTS} documents");
    if !bench.wanted(&name) {
        return Ok(());
    }
    let (mut push, mut pull) = (BTreeMap::new(), BTreeMap::new());
    for target in bench.servers() {
        let who = if target.signed_in { "bench:bench@" } else { "" };
        let output = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/client.mjs"))
            .args([format!("http://{who}{}/client", target.address), DOCUMENTS.to_string()])
            .stderr(Stdio::inherit())
            .output();
        let text = match output {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout)?,
            Ok(output) => {
                eprintln!("{name}: {}: node ended with {}", target.name, output.status);
                continue;
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                continue;
            }
        };
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [pushed, pulled] = numbers[..] {
            push.insert(target.name, DOCUMENTS as f64 / pushed);
            pull.insert(target.name, DOCUMENTS as f64 / pulled);
        }
    }
    bench.add(format!("push by {name}"), "documents/s", push);
    bench.add(format!("pull by {name}"), "documents/s", pull);
    Ok(())
}

// ---- the table -------------------------------------------------------------------------------------------------

fn print(bench: &Bench) -> Outcome<()> {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}, {cores} cores ({cpu}), {}, settee {} at {}, {} s a row.\n",
        said("date", &["-u", "+%Y-%m-%d"]),
        said("uname", &["-sr"]),
        env!("CARGO_PKG_VERSION"),
        said("git", &["rev-parse", "--short", "HEAD"]),
        bench.seconds,
    )?;
    const COLUMNS: [&str; 4] = ["settee", "bare hyper", "raw store", "pouchdb-server"];
    writeln!(
        out,
        "| what | unit | {} | settee ÷ bare | settee ÷ raw | settee ÷ pouchdb-server |",
        COLUMNS.join(" | ")
    )?;
    writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for row in &bench.rows {
        let value = |column: &str| row.values.get(column).map_or("–".into(), |value| thousands(*value));
        let ratio = |column: &str| match (row.values.get("settee"), row.values.get(column)) {
            (Some(settee), Some(other)) if *other > 0.0 => format!("{:.2}", settee / other),
            _ => "–".into(),
        };
        let values: Vec<String> = COLUMNS.iter().map(|column| value(column)).collect();
        let ratios: Vec<String> = COLUMNS[1..].iter().map(|column| ratio(column)).collect();
        writeln!(out, "| {} | {} | {} | {} |", row.name, row.unit, values.join(" | "), ratios.join(" | "))?;
    }
    Ok(())
}

/// `12345.6` as `12 346`, small numbers with a digit or two behind the point.
fn thousands(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(" ")
}
