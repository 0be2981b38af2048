//! Check, damage, backup under load, restore and background cleanup, on a database that pseudo-random work
//! has filled.

mod encryption;
mod two_nodes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::*;
use crate::clock::Clock;
use crate::db::record::{BodyRecord, DocumentRecord};
use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode, Source, Upload, Wanted};
use crate::error::Error;
use crate::rev::{Revision, RevisionHash};
use crate::store::blob::blobs::Blobs;
use crate::store::embedded::faults::{Faults, WriteFault};
use crate::store::keyspace::{self, Kind};
use crate::store::memory::Memory;
use crate::store::{Batch, Direction, MemoryBlobs, PageLimit, Store};

struct Server {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    databases: Arc<Databases>,
}

fn server_on(store: Arc<dyn Store>) -> Server {
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::new());
    let clock = Clock::fixed(Duration::from_secs(1));
    let databases = Databases::open(store.clone(), blobs.clone(), clock).unwrap();
    Server { store, blobs, databases }
}

fn server() -> Server {
    server_on(Arc::new(Memory::new()))
}

fn attachment(server: &Server, content: &str) -> (String, Source) {
    let mut upload = Upload::start(&*server.blobs, "a.txt", "text/plain", false, 8).unwrap();
    upload.write(content.as_bytes()).unwrap();
    let uploaded = upload.finish().unwrap();
    ("a.txt".into(), Source::Written { attachment: uploaded.attachment, keep_revpos: false, pin: uploaded.pin })
}

fn edit(id: String, parent: Option<Revision>, number: u64) -> Incoming {
    let json = format!(r#"{{"number":{number}}}"#);
    Incoming { id, parent, path: (0, Vec::new()), deleted: false, json, attachments: Vec::new() }
}

/// Edits, conflicts, deletions, and new and inherited attachments, all determined by `seed`.
async fn work(server: &Server, database: &Arc<Database>, seed: u64, rounds: u64) {
    for round in 0..rounds {
        let dice = (seed + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let id = format!("doc{}", dice % 23);
        let found = database.find(&id, Wanted::Winner).ok();
        let parent = found.as_ref().map(|found| found.revision.clone());
        let mut next = edit(id, parent, round);
        match dice % 7 {
            0 => next.deleted = next.parent.is_some(),
            1 => next.attachments.push(attachment(server, &format!("content {}", dice % 5))),
            2 | 3 if found.as_ref().is_some_and(|found| !found.body.attachments.is_empty()) => {
                next.attachments.push(("a.txt".into(), Source::Stub { revpos: None }));
            }
            4 => {
                let hashes = vec![RevisionHash::parse(&format!("{round:032x}")), RevisionHash::parse("ab")];
                next = Incoming { path: (2, hashes), parent: None, ..next };
                let merged = database.update(vec![next], Mode::Replicated, &AllowAll).await.unwrap();
                assert!(merged[0].is_ok());
                continue;
            }
            _ => {}
        }
        let written = database.update(vec![next], Mode::Interactive, &AllowAll).await.unwrap();
        assert!(written[0].is_ok(), "{written:?}");
    }
}

async fn full(server: &Server) -> Arc<Database> {
    let database = server.databases.create("full", CreateOptions::default(), Some("{}")).unwrap();
    work(server, &database, 1, 150).await;
    let leaf = database.find("doc3", Wanted::Winner).unwrap().revision;
    database.purge(vec![("doc3".into(), vec![leaf])]).await.unwrap();
    database.compact(&|_, _| {}).await.unwrap();
    work(server, &database, 500, 60).await;
    database
}

fn checked(server: &Server) -> Checked {
    check(&*server.store, &*server.blobs, &mut |_| {}).unwrap()
}

/// Every document with all its revisions and bodies, and the counters that clients see.
fn content(server: &Server, name: &str) -> Vec<String> {
    let database = server.databases.get(name).unwrap();
    let range = keyspace::kind(database.number(), Kind::Document);
    let page = server.store.scan(&range, Direction::Forward, PageLimit { entries: 10_000, bytes: usize::MAX }).unwrap();
    let mut lines = Vec::new();
    for (key, value) in page {
        let id = String::from_utf8(keyspace::rest_of(&key).to_vec()).unwrap();
        let record = DocumentRecord::decode(&id, &value).unwrap();
        for node in record.tree.nodes() {
            let body = node.body.map(|body| {
                let found = server.store.get(&keyspace::body(database.number(), body.sequence, body.index)).unwrap();
                assert!(found.is_some());
                found
            });
            lines.push(format!("{id} {} {} {} {body:?}", record.sequence, node.revision, node.deleted));
        }
    }
    // Not part of a backup; the server makes it again.
    let info = database.info().without_conflict_index();
    lines.push(format!("{info:?} {}", database.security()));
    lines
}

#[tokio::test]
async fn random_work_leaves_no_problems_and_the_sweep_removes_only_unreferenced_blobs() {
    let server = server();
    let database = full(&server).await;
    let found = checked(&server);
    assert_eq!(found.problems, Vec::<String>::new());
    assert_eq!(found.documents, database.info().documents + database.info().deleted);
    assert!(found.attachments > 0);
    drop(attachment(&server, "never named"));
    let pinned = attachment(&server, "about to be named");
    let before = server.blobs.list(None, 999).unwrap().len() as u64;
    let loose = sweep(&server.store, &server.blobs).await.unwrap();
    assert!(loose >= 1);
    let after = checked(&server);
    assert_eq!((after.problem_count, after.attachments), (0, found.attachments));
    assert_eq!(server.blobs.list(None, 999).unwrap().len() as u64, before - loose);
    assert_eq!(before - loose, found.attachments + 1, "the pinned blob stays");
    drop(pinned);
    server.databases.delete("full").unwrap();
    while server.databases.remove_some().unwrap() {}
    sweep(&server.store, &server.blobs).await.unwrap();
    assert_eq!(server.blobs.list(None, 9).unwrap().len(), 0);
    assert_eq!(checked(&server), Checked::default());
}

/// The keys of the stored bodies with attachments, and of those without.
fn bodies(server: &Server, number: u64) -> [Vec<Vec<u8>>; 2] {
    let limit = PageLimit { entries: 10_000, bytes: usize::MAX };
    let page = server.store.scan(&keyspace::kind(number, Kind::Body), Direction::Forward, limit).unwrap();
    let mut found = [Vec::new(), Vec::new()];
    for (key, value) in page {
        let plain = BodyRecord::decode("", value).unwrap().attachments.is_empty();
        found[usize::from(plain)].push(key);
    }
    found
}

#[tokio::test]
async fn a_damaged_database_is_removed_completely_and_does_not_block_others() {
    let (store, faults) = Faults::store();
    let server = server_on(store);
    let database = full(&server).await;
    let [attached, plain] = bodies(&server, database.number());
    for key in [&attached[0], &attached[attached.len() - 1], &plain[0], &keyspace::document(database.number(), "doc5")]
    {
        assert!(faults.damage(key));
    }
    server.databases.delete("full").unwrap();
    let other = server.databases.create("other", CreateOptions::default(), None).unwrap();
    work(&server, &other, 3, 30).await;
    server.databases.delete("other").unwrap();
    // A read of the first database fails: the other one is removed.
    faults.fail_read(1);
    assert!(server.databases.remove_some().unwrap());
    while server.databases.remove_some().unwrap() {}
    sweep(&server.store, &server.blobs).await.unwrap();
    assert_eq!(server.blobs.list(None, 9).unwrap().len(), 0, "no references of the damaged bodies are left");
    assert_eq!(checked(&server), Checked::default());
}

#[tokio::test]
async fn the_sweep_keeps_blobs_that_a_failed_commit_may_refer_to() {
    let (store, faults) = Faults::store();
    let server = server_on(store);
    let database = server.databases.create("db", CreateOptions::default(), None).unwrap();
    let mut next = edit("a".into(), None, 1);
    next.attachments.push(attachment(&server, "named after all"));
    faults.fail_write(0, WriteFault::Unknown);
    faults.stay_closed(2);
    assert!(database.update(vec![next], Mode::Interactive, &AllowAll).await.is_err());
    assert!(sweep(&server.store, &server.blobs).await.is_err());
    assert!(sweep(&server.store, &server.blobs).await.is_err());
    assert_eq!(sweep(&server.store, &server.blobs).await, Ok(0));
    assert!(database.find("a", Wanted::Winner).is_ok());
    assert_eq!((checked(&server).problems, checked(&server).attachments), (Vec::new(), 1));
}

#[tokio::test]
async fn a_damaged_old_body_blocks_neither_compaction_nor_writes() {
    let (store, faults) = Faults::store();
    let server = server_on(store);
    let database = server.databases.create("db", CreateOptions::default(), None).unwrap();
    let write = async |id: &str, parent: Option<Revision>, content: &str| {
        let mut next = edit(id.into(), parent, 1);
        next.attachments.push(attachment(&server, content));
        database.update(vec![next], Mode::Interactive, &AllowAll).await.unwrap().remove(0).unwrap()
    };
    let first = write("a", None, "old").await;
    let old = bodies(&server, database.number())[0][0].clone();
    let second = write("a", Some(first), "new").await;
    assert!(faults.damage(&old));
    database.compact(&|_, _| {}).await.unwrap();
    assert_eq!((checked(&server).problems, database.info().old), (Vec::new(), 0));
    // The same for a revision that stemming removes.
    database.set_revs_limit(1).await.unwrap();
    let newer = bodies(&server, database.number())[0][0].clone();
    assert!(faults.damage(&newer));
    write("a", Some(second), "newest").await;
    assert_eq!(checked(&server).problems, Vec::<String>::new());
    assert_eq!(sweep(&server.store, &server.blobs).await.unwrap(), 2);
}

#[tokio::test]
async fn each_kind_of_damage_is_found_and_named() {
    type Break = fn(&Server, u64);
    fn change(server: &Server, key: Vec<u8>, value: Option<Vec<u8>>) {
        let mut batch = Batch::new();
        batch.writes.push((key, value));
        server.store.commit(batch).unwrap();
    }
    fn first(server: &Server, number: u64, kind: Kind) -> (Vec<u8>, Vec<u8>) {
        server.store.scan(&keyspace::kind(number, kind), Direction::Forward, PageLimit::entries(1)).unwrap().remove(0)
    }
    let rows: &[(&str, Break)] = &[
        ("is missing in the changes order", |server, number| {
            change(server, first(server, number, Kind::Sequence).0, None);
        }),
        ("rows in the changes order", |server, number| {
            change(server, keyspace::sequence(number, 1_000_000), Some(first(server, number, Kind::Sequence).1));
        }),
        ("differs from its record", |server, number| {
            let page =
                server.store.scan(&keyspace::kind(number, Kind::Sequence), Direction::Forward, PageLimit::entries(2));
            let page = page.unwrap();
            change(server, page[0].0.clone(), Some(page[1].1.clone()));
        }),
        ("doc_count is", |server, number| {
            change(server, first(server, number, Kind::Document).0, None);
        }),
        ("the record of document doc0", |server, number| {
            change(server, keyspace::document(number, "doc0"), Some(b"\x01nonsense".to_vec()));
        }),
        ("the body of revision", |server, number| change(server, first(server, number, Kind::Body).0, None)),
        ("bodies are stored, but", |server, number| change(server, keyspace::body(number, 9_999, 3), Some(vec![1, 0]))),
        ("its counters are missing", |server, number| change(server, keyspace::info(number), None)),
        ("above update_seq", |server, number| {
            change(server, keyspace::info(number), Some(crate::db::record::Info::default().encode()))
        }),
        ("is gone", |server, _| {
            let id = server
                .blobs
                .list(None, 999)
                .unwrap()
                .into_iter()
                .find(|id| sweep::is_referenced(&*server.store, id).unwrap());
            server.blobs.remove_unless(&id.unwrap(), &|| Ok(false)).unwrap();
        }),
        ("has no reference", |server, _| {
            change(server, server.store.keys(&keyspace::all_blob_references(), 1).unwrap().remove(0), None);
        }),
        ("references to attachments, but", |server, number| {
            change(server, keyspace::blob_reference(&[7; 32], number, 1, 1), Some(Vec::new()));
        }),
        ("which has no name", |server, _| change(server, keyspace::info(77), Some(Vec::new()))),
        ("was never assigned", |server, _| change(server, keyspace::LAST_NUMBER.to_vec(), Some(vec![0; 8]))),
        ("is not found by its uuid", |server, number| change(server, first(server, number, Kind::PurgeUuid).0, None)),
        ("document _local/x", |server, number| change(server, keyspace::local(number, "x"), Some(vec![9]))),
    ];
    for (words, break_it) in rows {
        let server = server();
        let database = full(&server).await;
        break_it(&server, database.number());
        let found = checked(&server);
        assert!(found.problems.iter().any(|problem| problem.contains(words)), "{words}: {:?}", found.problems);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_the_rest_is_checked() {
    let (store, faults) = Faults::store();
    let server = server_on(store);
    let database = full(&server).await;
    assert!(faults.damage(&keyspace::document(database.number(), "doc5")));
    let found = checked(&server);
    assert!(found.problems[0].contains("document \"doc5\""), "{:?}", found.problems);
    assert!(found.documents > 10);
}

fn copy_of(bytes: &[u8]) -> (Server, crate::error::Result<Restored>) {
    let server = server();
    let clock = Clock::fixed(Duration::from_secs(9));
    let restored = restore(&*server.store, &*server.blobs, &clock, &mut &*bytes, &mut |_| {});
    (server, restored)
}

async fn backed_up(server: &Server) -> Vec<u8> {
    let databases = server.databases.clone();
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        backup(&databases, &mut bytes, &mut |_| {}).unwrap();
        bytes
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_back_everything_under_a_new_instance_id() {
    let server = server();
    let database = full(&server).await;
    server.databases.create("empty", CreateOptions::default(), None).unwrap();
    let mut batch = Batch::new();
    batch.put(keyspace::config("couchdb", "uuid"), b"setting".to_vec());
    batch.put(
        keyspace::local(database.number(), "point"),
        crate::db::record::LocalRecord { revision: 1, json: "{}".into() }.encode(),
    );
    server.store.commit(batch).unwrap();
    let bytes = backed_up(&server).await;
    let (copy, restored) = copy_of(&bytes);
    assert_eq!(restored.unwrap().databases, 2);
    assert_eq!(checked(&copy).problems, Vec::<String>::new());
    assert_eq!(content(&copy, "full"), content(&server, "full"));
    assert_eq!(copy.store.get(&keyspace::config("couchdb", "uuid")).unwrap(), Some(b"setting".to_vec()));
    let restored = copy.databases.get("full").unwrap();
    assert_eq!(copy.store.get(&keyspace::local(restored.number(), "point")).unwrap().unwrap()[0], 1);
    assert_ne!(restored.instance(), database.instance());
    assert_ne!(copy.databases.create("third", CreateOptions::default(), None).unwrap().number(), restored.number());
    let again = restore(&*copy.store, &*copy.blobs, &Clock::system(), &mut &*bytes, &mut |_| {});
    assert!(matches!(again, Err(Error::BadRequest(_))), "only into a new folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_busy_database_is_consistent() {
    let server = Arc::new(server());
    let database = full(&server).await;
    for seed in 0..4u64 {
        let writing = {
            let (server, database) = (server.clone(), database.clone());
            tokio::spawn(async move {
                work(&server, &database, 7_000 * (seed + 1), 120).await;
                let leaf = database.find("doc5", Wanted::Winner).map(|found| found.revision);
                if let Ok(leaf) = leaf {
                    database.purge(vec![("doc5".into(), vec![leaf])]).await.unwrap();
                }
                database.compact(&|_, _| {}).await.unwrap();
            })
        };
        let bytes = backed_up(&server).await;
        let (copy, restored) = copy_of(&bytes);
        restored.unwrap();
        assert_eq!(checked(&copy).problems, Vec::<String>::new(), "seed {seed}");
        writing.await.unwrap();
        let (copy, restored) = copy_of(&backed_up(&server).await);
        restored.unwrap();
        assert_eq!(content(&copy, "full"), content(&server, "full"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_changes_behind_the_first_pass_is_restored_once() {
    let server = server();
    let database = server.databases.create("full", CreateOptions::default(), None).unwrap();
    let edits = (0..250).map(|number| edit(format!("doc{number:03}"), None, number)).collect();
    database.update(edits, Mode::Interactive, &AllowAll).await.unwrap();
    let first = database.find("doc000", Wanted::Winner).unwrap().revision;
    let databases = server.databases.clone();
    let bytes = tokio::task::spawn_blocking(move || {
        let (mut bytes, mut changed) = (Vec::new(), false);
        let hear = &mut |_: Progress| {
            if !std::mem::replace(&mut changed, true) {
                let next = vec![edit("doc000".into(), Some(first.clone()), 999)];
                let written = database.update(next, Mode::Interactive, &AllowAll);
                tokio::runtime::Handle::current().block_on(written).unwrap();
            }
        };
        backup(&databases, &mut bytes, hear).unwrap();
        bytes
    })
    .await
    .unwrap();
    let (copy, restored) = copy_of(&bytes);
    assert_eq!(restored.unwrap().documents, 250);
    assert_eq!(checked(&copy).problems, Vec::<String>::new());
    assert_eq!(content(&copy, "full"), content(&server, "full"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_damaged_backup_is_refused() {
    let server = server();
    full(&server).await;
    let good = backed_up(&server).await;
    for length in (0..good.len()).step_by(good.len() / 40) {
        assert!(matches!(copy_of(&good[..length]).1, Err(Error::BadRequest(_))), "cut to {length}");
    }
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert!(matches!(copy_of(&bad).1, Err(Error::BadRequest(_))), "byte {at}");
    }
}

/// The commands of a server without HTTP whose store cannot be rewritten.
#[derive(Clone)]
struct NoHttp;

impl control::Commands for NoHttp {
    async fn serve_http(self, stream: tokio::net::UnixStream) {
        drop(stream);
    }

    async fn rewrite_store(self) -> crate::error::Result<Option<(u64, u64)>> {
        Err(Error::Full)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_serves_backups_and_nothing_else() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let server = server();
    full(&server).await;
    let folder = dir.path().to_path_buf();
    let info = server.databases.get("full").unwrap().info();
    let documents = info.documents + info.deleted;
    assert!(control::ask(&folder).unwrap().is_none(), "no server is listening");
    let listening = tokio::spawn(control::listen(
        folder.clone(),
        server.databases.clone(),
        Arc::new(tokio::sync::Semaphore::new(1)),
        NoHttp,
    ));
    let bytes = tokio::task::spawn_blocking(move || {
        let counted = loop {
            match control::count(&folder) {
                Some(counted) => break counted,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(counted, documents);
        let mut stream = loop {
            match control::ask(&folder).unwrap() {
                Some(stream) => break stream,
                None => std::thread::yield_now(),
            }
        };
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let mut other = std::os::unix::net::UnixStream::connect(folder.join("control")).unwrap();
        other.write_all(b"delete\n").unwrap();
        assert_eq!(other.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert_eq!(control::rewrite(&folder).unwrap(), Some(Err(Error::Full.to_string())));
        bytes
    })
    .await
    .unwrap();
    listening.abort();
    let (copy, restored) = copy_of(&bytes);
    restored.unwrap();
    assert_eq!(content(&copy, "full"), content(&server, "full"));
}

#[tokio::test]
async fn the_background_job_compacts_where_worthwhile_and_sweeps() {
    let server = server();
    let large = server.databases.create("large", CreateOptions::default(), None).unwrap();
    let small = server.databases.create("small", CreateOptions::default(), None).unwrap();
    for database in [&large, &small] {
        let mut parent = None;
        for round in 0..6 {
            let mut next = edit("a".into(), parent, round);
            if Arc::ptr_eq(database, &large) {
                next.json = format!(r#"{{"long":"{}"}}"#, "x".repeat(1_000_000 + round as usize));
            }
            let written = database.update(vec![next], Mode::Interactive, &AllowAll).await.unwrap();
            parent = Some(written[0].clone().unwrap());
        }
    }
    drop(attachment(&server, "never named"));
    let (compacted, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let compact = move |database: Arc<Database>| {
        let compacted = compacted.clone();
        async move {
            database.compact(&|_, _| {}).await.unwrap();
            let _ = compacted.send(database.name().to_owned());
        }
    };
    let every = Duration::from_millis(1);
    let databases = server.databases.clone();
    let background = tokio::spawn(async move {
        background::run(databases, every, &Notify::new(), compact, || async { Ok(Some(())) }).await
    });
    assert_eq!(heard.recv().await.as_deref(), Some("large"));
    assert_eq!(large.info().old, 0);
    while !server.blobs.list(None, 1).unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    background.abort();
    assert!(small.info().old > 0, "not worth it");
    assert!(heard.try_recv().is_err());
    assert_eq!(checked(&server).problems, Vec::<String>::new());
}
