//! An ordered map for one index, as a log-structured merge tree (O'Neil et al. 1996): new entries are in a
//! memtable, the rest is in the store, in blocks of about a hundred entries.
//!
//! An index has one row and one reference per document, in an order unrelated to the order of the changes.
//! Writing each entry to the engine separately would spend most of a build's time on finding the entry's
//! place. Therefore entries are collected in memory, in order (the *fresh* entries: the memtable). When there
//! are many, they are written to the store as a *run*, a sequence of blocks; and when there are several runs,
//! they are merged.
//!
//! ```text
//! fresh        in memory: the newest entries (the memtable)
//! run n        prefix b, run(4), first key    a block: the entries up to the next block's key (see `block`)
//! ...          the runs in the list, newest last; if several hold a key, the newest wins
//! run 1
//! list         prefix l                       version, then for each run its number and its size in bytes
//! ```
//!
//! Commits are atomic but not synced. After a crash the index is in the state of its last run, including the
//! progress stored with it, and the missing changes are indexed again. The same holds if the engine had to be
//! reopened (see [`Store::generation`]): the memtable is dropped then.
//!
//! Readers continue while a run is written or runs are merged: only the switch to the new list takes the lock
//! that readers hold while they read a page. Merges, which may take long, also let commits continue. Runs
//! that are not in the list are left over from a crash; they are removed before the next run is written.
//!
//! Written by hand because the crates for such trees manage their own files. This one keeps its runs in the store,
//! so that an index has the store's encryption, checksums and space limits, and works on both embedded engines.

pub(crate) mod block;
pub(crate) mod merged;
pub(crate) mod run;
pub(crate) mod upkeep;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::merged::{Fresh, Merged, Source};
use self::run::{Cursor, Lookup};
use crate::db::codec::{Reader, Writer};
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Durability, Entry, PageLimit, Result, Store, StoreError, keyspace};

const VERSION: u8 = 1;
const BLOCKS: u8 = b'b';
const LIST: u8 = b'l';

/// If the fresh entries of all indexes together reach this size in bytes, each index may keep fewer of them.
pub(crate) const CROWDED: usize = 64 << 20;
/// Approximate memory of an entry beside its key and value, in bytes.
const BESIDE: usize = 96;
/// Number of entries removed per commit.
const REMOVED_AT_ONCE: usize = 1000;

/// Total size in bytes of the fresh entries of all indexes of a server.
pub(crate) type Room = Arc<AtomicUsize>;

/// The entries of one index. At most one instance may exist per prefix.
pub(crate) struct Packed {
    store: Arc<dyn Store>,
    /// Prefix of the keys of its entries, and of its blocks in the store.
    prefix: Vec<u8>,
    /// The stored entry of the database, which must exist when a run is written. Otherwise a build could write a
    /// run after the removal of the database has already removed this index, and nothing would remove the run.
    owner: Option<Entry>,
    room: Room,
    /// Held while the stored runs change: while a run is written or runs are merged.
    writing: Mutex<()>,
    /// Held while the fresh entries change: during a commit, and while they are written as a run. Taken after
    /// `writing`.
    committing: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// The store's generation from which the other fields were read; `None` if nothing was read yet.
    generation: Option<u64>,
    /// The list of runs as stored.
    list: Option<Vec<u8>>,
    /// Newest last.
    runs: Vec<Run>,
    /// Whether the store contains no runs other than those in the list.
    tidy: bool,
    /// The memtable: the newest entries by key, without the prefix; `None` is a tombstone.
    fresh: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Memory that the fresh entries take, in bytes.
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    number: u32,
    /// Total size of its blocks.
    bytes: u64,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Packed").field("prefix", &crate::hex::hex(&self.prefix)).finish_non_exhaustive()
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.room.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// Like the functions of [`Store`]; keys include the prefix of the index.
impl Packed {
    pub(crate) fn new(store: Arc<dyn Store>, prefix: Vec<u8>, owner: Option<Entry>, room: Room) -> Packed {
        let (writing, committing, state) = (Mutex::default(), Mutex::default(), RwLock::default());
        Packed { store, prefix, owner, room, writing, committing, state }
    }

    /// Changes whenever committed entries may have been lost.
    pub fn generation(&self) -> u64 {
        self.store.generation()
    }

    pub fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let state = self.state()?;
        let values = self.values(&state, keys)?;
        self.unchanged(&state)?;
        Ok(values)
    }

    pub fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut page = Vec::new();
        let mut bytes = 0;
        self.visit(range, direction, &mut |key, value| {
            let key = [&self.prefix[..], key].concat();
            bytes += key.len() + value.len();
            page.push((key, value.to_vec()));
            page.len() < limit.entries && bytes < limit.bytes
        })?;
        Ok(page)
    }

    pub fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let mut page = Vec::new();
        if entries > 0 {
            self.visit(range, Direction::Forward, &mut |key, _| {
                page.push([&self.prefix[..], key].concat());
                page.len() < entries
            })?;
        }
        Ok(page)
    }

    /// Keys that split a range into parts of about `bytes` bytes, according to the largest run; at most
    /// `most`.
    pub fn cuts(&self, range: &KeyRange, bytes: u64, most: usize) -> Result<Vec<Vec<u8>>> {
        let state = self.state()?;
        let Some(run) = state.runs.iter().max_by_key(|run| run.bytes) else { return Ok(Vec::new()) };
        let inner = (self.inner(&range.0), self.inner(&range.1));
        let share = usize::try_from(bytes * run.bytes / state.runs.iter().map(|run| run.bytes).sum::<u64>().max(1));
        let cuts = self::run::cuts(&*self.store, &self.base(run.number), &inner, share.unwrap_or(usize::MAX), most)?;
        self.unchanged(&state)?;
        Ok(cuts.into_iter().map(|key| [&self.prefix[..], &key].concat()).collect())
    }

    /// Passes the entries of a range (keys without the prefix) to `hand_over` until it returns `false`.
    fn visit(
        &self,
        range: &KeyRange,
        direction: Direction,
        hand_over: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let range = (self.inner(&range.0), self.inner(&range.1));
        if crate::store::range::is_empty(&range) {
            return Ok(());
        }
        let state = self.state()?;
        let mut merged = self.merged(&state, &range, direction)?;
        while let Some((key, value)) = merged.peek() {
            if value.is_some_and(|value| !hand_over(key, value)) {
                break;
            }
            merged.advance()?;
        }
        drop(merged);
        self.unchanged(&state)
    }

    /// Applies a batch atomically. Not durable when it returns.
    ///
    /// # Errors
    /// `Conflict` if an expectation does not hold.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        let _committing = self.committing.lock();
        {
            let state = self.state()?;
            let (expected, values): (Vec<_>, Vec<_>) = batch.expect.into_iter().unzip();
            if self.values(&state, &expected)? != values {
                return Err(StoreError::Conflict);
            }
        }
        let mut state = self.state.write();
        if state.generation != Some(self.store.generation()) {
            return Err(StoreError::Conflict);
        }
        let before = state.bytes;
        for (mut key, value) in batch.writes {
            key.drain(..self.prefix.len());
            let size = key.len() + BESIDE;
            let more = size + value.as_ref().map_or(0, Vec::len);
            let old = if value.is_none() && state.runs.is_empty() {
                // No older entry exists, so no tombstone is needed.
                state.fresh.remove(&key)
            } else {
                state.bytes += more;
                state.fresh.insert(key, value)
            };
            if let Some(old) = old {
                state.bytes -= size + old.map_or(0, |old| old.len());
            }
        }
        self.account(before, state.bytes);
        Ok(())
    }

    /// Size in bytes of the entries in the store and in memory.
    pub fn bytes(&self) -> Result<u64> {
        let state = self.state()?;
        Ok(state.runs.iter().map(|run| run.bytes).sum::<u64>() + state.bytes as u64)
    }

    /// Removes all entries.
    pub fn clear(&self) -> Result<()> {
        let _writing = self.writing.lock();
        let _committing = self.committing.lock();
        let generation = self.store.generation();
        {
            // The list is removed first: without it the blocks are meaningless.
            let mut state = self.state.write();
            let mut batch = Batch { durability: Durability::Relaxed, frees: true, ..Batch::new() };
            batch.delete(self.list_key());
            self.store.commit(batch)?;
            self.account(state.bytes, 0);
            *state = State { generation: Some(generation), ..State::default() };
        }
        remove(&*self.store, &keyspace::prefix(&self.prefix))?;
        self.state.write().tidy = true;
        Ok(())
    }

    fn account(&self, before: usize, after: usize) {
        self.room.fetch_add(after, Ordering::Relaxed);
        self.room.fetch_sub(before, Ordering::Relaxed);
    }

    fn list_key(&self) -> Vec<u8> {
        [&self.prefix[..], &[LIST]].concat()
    }

    /// Prefix of the store's keys of a run's blocks.
    fn base(&self, run: u32) -> Vec<u8> {
        [&self.prefix[..], &[BLOCKS], &run.to_be_bytes()].concat()
    }

    /// A bound of a caller's range without the prefix.
    fn inner(&self, bound: &Bound<Vec<u8>>) -> Bound<Vec<u8>> {
        // Treats a bound without the prefix as unbounded: callers use such bounds only for the ends of the index.
        let inner = |key: &Vec<u8>| key.strip_prefix(&self.prefix[..]).map(<[u8]>::to_vec);
        match bound {
            Bound::Included(key) => inner(key).map_or(Bound::Unbounded, Bound::Included),
            Bound::Excluded(key) => inner(key).map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded => Bound::Unbounded,
        }
    }

    /// Returns the state; loads it from the store if the store was reopened since the last load.
    fn state(&self) -> Result<RwLockReadGuard<'_, State>> {
        loop {
            let generation = self.store.generation();
            let state = self.state.read();
            if state.generation == Some(generation) {
                return Ok(state);
            }
            drop(state);
            let mut state = self.state.write();
            if state.generation != Some(generation) {
                let list = self.store.get(&self.list_key())?;
                let runs = list.as_deref().map(read_list).transpose()?.unwrap_or_default();
                self.account(state.bytes, 0);
                *state = State { generation: Some(generation), list, runs, ..State::default() };
            }
        }
    }

    /// Fails if the store was reopened since `state` was loaded.
    fn unchanged(&self, state: &State) -> Result<()> {
        if state.generation == Some(self.store.generation()) {
            return Ok(());
        }
        Err(opened_again())
    }

    fn values(&self, state: &State, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|one, two| keys[*one].cmp(&keys[*two]));
        let mut runs: Vec<Lookup> =
            state.runs.iter().rev().map(|run| Lookup::new(&*self.store, self.base(run.number))).collect();
        let mut values = vec![None; keys.len()];
        for at in order {
            let Some(key) = keys[at].strip_prefix(&self.prefix[..]) else { continue };
            if let Some(held) = state.fresh.get(key) {
                values[at].clone_from(held);
                continue;
            }
            for run in &mut runs {
                if let Some(held) = run.get(key)? {
                    values[at] = held.map(<[u8]>::to_vec);
                    break;
                }
            }
        }
        Ok(values)
    }

    /// Iterates over all entries of a range.
    fn merged<'a>(&'a self, state: &'a State, range: &'a KeyRange, direction: Direction) -> Result<Merged<'a>> {
        let all = state.fresh.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
        let mut sources = vec![Source::Fresh(Fresh::new(all, direction))];
        sources.append(&mut self.of_runs(&state.runs, range, direction)?);
        Ok(Merged::new(sources, direction))
    }

    /// Iterators over runs, newest first.
    fn of_runs<'a>(&'a self, runs: &[Run], range: &'a KeyRange, direction: Direction) -> Result<Vec<Source<'a>>> {
        let source = |run: &Run| {
            let cursor = Cursor::new(&*self.store, &self.base(run.number), range, direction)?;
            Ok(Source::Run(Box::new(cursor)))
        };
        runs.iter().rev().map(source).collect()
    }
}

/// The size in bytes of the stored runs of the index whose keys have this prefix.
pub(crate) fn stored_bytes(store: &dyn Store, prefix: &[u8]) -> Result<u64> {
    let list = store.get(&[prefix, &[LIST]].concat())?;
    let runs = list.map_or_else(|| Ok(Vec::new()), |list| read_list(&list))?;
    Ok(runs.iter().map(|run| run.bytes).sum())
}

/// Removes all entries of a range from the store, one page per commit.
pub(crate) fn remove(store: &dyn Store, range: &KeyRange) -> Result<()> {
    loop {
        let page = store.keys(range, REMOVED_AT_ONCE)?;
        if page.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { durability: Durability::Relaxed, frees: true, ..Batch::new() };
        page.into_iter().for_each(|key| batch.delete(key));
        store.commit(batch)?;
    }
}

fn opened_again() -> StoreError {
    StoreError::Unavailable("the store was reopened while an index was read".into())
}

fn write_list(runs: &[Run]) -> Vec<u8> {
    let mut out = Writer::version(VERSION);
    for run in runs {
        out.number(run.number.into());
        out.number(run.bytes);
    }
    out.0
}

fn read_list(value: &[u8]) -> Result<Vec<Run>> {
    let read = || {
        let mut reader = Reader::version(value, VERSION)?;
        let mut runs = Vec::new();
        while !reader.0.is_empty() {
            runs.push(Run { number: u32::try_from(reader.number()?).ok()?, bytes: reader.number()? });
        }
        Some(runs)
    };
    read().ok_or_else(|| StoreError::Damaged("the list of runs of an index".into()))
}

#[cfg(test)]
mod tests;
