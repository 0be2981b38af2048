//! Tests that no acknowledged write is lost when the real binary is killed, loses power or runs out of disk
//! space, under concurrent writers of all kinds.
//!
//! A short version runs with all tests. The long version is
//! `SETTEE_ROUNDS=200 cargo test --release --test durability -- --nocapture`.
//! The tests of power cuts and full disks need root, loop devices and ext4; elsewhere they are skipped, which
//! fails where `CI` is set.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod allowed_skips;
#[path = "durability/client.rs"]
mod client;
#[path = "durability/device.rs"]
mod device;
#[path = "durability/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "shared with the hostile tests; each uses a part")]
#[path = "durability/server.rs"]
mod server;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use client::Client;
use device::Device;
use ledger::{KINDS, Ledger, verify, work};
use serde_json::json;
use server::{Server, check, run};

fn rounds(quick: u64) -> u64 {
    std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(quick)
}

/// Duration of a round: differs between rounds, but is the same in every run.
fn moment(round: u64, most: u64) -> Duration {
    Duration::from_millis(20 + (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) % most)
}

/// What else goes on while the workers write.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    /// The store is rewritten, again and again.
    Rewrites,
}

/// Runs one worker per ledger; calls `act` with the server after `end`, while they still write, and then
/// stops them. `rewritten`: a folder whose store is rewritten meanwhile, again and again, and where the rewrites are
/// counted.
fn write_until<T>(
    server: Server,
    ledgers: &mut [Ledger],
    rewritten: Option<(&Path, &AtomicU64)>,
    end: Duration,
    act: impl FnOnce(Server) -> T,
) -> T {
    let stop = AtomicBool::new(false);
    let address = server.address.clone();
    std::thread::scope(|scope| {
        scopeguard::defer!(stop.store(true, Ordering::Relaxed));
        for (number, ledger) in ledgers.iter_mut().enumerate() {
            let (stop, address) = (&stop, address.as_str());
            scope.spawn(move || {
                let Ok(mut client) = Client::connect(address) else { return };
                // Returns an error when the server dies, which is expected.
                let _ = work(&mut client, number, ledger, stop);
            });
        }
        if let Some((data, rewrites)) = rewritten {
            let (stop, data) = (&stop, data.to_str().expect("text"));
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Fails when the server dies. If it is dead already, the command rewrites the store itself.
                    let (rewritten, said) = run(&["compact-store", "--data", data]);
                    rewrites.fetch_add(u64::from(rewritten), Ordering::Relaxed);
                    let expected = ["server", "too much is being written", "in use"];
                    assert!(rewritten || expected.iter().any(|words| said.contains(words)), "{said}");
                }
            });
        }
        std::thread::sleep(end);
        act(server)
    })
}

fn fresh_ledgers() -> Vec<Ledger> {
    (0..KINDS).map(|_| Ledger::default()).collect()
}

fn make_database(server: &Server) {
    assert!(server.client().ask("PUT", "/db", "application/json", b"").expect("it answers").is_ok());
}

fn answered(ledgers: &[Ledger]) -> u64 {
    ledgers.iter().map(|ledger| ledger.answered).sum()
}

fn sigkill(engine: &str, beside: Beside) {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let mut ledgers = fresh_ledgers();
    let mut server = Server::start(&data, engine).expect("it starts");
    make_database(&server);
    let rewrites = AtomicU64::new(0);
    let is_tested = |ledgers: &[Ledger]| {
        answered(ledgers) > 0 && (rewrites.load(Ordering::Relaxed) > 0 || beside == Beside::Nothing)
    };
    let mut round = 0;
    // On a slow machine the first kills may come before the first write, and interrupt every rewrite.
    while round < rounds(3) || round < rounds(3) + 30 && !is_tested(&ledgers) {
        let rewritten = (beside == Beside::Rewrites).then_some((data.as_path(), &rewrites));
        write_until(server, &mut ledgers, rewritten, moment(round, 1500), Server::kill);
        check(&data).unwrap_or_else(|said| panic!("round {round}: {said}"));
        server = Server::start(&data, engine).unwrap_or_else(|said| panic!("round {round}: {said}"));
        verify(&mut server.client(), &mut ledgers);
        round += 1;
    }
    assert!(is_tested(&ledgers));
    println!(
        "{engine}: {round} rounds, {} acknowledged writes, {} rewrites, nothing lost",
        answered(&ledgers),
        rewrites.into_inner()
    );
}

#[test]
fn sigkill_sled() {
    sigkill("sled", Beside::Nothing);
}

#[test]
fn sigkill_redb() {
    sigkill("redb", Beside::Nothing);
}

#[test]
fn sigkill_during_rewrites_sled() {
    sigkill("sled", Beside::Rewrites);
}

#[test]
fn sigkill_during_rewrites_redb() {
    sigkill("redb", Beside::Rewrites);
}

fn power_cut(engine: &str, beside: Beside) {
    let (mut total, rewrites) = (0, AtomicU64::new(0));
    for round in 0..rounds(1) {
        let Some(mut device) = Device::mount(700) else { return };
        let data = device.live().join("data");
        let mut ledgers = fresh_ledgers();
        let server = Server::start(&data, engine).expect("it starts");
        make_database(&server);
        let end = moment(round, 3000);
        let rewritten = (beside == Beside::Rewrites).then_some((data.as_path(), &rewrites));
        let cut = write_until(server, &mut ledgers, rewritten, end, |server| {
            server.signal(rustix::process::Signal::STOP);
            // The stopped server sends nothing more. Wait until the writers have received the responses in
            // transit.
            std::thread::sleep(Duration::from_millis(50));
            let cut = device.after_power_cut();
            server.kill();
            cut
        });
        let data = cut.join("data");
        check(&data).unwrap_or_else(|said| panic!("round {round}: {said}"));
        let server = Server::start(&data, engine).unwrap_or_else(|said| panic!("round {round}: {said}"));
        verify(&mut server.client(), &mut ledgers);
        server.kill();
        device.unmount_cut();
        total += answered(&ledgers);
    }
    println!("{engine}: {} rounds, {total} acknowledged writes, nothing lost", rounds(1));
}

#[test]
fn power_cut_sled() {
    power_cut("sled", Beside::Nothing);
}

#[test]
fn power_cut_redb() {
    power_cut("redb", Beside::Nothing);
}

#[test]
fn power_cut_during_rewrites_sled() {
    power_cut("sled", Beside::Rewrites);
}

#[test]
fn power_cut_during_rewrites_redb() {
    power_cut("redb", Beside::Rewrites);
}

/// Fills the disk through the server, restarts the server on the full disk, frees space, and writes again.
fn full_disk(engine: &str) {
    let Some(device) = Device::mount(160) else { return };
    let data = device.live().join("data");
    let ballast = device.live().join("ballast");
    std::fs::write(&ballast, vec![0; 40 << 20]).expect("there is room for the ballast");
    let server = Server::start(&data, engine).expect("it starts");
    make_database(&server);
    let mut client = server.client();
    let mut written = Vec::new();
    let refused = loop {
        let id = format!("doc{}", written.len());
        let doc = json!({"value": written.len(), "filler": "x".repeat(100_000)});
        let answer = client.json("PUT", &format!("/db/{id}"), &doc).expect("it answers");
        match answer.is_ok() {
            true => written.push((id, answer.json()["rev"].as_str().expect("a revision").to_owned())),
            false => break answer,
        }
        assert!(written.len() < 5000, "the disk does not fill");
    };
    assert_eq!(refused.status, 507, "{}", String::from_utf8_lossy(&refused.body));
    assert!(String::from_utf8_lossy(&refused.body).contains("full"), "{}", String::from_utf8_lossy(&refused.body));
    let all_there = |written: &[(String, String)], client: &mut Client| {
        for (id, revision) in written {
            let found = client.get(&format!("/db/{id}")).expect("it answers");
            assert_eq!(found.json()["_rev"], *revision, "{id}");
        }
    };
    all_there(&written, &mut client);
    // Another process fills the space that the server kept in reserve.
    let mut rest = std::fs::File::create(device.live().join("rest")).expect("a file");
    while std::io::Write::write_all(&mut rest, &[0; 64 << 10]).is_ok() {}
    drop(rest);
    let more = json!({"filler": "x".repeat(100_000)});
    for _ in 0..5 {
        assert!(!client.json("PUT", "/db/more", &more).expect("it answers").is_ok());
    }
    all_there(&written, &mut client);
    server.kill();
    let server = Server::start(&data, engine).unwrap_or_else(|said| panic!("on a full disk: {said}"));
    let mut client = server.client();
    all_there(&written, &mut client);
    // A store that was just opened may find free space within its files. It accepts what fits there, and no more.
    let mut accepted = Vec::new();
    loop {
        let id = format!("within{}", accepted.len());
        let answer = client.json("PUT", &format!("/db/{id}"), &more).expect("it answers");
        if !answer.is_ok() {
            assert_eq!(answer.status, 507, "{}", String::from_utf8_lossy(&answer.body));
            break;
        }
        accepted.push((id, answer.json()["rev"].as_str().expect("a revision").to_owned()));
        assert!(accepted.len() < 500, "a full disk accepts all writes");
    }
    std::fs::remove_file(device.live().join("rest")).expect("it is there");
    std::fs::remove_file(&ballast).expect("it is there");
    // The server checks the free space periodically and accepts writes again within a few seconds.
    let recovered = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        client.json("PUT", "/db/more", &more).expect("it answers").is_ok()
    });
    assert!(recovered, "there is room, and writes are still refused");
    written.extend(accepted);
    all_there(&written, &mut client);
    server.kill();
    check(&data).unwrap();
}

#[test]
fn full_disk_sled() {
    full_disk("sled");
}

#[test]
fn full_disk_redb() {
    full_disk("redb");
}

/// The contents of the old data folders: (request path, expected response). All future versions must return
/// these.
const OLD: &[(&str, &str)] = &[
    (
        "/old/plain?revs=true",
        r#"{"_id":"plain","_rev":"2-7c0f048d5c4d875cab0ca0963bccae84","value":2,"_revisions":{"start":2,"ids":["7c0f048d5c4d875cab0ca0963bccae84","17907786cd284d6585a640e97e0ff8b6"]}}"#,
    ),
    ("/old/gone", r#"{"error":"not_found","reason":"deleted"}"#),
    ("/old/conflict?conflicts=true", r#"{"_id":"conflict","_rev":"1-b","value":2,"_conflicts":["1-a"]}"#),
    (
        "/old/attached",
        r#"{"_id":"attached","_rev":"1-1c989c95c6e96e9fa11b03c13ee90d60","_attachments":{"a.txt":{"content_type":"text/plain","revpos":1,"digest":"md5-0xcUxj0ww6oV3qHtDx9T4A==","length":11,"stub":true}}}"#,
    ),
    ("/old/attached/a.txt", "hello hello"),
    ("/old/_local/point", r#"{"_id":"_local/point","_rev":"0-1","value":1}"#),
    ("/old/_security", r#"{"admins":{"names":["somebody"]}}"#),
    ("/_all_dbs?startkey=%22a%22", r#"["old"]"#),
];

fn old_folder(engine: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old-data/1").join(format!("{engine}.tar.gz"))
}

/// Writes the fixtures of the current format; run once for each format version:
/// `cargo test --test durability make_old_data -- --ignored`.
#[test]
#[ignore = "writes the fixture"]
fn make_old_data() {
    for engine in ["sled", "redb"] {
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::start(&dir.path().join("data"), engine).expect("it starts");
        let mut client = server.client();
        let mut ask = |method: &str, path: &str, body: &str| {
            let answer = client.ask(method, path, "application/json", body.as_bytes()).expect("it answers");
            assert!(answer.is_ok(), "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
            answer.json()
        };
        ask("PUT", "/old", "");
        let first = ask("PUT", "/old/plain", r#"{"value":1}"#)["rev"].as_str().expect("a revision").to_owned();
        ask("PUT", "/old/plain", &format!(r#"{{"_rev":"{first}","value":2}}"#));
        let gone = ask("PUT", "/old/gone", r#"{"value":1}"#)["rev"].as_str().expect("a revision").to_owned();
        ask("DELETE", &format!("/old/gone?rev={gone}"), "");
        let conflicts = r#"{"new_edits":false,"docs":[{"_id":"conflict","_rev":"1-a","value":1},{"_id":"conflict","_rev":"1-b","value":2}]}"#;
        ask("POST", "/old/_bulk_docs", conflicts);
        let large = format!(r#"{{"filler":"{}"}}"#, "large ".repeat(50_000));
        ask("PUT", "/old/large", &large);
        ask(
            "PUT",
            "/old/attached",
            r#"{"_attachments":{"a.txt":{"content_type":"text/plain","data":"aGVsbG8gaGVsbG8="}}}"#,
        );
        ask("PUT", "/old/_local/point", r#"{"value":1}"#);
        ask("PUT", "/old/_security", r#"{"admins":{"names":["somebody"]}}"#);
        ask("PUT", "/deleted", "");
        ask("DELETE", "/deleted", "");
        server.kill();
        let archive = old_folder(engine);
        std::fs::create_dir_all(archive.parent().expect("a folder")).expect("it can be made");
        let _ = std::fs::remove_file(dir.path().join("data/reserve"));
        let _ = std::fs::remove_file(dir.path().join("data/control"));
        let tar =
            std::process::Command::new("tar").arg("-czSf").arg(&archive).arg("-C").arg(dir.path()).arg("data").status();
        assert!(tar.is_ok_and(|status| status.success()));
    }
}

/// A data folder written by an older version opens, passes `settee check`, and returns the expected
/// documents.
#[test]
fn old_data() {
    for engine in ["sled", "redb"] {
        let dir = tempfile::tempdir().expect("a folder");
        let tar =
            std::process::Command::new("tar").arg("-xzf").arg(old_folder(engine)).arg("-C").arg(dir.path()).status();
        assert!(tar.is_ok_and(|status| status.success()), "tar is needed");
        let data = dir.path().join("data");
        check(&data).unwrap_or_else(|said| panic!("{engine}: {said}"));
        let server = Server::start(&data, engine).expect("it starts");
        let mut client = server.client();
        for (path, expected) in OLD {
            let answer = client.get(path).expect("it answers");
            assert_eq!(String::from_utf8_lossy(&answer.body).trim(), *expected, "{engine} {path}");
        }
        let large = client.get("/old/large").expect("it answers").json();
        assert_eq!(large["filler"].as_str().map(str::len), Some(300_000));
    }
}
