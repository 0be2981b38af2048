//! Benchmarks views and Mango, in one run on one machine, against two references: QuickJS alone, which maps
//! in-memory documents on all cores (the upper bound for any server that runs the functions in QuickJS), and
//! pouchdb-server 4.2.0 from npm.
//!
//! Run `cargo bench --bench queries`, or `benches/run.sh`, which also installs the npm packages. Prints a
//! Markdown table for `docs/performance.md`. Compare the ratios within one run; absolute numbers of different
//! machines are not comparable.
//!
//! Environment: `BENCH_SECONDS`, duration of each row of requests (5); `BENCH_FEW`, documents in the database
//! of all servers (20000); `BENCH_MANY`, documents in a database of settee only (1000000; 0 skips these
//! rows).

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Ask, Outcome, Table, Target, bulk, document, load, number};
use http::Method;

/// Documents in one `_bulk_docs`.
const BULK: u64 = 1000;
/// The map function. The first element of the key has 100 distinct values.
const MAP: &str =
    "function (doc) { if (doc.type === 'bench') { emit([doc.number % 100, doc.noise.slice(0, 4)], doc.number); } }";

#[tokio::main]
async fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let seconds = number("BENCH_SECONDS", 5.0);
    let (few, many) = (number("BENCH_FEW", 20_000.0) as u64, number("BENCH_MANY", 1_000_000.0) as u64);
    let mut table = Table::default();
    let limit = tokio::task::block_in_place(|| quickjs_alone(few.clamp(1, 50_000), seconds))?;
    let mut servers = vec![Target::settee(folder.path()).await?];
    servers.extend(Target::peers(folder.path()).await);
    measure(&mut table, &servers, few, limit, seconds).await?;
    servers.truncate(1);
    if many > 0 {
        measure(&mut table, &servers, many, limit, seconds).await?;
    }
    let columns = [
        ("settee", "settee"),
        ("QuickJS alone", "QuickJS"),
        (common::OTHER, "other"),
        ("CouchDB", "CouchDB"),
        ("pouchdb-server", "pouchdb-server"),
    ];
    table.print(&columns, &format!("{seconds} s a row of requests"))
}

/// Documents per second that QuickJS parses from memory, maps, and serializes the rows of, on all cores.
fn quickjs_alone(documents: u64, seconds: f64) -> Outcome<f64> {
    let documents: Arc<Vec<String>> = Arc::new((0..documents).map(|n| document(&format!("d{n:08}"), n)).collect());
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mapped = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let work = move |first: usize, documents: Arc<Vec<String>>, mapped: Arc<AtomicU64>| -> rquickjs::Result<()> {
        let runtime = rquickjs::Runtime::new()?;
        rquickjs::Context::full(&runtime)?.with(|ctx| {
            let source = format!(
                "var rows; function emit(key, value) {{ rows.push([key, value]); }} var map = {MAP};
                (function (doc) {{ rows = []; map(doc); return JSON.stringify(rows); }})"
            );
            let map: rquickjs::Function = ctx.eval(source)?;
            let mut documents = documents.iter().cycle().skip(first);
            while Instant::now() < end {
                for document in documents.by_ref().take(256) {
                    let value = ctx.json_parse(document.as_str())?;
                    let _: String = map.call((value,))?;
                }
                mapped.fetch_add(256, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (documents, mapped) = (documents.clone(), mapped.clone());
            std::thread::spawn(move || work(thread * documents.len() / threads, documents, mapped))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| "a thread that maps panicked")??;
    }
    Ok(mapped.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

async fn fill(target: &Target, database: &str, count: u64) -> Outcome<f64> {
    let begin = Instant::now();
    asked(target, Ask::new(Method::PUT, format!("/{database}"), String::new(), 1)).await?;
    for first in (0..count).step_by(BULK as usize) {
        let body = bulk("d", first, BULK.min(count - first));
        asked(target, Ask::new(Method::POST, format!("/{database}/_bulk_docs"), body, 1)).await?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Sends a request and reads the whole response. Returns (seconds, bytes of the response body).
async fn asked(target: &Target, ask: Ask) -> Outcome<(f64, usize)> {
    let what = format!("{}: {} {}", target.name, ask.method, ask.path);
    let begin = Instant::now();
    let (status, answer) = target.ask(ask).await?;
    if !status.is_success() {
        return Err(format!("{what}: {status} {}", String::from_utf8_lossy(&answer[..answer.len().min(200)])).into());
    }
    Ok((begin.elapsed().as_secs_f64(), answer.len()))
}

async fn measure(table: &mut Table, servers: &[Target], count: u64, limit: f64, seconds: f64) -> Outcome<()> {
    let database = format!("queries{count}");
    let name = |what: &str| format!("{what}, {count} documents");
    for target in servers {
        eprintln!("{}: {count} documents written in {:.0} s", target.name, fill(target, &database, count).await?);
    }

    let (mut view, mut rows) = (BTreeMap::from([("QuickJS alone", limit)]), BTreeMap::new());
    let design = serde_json::json!({"views": {"sum": {"map": MAP, "reduce": "_sum"}}}).to_string();
    for target in servers {
        asked(target, Ask::new(Method::PUT, format!("/{database}/_design/d"), design.clone(), 1)).await?;
        let path = format!("/{database}/_design/d/_view/sum");
        let (took, _) = asked(target, Ask::get(&path)).await?;
        view.insert(target.name, count as f64 / took);
        let (took, _) = asked(target, Ask::get(&format!("{path}?reduce=false"))).await?;
        rows.insert(target.name, count as f64 / took);
    }
    table.add(name("view build, JavaScript map and _sum"), "documents/s", view);
    table.add(name("all rows of a view"), "rows/s", rows);

    let mut mango = BTreeMap::new();
    for target in servers {
        let index = r#"{"index":{"fields":["number"]},"name":"number"}"#;
        // pouchdb-server builds the index when it is created, settee on the first query: measure both
        // requests.
        let (defined, _) =
            asked(target, Ask::new(Method::POST, format!("/{database}/_index"), index.into(), 1)).await?;
        let find = r#"{"selector":{"number":{"$gt":-1}},"limit":1}"#;
        let (took, _) = asked(target, Ask::new(Method::POST, format!("/{database}/_find"), find.into(), 1)).await?;
        mango.insert(target.name, count as f64 / (defined + took));
    }
    table.add(name("Mango index build"), "documents/s", mango);

    let reduce = |query: &str| {
        let path = format!("/{database}/_design/d/_view/sum?{query}");
        move |_: u64| Ask::get(&path)
    };
    let find = {
        let database = database.clone();
        move |n: u64| {
            let wanted = n.wrapping_mul(7919) % count;
            let body = format!(r#"{{"selector":{{"number":{wanted}}},"limit":1}}"#);
            Ask::new(Method::POST, format!("/{database}/_find"), body, 1)
        }
    };
    compare(table, servers, name("reduce of all rows, 1 connection"), 1, seconds, reduce("")).await?;
    compare(table, servers, name("reduce to 100 groups, 1 connection"), 1, seconds, reduce("group_level=1")).await?;
    for connections in [1, 4] {
        let what = name(&format!("_find one document by index, {connections} connections"));
        compare(table, servers, what, connections, seconds, find.clone()).await?;
    }
    Ok(())
}

async fn compare<F>(
    table: &mut Table,
    servers: &[Target],
    name: String,
    connections: usize,
    seconds: f64,
    make: F,
) -> Outcome<()>
where
    F: Fn(u64) -> Ask + Send + Sync + Clone + 'static,
{
    let mut values = BTreeMap::new();
    for target in servers {
        values.insert(target.name, load(target, connections, seconds, 0, make.clone()).await?.rate);
    }
    table.add(name, "requests/s", values);
    Ok(())
}
