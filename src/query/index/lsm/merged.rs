//! Merging iterator over the memtable and the runs.

use std::collections::btree_map;

use super::block::Held;
use super::run::Cursor;
use crate::store::{Direction, Result};

/// Iterator over a range of the memtable.
pub(crate) struct Fresh<'a> {
    left: btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>,
    direction: Direction,
    at: Option<(&'a [u8], Held<'a>)>,
}

impl<'a> Fresh<'a> {
    pub fn new(left: btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>, direction: Direction) -> Fresh<'a> {
        let mut fresh = Fresh { left, direction, at: None };
        fresh.advance();
        fresh
    }

    fn advance(&mut self) {
        let next = match self.direction {
            Direction::Forward => self.left.next(),
            Direction::Backward => self.left.next_back(),
        };
        self.at = next.map(|(key, value)| (&key[..], value.as_deref()));
    }
}

pub(crate) enum Source<'a> {
    Fresh(Fresh<'a>),
    Run(Box<Cursor<'a>>),
}

impl Source<'_> {
    fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        match self {
            Source::Fresh(fresh) => fresh.at,
            Source::Run(cursor) => cursor.peek(),
        }
    }

    fn advance(&mut self) -> Result<()> {
        match self {
            Source::Fresh(fresh) => fresh.advance(),
            Source::Run(cursor) => cursor.advance()?,
        }
        Ok(())
    }
}

/// Iterator over several sources. If several sources hold a key, the newest one wins.
pub(crate) struct Merged<'a> {
    /// Newest first.
    sources: Vec<Source<'a>>,
    direction: Direction,
    /// Indexes of the sources that have not ended, ordered by their current entry; for equal keys, newest
    /// first.
    order: Vec<usize>,
}

impl<'a> Merged<'a> {
    /// Creates the iterator; `sources` are ordered from newest to oldest.
    pub fn new(sources: Vec<Source<'a>>, direction: Direction) -> Merged<'a> {
        let order = Vec::with_capacity(sources.len());
        let mut merged = Merged { sources, direction, order };
        (0..merged.sources.len()).for_each(|at| merged.insert(at));
        merged
    }

    /// Inserts a source into `order` by its current entry; does nothing if it has ended.
    fn insert(&mut self, at: usize) {
        let Some((key, _)) = self.sources[at].peek() else { return };
        let is_before = |other: &usize| {
            let Some((before, _)) = self.sources[*other].peek() else { return false };
            let order = match self.direction {
                Direction::Forward => before.cmp(key),
                Direction::Backward => key.cmp(before),
            };
            order.then(other.cmp(&at)).is_lt()
        };
        // Fast path: often the same source also has the next entry.
        let place = match self.order.first() {
            Some(first) if is_before(first) => self.order.partition_point(is_before),
            _ => 0,
        };
        self.order.insert(place, at);
    }

    /// The current entry; `None` at the end.
    pub fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        self.sources[*self.order.first()?].peek()
    }

    pub fn advance(&mut self) -> Result<()> {
        let Some((key, _)) = self.peek() else { return Ok(()) };
        // Skips the older entries of the same key too.
        let is_same = |at: &&usize| self.sources[**at].peek().is_some_and(|(other, _)| other == key);
        let same = 1 + self.order[1..].iter().take_while(is_same).count();
        for _ in 0..same {
            let at = self.order.remove(0);
            self.sources[at].advance()?;
            self.insert(at);
        }
        Ok(())
    }
}
