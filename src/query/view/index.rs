//! An index of a database: its definition, its entries and its progress.

use std::ops::Bound;
use std::sync::Arc;

use super::definition::Definition;
use super::layout::{self, BLOCK, Layout, META, Meta, REDUCED, ROW, Spots};
use super::row::Row;
use crate::db::Database;
use crate::error::{Error, Result};
use crate::query::index::snapshot::{History, Snapshot};
use crate::store::range::KeyRange;
use crate::store::{self, Batch, Direction, Entry, PageLimit, StoreError};

/// One index of one database, either its current state or a snapshot.
#[derive(Clone)]
pub(crate) struct Index {
    pub database: Arc<Database>,
    pub definition: Arc<Definition>,
    pub layout: Layout,
    pub history: Arc<History>,
    snapshot: Option<Arc<Snapshot>>,
}

impl Index {
    pub fn new(database: Arc<Database>, definition: Arc<Definition>, history: Arc<History>) -> Index {
        let layout = Layout::new(database.number(), &definition.signature);
        Index { database, definition, layout, history, snapshot: None }
    }

    /// A snapshot of the index. Blocks while a commit to the index is in progress.
    pub fn still(&self) -> Index {
        Index { snapshot: Some(Arc::new(self.history.begin())), ..self.clone() }
    }

    pub fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.whole(match &self.snapshot {
            None => self.history.entries().scan(range, direction, limit)?,
            Some(snapshot) => snapshot.scan(range, direction, limit)?,
        })
    }

    pub fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        self.whole(match &self.snapshot {
            None => self.history.entries().keys(range, entries)?,
            Some(snapshot) => snapshot.keys(range, entries)?,
        })
    }

    pub fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.whole(match &self.snapshot {
            None => self.history.entries().get_many(keys)?,
            Some(snapshot) => snapshot.get_many(keys)?,
        })
    }

    /// Returns what was read, or an error if the database has been deleted, because then some entries may
    /// have been missing.
    fn whole<T>(&self, read: T) -> Result<T> {
        if self.database.is_gone() { Err(Error::NoDatabase) } else { Ok(read) }
    }

    /// Commits a batch to this index. Current readers do not see it.
    pub fn commit(&self, batch: Batch) -> store::Result<()> {
        let kind = self.layout.meta().len() - 1;
        let is_read = |key: &[u8]| matches!(key.get(kind), Some(&(META | ROW | BLOCK | REDUCED)));
        self.history.commit(batch, is_read)
    }

    /// The stored progress, and its decoded form; the latter is `None` if the index has to be rebuilt.
    pub fn meta(&self) -> Result<(Option<Vec<u8>>, Option<Meta>)> {
        let stored = self.get_many(&[self.layout.meta()])?.pop().flatten();
        let meta = stored.as_deref().and_then(|value| Meta::decode(value, self.definition.maps.len()));
        Ok((stored, meta))
    }

    /// The next rows of a range, about `limit`. Shrinks `spots` to the rest.
    pub fn rows(&self, map: usize, spots: &mut Spots, direction: Direction, limit: PageLimit) -> Result<Vec<Row>> {
        if spots.is_empty() {
            return Ok(Vec::new());
        }
        let range = self.layout.between(ROW, map, spots);
        let page = self.scan(&range, direction, limit)?;
        let row = |(key, value)| Row::decode(self.layout.spot_from(key), value);
        let rows = page.into_iter().map(row).collect::<Result<Vec<Row>>>()?;
        match (rows.last(), direction) {
            (None, _) => spots.high = Some(spots.low.clone()),
            (Some(last), Direction::Forward) => {
                // The smallest spot after this one.
                spots.low = [&last.spot[..], &[0]].concat();
            }
            (Some(last), Direction::Backward) => spots.high = Some(last.spot.clone()),
        }
        Ok(rows)
    }

    /// The number of rows in a range; reads only their keys.
    fn count_rows(&self, map: usize, mut spots: Spots) -> Result<u64> {
        let mut count = 0;
        while !spots.is_empty() {
            let range = self.layout.between(ROW, map, &spots);
            let page = self.keys(&range, 1000)?;
            let Some(last) = page.last() else { break };
            count += page.len() as u64;
            spots.low = [self.layout.spot_of(last).1, &[0]].concat();
        }
        Ok(count)
    }

    /// The number of rows before `spot`.
    fn rank(&self, map: usize, spot: &[u8]) -> Result<u64> {
        let mut before = Spots { low: Vec::new(), high: Some(spot.to_vec()) };
        let (mut count, mut last) = (0, None::<(Vec<u8>, u64)>);
        while !before.is_empty() {
            let range = self.layout.between(BLOCK, map, &before);
            let page = self.scan(&range, Direction::Forward, PageLimit::entries(1000))?;
            if page.is_empty() {
                break;
            }
            for (key, value) in &page {
                let bound = self.layout.spot_of(key).1.to_vec();
                count += layout::decode_block(value)?;
                before.low = [&bound[..], &[0]].concat();
                last = Some((bound, layout::decode_block(value)?));
            }
        }
        // The last of these blocks may extend beyond the spot, so its rows are counted one by one.
        let Some((bound, rows)) = last else { return Ok(0) };
        count -= rows;
        Ok(count + self.count_rows(map, Spots { low: bound, high: Some(spot.to_vec()) })?)
    }

    /// The number of rows in a range, computed from the blocks.
    pub fn count(&self, map: usize, spots: &Spots, total: u64) -> Result<u64> {
        let high = match &spots.high {
            Some(high) => self.rank(map, high)?,
            None => total,
        };
        let low = if spots.low.is_empty() { 0 } else { self.rank(map, &spots.low)? };
        Ok(high.saturating_sub(low))
    }

    /// The bound of the block that contains `spot`, its number of rows if it is stored, and the next block's
    /// bound.
    #[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
    pub fn block_at(&self, map: usize, spot: &[u8]) -> Result<(Vec<u8>, Option<u64>, Option<Vec<u8>>)> {
        let low = Bound::Included(self.layout.at(BLOCK, map, &[]));
        let range = (low, Bound::Included(self.layout.at(BLOCK, map, spot)));
        let found = self.scan(&range, Direction::Backward, PageLimit::entries(1))?;
        let (bound, rows) = match found.first() {
            Some((key, value)) => (self.layout.spot_of(key).1.to_vec(), Some(layout::decode_block(value)?)),
            None => (Vec::new(), None),
        };
        Ok((bound, rows, self.next_bound(map, spot)?))
    }

    /// The bound of the first block after `spot`.
    pub fn next_bound(&self, map: usize, spot: &[u8]) -> Result<Option<Vec<u8>>> {
        let (_, high) = self.layout.between(BLOCK, map, &Spots { low: Vec::new(), high: None });
        let range = (Bound::Excluded(self.layout.at(BLOCK, map, spot)), high);
        let next = self.keys(&range, 1)?;
        Ok(next.first().map(|key| self.layout.spot_of(key).1.to_vec()))
    }

    /// The bounds of the next blocks that begin in a range, at most `most`, each with one reducer's reduction
    /// if it is stored. Shrinks `spots` to the rest.
    #[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
    pub fn reductions(
        &self,
        map: usize,
        spots: &mut Spots,
        direction: Direction,
        reducer: usize,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Option<String>)>> {
        let page = self.scan(&self.layout.between(BLOCK, map, spots), direction, PageLimit::entries(most))?;
        let bounds: Vec<Vec<u8>> = page.iter().map(|(key, _)| self.layout.spot_of(key).1.to_vec()).collect();
        match (bounds.last(), direction) {
            (None, _) => spots.high = Some(spots.low.clone()),
            (Some(last), Direction::Forward) => spots.low = [&last[..], &[0]].concat(),
            (Some(last), Direction::Backward) => spots.high = Some(last.clone()),
        }
        let keys: Vec<Vec<u8>> = bounds.iter().map(|bound| self.layout.at(REDUCED, map, bound)).collect();
        let values = self.get_many(&keys)?;
        bounds
            .into_iter()
            .zip(values)
            .map(|(bound, value)| {
                Ok((bound, value.map(|value| layout::decode_reduction(&value, reducer)).transpose()?))
            })
            .collect()
    }
}

/// Commits a batch together with the new progress. Returns `false` if the stored progress is no longer `before`.
pub(crate) fn commit(index: &Index, before: Option<Vec<u8>>, meta: &Meta, mut batch: Batch) -> Result<bool> {
    let key = index.layout.meta();
    batch.expect(key.clone(), before);
    batch.put(key, meta.encode());
    match index.commit(batch) {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
