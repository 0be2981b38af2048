//! A run: an immutable sequence of blocks in key order.

use std::collections::VecDeque;
use std::ops::{Bound, Range};

use super::block::{Block, Held, Packing};
use crate::store::range::KeyRange;
use crate::store::{self, Batch, Direction, Durability, Entry, PageLimit, Store, StoreError, keyspace};

/// Size in bytes at which a block is full; a single larger entry has its own block.
const BLOCK: usize = 8 << 10;
/// Size in bytes of the blocks in one commit.
const AT_ONCE: usize = 1 << 20;
/// Maximum number of blocks to read ahead.
const MOST_AHEAD: usize = 16;

fn damaged() -> StoreError {
    StoreError::Damaged("a block of an index".into())
}

/// Converts a bound on a run's keys into a bound on the store's keys.
fn joined(base: &[u8], bound: &Bound<Vec<u8>>, open: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    match bound {
        Bound::Included(key) => Bound::Included([base, key].concat()),
        Bound::Excluded(key) => Bound::Excluded([base, key].concat()),
        Bound::Unbounded => open,
    }
}

fn is_above(key: &[u8], high: &Bound<Vec<u8>>) -> bool {
    match high {
        Bound::Included(high) => key > &high[..],
        Bound::Excluded(high) => key >= &high[..],
        Bound::Unbounded => false,
    }
}

fn is_below(key: &[u8], low: &Bound<Vec<u8>>) -> bool {
    match low {
        Bound::Included(low) => key < &low[..],
        Bound::Excluded(low) => key <= &low[..],
        Bound::Unbounded => false,
    }
}

/// The last block whose first key is at or before `high`: its key in the store, and the block.
fn block_at(store: &dyn Store, base: &[u8], high: Bound<Vec<u8>>) -> store::Result<Option<(Vec<u8>, Block)>> {
    let range = (Bound::Included(base.to_vec()), high);
    let page = store.scan(&range, Direction::Backward, PageLimit::entries(1))?;
    page.into_iter().next().map(|(key, value)| Ok((key, Block::read(value).ok_or_else(damaged)?))).transpose()
}

/// Iterator over a range of a run.
pub(crate) struct Cursor<'a> {
    store: &'a dyn Store,
    range: &'a KeyRange,
    direction: Direction,
    /// The range of blocks not read yet, as store keys.
    left: KeyRange,
    ahead: VecDeque<Block>,
    /// Number of blocks to read next.
    step: usize,
    block: Option<Block>,
    /// The remaining entries of the block within the range; the next entry is the first or the last one,
    /// depending on the direction.
    within: Range<usize>,
}

impl<'a> Cursor<'a> {
    /// `base` is the prefix of the store's keys of the run's blocks.
    pub fn new(
        store: &'a dyn Store,
        base: &[u8],
        range: &'a KeyRange,
        direction: Direction,
    ) -> store::Result<Cursor<'a>> {
        let end = keyspace::after_prefix(base);
        let mut left = (Bound::Included(base.to_vec()), joined(base, &range.1, end));
        // The block that contains the start of the range may begin before the range.
        let first = match (direction, &range.0) {
            (Direction::Forward, Bound::Included(low) | Bound::Excluded(low)) => {
                let low = [base, low].concat();
                left.0 = Bound::Excluded(low.clone());
                block_at(store, base, Bound::Included(low))?
            }
            (Direction::Forward, Bound::Unbounded) => None,
            (Direction::Backward, _) => block_at(store, base, left.1.clone())?,
        };
        if let (Some((key, _)), Direction::Backward) = (&first, direction) {
            left.1 = Bound::Excluded(key.clone());
        }
        let mut cursor =
            Cursor { store, range, direction, left, ahead: VecDeque::new(), step: 1, block: None, within: 0..0 };
        cursor.enter(first.map(|(_, block)| block));
        cursor.seek()?;
        Ok(cursor)
    }

    fn enter(&mut self, block: Option<Block>) {
        let begins_below = |block: &Block| block.len() > 0 && is_below(block.key(0), &self.range.0);
        if self.direction == Direction::Backward && block.as_ref().is_some_and(begins_below) {
            // The range starts in this block, so earlier blocks contain nothing of it.
            self.left.1 = Bound::Excluded(Vec::new());
            self.ahead.clear();
        }
        self.within = block.as_ref().map_or(0..0, |block| {
            let (Some(last), (low, high)) = (block.len().checked_sub(1), self.range) else { return 0..0 };
            let from = if is_below(block.key(0), low) { block.count(|key| is_below(key, low)) } else { 0 };
            let to = if is_above(block.key(last), high) { block.count(|key| !is_above(key, high)) } else { last + 1 };
            from..to
        });
        self.block = block;
    }

    /// Moves to the next block if this one has ended.
    fn seek(&mut self) -> store::Result<()> {
        while self.within.is_empty() {
            if self.ahead.is_empty() {
                self.fetch()?;
            }
            let next = self.ahead.pop_front();
            let ended = next.is_none();
            self.enter(next);
            if ended {
                break;
            }
        }
        Ok(())
    }

    fn fetch(&mut self) -> store::Result<()> {
        if crate::store::range::is_empty(&self.left) {
            return Ok(());
        }
        let limit = PageLimit { entries: self.step, bytes: AT_ONCE };
        let page = self.store.scan(&self.left, self.direction, limit)?;
        self.step = (2 * self.step).min(MOST_AHEAD);
        match (page.last(), self.direction) {
            (None, _) => self.left.1 = self.left.0.clone(),
            (Some((last, _)), Direction::Forward) => self.left.0 = Bound::Excluded(last.clone()),
            (Some((last, _)), Direction::Backward) => self.left.1 = Bound::Excluded(last.clone()),
        }
        for (_, value) in page {
            self.ahead.push_back(Block::read(value).ok_or_else(damaged)?);
        }
        Ok(())
    }

    /// The current entry; `None` at the end of the range.
    pub fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        let block = self.block.as_ref()?;
        let at = match self.direction {
            Direction::Forward => self.within.start,
            Direction::Backward => self.within.end.checked_sub(1)?,
        };
        self.within.contains(&at).then(|| (block.key(at), block.value(at)))
    }

    pub fn advance(&mut self) -> store::Result<()> {
        match self.direction {
            Direction::Forward => self.within.next(),
            Direction::Backward => self.within.next_back(),
        };
        if self.within.is_empty() { self.seek() } else { Ok(()) }
    }
}

/// Keys that split a range of a run into parts of about `bytes` bytes; at most `most`. A block begins at
/// each.
pub(crate) fn cuts(
    store: &dyn Store,
    base: &[u8],
    range: &KeyRange,
    bytes: usize,
    most: usize,
) -> store::Result<Vec<Vec<u8>>> {
    let low = match joined(base, &range.0, Bound::Included(base.to_vec())) {
        Bound::Included(low) => Bound::Excluded(low),
        low => low,
    };
    let mut left = (low, joined(base, &range.1, keyspace::after_prefix(base)));
    let blocks = bytes.div_ceil(BLOCK).max(1);
    let mut cuts = Vec::new();
    while cuts.len() < most && !crate::store::range::is_empty(&left) {
        let page = store.keys(&left, blocks)?;
        if page.len() < blocks {
            break;
        }
        let Some(last) = page.into_iter().next_back() else { break };
        cuts.push(last[base.len()..].to_vec());
        left.0 = Bound::Excluded(last);
    }
    Ok(cuts)
}

/// Looks up single keys; fast if they are in ascending order.
pub(crate) struct Lookup<'a> {
    store: &'a dyn Store,
    base: Vec<u8>,
    block: Option<Block>,
}

impl<'a> Lookup<'a> {
    pub fn new(store: &'a dyn Store, base: Vec<u8>) -> Lookup<'a> {
        Lookup { store, base, block: None }
    }

    /// The run's entry for a key; `None` if it has none.
    pub fn get(&mut self, key: &[u8]) -> store::Result<Option<Held<'_>>> {
        let within = |block: &Block| block.len() > 0 && block.key(0) <= key && key <= block.key(block.len() - 1);
        if !self.block.as_ref().is_some_and(within) {
            let at = Bound::Included([&self.base[..], key].concat());
            self.block = block_at(self.store, &self.base, at)?.map(|(_, block)| block);
        }
        let Some(block) = &self.block else { return Ok(None) };
        let at = block.count(|other| other < key);
        Ok((at < block.len() && block.key(at) == key).then(|| block.value(at)))
    }
}

/// Writes a run. Its blocks have no effect until the list of runs contains the run.
pub(crate) struct Writing<'a> {
    store: &'a dyn Store,
    base: Vec<u8>,
    /// What every commit expects: the list of runs is unchanged (otherwise the index was removed meanwhile), and
    /// the entry of the index's owner still exists.
    expects: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The last block of the previous commit, which the next one expects to exist; otherwise the store was
    /// reopened meanwhile and lost unsynced commits. If this block exists, so do all earlier ones.
    last: Option<Entry>,
    packing: Packing,
    first: Vec<u8>,
    batch: Batch,
    unwritten: usize,
    bytes: u64,
}

impl<'a> Writing<'a> {
    pub fn new(store: &'a dyn Store, base: Vec<u8>, expects: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Writing<'a> {
        let (packing, first, batch) = (Packing::new(), Vec::new(), Batch::new());
        Writing { store, base, expects, last: None, packing, first, batch, unwritten: 0, bytes: 0 }
    }

    /// Appends an entry; keys must be ascending.
    pub fn push(&mut self, key: &[u8], value: Held<'_>) -> store::Result<()> {
        let more = key.len() + value.map_or(0, <[u8]>::len);
        if !self.packing.is_empty() && self.packing.len() + more > BLOCK {
            self.end_block()?;
        }
        if self.packing.is_empty() {
            self.first = key.to_vec();
        }
        self.packing.push(key, value);
        Ok(())
    }

    fn end_block(&mut self) -> store::Result<()> {
        let block = std::mem::replace(&mut self.packing, Packing::new()).finish();
        let key = [&self.base[..], &self.first].concat();
        self.unwritten += key.len() + block.len();
        self.bytes += (key.len() + block.len()) as u64;
        self.batch.put(key, block);
        if self.unwritten >= AT_ONCE {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> store::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.durability = Durability::Relaxed;
        for (key, value) in &self.expects {
            batch.expect(key.clone(), value.clone());
        }
        let last = batch.writes.last().and_then(|(key, block)| Some((key.clone(), block.clone()?)));
        if let Some((key, block)) = std::mem::replace(&mut self.last, last) {
            batch.expect(key, Some(block));
        }
        self.unwritten = 0;
        self.store.commit(batch)
    }

    /// Returns the size of the run and its last block, which must exist when the list is changed to include
    /// the run. Returns `None` if the run has no entries, and then nothing was written.
    pub fn finish(mut self) -> store::Result<Option<(u64, Entry)>> {
        if !self.packing.is_empty() {
            self.end_block()?;
        }
        if self.unwritten > 0 {
            self.write()?;
        }
        Ok(self.last.map(|last| (self.bytes, last)))
    }
}
