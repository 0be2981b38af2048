//! Maintenance of an index: writes, merges and removes runs. One task at a time, concurrently with readers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use super::merged::Merged;
use super::run::Writing;
use super::{BLOCKS, CROWDED, Packed, Run, opened_again, remove, write_list};
use crate::store::{Batch, Direction, Durability, Entry, Result, StoreError, keyspace};

/// Size in bytes of the fresh entries at which a run is written during an update.
pub(crate) const FULL: usize = 16 << 20;
/// The same limit once the fresh entries of all indexes together reach [`CROWDED`].
const FULL_IN_A_CROWD: usize = 1 << 20;
/// Size in bytes of the fresh entries that may stay in memory after an update.
const KEPT: usize = 1 << 20;
/// Number of runs of similar size that are merged after an update, and maximum number of runs during one.
pub(crate) const MERGED: usize = 6;
const MOST_RUNS: usize = 24;
/// Total size in bytes up to which newer runs are not merged merely to reclaim the space of overwritten
/// entries.
const SMALL: u64 = 1 << 20;

impl Packed {
    /// Writes a run if many entries are in memory. Called during an update.
    pub fn relieve(&self) -> Result<()> {
        let bytes = self.state()?.bytes;
        if bytes < FULL && (bytes < FULL_IN_A_CROWD || self.room.load(Ordering::Relaxed) < CROWDED) {
            return Ok(());
        }
        let _writing = self.writing.lock();
        self.or_forget(self.relieved())
    }

    fn relieved(&self) -> Result<()> {
        self.write_run()?;
        while self.state()?.runs.len() > MOST_RUNS {
            let from = self.similar(2);
            self.merge(from)?;
        }
        Ok(())
    }

    /// Writes a run if a crash would otherwise lose much work. Called after an update; see [`Packed::tend`].
    /// Does nothing while runs are being merged; a later update then writes the run.
    pub fn rest(&self) -> Result<()> {
        let (fresh, stored) = {
            let state = self.state()?;
            (state.bytes, state.runs.iter().map(|run| run.bytes).sum::<u64>())
        };
        if fresh < KEPT && fresh as u64 <= stored / 4 && self.room.load(Ordering::Relaxed) < CROWDED / 2 {
            return Ok(());
        }
        let Some(_writing) = self.writing.try_lock() else { return Ok(()) };
        self.or_forget(self.write_run())
    }

    /// Whether there are more runs than readers should have to search.
    pub fn needs_tending(&self) -> bool {
        self.merged_from().is_some()
    }

    /// Merges runs if there are too many. Called in the background; readers continue. Does nothing if another
    /// task is writing.
    pub fn tend(&self) -> Result<()> {
        if let Some(_writing) = self.writing.try_lock()
            && let Some(from) = self.merged_from()
        {
            self.or_forget(self.merge(from))?;
        }
        // Writes what was committed during the merge.
        self.rest()
    }

    /// The position from which on the runs should be merged; `None` if no merge is needed.
    fn merged_from(&self) -> Option<usize> {
        let (first, others, runs) = {
            let state = self.state.read();
            let bytes = |run: &Run| run.bytes;
            (state.runs.first().map_or(0, bytes), state.runs.iter().skip(1).map(bytes).sum::<u64>(), state.runs.len())
        };
        if others > SMALL.max(first / 4) {
            return Some(0);
        }
        let from = self.similar(1);
        (runs - from >= MERGED).then_some(from)
    }

    /// Merges all entries into one run.
    pub fn compact(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.or_forget(self.write_run().and_then(|()| self.merge(0)))
    }

    /// On a conflict, another writer has changed or removed the stored index: drops the state in memory,
    /// which is stale.
    fn or_forget(&self, result: Result<()>) -> Result<()> {
        if result == Err(StoreError::Conflict) {
            self.state.write().generation = None;
            return Ok(());
        }
        result
    }

    /// Writes the fresh entries as a new run.
    pub(crate) fn write_run(&self) -> Result<()> {
        self.tidy()?;
        let _committing = self.committing.lock();
        let state = self.state()?;
        if state.fresh.is_empty() {
            return Ok(());
        }
        let number = state.runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
        let mut writing = Writing::new(&*self.store, self.base(number), self.expects(&state.list));
        for (key, value) in &state.fresh {
            writing.push(key, value.as_deref())?;
        }
        let Some((bytes, last)) = writing.finish()? else { return Ok(()) };
        let runs = [&state.runs[..], &[Run { number, bytes }]].concat();
        let before = state.list.clone();
        drop(state);
        self.replace(before, runs, Some(last), true)
    }

    /// Merges the runs from position `from` on into one.
    pub(crate) fn merge(&self, from: usize) -> Result<()> {
        self.tidy()?;
        let (generation, list, runs) = {
            let state = self.state()?;
            (state.generation, state.list.clone(), state.runs.clone())
        };
        let (kept, old) = runs.split_at(from.min(runs.len()));
        if old.len() < 2 {
            return Ok(());
        }
        let number = runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
        let mut writing = Writing::new(&*self.store, self.base(number), self.expects(&list));
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let mut merged = Merged::new(self.of_runs(old, &everything, Direction::Forward)?, Direction::Forward);
        while let Some((key, value)) = merged.peek() {
            // With no older runs, tombstones are not needed.
            if from > 0 || value.is_some() {
                writing.push(key, value)?;
            }
            merged.advance()?;
        }
        let mut runs = kept.to_vec();
        let last = writing.finish()?.map(|(bytes, last)| {
            runs.push(Run { number, bytes });
            last
        });
        if generation != Some(self.store.generation()) {
            return Err(opened_again());
        }
        self.replace(list, runs, last, false)?;
        for run in old {
            remove(&*self.store, &keyspace::prefix(&self.base(run.number)))?;
        }
        self.state.write().tidy = true;
        Ok(())
    }

    /// What commits of runs expect: the list, and the owner of the index.
    fn expects(&self, list: &Option<Vec<u8>>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let owner = self.owner.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        owner.chain([(self.list_key(), list.clone())]).collect()
    }

    /// Commits a new list of runs in place of `before`. `with_fresh` says whether the new runs include the
    /// fresh entries. `last` is the last block of the new run (see `Writing`).
    fn replace(&self, before: Option<Vec<u8>>, runs: Vec<Run>, last: Option<Entry>, with_fresh: bool) -> Result<()> {
        let mut state = self.state.write();
        let key = self.list_key();
        let list = write_list(&runs);
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        for (key, value) in self.expects(&before) {
            batch.expect(key, value);
        }
        if let Some((key, block)) = last {
            batch.expect(key, Some(block));
        }
        batch.put(key, list.clone());
        // After a merge the old runs still have to be removed.
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

    /// Removes runs from the store that are not in the list: their blocks would mix with those of the next
    /// run of the same number.
    pub(crate) fn tidy(&self) -> Result<()> {
        let runs = {
            let state = self.state()?;
            if state.tidy {
                drop(state);
                // Until the list contains the run that is written next, the store is untidy.
                self.state.write().tidy = false;
                return Ok(());
            }
            state.runs.clone()
        };
        let (mut low, high) = keyspace::prefix(&[&self.prefix[..], &[BLOCKS]].concat());
        let length = self.base(0).len();
        loop {
            let next = self.store.keys(&(low, high.clone()), 1)?;
            let Some(base) = next.first().and_then(|key| key.get(..length)) else { return Ok(()) };
            let number = base.last_chunk().map(|number| u32::from_be_bytes(*number));
            if !runs.iter().any(|run| Some(run.number) == number) {
                remove(&*self.store, &keyspace::prefix(base))?;
            }
            low = match keyspace::after_prefix(base) {
                Bound::Excluded(end) => Bound::Included(end),
                _ => return Ok(()),
            };
        }
    }

    /// The position of the oldest run in the group of newest runs of similar size. A run belongs to the group
    /// if it is at most twice as large as all newer runs together; the group has at least `least` runs.
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
