//! Executes reduce queries: finds the groups of rows and reduces each.
//!
//! Each range of the query is read once, in pieces, where a piece is a block or a part of one. For a block
//! that lies within the current group, the stored reduction is used. If a group begins or ends within a
//! block, or the block has no stored reduction, its rows are read.
//!
//! ```text
//!   | group 1         | group 2                            | 3     rows
//!   | rows ... | rows ... | reduction | reduction | rows .....    pieces
//! ```

use std::collections::VecDeque;

use super::definition::View;
use super::index::Index;
use super::layout::{self, Spots};
use super::params::{Grouping, Kind, Plan};
use super::reduce::{Outcome, Reducing};
use super::row::Row;
use crate::error::Result;
use crate::json::elements;
use crate::query::script::Scripts;
use crate::store::{Direction, PageLimit};

/// Maximum number of rows that are read and reduced at once.
const PAGE: PageLimit = PageLimit { entries: 256, bytes: 256 << 10 };
/// Maximum number of blocks that are read at once.
const BLOCKS: usize = 500;
/// Maximum number of reductions that are held before they are merged.
const MOST_PARTS: usize = 128;
/// Maximum size of the reductions that are held before they are merged, in bytes.
const MOST_BYTES: usize = 512 << 10;

/// A reduced group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducedRow {
    /// The group's key as JSON; `None` if all rows are one group.
    pub key: Option<String>,
    /// The result of the reduction.
    pub outcome: super::reduce::Outcome,
}

/// Iterator over the groups of a reduce query, in the order of the query.
pub struct Grouped {
    index: Index,
    scripts: Scripts,
    map: usize,
    reducer: usize,
    grouping: Grouping,
    partition: Option<String>,
    direction: Direction,
    context: String,
    /// The ranges that are left to read; the next one is last.
    stretches: Vec<Spots>,
    /// The keys of these ranges, if the query names them.
    asked: Vec<String>,
    /// The key of the current range, if the query names it.
    key: Option<String>,
    /// The pieces of the current range.
    pieces: Option<Pieces>,
    /// The unread part of the current piece, if its rows are read.
    piece: Option<Spots>,
    /// The rows read from the current piece, in the order of the query.
    read: VecDeque<Row>,
    skip: u64,
    limit: u64,
}

impl Grouped {
    pub(super) fn new(index: Index, scripts: Scripts, view: View, plan: &Plan, context: String) -> Grouped {
        let mut stretches = plan.stretches.clone();
        stretches.reverse();
        let mut asked = plan.asked.clone();
        asked.reverse();
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
            asked,
            key: None,
            pieces: None,
            piece: None,
            read: VecDeque::new(),
            skip: plan.skip,
            limit: plan.limit,
            index,
            scripts,
        }
    }

    /// Returns the next groups, at most `most`; empty at the end. Blocks on the store and on scripts.
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
            if self.pieces.is_none() {
                let Some(stretch) = self.stretches.pop() else { return Ok(None) };
                self.key = self.asked.pop();
                self.pieces = Some(Pieces::new(stretch, self.direction));
            }
            let found = self.group()?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Returns the next group of the current range; `None` if the range has ended or the group is skipped.
    fn group(&mut self) -> Result<Option<ReducedRow>> {
        // The group's key, and the common prefix of the spots of its rows.
        let mut group: Option<(Option<String>, Vec<u8>)> = None;
        let mut parts = Parts::default();
        loop {
            if let Some(first) = self.read.front() {
                // The first row of a group always belongs to it.
                let least = usize::from(group.is_none());
                let (_, place) = group.get_or_insert_with(|| self.begun_by(first));
                let count = self.read.iter().take_while(|row| row.spot.starts_with(place)).count().max(least);
                if count == 0 {
                    break;
                }
                let mut rows: Vec<Row> = self.read.drain(..count).collect();
                if self.skip == 0 {
                    if self.direction == Direction::Backward {
                        rows.reverse();
                    }
                    parts.push(self, self.reducing().rows(self.reducer, &rows)?)?;
                }
                continue;
            }
            if let Some(piece) = &mut self.piece {
                self.read.extend(self.index.rows(self.map, piece, self.direction, PAGE)?);
                if self.read.is_empty() {
                    self.piece = None;
                }
                continue;
            }
            let Some(pieces) = &mut self.pieces else { break };
            let Some(piece) = pieces.next(&self.index, self.map, self.reducer)? else {
                self.pieces = None;
                break;
            };
            // If both bounds begin with the place, so do all spots between them.
            let is_within = |place: &[u8]| {
                piece.spots.low.starts_with(place)
                    && piece.spots.high.as_ref().is_some_and(|high| high.starts_with(place))
            };
            let whole = match (&group, self.grouping) {
                (_, Grouping::None) => true,
                (Some((_, place)), _) => is_within(place),
                (None, _) => false,
            };
            match piece.reduction.filter(|_| whole) {
                Some(reduction) => {
                    group.get_or_insert_default();
                    if self.skip == 0 {
                        parts.push(self, reduction)?;
                    }
                }
                None => self.piece = Some(piece.spots),
            }
        }
        let Some((key, _)) = group else { return Ok(None) };
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(None);
        }
        self.row(key, parts.all.into())
    }

    /// Returns the group of a row: its key, and the common prefix of the spots of its rows.
    fn begun_by(&self, row: &Row) -> (Option<String>, Vec<u8>) {
        let level = match self.grouping {
            Grouping::None => return (None, Vec::new()),
            Grouping::Level(level) => Some(level),
            Grouping::Exact => None,
        };
        let function = &self.index.definition.maps[self.map];
        let place = layout::group_place(function, self.partition.as_deref(), row.key(), level);
        let key = self.key.clone().unwrap_or_else(|| group_key(row.key(), level));
        (Some(key), place)
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
}

/// A part of a range, with the stored reduction if the part is a whole block that has one.
struct Piece {
    spots: Spots,
    reduction: Option<String>,
}

/// Iterator over the pieces of a range.
struct Pieces {
    direction: Direction,
    /// The part of the range that is left.
    left: Spots,
    /// The part of the range whose blocks have not been read yet.
    ahead: Spots,
    /// The bounds and reductions of the next blocks that begin within the range, in the direction of the
    /// query.
    blocks: VecDeque<(Vec<u8>, Option<String>)>,
    /// Forward only: the reduction of the block at the start of `left`.
    open: Option<String>,
    /// Whether no block has been returned yet.
    at_first: bool,
}

impl Pieces {
    fn new(stretch: Spots, direction: Direction) -> Pieces {
        let (ahead, blocks) = (stretch.clone(), VecDeque::new());
        Pieces { direction, left: stretch, ahead, blocks, open: None, at_first: true }
    }

    fn next(&mut self, index: &Index, map: usize, reducer: usize) -> Result<Option<Piece>> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            if self.blocks.is_empty() && !self.ahead.is_empty() {
                self.blocks = index.reductions(map, &mut self.ahead, self.direction, reducer, BLOCKS)?.into();
            }
            let piece = match (self.blocks.pop_front(), self.direction) {
                (Some((bound, reduction)), Direction::Forward) => {
                    let spots = Spots { low: self.left.low.clone(), high: Some(bound.clone()) };
                    self.left.low = bound;
                    Piece { spots, reduction: std::mem::replace(&mut self.open, reduction) }
                }
                (Some((bound, reduction)), Direction::Backward) => {
                    let spots = Spots { low: bound.clone(), high: self.left.high.replace(bound) };
                    let is_whole = !self.at_first || ends_within(index, map, &spots)?;
                    self.at_first = false;
                    Piece { spots, reduction: reduction.filter(|_| is_whole) }
                }
                (None, direction) => {
                    let spots = std::mem::replace(&mut self.left, Spots { low: Vec::new(), high: Some(Vec::new()) });
                    // Forward, this is the last block. Backward, it is the end of a block that begins before
                    // the range.
                    let open = self.open.take().filter(|_| direction == Direction::Forward);
                    let is_whole = open.is_some() && ends_within(index, map, &spots)?;
                    Piece { spots, reduction: open.filter(|_| is_whole) }
                }
            };
            if !piece.spots.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

/// Whether the block that begins at the low end of `spots` ends at or before its high end.
fn ends_within(index: &Index, map: usize, spots: &Spots) -> Result<bool> {
    Ok(match (&spots.high, index.next_bound(map, &spots.low)?) {
        (None, None) => true,
        (Some(high), Some(next)) => next <= *high,
        (None, Some(_)) | (Some(_), None) => false,
    })
}

/// Partial reductions of a group, in the order of their rows.
#[derive(Default)]
struct Parts {
    all: VecDeque<String>,
    bytes: usize,
}

impl Parts {
    fn push(&mut self, grouped: &Grouped, reduction: String) -> Result<()> {
        self.bytes += reduction.len();
        match grouped.direction {
            Direction::Forward => self.all.push_back(reduction),
            Direction::Backward => self.all.push_front(reduction),
        }
        if self.all.len() >= MOST_PARTS || (self.bytes > MOST_BYTES && self.all.len() > 1) {
            let all = std::mem::take(&mut self.all).into();
            self.all.push_back(grouped.reducing().merge(grouped.reducer, all)?);
            self.bytes = 0;
        }
        Ok(())
    }
}

/// The key of a group: the first `level` elements if the key is an array.
fn group_key(key: &str, level: Option<u64>) -> String {
    match level.map(|level| usize::try_from(level).unwrap_or(usize::MAX)) {
        Some(level) if key.starts_with('[') && elements(key).nth(level).is_some() => {
            format!("[{}]", elements(key).take(level).collect::<Vec<_>>().join(","))
        }
        _ => key.to_owned(),
    }
}
