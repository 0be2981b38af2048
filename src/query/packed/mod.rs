//! An ordered map for an index: what is new is in memory, the rest stands in the store in blocks of some hundred entries.
//!
//! An index has a row and a reference for each document, in an order that has nothing to do with that of the changes. Entry
//! by entry, an engine spends most of a build's time on finding the place of each. So entries are collected in
//! memory, in order; when there are many they are written to the store as a *run*, block behind block; and runs are
//! merged when there are several. (A log-structured merge tree: O'Neil et al. 1996.)
//!
//! ```text
//! fresh        in memory: the newest entries
//! run n        prefix b, run(4), first key    a block: the entries from there up to the next block (see `block`)
//! ...          runs of the list, the newest last; of a key the newest entry counts
//! run 1
//! list         prefix l                       version, then for each run its number and its bytes
//! ```
//!
//! Commits are atomic and never synced: after a crash the index stands where its last run was written, with the progress
//! that belongs to it, and what is missing is made again. That also holds when the engine had to be opened again (see
//! [`Store::generation`]): what was in memory is dropped then.
//!
//! A run is written, or a merge made, while readers go on: the list is changed under the lock that they hold while they
//! read a page. Merges, which may take long, let commits go on as well. Runs that the list does not name were left by a
//! crash, and are removed before the next is written.

mod block;
mod merged;
mod run;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::merged::{Fresh, Merged, Source};
use self::run::{Cursor, Lookup};
use crate::db::bytes::{Reader, Writer};
use crate::store::{self, Batch, Direction, Durability, Entry, KeyRange, PageLimit, Result, Store, StoreError, keys};

const VERSION: u8 = 1;
const BLOCKS: u8 = b'b';
const LIST: u8 = b'l';

/// Bytes of fresh entries of all indexes of a server from which on each keeps less.
pub(super) const CROWDED: usize = 64 << 20;
/// What an entry takes in memory beside its key and value, about.
const BESIDE: usize = 96;
/// Entries removed with one commit.
const REMOVED_AT_ONCE: usize = 1000;

/// Bytes of fresh entries of all indexes of a server.
pub(super) type Room = Arc<AtomicUsize>;

/// The entries of one index. There must be one of these at most for a prefix.
pub(super) struct Packed {
    store: Arc<dyn Store>,
    /// What the keys of its entries begin with, and those of its blocks in the store.
    prefix: Vec<u8>,
    room: Room,
    /// Held by who changes what is stored: while a run is written, or runs are merged.
    writing: Mutex<()>,
    /// Held by who changes what is fresh: a commit, and while that is written as a run. Taken after `writing`.
    committing: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// The generation of the store that the rest was read from; `None`: nothing has been read yet.
    generation: Option<u64>,
    /// The list of runs, as it is stored.
    list: Option<Vec<u8>>,
    /// The newest last.
    runs: Vec<Run>,
    /// Whether no run is in the store but those of the list.
    tidy: bool,
    /// The newest entries, by their keys without the prefix; `None`: removed.
    fresh: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What they take in memory.
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    number: u32,
    /// Of its blocks.
    bytes: u64,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Packed").field("prefix", &crate::json::hex(&self.prefix)).finish_non_exhaustive()
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.room.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// As [`Store`]'s, where keys have the prefix of the index.
impl Packed {
    pub(super) fn new(store: Arc<dyn Store>, prefix: Vec<u8>, room: Room) -> Packed {
        let (writing, committing, state) = (Mutex::default(), Mutex::default(), RwLock::default());
        Packed { store, prefix, room, writing, committing, state }
    }

    /// Moves when entries that were committed may be gone.
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

    /// Keys that cut a range into stretches of about so many bytes, as the largest run stands; the first `most`.
    pub fn cuts(&self, range: &KeyRange, bytes: u64, most: usize) -> Result<Vec<Vec<u8>>> {
        let state = self.state()?;
        let Some(run) = state.runs.iter().max_by_key(|run| run.bytes) else { return Ok(Vec::new()) };
        let inner = (self.inner(&range.0), self.inner(&range.1));
        let share = usize::try_from(bytes * run.bytes / state.runs.iter().map(|run| run.bytes).sum::<u64>().max(1));
        let cuts = run::cuts(&*self.store, &self.base(run.number), &inner, share.unwrap_or(usize::MAX), most)?;
        self.unchanged(&state)?;
        Ok(cuts.into_iter().map(|key| [&self.prefix[..], &key].concat()).collect())
    }

    /// Hands over the entries of a range, keys without the prefix, until it is told to stop.
    fn visit(
        &self,
        range: &KeyRange,
        direction: Direction,
        hand_over: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let range = (self.inner(&range.0), self.inner(&range.1));
        if store::is_empty(&range) {
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

    /// Applies a batch whole or not at all; it has no ranges to delete. Not on disk when it returns.
    ///
    /// # Errors
    /// `Conflict`: an expectation does not hold.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        debug_assert!(batch.delete_ranges.is_empty());
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
                // There is nothing older that would have to be hidden.
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

    /// Bytes that the entries take, in the store and in memory.
    pub fn bytes(&self) -> Result<u64> {
        let state = self.state()?;
        Ok(state.runs.iter().map(|run| run.bytes).sum::<u64>() + state.bytes as u64)
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<()> {
        let _writing = self.writing.lock();
        let _committing = self.committing.lock();
        let generation = self.store.generation();
        {
            // The list goes first: without it the rest is nothing.
            let mut state = self.state.write();
            let mut batch = Batch { durability: Durability::Relaxed, frees: true, ..Batch::new() };
            batch.delete(self.list_key());
            self.store.commit(batch)?;
            self.account(state.bytes, 0);
            *state = State { generation: Some(generation), ..State::default() };
        }
        remove(&*self.store, &keys::prefix(&self.prefix))?;
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

    /// What the keys of a run's blocks begin with.
    fn base(&self, run: u32) -> Vec<u8> {
        [&self.prefix[..], &[BLOCKS], &run.to_be_bytes()].concat()
    }

    /// A bound of a caller's range, without the prefix.
    fn inner(&self, bound: &Bound<Vec<u8>>) -> Bound<Vec<u8>> {
        // Without the prefix a bound is above or below all of the index: callers give no other.
        let inner = |key: &Vec<u8>| key.strip_prefix(&self.prefix[..]).map(<[u8]>::to_vec);
        match bound {
            Bound::Included(key) => inner(key).map_or(Bound::Unbounded, Bound::Included),
            Bound::Excluded(key) => inner(key).map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded => Bound::Unbounded,
        }
    }

    /// The state, read from the store if it has not been since that was opened.
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

    /// That the store was not opened again while it was read.
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

    /// All that is in a range, as it stands.
    fn merged<'a>(&'a self, state: &'a State, range: &'a KeyRange, direction: Direction) -> Result<Merged<'a>> {
        let all = state.fresh.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
        let mut sources = vec![Source::Fresh(Fresh::new(all, direction))];
        sources.append(&mut self.of_runs(&state.runs, range, direction)?);
        Ok(Merged::new(sources, direction))
    }

    /// The newest first.
    fn of_runs<'a>(&'a self, runs: &[Run], range: &'a KeyRange, direction: Direction) -> Result<Vec<Source<'a>>> {
        let source = |run: &Run| {
            let cursor = Cursor::new(&*self.store, &self.base(run.number), range, direction)?;
            Ok(Source::Run(Box::new(cursor)))
        };
        runs.iter().rev().map(source).collect()
    }
}

/// Removes all entries of a range of the store, a page at a time.
pub(super) fn remove(store: &dyn Store, range: &KeyRange) -> Result<()> {
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
    StoreError::Unavailable("the store was opened again while an index was read".into())
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
