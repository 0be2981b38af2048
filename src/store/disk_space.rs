//! Free space on the disk. Engines behave badly on a full disk (sled cannot even be opened on one), so writes
//! are refused while some space is left. A reserve file holds more space, to be released in need.
//!
//! ```text
//! free bytes   ... | margin: all writes | floor: only writes that free space | 0
//! reserve file       released to open an engine that finds no room, or for a write that frees space
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::{Result, StoreError};

pub(crate) const RESERVE: &str = "reserve";

/// Watches the file system that holds a data folder. Clones share the result of the last check.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    folder: PathBuf,
    /// Writes are refused when fewer bytes than this are free.
    margin: u64,
    /// Writes that free space are refused too when fewer bytes than this are free.
    floor: u64,
    /// Size of the reserve file in bytes.
    reserve: u64,
    /// Whether less than the margin was free at the last check.
    short: Arc<AtomicBool>,
}

impl Space {
    /// Watches the file system of `folder`. Margin and reserve depend on its size.
    pub fn watch(folder: &Path) -> io::Result<Space> {
        let device = rustix::fs::statvfs(folder)?;
        let total = device.f_blocks.saturating_mul(device.f_frsize);
        // sled has to write some segments (up to 8 MiB each) before it can free others, so a small disk keeps a larger
        // part.
        let margin = (total / 16).max((total / 8).min(32 << 20)).clamp(4 << 20, 64 << 20);
        Ok(Space {
            folder: folder.to_path_buf(),
            margin,
            floor: margin / 16,
            // On open, sled may fill up a segment of 8 MiB.
            reserve: (total / 8).min(16 << 20),
            short: Arc::default(),
        })
    }

    /// Bytes that are free for an unprivileged process.
    pub fn free(&self) -> io::Result<u64> {
        let device = rustix::fs::statvfs(&self.folder)?;
        Ok(device.f_bavail.saturating_mul(device.f_frsize))
    }

    /// `Full` if writing `more` bytes would leave less than the margin free.
    pub fn room_for(&self, more: u64) -> Result<()> {
        if self.missing(more) == 0 { Ok(()) } else { Err(StoreError::Full) }
    }

    /// How many bytes are missing to write `more` and keep the margin. Updates [`Space::is_short`].
    pub fn missing(&self, more: u64) -> u64 {
        let missing = self.missing_to(self.margin, more);
        self.short.store(missing > 0, Ordering::Relaxed);
        missing
    }

    /// Whether `bytes` are free, with those of the reserve file.
    pub fn has(&self, bytes: u64) -> bool {
        let reserve = std::fs::metadata(self.folder.join(RESERVE)).map_or(0, |found| found.len());
        self.missing_to(0, bytes) <= reserve
    }

    /// As [`Space::missing`], for a write that frees space in the end: it may use the margin down to the
    /// floor.
    pub fn missing_to_free(&self, more: u64) -> u64 {
        self.missing_to(self.floor, more)
    }

    fn missing_to(&self, kept: u64, more: u64) -> u64 {
        // If the file system cannot be queried, the write itself will find out.
        self.free().map_or(0, |free| kept.saturating_add(more).saturating_sub(free))
    }

    /// Whether less than twice the margin is free: work that can wait must not take more.
    pub fn is_nearly_short(&self) -> bool {
        self.missing_to(2 * self.margin, 0) > 0
    }

    /// Whether less than the margin was free when a write last needed space.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Watches with a margin of `beyond` bytes more than are free now.
    #[cfg(test)]
    pub fn full(folder: &Path, beyond: u64) -> Space {
        let mut space = Space::watch(folder).unwrap();
        space.margin = space.free().unwrap() + beyond;
        space.floor = space.margin / 2;
        space
    }

    /// Creates the reserve file, if there is room for it above the margin. Returns whether the file exists in
    /// its full size.
    pub fn keep_reserve(&self) -> bool {
        let path = self.folder.join(RESERVE);
        if std::fs::metadata(&path).is_ok_and(|found| found.len() >= self.reserve) {
            return true;
        }
        if self.missing_to(self.margin, self.reserve) > 0 {
            return false;
        }
        let written = self.write_reserve(&path);
        if let Err(error) = &written {
            let _ = std::fs::remove_file(&path);
            tracing::warn!("cannot write the reserve file, which is kept for a full disk: {error}");
        }
        written.is_ok()
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

    /// Removes the reserve file. Returns whether there was one.
    pub fn release_reserve(&self) -> bool {
        std::fs::remove_file(self.folder.join(RESERVE)).is_ok()
    }
}

/// Returns the first position from `at` on that holds data, or the end of the file. A file system without
/// holes has data everywhere.
pub(crate) fn next_data(file: &File, at: u64) -> io::Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NXIO) => return Ok(file.metadata()?.len()),
        Err(_) => {}
    }
    Ok(at)
}

/// Converts an I/O error that occurred while doing `what`.
pub(crate) fn io_error(what: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Unavailable(format!("{what}: {error}")),
    }
}

/// Syncs a directory, so that entries created, renamed or removed in it are durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory and its missing parents, for their owner only, and syncs each in its parent.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(parent)?;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// Copies the files of `from`, recursively.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    make_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// Bytes on disk of the files in `path`, recursively.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
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
