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
//! read a page. Runs that the list does not name were left by a crash, and are removed before the next is written.

mod block;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use self::block::Held;
use self::run::{Cursor, Lookup, Writing};
use crate::db::bytes::{Reader, Writer};
use crate::store::{Batch, Direction, Durability, Entry, KeyRange, PageLimit, Result, Store, StoreError, keys};

const VERSION: u8 = 1;
const BLOCKS: u8 = b'b';
const LIST: u8 = b'l';

/// Bytes of fresh entries at which a run is written while an index is updated.
const FULL: usize = 16 << 20;
/// The same once the fresh entries of all indexes together reach [`CROWDED`].
const FULL_IN_A_CROWD: usize = 1 << 20;
/// Bytes of fresh entries of all indexes of a server from which on each keeps less.
pub(super) const CROWDED: usize = 64 << 20;
/// Bytes of fresh entries that may stay in memory when an update has ended.
const KEPT: usize = 1 << 20;
/// What an entry takes in memory beside its key and value, about.
const BESIDE: usize = 96;
/// Runs of similar size that are merged when an update has ended, and runs at most while it goes on.
const MERGED: usize = 6;
const MOST_RUNS: usize = 24;
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
    /// Held by who changes anything: a commit, a run being written, a merge.
    writing: Mutex<()>,
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
        Packed { store, prefix, room, writing: Mutex::default(), state: RwLock::default() }
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

    /// Hands over the entries of a range, keys without the prefix, until it is told to stop.
    fn visit(
        &self,
        range: &KeyRange,
        direction: Direction,
        hand_over: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let range = (self.inner(&range.0), self.inner(&range.1));
        if is_empty(&range) {
            return Ok(());
        }
        let state = self.state()?;
        let mut merged = self.merged(&state, &state.runs, true, &range, direction)?;
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
        let _writing = self.writing.lock();
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

    /// Writes a run if many entries are in memory: for the midst of an update.
    pub fn relieve(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.or_forget(self.relieved())
    }

    fn relieved(&self) -> Result<()> {
        let bytes = self.state()?.bytes;
        if bytes < FULL && (bytes < FULL_IN_A_CROWD || self.room.load(Ordering::Relaxed) < CROWDED) {
            return Ok(());
        }
        self.write_run()?;
        while self.state()?.runs.len() > MOST_RUNS {
            let from = self.similar(2);
            self.merge(from)?;
        }
        Ok(())
    }

    /// Leaves the index so that a crash costs little, and readers do not have to look into many runs: when an update
    /// has ended.
    pub fn rest(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.or_forget(self.rested())
    }

    fn rested(&self) -> Result<()> {
        let (fresh, stored) = {
            let state = self.state()?;
            (state.bytes, state.runs.iter().map(|run| run.bytes).sum::<u64>())
        };
        if fresh < KEPT && fresh as u64 <= stored / 4 && self.room.load(Ordering::Relaxed) < CROWDED / 2 {
            return Ok(());
        }
        self.write_run()?;
        let (first, others) = {
            let state = self.state()?;
            (state.runs.first().map_or(0, |run| run.bytes), state.runs.iter().skip(1).map(|run| run.bytes).sum::<u64>())
        };
        if others > first / 4 {
            return self.merge(0);
        }
        let from = self.similar(1);
        if self.state()?.runs.len() - from >= MERGED {
            self.merge(from)?;
        }
        Ok(())
    }

    /// Makes one run of everything.
    pub fn compact(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.or_forget(self.write_run().and_then(|()| self.merge(0)))
    }

    /// Bytes that the entries take, in the store and in memory.
    pub fn bytes(&self) -> Result<u64> {
        let state = self.state()?;
        Ok(state.runs.iter().map(|run| run.bytes).sum::<u64>() + state.bytes as u64)
    }

    /// Somebody else has changed or removed what is stored: what is in memory does not belong to it any more.
    fn or_forget(&self, result: Result<()>) -> Result<()> {
        if result == Err(StoreError::Conflict) {
            self.state.write().generation = None;
            return Ok(());
        }
        result
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<()> {
        let _writing = self.writing.lock();
        let generation = self.store.generation();
        {
            // The list goes first: without it the rest is nothing.
            let mut state = self.state.write();
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
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
        Err(StoreError::Unavailable("the store was opened again while an index was read".into()))
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

    fn merged<'a>(
        &'a self,
        state: &'a State,
        runs: &[Run],
        with_fresh: bool,
        range: &'a KeyRange,
        direction: Direction,
    ) -> Result<Merged<'a>> {
        let mut sources = Vec::with_capacity(runs.len() + 1);
        if with_fresh {
            let all = state.fresh.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
            sources.push(Source::Fresh(Fresh::new(all, direction)));
        }
        for run in runs.iter().rev() {
            sources.push(Source::Run(Box::new(Cursor::new(&*self.store, &self.base(run.number), range, direction)?)));
        }
        let mut merged = Merged { sources, direction, first: None };
        merged.choose();
        Ok(merged)
    }

    /// Writes the fresh entries as a run.
    fn write_run(&self) -> Result<()> {
        self.tidy()?;
        let state = self.state()?;
        if state.fresh.is_empty() {
            return Ok(());
        }
        let number = state.runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
        let mut writing = Writing::new(&*self.store, self.base(number), (self.list_key(), state.list.clone()));
        for (key, value) in &state.fresh {
            writing.push(key, value.as_deref())?;
        }
        let run = Run { number, bytes: writing.finish()? };
        let runs = [&state.runs[..], &[run]].concat();
        drop(state);
        self.replace(runs, true)
    }

    /// Merges the runs from the one at `from` on into one.
    fn merge(&self, from: usize) -> Result<()> {
        self.tidy()?;
        let state = self.state()?;
        let old = state.runs[from..].to_vec();
        if old.len() < 2 {
            return Ok(());
        }
        let number = state.runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
        let mut writing = Writing::new(&*self.store, self.base(number), (self.list_key(), state.list.clone()));
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let mut merged = self.merged(&state, &old, false, &everything, Direction::Forward)?;
        while let Some((key, value)) = merged.peek() {
            // A removed key need not be told of where there is nothing older.
            if from > 0 || value.is_some() {
                writing.push(key, value)?;
            }
            merged.advance()?;
        }
        drop(merged);
        let mut runs = state.runs[..from].to_vec();
        let bytes = writing.finish()?;
        if bytes > 0 {
            runs.push(Run { number, bytes });
        }
        self.unchanged(&state)?;
        drop(state);
        self.replace(runs, false)?;
        for run in old {
            remove(&*self.store, &keys::prefix(&self.base(run.number)))?;
        }
        self.state.write().tidy = true;
        Ok(())
    }

    /// Commits another list of runs, into which the fresh entries have gone or not.
    fn replace(&self, runs: Vec<Run>, with_fresh: bool) -> Result<()> {
        let mut state = self.state.write();
        let key = self.list_key();
        let list = write_list(&runs);
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        batch.expect(key.clone(), state.list.clone());
        batch.put(key, list.clone());
        // Until it is known that nothing was left behind.
        state.tidy = with_fresh;
        self.store.commit(batch).inspect_err(|_| state.tidy = false)?;
        state.list = Some(list);
        state.runs = runs;
        if with_fresh {
            self.account(state.bytes, 0);
            (state.fresh, state.bytes) = (BTreeMap::new(), 0);
        }
        Ok(())
    }

    /// Removes what stands in the store of runs that the list does not name; they would get into the next one.
    fn tidy(&self) -> Result<()> {
        let runs = {
            let state = self.state()?;
            if state.tidy {
                drop(state);
                // What is written now is untidy until the list names it.
                self.state.write().tidy = false;
                return Ok(());
            }
            state.runs.clone()
        };
        let (mut low, high) = keys::prefix(&[&self.prefix[..], &[BLOCKS]].concat());
        let length = self.base(0).len();
        loop {
            let next = self.store.keys(&(low, high.clone()), 1)?;
            let Some(base) = next.first().and_then(|key| key.get(..length)) else { return Ok(()) };
            let number = base.last_chunk().map(|number| u32::from_be_bytes(*number));
            if !runs.iter().any(|run| Some(run.number) == number) {
                remove(&*self.store, &keys::prefix(base))?;
            }
            low = match keys::after_prefix(base) {
                Bound::Excluded(end) => Bound::Included(end),
                _ => return Ok(()),
            };
        }
    }

    /// Where the newest runs begin that are not smaller, each, than the newer ones together; at least `least` of them.
    fn similar(&self, least: usize) -> usize {
        let state = self.state.read();
        let mut from = state.runs.len().saturating_sub(least);
        let mut together: u64 = state.runs[from..].iter().map(|run| run.bytes).sum();
        while from > 0 && state.runs[from - 1].bytes <= 2 * together {
            from -= 1;
            together += state.runs[from].bytes;
        }
        from
    }
}

/// Removes all entries of a range of the store, a page at a time.
pub(super) fn remove(store: &dyn Store, range: &KeyRange) -> Result<()> {
    loop {
        let page = store.keys(range, REMOVED_AT_ONCE)?;
        if page.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        page.into_iter().for_each(|key| batch.delete(key));
        store.commit(batch)?;
    }
}

/// Whether no key can be in a range.
pub(super) fn is_empty((low, high): &KeyRange) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
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

/// Goes through the fresh entries of a range.
struct Fresh<'a> {
    left: btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>,
    direction: Direction,
    at: Option<(&'a [u8], Held<'a>)>,
}

impl<'a> Fresh<'a> {
    fn new(left: btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>, direction: Direction) -> Fresh<'a> {
        let mut fresh = Fresh { left, direction, at: None };
        fresh.advance();
        fresh
    }

    fn advance(&mut self) {
        let next = match self.direction {
            Direction::Forward => self.left.next(),
            Direction::Backward => self.left.next_back(),
        };
        self.at = next.map(|(key, value)| (&key[..], value.as_deref()));
    }
}

enum Source<'a> {
    Fresh(Fresh<'a>),
    Run(Box<Cursor<'a>>),
}

impl Source<'_> {
    fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        match self {
            Source::Fresh(fresh) => fresh.at,
            Source::Run(cursor) => cursor.peek(),
        }
    }

    fn advance(&mut self) -> Result<()> {
        match self {
            Source::Fresh(fresh) => fresh.advance(),
            Source::Run(cursor) => cursor.advance()?,
        }
        Ok(())
    }
}

/// Goes through several sources at once; of a key only the newest entry is seen.
struct Merged<'a> {
    /// The newest first.
    sources: Vec<Source<'a>>,
    direction: Direction,
    /// Which source has the entry that comes first.
    first: Option<usize>,
}

impl Merged<'_> {
    fn choose(&mut self) {
        let mut first: Option<(usize, &[u8])> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some((key, _)) = source.peek() else { continue };
            let is_first = first.is_none_or(|(_, other)| match self.direction {
                Direction::Forward => key < other,
                Direction::Backward => key > other,
            });
            if is_first {
                first = Some((at, key));
            }
        }
        self.first = first.map(|(at, _)| at);
    }

    fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        self.sources[self.first?].peek()
    }

    fn advance(&mut self) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        // Older entries of the same key go with it.
        let (newer, older) = self.sources.split_at_mut(first + 1);
        if let Some((key, _)) = newer[first].peek() {
            for source in older {
                if source.peek().is_some_and(|(other, _)| other == key) {
                    source.advance()?;
                }
            }
        }
        newer[first].advance()?;
        self.choose();
        Ok(())
    }
}
