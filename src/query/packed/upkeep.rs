//! What keeps an index in shape: runs are written, merged and let go of. One at a time, beside readers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use super::merged::Merged;
use super::run::Writing;
use super::{BLOCKS, CROWDED, Packed, Run, opened_again, remove, write_list};
use crate::store::{Batch, Direction, Durability, Entry, Result, StoreError, keys};

/// Bytes of fresh entries at which a run is written while an index is updated.
pub(super) const FULL: usize = 16 << 20;
/// The same once the fresh entries of all indexes together reach [`CROWDED`].
const FULL_IN_A_CROWD: usize = 1 << 20;
/// Bytes of fresh entries that may stay in memory when an update has ended.
const KEPT: usize = 1 << 20;
/// Runs of similar size that are merged when an update has ended, and runs at most while it goes on.
pub(super) const MERGED: usize = 6;
const MOST_RUNS: usize = 24;
/// Bytes of runs that are not merged for the room alone that what they replace takes up.
const SMALL: u64 = 1 << 20;

impl Packed {
    /// Writes a run if many entries are in memory: for the midst of an update.
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

    /// Leaves the index so that a crash costs little: when an update has ended. See [`Packed::tend`]. Nothing while runs
    /// are merged: the next update does it.
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

    /// Whether there are more runs than readers should look into.
    pub fn needs_tending(&self) -> bool {
        self.merged_from().is_some()
    }

    /// Merges runs if there are too many: beside readers, while nobody waits for it. Nothing if something is written now.
    pub fn tend(&self) -> Result<()> {
        if let Some(_writing) = self.writing.try_lock()
            && let Some(from) = self.merged_from()
        {
            self.or_forget(self.merge(from))?;
        }
        // What was committed meanwhile.
        self.rest()
    }

    /// From which run on they should be merged.
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

    /// Makes one run of everything.
    pub fn compact(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.or_forget(self.write_run().and_then(|()| self.merge(0)))
    }

    /// Somebody else has changed or removed what is stored: what is in memory does not belong to it any more.
    fn or_forget(&self, result: Result<()>) -> Result<()> {
        if result == Err(StoreError::Conflict) {
            self.state.write().generation = None;
            return Ok(());
        }
        result
    }

    /// Writes the fresh entries as a run.
    pub(super) fn write_run(&self) -> Result<()> {
        self.tidy()?;
        let _committing = self.committing.lock();
        let state = self.state()?;
        if state.fresh.is_empty() {
            return Ok(());
        }
        let number = state.runs.iter().map(|run| run.number).max().unwrap_or(0) + 1;
        let mut writing = Writing::new(&*self.store, self.base(number), (self.list_key(), state.list.clone()));
        for (key, value) in &state.fresh {
            writing.push(key, value.as_deref())?;
        }
        let Some((bytes, last)) = writing.finish()? else { return Ok(()) };
        let runs = [&state.runs[..], &[Run { number, bytes }]].concat();
        let before = state.list.clone();
        drop(state);
        self.replace(before, runs, Some(last), true)
    }

    /// Merges the runs from the one at `from` on into one.
    pub(super) fn merge(&self, from: usize) -> Result<()> {
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
        let mut writing = Writing::new(&*self.store, self.base(number), (self.list_key(), list.clone()));
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let mut merged = Merged::new(self.of_runs(old, &everything, Direction::Forward)?, Direction::Forward);
        while let Some((key, value)) = merged.peek() {
            // A removed key need not be told of where there is nothing older.
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
            remove(&*self.store, &keys::prefix(&self.base(run.number)))?;
        }
        self.state.write().tidy = true;
        Ok(())
    }

    /// Commits another list of runs in place of `before`, into which the fresh entries have gone or not. `last` is the last
    /// block of the new one (see `Writing`).
    fn replace(&self, before: Option<Vec<u8>>, runs: Vec<Run>, last: Option<Entry>, with_fresh: bool) -> Result<()> {
        let mut state = self.state.write();
        let key = self.list_key();
        let list = write_list(&runs);
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        batch.expect(key.clone(), before);
        if let Some((key, block)) = last {
            batch.expect(key, Some(block));
        }
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
    pub(super) fn tidy(&self) -> Result<()> {
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
