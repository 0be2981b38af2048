//! Goes through fresh entries and runs at once, in order.

use std::collections::btree_map;

use super::block::Held;
use super::run::Cursor;
use crate::store::{Direction, Result};

/// Goes through the fresh entries of a range.
pub(super) struct Fresh<'a> {
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

pub(super) enum Source<'a> {
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

/// Goes through several sources at once; of a key only the newest entry is seen.
pub(super) struct Merged<'a> {
    /// The newest first.
    sources: Vec<Source<'a>>,
    direction: Direction,
    /// Those that have not ended, in the order of the entries that they stand at; of a key the newest first.
    order: Vec<usize>,
}

impl<'a> Merged<'a> {
    /// The newest source first.
    pub fn new(sources: Vec<Source<'a>>, direction: Direction) -> Merged<'a> {
        let order = Vec::with_capacity(sources.len());
        let mut merged = Merged { sources, direction, order };
        (0..merged.sources.len()).for_each(|at| merged.insert(at));
        merged
    }

    /// Puts a source where it belongs; nowhere if it has ended.
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
        // The entries of a source often follow each other.
        let place = match self.order.first() {
            Some(first) if is_before(first) => self.order.partition_point(is_before),
            _ => 0,
        };
        self.order.insert(place, at);
    }

    /// The entry that comes first; `None` at the end.
    pub fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        self.sources[*self.order.first()?].peek()
    }

    pub fn advance(&mut self) -> Result<()> {
        let Some((key, _)) = self.peek() else { return Ok(()) };
        // Older entries of the same key go with it.
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
