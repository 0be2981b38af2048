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
    /// Which source has the entry that comes first.
    first: Option<usize>,
}

impl<'a> Merged<'a> {
    /// The newest source first.
    pub fn new(sources: Vec<Source<'a>>, direction: Direction) -> Merged<'a> {
        let mut merged = Merged { sources, direction, first: None };
        merged.choose();
        merged
    }

    fn choose(&mut self) {
        let mut first: Option<(usize, &[u8])> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some((key, _)) = source.peek() else { continue };
            let is_first = first.is_none_or(|(_, other)| match self.direction {
                Direction::Forward => key < other,
                Direction::Backward => key > other,
            });
            if is_first {
                first = Some((at, key));
            }
        }
        self.first = first.map(|(at, _)| at);
    }

    /// The entry that comes first; `None` at the end.
    pub fn peek(&self) -> Option<(&[u8], Held<'_>)> {
        self.sources[self.first?].peek()
    }

    pub fn advance(&mut self) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        // Older entries of the same key go with it.
        let (newer, older) = self.sources.split_at_mut(first + 1);
        if let Some((key, _)) = newer[first].peek() {
            for source in older {
                if source.peek().is_some_and(|(other, _)| other == key) {
                    source.advance()?;
                }
            }
        }
        newer[first].advance()?;
        self.choose();
        Ok(())
    }
}
