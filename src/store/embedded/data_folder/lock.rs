//! The lock of a data folder: only one process may have the folder open.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::open_error::OpenError;
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Entry, PageLimit, Result, Store};

pub(crate) const LOCK: &str = "lock";

pub(crate) fn lock(dir: &Path) -> std::result::Result<File, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    hold(dir, File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(io)?)
}

/// As [`lock`], but opens the lock file read-only, because the system may have remounted the file system
/// read-only. `None` if there is no lock file.
pub(crate) fn lock_to_read(dir: &Path) -> std::result::Result<Option<File>, OpenError> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => hold(dir, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

fn hold(dir: &Path, file: File) -> std::result::Result<File, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

/// A store that holds the folder's lock while it lives. Fields drop in order: the engine closes before the
/// lock is released.
pub(super) struct Locked {
    pub(super) inner: Box<dyn Store>,
    pub(super) _lock: Arc<File>,
}

impl Store for Locked {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.get_many(keys)
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        self.inner.get_each(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.inner.scan(range, direction, limit)
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        self.inner.keys(range, entries)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.inner.commit(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn ready(&self) -> Result<()> {
        self.inner.ready()
    }

    fn complete(&self) -> Result<()> {
        self.inner.complete()
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    fn is_short_of_room(&self) -> bool {
        self.inner.is_short_of_room()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn tell(&self, moved: &[u64]) {
        self.inner.tell(moved);
    }

    fn listen(&self, hear: crate::store::Hear) {
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
