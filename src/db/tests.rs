//! Tests of the public database API on the memory store.

use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::rev::{Revision, RevisionHash};
use crate::store::{Direction, PageLimit};

fn databases() -> Arc<Databases> {
    let store = Arc::new(crate::store::memory::Memory::new());
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    Databases::open(store, blobs, Clock::fixed(std::time::Duration::from_secs(1))).unwrap()
}

fn incoming(id: &str, parent: Option<&Revision>, json: &str) -> Incoming {
    Incoming { parent: parent.cloned(), ..Incoming::created(id, json) }
}

fn replicated(id: &str, start: u64, hashes: &[&str], deleted: bool) -> Incoming {
    let hashes = hashes.iter().map(|hash| RevisionHash::parse(hash)).collect();
    Incoming { path: (start, hashes), deleted, ..incoming(id, None, "{}") }
}

async fn put(database: &Arc<Database>, edit: Incoming) -> Result<Revision> {
    database.update(vec![edit], Mode::Interactive, &AllowAll).await?.remove(0)
}

fn feed(database: &Database) -> Vec<(u64, String)> {
    let page = database.changes(0, Direction::Forward, PageLimit::entries(1000)).unwrap();
    page.rows.into_iter().map(|(sequence, row)| (sequence, row.id)).collect()
}

#[tokio::test]
async fn create_update_delete_and_recreate_a_document() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let first = put(&database, incoming("a", None, "{}")).await.unwrap();
    assert_eq!(first.to_string(), "1-967a00dff5e02add41819138abb3284d");
    assert_eq!(put(&database, incoming("a", None, "{}")).await, Err(Error::Conflict));
    let second = put(&database, incoming("a", Some(&first), r#"{"x":1}"#)).await.unwrap();
    assert_eq!(put(&database, incoming("a", Some(&first), r#"{"x":2}"#)).await, Err(Error::Conflict));
    assert_eq!(database.find("a", Wanted::Winner).unwrap().body.json, r#"{"x":1}"#);
    assert_eq!(database.find("a", Wanted::Revision(&first)).unwrap().body.json, "{}");
    let gone = put(&database, Incoming { deleted: true, ..incoming("a", Some(&second), "{}") }).await.unwrap();
    assert_eq!(database.find("a", Wanted::Winner).err(), Some(Error::Deleted));
    assert_eq!((database.info().documents, database.info().deleted), (0, 1));
    // An update without a revision recreates a deleted document on top of its tombstone; naming the tombstone
    // conflicts.
    assert_eq!(put(&database, incoming("a", Some(&gone), "{}")).await, Err(Error::Conflict));
    let again = put(&database, incoming("a", None, "{}")).await.unwrap();
    assert_eq!(again.generation, 4);
    assert_eq!((database.info().documents, database.info().deleted), (1, 0));
    assert_eq!(feed(&database), [(4, "a".to_owned())]);
}

#[tokio::test]
async fn replicating_stemmed_ancestors_again_writes_nothing() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    database.set_revs_limit(2).await.unwrap();
    let edits = || vec![replicated("a", 4, &["d", "c", "b", "a"], false)];
    database.update(edits(), Mode::Replicated, &AllowAll).await.unwrap();
    let before = database.info();
    database.update(edits(), Mode::Replicated, &AllowAll).await.unwrap();
    assert_eq!(database.info(), before);
    assert_eq!(feed(&database), [(1, "a".to_owned())]);
}

#[tokio::test]
async fn replicated_edits_merge_and_repeating_them_writes_nothing() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let edits = || {
        vec![
            replicated("a", 2, &["b", "a"], false),
            replicated("a", 2, &["c", "a"], false),
            replicated("b", 1, &["x"], true),
        ]
    };
    let results = database.update(edits(), Mode::Replicated, &AllowAll).await.unwrap();
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(database.find("a", Wanted::Winner).unwrap().revision.to_string(), "2-c");
    assert_eq!(feed(&database), [(1, "a".to_owned()), (2, "b".to_owned())]);
    let before = database.info();
    database.update(edits(), Mode::Replicated, &AllowAll).await.unwrap();
    assert_eq!(database.info(), before, "what changes nothing takes no sequence");
}

#[tokio::test]
async fn handles_of_a_deleted_database_return_no_database() {
    let databases = databases();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    put(&database, incoming("a", None, "{}")).await.unwrap();
    databases.delete("db").unwrap();
    assert_eq!(put(&database, incoming("b", None, "{}")).await, Err(Error::NoDatabase));
    assert_eq!(databases.get("db").err(), Some(Error::NoDatabase));
    let again = databases.create("db", CreateOptions::default(), None).unwrap();
    assert_eq!(feed(&again), []);
    assert_ne!(again.instance(), database.instance());
    while databases.remove_some().unwrap() {}
    let kinds: Vec<_> = databases.events_after(0, 10).unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [DbEventKind::Deleted, DbEventKind::Created]);
}

#[tokio::test]
async fn what_is_found_in_memory_is_what_the_store_returns() {
    let (store, _) = crate::store::embedded::faults::Faults::store();
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let databases = Databases::open(store, blobs, Clock::fixed(std::time::Duration::from_secs(1))).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    let first = put(&database, incoming("a", None, r#"{"x":1}"#)).await.unwrap();
    let second = put(&database, incoming("a", Some(&first), r#"{"x":2}"#)).await.unwrap();
    put(&database, incoming("large", None, &format!(r#"{{"x":"{}"}}"#, "x".repeat(5000)))).await.unwrap();
    let gone = put(&database, incoming("gone", None, "{}")).await.unwrap();
    put(&database, Incoming { deleted: true, ..incoming("gone", Some(&gone), "{}") }).await.unwrap();
    let unknown = Revision { generation: 2, hash: RevisionHash::parse("x") };
    let wanted = [Wanted::Winner, Wanted::Revision(&first), Wanted::Latest(&first), Wanted::Revision(&unknown)];
    let all = || ["a", "large", "gone", "missing"].into_iter().flat_map(|id| wanted.map(|wanted| (id, wanted)));
    let shown = |found: Result<Within<Found>>| format!("{found:?}");
    for most in [u64::MAX, 3] {
        for (id, wanted) in all() {
            let stored = shown(database.find_within(id, wanted, most));
            match database.find_in_memory(id, wanted, most) {
                Ok(InMemory::NotAll(known)) => {
                    assert_eq!(known.is_some(), id == "large", "{id} {wanted:?}");
                    assert_eq!(shown(database.find_from(id, known, wanted, most)), stored, "{id} {wanted:?}");
                }
                Ok(InMemory::All(found)) => assert_eq!(shown(Ok(found)), stored, "{id} {wanted:?}"),
                Err(error) => assert_eq!(shown(Err(error)), stored, "{id} {wanted:?}"),
            }
        }
    }
    let in_memory = |id, wanted| matches!(database.find_in_memory(id, wanted, u64::MAX), Ok(InMemory::All(_)));
    assert!(in_memory("a", Wanted::Winner) && in_memory("a", Wanted::Revision(&first)));
    let before = database.shared.counts.reads();
    assert!(in_memory("a", Wanted::Winner));
    assert_eq!(database.shared.counts.reads(), before + 1);
    put(&database, incoming("a", Some(&second), r#"{"x":3}"#)).await.unwrap();
    assert!(!in_memory("a", Wanted::Winner), "it was written");
    database.find("a", Wanted::Winner).unwrap();
    let Ok(InMemory::All(Within::Fits(found))) = database.find_in_memory("a", Wanted::Winner, u64::MAX) else {
        panic!()
    };
    assert_eq!(found.body.json, r#"{"x":3}"#);
    database.compact(&|_, _| {}).await.unwrap();
    assert_eq!(database.find("a", Wanted::Revision(&first)).err(), Some(Error::Missing));
    assert!(matches!(database.find_in_memory("a", Wanted::Revision(&first), u64::MAX), Err(Error::Missing)));
}

/// Yields until `works` items wait in the queue of the held writer.
async fn until_waiting(database: &Database, works: usize) {
    while database.queue.lock().waiting() < works {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_edit_in_the_same_commit_as_a_compaction_keeps_its_sequence_and_body() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let first = put(&database, incoming("a", None, r#"{"n":1}"#)).await.unwrap();
    let second = put(&database, incoming("a", Some(&first), r#"{"n":2}"#)).await.unwrap();
    let hold = database.hold().await.unwrap();
    let compacted = tokio::spawn({
        let database = database.clone();
        async move { database.compact(&|_, _| {}).await }
    });
    until_waiting(&database, 1).await;
    let edited = tokio::spawn({
        let (database, edit) = (database.clone(), incoming("a", Some(&second), r#"{"n":3}"#));
        async move { put(&database, edit).await }
    });
    until_waiting(&database, 2).await;
    drop(hold);
    compacted.await.unwrap().unwrap();
    let third = edited.await.unwrap().unwrap();
    assert_eq!(feed(&database), [(3, "a".to_owned())]);
    assert_eq!(database.find("a", Wanted::Revision(&second)).unwrap().body.json, r#"{"n":2}"#);
    assert_eq!(database.find("a", Wanted::Revision(&third)).unwrap().body.json, r#"{"n":3}"#);
    database.compact(&|_, _| {}).await.unwrap();
    assert_eq!(database.find("a", Wanted::Winner).unwrap().body.json, r#"{"n":3}"#);
    assert_eq!(database.info().old, 0);
}

#[tokio::test]
async fn a_replicated_revision_of_generation_0_is_rejected() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let edits = vec![replicated("a", 0, &["x"], false), replicated("b", 1, &["x"], false)];
    let results = database.update(edits, Mode::Replicated, &AllowAll).await.unwrap();
    assert!(matches!(results[0], Err(Error::BadRequest(_))), "{results:?}");
    assert!(results[1].is_ok());
    assert_eq!(feed(&database), [(1, "b".to_owned())]);
}

#[tokio::test]
async fn a_damaged_row_does_not_end_the_feed() {
    let (store, faults) = crate::store::embedded::faults::Faults::store();
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let databases = Databases::open(store, blobs, clock).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    let mut old = Vec::new();
    for id in ["a", "b", "c"] {
        old.push(put(&database, incoming(id, None, "{}")).await.unwrap());
    }
    for (id, old) in ["a", "b", "c"].into_iter().zip(&old) {
        put(&database, incoming(id, Some(old), r#"{"n":2}"#)).await.unwrap();
    }
    assert!(faults.damage(&crate::store::keyspace::sequence(database.number, 5)));
    let page = |after, direction| database.changes(after, direction, PageLimit::entries(10));
    for (direction, first, seen) in [(Direction::Forward, 0, 4), (Direction::Backward, u64::MAX, 6)] {
        let found = page(first, direction).unwrap();
        assert_eq!(found.rows.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [seen]);
        assert!(!found.done, "the row behind is damaged, not absent");
        assert!(matches!(page(seen, direction), Err(Error::Damaged(_))));
    }
    assert!(page(5, Direction::Forward).unwrap().done);
    // Compaction frees the old bodies of all readable rows.
    database.compact(&|_, _| {}).await.unwrap();
    for (id, old, freed) in [("a", &old[0], true), ("b", &old[1], false), ("c", &old[2], true)] {
        assert_eq!(database.find(id, Wanted::Revision(old)).is_err(), freed, "{id}");
    }
}

#[tokio::test]
async fn the_security_object_written_last_is_in_effect() {
    let databases = databases();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    let hold = database.hold().await.unwrap();
    let mut first = Box::pin(database.put_security(r#"{"n":1}"#.into()));
    let mut second = Box::pin(database.put_security(r#"{"n":2}"#.into()));
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
    drop(hold);
    // The callers may be woken in any order.
    second.await.unwrap();
    first.await.unwrap();
    assert_eq!(&*database.security(), r#"{"n":2}"#);
}

#[tokio::test]
async fn a_deletion_with_unknown_outcome_leaves_no_open_handle() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    let (store, faults) = Faults::store();
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let databases = Databases::open(store.clone(), blobs, clock).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    faults.fail_write(0, WriteFault::Unknown);
    assert!(databases.delete("db").is_err());
    store.commit(crate::store::Batch::new()).unwrap();
    assert_eq!(databases.delete("db"), Err(Error::NoDatabase));
    assert!(database.is_gone());
    assert_eq!(databases.get("db").err(), Some(Error::NoDatabase));
}

#[tokio::test]
async fn compaction_frees_old_bodies_but_no_leaves() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let first = put(&database, incoming("a", None, r#"{"old":true}"#)).await.unwrap();
    let second = put(&database, incoming("a", Some(&first), r#"{"new":true}"#)).await.unwrap();
    assert!(database.info().old > 0);
    database.compact(&|_, _| {}).await.unwrap();
    assert_eq!(database.info().old, 0);
    assert_eq!(database.find("a", Wanted::Revision(&first)).err(), Some(Error::Missing));
    assert_eq!(database.find("a", Wanted::Revision(&second)).unwrap().body.json, r#"{"new":true}"#);
    assert_eq!(feed(&database), [(2, "a".to_owned())]);
}

#[tokio::test]
async fn purging_the_last_leaf_removes_the_document() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let revision = put(&database, incoming("a", None, "{}")).await.unwrap();
    let purged = database.purge(vec![("a".into(), vec![revision.clone()])]).await.unwrap();
    assert_eq!(purged, [("a".to_owned(), vec![revision])]);
    assert_eq!(database.find("a", Wanted::Winner).err(), Some(Error::Missing));
    assert_eq!(feed(&database), []);
    let info = database.info();
    assert_eq!((info.documents, info.deleted, info.external, info.records, info.purge_sequence), (0, 0, 0, 0, 1));
    assert_eq!(database.purges(0, 10).unwrap().len(), 1);
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_lose_no_write() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..200 {
        let database = database.clone();
        writers.spawn(async move { put(&database, incoming(&format!("doc-{number}"), None, "{}")).await });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap().unwrap();
    }
    assert_eq!(database.info().documents, 200);
    assert_eq!(feed(&database).len(), 200);
    assert_eq!(feed(&database).last().unwrap().0, 200);
}

#[test]
fn database_names() {
    for name in ["a", "a/b", "a_b$()+-1", "_users", "_replicator"] {
        assert_eq!(check_database_name(name), Ok(()), "{name}");
    }
    for name in ["", "A", "1a", "_x", "a b", "a%", "ä", "-a"] {
        assert!(matches!(check_database_name(name), Err(Error::IllegalDatabaseName(_))), "{name}");
    }
}

#[test]
fn document_ids() {
    for (id, partitioned, allowed) in [
        ("a", false, true),
        ("_design/x", true, true),
        ("_design/", false, false),
        ("_x", false, false),
        ("", false, false),
        ("p:a", true, true),
        ("a", true, false),
        (":a", true, false),
        ("p:", true, false),
    ] {
        assert_eq!(check_document_id(id, partitioned).is_ok(), allowed, "{id} {partitioned}");
    }
}

#[tokio::test]
async fn partitions_are_counted_and_full_ones_reject_growth() {
    let databases = databases();
    let options = CreateOptions { partitioned: true, ..CreateOptions::default() };
    let database = databases.create("db", options, None).unwrap();
    let text = |length: usize| format!(r#"{{"x":"{}"}}"#, "x".repeat(length));
    let first = put(&database, incoming("p:a", None, &text(92))).await.unwrap();
    put(&database, incoming("p:b", None, &text(92))).await.unwrap();
    put(&database, incoming("pp:a", None, &text(92))).await.unwrap();
    assert_eq!(database.partition("p").unwrap(), PartitionInfo { documents: 2, deleted: 0, bytes: 200 });
    databases.limit_partitions(200);
    assert_eq!(put(&database, incoming("p:c", None, "{}")).await, Err(Error::PartitionOverflow("p:c".into())));
    let longer = put(&database, incoming("p:a", Some(&first), &text(93))).await;
    assert_eq!(longer, Err(Error::PartitionOverflow("p:a".into())));
    put(&database, incoming("q:a", None, "{}")).await.unwrap();
    put(&database, incoming("_design/p:d", None, "{}")).await.unwrap();
    database.update(vec![replicated("p:r", 1, &["a"], false)], Mode::Replicated, &AllowAll).await.unwrap();
    let shorter = put(&database, incoming("p:a", Some(&first), &text(10))).await.unwrap();
    put(&database, Incoming { deleted: true, ..incoming("p:a", Some(&shorter), "{}") }).await.unwrap();
    assert_eq!(database.partition("p").unwrap(), PartitionInfo { documents: 2, deleted: 1, bytes: 104 });
    for partition in ["p", "pp", "q", "none"] {
        let counted = count_partition(&**databases.store(), database.number(), partition).unwrap();
        assert_eq!(database.partition(partition).unwrap(), counted, "{partition}");
    }
}

#[tokio::test]
async fn auto_purge_removes_documents_whose_deletion_has_expired() {
    let databases = databases();
    let hour = std::time::Duration::from_secs(3600);
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    let other = databases.create("other", CreateOptions::default(), None).unwrap();
    assert_eq!(database.auto_purge().unwrap(), "{}");
    database.put_auto_purge(r#"{"deleted_document_ttl":"8_hours"}"#.into()).await.unwrap();
    for database in [&database, &other] {
        database.update(vec![replicated("old", 2, &["b", "a"], true)], Mode::Replicated, &AllowAll).await.unwrap();
        put(database, incoming("kept", None, "{}")).await.unwrap();
    }
    for passed in 0..=10 {
        databases.auto_purge(None).await.unwrap();
        assert_eq!(database.info().deleted, u64::from(passed < 8) + u64::from(passed >= 4), "after {passed} hours");
        if passed == 3 {
            let edits = vec![replicated("young", 2, &["b", "a"], true)];
            database.update(edits, Mode::Replicated, &AllowAll).await.unwrap();
        }
        databases.clock().advance(hour);
    }
    assert_eq!((database.info().documents, other.info().deleted), (1, 1));
    assert_eq!(database.purges(0, 9).unwrap()[0].1.id, "old");
    // The server's default applies to databases without their own setting; `infinity` is a setting.
    database.put_auto_purge(r#"{"deleted_document_ttl":"infinity"}"#.into()).await.unwrap();
    for _ in 0..3 {
        databases.auto_purge(TimeToLive::parse("1_hour")).await.unwrap();
        databases.clock().advance(hour);
    }
    assert_eq!((database.info().deleted, other.info().deleted), (1, 0));
    assert_eq!(database.auto_purge().unwrap(), r#"{"deleted_document_ttl":"infinity"}"#);
}

#[tokio::test]
async fn large_leaves_are_loaded_in_pages() {
    let database = databases().create("db", CreateOptions::default(), None).unwrap();
    /// Two of the documents fit.
    const ROOM: u64 = 11 << 20;
    let json = format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20));
    for hash in ["a", "b", "c", "d", "e"] {
        let edit = Incoming { json: json.clone(), ..replicated("doc", 1, &[hash], false) };
        database.update(vec![edit], Mode::Replicated, &AllowAll).await.unwrap();
    }
    let hashes = |group: Vec<std::result::Result<Found, Revision>>| {
        let name = |one: std::result::Result<Found, Revision>| match one {
            Ok(found) => found.revision.to_string(),
            Err(missing) => format!("no {missing}"),
        };
        group.into_iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let mut all = database.open_revisions("doc", None, false).unwrap();
    let next = |opened: &mut Opened| match opened.next(&database, ROOM).unwrap() {
        Within::Fits(group) => hashes(group),
        Within::Large(bytes) => format!("{bytes} bytes"),
    };
    assert!(matches!(all.next(&database, 1 << 20).unwrap(), Within::Large(bytes) if bytes > 5 << 20));
    for wanted in ["1-a 1-b", "1-c 1-d", "1-e", ""] {
        assert_eq!(next(&mut all), wanted);
    }
    let asked = ["1-a", "1-z", "1-a", "1-a"].map(|revision| revision.parse().unwrap());
    let mut these = database.open_revisions("doc", Some(&asked), false).unwrap();
    for wanted in ["1-a no 1-z", ""] {
        assert_eq!(next(&mut these), wanted);
    }
    let twice = [("doc".into(), None), ("doc".into(), None)];
    assert!(matches!(database.bulk_get(&twice, false, 1 << 20).unwrap(), Within::Large(bytes) if bytes > 5 << 20));
    let Within::Fits(mut answers) = database.bulk_get(&twice, false, ROOM).unwrap() else { panic!("two fit") };
    assert_eq!(answers.len(), 1, "the second one comes with the next page");
    let (first, rest) = answers.remove(0);
    assert_eq!(first.len(), 2);
    assert_eq!(next(&mut rest.unwrap()), "1-c 1-d");
    assert_eq!(database.open_revisions("none", None, false).err(), Some(Error::Missing));
}

#[tokio::test]
async fn db_updates_has_one_row_of_each_kind_and_name_after_failed_commits() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    for fault in [WriteFault::Io, WriteFault::Full, WriteFault::Unknown] {
        let (store, faults) = Faults::store();
        let blobs = Arc::new(crate::store::MemoryBlobs::new());
        let clock = Clock::fixed(std::time::Duration::from_secs(1));
        let databases = Databases::open(store.clone(), blobs.clone(), clock.clone()).unwrap();
        let recover = || store.commit(crate::store::Batch { frees: true, ..Default::default() });
        let create = || databases.create("db", CreateOptions::default(), None).map(drop);
        create().unwrap();
        databases.delete("db").unwrap();
        faults.fail_write(0, fault);
        assert!(create().is_err());
        assert_eq!(databases.last_event(), 2, "{fault:?}: a feed since now starts at a committed sequence");
        recover().unwrap();
        let again = if fault == WriteFault::Unknown { Err(Error::DatabaseExists) } else { Ok(()) };
        assert_eq!(create(), again, "{fault:?}");
        faults.fail_write(0, fault);
        assert!(databases.delete("db").is_err());
        recover().unwrap();
        let again = if fault == WriteFault::Unknown { Err(Error::NoDatabase) } else { Ok(()) };
        assert_eq!(databases.delete("db"), again, "{fault:?}");
        create().unwrap();
        let database = databases.get("db").unwrap();
        for round in 0..3 {
            put(&database, incoming(&format!("doc-{round}"), None, "{}")).await.unwrap();
            if round == 1 {
                faults.fail_write(0, fault);
                assert!(databases.flush_updates().is_err());
                recover().unwrap();
            }
            databases.flush_updates().unwrap();
        }
        let rows = databases.events_after(0, 100).unwrap();
        let kinds: Vec<_> = rows.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [DbEventKind::Deleted, DbEventKind::Created, DbEventKind::Updated], "{fault:?}");
        assert_eq!(Databases::open(store, blobs, clock).unwrap().last_event(), rows[2].sequence);
    }
}

#[tokio::test]
async fn writes_whose_row_of_db_updates_failed_are_recorded_by_the_next_flush() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    let (store, faults) = Faults::store();
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let databases = Databases::open(store.clone(), Arc::new(crate::store::MemoryBlobs::new()), clock).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    put(&database, incoming("a", None, "{}")).await.unwrap();
    faults.fail_write(0, WriteFault::Io);
    assert!(databases.flush_updates().is_err());
    store.commit(crate::store::Batch::new()).unwrap();
    databases.flush_updates().unwrap();
    let kinds: Vec<_> = databases.events_after(0, 9).unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [DbEventKind::Created, DbEventKind::Updated]);
}

#[tokio::test]
async fn the_time_of_the_last_write_is_known_since_the_start() {
    let store = Arc::new(crate::store::memory::Memory::new());
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let databases = Databases::open(store.clone(), blobs.clone(), clock.clone()).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    databases.create("other", CreateOptions::default(), None).unwrap();
    clock.advance(std::time::Duration::from_secs(2));
    put(&database, incoming("a", None, "{}")).await.unwrap();
    databases.flush_updates().unwrap();
    assert_eq!((databases.last_write("db"), databases.last_write("other")), (Some(3000), Some(1000)));
    databases.delete("other").unwrap();
    assert_eq!((databases.last_write("other"), databases.last_write("none")), (None, None));
    let again = Databases::open(store, blobs, clock).unwrap();
    assert_eq!(again.last_write("db"), None, "not since its start");
}

#[tokio::test]
async fn auto_purge_asks_for_the_settings_of_many_databases_at_once() {
    let (store, faults) = crate::store::embedded::faults::Faults::store();
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let databases = Databases::open(store, Arc::new(crate::store::MemoryBlobs::new()), clock).unwrap();
    let reads = async |databases: &Arc<Databases>| {
        let (_, before) = faults.calls();
        databases.auto_purge(None).await.unwrap();
        faults.calls().1 - before
    };
    databases.create("db-0", CreateOptions::default(), None).unwrap();
    let of_one = reads(&databases).await;
    for number in 1..100 {
        databases.create(&format!("db-{number}"), CreateOptions::default(), None).unwrap();
    }
    assert_eq!(reads(&databases).await, of_one);
}

#[tokio::test]
async fn a_setting_of_auto_purge_keeps_the_notes_that_another_writer_commits_in_between() {
    use crate::store::{Store, keyspace};
    let memory = Arc::new(crate::store::memory::Memory::new());
    let store = Arc::new(crate::store::rival::Rival::new(memory, &keyspace::auto_purge(1)));
    let clock = Clock::fixed(std::time::Duration::from_secs(1));
    let databases = Databases::open(store.clone(), Arc::new(crate::store::MemoryBlobs::new()), clock).unwrap();
    let database = databases.create("db", CreateOptions::default(), None).unwrap();
    store.writes_next([AutoPurge { properties: "{}".into(), done: 7, notes: vec![(1, 9)] }.encode()]);
    let properties = r#"{"deleted_document_ttl":"1_day"}"#;
    database.put_auto_purge(properties.into()).await.unwrap();
    let stored = AutoPurge::of(store.get(&keyspace::auto_purge(1)).unwrap().as_deref()).unwrap();
    assert_eq!(stored, AutoPurge { properties: properties.into(), done: 7, notes: vec![(1, 9)] });
}
