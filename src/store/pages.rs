//! All pages of a range, one after the other.

use super::range::KeyRange;
use super::{Direction, Entry, PageLimit, Result, Store};

/// Iterates over the pages of a range. Each page is one [`Store::scan`]. Nothing stays open between two
/// pages, so a later page shows what was committed meanwhile. No page is empty; after an error, the iterator
/// ends.
pub fn pages(store: &dyn Store, range: KeyRange, direction: Direction, limit: PageLimit) -> Pages<'_> {
    Pages { store, left: Some(range), direction, limit }
}

/// The iterator of [`pages`].
pub struct Pages<'a> {
    store: &'a dyn Store,
    /// What is not read yet; `None` at the end.
    left: Option<KeyRange>,
    direction: Direction,
    limit: PageLimit,
}

impl Iterator for Pages<'_> {
    type Item = Result<Vec<Entry>>;

    fn next(&mut self) -> Option<Self::Item> {
        let range = self.left.take().filter(|range| !super::range::is_empty(range))?;
        let page = match self.store.scan(&range, self.direction, self.limit) {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        let (last, _) = page.last()?;
        self.left = Some(beyond(range, self.direction, last));
        Some(Ok(page))
    }
}

/// The part of a range behind `last`.
fn beyond((low, high): KeyRange, direction: Direction, last: &[u8]) -> KeyRange {
    let last = std::ops::Bound::Excluded(last.to_vec());
    match direction {
        Direction::Forward => (last, high),
        Direction::Backward => (low, last),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::super::{Batch, StoreError};
    use super::*;
    use crate::store::embedded::faults::Faults;

    #[test]
    fn pages_cover_a_range_once_in_both_directions_and_end_after_an_error() {
        let (store, faults) = Faults::store();
        let mut batch = Batch::new();
        (0..10u8).for_each(|at| batch.put(vec![b'k', at], vec![at]));
        store.commit(batch).unwrap();
        let range = || (Bound::Included(vec![b'k', 1]), Bound::Excluded(vec![b'k', 9]));
        let of = |direction| pages(&*store, range(), direction, PageLimit::entries(3)).collect::<Result<Vec<_>>>();
        for (direction, expected) in
            [(Direction::Forward, [1, 2, 3, 4, 5, 6, 7, 8]), (Direction::Backward, [8, 7, 6, 5, 4, 3, 2, 1])]
        {
            let found = of(direction).unwrap();
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
            assert_eq!(found.concat().iter().map(|(_, value)| value[0]).collect::<Vec<_>>(), expected);
        }
        let empty = (Bound::Excluded(vec![b'k', 9]), Bound::Included(vec![b'k', 2]));
        assert_eq!(pages(&*store, empty, Direction::Forward, PageLimit::entries(3)).count(), 0);
        faults.fail_read(1);
        let mut failing = pages(&*store, range(), Direction::Forward, PageLimit::entries(3));
        assert!(failing.next().is_some_and(|page| page.is_ok()));
        assert!(matches!(failing.next(), Some(Err(StoreError::Unavailable(_)))));
        assert!(failing.next().is_none());
    }
}
