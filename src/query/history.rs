//! Readers see an index as it stood when they began, whatever is committed to it meanwhile.
//!
//! Nothing below gives a snapshot across pages, and a query may be read for minutes by a slow client. Without more, a document
//! whose row moves while a query pages would be missed (it moves to where the query has been) or come twice. To make
//! updates wait for readers would let one slow client hold up everybody. So a commit that comes while somebody reads
//! keeps here what the keys that it writes held before, and readers lay that over what the store says:
//!
//! ```text
//!                      keys   a    b    c    d
//!   a reader begins           1    2    –    4
//!   commit 1: a, c            9    2    3    4     kept: before 1, a held 1; before 1, c was absent
//!   commit 2: a, d deleted    7    2    3    –     kept: before 2, a held 9; before 2, d held 4
//!   the reader's page         1    2    –    4     of each key what it held before the first commit since
//! ```
//!
//! What is kept is let go when the last reader that needs it ends. All that is kept on behalf of all indexes is at most
//! [`MOST`] bytes; beyond, the readers of that index are given up: their answers are broken off, never wrong.
//!
//! Order: a commit first keeps, then writes; a reader first reads the store, then what is kept. So whatever a page has of
//! a commit that came meanwhile is put right. That a reader begins between the two is what the gate prevents.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::packed::{self, CROWDED, Packed, Room};
use crate::error::{Error, Result};
use crate::store::{self, Batch, Direction, Entry, KeyRange, PageLimit, Store, keys};

/// Bytes kept at most, of all indexes.
const MOST: usize = 64 << 20;
/// What an entry takes beside its key and value, about.
const BESIDE: usize = 64;

/// Indexes whose histories are kept; beyond this, those that nobody reads or writes are forgotten.
const INDEXES: usize = 512;

/// Which index of which database: its number and the signature.
pub type Name = (u64, [u8; 16]);

/// The histories of a server's indexes, of views and of Mango. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Histories {
    by_name: Arc<Mutex<HashMap<Name, Arc<History>>>>,
    /// Bytes kept on behalf of all indexes.
    room: Room,
    /// Bytes of their entries that are not in the store yet.
    fresh: Room,
}

impl Histories {
    /// That of one index.
    pub(super) fn of(&self, name: Name, store: &Arc<dyn Store>) -> Arc<History> {
        let mut by_name = self.by_name.lock();
        if let Some(history) = by_name.get(&name) {
            return history.clone();
        }
        if by_name.len() >= INDEXES || self.fresh.load(Ordering::Relaxed) >= CROWDED {
            by_name.retain(|_, history| Arc::strong_count(history) > 1);
        }
        let prefix = keys::index_prefix(name.0, &name.1);
        let entries = Packed::new(store.clone(), prefix, self.fresh.clone());
        let history = Arc::new(History::new(entries, self.room.clone()));
        by_name.insert(name, history.clone());
        history
    }

    /// Removes an index, which is named by what its keys begin with, and breaks off its queries.
    pub(super) fn remove(&self, store: &dyn Store, prefix: &[u8]) -> store::Result<()> {
        let named = |(number, signature): &Name| keys::index_prefix(*number, signature) == prefix;
        let known = self.by_name.lock().iter().find(|(name, _)| named(name)).map(|(_, history)| history.clone());
        match known {
            Some(history) => history.clear(),
            None => packed::remove(store, &keys::prefix(prefix)),
        }
    }
}

/// Before which commits a key held what, in their order.
type Held = Vec<(u64, Option<Vec<u8>>)>;

/// The entries of an index, and what they were before the commits that its readers must not see.
#[derive(Debug)]
pub(super) struct History {
    entries: Packed,
    /// Held by each commit, and when a reader begins.
    gate: Mutex<()>,
    kept: Mutex<Kept>,
    room: Room,
}

#[derive(Debug, Default)]
struct Kept {
    /// Commits so far.
    commits: u64,
    /// How many readers began after so many commits.
    readers: BTreeMap<u64, usize>,
    before: BTreeMap<Vec<u8>, Held>,
    bytes: usize,
    /// Who began before this many commits cannot be served any more.
    lost: u64,
}

impl Kept {
    /// Forgets what no reader needs, and tells how many bytes that was.
    fn prune(&mut self) -> usize {
        let before = self.bytes;
        match self.readers.first_key_value() {
            None => {
                self.before.clear();
                self.bytes = 0;
            }
            Some((&oldest, _)) => {
                let bytes = &mut self.bytes;
                self.before.retain(|key, held| {
                    held.retain(|(commit, value)| {
                        let needed = *commit > oldest;
                        *bytes -= if needed { 0 } else { size(key, value) };
                        needed
                    });
                    !held.is_empty()
                });
            }
        }
        before - self.bytes
    }

    /// Gives up all readers there are.
    fn lose(&mut self) -> usize {
        self.lost = self.commits;
        self.before.clear();
        std::mem::take(&mut self.bytes)
    }
}

fn size(key: &[u8], value: &Option<Vec<u8>>) -> usize {
    key.len() + value.as_ref().map_or(0, Vec::len) + BESIDE
}

impl History {
    fn new(entries: Packed, room: Room) -> History {
        History { entries, gate: Mutex::default(), kept: Mutex::default(), room }
    }

    /// The entries as they are now.
    pub fn entries(&self) -> &Packed {
        &self.entries
    }

    /// Begins to read. May wait for one commit.
    pub fn begin(self: &Arc<History>) -> Snapshot {
        let _gate = self.gate.lock();
        let mut kept = self.kept.lock();
        let at = kept.commits;
        *kept.readers.entry(at).or_default() += 1;
        Snapshot { history: self.clone(), at, generation: self.entries.generation() }
    }

    /// Commits a batch; `is_read` tells which keys readers look at.
    pub fn commit(&self, batch: Batch, is_read: impl Fn(&[u8]) -> bool) -> store::Result<()> {
        let _gate = self.gate.lock();
        let number = {
            let mut kept = self.kept.lock();
            kept.commits += 1;
            (!kept.readers.is_empty()).then_some(kept.commits)
        };
        if let Some(number) = number {
            let mut keys: Vec<Vec<u8>> =
                batch.writes.iter().filter(|(key, _)| is_read(key)).map(|(key, _)| key.clone()).collect();
            keys.sort_unstable();
            keys.dedup();
            let values = self.entries.get_many(&keys)?;
            let mut kept = self.kept.lock();
            if !kept.readers.is_empty() {
                let mut more = 0;
                for (key, value) in keys.into_iter().zip(values) {
                    more += size(&key, &value);
                    kept.before.entry(key).or_default().push((number, value));
                }
                kept.bytes += more;
                if self.room.fetch_add(more, Ordering::Relaxed) + more > MOST {
                    let less = kept.lose();
                    self.room.fetch_sub(less, Ordering::Relaxed);
                    tracing::warn!("queries are broken off: too much of their index changed while they were read");
                }
            }
        }
        self.entries.commit(batch)
    }

    /// Removes all entries, and gives up all readers.
    pub fn clear(&self) -> store::Result<()> {
        self.give_up();
        let cleared = self.entries.clear();
        // Who began meanwhile may have read something before it was removed.
        self.give_up();
        cleared
    }

    /// Breaks off all that is being read.
    fn give_up(&self) {
        let _gate = self.gate.lock();
        let mut kept = self.kept.lock();
        kept.commits += 1;
        let less = kept.lose();
        self.room.fetch_sub(less, Ordering::Relaxed);
    }
}

/// An index as it stood at one moment. Dropping it lets go of what was kept for it.
#[derive(Debug)]
pub(super) struct Snapshot {
    history: Arc<History>,
    /// Commits that it sees.
    at: u64,
    /// That of the store when it began.
    generation: u64,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut kept = self.history.kept.lock();
        let was_oldest = kept.readers.first_key_value().is_some_and(|(oldest, _)| *oldest == self.at);
        if let Some(readers) = kept.readers.get_mut(&self.at) {
            *readers -= 1;
            if *readers == 0 {
                kept.readers.remove(&self.at);
                if was_oldest && !kept.before.is_empty() {
                    let less = kept.prune();
                    self.history.room.fetch_sub(less, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Snapshot {
    /// What is kept, if this snapshot can still be served.
    fn kept(&self) -> Result<parking_lot::MutexGuard<'_, Kept>> {
        let kept = self.history.kept.lock();
        if self.at < kept.lost || self.generation != self.history.entries.generation() {
            return Err(Error::Internal("an index changed too much while it was read".into()));
        }
        Ok(kept)
    }

    /// As [`Store::get_many`].
    pub fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = self.history.entries.get_many(keys)?;
        let kept = self.kept()?;
        if !kept.before.is_empty() {
            for (key, value) in keys.iter().zip(&mut values) {
                if let Some(held) = kept.before.get(key).and_then(|held| self.held(held)) {
                    *value = held.clone();
                }
            }
        }
        Ok(values)
    }

    /// As [`Store::scan`].
    pub fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut range = range.clone();
        loop {
            let page = self.history.entries.scan(&range, direction, limit)?;
            let kept = self.kept()?;
            if kept.before.is_empty() {
                return Ok(page);
            }
            // What the page covers: up to its last key, or all if there is nothing.
            let mut covered = range.clone();
            if let Some((last, _)) = page.last() {
                match direction {
                    Direction::Forward => {
                        covered.1 = Bound::Included(last.clone());
                        range.0 = Bound::Excluded(last.clone());
                    }
                    Direction::Backward => {
                        covered.0 = Bound::Included(last.clone());
                        range.1 = Bound::Excluded(last.clone());
                    }
                }
            }
            let at_end = page.is_empty();
            let merged = self.merge(&kept, page, &covered, direction, limit);
            if at_end || !merged.is_empty() {
                return Ok(merged);
            }
        }
    }

    /// As [`Store::keys`].
    pub fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let page = self.history.entries.keys(range, entries)?;
        if self.kept()?.before.is_empty() {
            return Ok(page);
        }
        let page = self.scan(range, Direction::Forward, PageLimit::entries(entries))?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// What a key held for this snapshot; `None`: it has not changed since.
    fn held<'a>(&self, held: &'a [(u64, Option<Vec<u8>>)]) -> Option<&'a Option<Vec<u8>>> {
        held.iter().find(|(commit, _)| *commit > self.at).map(|(_, value)| value)
    }

    /// A page as it was: what is kept of the stretch that it covers is laid over it, as much as the limit lets in.
    fn merge(
        &self,
        kept: &Kept,
        mut page: Vec<Entry>,
        covered: &KeyRange,
        direction: Direction,
        limit: PageLimit,
    ) -> Vec<Entry> {
        if store::is_empty(covered) {
            return page;
        }
        let mut held = kept.before.range::<Vec<u8>, _>((covered.0.as_ref(), covered.1.as_ref()));
        let mut changed: Vec<(&Vec<u8>, &Option<Vec<u8>>)> = Vec::new();
        let (mut entries, mut bytes) = (0, 0);
        loop {
            let next = match direction {
                Direction::Forward => held.next(),
                Direction::Backward => held.next_back(),
            };
            let Some((key, held)) = next else { break };
            let Some(value) = self.held(held) else { continue };
            if entries >= limit.entries || bytes >= limit.bytes.max(1) {
                // All may be kept: each page would go through what is left of it.
                page.retain(|(other, _)| match direction {
                    Direction::Forward => other < key,
                    Direction::Backward => other > key,
                });
                break;
            }
            if let Some(value) = value {
                entries += 1;
                bytes += key.len() + value.len();
            }
            changed.push((key, value));
        }
        if changed.is_empty() {
            return page;
        }
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = page.into_iter().collect();
        for (key, value) in changed {
            match value {
                Some(value) => drop(merged.insert(key.clone(), value.clone())),
                None => drop(merged.remove(key)),
            }
        }
        let mut merged: Vec<Entry> = match direction {
            Direction::Forward => merged.into_iter().collect(),
            Direction::Backward => merged.into_iter().rev().collect(),
        };
        merged.truncate(limit.entries);
        merged
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::Memory;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn history() -> Arc<History> {
        let entries = Packed::new(Arc::new(Memory::new()), Vec::new(), Room::default());
        Arc::new(History::new(entries, Room::default()))
    }

    /// Writes of one commit, or a reader that begins, reads a page or ends.
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
        /// Each reader sees, page by page and in either direction, the map as it was when it began.
        #[test]
        fn readers_see_the_moment_they_began(steps in proptest::collection::vec(step(), 1..60)) {
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
    fn readers_are_given_up_and_not_lied_to_when_too_much_changes() {
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

    /// Somebody begins to read while a commit to the store is under way.
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
    fn who_begins_to_read_while_all_is_removed_is_broken_off() {
        let store = Arc::new(Interrupted::default());
        let history = Arc::new(History::new(Packed::new(store.clone(), vec![1], Room::default()), Room::default()));
        let mut batch = Batch::new();
        batch.put(vec![1, 1], vec![1]);
        history.commit(batch, |_| true).unwrap();
        *store.history.lock() = Some(history.clone());
        history.clear().unwrap();
        let reader = store.began.lock().pop().unwrap();
        let all = keys::prefix(&[1]);
        assert!(reader.scan(&all, Direction::Forward, PageLimit::entries(9)).is_err());
        drop(reader);
        assert!(history.begin().scan(&all, Direction::Forward, PageLimit::entries(9)).unwrap().is_empty());
    }

    /// Each page takes what it needs of what is kept, and no more.
    #[test]
    fn all_rows_may_go_while_they_are_read() {
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
}
