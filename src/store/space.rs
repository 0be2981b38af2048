//! Room on the device. Engines behave badly on a full disk (sled cannot even be opened on one), so writes are refused while
//! there is still some room, and a reserve file is kept that can be given up to make more.
//!
//! ```text
//! free bytes   ... | margin: all writes | floor: only writes that make room | 0
//! reserve file       given up to open an engine that finds no room, or when writes that make room find none
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Result, StoreError};

const RESERVE: &str = "reserve";

/// Watches the device that holds a data folder. Clones share what they have found.
#[derive(Debug, Clone)]
pub(super) struct Space {
    folder: PathBuf,
    /// Free bytes below which writes are refused.
    margin: u64,
    /// Free bytes below which writes that make room are refused too.
    floor: u64,
    /// Size of the reserve file.
    reserve: u64,
    /// The device had less than the margin when it was last asked.
    short: Arc<AtomicBool>,
}

impl Space {
    /// Sizes follow the device: a small one keeps a smaller part back.
    pub fn watch(folder: &Path) -> io::Result<Space> {
        let device = rustix::fs::statvfs(folder)?;
        let total = device.f_blocks.saturating_mul(device.f_frsize);
        // To free its segments of 8 MiB, sled has to write some first: a small device keeps back a larger part for that.
        let margin = (total / 16).max((total / 8).min(32 << 20)).clamp(4 << 20, 64 << 20);
        Ok(Space {
            folder: folder.to_path_buf(),
            margin,
            floor: margin / 16,
            // To open, sled may fill up a segment of 8 MiB.
            reserve: (total / 8).min(16 << 20),
            short: Arc::default(),
        })
    }

    /// Free bytes for an unprivileged process.
    pub fn free(&self) -> io::Result<u64> {
        let device = rustix::fs::statvfs(&self.folder)?;
        Ok(device.f_bavail.saturating_mul(device.f_frsize))
    }

    /// `Full` if `more` bytes would eat into the margin.
    pub fn room_for(&self, more: u64) -> Result<()> {
        if self.missing(more) == 0 { Ok(()) } else { Err(StoreError::Full) }
    }

    /// How many bytes the device lacks to take `more` and keep the margin.
    pub fn missing(&self, more: u64) -> u64 {
        let missing = self.missing_to(self.margin, more);
        self.short.store(missing > 0, Ordering::Relaxed);
        missing
    }

    /// The same for what makes room in the end, which may use most of the margin.
    pub fn missing_to_free(&self, more: u64) -> u64 {
        self.missing_to(self.floor, more)
    }

    fn missing_to(&self, kept: u64, more: u64) -> u64 {
        // A device that cannot be asked is found full by the write itself.
        self.free().map_or(0, |free| kept.saturating_add(more).saturating_sub(free))
    }

    /// Whether the device had less than the margin when a write last asked for room.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Watches with a margin that lies `beyond` bytes above what is free now.
    #[cfg(test)]
    pub fn full(folder: &Path, beyond: u64) -> Space {
        let mut space = Space::watch(folder).unwrap();
        space.margin = space.free().unwrap() + beyond;
        space.floor = space.margin / 2;
        space
    }

    /// Makes sure that the reserve file has its size, if there is room for it and the margin. Returns whether it is there.
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
            tracing::warn!("cannot keep a reserve for a full disk: {error}");
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

/// Copies the files in `from` and below.
pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
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
