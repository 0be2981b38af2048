//! Replication by the server between databases here and on another server, through a proxy that makes faults.

mod faulty;
mod hostile;
mod large;
mod requests;
mod samples;
mod targets;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::faulty::Faulty;
use self::samples::{Random, contents, fill, universe};
use super::*;
use crate::auth::UserCtx;
use crate::clock::Clock;
use crate::db::Database;
use crate::net::tls::client_config;
use crate::policy::replication_access::UserAccess;
use crate::replicate::{
    Basic, Context, Endpoint, Failure, Filter, Network, Outcome, Parameters, Progress, RemoteEndpoint, Replication,
    ReplicationId, run,
};

/// What a pass on this server needs, with addresses of this machine allowed.
fn context(running: &Running) -> Context {
    context_of(running, UserCtx::server(), true)
}

fn context_of(running: &Running, user: UserCtx, allow_private: bool) -> Context {
    Context {
        access: Arc::new(UserAccess::new(&running.app, user)),
        network: Arc::new(Network::new(client_config(None).unwrap(), move || allow_private)),
        clock: Clock::system(),
        server_uuid: "tests".into(),
    }
}

fn local(name: &str) -> Endpoint {
    Endpoint::Local { name: name.into() }
}

fn remote(address: impl std::fmt::Display, name: &str) -> Endpoint {
    Endpoint::Remote(Box::new(RemoteEndpoint {
        url: format!("http://{address}/{name}").parse().unwrap(),
        headers: http::HeaderMap::new(),
        auth: Some(Basic { username: "ann".into(), password: "secret".into() }),
        proxy: None,
    }))
}

/// Runs one pass.
async fn pass(context: &Context, parameters: &Parameters, progress: &Progress) -> Result<Outcome, Failure> {
    let id = ReplicationId::of(context, parameters).await?;
    let replication = Replication { id, parameters: parameters.clone() };
    within(run(context, &replication, progress, &CancellationToken::new())).await
}

/// Runs a one-shot replication with no retries until it is complete, and returns its answer.
async fn replicate(context: &Context, parameters: &Parameters) -> Value {
    let progress = Progress::new();
    for _ in 0..200 {
        match pass(context, parameters, &progress).await {
            Ok(Outcome::Completed(completed)) => return completed.to_json(),
            Ok(other) => panic!("{other:?}"),
            Err(Failure::Network(_) | Failure::Status { .. } | Failure::Changes(_) | Failure::CheckpointCommit(_)) => {}
            Err(Failure::Unauthorized(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never complete");
}

fn create(running: &Running, name: &str) -> Arc<Database> {
    running.app.databases.create(name, Default::default(), None).unwrap()
}

/// Random trees on both ends, random filters, random faults: both ends are equal in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_are_equal_in_the_end() {
    let seed = std::env::var("SETTEE_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = seed.unwrap_or_else(|| u64::from_le_bytes(Clock::system().random_16()[..8].try_into().unwrap()) >> 16);
    let (here, there) = (server(&[]).await, server(&[]).await);
    let context = context(&here);
    for seed in first..first + if seed.is_some() { 1 } else { 12 } {
        eprintln_seed(seed);
        let proxy = Faulty::before(there.address, seed).await;
        one_case(&context, &here, &there, &proxy, seed).await;
    }
}

#[allow(clippy::print_stderr, reason = "a failing test shows it")]
fn eprintln_seed(seed: u64) {
    eprintln!("SETTEE_SEED={seed}");
}

async fn one_case(context: &Context, here: &Running, there: &Running, proxy: &Faulty, seed: u64) {
    let mut random = Random::new(seed);
    let name = format!("case{seed}");
    let universe = universe(&mut random);
    let (a, b) = (create(here, &name), create(there, &name));
    // Three kinds of ends: both here, one elsewhere, both elsewhere.
    let other = format!("{name}b");
    let kind = random.below(3);
    let (first, second, of_first, of_second) = match kind {
        0 => (local(&name), local(&other), a.clone(), create(here, &other)),
        1 => (local(&name), remote(proxy.address, &name), a.clone(), b.clone()),
        _ => (remote(proxy.address, &name), remote(proxy.address, &other), b.clone(), create(there, &other)),
    };
    fill(&of_first, &universe, &mut random).await;
    fill(&of_second, &universe, &mut random).await;
    let mut parameters = Parameters::new(first.clone(), second.clone());
    parameters.retries_per_request = random.below(2) as u32;
    parameters.worker_batch_size = 1 + random.below(9) as usize;
    parameters.worker_processes = 1 + random.below(4) as usize;
    parameters.use_bulk_get = random.below(3) > 0;
    parameters.connection_timeout = Duration::from_millis(1500);
    // A filter first: what passes is there, and nothing else is new.
    let before = contents(&of_second);
    parameters.filter = samples::filter(&universe, &mut random);
    replicate(context, &parameters).await;
    let (source, target) = (contents(&of_first), contents(&of_second));
    for (key, leaf) in &source {
        let passes = samples::passes(&parameters.filter, leaf);
        // A leaf here may be an inner revision there.
        let is_there = target.contains_key(key) || samples::is_known(&of_second, key);
        assert!(!passes || is_there, "{key:?} is missing with {:?}", parameters.filter);
    }
    for key in target.keys().filter(|key| !before.contains_key(*key)) {
        let leaf = source.get(key);
        assert!(leaf.is_some_and(|leaf| samples::passes(&parameters.filter, leaf)), "{key:?} is too much");
    }
    // Everything in both directions.
    parameters.filter = Filter::None;
    let answer = replicate(context, &parameters).await;
    assert_eq!(answer["ok"], true);
    (parameters.source, parameters.target) = (second, first);
    replicate(context, &parameters).await;
    let (one, two) = (contents(&of_first), contents(&of_second));
    for (key, leaf) in &one {
        assert_eq!(Some(leaf), two.get(key), "{key:?} differs");
    }
    assert_eq!(one.len(), two.len());
    proxy.stop_faults();
    let again = replicate(context, &parameters).await;
    assert_eq!(again["no_changes"], true, "{again}");
}

/// A new pair of databases, the first with three documents.
async fn small(here: &Running, there: &Running, name: &str) -> (Arc<Database>, Arc<Database>) {
    let (from, to) = (create(there, name), create(here, name));
    for id in ["a", "b", "c"] {
        samples::put(&from, id, 1).await;
    }
    (from, to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_have_couchdbs_members_and_count() {
    let (here, there) = (server(&[]).await, server(&[]).await);
    let context = context(&here);
    let (from, to) = small(&here, &there, "db").await;
    let parameters = Parameters::new(remote(there.address, "db"), local("db"));
    let first = replicate(&context, &parameters).await;
    let last = from.wire_sequence(3, None);
    assert_eq!((&first["ok"], &first["source_last_seq"]), (&json!(true), &json!(last)));
    assert_eq!(first["replication_id_version"], 4);
    let row = &first["history"][0];
    for (member, value) in [
        ("session_id", &first["session_id"]),
        ("start_last_seq", &json!(0)),
        ("recorded_seq", &json!(last)),
        ("missing_checked", &json!(3)),
        ("missing_found", &json!(3)),
        ("docs_read", &json!(3)),
        ("docs_written", &json!(3)),
        ("doc_write_failures", &json!(0)),
        ("bulk_get_docs", &json!(3)),
        ("bulk_get_attempts", &json!(3)),
    ] {
        assert_eq!(&row[member], value, "{member}");
    }
    let id = ReplicationId::of(&context, &parameters).await.unwrap().base;
    for database in [&from, &to] {
        let stored: Value = serde_json::from_str(&database.local(&id).unwrap().json).unwrap();
        assert_eq!(stored["history"], first["history"], "on both ends");
    }
    let nothing = replicate(&context, &parameters).await;
    assert_eq!((&nothing["no_changes"], &nothing["session_id"]), (&json!(true), &first["session_id"]));
    samples::put(&from, "d", 1).await;
    let second = replicate(&context, &parameters).await;
    assert_eq!(second["history"].as_array().unwrap().len(), 2);
    assert_eq!(second["history"][0]["start_last_seq"], last);
    let row = &second["history"][0];
    assert_eq!((&row["docs_written"], &row["missing_checked"]), (&json!(4), &json!(4)), "of both sessions: {second}");
    // A target that lost its copy starts over, and asks for nothing that is there.
    to.write_local(&id, crate::db::LocalWrite::Delete).await.unwrap();
    let third = replicate(&context, &parameters).await;
    assert_eq!((&third["history"][0]["docs_written"], &third["history"][0]["missing_checked"]), (&json!(0), &json!(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuous_job_between_databases_here_rests_and_goes_on() {
    let here = server(&[]).await;
    let context = context(&here);
    let (a, b) = (create(&here, "a"), create(&here, "b"));
    let mut parameters = Parameters::new(local("a"), local("b"));
    parameters.continuous = true;
    let progress = Progress::new();
    let rests = |outcome: Outcome| match outcome {
        Outcome::CaughtUp { sequence } => sequence,
        other => panic!("{other:?}"),
    };
    assert_eq!(rests(pass(&context, &parameters, &progress).await.unwrap()), 0);
    for round in 1..=3 {
        samples::put(&a, "doc", round).await;
        assert_eq!(rests(pass(&context, &parameters, &progress).await.unwrap()), round);
        assert_eq!(contents(&a), contents(&b));
    }
    let counters = progress.counters();
    assert_eq!((counters.docs_written, counters.changes_pending), (3, Some(0)));
    // The first pass with changes has written a checkpoint, and the next ones wait for its time.
    assert_eq!(counters.checkpointed_source_seq, json!(a.wire_sequence(1, None)));
    assert!(progress.checkpoint_due().is_some());
    let stop = CancellationToken::new();
    stop.cancel();
    let id = ReplicationId::of(&context, &parameters).await.unwrap();
    let replication = Replication { id, parameters };
    assert_eq!(run(&context, &replication, &progress, &stop).await, Ok(Outcome::Stopped));
    assert_eq!(progress.counters().checkpointed_source_seq, json!(a.wire_sequence(3, None)), "a stopped job records");
    // Another database of the same name is noticed.
    here.app.databases.delete("b").unwrap();
    create(&here, "b");
    samples::put(&a, "doc", 9).await;
    pass(&context, &replication.parameters, &progress).await.unwrap();
    assert_eq!(contents(&a), contents(&here.app.databases.get("b").unwrap()));
    // A pass that is given up before its end leaves no position: it may have written a checkpoint.
    assert!(progress.rests());
    let stop = CancellationToken::new();
    let mut is_given_up = false;
    for round in 10..200 {
        samples::put(&a, "doc", round).await;
        let mut ends = Box::pin(run(&context, &replication, &progress, &stop));
        // If the threads for blocking calls are quick, a pass ends at once.
        is_given_up = futures_util::poll!(&mut ends).is_pending();
        if is_given_up {
            break;
        }
    }
    assert!(is_given_up);
    assert!(!progress.rests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuous_job_from_another_server_follows_until_it_is_stopped() {
    let (here, there) = (server(&[]).await, server(&[]).await);
    let context = context(&here);
    let (from, to) = small(&here, &there, "db").await;
    let mut parameters = Parameters::new(remote(there.address, "db"), local("db"));
    parameters.continuous = true;
    let id = ReplicationId::of(&context, &parameters).await.unwrap();
    let replication = Arc::new(Replication { id, parameters });
    let (progress, stop) = (Arc::new(Progress::new()), CancellationToken::new());
    let job = {
        let (context, replication, progress, stop) =
            (context.clone(), replication.clone(), progress.clone(), stop.clone());
        tokio::spawn(async move { run(&context, &replication, &progress, &stop).await })
    };
    let mut moved = to.watch();
    for round in 0..3 {
        samples::put(&from, "more", round).await;
        within(async {
            while contents(&from) != contents(&to) {
                moved.changed().await.unwrap();
            }
        })
        .await;
    }
    stop.cancel();
    assert_eq!(within(job).await.unwrap(), Ok(Outcome::Stopped));
    assert_eq!(progress.counters().checkpointed_source_seq, json!(from.last_sequence()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_address_is_refused_unless_allowed() {
    let (here, there) = (server(&[]).await, server(&[]).await);
    small(&here, &there, "db").await;
    let context = context_of(&here, UserCtx::server(), false);
    let port = there.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
        let parameters = Parameters::new(remote(format!("{host}:{port}"), "db"), local("db"));
        let failed = pass(&context, &parameters, &Progress::new()).await.unwrap_err();
        let Failure::AddressRefused(text) = &failed else { panic!("{host}: {failed}") };
        assert!(text.contains("allow_private"), "{text}");
        assert!(failed.is_permanent());
    }
    let body = json!({"source": format!("http://127.0.0.1:{port}/db"), "target": "db"}).to_string();
    let reply =
        ask(here.address, "POST /_replicate", &[ADMIN, "Content-Type: application/json"], body.as_bytes()).await;
    assert_eq!((reply.status, reply.error().as_str()), (403, "address_not_allowed"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_couchdbs_words_and_no_passwords() {
    let (here, there) = (server(&[]).await, server(&[]).await);
    let context = context(&here);
    small(&here, &there, "db").await;
    let mut wrong = remote(there.address, "db");
    if let Endpoint::Remote(remote) = &mut wrong {
        remote.auth = Some(Basic { username: "ann".into(), password: "not-it-hunter2".into() });
    }
    for (source, target, word) in [
        (remote(there.address, "none"), local("db"), "db_not_found"),
        (remote(there.address, "db"), local("none"), "db_not_found"),
        (local("none"), local("db"), "db_not_found"),
        (wrong, local("db"), "unauthorized"),
        (remote(there.address, "_up"), local("db"), "invalid_response"),
    ] {
        let parameters = Parameters { retries_per_request: 0, ..Parameters::new(source, target) };
        let failed = pass(&context, &parameters, &Progress::new()).await.unwrap_err();
        assert_eq!(failed.word(), word, "{failed}");
        assert!(!format!("{failed} {failed:?}").contains("hunter2"), "{failed:?}");
    }
    let mut parameters = Parameters::new(remote(there.address, "db"), local("made"));
    parameters.create_target = true;
    assert_eq!(replicate(&context, &parameters).await["ok"], true);
    assert_eq!(here.app.databases.get("made").unwrap().info().documents, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_a_document_passes_it_over() {
    let here = server(&[("couch_peruser", "enable", "false")]).await;
    let (a, b) = (create(&here, "a"), create(&here, "b"));
    for id in ["one", "_design/x", "two"] {
        samples::put(&a, id, 1).await;
    }
    for database in [&a, &b] {
        let security = r#"{"members":{"names":["bob"]},"admins":{"roles":["_admin"]}}"#;
        database.change_security(move |_| Ok(Some(security.to_owned()))).await.unwrap();
    }
    let bob = UserCtx { name: Some("bob".into()), ..UserCtx::default() };
    let context = context_of(&here, bob, true);
    let answer = replicate(&context, &Parameters::new(local("a"), local("b"))).await;
    let row = &answer["history"][0];
    assert_eq!((&row["docs_written"], &row["doc_write_failures"]), (&json!(2), &json!(1)), "{answer}");
    let nobody = context_of(&here, UserCtx::anonymous(), true);
    let failed = pass(&nobody, &Parameters::new(local("a"), local("b")), &Progress::new()).await.unwrap_err();
    assert_eq!(failed.word(), "unauthorized");
}
