//! Compares settee, in one run on one machine, with a bare hyper server that returns as many bytes, with the
//! raw store that writes the same bytes with the same syncs, and with pouchdb-server 4.2.0 from npm.
//!
//! Run it with `benches/run.sh`, which installs the npm packages and raises the limit of open files. Prints a
//! Markdown table for `docs/performance.md`. Compare the ratios within one run; absolute numbers of different
//! machines are not comparable.
//!
//! Each server runs in its own process. This process generates the load over loopback, so load and server
//! share the cores. Environment: `BENCH_SECONDS`, duration of each row (5); `BENCH_WAITING`, number of
//! waiting longpolls (10000); `BENCH_ONLY`, runs only the rows whose name contains this text.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::waiting::Waiting;
use common::{Ask, Outcome, SIZE, Table, Target, bulk, document, load, number};
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// The feed and the document of the row with waiting longpolls.
const CHANGES: &str = "/waiting/_changes";
const WAKEUP: &str = "/waiting/wakeup";
/// A server that needs longer than this until all longpolls wait and have heard has no number.
const HEARD: Duration = Duration::from_secs(180);
/// Documents in the database `read`.
const DOCUMENTS: u64 = 10_000;
/// Documents in one `_bulk_docs` and one `_bulk_get`.
const BULK: u64 = 500;
fn main() -> Outcome<()> {
    let bare = std::env::args().nth(1).as_deref() == Some("bare");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if bare { runtime.block_on(bare_server()) } else { runtime.block_on(run()) }
}

// ---- the bare server --------------------------------------------------------------------------------------

/// Runs the bare server: it reads each whole request and returns as many bytes as the header [`SIZE`] says. A request
/// for [`CHANGES`] waits as a longpoll does, until there is a request for [`WAKEUP`]. Prints its address.
async fn bare_server() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let bytes = Bytes::from(vec![b'x'; 64 << 20]);
    let woken = watch::Sender::new(());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (bytes, woken) = (bytes.clone(), woken.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (bytes, woken) = (bytes.clone(), woken.clone());
                async move {
                    match request.uri().path() {
                        CHANGES => return Ok(Response::new(Either::Left(Box::pin(longpoll(woken.subscribe()))))),
                        WAKEUP => woken.send_replace(()),
                        _ => {}
                    }
                    let size = request.headers().get(SIZE).and_then(|value| value.to_str().ok()?.parse().ok());
                    request.into_body().collect().await?;
                    let answer = bytes.slice(..size.unwrap_or(0usize).min(bytes.len()));
                    Ok::<_, hyper::Error>(Response::new(Either::Right(Full::new(answer))))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A body like that of a longpoll of settee: it begins at once, and ends with the change.
fn longpoll(mut woken: watch::Receiver<()>) -> impl Body<Data = Bytes, Error = Infallible> {
    const END: &str = concat!(
        r#"{"seq":"1-8a9d109fcb75b7ad689d6b0fdfdf99cb","id":"wakeup","#,
        r#""changes":[{"rev":"1-967a00dff5e02add41819138abb3284d"}]}"#,
        "\n],\n\"last_seq\":\"1-8a9d109fcb75b7ad689d6b0fdfdf99cb\",\"pending\":0}\n"
    );
    let begin = futures_util::stream::iter([Bytes::from_static(b"{\"results\":[\n")]);
    let end = futures_util::stream::once(async move {
        let _ = woken.changed().await;
        Bytes::from_static(END.as_bytes())
    });
    StreamBody::new(begin.chain(end).map(|bytes| Ok(Frame::data(bytes))))
}

// ---- the rows ---------------------------------------------------------------------------------------------

struct Bench {
    seconds: f64,
    only: Option<String>,
    folder: PathBuf,
    settee: Target,
    bare: Target,
    peers: Vec<Target>,
    table: Table,
}

impl Bench {
    fn wanted(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Runs the same load on settee, on the bare server with responses of the same mean size, and on the
    /// other servers.
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
        for peer in &self.peers {
            match load(peer, connections, self.seconds, 0, make.clone()).await {
                Ok(load) => drop(values.insert(peer.name, load.rate)),
                Err(error) => eprintln!("{name}: {}: {error}", peer.name),
            }
        }
        self.table.add(name.to_string(), unit, values);
        Ok(())
    }

    fn servers(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.settee).chain(&self.peers)
    }
}

/// Commits batches of `documents` documents from `threads` threads to a new store. Returns documents per
/// second.
fn raw_store(folder: &Path, name: &str, threads: u64, documents: u64, seconds: f64) -> Outcome<f64> {
    use settee::store::{Batch, keyspace, open};
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
                            batch.put(keyspace::body(1, n, 0), document(&format!("{n:08}"), n).into_bytes());
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
    let folder = tempfile::tempdir()?;
    let settee = Target::settee(folder.path()).await?;
    let bare = Target::bare().await?;
    let peers = Target::peers(folder.path()).await;
    let mut bench = Bench {
        seconds: number("BENCH_SECONDS", 5.0),
        only: std::env::var("BENCH_ONLY").ok(),
        folder: folder.path().to_path_buf(),
        settee,
        bare,
        peers,
        table: Table::default(),
    };
    measure(&mut bench).await?;
    waiting(&mut bench, number("BENCH_WAITING", 10_000.0) as usize).await?;
    clients(&mut bench)?;
    let columns = [
        ("settee", "settee"),
        ("bare hyper", "bare"),
        ("raw store", "raw"),
        (common::OTHER, "other"),
        ("CouchDB", "CouchDB"),
        ("pouchdb-server", "pouchdb-server"),
    ];
    bench.table.print(&columns, &format!("{} s a row", bench.seconds))
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

/// Measures the memory while `count` longpolls wait, and the time from one change until the last longpoll
/// returns it.
async fn waiting(bench: &mut Bench, count: usize) -> Outcome<()> {
    let name = format!("{count} waiting longpolls");
    if !bench.wanted(&name) {
        return Ok(());
    }
    let (mut memory, mut heard) = (BTreeMap::new(), BTreeMap::new());
    for target in bench.servers().chain([&bench.bare]) {
        match wait_on(target, count).await {
            Ok((bytes, seconds)) => {
                memory.extend(bytes.map(|bytes| (target.name, bytes as f64 / 1024.0)));
                heard.insert(target.name, seconds * 1000.0);
            }
            Err(error) if target.name == "settee" => return Err(error),
            Err(error) => eprintln!("{name}: {}: {error}", target.name),
        }
    }
    let each = memory.iter().map(|(name, kib)| (*name, kib / count as f64)).collect();
    bench.table.add(format!("{name}: memory more"), "KiB", memory);
    bench.table.add(format!("{name}: memory each"), "KiB", each);
    bench.table.add(format!("{name}: until the last heard"), "ms", heard);
    Ok(())
}

async fn wait_on(target: &Target, count: usize) -> Outcome<(Option<u64>, f64)> {
    target.ask(Ask::new(Method::PUT, "/waiting".into(), String::new(), 1)).await?;
    let before = target.memory();
    let (address, signed_in) = (target.address, target.signed_in);
    let path = format!("{CHANGES}?feed=longpoll&since=now&timeout=170000&heartbeat=170000");
    let end = Instant::now() + HEARD;
    let waiting = spawn_blocking(move || Waiting::open(address, &Ask::get(&path), signed_in, count, end)).await??;
    let memory = target.memory().zip(before).map(|(now, before)| now.saturating_sub(before));
    let from = Instant::now();
    let heard = spawn_blocking(move || waiting.hear("wakeup", end));
    target.ask(Ask::new(Method::PUT, WAKEUP.into(), "{}".into(), 1)).await?;
    Ok((memory, (heard.await?? - from).as_secs_f64()))
}

/// Measures push and pull replication by PouchDB 9 from npm.
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
    bench.table.add(format!("push by {name}"), "documents/s", push);
    bench.table.add(format!("pull by {name}"), "documents/s", pull);
    Ok(())
}
