//! Reads an index: rows of a range, the number of rows before a position, and the rows of a map query.

use super::definition::View;
use super::index::Index;
use super::layout::{Meta, Spots};
use super::params::Plan;
use super::row::Row;
use super::skipped::Skipped;
use crate::error::Result;
use crate::store::{Direction, PageLimit};

/// A snapshot of an index, ready to be read: later commits are not visible.
pub struct Reading {
    pub(super) index: Index,
    /// The progress of the index.
    pub meta: Meta,
}

impl Reading {
    /// Begins a snapshot. Blocks on the store.
    pub(super) fn begin(index: &Index) -> Result<Reading> {
        let index = index.still();
        let (_, meta) = index.meta()?;
        Ok(Reading { index, meta: meta.unwrap_or_default() })
    }
}

/// Size in bytes of the rows that are read at once.
const AT_ONCE: usize = 512 << 10;

impl Reading {
    /// Size of the index in bytes. Blocks on the store.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.index.history.entries().bytes()?)
    }

    /// The documents that could not be mapped and have no rows. Blocks on the store.
    pub fn skipped(&self) -> Result<Skipped> {
        Skipped::read(&self.index)
    }

    /// The next rows of the first map function in a range, about `most`. Shrinks `spots` to the rest. Blocks
    /// on the store.
    pub fn rows(&self, spots: &mut Spots, direction: Direction, most: usize) -> Result<Vec<Row>> {
        self.index.rows(0, spots, direction, PageLimit { entries: most, bytes: AT_ONCE })
    }
}

/// The rows of a map query, in pages.
pub struct MapRows {
    index: Index,
    view: View,
    meta: Meta,
    direction: Direction,
    /// The ranges left to read, in reverse order.
    stretches: Vec<Spots>,
    /// All spots that the query can see, for `total_rows` and `offset`.
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

    /// The database's sequence up to which the index is built.
    pub fn sequence(&self) -> u64 {
        self.meta.sequence
    }

    /// The number of rows of the view, and the number of rows before the first row of the query. Must be
    /// called before the first [`MapRows::next`].
    pub fn total_and_offset(&self) -> Result<(u64, u64)> {
        let map = self.view.map;
        let all = self.meta.rows.get(map).map_or(0, |(rows, _)| *rows);
        let total = match (&self.within.low[..], &self.within.high) {
            ([], None) => all,
            _ => self.index.count(map, &self.within, all)?,
        };
        // The offset counts the rows before the first range that has rows, or before the last range if none has.
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

    /// The next rows, at most `most`; empty at the end.
    pub fn next(&mut self, most: usize) -> Result<Vec<Row>> {
        /// Number of rows read at once while skipping.
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
                // Continue after the last row that is returned.
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
