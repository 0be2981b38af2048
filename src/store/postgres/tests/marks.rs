//! Marks: the databases that a node has changed and not announced.

use super::*;
use crate::store::{LeftMarks, Mark};

/// No databases.
const NONE: [u64; 0] = [];

/// Changes a database, as a writer does, from one sequence to another.
fn change(store: &dyn Store, number: u64, from: u64, to: u64) -> Result<()> {
    let mut batch = Batch::new();
    batch.expect(key(number, "i"), (from > 0).then(|| from.to_string().into_bytes()));
    batch.put(key(number, "i"), to.to_string().into_bytes());
    batch.mark = Some(Mark { database: number, sequence: to });
    store.commit(batch)
}

fn announce(store: &dyn Store, marks: &[(u64, u64)]) {
    let mark = |(database, sequence)| Mark { database, sequence };
    store.announced(&marks.iter().copied().map(mark).collect::<Vec<_>>());
}

/// Lets a minute pass for the rows of all nodes.
fn age(server: &TestServer, schema: &str) {
    server.sql(&format!("update {schema}.slots set used = used - interval '1 minute'"));
}

/// Takes what is left: the databases, in order.
fn take(store: &dyn Store) -> (Vec<u64>, LeftMarks) {
    let left = store.left_marks().unwrap();
    let mut databases = left.databases.clone();
    databases.sort_unstable();
    databases.dedup();
    (databases, left)
}

/// All marks in the server.
fn stored(server: &TestServer, schema: &str) -> String {
    server
        .sql(&format!("select coalesce(string_agg(m::text, ' ' order by m), '') from {schema}.slots, unnest(marks) m"))
}

#[test]
fn what_a_dead_node_has_not_announced_is_taken_once_and_again_if_it_is_not_settled() {
    let Some(server) = TestServer::start() else { return };
    let (one, two) = (server.open("marks").store, server.open("marks").store);
    change(&*one, 1, 0, 1).unwrap();
    change(&*one, 2, 0, 1).unwrap();
    announce(&*one, &[(1, 1)]);
    change(&*one, 3, 0, 1).unwrap();
    assert_eq!(stored(&server, "marks"), "2 3");
    assert_eq!(take(&*two), (vec![], LeftMarks::default()), "the node may live");
    drop(one);
    age(&server, "marks");
    let (taken, _) = take(&*two);
    assert_eq!(taken, [2, 3]);
    assert_eq!(take(&*two).0, NONE, "nobody else takes them meanwhile");
    age(&server, "marks");
    let (taken, left) = take(&*two);
    assert_eq!(taken, [2, 3], "the node that has taken them may have died, too");
    two.settle_marks(left).unwrap();
    age(&server, "marks");
    assert_eq!(take(&*two).0, NONE);
}

#[test]
fn a_slow_node_keeps_the_marks_that_it_makes_after_others_were_taken() {
    let Some(server) = TestServer::start() else { return };
    let (one, two) = (server.open("slow").store, server.open("slow").store);
    change(&*one, 1, 0, 1).unwrap();
    age(&server, "slow");
    let (taken, left) = take(&*two);
    assert_eq!(taken, [1]);
    // It goes on.
    change(&*one, 2, 0, 1).unwrap();
    two.settle_marks(left).unwrap();
    assert_eq!(stored(&server, "slow"), "1 2", "twice is better than never");
    announce(&*one, &[(1, 1), (2, 1)]);
    change(&*one, 3, 0, 1).unwrap();
    assert_eq!(stored(&server, "slow"), "3");
}

#[test]
fn an_idle_row_that_was_used_again_is_not_emptied() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("late").store;
    change(&*store, 1, 0, 1).unwrap();
    let empty = |behind: u64| {
        let all = |what: &str| format!("(select array_agg({what}) from late.slots)");
        let sql = super::super::marks::empty_sql(&"late");
        server.sql(&sql.replace("$1::int8[]", &all("id")).replace("$2::int8[]", &all(&format!("number - {behind}"))));
        stored(&server, "late")
    };
    assert_eq!(empty(1), "1", "as of the commit before");
    assert_eq!(empty(0), "");
}

#[test]
fn a_mark_stays_until_its_last_sequence_is_announced_and_one_of_a_conflict_does_not() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("last").store;
    change(&*store, 1, 0, 1).unwrap();
    change(&*store, 1, 1, 2).unwrap();
    announce(&*store, &[(1, 1)]);
    assert_eq!(change(&*store, 2, 7, 8), Err(StoreError::Conflict));
    change(&*store, 3, 0, 1).unwrap();
    assert_eq!(stored(&server, "last"), "1 3");
    announce(&*store, &[(1, 2), (3, 1)]);
    let emptied = || stored(&server, "last").is_empty();
    until("the row of an idle node is emptied", emptied);
    age(&server, "last");
    assert_eq!(take(&*store).0, NONE);
    let slots = || server.sql("select count(*) from last.slots");
    let before = slots();
    change(&*store, 3, 1, 2).unwrap();
    assert_eq!(slots(), before, "it is used again");
}

#[test]
fn a_slot_with_many_marks_rests_until_they_are_announced() {
    let Some(server) = TestServer::start() else { return };
    let store = server.open("many").store;
    for number in 1..=2100 {
        change(&*store, number, 0, 1).unwrap();
    }
    // Beside the slot of the commit that made the store.
    let counts =
        || server.sql("select string_agg(cardinality(marks)::text, ' ' order by cardinality(marks)) from many.slots");
    assert_eq!(counts(), "0 100 1000 1000");
    announce(&*store, &(1..=2100).map(|number| (number, 1)).collect::<Vec<_>>());
    until("the rows are emptied", || counts() == "0 0 0 0");
    for number in 1..=1100 {
        change(&*store, number, 1, 2).unwrap();
    }
    assert_eq!(counts(), "0 0 100 1000", "they are used again");
}

#[test]
fn a_failover_that_loses_events_keeps_the_marks_of_what_it_has_kept() {
    let Some(mut primary) = TestServer::start() else { return };
    let standby = primary.standby("one");
    until("the standby follows", || primary.sql("select count(*) from pg_stat_replication") == "1");
    let url = format!("postgres://settee@{},{}/postgres?schema=lossy", primary.host(), standby.host());
    let store = open(super::super::Address::read(&url, &|_| None).unwrap(), &Options::default()).unwrap().store;
    change(&*store, 1, 0, 1).unwrap();
    until("the standby has the commit", || {
        standby.sql("select to_regclass('lossy.slots') is not null") == "t" && stored(&standby, "lossy") == "1"
    });
    standby.sql("select pg_wal_replay_pause()");
    // The event is committed only on the primary.
    announce(&*store, &[(1, 1)]);
    primary.kill();
    standby.sql("select pg_promote()");
    until("it goes on", || change(&*store, 2, 0, 1).is_ok());
    assert_eq!(stored(&standby, "lossy"), "1 2");
    announce(&*store, &[(2, 1)]);
    age(&standby, "lossy");
    assert!(take(&*store).0.contains(&1));
}

#[test]
fn tables_of_version_3_are_upgraded_while_a_node_of_that_version_commits() {
    let Some(server) = TestServer::start() else { return };
    let schema = server.address("three").schema;
    drop(server.open("three"));
    let older = super::super::schema::commit(&schema).replace(", p_marks int8[]", "").replace(", marks = p_marks", "");
    server.sql(&format!(
        "drop function three.commit; alter table three.slots drop column marks; update three.meta set version = 3; {older}; \
         insert into three.slots (id) values (7)"
    ));
    // Until the transaction ends that reads the table, the upgrade waits, and lets commits go on.
    let reading = "begin; select from three.slots; select pg_sleep(60)";
    let commits = |number: u64| {
        let arrays = ["'{}'"; 20].join(", ");
        server.sql(&format!("select three.commit(7, {number}, {arrays})"))
    };
    let opened = std::thread::scope(|scope| {
        scope.spawn(|| server.refused(reading));
        let locks = |which: &str| {
            server.sql(&format!("select count(*) from pg_locks where relation = 'three.slots'::regclass and {which}"))
        };
        until("the table is read", || locks("mode = 'AccessShareLock'") != "0");
        let opened = scope.spawn(|| server.open("three"));
        until("the upgrade waits", || locks("mode = 'AccessExclusiveLock' and not granted") == "1");
        assert_eq!(commits(1), "{}");
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%from three.slots; select pg_sleep%' and pid <> pg_backend_pid()");
        opened.join().unwrap()
    });
    assert_eq!(server.sql("select version from three.meta"), super::super::schema::VERSION.to_string());
    assert_eq!(commits(2), "{}", "the node of version 3 still calls its own");
    change(&*opened.store, 1, 0, 1).unwrap();
    assert_eq!(stored(&server, "three"), "1");
}
