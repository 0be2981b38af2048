//! Readers of an index while it is written, removed, or lost.

use proptest::prelude::*;

use super::*;
use crate::store::memory::Memory;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn history() -> Arc<History> {
    let entries = Packed::new(Arc::new(Memory::new()), Vec::new(), None, Room::default());
    Arc::new(History::new(entries, Room::default()))
}

/// A commit, or a reader that begins, reads a range or ends.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, Option<u8>)>),
    Begin,
    Read { reader: usize, low: u8, high: u8, forward: bool, entries: usize },
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let write = (1..30_u8, proptest::option::of(any::<u8>()));
    prop_oneof![
        3 => proptest::collection::vec(write, 1..8).prop_map(Step::Commit),
        1 => Just(Step::Begin),
        4 => (0..4_usize, 0..32_u8, 0..32_u8, any::<bool>(), 1..6_usize).prop_map(
            |(reader, low, high, forward, entries)| Step::Read { reader, low, high, forward, entries }
        ),
        1 => (0..4_usize).prop_map(Step::End),
    ]
}

proptest! {
    /// Each reader sees, page by page and in both directions, the map in the state at which it began.
    #[test]
    fn readers_see_the_state_at_which_they_began(steps in proptest::collection::vec(step(), 1..60)) {
        let history = history();
        let mut now: Model = BTreeMap::new();
        let mut readers: Vec<(Snapshot, Model)> = Vec::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    let mut batch = Batch::new();
                    for (key, value) in writes {
                        let (key, value) = (vec![key], value.map(|value| vec![value]));
                        match &value {
                            Some(value) => drop(now.insert(key.clone(), value.clone())),
                            None => drop(now.remove(&key)),
                        }
                        batch.writes.push((key, value));
                    }
                    history.commit(batch, |_| true).unwrap();
                }
                Step::Begin if readers.len() < 4 => readers.push((history.begin(), now.clone())),
                Step::Begin => {}
                Step::End(reader) if reader < readers.len() => drop(readers.remove(reader)),
                Step::End(_) => {}
                Step::Read { reader, low, high, forward, entries } => {
                    let Some((snapshot, model)) = readers.get(reader) else { continue };
                    let range = (Bound::Included(vec![low.min(high)]), Bound::Excluded(vec![low.max(high)]));
                    let direction = if forward { Direction::Forward } else { Direction::Backward };
                    let mut expected: Vec<Entry> = model
                        .iter()
                        .filter(|(key, _)| (low.min(high)..low.max(high)).contains(&key[0]))
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    let keys: Vec<Vec<u8>> = expected.iter().map(|(key, _)| key.clone()).collect();
                    if !forward {
                        expected.reverse();
                    }
                    let (mut read, mut left) = (Vec::new(), range.clone());
                    loop {
                        let page = snapshot.scan(&left, direction, PageLimit::entries(entries)).unwrap();
                        prop_assert!(page.len() <= entries);
                        let Some((last, _)) = page.last() else { break };
                        match forward {
                            true => left.0 = Bound::Excluded(last.clone()),
                            false => left.1 = Bound::Excluded(last.clone()),
                        }
                        read.extend(page);
                    }
                    prop_assert_eq!(read, expected);
                    let first = snapshot.keys(&range, entries).unwrap();
                    prop_assert!(keys.starts_with(&first) && first.is_empty() == keys.is_empty());
                    let all: Vec<Vec<u8>> = (1..30).map(|key| vec![key]).collect();
                    let values: Vec<Option<Vec<u8>>> = all.iter().map(|key| model.get(key).cloned()).collect();
                    prop_assert_eq!(snapshot.get_many(&all).unwrap(), values);
                }
            }
        }
        drop(readers);
        prop_assert_eq!(history.room.load(Ordering::Relaxed), 0);
        prop_assert!(history.kept.lock().before.is_empty());
    }
}

#[test]
fn readers_are_aborted_when_too_much_changes() {
    let history = history();
    let write = |value: usize| {
        let mut batch = Batch::new();
        batch.put(vec![1], vec![7; value]);
        history.commit(batch, |_| true).unwrap();
    };
    write(MOST);
    let early = history.begin();
    assert!(early.get_many(&[vec![1]]).is_ok());
    write(1);
    assert!(matches!(early.get_many(&[vec![1]]), Err(Error::Internal(_))));
    let late = history.begin();
    write(2);
    assert_eq!(late.get_many(&[vec![1]]).unwrap(), [Some(vec![7; 1])]);
    history.clear().unwrap();
    assert!(late.get_many(&[vec![1]]).is_err());
    drop((early, late));
    assert_eq!(history.room.load(Ordering::Relaxed), 0);
}

/// A store in which a reader begins during a commit.
#[derive(Default)]
struct Interrupted {
    within: Memory,
    history: Mutex<Option<Arc<History>>>,
    began: Mutex<Vec<Snapshot>>,
}

impl Store for Interrupted {
    fn get_many(&self, keys: &[Vec<u8>]) -> store::Result<Vec<Option<Vec<u8>>>> {
        self.within.get_many(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> store::Result<Vec<Entry>> {
        self.within.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> store::Result<()> {
        if let Some(history) = self.history.lock().take() {
            self.began.lock().push(history.begin());
        }
        self.within.commit(batch)
    }

    fn engine(&self) -> &'static str {
        "interrupted"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn a_reader_that_begins_during_removal_is_aborted() {
    let store = Arc::new(Interrupted::default());
    let history = Arc::new(History::new(Packed::new(store.clone(), vec![1], None, Room::default()), Room::default()));
    let mut batch = Batch::new();
    batch.put(vec![1, 1], vec![1]);
    history.commit(batch, |_| true).unwrap();
    *store.history.lock() = Some(history.clone());
    history.clear().unwrap();
    let reader = store.began.lock().pop().unwrap();
    let all = keyspace::prefix(&[1]);
    assert!(reader.scan(&all, Direction::Forward, PageLimit::entries(9)).is_err());
    drop(reader);
    assert!(history.begin().scan(&all, Direction::Forward, PageLimit::entries(9)).unwrap().is_empty());
}

/// Each page uses only the part of the undo log that it needs.
#[test]
fn a_reader_sees_all_rows_that_are_deleted_meanwhile() {
    let history = history();
    let keys: Vec<Vec<u8>> = (0..5000_u16).map(|number| number.to_be_bytes().to_vec()).collect();
    let mut batch = Batch::new();
    keys.iter().for_each(|key| batch.put(key.clone(), vec![7; 100]));
    history.commit(batch, |_| true).unwrap();
    for direction in [Direction::Forward, Direction::Backward] {
        let reader = history.begin();
        let mut batch = Batch::new();
        keys.iter().for_each(|key| batch.delete(key.clone()));
        history.commit(batch, |_| true).unwrap();
        let mut range = (Bound::Included(vec![0]), Bound::Unbounded);
        let mut read = Vec::new();
        loop {
            let page = reader.scan(&range, direction, PageLimit { entries: 100, bytes: 500 }).unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(page.len() <= 5);
            match direction {
                Direction::Forward => range.0 = Bound::Excluded(last.clone()),
                Direction::Backward => range.1 = Bound::Excluded(last.clone()),
            }
            read.extend(page.into_iter().map(|(key, _)| key));
        }
        if direction == Direction::Backward {
            read.reverse();
        }
        assert!(read == keys);
        let mut batch = Batch::new();
        keys.iter().for_each(|key| batch.put(key.clone(), vec![7; 100]));
        history.commit(batch, |_| true).unwrap();
    }
}
