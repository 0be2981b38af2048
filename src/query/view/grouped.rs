//! Reading a reduce query: groups of rows, each reduced. Groups within a page of rows are reduced from these; a group that
//! goes on beyond is reduced from the blocks that it covers, and rows at its two ends.

use std::collections::VecDeque;

use super::definition::View;
use super::layout::{self, Spots};
use super::params::{Grouping, Kind, Plan};
use super::read::{Index, Row};
use super::reduce::{Outcome, Reducing};
use crate::error::Result;
use crate::json::elements;
use crate::query::script::Scripts;
use crate::store::{Direction, PageLimit};

/// Rows read, and reduced, at once.
const PAGE: PageLimit = PageLimit { entries: 256, bytes: 256 << 10 };
/// Blocks read at once.
const BLOCKS: usize = 500;
/// Reductions kept before they are merged, and their bytes.
const MOST_PARTS: usize = 128;
const MOST_BYTES: usize = 512 << 10;

/// A reduced group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducedRow {
    /// JSON; `None` if everything is one group.
    pub key: Option<String>,
    pub outcome: super::reduce::Outcome,
}

/// The rows of a reduce query, in order.
pub struct Grouped {
    index: Index,
    scripts: Scripts,
    map: usize,
    reducer: usize,
    grouping: Grouping,
    partition: Option<String>,
    direction: Direction,
    context: String,
    /// What is left to read, the next stretch last.
    stretches: Vec<Spots>,
    /// Rows read of the current stretch, in the order of the query.
    read: VecDeque<Row>,
    skip: u64,
    limit: u64,
}

impl Grouped {
    pub(super) fn new(index: Index, scripts: Scripts, view: View, plan: &Plan, context: String) -> Grouped {
        let mut stretches = plan.stretches.clone();
        stretches.reverse();
        let (reducer, grouping) = match plan.kind {
            Kind::Reduce { reducer, grouping } => (reducer, grouping),
            Kind::Map { .. } => (0, Grouping::None),
        };
        Grouped {
            map: view.map,
            reducer,
            grouping,
            partition: plan.partition().map(str::to_owned),
            direction: plan.direction(),
            context,
            stretches,
            read: VecDeque::new(),
            skip: plan.skip,
            limit: plan.limit,
            index,
            scripts,
        }
    }

    /// The next groups, `most` at most; empty at the end. Blocks on the store and on scripts.
    pub fn next(&mut self, most: usize) -> Result<Vec<ReducedRow>> {
        let mut rows = Vec::new();
        while rows.len() < most && self.limit > 0 {
            let Some(row) = self.next_group()? else { break };
            rows.push(row);
            self.limit -= 1;
        }
        Ok(rows)
    }

    fn next_group(&mut self) -> Result<Option<ReducedRow>> {
        loop {
            if self.stretches.is_empty() {
                return Ok(None);
            }
            let found = match self.grouping {
                Grouping::None => self.whole()?,
                Grouping::Level(level) => self.group(Some(level))?,
                Grouping::Exact => self.group(None)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// A whole stretch as one group.
    fn whole(&mut self) -> Result<Option<ReducedRow>> {
        let Some(spots) = self.stretches.pop() else { return Ok(None) };
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(None);
        }
        let parts = self.parts(spots)?;
        self.row(None, parts)
    }

    /// The next group of the current stretch; `None` if there is none, or it is skipped.
    fn group(&mut self, level: Option<u64>) -> Result<Option<ReducedRow>> {
        let Some(stretch) = self.stretches.last_mut() else { return Ok(None) };
        if self.read.is_empty() {
            self.read.extend(self.index.rows(self.map, stretch, self.direction, PAGE)?);
        }
        let Some(first) = self.read.front() else {
            self.stretches.pop();
            return Ok(None);
        };
        let function = &self.index.definition.maps[self.map];
        let key = group_key(&first.key, level);
        let place = layout::group_place(function, self.partition.as_deref(), &first.key, level);
        let mut rows = Vec::new();
        while self.read.front().is_some_and(|row| row.spot.starts_with(&place)) {
            rows.extend(self.read.pop_front());
        }
        // What the group has beyond the page.
        let mut rest = None;
        if self.read.is_empty() {
            let mut of_group = stretch.clone();
            match self.direction {
                Direction::Forward => {
                    let end = layout::behind(&place);
                    if let Some(end) = end.filter(|end| stretch.high.as_ref().is_none_or(|high| end < high)) {
                        of_group.high = Some(end.clone());
                        stretch.low = end.max(stretch.low.clone());
                    } else {
                        stretch.high = Some(stretch.low.clone());
                    }
                }
                Direction::Backward => {
                    of_group.low = place.max(stretch.low.clone());
                    stretch.high = Some(of_group.low.clone());
                }
            }
            rest = Some(of_group).filter(|rest| !rest.is_empty());
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(None);
        }
        if self.direction == Direction::Backward {
            rows.reverse();
        }
        let near = self.reducing().rows(self.reducer, &rows)?;
        let mut parts = Vec::new();
        if let Some(rest) = rest {
            parts = self.parts(rest)?;
        }
        match self.direction {
            Direction::Forward => parts.insert(0, near),
            Direction::Backward => parts.push(near),
        }
        self.row(Some(key), parts)
    }

    fn row(&self, key: Option<String>, parts: Vec<String>) -> Result<Option<ReducedRow>> {
        if parts.is_empty() {
            return Ok(None);
        }
        let reducing = self.reducing();
        let outcome: Outcome = reducing.finish(self.reducer, reducing.merge(self.reducer, parts)?)?;
        Ok(Some(ReducedRow { key, outcome }))
    }

    fn reducing(&self) -> Reducing<'_> {
        Reducing {
            scripts: &self.scripts,
            database: self.index.database.number(),
            map: &self.index.definition.maps[self.map],
            context: &self.context,
        }
    }

    /// Reductions that together are those of all rows between two spots, in their order; none if there are no rows.
    fn parts(&self, spots: Spots) -> Result<Vec<String>> {
        let mut parts = Parts { grouped: self, all: Vec::new(), bytes: 0 };
        if spots.is_empty() {
            return Ok(parts.all);
        }
        // A block whose end is not known yet: its bound and reduction.
        let mut open: (Vec<u8>, Option<String>) = (spots.low.clone(), None);
        let mut ahead = spots.clone();
        loop {
            let page = self.index.reductions(self.map, &ahead, self.reducer, BLOCKS)?;
            let Some((last, _)) = page.last() else { break };
            ahead.low = [&last[..], &[0]].concat();
            for block in page {
                let (bound, reduction) = std::mem::replace(&mut open, block);
                parts.block(bound, reduction, Some(open.0.clone()))?;
            }
            if ahead.is_empty() {
                break;
            }
        }
        let (bound, reduction) = open;
        // The last block counts as a whole if it ends where the range does.
        let is_whole = reduction.is_some()
            && match (&spots.high, self.index.next_bound(self.map, &bound)?) {
                (None, None) => true,
                (Some(high), Some(next)) => next <= *high,
                (None, Some(_)) | (Some(_), None) => false,
            };
        parts.block(bound, reduction.filter(|_| is_whole), spots.high)?;
        Ok(parts.all)
    }
}

/// Reductions on their way to be one.
struct Parts<'a> {
    grouped: &'a Grouped,
    all: Vec<String>,
    bytes: usize,
}

impl Parts<'_> {
    /// Takes up a block, by its reduction if that is known, else by its rows.
    fn block(&mut self, low: Vec<u8>, reduction: Option<String>, high: Option<Vec<u8>>) -> Result<()> {
        if let Some(reduction) = reduction {
            return self.push(reduction);
        }
        let grouped = self.grouped;
        let mut spots = Spots { low, high };
        loop {
            let rows = grouped.index.rows(grouped.map, &mut spots, Direction::Forward, PAGE)?;
            if rows.is_empty() {
                return Ok(());
            }
            self.push(grouped.reducing().rows(grouped.reducer, &rows)?)?;
        }
    }

    fn push(&mut self, reduction: String) -> Result<()> {
        self.bytes += reduction.len();
        self.all.push(reduction);
        if self.all.len() >= MOST_PARTS || (self.bytes > MOST_BYTES && self.all.len() > 1) {
            let all = std::mem::take(&mut self.all);
            self.all.push(self.grouped.reducing().merge(self.grouped.reducer, all)?);
            self.bytes = 0;
        }
        Ok(())
    }
}

/// The key of a group: of an array as many elements as the level says.
fn group_key(key: &str, level: Option<u64>) -> String {
    match level.map(|level| usize::try_from(level).unwrap_or(usize::MAX)) {
        Some(level) if key.starts_with('[') && elements(key).nth(level).is_some() => {
            format!("[{}]", elements(key).take(level).collect::<Vec<_>>().join(","))
        }
        _ => key.to_owned(),
    }
}
