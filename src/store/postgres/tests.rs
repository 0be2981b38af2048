//! The store on a real PostgreSQL. Each test runs a server of its own.

mod cut_connections;
mod lost_tasks;
mod marks;

use std::io::Read;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::small_disk::SmallDisk;
use super::test_server::TestServer;
use super::{Options, open};
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Durability, Key, PageLimit, Result, Store, StoreError, keyspace};

fn key(number: u64, rest: &str) -> Vec<u8> {
    [&[0x10][..], &number.to_be_bytes(), rest.as_bytes()].concat()
}

/// All keys of a database.
fn of(number: u64) -> KeyRange {
    (Bound::Included(key(number, "")), Bound::Excluded(key(number + 1, "")))
}

/// Waits until `holds`.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_nodes_see_each_others_commits_and_conflicts() {
    let Some(server) = TestServer::start() else { return };
    let (one, two) = (server.open("nodes").store, server.open("nodes").store);
    let mut batch = Batch::new();
    batch.expect(key(1, "i"), None);
    batch.put(key(1, "i"), b"1".to_vec());
    one.commit(batch.clone()).unwrap();
    assert_eq!(two.get(&key(1, "i")).unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(two.commit(batch), Err(StoreError::Conflict));
    // Both nodes create the same names at once, and write to the same database at once.
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for store in [&one, &one, &two, &two] {
            let made = &made;
            scope.spawn(move || {
                for number in 0..40 {
                    let mut batch = Batch::new();
                    batch.expect(keyspace::name(&format!("d{number}")), None);
                    batch.put(keyspace::name(&format!("d{number}")), b"x".to_vec());
                    match store.commit(batch) {
                        Ok(()) => {
                            made.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error, StoreError::Conflict),
                    }
                    increment(store.as_ref(), &key(1, "i"));
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 40, "each name was made once");
    assert_eq!(one.get(&key(1, "i")).unwrap().as_deref(), Some(&b"161"[..]));
    // A key that is expected to be absent, and is not written, leaves no row behind.
    let mut batch = Batch::new();
    batch.expect(key(2, "absent"), None);
    batch.put(key(2, "other"), b"1".to_vec());
    one.commit(batch.clone()).unwrap();
    batch.expect(key(2, "other"), None);
    assert_eq!(one.commit(batch), Err(StoreError::Conflict));
    assert_eq!(two.get_many(&[key(2, "absent"), key(2, "other")]).unwrap(), [None, Some(b"1".to_vec())]);
}

#[test]
fn batches_of_one_transaction_fail_alone_and_leave_nothing() {
    let Some(server) = TestServer::start() else { return };
    let stores = [server.open("groups").store, server.open("groups").store];
    let written: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let (name, sum) = (b"name".to_vec(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let (store, written, name, sum) = (&stores[(thread % 2) as usize], &written, &name, &sum);
            // Two nodes write each database, and all write one other record.
            scope.spawn(move || {
                let number = thread / 2 + 1;
                for round in 0..40u64 {
                    let counters = store.get_many(&[key(number, "i"), name.clone()]).unwrap();
                    let count =
                        |at: usize| counters[at].as_ref().map_or(0, |value| text(value).parse::<u64>().unwrap());
                    let mut batch = Batch::new();
                    let next = count(0) + 1;
                    batch.expect(key(number, "i"), counters[0].clone());
                    batch.put(key(number, "i"), next.to_string().into_bytes());
                    batch.put_new(key(number, &format!("s{next:04}")), format!("{thread}.{round}").into_bytes());
                    batch.put(key(number, "last"), format!("{thread}.{round}").into_bytes());
                    batch.delete(key(number, &format!("s{:04}", next.saturating_sub(5))));
                    let counts = round % 4 == 0;
                    if counts {
                        batch.expect(name.clone(), counters[1].clone());
                        batch.put(name.clone(), (count(1) + 1).to_string().into_bytes());
                    }
                    match store.commit(batch) {
                        Ok(()) => {
                            written[number as usize - 1].fetch_add(1, Ordering::SeqCst);
                            sum.fetch_add(u64::from(counts), Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error, StoreError::Conflict),
                    }
                }
            });
        }
    });
    let store = &stores[0];
    assert_eq!(text(&store.get(&name).unwrap().unwrap()), sum.into_inner().to_string());
    for number in 1..=8u64 {
        let count = written[number as usize - 1].load(Ordering::SeqCst);
        assert_eq!(text(&store.get(&key(number, "i")).unwrap().unwrap()), count.to_string());
        let rows: Vec<_> =
            (count.saturating_sub(4).max(1)..=count).map(|at| key(number, &format!("s{at:04}"))).collect();
        let all = [rows.clone(), vec![key(number, "i"), key(number, "last")]].concat();
        let mut found = store.keys(&(Bound::Included(key(number, "")), Bound::Excluded(key(number, "z"))), 99).unwrap();
        found.sort_unstable();
        let sorted = |mut keys: Vec<Vec<u8>>| {
            keys.sort_unstable();
            keys
        };
        assert_eq!(found, sorted(all));
        assert_eq!(store.get(&key(number, "last")).unwrap(), store.get(rows.last().unwrap()).unwrap());
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

/// Counts the statements of settee that wait for a lock.
const WAITING: &str =
    "select count(*) from pg_stat_activity where application_name = 'settee' and wait_event_type = 'Lock'";

/// Writes each number from 0 to 19 under the key `k` of the database with this number.
fn write_numbers(store: &dyn Store) {
    let mut batch = Batch::new();
    (0..20u64).for_each(|number| batch.put(key(number, "k"), number.to_string().into_bytes()));
    store.commit(batch).unwrap();
}

/// Calls `read` with each number from 0 to 19 at the same time, while `table` is locked. Returns the results, and how many
/// statements waited for the lock.
fn read_behind_a_lock<T: Send>(server: &TestServer, table: &str, read: impl Fn(u64) -> T + Sync) -> (Vec<T>, u64) {
    let locked = locked(table);
    read_until(server, table, read, || {
        until("it is released", || {
            server.sql(&locked.replace("count(*)", "pg_terminate_backend(pid)"));
            server.sql(&locked) == "0"
        });
    })
}

/// Counts the connections that have `table` locked.
fn locked(table: &str) -> String {
    format!(
        "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted \
         and relation = '{table}'::regclass"
    )
}

/// As [`read_behind_a_lock`]; `release` ends the wait for the lock.
fn read_until<T: Send>(
    server: &TestServer,
    table: &str,
    read: impl Fn(u64) -> T + Sync,
    release: impl FnOnce(),
) -> (Vec<T>, u64) {
    let lock = format!("begin; lock table {table} in access exclusive mode; select pg_sleep(60)");
    let locked = locked(table);
    let begun = AtomicU64::new(0);
    let waiting = || server.sql(WAITING).parse::<u64>().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| server.refused(&lock));
        until("it is locked", || server.sql(&locked) == "1");
        let (read, begun) = (&read, &begun);
        let reads: Vec<_> = (0..20u64)
            .map(|number| {
                scope.spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    read(number)
                })
            })
            .collect();
        until("all have begun", || begun.load(Ordering::SeqCst) == 20 && waiting() > 0);
        let statements = waiting();
        release();
        (reads.into_iter().map(|read| read.join().unwrap()).collect(), statements)
    })
}

#[test]
fn reads_that_wait_share_a_statement() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("together").store;
    write_numbers(&*store);
    let (reads, statements) = read_behind_a_lock(&server, "together.kv", |number| {
        let keys = [key(number + 100, "k"), key(number, "k"), key(number, "absent"), key(number + 1, "k")];
        store.get_many(&keys).unwrap()
    });
    assert!(statements <= 4, "20 calls have few statements");
    for (number, read) in reads.into_iter().enumerate() {
        let value = |number: usize| (number < 20).then(|| number.to_string().into_bytes());
        assert_eq!(read, [None, value(number), None, value(number + 1)]);
    }
}

#[test]
fn tables_of_version_1_are_upgraded_while_a_node_of_that_version_runs() {
    let Some(server) = TestServer::start() else { return };
    let mut batch = Batch::new();
    batch.put(key(1, "i"), b"1".to_vec());
    server.open("old").store.commit(batch).unwrap();
    let functions = "select count(*) from pg_proc where proname = 'commit' and pronamespace = 'old'::regnamespace";
    server.sql("drop function old.commit; update old.meta set version = 1");
    server.sql(
        "create function old.commit(int8, int8, int4[], int8[], bytea[], bytea[], int4[], int8[], bytea[], bytea[]) \
         returns int4[] language sql as 'select null::int4[]'",
    );
    let store = server.open("old").store;
    assert_eq!(server.sql("select version from old.meta"), super::schema::VERSION.to_string());
    assert_eq!(server.sql(functions), "2", "the node of version 1 still calls its own");
    increment(store.as_ref(), &key(1, "i"));
    assert_eq!(store.get(&key(1, "i")).unwrap().as_deref(), Some(&b"2"[..]));
}

/// Adds one to the number at `key`, in turns once there was a conflict.
fn increment(store: &dyn Store, key: &[u8]) {
    let mut turn = None;
    loop {
        let old = store.get(key).unwrap();
        let count = old.as_ref().map_or(0, |old| String::from_utf8_lossy(old).parse::<u64>().unwrap());
        let mut batch = Batch::new();
        batch.expect(key.to_vec(), old);
        batch.put(key.to_vec(), (count + 1).to_string().into_bytes());
        match store.commit(batch) {
            Ok(()) => return,
            Err(error) => assert_eq!(error, StoreError::Conflict),
        }
        drop(turn.take());
        turn = store.turn(u64::from_be_bytes(*key[1..].first_chunk().unwrap()));
    }
}

#[test]
fn an_older_settee_refuses_newer_tables_and_a_role_without_rights_gets_the_sql() {
    let Some(server) = TestServer::start() else { return };
    drop(server.open("newer"));
    server.sql("update newer.meta set version = 99");
    let said = open(server.address("newer"), &Options::default()).err().unwrap().to_string();
    assert!(said.contains("has version 99"), "{said}");
    server.sql("create role poor login; revoke create on database postgres from public");
    let url = server.url("owned").replace("settee@", "poor@");
    let address = || super::Address::read(&url, &|_| None).unwrap();
    let said = open(address(), &Options::default()).err().unwrap().to_string();
    let sql = said.lines().find(|line| line.contains("CREATE SCHEMA")).unwrap_or_else(|| panic!("{said}"));
    server.sql(sql);
    open(address(), &Options::default()).unwrap();
    // An upgrade fails in the same way.
    server
        .sql("drop function owned.commit; update owned.meta set version = 1; revoke create on schema owned from poor");
    let said = open(address(), &Options::default()).err().unwrap().to_string();
    assert!(said.contains("no tables of version 4, and this role may not make or upgrade them"), "{said}");
    let sql = said.lines().find(|line| line.contains("GRANT USAGE, CREATE")).unwrap_or_else(|| panic!("{said}"));
    server.sql(sql);
    open(address(), &Options::default()).unwrap();
    // Another role owns the tables.
    server.sql(
        "drop function owned.commit; alter table owned.slots drop column marks; update owned.meta set version = 3; \
         reassign owned by poor to settee; grant all on schema owned to poor; grant all on all tables in schema owned to poor",
    );
    let said = open(address(), &Options::default()).err().unwrap().to_string();
    let sql = said.lines().find(|line| line.contains("OWNER TO poor")).unwrap_or_else(|| panic!("{said}"));
    server.sql(sql);
    open(address(), &Options::default()).unwrap();
    let said =
        open(server.address("none"), &Options { existing: true, ..Options::default() }).err().unwrap().to_string();
    assert!(said.contains("there is no settee store"), "{said}");
    assert_eq!(server.sql("select to_regnamespace('none') is null"), "t");
}

#[test]
fn a_schema_may_be_called_like_a_word_of_sql() {
    let Some(server) = TestServer::start() else { return };
    for name in ["select", "user", "_1"] {
        let (one, two) = (server.open(name), server.open(name));
        increment(one.store.as_ref(), &key(1, "i"));
        assert_eq!(two.store.get(&key(1, "i")).unwrap().as_deref(), Some(&b"1"[..]), "{name}");
        assert_eq!(two.store.scan(&of(1), Direction::Forward, PageLimit::entries(9)).unwrap().len(), 1);
        assert!(two.store.disk_bytes() > 0);
        assert!(one.store.lease("work", "one", Duration::from_secs(60)).unwrap());
        assert!(one.blobs.list(None, 1).unwrap().is_empty());
        let (told, hears) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (sum, calls) = (told.clone(), hears.clone());
        two.store.listen(Box::new(move |moved| {
            sum.fetch_add(moved.iter().sum(), Ordering::SeqCst);
            calls.fetch_add(1, Ordering::SeqCst);
        }));
        until("it listens", || hears.load(Ordering::SeqCst) > 0);
        one.store.tell(&[7]);
        until("the other node hears", || told.load(Ordering::SeqCst) == 7);
        drop(one);
        let said = {
            let filling = open(server.address(name), &Options { filling: true, ..Options::default() });
            filling.err().unwrap().to_string()
        };
        assert!(said.contains("is not empty"), "{said}");
        server.sql(&format!("update \"{name}\".meta set filling = true"));
        let said = open(server.address(name), &Options::default()).err().unwrap().to_string();
        assert!(said.contains(&format!("DROP SCHEMA \"{name}\" CASCADE")), "{said}");
    }
}

#[test]
fn a_store_that_is_being_filled_is_refused_until_it_is_whole() {
    let Some(server) = TestServer::start() else { return };
    let filling = || open(server.address("new"), &Options { filling: true, ..Options::default() });
    let serve = || open(server.address("new"), &Options::default()).map(drop).map_err(|error| error.to_string());
    let being_filled = filling().unwrap();
    assert!(serve().unwrap_err().contains("is not whole"));
    assert!(filling().err().unwrap().to_string().contains("is not empty"));
    being_filled.finish().unwrap();
    assert_eq!(serve(), Ok(()));
}

#[test]
fn nodes_that_start_at_the_same_time_make_one_store() {
    let Some(server) = TestServer::start() else { return };
    let key = Key::generate();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let options = Options { key: Some(key.clone()), ..Options::default() };
                let opened = open(server.address("race"), &options).unwrap();
                increment(opened.store.as_ref(), &self::key(1, "n"));
            });
        }
    });
    let opened =
        open(server.address("race"), &Options { key: Some(key.clone()), existing: true, filling: false }).unwrap();
    assert_eq!(opened.store.get(&self::key(1, "n")).unwrap().as_deref(), Some(&b"4"[..]), "one envelope of keys");
    assert_eq!(
        server.sql("select count(*) from race.kv where position('4'::bytea in v) > 0 and db = 1 and length(v) < 10"),
        "0"
    );
    for (key, says) in [(None, "is encrypted"), (Some(Key::generate()), "is encrypted under the key")] {
        let said =
            open(server.address("race"), &Options { key, existing: true, filling: false }).err().unwrap().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_commit_whose_connection_is_lost_is_neither_lost_nor_repeated() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("cut").store;
    let done = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, done, acknowledged) = (&store, &done, &acknowledged);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    increment(store.as_ref(), &key(thread + 1, "n"));
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        scopeguard::defer!(done.store(true, Ordering::SeqCst));
        for _ in 0..15 {
            let before = acknowledged.load(Ordering::SeqCst);
            server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'settee'");
            until("commits go on", || acknowledged.load(Ordering::SeqCst) > before + 5);
        }
    });
    let keys: Vec<_> = (1..=4).map(|number| key(number, "n")).collect();
    let sum = |values: Vec<Option<Vec<u8>>>| -> u64 {
        values.iter().flatten().map(|value| String::from_utf8_lossy(value).parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum(store.get_many(&keys).unwrap()), acknowledged.load(Ordering::SeqCst));
}

#[test]
fn a_killed_server_loses_nothing_that_was_acknowledged() {
    let Some(mut server) = TestServer::start() else { return };
    let store = server.open("crash").store;
    for round in 0..3u64 {
        let done = AtomicBool::new(false);
        let last = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (store, done, last) = (&store, &done, &last);
            scopeguard::defer!(done.store(true, Ordering::SeqCst));
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let next = last.load(Ordering::SeqCst) + 1;
                    let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
                    batch.put(key(1, &format!("r{round}")), next.to_string().into_bytes());
                    match store.commit(batch) {
                        Ok(()) => last.store(next, Ordering::SeqCst),
                        Err(error) => assert!(matches!(error, StoreError::Down(_)), "{error:?}"),
                    }
                }
            });
            until("commits", || last.load(Ordering::SeqCst) > 20);
            server.kill();
            server.resume();
            let before = last.load(Ordering::SeqCst);
            until("commits go on", || last.load(Ordering::SeqCst) > before);
        });
        let stored = store.get(&key(1, &format!("r{round}"))).unwrap().unwrap();
        let stored: u64 = String::from_utf8(stored).unwrap().parse().unwrap();
        assert!(stored >= last.load(Ordering::SeqCst));
    }
}

#[test]
fn without_a_server_calls_fail_as_down_and_work_again_afterwards() {
    let Some(mut server) = TestServer::start() else { return };
    let opened = server.open("down");
    let mut batch = Batch::new();
    batch.put(b"a".to_vec(), b"1".to_vec());
    opened.store.commit(batch.clone()).unwrap();
    server.kill();
    // A process of the server may answer once more before it notices.
    until("calls fail", || matches!(opened.store.get(b"a"), Err(StoreError::Down(_))));
    assert!(matches!(opened.store.ready(), Err(StoreError::Down(_))));
    assert!(matches!(opened.blobs.list(None, 1), Err(StoreError::Down(_))));
    server.resume();
    assert_eq!(opened.store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    opened.store.ready().unwrap();
    opened.store.commit(batch).unwrap();
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_loses_nothing() {
    let Some(server) = TestServer::start() else { return };
    let Some(disk) = SmallDisk::mount(&server, 24) else { return };
    server.sql(&format!("create tablespace small location '{}'", disk.folder().display()));
    server.sql("alter role settee set default_tablespace = 'small'");
    let store = server.open("crowded").store;
    let row = |number: u64| key(1, &format!("s{number:05}"));
    let write = |number: u64| {
        let mut batch = Batch::new();
        batch.expect(key(1, "i"), (number > 1).then(|| (number - 1).to_string().into_bytes()));
        batch.put(key(1, "i"), number.to_string().into_bytes());
        batch.put_new(row(number), vec![number as u8; 100_000]);
        store.commit(batch)
    };
    let mut last = 0;
    let refused = loop {
        match write(last + 1) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 1000, "the disk becomes full");
    };
    assert!(matches!(&refused, StoreError::Down(cause) if cause.contains("53100")), "{refused:?}");
    let is_whole = |last: u64| {
        assert_eq!(store.get(&key(1, "i")).unwrap(), Some(last.to_string().into_bytes()));
        for number in 1..=last {
            assert_eq!(store.get(&row(number)).unwrap(), Some(vec![number as u8; 100_000]), "{number}");
        }
        assert_eq!(store.get(&row(last + 1)).unwrap(), None);
    };
    is_whole(last);
    assert!(matches!(write(last + 1), Err(StoreError::Down(_))), "still");
    is_whole(last);
    disk.grow(64);
    until("writes go on", || write(last + 1) == Ok(()));
    is_whole(last + 1);
}

#[test]
fn notices_reach_other_nodes_and_leases_have_one_owner() {
    let Some(server) = TestServer::start() else { return };
    let (one, two) = (server.open("news").store, server.open("news").store);
    let heard = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (own, others) = (heard.clone(), Arc::new(AtomicU64::new(0)));
    two.listen(Box::new(move |numbers| own.lock().push(numbers.to_vec())));
    let count = others.clone();
    one.listen(Box::new(move |numbers| {
        count.fetch_add(numbers.len() as u64, Ordering::SeqCst);
    }));
    until("the listener is connected", || !heard.lock().is_empty());
    assert_eq!(heard.lock()[0], Vec::<u64>::new(), "anything may have moved before");
    one.tell(&[7, 9]);
    until("a notice arrives", || heard.lock().concat().ends_with(&[7, 9]));
    let before = heard.lock().len();
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'settee'");
    until("a broken connection is told", || heard.lock()[before..].contains(&Vec::new()));
    let before = heard.lock().len();
    one.tell(&(0..1000).collect::<Vec<u64>>());
    until("too many numbers mean any", || heard.lock()[before..].contains(&Vec::new()));
    assert_eq!(others.load(Ordering::SeqCst), 0, "a node does not hear itself");

    let (long, short) = (Duration::from_secs(60), Duration::from_millis(300));
    assert!(one.lease("sweep", "one", long).unwrap());
    assert!(!two.lease("sweep", "two", long).unwrap());
    assert!(one.lease("sweep", "one", short).unwrap(), "the owner shortens it");
    assert!(one.lease("sweep", "one", long).unwrap(), "or prolongs it");
    std::thread::sleep(2 * short);
    assert!(!two.lease("sweep", "two", long).unwrap());
    assert!(one.lease("sweep", "one", short).unwrap());
    until("it ends", || two.lease("sweep", "two", long).unwrap());
    assert!(!one.lease("sweep", "one", long).unwrap());
    two.lease("sweep", "two", Duration::ZERO).unwrap();
    assert!(one.lease("sweep", "one", long).unwrap(), "it was given up");
}

#[test]
fn attachments_are_stored_in_pieces_and_removed_by_age_and_reference() {
    let Some(server) = TestServer::start() else { return };
    for key in [None, Some(Key::generate())] {
        let schema = if key.is_some() { "sealed" } else { "plain" };
        let node = |keep_unused: u64| {
            let url = format!("{}&keep_unused={keep_unused}", server.url(schema));
            let address = super::Address::read(&url, &|_| None).unwrap();
            open(address, &Options { key: key.clone(), ..Options::default() }).unwrap().blobs
        };
        let (one, two, patient) = (node(3), node(3), node(3600));
        let mut ids = Vec::new();
        for size in [0, 1, 65_536, 262_123, 262_144, 1_000_000] {
            let content: Vec<u8> = (0..size).map(|at: usize| (at * 31 + at / 251) as u8).collect();
            let mut writer = one.create().unwrap();
            content.chunks(50_001).for_each(|part| writer.write(part).unwrap());
            let written = writer.finish().unwrap();
            assert_eq!(written.length, size as u64);
            let mut again = two.create().unwrap();
            again.write(&content).unwrap();
            assert_eq!(again.finish().unwrap().id, written.id, "the same content on another node");
            for offset in [0, 1, size / 2, size] {
                let mut read = Vec::new();
                two.open(&written.id, offset as u64).unwrap().read_to_end(&mut read).unwrap();
                assert!(read == content[offset.min(size)..], "{size} from {offset}");
            }
            ids.push(written.id);
        }
        let mut begun = one.create().unwrap();
        begun.write(&vec![1; 700_000]).unwrap();
        drop(begun);
        ids.sort_unstable();
        assert_eq!(one.list(None, 99).unwrap(), ids);
        assert_eq!(one.list(Some(&ids[2]), 2).unwrap(), ids[3..5]);
        let pieces = || server.sql(&format!("select count(distinct upload) from {schema}.pieces"));
        until("what was not finished is removed", || pieces() == "6");
        // A blob is not removed while a request may be about to refer to it.
        assert!(!patient.remove_unless(&ids[0], &|| Ok(false)).unwrap());
        let pin = one.pin(&ids[0]);
        until("old enough", || two.remove_unless(&ids[1], &|| Ok(false)).unwrap());
        assert!(one.contains(&ids[0]).unwrap());
        assert!(!two.remove_unless(&ids[0], &|| Ok(false)).unwrap(), "another node has pinned it");
        assert!(!one.remove_unless(&ids[0], &|| Ok(false)).unwrap(), "pinned here");
        drop(pin);
        assert!(!two.remove_unless(&ids[2], &|| Ok(true)).unwrap(), "referred to");
        assert!(!two.contains(&ids[1]).unwrap());
        assert!(matches!(two.open(&ids[1], 0).err(), Some(StoreError::Damaged(_))));
        assert_eq!(pieces(), "5");
    }
}

#[test]
fn an_attachment_is_found_while_another_node_notes_its_use() {
    let Some(server) = TestServer::start() else { return };
    let blobs = server.open("used").blobs;
    let mut writer = blobs.create().unwrap();
    writer.write(b"bytes").unwrap();
    let written = writer.finish().unwrap();
    for (how, remains) in [("update used.blobs set used = now()", true), ("delete from used.blobs", false)] {
        server.sql("update used.blobs set used = now() - interval '1 day'");
        // Is committed when somebody waits for it.
        let there = format!(
            "do $$ begin
               {how};
               perform pg_advisory_xact_lock(1);
               for round in 1..3000 loop
                 exit when exists (select from pg_locks where locktype = 'transactionid' and not granted);
                 perform pg_sleep(0.01);
               end loop;
             end $$"
        );
        std::thread::scope(|scope| {
            scope.spawn(|| server.sql(&there));
            until("it is written", || server.sql("select count(*) from pg_locks where locktype = 'advisory'") == "1");
            assert_eq!(blobs.contains(&written.id).unwrap(), remains, "{how}");
        });
    }
}

#[test]
fn pages_do_not_read_more_than_they_return() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("pages").store;
    for part in 0..20u64 {
        let mut batch = Batch::new();
        (0..500u64).for_each(|at| batch.put(key(3, &format!("d{:05}", part * 500 + at)), vec![7; 300]));
        store.commit(batch).unwrap();
    }
    let range = keyspace::kind(3, keyspace::Kind::Document);
    let page =
        store.scan(&range, crate::store::Direction::Forward, PageLimit { entries: 5000, bytes: 10_000 }).unwrap();
    assert_eq!(page.len(), 32);
    assert_eq!(store.keys(&range, 7000).unwrap().len(), 7000.min(store.keys(&range, 7000).unwrap().len()));
    let plan = server.sql(
        "set enable_seqscan = off; explain (costs off) select db, k, v from pages.kv where db > 0 and (db, k) >= (1, '') \
         and (db, k) < (9, '') order by db, k limit 10",
    );
    assert!(plan.contains("Index Scan") && !plan.contains("Sort"), "{plan}");
}

#[test]
fn keys_are_searched_in_the_index_also_by_a_plan_that_was_made_for_an_empty_table() {
    let Some(server) = TestServer::start() else { return };
    drop(server.open("plans"));
    let settings = super::connections::settings(&server.address("plans"));
    for (types, sql, searched) in [
        ("int8, bytea[]", super::lookups::some("plans.kv"), "(db = $1) AND (k = asked.k)"),
        ("int8[], bytea[]", super::lookups::mixed("plans.kv"), "(db = asked.db) AND (k = asked.k)"),
    ] {
        let plan = server.sql(&format!(
            "{settings}; set plan_cache_mode = force_generic_plan; prepare keys({types}) as {sql}; \
             explain (costs off) execute keys(null, null)"
        ));
        assert!(plan.contains(searched) && !plan.contains("Filter"), "{plan}");
    }
}

/// A port on which nothing listens. It is below the range from which the system gives ports to connections and to servers
/// that name none, so that nobody gets it before PostgreSQL listens there.
fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768).max(12_000);
    let begin = 10_000 + (std::process::id() % u32::from(end - 10_000)) as u16;
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (begin..end).chain(10_000..begin).find(is_free).expect("a free port")
}

#[test]
fn tls_protects_the_connection_and_verifies_the_server() {
    let port = free_port();
    let Some(server) = TestServer::with(&["listen_addresses=127.0.0.1", &format!("port={port}")]) else { return };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    server.use_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let (right, wrong) = (server.folder.path().join("right.pem"), server.folder.path().join("wrong.pem"));
    std::fs::write(&right, made.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&wrong, other.cert.pem()).unwrap();
    let (right, wrong) = (right.display(), wrong.display());
    let opens = |host: &str, parameters: &str| {
        let url = format!("postgres://settee@{host}:{port}/postgres?schema=tls&{parameters}");
        let opened = open(super::Address::read(&url, &|_| None).unwrap(), &Options::default());
        let encrypted = "select count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid) \
                         where ssl and application_name = 'settee'";
        opened.map(|store| (store, server.sql(encrypted) == "t").1).map_err(|error| error.to_string())
    };
    assert_eq!(opens("localhost", &format!("sslmode=verify-full&sslrootcert={right}")), Ok(true));
    assert_eq!(opens("127.0.0.1", "sslmode=require"), Ok(true), "any certificate");
    for (host, parameters) in [
        ("localhost", format!("sslmode=verify-full&sslrootcert={wrong}")),
        ("localhost", "sslmode=verify-full".to_owned()),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={right}")),
    ] {
        let said = opens(host, &parameters).unwrap_err();
        assert!(said.contains("certificate"), "{host} {parameters}: {said}");
    }
    // A server that does not use TLS is refused: an attacker in between could pretend to be one.
    server.sql("alter system set ssl = off");
    server.sql("select pg_reload_conf()");
    until("TLS is off", || server.sql("show ssl") == "off");
    assert!(opens("localhost", &format!("sslmode=verify-full&sslrootcert={right}")).is_err());
}

/// One failover: the primary is killed while nodes write, and the standby with more of the log takes over. Nothing that
/// was acknowledged is lost, and the nodes go on by themselves.
fn fail_over(round: usize) -> Option<()> {
    let mut primary = TestServer::start()?;
    let standbys = [primary.standby("one"), primary.standby("two")];
    primary.sql("alter system set synchronous_standby_names = 'ANY 1 (one, two)'");
    primary.sql("select pg_reload_conf()");
    until("both standbys follow", || primary.sql("select count(*) from pg_stat_replication") == "2");
    let hosts = [primary.host(), standbys[0].host(), standbys[1].host()].join(",");
    let node = || {
        let url = format!("postgres://settee@{hosts}/postgres?pool_size=4");
        open(super::Address::read(&url, &|_| None).unwrap(), &Options::default()).unwrap().store
    };
    let nodes = [node(), node(), node()];
    let epoch = nodes[0].epoch().unwrap();
    let done = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..6).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        scopeguard::defer!(done.store(true, Ordering::SeqCst));
        for (writer, last) in acknowledged.iter().enumerate() {
            let (store, done) = (&nodes[writer % 3], &done);
            scope.spawn(move || {
                let ledger = key(writer as u64 + 1, "n");
                while !done.load(Ordering::SeqCst) {
                    let next = last.load(Ordering::SeqCst) + 1;
                    let mut batch = Batch::new();
                    batch.put(ledger.clone(), next.to_string().into_bytes());
                    match store.commit(batch) {
                        Ok(()) => last.store(next, Ordering::SeqCst),
                        Err(error) => assert!(matches!(error, StoreError::Down(_)), "{error:?}"),
                    }
                }
            });
        }
        let all_past = |from: u64| acknowledged.iter().all(|last| last.load(Ordering::SeqCst) > from);
        until("commits", || all_past(10 + round as u64 % 7));
        primary.kill();
        let received =
            |standby: &TestServer| standby.sql("select pg_last_wal_receive_lsn() - '0/0'").parse::<u64>().unwrap();
        let ahead = usize::from(received(&standbys[1]) > received(&standbys[0]));
        let before: u64 = acknowledged.iter().map(|last| last.load(Ordering::SeqCst)).max().unwrap();
        standbys[ahead].sql("alter system reset synchronous_standby_names");
        standbys[ahead].sql("select pg_promote()");
        standbys[ahead].sql("select pg_reload_conf()");
        until("all writers go on", || all_past(before));
    });
    for (writer, last) in acknowledged.iter().enumerate() {
        let stored = nodes[0].get(&key(writer as u64 + 1, "n")).unwrap().unwrap();
        let stored: u64 = String::from_utf8(stored).unwrap().parse().unwrap();
        assert!(stored >= last.load(Ordering::SeqCst), "round {round}, writer {writer}");
    }
    until("the epoch grows", || nodes.iter().all(|node| node.epoch().is_ok_and(|now| now > epoch)));
    Some(())
}

/// `SETTEE_FAILOVERS=100 cargo test failover` runs many.
#[test]
fn failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged() {
    let rounds = std::env::var("SETTEE_FAILOVERS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    for round in 0..rounds {
        if fail_over(round).is_none() {
            return;
        }
    }
}

/// Bytes that cannot be compressed, as text.
fn incompressible(length: usize) -> String {
    (0..length / 16 + 1).map(|_| format!("{:016x}", super::slot::random())).collect::<String>()[..length].to_owned()
}

/// Starts as many commits as may run at once, which wait for a lock; then `others`, which wait for these commits and
/// are therefore combined into one transaction; then releases the lock. Returns the answers of `others`.
fn commit_together(server: &TestServer, schema: &str, store: &Arc<dyn Store>, others: Vec<Batch>) -> Vec<Result<()>> {
    let holding = format!("begin; lock table {schema}.kv in share mode; select pg_sleep(60)");
    let count = |what: &str| {
        server
            .sql(&format!("select count(*) from pg_locks where relation = '{schema}.kv'::regclass and mode = '{what}'"))
    };
    let begun = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| server.refused(&holding));
        until("it is locked", || count("ShareLock") == "1");
        let commit = |batch: Batch| {
            let (store, begun) = (store.clone(), &begun);
            scope.spawn(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                store.commit(batch)
            })
        };
        for number in 901..=902 {
            let mut batch = Batch::new();
            batch.put(key(number, "first"), b"1".to_vec());
            commit(batch);
        }
        until("the first ones wait", || count("RowExclusiveLock") == "2");
        let before = begun.load(Ordering::SeqCst);
        let answers: Vec<_> = others.into_iter().map(commit).collect();
        until("all have begun", || begun.load(Ordering::SeqCst) == before + answers.len() as u64);
        server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%share mode%' \
             and pid <> pg_backend_pid()",
        );
        answers.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

#[test]
fn a_batch_that_the_server_refuses_does_not_fail_the_others() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("refused").store;
    server.sql(
        "create function refused.no() returns trigger language plpgsql as $$ begin raise exception 'never'; end $$; \
         create trigger no before insert on refused.kv for each row when (new.k = 'bad'::bytea) \
         execute function refused.no()",
    );
    for bad in ["bad".to_owned(), incompressible(3000)] {
        let others = [1u64, 2, 3, 4, 5].map(|number| {
            let mut batch = Batch::new();
            batch.put(key(number, if number == 3 { &bad } else { "good" }), b"1".to_vec());
            batch
        });
        let refused = commit_together(&server, "refused", &store, others.to_vec());
        for (at, answer) in refused.iter().enumerate() {
            match answer {
                Ok(()) => assert_ne!(at, 2),
                Err(StoreError::Unavailable(_)) if bad == "bad" => assert_eq!(at, 2),
                Err(error) => assert_eq!((at, error), (2, &StoreError::KeyTooLong)),
            }
        }
        assert_eq!(store.get(&key(3, &bad)).unwrap(), None);
        assert_eq!(store.get(&key(5, "good")).unwrap().as_deref(), Some(&b"1"[..]));
    }
    // A long key that the server can compress is stored.
    let mut batch = Batch::new();
    batch.put(key(1, &"k".repeat(5000)), b"1".to_vec());
    store.commit(batch).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_cannot_be_indexed_is_refused_and_the_writes_beside_it_succeed() {
    use crate::db::{AllowAll, CreateOptions, Databases, Incoming, Mode};
    use crate::error::Error;
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("ids");
    let databases = Databases::open(opened.store, opened.blobs, crate::clock::Clock::system()).unwrap();
    let of = databases.clone();
    let making = tokio::task::spawn_blocking(move || of.create("db", CreateOptions::default(), None).unwrap());
    let database = making.await.unwrap();
    let writes = (0..30).map(|number| {
        let id = if number % 10 == 5 { incompressible(3000) } else { format!("d{number}") };
        let edit = Incoming::created(id, "{}");
        let database = database.clone();
        tokio::spawn(async move { database.update(vec![edit], Mode::Interactive, &AllowAll).await })
    });
    for (number, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
        match write.await.unwrap() {
            Ok(results) => assert!(number % 10 != 5 && results[0].is_ok(), "{results:?}"),
            Err(error) => assert!(number % 10 == 5 && matches!(error, Error::IllegalDocId(_)), "{error:?}"),
        }
    }
    assert_eq!(database.info().documents, 27);
}

#[test]
fn a_transaction_locks_what_it_expects_in_one_order() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("locks").store;
    let name = b"name".to_vec();
    let mut batch = Batch::new();
    batch.put(key(5, "i"), b"1".to_vec());
    batch.put(name.clone(), b"1".to_vec());
    store.commit(batch).unwrap();
    let moves = |key: Vec<u8>| {
        let mut batch = Batch::new();
        batch.expect(key.clone(), Some(b"1".to_vec()));
        batch.put(key, b"2".to_vec());
        batch
    };
    let mut renames = moves(name.clone());
    renames.expect(key(6, "i"), None);
    // Another node locks the row of the name, and then writes to the database.
    let other = "do $$ begin
           perform from locks.kv where db = 0 and k = 'name'::bytea for update;
           while not exists (select from pg_locks where locktype = 'transactionid' and not granted) loop
             perform pg_sleep(0.01);
           end loop;
           update locks.kv set v = v where db = 5 and k = 'i'::bytea;
         end $$";
    std::thread::scope(|scope| {
        let other = scope.spawn(|| server.sql(other));
        let has_row = "select count(*) from pg_locks where relation = 'locks.kv'::regclass and mode = 'RowShareLock'";
        until("it has the row", || server.sql(has_row) == "1");
        assert_eq!(commit_together(&server, "locks", &store, vec![moves(key(5, "i")), renames]), [Ok(()), Ok(())]);
        other.join().unwrap();
    });
    assert_eq!(store.get_many(&[key(5, "i"), name]).unwrap(), [Some(b"2".to_vec()), Some(b"2".to_vec())]);
    assert!(!server.log().contains("deadlock detected"), "{}", server.log());
}

#[test]
fn a_read_that_fails_does_not_fail_those_that_share_its_statement() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("shared").store;
    write_numbers(&*store);
    // The value in the database 7 cannot be read.
    server.sql(
        "create function shared.no() returns bytea language plpgsql as \
         $$ begin raise exception 'missing chunk' using errcode = 'XX001'; end $$; \
         alter table shared.kv rename to stored; create view shared.kv as select db, k, \
         case when db = 7 then shared.no() else v end as v from shared.stored",
    );
    let (reads, _) = read_behind_a_lock(&server, "shared.stored", |number| store.get(&key(number, "k")));
    for (number, read) in reads.into_iter().enumerate() {
        match (number, read) {
            (7, read) => assert!(matches!(read, Err(StoreError::Damaged(_))), "{read:?}"),
            // The number 0 belongs to no database.
            (_, read) => assert_eq!(read, Ok(Some(number.to_string().into_bytes()))),
        }
    }
}

#[test]
fn databases_that_another_node_holds_up_do_not_hold_up_the_others() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("held").store;
    let mut batch = Batch::new();
    (1..=2).for_each(|number| batch.put(key(number, "i"), b"1".to_vec()));
    store.commit(batch).unwrap();
    let moves = |number: u64, from: &str| {
        let mut batch = Batch::new();
        batch.expect(key(number, "i"), Some(from.as_bytes().to_vec()));
        batch.put(key(number, "i"), b"2".to_vec());
        store.commit(batch)
    };
    // Another node, which has written to both databases before, locks their rows to write again.
    let holding = "begin; select from held.kv for update; select pg_sleep(60)";
    std::thread::scope(|scope| {
        scope.spawn(|| server.refused(holding));
        let is_held = "select count(*) from pg_locks where relation = 'held.kv'::regclass and mode = 'RowShareLock'";
        until("the rows are held", || server.sql(is_held) == "1");
        let held = [1, 2].map(|number| {
            scope.spawn(move || {
                assert_eq!(moves(number, "0"), Err(StoreError::Conflict));
                moves(number, "1")
            })
        });
        until("both wait", || server.sql(WAITING) == "2");
        let mut batch = Batch::new();
        batch.put(key(3, "i"), b"1".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(server.sql(WAITING), "2", "they still wait");
        server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%for update; select%' \
             and pid <> pg_backend_pid()",
        );
        held.into_iter().for_each(|held| assert_eq!(held.join().unwrap(), Ok(())));
    });
}
