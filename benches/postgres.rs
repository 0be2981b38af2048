//! settee on a PostgreSQL beside plain SQL on the same server, and beside the embedded engine:
//!
//! `protocol-tests/postgres.sh cargo bench --bench postgres` prints the table of docs/performance.md.
//!
//! Plain SQL writes the rows that settee writes for a document (its record, its row in the changes order, its body, the
//! database's counters): each of the 32 clients has a connection, sends one prepared upsert and waits until it is committed;
//! in bulk, one upsert by `unnest` has the rows of 500 documents. So both sides have the same rows, the same number of
//! clients that wait, and a client of the same kind in this process. HTTP, JSON, accounts and revision trees are only on
//! settee's side. All three take turns (`BENCH_ROUNDS`, 5), for `BENCH_SECONDS` (3) each; the table has the medians.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Ask, Failure, Outcome, Target, load, number};
use http::Method;
use tokio_postgres::NoTls;

/// Documents of a bulk write.
const BULK: u64 = 500;
/// Documents that are read.
const READ: u64 = 20_000;
/// Databases of the row that writes to many.
const DATABASES: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Put,
    PutEach,
    Bulk,
    Get,
}

const ROWS: [(&str, &str, Work, usize); 5] = [
    ("PUT, one database, 1 connection", "requests/s", Work::Put, 1),
    ("PUT, one database, 32 connections", "requests/s", Work::Put, 32),
    ("PUT, 32 databases, 32 connections", "requests/s", Work::PutEach, 32),
    ("_bulk_docs, 500 each, 4 connections", "documents/s", Work::Bulk, 4),
    ("GET, 32 connections", "requests/s", Work::Get, 32),
];

fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let store = std::env::var("SETTEE_TEST_STORE").map_err(|_| "run it by protocol-tests/postgres.sh")?;
    let (_, rest) = store.split_once('@').ok_or("an address with a user")?;
    let folder = PathBuf::from(rest.split('/').next().unwrap_or_default().replace("%2F", "/"));
    let sql = format!("host={} user=settee dbname=postgres", folder.display());
    let postmaster = std::fs::read_to_string(folder.join("data/postmaster.pid"))?;
    let server: u32 = postmaster.lines().next().unwrap_or_default().trim().parse()?;
    let (seconds, rounds) = (number("BENCH_SECONDS", 3.0), number("BENCH_ROUNDS", 5.0) as usize);
    let client = connect(&sql).await?;
    client.batch_execute("create table raw (db int8, k bytea, v bytea, primary key (db, k))").await?;
    client.batch_execute("alter table raw alter column v set storage external").await?;
    let dir = tempfile::tempdir()?;
    let shared = Target::settee_on(dir.path(), "settee on PostgreSQL", &store).await?;
    let embedded = Target::settee_on(dir.path(), "embedded", "sled").await?;
    for target in [&shared, &embedded] {
        fill(target).await?;
    }
    println!(
        "| what | unit | plain SQL | settee on PostgreSQL | embedded | PostgreSQL ÷ plain | PostgreSQL ÷ embedded | CPU µs \
         each: plain SQL: client | PostgreSQL | settee: client | settee | PostgreSQL |"
    );
    println!("|---|---|{}", "---:|".repeat(10));
    let run = Arc::new(AtomicU64::new(0));
    for (name, unit, work, connections) in ROWS {
        let mut found: [Vec<Run>; 3] = Default::default();
        for _ in 0..rounds {
            let again = run.fetch_add(1, Ordering::Relaxed);
            let meter = Meter { server, settee: None };
            found[0].push(meter.of(seconds, plain(&sql, work, connections, seconds, again)).await?);
            for (at, target) in [(1, &shared), (2, &embedded)] {
                let meter = Meter { server, settee: target.process() };
                let rate = async {
                    let make = move |number| request(work, connections, again, number);
                    Ok(load(target, connections, seconds, 0, make).await?.rate)
                };
                found[at].push(meter.of(seconds, rate).await?);
            }
        }
        let rate = |at: usize| median(found[at].iter().map(|run| run.rate));
        let cpu = |at: usize, of: usize| format!("{:.1}", median(found[at].iter().map(|run| run.cpu[of])));
        let share = |other: usize| format!("{:.2}", rate(1) / rate(other));
        let rates = (0..3).map(|at| format!("{:.0}", rate(at))).collect::<Vec<_>>().join(" | ");
        let cells = [cpu(0, 0), cpu(0, 2), cpu(1, 0), cpu(1, 1), cpu(1, 2)].join(" | ");
        println!("| {name} | {unit} | {rates} | {} | {} | {cells} |", share(0), share(2));
    }
    Ok(())
}

/// A measured run: things a second, and the CPU time of each in microseconds: of this process, settee, PostgreSQL.
struct Run {
    rate: f64,
    cpu: [f64; 3],
}

struct Meter {
    server: u32,
    settee: Option<u32>,
}

impl Meter {
    async fn of(&self, seconds: f64, work: impl Future<Output = Outcome<f64>>) -> Outcome<Run> {
        let used = || {
            let settee = self.settee.map_or(0.0, |process| ticks(process).map_or(0.0, |(_, all)| all));
            [ticks(std::process::id()).map_or(0.0, |(_, all)| all), settee, with_children(self.server)]
        };
        let before = used();
        let rate = work.await?;
        let after = used();
        let each = |at: usize| (after[at] - before[at]) * 1e6 / (rate * seconds);
        Ok(Run { rate, cpu: [each(0), each(1), each(2)] })
    }
}

/// The parent of a process, and the CPU seconds of it and of its ended children.
fn ticks(process: u32) -> Option<(u32, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let spent = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    Some((fields.get(1)?.parse().ok()?, spent / 100.0))
}

fn with_children(process: u32) -> f64 {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = processes.filter_map(ticks).filter(|(parent, _)| *parent == process).map(|(_, spent)| spent);
    children.sum::<f64>() + ticks(process).map_or(0.0, |(_, spent)| spent)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn text() -> String {
    "x".repeat(400)
}

/// The databases, and the documents that are read.
async fn fill(target: &Target) -> Outcome<()> {
    let mut connection = target.connect().await?;
    let names = ["put".to_owned(), "bulk".to_owned(), "read".to_owned()];
    for name in names.into_iter().chain((0..DATABASES).map(|at| format!("put{at}"))) {
        connection.ask(&Ask::new(Method::PUT, format!("/{name}"), String::new(), 1), 0).await?;
    }
    for first in (0..READ).step_by(1000) {
        let docs: Vec<_> =
            (first..first + 1000).map(|at| format!(r#"{{"_id":"r{at}","text":"{}"}}"#, text())).collect();
        let body = format!(r#"{{"docs":[{}]}}"#, docs.join(","));
        let (status, said) = connection.ask(&Ask::new(Method::POST, "/read/_bulk_docs".into(), body, 1000), 0).await?;
        if !status.is_success() {
            return Err(Failure::from(format!("{status} {said:?}")));
        }
    }
    Ok(())
}

/// The request with this number in the run.
fn request(work: Work, connections: usize, run: u64, number: u64) -> Ask {
    let id = format!("{run}-{connections}-{number}");
    let put = |database: &str| {
        Ask::new(Method::PUT, format!("/{database}/d{id}"), format!(r#"{{"text":"{}","n":1}}"#, text()), 1)
    };
    match work {
        Work::Put => put("put"),
        Work::PutEach => put(&format!("put{}", number % DATABASES)),
        Work::Bulk => {
            let docs: Vec<_> = (0..BULK).map(|at| format!(r#"{{"_id":"b{id}-{at}","text":"{}"}}"#, text())).collect();
            Ask::new(Method::POST, "/bulk/_bulk_docs".into(), format!(r#"{{"docs":[{}]}}"#, docs.join(",")), BULK)
        }
        Work::Get => Ask::get(&format!("/read/r{}", number.wrapping_mul(31) % READ)),
    }
}

async fn connect(sql: &str) -> Outcome<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(sql, NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// The three rows of a document, beside the counters: record, row in the changes order, body.
fn rows(number: u64) -> [(Vec<u8>, Vec<u8>); 3] {
    let key = |kind: u8, number: u64| [&[kind][..], &number.to_be_bytes(), b"document"].concat();
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [(key(b'd', spread), vec![1; 60]), (key(b's', number), vec![2; 60]), (key(b'b', number), vec![b'x'; 430])]
}

/// Plain SQL: documents a second.
async fn plain(sql: &str, work: Work, connections: usize, seconds: f64, run: u64) -> Outcome<f64> {
    const UPSERT: &str = "on conflict (db, k) do update set v = excluded.v";
    let mut tasks = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = connect(sql).await?;
        let one = format!("insert into raw values ($1, $2, $3), ($1, $4, $5), ($1, $6, $7), ($1, $8, $9) {UPSERT}");
        let many = format!("insert into raw select $1, k, v from unnest($2::bytea[], $3::bytea[]) r(k, v) {UPSERT}");
        let statements = [
            client.prepare(&one).await?,
            client.prepare(&many).await?,
            client.prepare("select v from raw where db = $1 and k = $2").await?,
        ];
        clients.push((client, statements));
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    for (at, (client, [one, many, get])) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let (database, counters) = (at as i64 + 1, (b"i".to_vec(), vec![3u8; 70]));
            let (mut done, mut next) = (0, run << 40);
            while Instant::now() < end {
                match work {
                    Work::Put | Work::PutEach => {
                        let [record, change, body] = rows(next);
                        client
                            .execute(
                                &one,
                                &[
                                    &database,
                                    &record.0,
                                    &record.1,
                                    &change.0,
                                    &change.1,
                                    &body.0,
                                    &body.1,
                                    &counters.0,
                                    &counters.1,
                                ],
                            )
                            .await?;
                        (done, next) = (done + 1, next + 1);
                    }
                    Work::Bulk => {
                        let all = (next..next + BULK).flat_map(rows).chain([counters.clone()]);
                        let (keys, values): (Vec<_>, Vec<_>) = all.unzip();
                        client.execute(&many, &[&database, &keys, &values]).await?;
                        (done, next) = (done + BULK, next + BULK);
                    }
                    Work::Get => {
                        client.query_opt(&get, &[&database, &counters.0]).await?;
                        done += 1;
                    }
                }
            }
            Ok::<u64, Failure>(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}
