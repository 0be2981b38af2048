//! Snapshots of an index: a reader sees the index in the state at which it began, whatever is committed
//! meanwhile.
//!
//! The layers below provide no snapshot across pages, and a slow client may read a query for minutes. Without
//! a snapshot, a document whose row moves during the query could be missed (it moves to a part already read)
//! or returned twice. If updates waited for readers, one slow client would block everybody. Therefore, while
//! there are readers, each commit adds the previous values of the keys it writes to an undo log, and readers
//! apply the undo log to what the store returns:
//!
//! ```text
//!                      keys   a    b    c    d
//!   a reader begins           1    2    –    4
//!   commit 1: a, c            9    2    3    4     undo log: before 1, a was 1; before 1, c was absent
//!   commit 2: a, d deleted    7    2    3    –     undo log: before 2, a was 9; before 2, d was 4
//!   the reader's page         1    2    –    4     for each key the value before the first later commit
//! ```
//!
//! Undo entries are removed when the last reader that needs them ends. The undo logs of all indexes together
//! take at most [`MOST`] bytes. Beyond that, the readers of the index that is being written are cancelled:
//! their responses are aborted, never wrong.
//!
//! Order: a commit first writes the undo log and then the entries; a reader first reads the entries and then
//! the undo log. So a page that contains parts of a concurrent commit is always corrected. The gate prevents
//! a reader from beginning between the two steps of a commit.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;

use super::lsm::{self, CROWDED, Packed, Room};
use crate::db::Database;
use crate::error::{Error, Result};
use crate::store::range::KeyRange;
use crate::store::{self, Batch, Direction, Entry, PageLimit, Store, keyspace};

/// Maximum size in bytes of the undo logs of all indexes.
const MOST: usize = 64 << 20;
/// Approximate memory of an undo entry beside its key and value, in bytes.
const BESIDE: usize = 64;

/// If this many indexes are in memory, those without readers or writers are dropped from memory.
const INDEXES: usize = 512;

/// Identifies an index: the number of its database and its signature.
pub type Name = (u64, [u8; 16]);

/// The indexes of a server with their undo logs, of views and of Mango. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct Histories {
    by_name: Arc<Mutex<HashMap<Name, Arc<History>>>>,
    /// Size in bytes of all undo logs.
    room: Room,
    /// Size in bytes of the entries that are not in the store yet.
    fresh: Room,
    /// When each index was last used. Recorded only if the databases are on a shared store.
    used: Arc<Mutex<HashMap<Name, Instant>>>,
}

impl Histories {
    /// The history of the index of a database with this signature; creates it if necessary.
    pub(crate) fn of(&self, database: &Database, signature: [u8; 16]) -> Arc<History> {
        let name = (database.number(), signature);
        if database.store().is_shared() {
            self.used.lock().insert(name, Instant::now());
        }
        let mut by_name = self.by_name.lock();
        if let Some(history) = by_name.get(&name) {
            return history.clone();
        }
        if by_name.len() >= INDEXES || self.fresh.load(Ordering::Relaxed) >= CROWDED {
            by_name.retain(|_, history| Arc::strong_count(history) > 1);
        }
        let prefix = keyspace::index_prefix(name.0, &name.1);
        let entries = Packed::new(database.index_store().clone(), prefix, database.index_owner(), self.fresh.clone());
        let history = Arc::new(History::new(entries, self.room.clone()));
        by_name.insert(name, history.clone());
        history
    }

    /// When an index was used last since the server started.
    pub(crate) fn used(&self, name: &Name) -> Option<Instant> {
        self.used.lock().get(name).copied()
    }

    /// Removes the times of last use of indexes that no longer exist.
    pub(crate) fn retain_used(&self, exists: impl Fn(&Name) -> bool) {
        self.used.lock().retain(|name, _| exists(name));
    }

    /// Removes all indexes from `store`, and aborts their queries.
    pub(crate) fn remove_all(&self, store: &dyn Store) -> store::Result<()> {
        let known: Vec<_> = self.by_name.lock().values().cloned().collect();
        known.iter().try_for_each(|history| history.clear())?;
        lsm::remove(store, &keyspace::all_indexes())
    }

    /// Removes the index whose keys have this prefix, and aborts its queries.
    pub(crate) fn remove(&self, store: &dyn Store, prefix: &[u8]) -> store::Result<()> {
        let named = |(number, signature): &Name| keyspace::index_prefix(*number, signature) == prefix;
        let known = self.by_name.lock().iter().find(|(name, _)| named(name)).map(|(_, history)| history.clone());
        match known {
            Some(history) => history.clear(),
            None => lsm::remove(store, &keyspace::prefix(prefix)),
        }
    }
}

/// Undo log of one key: (commit number, previous value), oldest first.
type Held = Vec<(u64, Option<Vec<u8>>)>;

/// The entries of an index, and the undo log of the commits that its readers must not see.
#[derive(Debug)]
pub(crate) struct History {
    entries: Packed,
    /// Held during each commit, and while a reader begins.
    gate: Mutex<()>,
    kept: Mutex<Kept>,
    room: Room,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of commits so far.
    commits: u64,
    /// Number of readers by the number of commits before they began.
    readers: BTreeMap<u64, usize>,
    /// The undo logs by key.
    before: BTreeMap<Vec<u8>, Held>,
    bytes: usize,
    /// Readers that began before this number of commits cannot be served any more.
    lost: u64,
}

impl Kept {
    /// Removes the undo entries that no reader needs. Returns their size in bytes.
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

    /// Cancels all current readers. Returns the size of the removed undo entries.
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

    /// The current entries.
    pub fn entries(&self) -> &Packed {
        &self.entries
    }

    /// Begins a snapshot. May wait for one commit.
    pub fn begin(self: &Arc<History>) -> Snapshot {
        let _gate = self.gate.lock();
        let mut kept = self.kept.lock();
        let at = kept.commits;
        *kept.readers.entry(at).or_default() += 1;
        Snapshot { history: self.clone(), at, generation: self.entries.generation() }
    }

    /// Commits a batch. `is_read` returns whether readers look at a key.
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
                    tracing::warn!("queries are aborted: too much of their index changed while they were read");
                }
            }
        }
        self.entries.commit(batch)
    }

    /// Removes all entries, and cancels all readers.
    pub fn clear(&self) -> store::Result<()> {
        self.give_up();
        let cleared = self.entries.clear();
        // A reader that began meanwhile may have read entries before they were removed.
        self.give_up();
        cleared
    }

    /// Cancels all readers.
    fn give_up(&self) {
        let _gate = self.gate.lock();
        let mut kept = self.kept.lock();
        kept.commits += 1;
        let less = kept.lose();
        self.room.fetch_sub(less, Ordering::Relaxed);
    }
}

/// An index in the state of one moment. Dropping it releases the undo entries that only it needed.
#[derive(Debug)]
pub(crate) struct Snapshot {
    history: Arc<History>,
    /// Number of commits that it sees.
    at: u64,
    /// The store's generation when it began.
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
    /// The undo log, if this snapshot can still be served.
    fn kept(&self) -> Result<parking_lot::MutexGuard<'_, Kept>> {
        let kept = self.history.kept.lock();
        if self.at < kept.lost || self.generation != self.history.entries.generation() {
            return Err(Error::Internal("an index changed too much while it was read".into()));
        }
        Ok(kept)
    }

    /// Like [`Store::get_many`].
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

    /// Like [`Store::scan`].
    pub fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut range = range.clone();
        loop {
            let page = self.history.entries.scan(&range, direction, limit)?;
            let kept = self.kept()?;
            if kept.before.is_empty() {
                return Ok(page);
            }
            // The range that the page covers: up to its last key, or all of it if the page is empty.
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

    /// Like [`Store::keys`].
    pub fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let page = self.history.entries.keys(range, entries)?;
        if self.kept()?.before.is_empty() {
            return Ok(page);
        }
        let page = self.scan(range, Direction::Forward, PageLimit::entries(entries))?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// The value of a key in this snapshot according to its undo log; `None` if it has not changed since.
    fn held<'a>(&self, held: &'a [(u64, Option<Vec<u8>>)]) -> Option<&'a Option<Vec<u8>>> {
        held.iter().find(|(commit, _)| *commit > self.at).map(|(_, value)| value)
    }

    /// Applies the undo log of the covered range to a page, as far as the limit allows.
    fn merge(
        &self,
        kept: &Kept,
        mut page: Vec<Entry>,
        covered: &KeyRange,
        direction: Direction,
        limit: PageLimit,
    ) -> Vec<Entry> {
        if crate::store::range::is_empty(covered) {
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
                // The undo log may hold the whole range; without this limit, each page would walk the rest of
                // it.
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
mod tests;
