//! A task that serves several calls ends without having served them: because it panics, or because the server is away.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use rustix::process::Signal;

use super::super::test_server::signal;
use super::*;

/// Returns what `call` returns. Panics if that takes too long.
fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = sync_channel(1);
    std::thread::spawn(move || drop(done.send(call())));
    match ended.recv_timeout(Duration::from_secs(60)) {
        Ok(returned) => returned,
        Err(RecvTimeoutError::Timeout) => panic!("it never ends: {what}"),
        Err(RecvTimeoutError::Disconnected) => panic!("it panics: {what}"),
    }
}

fn commit_one(store: &Arc<dyn Store>, number: u64, expected: Option<&str>, value: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.expect(key(number, "i"), expected.map(|expected| expected.as_bytes().to_vec()));
    batch.put(key(number, "i"), value.as_bytes().to_vec());
    let store = store.clone();
    ends("a commit", move || store.commit(batch))
}

/// More than there are tasks of one kind.
const PANICS: usize = 40;

#[test]
fn a_panic_in_a_commit_fails_its_batches_and_no_others() {
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("panics");
    let store = &opened.store;
    commit_one(store, 1, None, "0").unwrap();
    for round in 0..PANICS {
        opened.probe().panics.store(1, Ordering::SeqCst);
        let (before, after) = (round.to_string(), (round + 1).to_string());
        let failed = commit_one(store, 1, Some(&before), &after);
        assert!(matches!(failed, Err(StoreError::Down(_))), "its outcome is unknown: {failed:?}");
        // The panic came after the server's answer, or instead of making a slot for the first commit after a panic.
        if store.get(&key(1, "i")).unwrap().as_deref() == Some(before.as_bytes()) {
            commit_one(store, 1, Some(&before), &after).unwrap();
        }
    }
    commit_one(store, 1, Some(&PANICS.to_string()), "last").unwrap();
    commit_one(store, 2, None, "1").unwrap();
    assert_eq!(store.get(&key(1, "i")).unwrap().as_deref(), Some(&b"last"[..]));
}

#[test]
fn a_panic_in_a_commit_does_not_hold_up_those_that_wait_for_it() {
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("panics");
    let store = &opened.store;
    commit_one(store, 1, None, "0").unwrap();
    // Makes the slots, so that the panic is in the commit.
    opened.probe().panics.store(1, Ordering::SeqCst);
    let holding = "begin; select from panics.kv for update; select pg_sleep(60)";
    let begun = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| server.refused(holding));
        let is_held = "select count(*) from pg_locks where relation = 'panics.kv'::regclass and mode = 'RowShareLock'";
        until("the row is held", || server.sql(is_held) == "1");
        let moves: Vec<_> = (0..20)
            .map(|_| {
                let begun = &begun;
                scope.spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    commit_one(store, 1, Some("0"), "1")
                })
            })
            .collect();
        until("one waits", || begun.load(Ordering::SeqCst) == 20 && server.sql(WAITING) == "1");
        server.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%for update; select%' \
             and pid <> pg_backend_pid()",
        );
        let answers: Vec<_> = moves.into_iter().map(|one| one.join().unwrap()).collect();
        let unknown = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Down(_)))).count();
        assert_eq!(unknown, 1, "{answers:?}");
        let conflicts = answers.iter().filter(|answer| **answer == Err(StoreError::Conflict)).count();
        assert_eq!(conflicts, 19, "the one whose outcome is unknown has taken effect: {answers:?}");
    });
    assert_eq!(store.get(&key(1, "i")).unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_panic_in_a_read_fails_its_calls_and_no_others() {
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("panics");
    write_numbers(&*opened.store);
    for _ in 0..PANICS {
        let store = opened.store.clone();
        opened.probe().panics.store(2, Ordering::SeqCst);
        let [one, page] = ends("a read", move || {
            let page = store.scan(&of(3), Direction::Forward, PageLimit::entries(9));
            [store.get(&key(3, "k")).map(drop), page.map(drop)]
        });
        assert!(matches!((&one, &page), (Err(StoreError::Down(_)), Err(StoreError::Down(_)))), "{one:?} {page:?}");
    }
    // Calls that wait for a statement which panics.
    opened.probe().panics.store(1, Ordering::SeqCst);
    let store = &opened.store;
    let (reads, statements) = read_behind_a_lock(&server, "panics.kv", |number| {
        let store = store.clone();
        ends("a read that waits", move || store.get(&key(number, "k")))
    });
    let failed = reads.iter().filter(|read| read.is_err()).count();
    assert!((1..20).contains(&failed), "only those of one of {statements} statements: {reads:?}");
}

#[test]
fn a_connection_whose_call_panicked_is_not_used_again() {
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("panics");
    write_numbers(&*opened.store);
    let locked = locked("panics.kv");
    std::thread::scope(|scope| {
        scope.spawn(|| server.refused("begin; lock table panics.kv in access exclusive mode; select pg_sleep(20)"));
        until("it is locked", || server.sql(&locked) == "1");
        let read = scope.spawn(|| opened.store.get(&key(1, "k")));
        until("the read waits", || server.sql(WAITING) == "1");
        opened.probe().strikes.notify_waiters();
        let failed = read.join().unwrap();
        assert!(matches!(failed, Err(StoreError::Down(_))), "{failed:?}");
        // The server still runs the statement of the read.
        assert_eq!(opened.store.lease("work", "node", Duration::from_secs(9)), Ok(true));
        assert_eq!(server.sql(&locked), "1", "the call does not wait behind the read");
        server.sql(&locked.replace("count(*)", "pg_terminate_backend(pid)"));
    });
}

#[test]
fn all_reads_that_share_a_statement_hear_that_the_server_is_away() {
    let Some(server) = TestServer::start() else { return };
    let opened = server.open("away");
    let store = &opened.store;
    write_numbers(&**store);
    let holder = || server.sql(&locked("away.kv").replace("count(*)", "pid")).parse::<i32>().unwrap();
    let (reads, statements) = read_until(
        &server,
        "away.kv",
        |number| {
            let read = store.get(&key(number, "k"));
            (read, opened.probe().asked.load(Ordering::SeqCst))
        },
        || {
            let holder = holder();
            opened.probe().asked.store(0, Ordering::SeqCst);
            server.crash_around(holder);
            until("no statement waits", || opened.probe().asked.load(Ordering::SeqCst) > 0);
            signal(holder, Signal::KILL);
        },
    );
    for (read, asked) in reads {
        assert!(matches!(read, Err(StoreError::Down(_))), "{read:?}");
        assert!(asked < 10, "each of {statements} statements looks for the server, and not each of 20 calls: {asked}");
    }
}

#[test]
fn all_commits_that_wait_hear_that_the_server_is_away() {
    let Some(mut server) = TestServer::start() else { return };
    let opened = server.open("away");
    commit_one(&opened.store, 1, None, "0").unwrap();
    server.kill();
    until("calls fail", || matches!(opened.store.get(b"a"), Err(StoreError::Down(_))));
    opened.probe().asked.store(0, Ordering::SeqCst);
    let together = std::sync::Barrier::new(40);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                together.wait();
                let failed = commit_one(&opened.store, 1, Some("0"), "1");
                assert!(matches!(failed, Err(StoreError::Down(_))), "{failed:?}");
            });
        }
    });
    let asked = opened.probe().asked.load(Ordering::SeqCst);
    assert!(asked < 40, "not each of the commits to one database looks for the server: {asked}");
}
