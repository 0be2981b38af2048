//! The lock of a data folder: only one process may have the folder open.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use super::open_error::OpenError;

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
