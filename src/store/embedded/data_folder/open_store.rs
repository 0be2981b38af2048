//! The store of an open data folder: holds the folder's lock, and can replace its files while it is in use.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::lock::Lock;
use super::marker::Marker;
use crate::store::crypto::cipher::FolderKeys;
use crate::store::disk_space::Space;
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Entry, Hear, PageLimit, Result, Store, StoreError};

/// Bytes of the keys that a rewrite remembers at most.
const REMEMBERED: usize = 32 << 20;
/// What a remembered key takes beside its bytes: about so many bytes.
const KEY_OVERHEAD: usize = 64;

/// Where a store is, and what is needed to write another one in its place.
pub(crate) struct Home {
    pub dir: PathBuf,
    /// What `format.toml` says.
    pub marker: Marker,
    pub keys: Option<FolderKeys>,
    /// See [`Options::cache_bytes`](super::open::Options::cache_bytes).
    pub cache_bytes: Option<u64>,
    pub space: Space,
}

/// A store that holds the folder's lock while it lives. Fields drop in order: the engine closes before the lock is
/// released.
pub(crate) struct OpenStore {
    /// Every call holds it for reading while it is at work.
    pub(in crate::store::embedded) live: RwLock<Box<dyn Store>>,
    /// Locked for as long as a rewrite takes.
    pub(in crate::store::embedded) home: Mutex<Home>,
    /// Held for reading by every commit.
    pub(in crate::store::embedded) commits: RwLock<()>,
    /// Whether commits note their keys in `changed`.
    pub(in crate::store::embedded) noting: AtomicBool,
    pub(in crate::store::embedded) changed: Mutex<Changed>,
    /// Why commits are refused until the folder is opened again.
    pub(in crate::store::embedded) refused: OnceLock<StoreError>,
    /// What the replaced stores have added to the generation.
    pub(in crate::store::embedded) generations: AtomicU64,
    _lock: Lock,
}

/// The keys that commits have written while the store is rewritten.
#[derive(Default)]
pub(in crate::store::embedded) struct Changed {
    pub keys: BTreeSet<Vec<u8>>,
    bytes: usize,
    /// There were too many keys: some are not in `keys`.
    pub overflowed: bool,
    /// A commit has failed, and may have written something.
    pub failed: bool,
}

impl Changed {
    fn note(&mut self, keys: Vec<Vec<u8>>) {
        for key in keys {
            if self.bytes > REMEMBERED {
                self.overflowed = true;
                return;
            }
            let bytes = key.len() + KEY_OVERHEAD;
            if self.keys.insert(key) {
                self.bytes += bytes;
            }
        }
    }

    /// Forgets the keys after `last`.
    pub fn forget_after(&mut self, last: &[u8]) {
        let mut later = self.keys.split_off(last);
        if let Some(last) = later.take(last) {
            self.keys.insert(last);
        }
        self.bytes -= later.iter().map(|key| key.len() + KEY_OVERHEAD).sum::<usize>();
    }

    /// Removes the keys and returns them.
    pub fn take(&mut self) -> BTreeSet<Vec<u8>> {
        self.bytes = 0;
        std::mem::take(&mut self.keys)
    }
}

impl OpenStore {
    pub fn new(live: Box<dyn Store>, home: Home, lock: Lock) -> OpenStore {
        OpenStore {
            live: RwLock::new(live),
            home: Mutex::new(home),
            commits: RwLock::default(),
            noting: AtomicBool::new(false),
            changed: Mutex::default(),
            refused: OnceLock::new(),
            generations: AtomicU64::new(0),
            _lock: lock,
        }
    }
}

impl Store for OpenStore {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.live.read().get_many(keys)
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        self.live.read().get_each(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.live.read().scan(range, direction, limit)
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        self.live.read().keys(range, entries)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let _commit = self.commits.read();
        if let Some(why) = self.refused.get() {
            return Err(why.clone());
        }
        let noting = self.noting.load(Ordering::Acquire);
        let keys = noting.then(|| batch.writes.iter().map(|(key, _)| key.clone()).collect());
        let committed = self.live.read().commit(batch);
        // After the commit: a value that was copied before it is copied again. A commit that failed may have had an
        // effect.
        if let Some(keys) = keys {
            let mut changed = self.changed.lock();
            changed.note(keys);
            changed.failed |= matches!(committed, Err(StoreError::Unavailable(_) | StoreError::Full));
        }
        committed
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.live.read().get(key)
    }

    fn recent(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.live.try_read()?.recent(key)
    }

    fn ready(&self) -> Result<()> {
        self.live.read().ready()?;
        self.refused.get().cloned().map_or(Ok(()), Err)
    }

    fn complete(&self) -> Result<()> {
        self.live.read().complete()
    }

    fn digest(&self) -> Option<(u64, u64)> {
        self.live.read().digest()
    }

    fn generation(&self) -> u64 {
        let live = self.live.read();
        self.generations.load(Ordering::SeqCst) + live.generation()
    }

    fn is_short_of_room(&self) -> bool {
        self.live.read().is_short_of_room()
    }

    fn is_shared(&self) -> bool {
        self.live.read().is_shared()
    }

    fn tell(&self, moved: &[u64]) {
        self.live.read().tell(moved);
    }

    fn listen(&self, hear: Hear) {
        self.live.read().listen(hear);
    }

    fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.live.read().lease(name, owner, ttl)
    }

    fn turn(&self, number: u64) -> Option<Box<dyn Send>> {
        self.live.read().turn(number)
    }

    fn epoch(&self) -> Result<u64> {
        self.live.read().epoch()
    }

    fn rewrite(&self, stop: &dyn Fn() -> bool) -> Result<Option<(u64, u64)>> {
        self.rewrite_in_use(stop).map(Some)
    }

    fn engine(&self) -> &'static str {
        self.live.read().engine()
    }

    fn disk_bytes(&self) -> u64 {
        self.live.read().disk_bytes()
    }
}
