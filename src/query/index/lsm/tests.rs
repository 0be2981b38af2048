//! Compares the index with a `BTreeMap` while runs are written, merged, lost and left over at any time.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::upkeep::{FULL, MERGED};
use super::*;
use crate::store::memory::Memory;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const PREFIX: &[u8] = b"index";

fn open(store: &Arc<dyn Store>) -> Packed {
    Packed::new(store.clone(), PREFIX.to_vec(), None, Room::default())
}

fn key(number: u16) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

#[derive(Debug, Clone)]
enum Step {
    /// Keys with the size of their values in bytes; `None` deletes the key.
    Commit(Vec<(u16, Option<u16>)>),
    WriteRun,
    Merge(usize),
    Rest,
    Clear,
    /// Simulates a crash: unwritten entries are lost, and an incomplete run is left in the store.
    Crash,
    Read {
        low: u16,
        high: u16,
        forward: bool,
        entries: usize,
    },
    Get(Vec<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    // A block of 8 KiB holds a few of the larger values.
    let write = (0..60_u16, proptest::option::weighted(0.8, prop_oneof![0..20_u16, 1000..3000_u16]));
    prop_oneof![
        6 => proptest::collection::vec(write, 1..30).prop_map(Step::Commit),
        4 => Just(Step::WriteRun),
        2 => (0..4_usize).prop_map(Step::Merge),
        1 => Just(Step::Rest),
        1 => Just(Step::Clear),
        1 => Just(Step::Crash),
        8 => (0..62_u16, 0..62_u16, any::<bool>(), 1..9_usize)
            .prop_map(|(low, high, forward, entries)| Step::Read { low, high, forward, entries }),
        3 => proptest::collection::vec(0..62_u16, 0..9).prop_map(Step::Get),
    ]
}

/// Reads a range page by page.
fn read_all(packed: &Packed, mut range: KeyRange, direction: Direction, entries: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let page = packed.scan(&range, direction, PageLimit::entries(entries)).unwrap();
        let Some((last, _)) = page.last() else { return all };
        assert!(page.len() <= entries);
        match direction {
            Direction::Forward => range.0 = Bound::Excluded(last.clone()),
            Direction::Backward => range.1 = Bound::Excluded(last.clone()),
        }
        all.extend(page);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_like_an_ordered_map(steps in proptest::collection::vec(step(), 1..40)) {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let mut packed = open(&store);
        let (mut model, mut stored) = (Model::new(), Model::new());
        let mut seed = 0_u8;
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    let mut batch = Batch::new();
                    for (number, size) in writes {
                        seed = seed.wrapping_add(1);
                        let value = size.map(|size| vec![seed; size.into()]);
                        match &value {
                            Some(value) => drop(model.insert(key(number), value.clone())),
                            None => drop(model.remove(&key(number))),
                        }
                        batch.writes.push((key(number), value));
                    }
                    packed.commit(batch).unwrap();
                }
                Step::WriteRun => {
                    packed.write_run().unwrap();
                    stored.clone_from(&model);
                }
                Step::Merge(from) => {
                    let runs = packed.state().unwrap().runs.len();
                    packed.merge(from.min(runs)).unwrap();
                }
                Step::Rest => {
                    rest(&packed);
                    if packed.state().unwrap().fresh.is_empty() {
                        stored.clone_from(&model);
                    }
                }
                Step::Clear => {
                    packed.clear().unwrap();
                    (model, stored) = (Model::new(), Model::new());
                }
                Step::Crash => {
                    let next = packed.state().unwrap().runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
                    let mut batch = Batch::new();
                    let mut packing = block::Packing::new();
                    packing.push(&7_u16.to_be_bytes(), Some(b"left behind"));
                    batch.put([&packed.base(next)[..], &7_u16.to_be_bytes()].concat(), packing.finish());
                    store.commit(batch).unwrap();
                    packed = open(&store);
                    model.clone_from(&stored);
                }
                Step::Read { low, high, forward, entries } => {
                    let range = (Bound::Included(key(low.min(high))), Bound::Excluded(key(low.max(high))));
                    let mut expected: Vec<Entry> = model
                        .range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()))
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    let keys: Vec<Vec<u8>> = expected.iter().map(|(key, _)| key.clone()).take(entries).collect();
                    prop_assert_eq!(packed.keys(&range, entries).unwrap(), keys);
                    let direction = if forward { Direction::Forward } else { Direction::Backward };
                    if !forward {
                        expected.reverse();
                    }
                    prop_assert!(read_all(&packed, range, direction, entries) == expected);
                }
                Step::Get(numbers) => {
                    let keys: Vec<Vec<u8>> = numbers.into_iter().map(key).collect();
                    let expected: Vec<Option<Vec<u8>>> = keys.iter().map(|key| model.get(key).cloned()).collect();
                    prop_assert!(packed.get_many(&keys).unwrap() == expected);
                }
            }
        }
        let everything = keyspace::prefix(PREFIX);
        let all: Vec<Entry> = model.into_iter().collect();
        prop_assert!(read_all(&packed, everything.clone(), Direction::Forward, 7) == all);
        // Now one run holds all entries, and the store contains nothing else.
        packed.write_run().unwrap();
        packed.merge(0).unwrap();
        packed.tidy().unwrap();
        prop_assert!(read_all(&packed, everything, Direction::Forward, 1000) == all);
        let runs = packed.state().unwrap().runs.clone();
        prop_assert!(runs.len() <= 1);
        let mut blocks = 0;
        for run in runs {
            blocks += store.keys(&keyspace::prefix(&packed.base(run.number)), 1000).unwrap().len();
        }
        prop_assert_eq!(store.keys(&keyspace::prefix(&[PREFIX, b"b"].concat()), 1000).unwrap().len(), blocks);
    }
}

fn put(packed: &Packed, number: u16, size: usize) {
    let mut batch = Batch::new();
    batch.put(key(number), vec![7; size]);
    packed.commit(batch).unwrap();
}

/// What happens after an update of the index.
fn rest(packed: &Packed) {
    packed.rest().unwrap();
    if packed.needs_tending() {
        packed.tend().unwrap();
    }
}

/// A store that counts the bytes read, and that can be reopened at a commit, which loses the previous
/// unsynced commit.
#[derive(Default)]
struct Watched {
    within: Memory,
    read: AtomicUsize,
    generation: AtomicU64,
    /// The keys of the last commit, and the number of commits before it gets lost.
    last: Mutex<(Vec<Vec<u8>>, Option<usize>)>,
    /// Called before the next commit.
    before: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Store for Watched {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.within.get_many(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let page = self.within.scan(range, direction, limit)?;
        self.read.fetch_add(page.iter().map(|(_, value)| value.len()).sum(), Ordering::Relaxed);
        Ok(page)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        if let Some(before) = self.before.lock().take() {
            before();
        }
        let mut last = self.last.lock();
        if last.1 == Some(0) {
            self.generation.fetch_add(2, Ordering::Relaxed);
            let mut lost = Batch::new();
            last.0.drain(..).for_each(|key| lost.delete(key));
            self.within.commit(lost)?;
        }
        last.1 = last.1.and_then(|commits| commits.checked_sub(1));
        last.0 = batch.writes.iter().map(|(key, _)| key.clone()).collect();
        self.within.commit(batch)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn engine(&self) -> &'static str {
        "watched"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn a_scan_reads_only_the_blocks_of_its_range() {
    let watched = Arc::new(Watched::default());
    let store: Arc<dyn Store> = watched.clone();
    let packed = open(&store);
    for number in 0..2000 {
        put(&packed, number, 1000);
    }
    packed.write_run().unwrap();
    let read = |low: Bound<Vec<u8>>, high: Bound<Vec<u8>>, direction: Direction| {
        watched.read.store(0, Ordering::Relaxed);
        let found = packed.scan(&(low, high), direction, PageLimit::entries(1000)).unwrap().len();
        (found, watched.read.load(Ordering::Relaxed))
    };
    for direction in [Direction::Forward, Direction::Backward] {
        for (low, high, rows) in [
            (Bound::Included(key(1500)), Bound::Excluded(key(1510)), 10),
            (Bound::Excluded(key(1500)), Bound::Included(key(1500)), 0),
            (Bound::Excluded(key(1990)), Bound::Unbounded, 9),
        ] {
            let (found, bytes) = read(low.clone(), high.clone(), direction);
            assert_eq!(found, rows);
            assert!(bytes < 100_000, "{direction:?} {low:?} {high:?}: {bytes} bytes");
        }
    }
}

#[test]
fn a_run_that_lost_blocks_is_discarded() {
    for commits in 0..8 {
        let watched = Arc::new(Watched::default());
        let store: Arc<dyn Store> = watched.clone();
        let packed = open(&store);
        for number in 0..4000 {
            put(&packed, number, 1000);
        }
        watched.last.lock().1 = Some(commits);
        // As after an update, which continues from the stored state.
        packed.rest().unwrap();
        let entries = read_all(&packed, keyspace::prefix(PREFIX), Direction::Forward, 1000).len();
        assert!(entries == 0 || entries == 4000, "{commits} commits: {entries} entries");
    }
}

#[test]
fn commits_and_readers_continue_during_a_merge() {
    let watched = Arc::new(Watched::default());
    let store: Arc<dyn Store> = watched.clone();
    let packed = Arc::new(open(&store));
    for first in 0..2 {
        for number in 0..1500 {
            put(&packed, 2 * number + first, 1000);
        }
        packed.write_run().unwrap();
    }
    let (done, told) = std::sync::mpsc::channel();
    let other = packed.clone();
    *watched.before.lock() = Some(Box::new(move || {
        let (finished, is_finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            put(&other, 1, 7);
            finished.send(other.get_many(&[key(1), key(2)]).unwrap())
        });
        done.send(is_finished.recv_timeout(std::time::Duration::from_secs(10)).ok()).unwrap();
    }));
    packed.merge(0).unwrap();
    assert_eq!(told.recv().unwrap(), Some(vec![Some(vec![7; 7]), Some(vec![7; 1000])]));
    assert_eq!(packed.get_many(&[key(1)]).unwrap(), [Some(vec![7; 7])]);
    assert_eq!(read_all(&packed, keyspace::prefix(PREFIX), Direction::Forward, 1000).len(), 3000);
    assert_eq!(packed.state().unwrap().runs.len(), 1);
}

#[test]
fn cuts_are_ordered_and_within_the_range() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let packed = open(&store);
    let all = keyspace::prefix(PREFIX);
    assert!(packed.cuts(&all, 1 << 14, 100).unwrap().is_empty());
    for number in 0..2000 {
        put(&packed, number, 500);
    }
    packed.write_run().unwrap();
    put(&packed, 2000, 500);
    packed.write_run().unwrap();
    let cuts = packed.cuts(&all, 1 << 14, 100).unwrap();
    // All entries together take a million bytes.
    assert!((50..70).contains(&cuts.len()), "{}", cuts.len());
    assert!(cuts.is_sorted());
    assert_eq!(packed.cuts(&all, 1 << 14, 3).unwrap(), cuts[..3]);
    let within = (Bound::Excluded(cuts[9].clone()), Bound::Excluded(cuts[19].clone()));
    let some = packed.cuts(&within, 1 << 14, 100).unwrap();
    assert!((8..=10).contains(&some.len()), "{}", some.len());
    assert!(some.iter().all(|cut| cuts[9] < *cut && *cut < cuts[19]));
    assert!(packed.cuts(&all, 1 << 30, 100).unwrap().is_empty());
}

#[test]
fn expectations_are_checked_against_fresh_and_stored_entries() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let packed = open(&store);
    let attempt = |expected: Option<&[u8]>, value: &[u8]| {
        let mut batch = Batch::new();
        batch.expect(key(1), expected.map(<[u8]>::to_vec));
        batch.put(key(1), value.to_vec());
        batch.put(key(2), value.to_vec());
        packed.commit(batch)
    };
    attempt(None, b"one").unwrap();
    assert_eq!(attempt(None, b"two"), Err(StoreError::Conflict));
    packed.write_run().unwrap();
    assert_eq!(attempt(Some(b"other"), b"two"), Err(StoreError::Conflict));
    assert_eq!(packed.get_many(&[key(2)]).unwrap(), [Some(b"one".to_vec())]);
    attempt(Some(b"one"), b"two").unwrap();
    assert_eq!(packed.get_many(&[key(2)]).unwrap(), [Some(b"two".to_vec())]);
}

#[test]
fn a_removed_index_is_not_written_again() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let packed = open(&store);
    put(&packed, 1, 10);
    packed.write_run().unwrap();
    put(&packed, 2, 10);
    // Like the removal of a database, which does not know the memtable.
    remove(&*store, &keyspace::prefix(PREFIX)).unwrap();
    assert_eq!(packed.write_run(), Err(StoreError::Conflict));
    assert!(store.keys(&keyspace::prefix(PREFIX), 1).unwrap().is_empty());
}

#[test]
fn fresh_entries_are_limited_and_accounted_for() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let room = Room::default();
    let packed = Packed::new(store.clone(), PREFIX.to_vec(), None, room.clone());
    for number in 0..40 {
        put(&packed, number, 1 << 20);
        packed.relieve().unwrap();
        assert!(room.load(Ordering::Relaxed) < FULL);
    }
    assert_eq!(packed.state().unwrap().bytes, room.load(Ordering::Relaxed));
    rest(&packed);
    assert_eq!(room.load(Ordering::Relaxed), 0);
    assert_eq!(packed.state().unwrap().runs.len(), 1);
    // A few entries may stay in memory, but at most a quarter of the stored size.
    put(&packed, 1, 10_000);
    rest(&packed);
    assert_eq!(packed.state().unwrap().runs.len(), 1);
    assert!(room.load(Ordering::Relaxed) > 10_000);
    drop(packed);
    assert_eq!(room.load(Ordering::Relaxed), 0);
}

#[test]
fn many_small_updates_leave_few_runs() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let packed = open(&store);
    for number in 0..2000_u16 {
        put(&packed, number, 20_000);
        rest(&packed);
        assert!(packed.state().unwrap().runs.len() <= 2 * MERGED);
    }
    assert_eq!(read_all(&packed, keyspace::prefix(PREFIX), Direction::Backward, 100).len(), 2000);
}

#[test]
fn no_run_is_written_once_the_owner_is_removed() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let owner = (b"owner".to_vec(), b"1".to_vec());
    let put = |key: Vec<u8>, value: Option<Vec<u8>>| {
        let mut batch = Batch::new();
        batch.writes.push((key, value));
        batch
    };
    store.commit(put(owner.0.clone(), Some(owner.1.clone()))).unwrap();
    let packed = Packed::new(store.clone(), PREFIX.to_vec(), Some(owner.clone()), Room::default());
    packed.commit(put(key(1), Some(b"a".to_vec()))).unwrap();
    packed.write_run().unwrap();
    let stored = || store.keys(&keyspace::prefix(PREFIX), 100).unwrap();
    let before = stored();
    assert!(!before.is_empty());
    // The database is deleted while its index is built, and a background task removes what is stored of it.
    packed.commit(put(key(2), Some(b"b".to_vec()))).unwrap();
    store.commit(put(owner.0, None)).unwrap();
    before.into_iter().for_each(|key| store.commit(put(key, None)).unwrap());
    assert_eq!(packed.write_run(), Err(StoreError::Conflict));
    assert_eq!((packed.compact(), packed.rest()), (Ok(()), Ok(())), "the builder learns it from the database");
    assert_eq!(stored(), Vec::<Vec<u8>>::new());
}
