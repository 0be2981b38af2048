//! Shared by the server benchmarks: starts the servers, generates load over HTTP, prints the table.

#![allow(dead_code, reason = "each benchmark uses only a part of this module")]

pub mod waiting;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
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

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Failure>;

/// The request header that tells the bare server how many bytes to return.
pub const SIZE: &str = "x-bench-bytes";
/// The column of the build that `BENCH_OTHER` names.
pub const OTHER: &str = "other build";
const AUTHORIZATION: &str = "Basic YmVuY2g6YmVuY2g=";

/// Reads a number from an environment variable; returns `default` if it is unset or invalid.
pub fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A server under test: either a child process, killed on drop, or an external server that keeps running.
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Whether requests send credentials. pouchdb-server runs without admins and needs none.
    pub signed_in: bool,
    child: Option<Child>,
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Target {
    /// Starts settee with an admin `bench` and a data folder in `folder`: the binary `BENCH_SETTEE`, by default
    /// the one that was built with the benchmark.
    pub async fn settee(folder: &Path) -> Outcome<Target> {
        let program = std::env::var("BENCH_SETTEE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_settee").into());
        Target::build(folder, "settee", &program).await
    }

    /// As [`Target::settee`], with the data in a store of this kind or at this address.
    pub async fn settee_on(folder: &Path, name: &'static str, store: &str) -> Outcome<Target> {
        let program = std::env::var("BENCH_SETTEE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_settee").into());
        Target::start(folder, name, &program, &["--store", store]).await
    }

    /// Starts a build of settee.
    async fn build(folder: &Path, name: &'static str, program: &str) -> Outcome<Target> {
        Target::start(folder, name, program, &[]).await
    }

    async fn start(folder: &Path, name: &'static str, program: &str, more: &[&str]) -> Outcome<Target> {
        let address = free_address().await?;
        let child = Command::new(program)
            .args(["serve", "--bind", &address.to_string(), "--data"])
            .arg(folder.join(name))
            .args(more)
            .envs([("COUCHDB_USER", "bench"), ("COUCHDB_PASSWORD", "bench")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Target { name, address, signed_in: true, child: Some(child) }.ready("/_up").await
    }

    /// Starts the bare hyper server of the benchmark `ratios`.
    pub async fn bare() -> Outcome<Target> {
        let mut child = Command::new(std::env::current_exe()?).arg("bare").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("the bare server has no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        let address = line.trim().parse()?;
        Target { name: "bare hyper", address, signed_in: true, child: Some(child) }.ready("/").await
    }

    /// The servers to compare with: another build of settee, if `BENCH_OTHER` names its binary; pouchdb-server if
    /// it is installed; and the CouchDB at the address `BENCH_COUCHDB`. That CouchDB needs an admin `bench` with the password `bench`, and must not contain
    /// databases of an earlier run.
    pub async fn peers(folder: &Path) -> Vec<Target> {
        let mut peers = Vec::new();
        if let Ok(program) = std::env::var("BENCH_OTHER") {
            match Target::build(folder, OTHER, &program).await {
                Ok(peer) => peers.push(peer),
                Err(error) => eprintln!("the other build is left out: {error}"),
            }
        }
        match Target::pouchdb_server(folder).await {
            Ok(peer) => peers.extend(peer),
            Err(error) => eprintln!("pouchdb-server is left out: {error}"),
        }
        match Target::couchdb().await {
            Ok(peer) => peers.extend(peer),
            Err(error) => eprintln!("CouchDB is left out: {error}"),
        }
        peers
    }

    async fn couchdb() -> Outcome<Option<Target>> {
        let Ok(address) = std::env::var("BENCH_COUCHDB") else { return Ok(None) };
        let target = Target { name: "CouchDB", address: address.parse()?, signed_in: true, child: None };
        Ok(Some(target.ready("/_up").await?))
    }

    /// Starts pouchdb-server. Returns `None` if it is not installed.
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
        Ok(Some(Target { name: "pouchdb-server", address, signed_in: false, child: Some(child) }.ready("/").await?))
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
            if let Some(child) = &mut self.child
                && let Some(how) = child.try_wait()?
            {
                return Err(format!("{} ended at its start: {how}", self.name).into());
            }
            if Instant::now() > end {
                return Err(format!("{} did not start", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Outcome<Connection> {
        Connection::open(self.address, self.signed_in).await
    }

    /// The number of its process; `None` for an external server.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident memory in bytes; `None` for an external server.
    #[allow(dead_code, reason = "not every benchmark measures memory")]
    pub fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    }

    /// Sends one request on a new connection.
    pub async fn ask(&self, ask: Ask) -> Outcome<(StatusCode, Bytes)> {
        self.connect().await?.ask(&ask, 0).await
    }
}

/// Returns a local address on which nothing listens at the moment.
pub async fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

// ---- the load ---------------------------------------------------------------------------------------------

/// One request, and the number of units (documents, rows) that it counts for.
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub body: Bytes,
    pub units: u64,
}

impl Ask {
    pub fn get(path: &str) -> Ask {
        Ask { method: Method::GET, path: path.into(), body: Bytes::new(), units: 1 }
    }

    pub fn new(method: Method, path: String, body: String, units: u64) -> Ask {
        Ask { method, path, body: Bytes::from(body), units }
    }
}

/// An HTTP/1.1 connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    signed_in: bool,
}

impl Connection {
    pub async fn open(address: SocketAddr, signed_in: bool) -> Outcome<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, signed_in })
    }

    /// Sends a request. Resolves when the response head has arrived.
    pub async fn send(&mut self, ask: &Ask, size: usize) -> Outcome<Response<Incoming>> {
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

    /// Sends a request and reads the whole response.
    pub async fn ask(&mut self, ask: &Ask, size: usize) -> Outcome<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.send(ask, size).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// The result of a load.
#[derive(Clone, Copy)]
pub struct Load {
    /// Units per second.
    pub rate: f64,
    /// Mean size of a response body in bytes.
    pub size: usize,
}

/// Runs a closed loop on each of `connections` connections for `seconds`: sends a request, reads the whole
/// response, sends the next. `size` is the response size that the bare server returns.
pub async fn load<F>(target: &Target, connections: usize, seconds: f64, size: usize, make: F) -> Outcome<Load>
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

/// A JSON document of about 500 bytes, a part of which does not compress.
pub fn document(id: &str, number: u64) -> String {
    let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let text = "the quick brown fox jumps over the lazy dog ".repeat(8);
    format!(
        r#"{{"_id":"{id}","type":"bench","number":{number},"noise":"{noise:016x}","nested":{{"list":[1,2,3],"flag":true}},"text":"{text}"}}"#
    )
}

/// A `_bulk_docs` body with `count` documents, numbered from `first`.
pub fn bulk(prefix: &str, first: u64, count: u64) -> String {
    let documents: Vec<_> = (first..first + count).map(|n| document(&format!("{prefix}{n:08}"), n)).collect();
    format!(r#"{{"docs":[{}]}}"#, documents.join(","))
}

// ---- the table --------------------------------------------------------------------------------------------

/// A row of the table: one value per column.
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub values: BTreeMap<&'static str, f64>,
}

/// The results of one run.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    /// Adds a row, and prints it to the standard error.
    pub fn add(&mut self, name: String, unit: &'static str, values: BTreeMap<&'static str, f64>) {
        eprintln!("{name}: {values:.0?} {unit}");
        self.rows.push(Row { name, unit, values });
    }

    /// Prints the table as Markdown, below a line that describes the machine and ends with `how`. The table
    /// shows the value of each column, and settee's value divided by that of each other column. `columns` are
    /// (name, short name in the head of the ratio); the first column is settee.
    pub fn print(&self, columns: &[(&'static str, &str)], how: &str) -> Outcome<()> {
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
            "{}, {cores} cores ({cpu}), {}, settee {} at {}, {how}.\n",
            said("date", &["-u", "+%Y-%m-%d"]),
            said("uname", &["-sr"]),
            env!("CARGO_PKG_VERSION"),
            said("git", &["rev-parse", "--short", "HEAD"]),
        )?;
        let is_filled = |(name, _): &&(&str, &str)| self.rows.iter().any(|row| row.values.contains_key(name));
        let columns: Vec<(&'static str, &str)> = columns.iter().filter(is_filled).copied().collect();
        let heads: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let shares: Vec<String> = columns.iter().skip(1).map(|(_, head)| format!("settee ÷ {head}")).collect();
        writeln!(out, "| what | unit | {} | {} |", heads.join(" | "), shares.join(" | "))?;
        writeln!(out, "|---|---|{}", "---:|".repeat(heads.len() + shares.len()))?;
        for row in &self.rows {
            let value = |column: &str| row.values.get(column).map_or("–".into(), |value| thousands(*value));
            let ratio = |column: &str| match (row.values.get("settee"), row.values.get(column)) {
                (Some(settee), Some(other)) if *other > 0.0 => format!("{:.2}", settee / other),
                _ => "–".into(),
            };
            let values: Vec<String> = columns.iter().map(|(name, _)| value(name)).collect();
            let ratios: Vec<String> = columns.iter().skip(1).map(|(name, _)| ratio(name)).collect();
            writeln!(out, "| {} | {} | {} | {} |", row.name, row.unit, values.join(" | "), ratios.join(" | "))?;
        }
        Ok(())
    }
}

/// Formats `12345.6` as `12 346`, and numbers below 100 with one decimal.
fn thousands(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(" ")
}
