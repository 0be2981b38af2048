//! Rows in blocks: how many rows each has, and what the reducers make of them.
//!
//! A query that reduces a million rows, or asks how many stand before the first of its own, reads blocks and not rows:
//! only at the two ends of its range rows are read.
//!
//! ```text
//!   bound ""            bound k1              bound k2
//!   | rows ............ | rows .............. | rows ...........>   a block reaches up to the next one's bound
//!     count, reductions   count, reductions     count (changed)
//! ```
//!
//! One level is enough: a block has some [`BLOCK`] rows, so a million rows have four thousand blocks, which are read in
//! a few milliseconds. (A tree of them would make each change of a row rewrite a path to its root.)
//!
//! A commit of rows keeps the counts, drops the reductions of the blocks it touches, and marks them as changed. When the
//! update has no more rows, `settle` goes through the marks: it reduces these blocks again, splits those that have grown
//! too large, and removes empty ones. While an index is being built its rows are thus read once more at the end, and not
//! once per commit. A reader that finds a block without reductions reads its rows instead.

use super::build::commit;
use super::layout::{self, BLOCK, CHANGED, Meta, REDUCED, ROW, Spots};
use super::read::{Index, Row};
use super::reduce::Reducing;
use crate::error::{Error, Result};
use crate::query::script::Scripts;
use crate::store::{Batch, Direction, PageLimit};

/// Rows of a block, about; twice as many are split.
const ROWS: u64 = 256;
/// Bytes of rows at which a block ends before it has so many.
const BYTES: usize = 256 << 10;
/// Blocks of one commit of `settle`.
const AT_ONCE: usize = 128;

/// What a commit does to a row.
pub(super) struct Change {
    pub spot: Vec<u8>,
    /// The row as stored; `None`: it goes.
    pub row: Option<Vec<u8>>,
    /// It was not there before.
    pub is_new: bool,
}

pub(super) struct Blocks<'a> {
    pub index: &'a Index,
    pub scripts: &'a Scripts,
}

/// A block as it is to be stored.
struct Made {
    map: usize,
    bound: Vec<u8>,
    rows: Vec<Row>,
    reductions: Option<Vec<String>>,
}

impl Blocks<'_> {
    /// Puts row changes of one map function into a batch, with what they mean for the blocks.
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

    /// Counts, reduces and splits the blocks that have changed. False: something else changes the index.
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
            let mut batch = Batch::new();
            let mut made: Vec<Made> = Vec::new();
            for mark in marks {
                let (map, bound) = layout.spot_of(&mark);
                self.split(&mut batch, &mut made, map, bound)?;
                batch.delete(mark.clone());
                if made.len() >= AT_ONCE {
                    break;
                }
            }
            // The mark of what is left over from a split was written after that of the block was deleted, or is another.
            self.reduce(&mut made)?;
            for block in made {
                let at = |kind| layout.at(kind, block.map, &block.bound);
                batch.put(at(BLOCK), layout::encode_block(block.rows.len() as u64));
                if let Some(reductions) = &block.reductions {
                    batch.put(at(REDUCED), layout::encode_reductions(reductions));
                }
            }
            if !commit(index, stored, &meta, batch)? {
                return Ok(false);
            }
            stored = Some(meta.encode());
            index.history.entries().relieve()?;
        }
    }

    /// Joins neighbours that are small together, and marks them as changed. A commit for a page of blocks.
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

    /// Cuts a changed block into blocks of the right size. What is beyond [`AT_ONCE`] becomes a changed block of its own.
    fn split(&self, batch: &mut Batch, made: &mut Vec<Made>, map: usize, bound: &[u8]) -> Result<()> {
        let (index, layout) = (self.index, &self.index.layout);
        let Some(function) = index.definition.maps.get(map) else { return Ok(()) };
        let at = layout.at(BLOCK, map, bound);
        let stored = index.get_many(std::slice::from_ref(&at))?.pop().flatten();
        let Some(count) = stored.map(|value| layout::decode_block(&value)).transpose()? else { return Ok(()) };
        if count == 0 {
            batch.delete(at);
            return Ok(());
        }
        if function.reducers.is_empty() && count <= 2 * ROWS {
            return Ok(());
        }
        let pieces = if count <= 2 * ROWS { 1 } else { count.div_ceil(ROWS) };
        let size = usize::try_from(count.div_ceil(pieces)).unwrap_or(usize::MAX);
        let mut spots = Spots { low: bound.to_vec(), high: index.next_bound(map, bound)? };
        let (mut bound, mut seen) = (bound.to_vec(), 0_u64);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            let page = index.rows(map, &mut spots, Direction::Forward, PageLimit { entries: 1000, bytes: BYTES })?;
            if page.is_empty() {
                break;
            }
            for row in page {
                if rows.len() >= size || bytes >= BYTES {
                    let next = row.spot.clone();
                    seen += rows.len() as u64;
                    let bound = std::mem::replace(&mut bound, next);
                    made.push(Made { map, bound, rows: std::mem::take(&mut rows), reductions: None });
                    bytes = 0;
                    if made.len() >= AT_ONCE {
                        // The rest waits for its turn.
                        batch.put(layout.at(BLOCK, map, &row.spot), layout::encode_block(count.saturating_sub(seen)));
                        batch.put(layout.at(CHANGED, map, &row.spot), vec![layout::FORMAT]);
                        return Ok(());
                    }
                }
                bytes += row.key.len() + row.value.len() + row.id.len();
                rows.push(row);
            }
        }
        made.push(Made { map, bound, rows, reductions: None });
        Ok(())
    }

    /// Reduces blocks, on all cores. A function that fails leaves its blocks without: whoever asks for them hears why.
    fn reduce(&self, made: &mut [Made]) -> Result<()> {
        let cores = self.scripts.limits().threads.max(1);
        let share = made.len().div_ceil(cores).max(4);
        let one = |block: &mut Made| -> Result<()> {
            let function = &self.index.definition.maps[block.map];
            if function.reducers.is_empty() {
                return Ok(());
            }
            let database = self.index.database.number();
            let context = &self.index.definition.id;
            let reducing = Reducing { scripts: self.scripts, database, map: function, context };
            block.reductions = match reducing.all(&block.rows) {
                Ok(reductions) => Some(reductions),
                Err(Error::Script { .. }) => None,
                Err(error) => return Err(error),
            };
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                made.chunks_mut(share).map(|blocks| scope.spawn(|| blocks.iter_mut().try_for_each(one))).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::Internal("a thread that reduces died".into())))
            })
        })
    }
}
