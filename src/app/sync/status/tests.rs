use std::time::Duration;

use super::super::client::TEXT;
use super::super::record::{CHECKPOINTS, HOURS, REFUSED};
use super::*;

const BEGIN: u64 = 1_700_000_000_000;

fn status() -> (Clock, Arc<SyncStatus>) {
    let clock = Clock::fixed(Duration::from_millis(BEGIN));
    (clock.clone(), SyncStatus::new(clock))
}

fn key(user: &str, device: &str) -> Key {
    Key::new(Some(user), Some(device), "", "db")
}

#[test]
fn memory_is_bounded_for_one_user_and_for_all_and_the_oldest_go_first() {
    let (clock, status) = status();
    for number in 0..3 * PER_USER {
        clock.advance(Duration::from_millis(1));
        status.of(key("ann", &format!("{number}")), About::default());
    }
    let kept = status.list(|_| true);
    assert!((PER_USER * 8 / 10..=PER_USER).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[0].key, key("ann", &format!("{}", 3 * PER_USER - 1)));
    for number in 0..2 * ENTRIES {
        clock.advance(Duration::from_millis(1));
        status.of(key(&format!("user{number}"), "phone"), About::default());
    }
    let entries = status.entries.lock();
    assert!(entries.all.len() <= ENTRIES);
    assert_eq!(entries.users.values().sum::<usize>(), entries.all.len());
    assert!(!entries.all.contains_key(&kept[0].key));
}

#[test]
fn an_open_feed_is_forgotten_last() {
    let (clock, status) = status();
    let _feed = status.of(key("ann", "open"), About::default()).opened();
    for number in 0..2 * PER_USER {
        clock.advance(Duration::from_millis(1));
        status.of(key("ann", &format!("{number}")), About::default());
    }
    assert!(status.known(&key("ann", "open")).is_some());
}

#[test]
fn refused_documents_are_counted_and_the_newest_are_named() {
    let (_, status) = status();
    let about = About { agent: &"x".repeat(1000), ..About::default() };
    let syncing = status.of(Key::new(Some("ann"), None, about.agent, "db"), about);
    for number in 0..100 {
        let row = [format!("doc {number}"), "forbidden".into(), "no".into()];
        syncing.pushed(1, 10, &[row, ["again".into(), "forbidden".into(), "é".repeat(1000)]]);
    }
    let seen = &status.list(|_| true)[0];
    assert_eq!((seen.record.refused.len(), seen.record.total.refused), (REFUSED, 200));
    assert_eq!((seen.record.refused[0].id.as_str(), seen.record.refused[0].count), ("again", 100));
    assert!(seen.record.refused[0].reason.len() <= TEXT && seen.record.agent.len() <= TEXT);
    let events = status.history.events(|event| event.kind == EventKind::Refused);
    assert_eq!(events.len(), 100);
    assert!(events[0].detail.starts_with("doc 99 (and 1 more): forbidden: no"), "{}", events[0].detail);
}

#[test]
fn a_feed_is_live_until_it_ends_and_a_client_that_comes_back_is_told() {
    let (clock, status) = status();
    let syncing = status.of(key("ann", "phone"), About::default());
    let feed = syncing.opened();
    clock.advance(Duration::from_secs(7200));
    assert!(status.list(|_| true)[0].live);
    drop(feed);
    clock.advance(Duration::from_secs(60));
    let seen = &status.list(|_| true)[0];
    assert_eq!((seen.live, seen.record.last_seen), (false, BEGIN + 7_200_000));
    clock.advance(Duration::from_secs(3600));
    syncing.asked(7);
    let events = status.history.events(|_| true);
    assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Back, EventKind::FirstSeen]);
    assert_eq!(events[0].detail, "after 61 minutes");
}

#[test]
fn sums_are_kept_of_a_day() {
    let (clock, status) = status();
    let syncing = status.of(key("ann", "phone"), About::default());
    for _ in 0..100 {
        syncing.reads(3);
        syncing.answered(100);
        clock.advance(Duration::from_secs(3600));
    }
    let record = &status.list(|_| true)[0].record;
    assert_eq!((record.total.documents_sent, record.total.bytes_sent), (300, 10_000));
    assert_eq!(record.hours.len(), HOURS);
    assert!(record.hours.iter().all(|(_, sums)| sums.documents_sent == 3));
}

#[test]
fn replications_of_one_client_are_told_apart_by_their_checkpoints() {
    let (clock, status) = status();
    let syncing = status.of(Key::new(Some("ann"), None, "app", "db"), About::default());
    for (sequence, id) in [(5, "phone"), (3, "laptop"), (9, "phone")] {
        clock.advance(Duration::from_millis(1));
        syncing.checkpoint(Some(sequence), &format!("{sequence}-x"), id);
    }
    let checkpoints = |status: &Arc<SyncStatus>| -> Vec<(u64, String)> {
        let seen = status.list(|_| true);
        seen[0].record.checkpoints.iter().map(|one| (one.sequence, one.id.clone())).collect()
    };
    assert_eq!(checkpoints(&status), [(9, "phone".to_owned()), (3, "laptop".to_owned())]);
    for number in 0..1000 {
        syncing.checkpoint(Some(number), "1-x", &format!("{number}{}", "é".repeat(1000)));
    }
    let kept = checkpoints(&status);
    assert_eq!((kept.len(), kept[0].0), (CHECKPOINTS, 999));
    assert!(kept.iter().all(|(_, id)| id.len() <= 64));
}
