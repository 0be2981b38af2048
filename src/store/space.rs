//! Room on the device. Engines behave badly on a full disk (sled cannot even be opened on one), so writes are refused while
//! there is still some room, and a reserve file is kept that can be given up to make more.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Result, StoreError};

const RESERVE: &str = "reserve";

/// Watches the device that holds a data folder.
#[derive(Debug, Clone)]
pub(super) struct Space {
    folder: PathBuf,
    /// Free bytes below which writes are refused.
    margin: u64,
    /// Size of the reserve file.
    reserve: u64,
}

impl Space {
    /// Sizes follow the device: a small one keeps a smaller part back.
    pub fn watch(folder: &Path) -> io::Result<Space> {
        let device = rustix::fs::statvfs(folder)?;
        let total = device.f_blocks.saturating_mul(device.f_frsize);
        Ok(Space {
            folder: folder.to_path_buf(),
            margin: (total / 16).clamp(4 << 20, 64 << 20),
            // To open, sled may fill up a segment of 8 MiB.
            reserve: (total / 8).min(16 << 20),
        })
    }

    /// Free bytes for an unprivileged process.
    pub fn free(&self) -> io::Result<u64> {
        let device = rustix::fs::statvfs(&self.folder)?;
        Ok(device.f_bavail.saturating_mul(device.f_frsize))
    }

    /// `Full` if `more` bytes would eat into the margin.
    pub fn room_for(&self, more: u64) -> Result<()> {
        self.room_beyond(self.margin, more)
    }

    /// The same for what makes room in the end: half of the margin is enough.
    pub fn room_to_free(&self, more: u64) -> Result<()> {
        self.room_beyond(self.margin / 2, more)
    }

    fn room_beyond(&self, margin: u64, more: u64) -> Result<()> {
        match self.free() {
            Ok(free) if free < margin.saturating_add(more) => Err(StoreError::Full),
            // A device that cannot be asked is found full by the write itself.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Watches with a margin that lies `beyond` bytes above what is free now.
    #[cfg(test)]
    pub fn full(folder: &Path, beyond: u64) -> Space {
        let mut space = Space::watch(folder).unwrap();
        space.margin = space.free().unwrap() + beyond;
        space
    }

    /// Makes sure that the reserve file has its size, if there is room for it and the margin.
    pub fn keep_reserve(&self) {
        let path = self.folder.join(RESERVE);
        if std::fs::metadata(&path).is_ok_and(|found| found.len() >= self.reserve)
            || self.room_for(self.reserve).is_err()
        {
            return;
        }
        if let Err(error) = self.write_reserve(&path) {
            let _ = std::fs::remove_file(&path);
            tracing::warn!("cannot keep a reserve for a full disk: {error}");
        }
    }

    fn write_reserve(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.reserve).is_err() {
            let zeros = vec![0; 1 << 20];
            for _ in 0..self.reserve >> 20 {
                file.write_all(&zeros)?;
            }
        }
        file.sync_all()
    }

    /// Gives the reserve up. Returns whether there was one.
    pub fn release_reserve(&self) -> bool {
        std::fs::remove_file(self.folder.join(RESERVE)).is_ok()
    }
}

/// Where the file has data again, from `at` on, or its end. A file system that knows no holes has data everywhere.
pub(super) fn next_data(file: &File, at: u64) -> io::Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NXIO) => return Ok(file.metadata()?.len()),
        Err(_) => {}
    }
    Ok(at)
}

/// The store's error for an I/O error while doing `what`.
pub(super) fn io_error(what: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Unavailable(format!("{what}: {error}")),
    }
}

/// Syncs a directory, so that the names made, moved or removed in it last.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and everything above it that is missing, each synced in its parent.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// Bytes of the files in `path` and below.
pub(super) fn folder_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += folder_bytes(&entry.path()),
            Ok(found) => bytes += found.blocks() * 512,
            Err(_) => {}
        }
    }
    bytes
}
