//! A store with a second writer, for tests: it commits just before a commit of the code under test.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::range::KeyRange;
use super::{Batch, Direction, Entry, PageLimit, Result, Store};

/// Wraps a store; before each commit that touches one key, the second writer changes that key.
pub struct Rival {
    inner: Arc<dyn Store>,
    key: Vec<u8>,
    values: Mutex<VecDeque<Vec<u8>>>,
}

impl Rival {
    /// Wraps `inner`. The second writer writes nothing until [`Rival::writes_next`] is called.
    pub fn new(inner: Arc<dyn Store>, key: &[u8]) -> Rival {
        Rival { inner, key: key.to_vec(), values: Mutex::default() }
    }

    /// The next commits that touch the key each find that the second writer has just written one of `values`.
    pub fn writes_next<V: AsRef<[u8]>>(&self, values: impl IntoIterator<Item = V>) {
        self.values.lock().extend(values.into_iter().map(|value| value.as_ref().to_vec()));
    }
}

impl Store for Rival {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.get_many(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.inner.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        if batch.writes.iter().any(|(key, _)| *key == self.key)
            && let Some(value) = self.values.lock().pop_front()
        {
            let mut rival = Batch::new();
            rival.put(self.key.clone(), value);
            self.inner.commit(rival)?;
        }
        self.inner.commit(batch)
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn tell(&self, moved: &[u64]) {
        self.inner.tell(moved);
    }

    fn listen(&self, hear: super::Hear) {
        self.inner.listen(hear);
    }

    fn lease(&self, name: &str, owner: &str, ttl: std::time::Duration) -> Result<bool> {
        self.inner.lease(name, owner, ttl)
    }

    fn turn(&self, number: u64) -> Option<Box<dyn Send>> {
        self.inner.turn(number)
    }

    fn epoch(&self) -> Result<u64> {
        self.inner.epoch()
    }

    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}
