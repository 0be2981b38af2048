//! The lock of a data folder: only one process may have the folder open.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use super::open_error::OpenError;

pub(crate) const LOCK: &str = "lock";

/// A held lock; dropping it releases it. Closing the file would not be enough: a child process has the file, too, from its
/// start until it runs its program.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A failure: the lock ends with the last of the files.
        let _ = self.0.unlock();
    }
}

pub(crate) fn lock(dir: &Path) -> std::result::Result<Lock, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    hold(dir, File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(io)?)
}

/// As [`lock`], but opens the lock file read-only, because the system may have remounted the file system
/// read-only. `None` if there is no lock file.
pub(crate) fn lock_to_read(dir: &Path) -> std::result::Result<Option<Lock>, OpenError> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => hold(dir, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

fn hold(dir: &Path, file: File) -> std::result::Result<Lock, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_although_a_child_process_still_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(OpenError::Locked(_))));
        // As in a child that was just forked.
        let _inherited = held.0.try_clone().unwrap();
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
