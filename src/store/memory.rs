//! The reference store: a `BTreeMap` behind a lock. Most tests run on it.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::range::{KeyRange, is_empty};
use super::reserved_keys::check_key;
use super::{Batch, Direction, Entry, PageLimit, Result, Store, StoreError};

/// A store in memory; its content is lost when it is dropped.
#[derive(Default)]
pub struct Memory {
    entries: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Memory {
    /// Creates an empty store.
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl Store for Memory {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let entries = self.entries.read();
        Ok(keys.iter().map(|key| entries.get(key).cloned()).collect())
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        if is_empty(range) {
            return Ok(Vec::new());
        }
        let entries = self.entries.read();
        let mut found = entries.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref()));
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < limit.entries && bytes < limit.bytes.max(1) {
            let next = match direction {
                Direction::Forward => found.next(),
                Direction::Backward => found.next_back(),
            };
            let Some((key, value)) = next else { break };
            bytes += key.len() + value.len();
            page.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        for key in batch.writes.iter().map(|(key, _)| key).chain(batch.expect.iter().map(|(key, _)| key)) {
            check_key(key)?;
        }
        let mut entries = self.entries.write();
        if batch.expect.iter().any(|(key, value)| entries.get(key) != value.as_ref()) {
            return Err(StoreError::Conflict);
        }
        for (key, value) in batch.writes {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }

    fn engine(&self) -> &'static str {
        "memory"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
