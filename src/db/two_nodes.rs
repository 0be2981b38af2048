//! Two nodes on one store: each sees what the other one writes.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::rev::Revision;
use crate::store::shared_memory::{Calls, Cluster};
use crate::store::{Batch, Direction, MemoryBlobs, PageLimit, keyspace};

/// Longer than the pause between two polls.
const SOON: Duration = Duration::from_secs(20);

fn cluster() -> (Arc<Cluster>, Arc<Databases>, Arc<Databases>) {
    let cluster = Cluster::new(Clock::system());
    let blobs = Arc::new(MemoryBlobs::new());
    let [one, two] = [(); 2].map(|()| Databases::open(cluster.node(), blobs.clone(), Clock::system()).unwrap());
    (cluster, one, two)
}

async fn put(database: &Arc<Database>, id: &str, parent: Option<&Revision>, json: &str) -> Result<Revision> {
    let edit = Incoming {
        id: id.into(),
        parent: parent.cloned(),
        path: (0, Vec::new()),
        deleted: false,
        json: json.into(),
        attachments: Vec::new(),
    };
    database.update(vec![edit], Mode::Interactive, &AllowAll).await?.remove(0)
}

fn feed(database: &Database) -> Vec<(u64, String)> {
    let page = database.changes(0, Direction::Forward, PageLimit::entries(1000)).unwrap();
    page.rows.into_iter().map(|(sequence, row)| (sequence, row.id)).collect()
}

fn events(databases: &Databases) -> Vec<(u64, String, DbEventKind)> {
    let events = databases.events_after(0, 1000).unwrap();
    events.into_iter().map(|event| (event.sequence, event.name, event.kind)).collect()
}

#[tokio::test]
async fn what_one_node_writes_the_next_request_on_the_other_reads() {
    let (_, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    let there = two.get("db").unwrap();
    let revision = put(&here, "a", None, "{}").await.unwrap();
    here.write_local("l", LocalWrite::Put { json: r#"{"n":1}"#.into(), previous: None }).await.unwrap();
    here.set_revs_limit(7).await.unwrap();
    two.catch_up(&["db"]).unwrap();
    assert_eq!(feed(&there), [(1, "a".to_owned())]);
    assert_eq!(there.info(), here.info());
    assert_eq!(there.info().revs_limit, 7);
    assert_eq!(there.local("l").unwrap().json, r#"{"n":1}"#);
    put(&there, "a", Some(&revision), r#"{"x":1}"#).await.unwrap();
    let now = std::time::Instant::now();
    assert!(one.opened_as_of("db", now).is_none(), "it may have changed");
    one.catch_up(&["db"]).unwrap();
    assert!(one.opened_as_of("db", now).is_some());
    assert_eq!(feed(&here), [(2, "a".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_learn_together_and_a_damaged_record_fails_only_those_that_need_it() {
    let (cluster, one, two) = cluster();
    let names = ["a", "b", "c"];
    for name in names {
        one.create(name, CreateOptions::default(), None).unwrap();
        two.get(name).unwrap();
    }
    let tasks = (0..60usize).map(|number| {
        let (one, two, name) = (one.clone(), two.clone(), names[number % 3]);
        tokio::spawn(async move {
            let (here, there) = (one.opened(name).unwrap(), two.opened(name).unwrap());
            for round in 0..5 {
                put(&here, &format!("{number}-{round}"), None, "{}").await.unwrap();
                let written = here.info().sequence;
                two.catch_up_together(&["_users", name]).await.unwrap();
                assert!(there.info().sequence >= written);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut damage = Batch::new();
    damage.put(keyspace::info(two.opened("b").unwrap().number), b"?".to_vec());
    cluster.node().commit(damage).unwrap();
    let tasks = (0..60usize).map(|number| {
        let two = two.clone();
        tokio::spawn(async move { (number, two.catch_up_together(&[names[number % 3]]).await) })
    });
    for task in tasks.collect::<Vec<_>>() {
        let (number, learned) = task.await.unwrap();
        match names[number % 3] {
            "b" => assert!(matches!(learned, Err(Error::Damaged(_))), "{learned:?}"),
            _ => learned.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_requests_that_wait_hear_that_the_store_is_away() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (cluster, one, two) = cluster();
    one.create("db", CreateOptions::default(), None).unwrap();
    two.get("db").unwrap();
    cluster.set_reads(Calls::Held);
    let (before, begun) = (cluster.asked(), Arc::new(AtomicUsize::new(0)));
    let requests: Vec<_> = (0..40)
        .map(|_| {
            let (two, begun) = (two.clone(), begun.clone());
            tokio::spawn(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                two.catch_up_together(&["db"]).await
            })
        })
        .collect();
    while begun.load(Ordering::SeqCst) < 40 || cluster.asked() == before {
        tokio::task::yield_now().await;
    }
    cluster.set_reads(Calls::Refused);
    for request in requests {
        let learned = request.await.unwrap();
        assert!(matches!(learned, Err(Error::Down(_))), "{learned:?}");
    }
    let asked = cluster.asked() - before;
    assert!(asked < 20, "not each of 40 requests asks the store: {asked}");
    cluster.set_reads(Calls::Answered);
    two.catch_up_together(&["db"]).await.unwrap();
}

#[test]
fn a_look_that_never_ran_does_not_count() {
    let (_, one, two) = cluster();
    one.create("db", CreateOptions::default(), None).unwrap();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let ended = runtime();
    let handle = ended.handle().clone();
    ended.shutdown_background();
    for _ in 0..3 {
        let mut look = std::pin::pin!(two.catch_up_together(&["db"]));
        let context = handle.enter();
        let begun = look.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        drop(context);
        let looked = match begun {
            std::task::Poll::Ready(looked) => looked,
            // The runtime drops its tasks on another thread.
            std::task::Poll::Pending => runtime().block_on(look),
        };
        assert!(matches!(looked, Err(Error::Internal(_))), "{looked:?}");
    }
    assert_eq!(two.freshness.looks.lock().running, 0);
    runtime().block_on(two.catch_up_together(&["db"])).unwrap();
}

#[tokio::test]
async fn a_changed_security_object_and_a_changed_design_document_are_forgotten_on_the_other_node() {
    let (_, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), Some("{}")).unwrap();
    let there = two.get("db").unwrap();
    let generation = there.design_generation();
    there.keep_designs(generation, Arc::new(1u8));
    put(&here, "plain", None, "{}").await.unwrap();
    two.catch_up(&["db"]).unwrap();
    assert!(there.kept_designs().is_some(), "no design document was written");
    put(&here, "_design/d", None, "{}").await.unwrap();
    two.catch_up(&["db"]).unwrap();
    assert!(there.kept_designs().is_none());
    assert_ne!(there.design_generation(), generation);
    here.put_security(r#"{"members":{"roles":["x"]}}"#.into()).await.unwrap();
    two.catch_up(&["db"]).unwrap();
    assert_eq!(*there.security(), *r#"{"members":{"roles":["x"]}}"#);
    let same = there.security();
    put(&here, "other", None, "{}").await.unwrap();
    two.catch_up(&["db"]).unwrap();
    assert!(Arc::ptr_eq(&same, &there.security()), "a check that compares pointers finds no change");
}

#[tokio::test]
async fn a_watcher_on_the_other_node_wakes_with_and_without_notices() {
    let (cluster, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    let there = two.get("db").unwrap();
    let following = tokio::spawn(two.clone().follow_nodes());
    let mut watch = there.watch();
    for (round, lost) in [false, true].into_iter().enumerate() {
        cluster.lose_notices(lost);
        watch.borrow_and_update();
        put(&here, &format!("d{round}"), None, "{}").await.unwrap();
        tokio::time::timeout(SOON, watch.changed()).await.expect("it wakes").unwrap();
        assert_eq!(*watch.borrow_and_update(), Moved::To(round as u64 + 1));
        here.put_security(format!(r#"{{"round":{round}}}"#)).await.unwrap();
        tokio::time::timeout(SOON, watch.changed()).await.expect("it wakes").unwrap();
        assert_eq!(*there.security(), *format!(r#"{{"round":{round}}}"#));
    }
    one.delete("db").unwrap();
    let gone = tokio::time::timeout(SOON, watch.wait_for(|moved| *moved == Moved::Gone)).await;
    gone.expect("it wakes").unwrap();
    following.abort();
}

#[tokio::test]
async fn a_database_that_was_deleted_and_made_again_is_not_served_from_memory() {
    let (_, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    put(&here, "a", None, "{}").await.unwrap();
    let there = two.get("db").unwrap();
    one.delete("db").unwrap();
    let again = one.create("db", CreateOptions::default(), None).unwrap();
    assert_eq!(put(&there, "b", None, "{}").await, Err(Error::NoDatabase), "a write finds out by itself");
    assert!(two.opened("db").is_none());
    let there_again = two.get("db").unwrap();
    assert_eq!(there_again.instance(), again.instance());
    assert_eq!(feed(&there_again), []);
    one.delete("db").unwrap();
    two.catch_up(&["db"]).unwrap();
    assert!(there_again.is_gone());
    assert_eq!(two.get("db").err(), Some(Error::NoDatabase));
    assert_eq!(two.delete("db").err(), Some(Error::NoDatabase));
    let made = two.create("db", CreateOptions::default(), None).unwrap();
    assert_eq!(one.get("db").unwrap().instance(), made.instance());
}

#[tokio::test]
async fn the_data_of_a_deleted_database_stays_until_every_node_has_heard_of_it() {
    let (_, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    put(&here, "a", None, "{}").await.unwrap();
    let number = here.number();
    one.delete("db").unwrap();
    let left = || two.store().get(&crate::store::keyspace::document(number, "a")).unwrap().is_some();
    assert!(!two.remove_some().unwrap() && left());
    let long_ago = std::time::Instant::now().checked_sub(freshness::REMOVAL_DELAY).unwrap();
    two.freshness.doomed.lock().insert(number, long_ago);
    while two.remove_some().unwrap() {}
    assert!(!left());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_write_one_database_at_once_and_lose_nothing() {
    const EACH: usize = 25;
    let (_, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), Some(r#"{"n":0}"#)).unwrap();
    let there = two.get("db").unwrap();
    let contested = put(&here, "contested", None, "{}").await.unwrap();
    let mut tasks = Vec::new();
    for (node, database) in [here.clone(), there.clone()].into_iter().enumerate() {
        for number in 0..EACH {
            let (database, contested) = (database.clone(), contested.clone());
            tasks.push(tokio::spawn(async move {
                put(&database, &format!("{node}-{number}"), None, "{}").await.unwrap();
                let local = LocalWrite::Put { json: "{}".into(), previous: None };
                database.write_local(&format!("{node}-{number}"), local).await.unwrap();
                let count = |text: &str| {
                    let mut object: serde_json::Value = serde_json::from_str(text).unwrap();
                    object["n"] = (object["n"].as_u64().unwrap() + 1).into();
                    Ok(Some(object.to_string()))
                };
                database.change_security(count).await.unwrap();
                put(&database, "contested", Some(&contested), &format!(r#"{{"by":"{node}-{number}"}}"#)).await.is_ok()
            }));
        }
    }
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap());
    }
    assert_eq!(won, 1, "one of the edits of the same revision");
    for (databases, database) in [(&one, &here), (&two, &there)] {
        databases.catch_up(&["db"]).unwrap();
        assert_eq!(database.info().documents as usize, 2 * EACH + 1);
        assert_eq!(*database.security(), *format!(r#"{{"n":{}}}"#, 2 * EACH));
        let rows = feed(database);
        assert_eq!(rows.len(), 2 * EACH + 1);
        assert_eq!(rows.last().unwrap().0, database.info().sequence);
        for number in 0..EACH {
            assert!(database.local(&format!("0-{number}")).is_ok() && database.local(&format!("1-{number}")).is_ok());
        }
    }
    assert_eq!(here.info(), there.info());
}

#[tokio::test]
async fn a_write_finds_the_record_that_was_read_with_the_counters() {
    let (cluster, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    let there = two.get("db").unwrap();
    let first = put(&here, "a", None, "{}").await.unwrap();
    let looked = |id: &'static str| two.catch_up_for(&["_users", "db"], Some(("db", id)));
    let kept = looked("a").await.unwrap();
    let (other, absent) = (looked("a").await.unwrap(), looked("b").await.unwrap());
    assert!(kept.is_some());
    let before = cluster.asked();
    let second = put(&there, "a", Some(&first), r#"{"n":2}"#).await.unwrap();
    put(&there, "b", None, "{}").await.unwrap();
    assert_eq!(cluster.asked(), before, "nothing is read for the writes");
    drop((kept, other, absent));
    // A record that this node has written since is read again.
    let (kept, twice) = (looked("a").await.unwrap(), looked("c").await.unwrap());
    let third = put(&there, "a", Some(&second), r#"{"n":3}"#).await.unwrap();
    let late = put(&there, "a", Some(&second), "{}").await;
    assert!(matches!(late, Err(Error::Conflict)), "{late:?}");
    // And every record after a commit of another node.
    let fourth = put(&here, "a", Some(&third), r#"{"n":4}"#).await.unwrap();
    put(&here, "c", None, "{}").await.unwrap();
    for (id, parent) in [("a", Some(&third)), ("c", None)] {
        let late = put(&there, id, parent, "{}").await;
        assert!(matches!(late, Err(Error::Conflict)), "{id}: {late:?}");
    }
    drop((kept, twice));
    put(&there, "a", Some(&fourth), r#"{"n":5}"#).await.unwrap();
    // What no writer has taken is forgotten with its request.
    drop(looked("a").await.unwrap());
    let before = cluster.asked();
    put(&there, "d", None, "{}").await.unwrap();
    assert!(cluster.asked() > before);
    assert!(two.catch_up_for(&["_users"], Some(("_users", "a"))).await.unwrap().is_none(), "it is not open");
}

#[tokio::test]
async fn a_read_as_a_task_finds_what_other_reads_find_and_the_record_that_was_read_with_the_counters() {
    let (cluster, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), None).unwrap();
    let there = two.get("db").unwrap();
    let first = put(&here, "a", None, r#"{"n":1}"#).await.unwrap();
    let second = put(&here, "a", Some(&first), r#"{"n":2}"#).await.unwrap();
    let gone = put(&here, "gone", None, "{}").await.unwrap();
    let tombstone = Incoming { parent: Some(gone), deleted: true, ..Incoming::created("gone", "{}") };
    here.update(vec![tombstone], Mode::Interactive, &AllowAll).await.unwrap().remove(0).unwrap();
    let unknown = Revision { generation: 7, ..second.clone() };
    let wanted = [
        Wanted::Winner,
        Wanted::Revision(&first),
        Wanted::Revision(&unknown),
        Wanted::Latest(&first),
        Wanted::Latest(&unknown),
    ];
    for id in ["a", "gone", "absent"] {
        for wanted in wanted {
            for most in [u64::MAX, 1] {
                let kept = two.catch_up_for(&["_users", "db"], Some(("db", id))).await.unwrap();
                let blocking = format!("{:?}", there.find_within(id, wanted, most));
                let (before, expects_body) = (cluster.asked(), blocking.starts_with("Ok(Fits"));
                let found = there.find_within_as_task(id, wanted, most).await;
                assert_eq!(format!("{found:?}"), blocking, "{id} {wanted:?} {most}");
                assert_eq!(
                    cluster.asked() - before,
                    usize::from(expects_body),
                    "{id} {wanted:?} {most}: only the body"
                );
                // The record was taken: it is read again.
                let found = there.find_within_as_task(id, wanted, most).await;
                assert_eq!(format!("{found:?}"), blocking, "{id} {wanted:?} {most}");
                drop(kept);
            }
        }
    }
    // A record of counters that are not the last ones is not used.
    let kept = two.catch_up_for(&["db"], Some(("db", "a"))).await.unwrap();
    let third = put(&here, "a", Some(&second), r#"{"n":3}"#).await.unwrap();
    two.catch_up_together(&["db"]).await.unwrap();
    let Within::Fits(found) = there.find_within_as_task("a", Wanted::Winner, u64::MAX).await.unwrap() else { panic!() };
    assert_eq!(found.revision, third);
    drop(kept);
    cluster.set_reads(Calls::Refused);
    let failed = there.find_within_as_task("a", Wanted::Winner, u64::MAX).await;
    assert!(matches!(failed, Err(Error::Down(_))), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn edits_of_few_documents_by_two_nodes_that_look_first_are_all_in_the_histories() {
    const EDITS: u64 = 40;
    let (_, one, two) = cluster();
    one.create("db", CreateOptions::default(), None).unwrap();
    let tasks = (0..12u64).map(|number| {
        let node = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let database = node.get("db").unwrap();
            let (mut won, mut parent): (u64, Option<Revision>) = (0, None);
            let id = format!("d{}", number % 3);
            for round in 0..EDITS {
                let kept = node.catch_up_for(&["db"], Some(("db", &id))).await.unwrap();
                if round % 5 == 4 {
                    tokio::task::yield_now().await;
                }
                match put(&database, &id, parent.as_ref(), &format!(r#"{{"by":"{number}-{round}"}}"#)).await {
                    Ok(_) => won += 1,
                    Err(error) => assert!(matches!(error, Error::Conflict), "{error:?}"),
                }
                drop(kept);
                node.catch_up_together(&["db"]).await.unwrap();
                parent = database.winner(&id).unwrap().map(|(_, leaf)| leaf.revision);
            }
            (id, won)
        })
    });
    let mut won = std::collections::HashMap::<String, u64>::new();
    for task in tasks.collect::<Vec<_>>() {
        let (id, edits) = task.await.unwrap();
        *won.entry(id).or_default() += edits;
    }
    let database = two.get("db").unwrap();
    two.catch_up(&["db"]).unwrap();
    for (id, won) in won {
        let (_, leaf) = database.winner(&id).unwrap().unwrap();
        assert_eq!(leaf.revision.generation, won, "{id}: each edit that was acknowledged has a generation");
    }
    assert_eq!(one.get("db").unwrap().info().sequence, database.info().sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_create_and_delete_the_same_databases_at_once() {
    const NAMES: usize = 20;
    let (_, one, two) = cluster();
    let at_once = |act: fn(&Databases, &str) -> bool| {
        let nodes = [one.clone(), two.clone()];
        move || {
            let tasks = nodes.map(|databases| {
                std::thread::spawn(move || (0..NAMES).filter(|number| act(&databases, &format!("db{number}"))).count())
            });
            tasks.map(|task| task.join().unwrap()).into_iter().sum::<usize>()
        }
    };
    let create = |databases: &Databases, name: &str| match databases.create(name, CreateOptions::default(), None) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, Error::DatabaseExists);
            false
        }
    };
    let delete = |databases: &Databases, name: &str| match databases.delete(name) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error, Error::NoDatabase);
            false
        }
    };
    assert_eq!(at_once(create)(), NAMES, "each name once");
    let numbers = |databases: &Databases| {
        let names = databases.names(None, None, true, false, 0, 1000).unwrap();
        let mut numbers: Vec<u64> = names.iter().map(|name| databases.get(name).unwrap().number()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&one), (1..=NAMES as u64).collect::<Vec<_>>());
    assert_eq!(numbers(&two), numbers(&one));
    assert_eq!(at_once(delete)(), NAMES);
    assert_eq!(at_once(create)(), NAMES);
    assert_eq!(numbers(&two).len(), NAMES);
    let rows = events(&one);
    assert_eq!(rows.len(), 2 * NAMES, "the last event of each kind and name");
    assert_eq!(rows.last().unwrap().0, 3 * NAMES as u64, "without a gap");
    assert!(rows.iter().all(|(_, _, kind)| *kind != DbEventKind::Updated));
}

#[tokio::test]
async fn events_of_both_nodes_have_one_order_and_wake_the_feeds_of_both() {
    let (_, one, two) = cluster();
    let mut heard = two.watch_events();
    let here = one.create("a", CreateOptions::default(), None).unwrap();
    two.create("b", CreateOptions::default(), None).unwrap();
    put(&here, "x", None, "{}").await.unwrap();
    one.flush_updates().unwrap();
    heard.borrow_and_update();
    two.learn_events().unwrap();
    assert!(heard.has_changed().unwrap());
    assert_eq!((one.last_event(), two.last_event()), (3, 3));
    let there = two.get("a").unwrap();
    put(&there, "y", None, "{}").await.unwrap();
    one.delete("b").unwrap();
    two.flush_updates().unwrap();
    let kinds = [(1, "a", DbEventKind::Created), (2, "b", DbEventKind::Created), (4, "b", DbEventKind::Deleted)];
    let expected: Vec<_> = kinds.into_iter().chain([(5, "a", DbEventKind::Updated)]).collect();
    let found = events(&one);
    assert_eq!(found.iter().map(|(at, name, kind)| (*at, name.as_str(), *kind)).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn events_that_a_node_has_left_out_are_written_by_another_one() {
    let clock = Clock::fixed(Duration::from_secs(1000));
    let cluster = Cluster::new(clock.clone());
    let blobs = Arc::new(MemoryBlobs::new());
    let [one, two] = [(); 2].map(|()| Databases::open(cluster.node(), blobs.clone(), Clock::system()).unwrap());
    for name in ["announced", "left", "deleted", "again"] {
        let here = one.create(name, CreateOptions::default(), None).unwrap();
        put(&here, "a", None, "{}").await.unwrap();
        if name == "announced" {
            one.flush_updates().unwrap();
        }
    }
    // Nobody opens them here.
    two.delete("deleted").unwrap();
    two.delete("again").unwrap();
    two.create("again", CreateOptions::default(), None).unwrap();
    let updated = || -> Vec<String> {
        let all = events(&two).into_iter();
        all.filter(|(.., kind)| *kind == DbEventKind::Updated).map(|(_, name, _)| name).collect()
    };
    assert_eq!(two.write_left_updates(), Ok(0), "the node may live");
    assert_eq!(updated(), ["announced"]);
    clock.advance(Duration::from_secs(30));
    let heard = two.watch_events();
    assert_eq!(two.write_left_updates(), Ok(1));
    assert!(heard.has_changed().unwrap());
    assert_eq!(updated(), ["announced", "left"]);
    clock.advance(Duration::from_secs(30));
    assert_eq!(two.write_left_updates(), Ok(0));
    // The node was only frozen, and goes on. It writes events for names.
    put(&one.get("left").unwrap(), "b", None, "{}").await.unwrap();
    one.flush_updates().unwrap();
    assert_eq!(updated(), ["announced", "again", "left"]);
    clock.advance(Duration::from_secs(30));
    assert_eq!(two.write_left_updates(), Ok(0));
}

#[tokio::test]
async fn no_update_event_follows_the_deletion_by_the_other_node() {
    let (_, one, two) = cluster();
    one.create("db", CreateOptions::default(), None).unwrap();
    let there = two.get("db").unwrap();
    put(&there, "a", None, "{}").await.unwrap();
    one.delete("db").unwrap();
    two.flush_updates().unwrap();
    assert_eq!(events(&two).last().unwrap().2, DbEventKind::Deleted);
}

#[tokio::test]
async fn a_new_epoch_makes_a_node_read_everything_again() {
    let (cluster, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), Some("{}")).unwrap();
    put(&here, "a", None, "{}").await.unwrap();
    here.put_security(r#"{"lost":true}"#.into()).await.unwrap();
    let there = two.get("db").unwrap();
    let following = tokio::spawn(two.clone().follow_nodes());
    let mut watch = there.watch();
    // The store has lost the two commits.
    let mut lost = crate::store::Batch::new();
    lost.put(crate::store::keyspace::info(1), record::Info::default().encode());
    lost.put(crate::store::keyspace::security(1), b"{}".to_vec());
    one.store().commit(lost).unwrap();
    cluster.fail_over();
    let back = tokio::time::timeout(SOON, watch.wait_for(|moved| *moved == Moved::To(0))).await;
    back.expect("it wakes").unwrap();
    two.catch_up(&["db"]).unwrap();
    assert_eq!(*there.security(), *"{}");
    following.abort();
}

#[tokio::test]
async fn after_a_failover_the_store_counts_and_not_what_is_in_memory() {
    let (cluster, one, two) = cluster();
    let here = one.create("db", CreateOptions::default(), Some("{}")).unwrap();
    put(&here, "a", None, "{}").await.unwrap();
    let kept = cluster.entries();
    for id in ["lost-1", "lost-2"] {
        put(&here, id, None, "{}").await.unwrap();
    }
    here.put_security(r#"{"lost":true}"#.into()).await.unwrap();
    let there = two.get("db").unwrap();
    assert_eq!((here.info().sequence, there.info().sequence), (3, 3));
    cluster.fail_over_to(kept);
    // The next request sees the stored state, and does not wait for the check of the epoch.
    two.catch_up(&["db"]).unwrap();
    assert_eq!((there.info().sequence, &*there.security()), (1, "{}"));
    let written = tokio::time::timeout(SOON, put(&here, "b", None, "{}")).await;
    written.expect("a writer goes on").unwrap();
    two.catch_up(&["db"]).unwrap();
    assert_eq!(feed(&there), [(1, "a".to_owned()), (2, "b".to_owned())]);
    // Counters that were read before the failover and arrive late change nothing.
    let late = record::Info { sequence: 3, commits: 9, ..record::Info::default() };
    there.publish(late, 1);
    assert_eq!(there.info().sequence, 2);
}

#[test]
fn embedded_counters_have_the_form_that_older_versions_read() {
    let info = record::Info { sequence: 5, ..record::Info::default() }.without_conflict_index();
    assert_eq!(info.encode()[0], 1);
    let shared = record::Info { commits: 9, security_at: 3, designs_at: 7, held_until: 8, ..info.clone() };
    assert_eq!(shared.encode()[0], 2);
    for info in [info, shared] {
        assert_eq!(record::Info::decode(&info.encode()).unwrap(), info);
    }
}
