//! How often each index was queried since the server started: shows which indexes nobody needs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::query::index::snapshot::Name;

/// Maximum number of indexes whose uses are counted, about 100 bytes each.
const MOST: usize = 20_000;

/// The counts. A query takes a shared lock and adds to a number.
#[derive(Default)]
pub(super) struct Uses {
    by_name: RwLock<HashMap<Name, Arc<Use>>>,
    /// Whether counts were dropped, so that an index without a count may have been used.
    dropped: AtomicBool,
}

#[derive(Default)]
struct Use {
    count: AtomicU64,
    last: AtomicU64,
}

impl Uses {
    /// Counts a use of an index at `now`, in milliseconds since 1970.
    pub fn count(&self, name: Name, now: u64) {
        let known = self.by_name.read().get(&name).cloned();
        let index = known.unwrap_or_else(|| self.add(name));
        index.count.fetch_add(1, Ordering::Relaxed);
        index.last.store(now, Ordering::Relaxed);
    }

    fn add(&self, name: Name) -> Arc<Use> {
        let mut by_name = self.by_name.write();
        if by_name.len() >= MOST && !by_name.contains_key(&name) {
            self.dropped.store(true, Ordering::Relaxed);
            let mut times: Vec<u64> = by_name.values().map(|index| index.last.load(Ordering::Relaxed)).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            by_name.retain(|_, index| index.last.load(Ordering::Relaxed) > middle);
        }
        by_name.entry(name).or_default().clone()
    }

    /// How often an index was used, and the time of the last use in milliseconds since 1970. `None` if not known.
    pub fn of(&self, name: &Name) -> Option<(u64, u64)> {
        match self.by_name.read().get(name) {
            Some(index) => Some((index.count.load(Ordering::Relaxed), index.last.load(Ordering::Relaxed))),
            None if self.dropped.load(Ordering::Relaxed) => None,
            None => Some((0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_a_dropped_count_is_not_taken_for_none() {
        let uses = Uses::default();
        let name = |number: u64| (number, [0; 16]);
        assert_eq!(uses.of(&name(1)), Some((0, 0)));
        uses.count(name(1), 5);
        uses.count(name(1), 6);
        assert_eq!(uses.of(&name(1)), Some((2, 6)));
        for number in 2..2 * MOST as u64 {
            uses.count(name(number), number + 10);
            assert!(uses.by_name.read().len() <= MOST);
        }
        assert_eq!(uses.of(&name(1)), None);
        assert_eq!(uses.of(&name(2 * MOST as u64 - 1)), Some((1, 2 * MOST as u64 + 9)));
    }
}
