//! A map with a bounded number of entries that evicts entries which were not used recently.

use std::collections::HashMap;
use std::hash::Hash;

/// An approximate LRU map with two generations. Inserted and used entries go to the young generation. When it
/// reaches half the bound, the old generation is dropped and the young one replaces it. Every operation is
/// O(1) amortized. An exact LRU list would need links and unsafe code, and would not evict much better.
pub struct Bounded<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// Creates a map of at most `bound` entries (at least 2).
    pub fn new(bound: usize) -> Bounded<K, V> {
        Bounded { young: HashMap::new(), old: HashMap::new(), half: (bound / 2).max(1) }
    }

    /// Returns the entry and marks it as used.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.old.is_empty()
            && let Some((key, value)) = self.old.remove_entry(key)
        {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Inserts or replaces an entry, and marks it as used.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Removes an entry and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_exceeds_the_bound_and_keeps_used_entries() {
        let mut map = Bounded::new(10);
        map.insert(0, 0);
        for key in 1..1000 {
            map.insert(key, key);
            assert!(map.len() <= 10, "{}", map.len());
            assert_eq!(map.get_mut(&0), Some(&mut 0), "touched at every step, after {key}");
        }
        assert_eq!(map.get_mut(&1), None);
        assert_eq!(map.get_mut(&999), Some(&mut 999));
        assert_eq!(map.remove(&999), Some(999));
        assert_eq!(map.get_mut(&999), None);
    }
}
