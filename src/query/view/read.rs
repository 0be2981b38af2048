//! Reading an index: rows between two spots, how many stand before one, and the rows of a map query.

use std::ops::Bound;
use std::sync::Arc;

use super::definition::{Definition, View};
use super::layout::{self, BLOCK, Layout, META, Meta, REDUCED, ROW, Spots};
use super::params::Plan;
use super::row::Row;
use crate::db::Database;
use crate::error::{Error, Result};
use crate::query::history::{History, Snapshot};
use crate::store::{self, Batch, Direction, Entry, KeyRange, PageLimit};

/// One index of one database, as it is now or as it was at one moment.
#[derive(Clone)]
pub(super) struct Index {
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

    /// The index as it stands at this moment. Blocks while a commit to it is under way.
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

    /// What was read, unless the database has been deleted: then some of it may have been missing.
    fn whole<T>(&self, read: T) -> Result<T> {
        if self.database.is_gone() { Err(Error::NoDatabase) } else { Ok(read) }
    }

    /// Commits a batch of this index, which those who read it now do not see.
    pub fn commit(&self, batch: Batch) -> store::Result<()> {
        let kind = self.layout.meta().len() - 1;
        let is_read = |key: &[u8]| matches!(key.get(kind), Some(&(META | ROW | BLOCK | REDUCED)));
        self.history.commit(batch, is_read)
    }

    /// What is stored of its progress, and what that means; `None` if there is nothing to go on from.
    pub fn meta(&self) -> Result<(Option<Vec<u8>>, Option<Meta>)> {
        let stored = self.get_many(&[self.layout.meta()])?.pop().flatten();
        let meta = stored.as_deref().and_then(|value| Meta::decode(value, self.definition.maps.len()));
        Ok((stored, meta))
    }

    /// The next rows between two spots, about `limit`; narrows `spots` to what is left.
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
                // The least spot above another.
                spots.low = [&last.spot[..], &[0]].concat();
            }
            (Some(last), Direction::Backward) => spots.high = Some(last.spot.clone()),
        }
        Ok(rows)
    }

    /// How many rows there are between two spots, without reading those.
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

    /// How many rows stand before `spot`.
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
        // The last of these blocks may reach beyond.
        let Some((bound, rows)) = last else { return Ok(0) };
        count -= rows;
        Ok(count + self.count_rows(map, Spots { low: bound, high: Some(spot.to_vec()) })?)
    }

    /// How many rows there are between two spots, told by the blocks.
    pub fn count(&self, map: usize, spots: &Spots, total: u64) -> Result<u64> {
        let high = match &spots.high {
            Some(high) => self.rank(map, high)?,
            None => total,
        };
        let low = if spots.low.is_empty() { 0 } else { self.rank(map, &spots.low)? };
        Ok(high.saturating_sub(low))
    }

    /// The bound of the block that `spot` is in, its rows if it is stored, and where the next one begins.
    #[allow(clippy::type_complexity)]
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

    /// Where the first block after `spot` begins.
    pub fn next_bound(&self, map: usize, spot: &[u8]) -> Result<Option<Vec<u8>>> {
        let (_, high) = self.layout.between(BLOCK, map, &Spots { low: Vec::new(), high: None });
        let range = (Bound::Excluded(self.layout.at(BLOCK, map, spot)), high);
        let next = self.keys(&range, 1)?;
        Ok(next.first().map(|key| self.layout.spot_of(key).1.to_vec()))
    }

    /// The next bounds of blocks that begin between two spots, `most` at most, with one reducer's reduction where it is
    /// stored; narrows `spots` to what is left.
    #[allow(clippy::type_complexity)]
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

/// An index ready to be read, as it stood at one moment: what is committed to it meanwhile is not seen.
pub struct Reading {
    pub(super) index: Index,
    /// How far the index is.
    pub meta: Meta,
}

impl Reading {
    /// Blocks on the store.
    pub(super) fn begin(index: &Index) -> Result<Reading> {
        let index = index.still();
        let (_, meta) = index.meta()?;
        Ok(Reading { index, meta: meta.unwrap_or_default() })
    }
}

/// Bytes of rows that are read at once.
const AT_ONCE: usize = 512 << 10;

impl Reading {
    /// Bytes that the index takes. Blocks on the store.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.index.history.entries().bytes()?)
    }

    /// The next rows of the first map function between two spots, about `most`; narrows `spots` to what is left. Blocks on
    /// the store.
    pub fn rows(&self, spots: &mut Spots, direction: Direction, most: usize) -> Result<Vec<Row>> {
        self.index.rows(0, spots, direction, PageLimit { entries: most, bytes: AT_ONCE })
    }
}

/// The rows of a map query, a page at a time.
pub struct MapRows {
    index: Index,
    view: View,
    meta: Meta,
    direction: Direction,
    /// What is left to read, the next stretch last.
    stretches: Vec<Spots>,
    /// All that was asked, for the count of rows.
    within: Spots,
    skip: u64,
    limit: u64,
}

impl MapRows {
    pub(super) fn new(Reading { index, meta }: Reading, view: View, plan: &Plan) -> MapRows {
        let mut stretches = plan.stretches.clone();
        stretches.reverse();
        MapRows {
            within: plan.within(),
            view,
            meta,
            direction: plan.direction(),
            stretches,
            skip: plan.skip,
            limit: plan.limit,
            index,
        }
    }

    /// The database's sequence that the index stands at.
    pub fn sequence(&self) -> u64 {
        self.meta.sequence
    }

    /// How many rows the view has, and how many stand before the first one of the query. Ask before reading.
    pub fn total_and_offset(&self) -> Result<(u64, u64)> {
        let map = self.view.map;
        let all = self.meta.rows.get(map).map_or(0, |(rows, _)| *rows);
        let total = match (&self.within.low[..], &self.within.high) {
            ([], None) => all,
            _ => self.index.count(map, &self.within, all)?,
        };
        // Rows before the first stretch that has any, or before the last one.
        let mut first = self.stretches.first();
        for stretch in self.stretches.iter().rev().filter(|_| self.stretches.len() > 1) {
            let mut probe = stretch.clone();
            if !self.index.rows(map, &mut probe, self.direction, PageLimit::entries(1))?.is_empty() {
                first = Some(stretch);
                break;
            }
        }
        let before = match (first, self.direction) {
            (None, _) => 0,
            (Some(first), Direction::Forward) if first.low == self.within.low => 0,
            (Some(first), Direction::Forward) => {
                self.index.count(map, &Spots { low: self.within.low.clone(), high: Some(first.low.clone()) }, all)?
            }
            (Some(first), Direction::Backward) => match &first.high {
                high if *high == self.within.high => 0,
                None => 0,
                Some(high) => {
                    let behind = Spots { low: high.clone(), high: self.within.high.clone() };
                    self.index.count(map, &behind, all)?
                }
            },
        };
        Ok((total, before.saturating_add(self.skip).min(total)))
    }

    /// The next rows, `most` at most; empty at the end.
    pub fn next(&mut self, most: usize) -> Result<Vec<Row>> {
        /// Rows read at once while they are skipped.
        const SKIPPED: usize = 1000;
        while self.limit > 0 {
            let Some(stretch) = self.stretches.last_mut() else { break };
            let wanted = match self.skip {
                0 => usize::try_from(self.limit).map_or(most, |limit| limit.min(most)),
                _ => SKIPPED,
            };
            let before = stretch.clone();
            let mut rows = self.index.rows(self.view.map, stretch, self.direction, PageLimit::entries(wanted))?;
            if rows.is_empty() {
                self.stretches.pop();
                continue;
            }
            if self.skip >= rows.len() as u64 {
                self.skip -= rows.len() as u64;
                continue;
            }
            rows.drain(..self.skip as usize);
            self.skip = 0;
            rows.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
            if rows.len() > most {
                rows.truncate(most);
                // Read on behind the last row that is handed over.
                if let Some(last) = rows.last() {
                    *stretch = match self.direction {
                        Direction::Forward => Spots { low: [&last.spot[..], &[0]].concat(), high: before.high },
                        Direction::Backward => Spots { low: before.low, high: Some(last.spot.clone()) },
                    };
                }
            }
            self.limit -= rows.len() as u64;
            return Ok(rows);
        }
        Ok(Vec::new())
    }
}
