//! Maintains the blocks of an index: for each range of consecutive rows, their number and their reductions.
//!
//! A query that reduces a million rows, or needs the number of rows before its range, reads blocks instead of
//! rows. It reads rows only at the two ends of its range.
//!
//! ```text
//!   bound ""            bound k1              bound k2
//!   | rows ............ | rows .............. | rows ...........>   a block ends at the next one's bound
//!     count, reductions   count, reductions     count (changed)
//! ```
//!
//! One level is enough: a block has about [`ROWS`] rows, so a million rows have four thousand blocks, which
//! are read in a few milliseconds. A tree was rejected, because each change of a row would rewrite a path to
//! the root.
//!
//! A commit of rows updates the counts of the blocks it touches, deletes their reductions, and marks them as
//! changed. When the update has no more rows, `settle` processes the marks: it reduces these blocks again,
//! splits those that are too large, and removes empty ones. A build of an index therefore reads its rows once
//! more at the end instead of once per commit. A reader that finds a block without reductions reads its rows
//! instead.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::index::{Index, commit};
use super::layout::{self, BLOCK, CHANGED, Meta, REDUCED, ROW, Spots};
use super::reduce::Reducing;
use super::row::Row;
use crate::error::{Error, Result};
use crate::query::script::Scripts;
use crate::store::{Batch, Direction, PageLimit};

/// Target number of rows per block. A block with more than twice as many rows is split.
const ROWS: u64 = 256;
/// A block ends when its rows have this many bytes, even if it has fewer than [`ROWS`] rows.
const BYTES: usize = 256 << 10;
/// Maximum number of changed blocks per commit of `settle`.
const AT_ONCE: usize = 128;
/// Approximate size of the rows of a stretch, as stored, in bytes.
const STRETCH: u64 = 1 << 20;
/// Approximate maximum number of stretches per commit. Small in tests, so that some blocks take several
/// commits there.
const MOST_STRETCHES: usize = if cfg!(test) { 3 } else { 256 };
/// Number of stretches per thread; fewer do not justify another thread.
const STRETCHES_OF_A_THREAD: usize = 4;

/// A change of one row.
pub(super) struct Change {
    /// The row's spot.
    pub spot: Vec<u8>,
    /// The row as stored, or `None` to delete it.
    pub row: Option<Vec<u8>>,
    /// Whether the index did not contain the row before.
    pub is_new: bool,
}

/// The blocks of an index.
pub(super) struct Blocks<'a> {
    pub index: &'a Index,
    pub scripts: &'a Scripts,
}

/// A new block to be stored.
struct Made {
    bound: Vec<u8>,
    rows: u64,
    reductions: Option<Vec<String>>,
}

/// A range of rows that one thread reads and reduces.
struct Stretch {
    map: usize,
    spots: Spots,
    /// Approximate number of rows per block.
    size: usize,
}

/// The part of a block that is left for the next commit. `bound` is its start, `first` the index of the
/// block's first stretch, and `rows` the number of rows of the whole block.
struct Rest {
    map: usize,
    bound: Vec<u8>,
    first: usize,
    rows: u64,
}

impl Blocks<'_> {
    /// Adds the row changes of one map function to a batch, and updates and marks the affected blocks.
    pub fn apply(&self, batch: &mut Batch, map: usize, mut changes: Vec<Change>) -> Result<()> {
        let layout = &self.index.layout;
        changes.sort_unstable_by(|one, two| one.spot.cmp(&two.spot));
        let mut changes = changes.into_iter().peekable();
        while let Some(first) = changes.peek() {
            let (bound, rows, next) = self.index.block_at(map, &first.spot)?;
            let mut rows = rows.unwrap_or(0);
            let is_inside = |change: &Change| next.as_ref().is_none_or(|next| change.spot < *next);
            while let Some(change) = changes.next_if(is_inside) {
                rows = match (&change.row, change.is_new) {
                    (Some(_), true) => rows + 1,
                    (Some(_), false) => rows,
                    (None, _) => rows.saturating_sub(1),
                };
                batch.writes.push((layout.at(ROW, map, &change.spot), change.row));
            }
            batch.put(layout.at(BLOCK, map, &bound), layout::encode_block(rows));
            batch.delete(layout.at(REDUCED, map, &bound));
            batch.put(layout.at(CHANGED, map, &bound), vec![layout::FORMAT]);
        }
        Ok(())
    }

    /// Counts, reduces and splits the changed blocks. Returns false if the index was changed concurrently.
    pub fn settle(&self, mut stored: Option<Vec<u8>>, meta: Meta) -> Result<bool> {
        let (index, layout) = (self.index, &self.index.layout);
        loop {
            if index.database.is_gone() {
                return Err(Error::NoDatabase);
            }
            let marks = index.keys(&layout.kind(CHANGED), AT_ONCE)?;
            if marks.is_empty() {
                let settled = Meta { settled: true, ..meta };
                return commit(index, stored, &settled, Batch::new());
            }
            let (mut batch, mut stretches, mut rest) = (Batch::new(), Vec::new(), None);
            for mark in marks {
                let (map, bound) = layout.spot_of(&mark);
                rest = self.divide(&mut batch, &mut stretches, map, bound)?;
                batch.delete(mark);
                if stretches.len() >= MOST_STRETCHES {
                    break;
                }
            }
            let made = self.make_all(&stretches)?;
            if let Some(rest) = rest {
                let seen: u64 = made[rest.first..].iter().flatten().map(|block| block.rows).sum();
                let left = rest.rows.saturating_sub(seen);
                batch.put(layout.at(BLOCK, rest.map, &rest.bound), layout::encode_block(left));
                batch.put(layout.at(CHANGED, rest.map, &rest.bound), vec![layout::FORMAT]);
            }
            for (stretch, made) in stretches.iter().zip(made) {
                for block in made {
                    let at = |kind| layout.at(kind, stretch.map, &block.bound);
                    batch.put(at(BLOCK), layout::encode_block(block.rows));
                    if let Some(reductions) = &block.reductions {
                        batch.put(at(REDUCED), layout::encode_reductions(reductions));
                    }
                }
            }
            if !commit(index, stored, &meta, batch)? {
                return Ok(false);
            }
            stored = Some(meta.encode());
            index.history.entries().relieve()?;
        }
    }

    /// Merges adjacent blocks that together have few rows, and marks the results as changed. Commits once per
    /// page of blocks.
    pub fn join_small(&self, mut stored: Option<Vec<u8>>, mut meta: Meta) -> Result<()> {
        let (index, layout) = (self.index, &self.index.layout);
        for map in 0..index.definition.maps.len() {
            let mut spots = Spots { low: Vec::new(), high: None };
            loop {
                let range = layout.between(BLOCK, map, &spots);
                let page = index.scan(&range, Direction::Forward, PageLimit::entries(1000))?;
                let Some((last, _)) = page.last() else { break };
                spots.low = [layout.spot_of(last).1, &[0]].concat();
                let mut batch = Batch::new();
                let mut kept: Option<(Vec<u8>, u64)> = None;
                for (key, value) in &page {
                    let (bound, rows) = (layout.spot_of(key).1.to_vec(), layout::decode_block(value)?);
                    match &mut kept {
                        Some((first, count)) if *count + rows <= ROWS => {
                            *count += rows;
                            for kind in [BLOCK, REDUCED, CHANGED] {
                                batch.delete(layout.at(kind, map, &bound));
                            }
                            batch.put(layout.at(BLOCK, map, first), layout::encode_block(*count));
                            batch.delete(layout.at(REDUCED, map, first));
                            batch.put(layout.at(CHANGED, map, first), vec![layout::FORMAT]);
                            meta.settled = false;
                        }
                        _ => kept = Some((bound, rows)),
                    }
                }
                if !commit(index, stored, &meta, batch)? {
                    return Ok(());
                }
                stored = Some(meta.encode());
            }
        }
        Ok(())
    }

    /// Schedules the rows of a changed block to be read, in several stretches if there are many. The rows
    /// beyond [`MOST_STRETCHES`] become a separate changed block, which is returned.
    fn divide(
        &self,
        batch: &mut Batch,
        stretches: &mut Vec<Stretch>,
        map: usize,
        bound: &[u8],
    ) -> Result<Option<Rest>> {
        let (index, layout) = (self.index, &self.index.layout);
        let Some(function) = index.definition.maps.get(map) else { return Ok(None) };
        let at = layout.at(BLOCK, map, bound);
        let stored = index.get_many(std::slice::from_ref(&at))?.pop().flatten();
        let Some(rows) = stored.map(|value| layout::decode_block(&value)).transpose()? else { return Ok(None) };
        let is_one = rows <= 2 * ROWS;
        if is_one && rows > 0 && function.reducers.is_empty() {
            return Ok(None);
        }
        // If the block still has rows, `settle` writes it again.
        batch.delete(at);
        let mut spots = Spots { low: bound.to_vec(), high: index.next_bound(map, bound)? };
        if is_one {
            stretches.push(Stretch { map, spots, size: usize::MAX });
            return Ok(None);
        }
        let (first, size) = (stretches.len(), ROWS as usize);
        for cut in index.history.entries().cuts(&layout.between(ROW, map, &spots), STRETCH, MOST_STRETCHES + 1)? {
            let cut = layout.spot_from(cut);
            if stretches.len() >= MOST_STRETCHES {
                return Ok(Some(Rest { map, bound: spots.low, first, rows }));
            }
            let low = std::mem::replace(&mut spots.low, cut.clone());
            stretches.push(Stretch { map, spots: Spots { low, high: Some(cut) }, size });
        }
        stretches.push(Stretch { map, spots, size });
        Ok(None)
    }

    /// Reads and reduces the stretches on all cores. Returns the blocks of each stretch.
    fn make_all(&self, stretches: &[Stretch]) -> Result<Vec<Vec<Made>>> {
        let threads = self.scripts.limits().threads.min(stretches.len().div_ceil(STRETCHES_OF_A_THREAD));
        if threads <= 1 {
            return stretches.iter().map(|stretch| self.make(stretch)).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Vec<Made>)>> {
            let mut all = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(stretch) = stretches.get(at) else { return Ok(all) };
                let made = self.make(stretch);
                if made.is_err() {
                    // Stop the other threads.
                    next.store(stretches.len(), Ordering::Relaxed);
                }
                all.push((at, made?));
            }
        };
        let parts = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let died = || Error::Internal("a thread that reduces rows panicked".into());
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(died()))).collect::<Result<Vec<_>>>()
        })?;
        let mut all: Vec<_> = parts.into_iter().flatten().collect();
        all.sort_unstable_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, made)| made).collect())
    }

    fn make(&self, stretch: &Stretch) -> Result<Vec<Made>> {
        let (mut bound, mut spots) = (stretch.spots.low.clone(), stretch.spots.clone());
        let (mut made, mut rows, mut bytes) = (Vec::new(), Vec::<Row>::new(), 0);
        let page = PageLimit { entries: 1000, bytes: BYTES };
        loop {
            let page = self.index.rows(stretch.map, &mut spots, Direction::Forward, page)?;
            if page.is_empty() {
                break;
            }
            for row in page {
                // A block is cut only when there are rows for another half, so that the last block is not
                // small.
                let is_full = rows.len() >= stretch.size.saturating_add(stretch.size / 2);
                if is_full || bytes >= BYTES {
                    let rest = rows.split_off(if is_full { stretch.size } else { rows.len() });
                    let next = rest.first().unwrap_or(&row).spot.clone();
                    made.push(self.made(stretch.map, std::mem::replace(&mut bound, next), &rows)?);
                    rows = rest;
                    bytes = rows.iter().map(Row::bytes).sum();
                }
                bytes += row.bytes();
                rows.push(row);
            }
        }
        if !rows.is_empty() {
            made.push(self.made(stretch.map, bound, &rows)?);
        }
        Ok(made)
    }

    /// Reduces the rows of a block. If a reduce function fails, the block is stored without reductions: a
    /// query that needs them runs the function again and reports the error.
    fn made(&self, map: usize, bound: Vec<u8>, rows: &[Row]) -> Result<Made> {
        let function = &self.index.definition.maps[map];
        let context = &self.index.definition.id;
        let reducing =
            Reducing { scripts: self.scripts, database: self.index.database.number(), map: function, context };
        let reductions = match function.reducers.is_empty() {
            true => None,
            false => match reducing.all(rows) {
                Ok(reductions) => Some(reductions),
                Err(Error::Script { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Made { bound, rows: rows.len() as u64, reductions })
    }
}
