use std::task::{Context, Waker};

use bytes::Bytes;

use super::ledger::OLD;
use super::*;

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> AnswerMemory {
    AnswerMemory::new(bytes, Duration::from_secs(300))
}

/// Moves the start of the stall back by `time`, as if the client had read nothing for that much longer.
fn age(line: &Line, time: Duration) {
    if let Some(since) = &mut line.connection.progress.lock().since {
        *since -= time;
    }
}

fn line(memory: &AnswerMemory, user: &str) -> Line {
    let line = memory.line();
    line.belongs_to(Some(user), None);
    line
}

/// Makes the client stop reading. Returns whether its connection is to be closed.
fn stall(line: &Line) -> bool {
    line.waits(&Context::from_waker(Waker::noop()))
}

/// Checks that the counters of owners, connections and the total agree.
fn check(memory: &AnswerMemory) {
    let state = memory.0.state.lock();
    let of_owners: u64 = state.owners.values().sum();
    let of_lines: u64 = state.connections.values().map(|one| one.held.load(Ordering::Relaxed)).sum();
    assert_eq!(of_owners, of_lines);
    assert!(state.beside.is_some() && state.held < of_owners || state.held == of_owners, "{} {of_owners}", state.held);
}

async fn soon<T: Send + 'static>(waiting: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    let waiting = tokio::spawn(waiting);
    tokio::task::yield_now().await;
    waiting
}

#[tokio::test]
async fn an_owner_holds_at_most_what_is_left_for_others() {
    let memory = memory(64 * MIB);
    let ann: Vec<Line> = (0..5).map(|_| line(&memory, "ann")).collect();
    let mut held = Vec::new();
    for one in &ann[..4] {
        held.push(one.take(8 * MIB).await.unwrap());
    }
    check(&memory);
    assert!(ann[4].try_take(8 * MIB).is_none(), "at most half of the budget");
    assert!(ann[4].try_take(WINDOW).is_some(), "small reservations may exceed it");
    let bob = line(&memory, "bob");
    let of_bob = [bob.try_take(8 * MIB).unwrap(), bob.try_take(8 * MIB).unwrap()];
    assert!(bob.try_take(8 * MIB).is_none());
    assert!(line(&memory, "cat").try_take(8 * MIB).is_some());
    drop((held, of_bob));
    assert_eq!(memory.held(), 0);
    check(&memory);
}

#[tokio::test]
async fn bytes_are_charged_until_the_last_slice_is_dropped() {
    let memory = memory(MIB);
    let held = line(&memory, "ann").take(100_000).await.unwrap();
    held.shrink(60_000);
    let bytes = Arc::new(held).with(Bytes::from(vec![7; 60_000]));
    let last = bytes.slice(59_990..);
    drop(bytes);
    assert_eq!((memory.held(), last.len()), (60_000, 10));
    drop(last);
    assert_eq!(memory.held(), 0);
}

#[tokio::test]
async fn one_connection_may_exceed_the_budget_and_the_next_times_out() {
    let mut memory = memory(8 * MIB);
    Arc::get_mut(&mut memory.0).unwrap().wait = Duration::from_millis(300);
    let (ann, bob, cat) = (line(&memory, "ann"), line(&memory, "bob"), line(&memory, "cat"));
    let held = ann.take(100 * MIB).await.unwrap();
    assert_eq!(held.bytes(), 8 * MIB, "reduced to the whole budget");
    let beside = bob.take(4 * MIB).await.unwrap();
    check(&memory);
    assert!(matches!(cat.take(MIB).await, Err(NoRoom)));
    let waiting = soon(async move { cat.take(MIB).await.map(|held| held.bytes()) }).await;
    drop(beside);
    assert_eq!(waiting.await.unwrap(), Ok(MIB));
    drop(held);
    assert_eq!(memory.held(), 0);
    check(&memory);
}

#[tokio::test]
async fn only_as_many_slow_connections_are_closed_as_waiting_requests_need() {
    let memory = memory(32 * MIB);
    let slow: Vec<Line> = (0..4).map(|number| line(&memory, &format!("slow{number}"))).collect();
    let mut held = Vec::new();
    for (number, one) in slow.iter().enumerate() {
        held.push(one.take([10, 8, 8, 6][number] * MIB).await.unwrap());
        assert!(!stall(one));
    }
    let _beside = line(&memory, "beside").take(MIB).await.unwrap();
    slow.iter().for_each(|one| age(one, Duration::from_secs(60)));
    assert_eq!(memory.given_up(), 0, "nobody waits");
    // The first reads a sixteenth of what it holds, in pieces; the last nearly that much.
    (0..8).for_each(|_| slow[0].wrote(100_000));
    slow[3].wrote(300_000);
    let ann = line(&memory, "ann");
    let waiting = soon(async move { ann.take(9 * MIB).await.map(|held| held.bytes()) }).await;
    let given_up: Vec<bool> = slow.iter().map(stall).collect();
    assert_eq!(given_up, [false, true, true, false], "as many as needed, those that hold most first");
    held.drain(1..3);
    assert_eq!(waiting.await.unwrap(), Ok(9 * MIB));
    assert_eq!(memory.given_up(), 2);
    check(&memory);
}

#[tokio::test]
async fn a_client_is_slow_only_while_bytes_wait_for_it() {
    let memory = memory(8 * MIB);
    let ann = line(&memory, "ann");
    let held = ann.take(8 * MIB).await.unwrap();
    let _beside = line(&memory, "beside").take(MIB).await.unwrap();
    stall(&ann);
    ann.rests();
    age(&ann, Duration::from_secs(60));
    let bob = line(&memory, "bob");
    let waiting = soon(async move { bob.take(MIB).await.is_ok() }).await;
    assert!(!stall(&ann), "the stall starts now");
    age(&ann, STALLED);
    while !stall(&ann) {
        tokio::task::yield_now().await;
    }
    drop(held);
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn under_load_the_newest_request_of_an_owner_is_served_first() {
    let memory = memory(8 * MIB);
    let held = line(&memory, "first").take(8 * MIB).await.unwrap();
    let _beside = line(&memory, "beside").take(MIB).await.unwrap();
    let (came, mut order) = tokio::sync::mpsc::unbounded_channel();
    for name in ["ann 1", "ann 2", "ann 3"] {
        let (line, came) = (line(&memory, "ann"), came.clone());
        soon(async move {
            let held = line.take(8 * MIB).await;
            came.send(name).unwrap();
            drop(held);
        })
        .await;
    }
    for queue in memory.0.state.lock().waiting.values_mut() {
        queue.iter_mut().for_each(|one| one.since -= 2 * OLD);
    }
    drop(held);
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(order.recv().await.unwrap());
    }
    assert_eq!(names, ["ann 3", "ann 2", "ann 1"]);
}

#[tokio::test]
async fn a_request_that_fits_once_it_is_the_next_is_served_although_nothing_is_released() {
    let memory = memory(8 * MIB);
    let _held = line(&memory, "ann").take(3 * MIB).await.unwrap();
    let _beside = line(&memory, "beside").take(8 * MIB).await.unwrap();
    let (large, small) = (line(&memory, "bob"), line(&memory, "bob"));
    let large = soon(async move { large.take(7 * MIB).await.map(|held| held.bytes()) }).await;
    let small = soon(async move { small.take(4 * MIB).await.map(|held| held.bytes()) }).await;
    assert!(!small.is_finished(), "in order, at first");
    for queue in memory.0.state.lock().waiting.values_mut() {
        queue.iter_mut().for_each(|one| one.since -= 2 * OLD);
    }
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), small).await.expect("in time").unwrap(), Ok(4 * MIB));
    large.abort();
    check(&memory);
}

#[tokio::test]
async fn connections_that_hold_memory_and_want_more_do_not_deadlock() {
    let memory = memory(4 * MIB);
    let all = (0..20).map(|number| {
        let line = line(&memory, &format!("user{}", number % 3));
        tokio::spawn(async move {
            let _window = line.take(WINDOW).await.unwrap();
            for _ in 0..5 {
                let _loaded = line.take(2 * MIB).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    for one in all.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_secs(25), one).await.expect("in time").unwrap();
    }
    assert_eq!(memory.held(), 0);
    check(&memory);
}

#[tokio::test]
async fn cancelled_waits_leave_nothing_behind() {
    let memory = memory(8 * MIB);
    let held = line(&memory, "first").take(8 * MIB).await.unwrap();
    let beside = line(&memory, "beside").take(MIB).await.unwrap();
    for _ in 0..10 {
        let ann = line(&memory, "ann");
        let waiting = soon(async move { ann.take(8 * MIB).await.is_ok() }).await;
        waiting.abort();
        assert!(waiting.await.is_err());
    }
    drop((held, beside));
    assert_eq!(memory.held(), 0);
    assert!(memory.0.state.lock().waiting.is_empty());
    assert!(line(&memory, "ann").try_take(8 * MIB).is_some());
}

#[tokio::test]
async fn loaded_bytes_are_refused_only_beyond_twice_the_budget() {
    let memory = memory(8 * MIB);
    let ann = line(&memory, "ann");
    let held: Vec<Held> = (0..4).map(|_| ann.count(4 * MIB, false).unwrap()).collect();
    assert!(ann.count(4 * MIB, false).is_err());
    let must = ann.count(4 * MIB, true).unwrap();
    assert_eq!(memory.held(), 20 * MIB);
    drop((held, must));
    assert_eq!(memory.held(), 0);
    check(&memory);
}

#[tokio::test]
async fn a_waiting_body_closes_the_slowest_response_that_keeps_a_body_share() {
    let memory = memory(8 * MIB);
    let (ann, bob) = (line(&memory, "ann"), line(&memory, "bob"));
    let kept = ann.keeps_body();
    stall(&ann);
    stall(&bob);
    memory.give_up_one_that_keeps_a_body();
    assert!(!stall(&ann), "not slow for long enough yet");
    age(&ann, STALLED);
    memory.give_up_one_that_keeps_a_body();
    assert!(stall(&ann) && !stall(&bob));
    drop(kept);
    check(&memory);
}
