use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::store::disk_space::Space;
use crate::store::embedded::backend::{Backend, VisitIndexed, Writes};
use crate::store::embedded::faults::{Faults, WriteFault};
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::Mark;
use crate::store::embedded::tally::Tally;
use crate::store::range::KeyRange;
use crate::store::reserved_keys::TOTALS;
use crate::store::{Batch, Direction, Durability, PageLimit, Result, Store, StoreError, keyspace};

fn put(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.to_vec(), value.to_vec());
    batch
}

#[test]
fn a_failed_write_is_not_visible_and_the_next_commit_recovers() {
    for fault in [WriteFault::Io, WriteFault::Full, WriteFault::Panic] {
        let (store, faults) = Faults::store();
        store.commit(put(b"k", b"1")).unwrap();
        faults.fail_write(0, fault);
        let error = store.commit(put(b"k", b"2")).unwrap_err();
        assert_eq!(error == StoreError::Full, fault == WriteFault::Full);
        assert_eq!(store.get(b"k").unwrap(), Some(b"1".to_vec()), "reads go on, {fault:?}");
        faults.stay_closed(2);
        assert!(store.commit(put(b"k", b"3")).is_err());
        assert!(store.commit(put(b"k", b"3")).is_err());
        assert_eq!(store.get(b"k").unwrap(), Some(b"1".to_vec()));
        store.commit(put(b"k", b"4")).unwrap();
        assert_eq!((store.get(b"k").unwrap(), faults.reopened()), (Some(b"4".to_vec()), 1));
    }
}

#[test]
fn what_is_in_memory_is_what_the_engine_returns_also_after_failures() {
    let (key, other) = (keyspace::document(1, "a"), keyspace::body(1, 1, 0));
    for fault in [WriteFault::Io, WriteFault::Full, WriteFault::Panic, WriteFault::Unknown] {
        let (store, faults) = Faults::store();
        store.commit(put(&key, b"1")).unwrap();
        store.commit(put(&other, b"1")).unwrap();
        assert_eq!(store.recent(&key), None, "it has not been read");
        for key in [&key, &other] {
            assert_eq!(store.get(key).unwrap(), Some(b"1".to_vec()));
            assert_eq!(store.recent(key), Some(b"1".to_vec()));
        }
        store.commit(put(&key, b"2")).unwrap();
        assert_eq!((store.recent(&key), store.recent(&other)), (None, Some(b"1".to_vec())));
        assert_eq!(store.get(&key).unwrap(), Some(b"2".to_vec()));
        faults.fail_write(0, fault);
        store.commit(put(&key, b"3")).unwrap_err();
        assert_eq!(store.recent(&key), None, "{fault:?}");
        // It is kept again, and the engine may have another value when it has been reopened.
        assert_eq!(store.get(&key).unwrap(), Some(b"2".to_vec()), "{fault:?}");
        assert_eq!(store.recent(&key), Some(b"2".to_vec()));
        store.commit(put(b"unrelated", b"1")).unwrap();
        assert_eq!((store.recent(&key), store.recent(&other)), (None, None), "{fault:?}");
        let expected = if fault == WriteFault::Unknown { b"3" } else { b"2" };
        assert_eq!(store.get(&key).unwrap(), Some(expected.to_vec()));
    }
}

#[test]
fn a_store_that_has_lost_something_returns_nothing_from_memory() {
    let key = keyspace::document(1, "a");
    let faults = Faults::default();
    let gate = Gate { open: Arc::new((Mutex::new(9), Condvar::new())), ..Gate::of(&faults) };
    let store = Arc::new(Committer::eager(gate, Frames::default()));
    store.commit(put(&key, b"1")).unwrap();
    faults.forget_what_comes();
    store.commit(put(&key, b"2")).unwrap();
    assert_eq!(store.get(&key).unwrap(), Some(b"2".to_vec()));
    assert_eq!(store.recent(&key), Some(b"2".to_vec()));
    faults.fail_write(0, WriteFault::Io);
    store.commit(put(&key, b"3")).unwrap_err();
    // A reader after the engine was reopened, before it is known what is missing.
    let read = Arc::<Mutex<Option<Result<_>>>>::default();
    let (reader, key_read, to) = (Arc::downgrade(&store), key.clone(), read.clone());
    *store.backend.before_totals.lock() =
        Some(Box::new(move || *to.lock() = Some(reader.upgrade().unwrap().get(&key_read))));
    damage_of(store.commit(put(&key, b"3")));
    assert_eq!(read.lock().take(), Some(Ok(Some(b"1".to_vec()))));
    damage_of(store.get(&key));
    assert_eq!(store.recent(&key), None);
}

#[test]
fn a_full_disk_still_accepts_writes_that_free_space() {
    let dir = tempfile::tempdir().unwrap();
    // Other processes write to this disk too, but not a gigabyte.
    for (beyond, frees) in [(1 << 30, true), (1 << 60, false)] {
        let space = Space::full(dir.path(), beyond);
        let store = Committer::new(Faults::default(), Frames::default(), Some(space));
        assert_eq!(store.commit(put(b"k", b"1")), Err(StoreError::Full));
        let freeing = store.commit(Batch { frees: true, ..put(b"k", b"2") });
        assert_eq!(freeing, if frees { Ok(()) } else { Err(StoreError::Full) });
        assert_eq!(store.get(b"k").unwrap(), frees.then(|| b"2".to_vec()));
        store.commit(Batch::new()).unwrap();
    }
}

/// A store on a disk with a gigabyte too little, what makes its engine fail, and its folder. Other processes write to this
/// disk too, but not a gigabyte.
fn on_a_full_disk() -> (Committer<Faults>, Faults, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let store = Committer::new(faults.clone(), Frames::default(), Some(Space::full(dir.path(), 1 << 30)));
    (store, faults, dir)
}

/// sled frees segments with a delay, which a store cannot know: it must not stop looking for them.
#[test]
fn a_full_disk_accepts_writes_when_the_engine_finds_free_space_late() {
    let (store, faults, _dir) = on_a_full_disk();
    faults.find_spare(1 << 31, 20);
    let after_the_pause = || store.work.lock().room.looked = None;
    assert_eq!(store.commit(put(b"k", b"1")), Err(StoreError::Full));
    assert_eq!(faults.reopened(), 0, "nothing was written since it was opened");
    store.commit(Batch { frees: true, ..put(b"k", b"2") }).unwrap();
    for reopened in 1..=20 {
        assert_eq!(store.commit(put(b"k", b"3")), Err(StoreError::Full));
        after_the_pause();
        assert_eq!(store.commit(put(b"k", b"3")), Err(StoreError::Full));
        assert_eq!(store.commit(put(b"k", b"3")), Err(StoreError::Full));
        assert_eq!(faults.reopened(), reopened, "once after each pause");
    }
    after_the_pause();
    store.commit(put(b"k", b"4")).unwrap();
    assert_eq!(faults.reopened(), 21);
}

#[test]
fn an_engine_that_might_not_open_again_is_not_closed_to_look_for_space() {
    let (store, faults, _dir) = on_a_full_disk();
    store.commit(Batch { frees: true, ..put(b"k", b"1") }).unwrap();
    faults.find_spare(1 << 31, 0);
    for (bytes, reopened) in [(u64::MAX, 0), (0, 1)] {
        faults.need_to_reopen(bytes);
        store.work.lock().room.looked = None;
        let written = store.commit(put(b"k", b"2"));
        assert_eq!((written.is_ok(), faults.reopened()), (reopened > 0, reopened));
        assert!(store.get(b"k").unwrap().is_some());
    }
}

/// What is known about free space is counted down by more than what is written. Before a write is refused, the
/// engine is asked again.
#[test]
fn a_full_disk_accepts_writes_until_the_free_space_within_the_files_is_used() {
    let (store, faults, _dir) = on_a_full_disk();
    store.commit(Batch { frees: true, ..put(b"k", b"1") }).unwrap();
    faults.find_spare(1 << 31, 0);
    store.work.lock().room.looked = None;
    store.commit(put(b"k", b"2")).unwrap();
    for number in 0..1000_u32 {
        let mut work = store.work.lock();
        (work.room.spare, work.room.queried) = (1 << 20, None);
        drop(work);
        store.commit(put(b"k", &number.to_be_bytes())).unwrap();
    }
    assert_eq!(faults.reopened(), 1);
}

#[test]
fn expectations_see_a_write_that_failed_but_took_effect() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    faults.fail_write(0, WriteFault::Unknown);
    assert!(store.commit(put(b"k", b"2")).is_err());
    let mut batch = put(b"k", b"3");
    batch.expect(b"k".to_vec(), Some(b"1".to_vec()));
    assert_eq!(store.commit(batch), Err(StoreError::Conflict));
    assert_eq!(store.get(b"k").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn a_failed_read_fails_only_its_own_batch() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    let mut batch = put(b"k", b"2");
    batch.expect(b"k".to_vec(), Some(b"1".to_vec()));
    faults.fail_read_once(0);
    assert!(matches!(store.commit(batch.clone()), Err(StoreError::Unavailable(_))));
    store.commit(batch).unwrap();
    assert_eq!(faults.reopened(), 0);
}

#[test]
fn a_failed_read_reopens_the_engine_without_a_write_and_is_repeated() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    let range = (Bound::Included(b"k".to_vec()), Bound::Unbounded);
    for reopened in 1..=3 {
        faults.fail_read_once(0);
        match reopened {
            1 => assert_eq!(store.get(b"k"), Ok(Some(b"1".to_vec()))),
            2 => {
                let page = store.scan(&range, Direction::Forward, PageLimit::entries(9)).unwrap();
                assert_eq!(page, [(b"k".to_vec(), b"1".to_vec())]);
            }
            _ => assert_eq!(store.keys(&range, 9), Ok(vec![b"k".to_vec()])),
        }
        assert_eq!(faults.reopened(), reopened);
    }
    faults.fail_read(0);
    assert!(matches!(store.get(b"k"), Err(StoreError::Unavailable(_))), "it fails again");
    assert_eq!((store.get(b"k"), faults.reopened()), (Ok(Some(b"1".to_vec())), 4));
    faults.fail_read_once(0);
    faults.stay_closed(1);
    assert!(matches!(store.get(b"k"), Err(StoreError::Unavailable(_))), "the engine cannot be reopened");
}

/// sled moves pages while it is idle, and may find the disk full. The next read must succeed nevertheless.
#[test]
fn a_read_is_repeated_after_the_engine_found_the_disk_full() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    faults.fill_disk_before_read();
    assert_eq!((store.get(b"k"), faults.reopened()), (Ok(Some(b"1".to_vec())), 1));
    faults.fill_disk_before_read();
    faults.stay_closed(1);
    assert_eq!(store.get(b"k"), Err(StoreError::Full), "the engine cannot be reopened");
}

/// redb refuses reads after a failed write, for example after one that filled the disk.
#[test]
fn a_read_after_a_failed_write_waits_for_the_reopened_engine() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    faults.fail_write(0, WriteFault::Full);
    assert_eq!(store.commit(put(b"k", b"2")), Err(StoreError::Full));
    faults.fail_read_once(0);
    assert_eq!((store.get(b"k"), faults.reopened()), (Ok(Some(b"1".to_vec())), 1));
}

#[test]
fn a_readiness_check_reopens_a_failed_engine() {
    let (store, faults) = Faults::store();
    assert_eq!(store.ready(), Ok(()));
    faults.fail_write(0, WriteFault::Io);
    assert!(store.commit(put(b"k", b"1")).is_err());
    faults.stay_closed(1);
    assert!(matches!(store.ready(), Err(StoreError::Unavailable(_))));
    assert_eq!((store.ready(), faults.reopened()), (Ok(()), 1));
    faults.fail_write(0, WriteFault::Full);
    assert_eq!(store.commit(put(b"k", b"1")), Err(StoreError::Full));
    faults.stay_closed(1);
    assert!(store.ready().is_err());
    assert_eq!(store.ready(), Ok(()));
}

#[test]
fn an_encrypted_value_decrypts_only_under_its_own_key() {
    let (store, faults) =
        Faults::framed(Frames::sealing(crate::store::crypto::cipher::FolderKeys::generate().values()));
    let (one, other) = (keyspace::document(3, "a"), keyspace::document(3, "b"));
    store.commit(put(&one, b"1")).unwrap();
    store.commit(put(&other, b"2")).unwrap();
    let mut batch = put(&one, b"3");
    batch.expect(one.clone(), Some(b"1".to_vec()));
    store.commit(batch).unwrap();
    faults.swap(&one, &other);
    assert_eq!(store.get(&one).unwrap(), Some(b"3".to_vec()));
    let text = "document \"b\" of database number 3 is not what was sealed there";
    assert_eq!(store.get(&other), Err(StoreError::Damaged(text.into())));
    assert!(faults.damage(&one));
    let text = "document \"a\" of database number 3 does not match its checksum";
    assert_eq!(store.get(&one), Err(StoreError::Damaged(text.into())));
}

#[test]
fn damage_names_its_entry_and_leaves_the_others_readable() {
    let (store, faults) = Faults::store();
    let (good, bad, last) = (keyspace::document(3, "a"), keyspace::document(3, "b"), keyspace::document(3, "c"));
    for key in [&good, &bad, &last] {
        store.commit(put(key, b"value")).unwrap();
    }
    assert!(faults.damage(&bad));
    let text = "document \"b\" of database number 3 does not match its checksum";
    let damaged = Err(StoreError::Damaged(text.into()));
    assert_eq!(store.get(&bad), damaged);
    let each = store.get_each(&[good.clone(), bad.clone(), last.clone()]).unwrap();
    assert_eq!(each, [Ok(Some(b"value".to_vec())), damaged.clone(), Ok(Some(b"value".to_vec()))]);
    let range = keyspace::kind(3, keyspace::Kind::Document);
    let page = store.scan(&range, Direction::Forward, PageLimit::entries(9)).unwrap();
    assert_eq!(page, [(good, b"value".to_vec())], "the page ends before the damage");
    let rest = (Bound::Included(bad.clone()), range.1.clone());
    assert_eq!(store.scan(&rest, Direction::Forward, PageLimit::entries(9)).map(drop), damaged.clone().map(drop));
    let mut batch = put(b"k", b"1");
    batch.expect(bad.clone(), Some(b"value".to_vec()));
    assert_eq!(store.commit(batch), damaged.map(drop));
    let mut batch = Batch::new();
    for key in store.keys(&range, 9).unwrap() {
        batch.delete(key);
    }
    store.commit(batch).unwrap();
    assert_eq!(store.get(&bad), Ok(None), "a damaged entry can be deleted");
}

/// A backend whose writes block until the test lets them pass.
struct Gate {
    inner: Faults,
    open: Arc<(Mutex<u32>, Condvar)>,
    /// Called once, before the totals are read.
    before_totals: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Gate {
    fn of(faults: &Faults) -> Gate {
        Gate { inner: faults.clone(), open: Arc::default(), before_totals: Mutex::default() }
    }
}

impl Backend for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()> {
        if keys == [TOTALS]
            && let Some(call) = self.before_totals.lock().take()
        {
            call();
        }
        self.inner.get_many(keys, visit)
    }
    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: PageLimit,
        visit: crate::store::embedded::backend::Visit<'_>,
    ) -> Result<()> {
        self.inner.scan(range, direction, limit, visit)
    }
    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.inner.keys(range, entries, visit)
    }
    fn apply(&self, writes: &Writes, sync: bool, tally: &mut Tally<'_>) -> Result<()> {
        let mut passes = self.open.0.lock();
        while *passes == 0 {
            self.open.1.wait(&mut passes);
        }
        *passes -= 1;
        self.inner.apply(writes, sync, tally)
    }
    fn reopen(&self) -> Result<()> {
        self.inner.reopen()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Returns when a caller leads and has taken all waiting batches.
fn until_at_work(store: &Committer<Gate>) {
    loop {
        let queue = store.queue.lock();
        if queue.led && queue.waiting.is_empty() {
            return;
        }
        drop(queue);
        std::thread::yield_now();
    }
}

#[test]
fn waiting_batches_become_one_write_and_each_sees_the_earlier_ones() {
    let faults = Faults::default();
    let open = Arc::new((Mutex::new(0), Condvar::new()));
    let store = &Committer::eager(Gate { open: open.clone(), ..Gate::of(&faults) }, Frames::default());
    let waiting = |count: usize| {
        while store.queue.lock().waiting.len() < count {
            std::thread::yield_now();
        }
    };
    let counted = |from: Option<u8>, to: u8| {
        let mut batch = put(b"count", &[to]);
        batch.expect(b"count".to_vec(), from.map(|from| vec![from]));
        batch
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.commit(put(b"first", b"1")));
        until_at_work(store);
        let mut others = Vec::new();
        let last = counted(None, 7);
        // Each batch expects what the previous one wrote, which is still in the queue; the third fails.
        let mut dropped = Batch::new();
        dropped.delete(b"count".to_vec());
        for batch in [counted(None, 1), counted(Some(1), 2), counted(Some(1), 3), counted(Some(2), 4), dropped, last] {
            let before = others.len();
            others.push(scope.spawn(move || store.commit(batch)));
            waiting(before + 1);
        }
        *open.0.lock() = 2;
        open.1.notify_all();
        assert_eq!(first.join().unwrap(), Ok(()));
        let answers: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
        assert_eq!(answers, [Ok(()), Ok(()), Err(StoreError::Conflict), Ok(()), Ok(()), Ok(())]);
    });
    assert_eq!(faults.calls().0, 2, "seven batches, two writes");
    assert_eq!(store.get(b"count").unwrap(), Some(vec![7]));
}

#[test]
fn a_failed_write_fails_every_batch_of_its_group() {
    let faults = Faults::default();
    let open = Arc::new((Mutex::new(0), Condvar::new()));
    let store = &Committer::eager(Gate { open: open.clone(), ..Gate::of(&faults) }, Frames::default());
    faults.fail_write(1, WriteFault::Io);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.commit(put(b"first", b"1")));
        until_at_work(store);
        let others: Vec<_> = (0..5u8).map(|key| scope.spawn(move || store.commit(put(&[b'k', key], b"1")))).collect();
        while store.queue.lock().waiting.len() < 5 {
            std::thread::yield_now();
        }
        *open.0.lock() = 9;
        open.1.notify_all();
        assert_eq!(first.join().unwrap(), Ok(()));
        assert!(others.into_iter().all(|other| other.join().unwrap().is_err()));
    });
    assert_eq!(store.scan(&keyspace::prefix(b"k"), Direction::Forward, PageLimit::entries(9)).unwrap(), []);
    store.commit(put(b"k", b"1")).unwrap();
}

fn damage_of<T: std::fmt::Debug>(answer: Result<T>) -> String {
    match answer {
        Err(StoreError::Damaged(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_engine_that_reopens_without_acknowledged_commits_is_refused() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    faults.forget_what_comes();
    store.commit(put(b"k", b"2")).unwrap();
    faults.fail_write(0, WriteFault::Io);
    assert!(store.commit(put(b"k", b"3")).is_err());
    let what = damage_of(store.commit(put(b"k", b"3")));
    assert_eq!(what, "its last commit is number 1, but number 2 was already on disk");
    for _ in 0..2 {
        damage_of(store.get(b"k"));
        damage_of(store.ready());
        damage_of(store.keys(&(Bound::Unbounded, Bound::Unbounded), 9));
        damage_of(store.commit(put(b"k", b"3")));
    }
}

#[test]
fn a_store_behind_its_mark_is_refused_and_one_without_a_record_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mark = || Arc::new(Mark::open(dir.path(), 1).unwrap());
    let faults = Faults::default();
    let open = |faults: &Faults| Committer::marked(faults.clone(), Frames::default(), None, mark());
    let store = open(&faults).unwrap();
    store.commit(put(&keyspace::name("one"), &[1, 9, 0])).unwrap();
    let mut relaxed = put(&keyspace::sequence(9, 4), b"row");
    relaxed.durability = Durability::Relaxed;
    store.commit(relaxed).unwrap();
    drop(store);
    assert_eq!(mark().reached().commits, 3, "a clean stop counts relaxed commits, and commits once itself");
    let noted = mark().databases().unwrap().remove(&9).unwrap();
    assert_eq!((noted.name.as_str(), noted.sequence), ("one", 4));
    drop(open(&faults).unwrap());
    assert!(damage_of(open(&Faults::default()).map(drop)).contains("number 3 was already on disk"));

    // Counting finds entries lost in the middle: at a start after a suspect log, and in a check.
    let store = open(&faults).unwrap();
    assert_eq!(store.complete(), Ok(()));
    faults.lose(&keyspace::sequence(9, 4));
    assert_eq!(damage_of(store.complete()), "1 entries are missing");
    drop(store);
    mark().suspect(true).unwrap();
    assert_eq!(damage_of(open(&faults).map(drop)), "1 entries are missing");
    assert!(mark().reached().suspect, "and it stays suspect for the next start");

    std::fs::remove_file(dir.path().join(crate::store::embedded::mark::name(1))).unwrap();
    faults.lose(TOTALS);
    let store = open(&faults).unwrap();
    assert_eq!(store.complete(), Ok(()));
    assert!(mark().databases().unwrap().contains_key(&9), "an older store's databases are noted");
}

#[test]
fn an_engine_panic_during_a_read_fails_only_that_read() {
    let (store, faults) = Faults::store();
    store.commit(put(b"k", b"1")).unwrap();
    faults.panic_at_read(0);
    assert!(damage_of(store.get(b"k")).contains("panicked"));
    assert_eq!((store.get(b"k"), faults.reopened()), (Ok(Some(b"1".to_vec())), 0));
    faults.panic_at_read(0);
    let each = store.get_each(&[b"k".to_vec(), b"l".to_vec()]).unwrap();
    assert_eq!(each, [Ok(Some(b"1".to_vec())), Ok(None)], "each key is read by itself");
    faults.panic_at_read(0);
    let mut batch = put(b"k", b"2");
    batch.expect(b"k".to_vec(), Some(b"1".to_vec()));
    assert!(store.commit(batch.clone()).is_err(), "the caller gets an answer");
    store.commit(batch).unwrap();
}

#[test]
fn a_refused_write_on_a_full_disk_does_not_make_the_mark_count_unsynced_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Committer::new(Faults::default(), Frames::default(), None);
    store.commit(put(b"k", b"1")).unwrap();
    store.commit(Batch { durability: Durability::Relaxed, ..put(b"k", b"2") }).unwrap();
    assert_eq!(store.mark.reached().commits, 1);
    store.space = Some(Space::full(dir.path(), 1 << 60));
    assert_eq!(store.commit(put(b"k", b"3")), Err(StoreError::Full));
    assert_eq!(store.mark.reached().commits, 1, "a crash may lose the second commit");
}
