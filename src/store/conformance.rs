//! One test suite for all stores: each engine must pass every row of [`ROWS`], and must behave like a
//! `BTreeMap` under random operations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::crypto::cipher::FolderKeys;
use super::crypto::master_key::Key;
use super::embedded::data_folder::{Engine, Options, open_with};
use super::embedded::faults::Faults;
use super::embedded::frame::Frames;
use super::memory::Memory;
use super::range::KeyRange;
use super::shared_memory::Cluster;
use super::*;
use crate::clock::Clock;

type Row = (&'static str, fn(&dyn Store));

const ROWS: &[Row] = &[
    ("an empty batch succeeds", |store| {
        store.commit(Batch::new()).unwrap();
        store.commit(Batch { durability: Durability::Relaxed, ..Batch::new() }).unwrap();
    }),
    ("get_many returns one value for each key, in the order of the keys", |store| {
        put(store, &[("a", "1"), ("b", ""), ("c", "3")]);
        let keys = ["c", "x", "a", "c", "b"].map(|key| key.as_bytes().to_vec());
        let expected = [Some("3"), None, Some("1"), Some("3"), Some("")];
        assert_eq!(store.get_many(&keys).unwrap(), expected.map(|value| value.map(|value| value.as_bytes().to_vec())));
        assert_eq!(store.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(store.get_many(&[]).unwrap(), Vec::<Option<Vec<u8>>>::new());
    }),
    ("the last write of a key in a batch wins", |store| {
        let mut batch = Batch::new();
        batch.put(b"k".to_vec(), b"1".to_vec());
        batch.delete(b"k".to_vec());
        batch.put(b"k".to_vec(), b"2".to_vec());
        batch.put(b"l".to_vec(), b"1".to_vec());
        batch.delete(b"l".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(all(store), rows(&[("k", "2")]));
    }),
    ("a key that is said to be new is written, also if it is there", |store| {
        put(store, &[("a", "1"), ("i", "1")]);
        let write = |expected: &str, written: &str| {
            let mut batch = Batch::new();
            batch.expect(b"i".to_vec(), Some(expected.as_bytes().to_vec()));
            batch.put(b"i".to_vec(), written.as_bytes().to_vec());
            for key in ["a", "b", "c"] {
                batch.put_new(key.as_bytes().to_vec(), written.as_bytes().to_vec());
            }
            batch.delete(b"c".to_vec());
            store.commit(batch)
        };
        assert_eq!(write("2", "3"), Err(StoreError::Conflict));
        assert_eq!(all(store), rows(&[("a", "1"), ("i", "1")]));
        for (expected, written) in [("1", "2"), ("2", "3")] {
            write(expected, written).unwrap();
            assert_eq!(all(store), rows(&[("a", written), ("b", written), ("i", written)]));
        }
    }),
    ("a range that ends before it starts is empty", |store| {
        put(store, &[("a", "1"), ("b", "1")]);
        let ranges: [KeyRange; 4] = [
            (Bound::Included(b"b".to_vec()), Bound::Excluded(b"a".to_vec())),
            (Bound::Included(b"b".to_vec()), Bound::Included(b"a".to_vec())),
            (Bound::Excluded(b"a".to_vec()), Bound::Excluded(b"a".to_vec())),
            (Bound::Excluded(b"a".to_vec()), Bound::Included(b"a".to_vec())),
        ];
        for range in ranges {
            for direction in [Direction::Forward, Direction::Backward] {
                assert_eq!(store.scan(&range, direction, PageLimit::entries(9)).unwrap(), []);
            }
            assert_eq!(store.keys(&range, 9).unwrap(), Vec::<Vec<u8>>::new());
        }
    }),
    ("a failed expectation discards the whole batch", |store| {
        put(store, &[("k", "1"), ("r", "1")]);
        for (key, value) in [("k", Some("2")), ("k", None), ("absent", Some("1")), ("absent", Some(""))] {
            let mut batch = Batch::new();
            batch.expect(b"r".to_vec(), Some(b"1".to_vec()));
            batch.expect(key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()));
            batch.put(b"new".to_vec(), b"1".to_vec());
            batch.delete(b"r".to_vec());
            assert_eq!(store.commit(batch), Err(StoreError::Conflict), "{key} {value:?}");
        }
        assert_eq!(all(store), rows(&[("k", "1"), ("r", "1")]));
        let mut batch = Batch::new();
        batch.expect(b"k".to_vec(), Some(b"1".to_vec()));
        batch.expect(b"absent".to_vec(), None);
        batch.put(b"k".to_vec(), b"2".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(store.get(b"k").unwrap(), Some(b"2".to_vec()));
    }),
    ("scans page in both directions over every kind of bound", |store| {
        put(store, &[("a", "1"), ("b", "2"), ("ba", "3"), ("c", "4")]);
        let range = (Bound::Excluded(b"a".to_vec()), Bound::Included(b"c".to_vec()));
        let page = |direction, entries| store.scan(&range, direction, PageLimit::entries(entries)).unwrap();
        assert_eq!(page(Direction::Forward, 2), rows(&[("b", "2"), ("ba", "3")]));
        assert_eq!(page(Direction::Backward, 2), rows(&[("c", "4"), ("ba", "3")]));
        assert_eq!(page(Direction::Forward, 9).len(), 3);
        assert_eq!(page(Direction::Forward, 0), []);
        let low = (Bound::Included(vec![1]), Bound::Excluded(b"b".to_vec()));
        assert_eq!(store.scan(&low, Direction::Backward, PageLimit::entries(9)).unwrap(), rows(&[("a", "1")]));
        let bytes = PageLimit { entries: 9, bytes: 1 };
        assert_eq!(
            store.scan(&range, Direction::Forward, bytes).unwrap(),
            rows(&[("b", "2")]),
            "one entry in any case"
        );
        let bytes = PageLimit { entries: 9, bytes: 3 };
        assert_eq!(store.scan(&range, Direction::Forward, bytes).unwrap().len(), 2);
    }),
    ("large values can be written, replaced and deleted", |store| {
        let sizes = [65_500, 65_531, 65_532, 65_536, 70_000, 1 << 20, 5_000_001, 10, 200_000, 0];
        for (round, size) in sizes.into_iter().enumerate() {
            let value: Vec<u8> = (0..size).map(|at| (at * 7 + round) as u8).collect();
            let mut batch = Batch::new();
            batch.put(b"m".to_vec(), value.clone());
            store.commit(batch).unwrap();
            put(store, &[("l", "1"), ("n", "1")]);
            assert_eq!(store.get(b"m").unwrap().as_ref(), Some(&value), "{size}");
            let found = all(store);
            assert_eq!(found.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"l", b"m", b"n"]);
            assert!(found[1].1 == value);
            let mut batch = Batch::new();
            batch.expect(b"m".to_vec(), Some(value));
            store.commit(batch).unwrap();
        }
        let mut batch = Batch::new();
        batch.put(b"m".to_vec(), vec![1; 300_000]);
        batch.put(b"m2".to_vec(), vec![2; 300_000]);
        store.commit(batch).unwrap();
        let mut batch = Batch::new();
        batch.delete(b"m2".to_vec());
        batch.delete(b"m".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(all(store), rows(&[("l", "1"), ("n", "1")]));
    }),
    ("empty, too long and reserved keys are refused", |store| {
        for key in [vec![], vec![0xFF], vec![0xFF, 1], vec![b'k'; MAX_KEY + 1]] {
            let mut batch = Batch::new();
            batch.put(key, b"1".to_vec());
            assert!(matches!(store.commit(batch), Err(StoreError::Unavailable(_))));
        }
        let mut batch = Batch::new();
        batch.put(vec![b'k'; MAX_KEY], b"1".to_vec());
        batch.put(vec![0xFE; 9], b"1".to_vec());
        store.commit(batch).unwrap();
        assert_eq!(all(store).len(), 2);
    }),
    ("relaxed commits are visible at once and in order", |store| {
        for round in 0..50 {
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
            let old = (round > 0).then(|| vec![round - 1]);
            batch.expect(b"count".to_vec(), old);
            batch.put(b"count".to_vec(), vec![round]);
            batch.put(vec![b'r', round], vec![round; 70_000]);
            store.commit(batch).unwrap();
            assert_eq!(store.get(b"count").unwrap(), Some(vec![round]));
        }
        assert_eq!(all(store).len(), 51);
    }),
    ("concurrent conditional updates lose no increment", |store| {
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                scope.spawn(move || {
                    for round in 0..25u8 {
                        loop {
                            let old = store.get(b"counter").unwrap();
                            let count = old.as_ref().map_or(0, |old| old[0]) + 1;
                            let mut batch = Batch::new();
                            batch.expect(b"counter".to_vec(), old);
                            batch.put(b"counter".to_vec(), vec![count]);
                            batch.put(vec![b't', thread, round], vec![count]);
                            match store.commit(batch) {
                                Ok(()) => break,
                                Err(error) => assert_eq!(error, StoreError::Conflict),
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(store.get(b"counter").unwrap(), Some(vec![200]));
        assert_eq!(
            store.scan(&keyspace::prefix(b"t"), Direction::Forward, PageLimit::entries(999)).unwrap().len(),
            200
        );
    }),
    ("a read returns what was acknowledged before it, and what an earlier read returned, or a later value", |store| {
        use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
        let key = keyspace::document(1, "counter");
        let put = |value: Option<Vec<u8>>, durability| {
            store.commit(Batch { writes: vec![(key.clone(), value)], durability, ..Batch::new() }).unwrap();
        };
        for durability in [Durability::Synced, Durability::Relaxed] {
            let (known, done) = (AtomicU8::new(0), AtomicBool::new(false));
            let read = || {
                let least = known.load(Ordering::SeqCst);
                let recent = store.recent(&key).map(Some);
                let value = recent.unwrap_or_else(|| store.get(&key).unwrap()).map_or(0, |value| value[0]);
                assert!(value >= least, "{value} after {least}, {durability:?}");
                known.fetch_max(value, Ordering::SeqCst);
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    scopeguard::defer!(done.store(true, Ordering::SeqCst));
                    for round in 1..=150u8 {
                        put(Some(vec![round]), durability);
                        known.fetch_max(round, Ordering::SeqCst);
                        // Twice: what the first one has kept.
                        read();
                        read();
                    }
                });
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !done.load(Ordering::SeqCst) {
                            read();
                        }
                    });
                }
            });
            read();
            if ["sled", "redb"].contains(&store.engine()) {
                assert_eq!(store.recent(&key), Some(vec![150]), "it was read, and nothing has been written since");
            }
            put(None, durability);
            assert_eq!((store.recent(&key), store.get(&key).unwrap()), (None, None));
        }
    }),
    ("readers never see a torn value", |store| {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                scopeguard::defer!(done.store(true, std::sync::atomic::Ordering::Relaxed));
                for round in 0..60u8 {
                    let mut batch = Batch::new();
                    batch.put(b"big".to_vec(), vec![round; 150_000 + round as usize]);
                    batch.put(b"small".to_vec(), vec![round]);
                    store.commit(batch).unwrap();
                }
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(big) = store.get(b"big").unwrap() {
                    assert_eq!(big.len(), 150_000 + big[0] as usize);
                    assert!(big.iter().all(|byte| *byte == big[0]));
                }
                for (_, value) in all(store) {
                    assert!(value.iter().all(|byte| *byte == value[0]));
                }
            }
        });
    }),
    ("a page is a snapshot: it shows all of a batch or nothing", |store| {
        const KEYS: usize = 400;
        for durability in [Durability::Synced, Durability::Relaxed] {
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    scopeguard::defer!(done.store(true, std::sync::atomic::Ordering::Relaxed));
                    for round in 0..150u8 {
                        let mut batch = Batch { durability, ..Batch::new() };
                        for key in 0..KEYS {
                            batch.put(format!("k{key:03}").into_bytes(), vec![round; 40]);
                        }
                        store.commit(batch).unwrap();
                    }
                });
                let mut direction = Direction::Forward;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let page = store.scan(&keyspace::prefix(b"k"), direction, PageLimit::entries(KEYS)).unwrap();
                    assert!(page.is_empty() || page.len() == KEYS);
                    assert!(page.windows(2).all(|pair| pair[0].1 == pair[1].1), "{direction:?} {durability:?}");
                    direction = match direction {
                        Direction::Forward => Direction::Backward,
                        Direction::Backward => Direction::Forward,
                    };
                }
            });
        }
    }),
];

fn rows(rows: &[(&str, &str)]) -> Vec<Entry> {
    rows.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn put(store: &dyn Store, entries: &[(&str, &str)]) {
    let mut batch = Batch::new();
    for (key, value) in rows(entries) {
        batch.put(key, value);
    }
    store.commit(batch).unwrap();
}

/// All entries except the format record.
fn all(store: &dyn Store) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    loop {
        let low = found.last().map_or(Bound::Included(vec![1]), |(key, _)| Bound::Excluded(key.clone()));
        let page = store.scan(&(low, Bound::Unbounded), Direction::Forward, PageLimit::entries(100)).unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

/// Strategy: batches of up to 12 writes, deletes of a range of keys and expectations over 40 short keys, with
/// values of 0 to 9 bytes and some of 70 to 200 KB. After each batch, a scan with random bounds, direction and
/// limit; sometimes the store is closed and reopened.
#[derive(Debug, Clone)]
struct Step {
    writes: Vec<(u8, Option<usize>)>,
    deleted: Option<(u8, u8)>,
    expected: Option<(u8, bool)>,
    scanned: (u8, u8, bool, usize),
    reopen: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![9 => 0usize..10, 1 => 70_000usize..200_000];
    let write = (1u8..40, proptest::option::weighted(0.7, size));
    let step = (
        proptest::collection::vec(write, 0..12),
        proptest::option::weighted(0.2, (1u8..40, 1u8..40)),
        proptest::option::weighted(0.3, (1u8..40, any::<bool>())),
        (1u8..40, 1u8..40, any::<bool>(), 1usize..20),
        proptest::bool::weighted(0.05),
    );
    let step = step.prop_map(|(writes, deleted, expected, scanned, reopen)| Step {
        writes,
        deleted,
        expected,
        scanned,
        reopen,
    });
    proptest::collection::vec(step, 1..25)
}

fn against_model(open: &dyn Fn() -> Arc<dyn Store>, steps: Vec<Step>, forgets: bool) {
    let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
    let mut store = open();
    for (round, step) in steps.into_iter().enumerate() {
        let mut batch = Batch::new();
        let mut after = model.clone();
        let mut holds = true;
        if let Some((low, high)) = step.deleted {
            for key in low..high {
                batch.delete(vec![key]);
            }
            after.retain(|key, _| !(low <= key[0] && key[0] < high));
        }
        if let Some((key, right)) = step.expected {
            let value = model.get(&vec![key]).cloned();
            let wrong = value.as_ref().map_or(Some(vec![1]), |_| None);
            batch.expect(vec![key], if right { value } else { wrong });
            holds = right;
        }
        for (key, size) in step.writes {
            let value = size.map(|size| vec![round as u8; size]);
            match &value {
                Some(value) => after.insert(vec![key], value.clone()),
                None => after.remove(&vec![key]),
            };
            batch.writes.push((vec![key], value));
        }
        assert_eq!(store.commit(batch), if holds { Ok(()) } else { Err(StoreError::Conflict) });
        if holds {
            model = after;
        }
        if step.reopen && !forgets {
            drop(store);
            store = open();
        }
        let (low, high, forward, entries) = step.scanned;
        let range = (Bound::Excluded(vec![low]), Bound::Included(vec![high]));
        let direction = if forward { Direction::Forward } else { Direction::Backward };
        let found = store.scan(&range, direction, PageLimit { entries, bytes: usize::MAX }).unwrap();
        let mut expected: Vec<Entry> = model
            .iter()
            .filter(|(key, _)| low < key[0] && key[0] <= high)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !forward {
            expected.reverse();
        }
        expected.truncate(entries);
        assert!(found == expected, "a scan of {range:?} {direction:?}");
    }
    assert!(all(store.as_ref()) == model.into_iter().collect::<Vec<_>>());
}

/// Rows that run readers against a writer. They are skipped for encrypted stores: encryption does not affect
/// them and is slow in unoptimized builds.
const RACES: [&str; 2] = ["readers never see a torn value", "a page is a snapshot: it shows all of a batch or nothing"];

fn run_all(fresh: &dyn Fn() -> Arc<dyn Store>, races: bool) {
    for (name, row) in ROWS.iter().filter(|(name, _)| races || !RACES.contains(name)) {
        println!("{name}");
        row(fresh().as_ref());
    }
}

#[test]
fn memory() {
    run_all(&|| Arc::new(Memory::new()), true);
    TestRunner::default()
        .run(&steps(), |steps| {
            let store: Arc<dyn Store> = Arc::new(Memory::new());
            against_model(&|| store.clone(), steps, true);
            Ok(())
        })
        .unwrap();
}

/// Each reopening continues on another node of the same store.
#[test]
fn shared_memory() {
    run_all(&|| Cluster::new(Clock::system()).node(), false);
    TestRunner::default()
        .run(&steps(), |steps| {
            let cluster = Cluster::new(Clock::system());
            against_model(&|| cluster.node(), steps, false);
            Ok(())
        })
        .unwrap();
}

/// The committer, which all engines share, over a map in memory, with encryption.
#[test]
fn memory_sealed() {
    let fresh = || Faults::framed(Frames::sealing(FolderKeys::generate().values())).0;
    run_all(&fresh, false);
    TestRunner::new(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })
        .run(&steps(), |steps| {
            let store = fresh();
            against_model(&|| store.clone(), steps, true);
            Ok(())
        })
        .unwrap();
}

fn on_disk(engine: Engine, key: Option<Key>) {
    let dir = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let open = |folder: &str| {
        let options = Options { engine: Some(engine), key: key.clone(), ..Options::default() };
        open_with(&dir.path().join(folder), options).unwrap().store
    };
    run_all(
        &|| {
            number.set(number.get() + 1);
            open(&number.get().to_string())
        },
        key.is_none(),
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: if key.is_some() { 4 } else { 12 },
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&steps(), |steps| {
            number.set(number.get() + 1);
            against_model(&|| open(&number.get().to_string()), steps, false);
            Ok(())
        })
        .unwrap();
}

#[test]
fn sled() {
    on_disk(Engine::Sled, None);
}

#[test]
fn sled_sealed() {
    on_disk(Engine::Sled, Some(Key::generate()));
}

#[test]
fn redb() {
    on_disk(Engine::Redb, None);
}

/// Each row on a schema of its own: the rows of one table would see each other.
#[test]
fn postgres() {
    let Some(server) = super::postgres::test_server::TestServer::start() else { return };
    let number = std::cell::Cell::new(0);
    let fresh = || {
        number.set(number.get() + 1);
        server.open(&format!("s{}", number.get())).store
    };
    run_all(&fresh, true);
    TestRunner::new(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })
        .run(&steps(), |steps| {
            number.set(number.get() + 1);
            against_model(&|| server.open(&format!("s{}", number.get())).store, steps, false);
            Ok(())
        })
        .unwrap();
}

#[test]
fn postgres_sealed() {
    let Some(server) = super::postgres::test_server::TestServer::start() else { return };
    let number = std::cell::Cell::new(0);
    let options = super::postgres::Options { key: Some(Key::generate()), ..Default::default() };
    let open = || super::postgres::open(server.address(&format!("s{}", number.get())), &options).unwrap().store;
    run_all(
        &|| {
            number.set(number.get() + 1);
            open()
        },
        false,
    );
    number.set(number.get() + 1);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 1, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&steps(), |steps| {
            against_model(&open, steps, false);
            Ok(())
        })
        .unwrap();
}
