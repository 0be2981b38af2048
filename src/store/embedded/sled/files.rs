//! Opens sled's files, after checking that the log holds everything that was durable.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::Dir;

use super::error::{failure, is_locked};
use super::log::{Survey, survey};
use crate::store::disk_space::{io_error, make_dir, sync_dir};
use crate::store::embedded::mark::Mark;
use crate::store::{Result, StoreError};

/// Bytes of a segment of a new log; fixed when the log is created. sled keeps up to six segments in memory. It writes a
/// page larger than a quarter of a segment to a separate file, and does not sync that file. Chunks keep leaves smaller
/// (see `value`); [`Open::sync`] syncs the files of inner nodes with long keys.
pub(super) const SEGMENT: usize = 2 << 20;
/// How long the threads of a closed sled may take to release its files.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Open {
    pub(super) db: sled::Db,
    /// A second handle on sled's log file, for syncing it.
    pub(super) log: File,
    /// Bytes of a segment of the log.
    pub(super) segment: usize,
    large: Mutex<LargePages>,
}

/// sled's folder `blobs/`, for pages that are too large for its log.
struct LargePages {
    folder: PathBuf,
    /// Kept open: a commit must not fail because the process has no file descriptor left.
    listing: Dir,
    /// The names of the files that are synced.
    synced: HashSet<OsString>,
}

impl Open {
    /// The end of the log, and the length of its file.
    pub(super) fn position(&self) -> (u64, u64) {
        // Only sled knows its stable position. The field is public in 0.34.7, but hidden from the docs.
        let stable = self.db.context.pagecache.log.stable_offset();
        (u64::try_from(stable).unwrap_or(0), self.log.metadata().map_or(0, |found| found.len()))
    }

    /// Syncs the large pages, then the log. Returns the log's end and its file's length from before the sync.
    pub(super) fn sync(&self) -> io::Result<(u64, u64)> {
        let position = self.position();
        self.large.lock().sync()?;
        self.log.sync_data()?;
        Ok(position)
    }

    /// Files beside the log that [`Open::sync`] has not synced.
    #[cfg(test)]
    pub(super) fn unsynced(&self) -> io::Result<usize> {
        let mut large = self.large.lock();
        Ok(large.names()?.difference(&large.synced).count())
    }
}

impl LargePages {
    fn open(folder: PathBuf) -> io::Result<LargePages> {
        let listing = Dir::new(File::open(&folder)?)?;
        Ok(LargePages { folder, listing, synced: HashSet::new() })
    }

    fn names(&mut self) -> io::Result<HashSet<OsString>> {
        self.listing.rewind();
        let mut names = HashSet::new();
        while let Some(entry) = self.listing.read() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    fn sync(&mut self) -> io::Result<()> {
        let names = self.names()?;
        if !names.is_subset(&self.synced) {
            for name in names.difference(&self.synced) {
                match File::open(self.folder.join(name)).and_then(|file| file.sync_all()) {
                    // sled has removed the file meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    synced => synced?,
                }
            }
            sync_dir(&self.folder)?;
        }
        self.synced = names;
        Ok(())
    }
}

/// Bytes of a segment of the log in `folder`, which sled has written into its file `conf`.
pub(super) fn segment_bytes(folder: &Path) -> io::Result<usize> {
    let conf = match std::fs::read(folder.join("conf")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SEGMENT),
        conf => conf?,
    };
    let lines = String::from_utf8_lossy(&conf);
    let size = lines.lines().find_map(|line| line.strip_prefix("segment_size: ")?.parse().ok());
    // sled itself refuses a `conf` that it has not written.
    Ok(size.filter(|size: &usize| size.is_power_of_two() && (256..=16 << 20).contains(size)).unwrap_or(SEGMENT))
}

/// Opens sled and a second handle on its log. Refuses a log that has lost what was durable.
pub(super) fn open_files(folder: &Path, cache_bytes: u64, mark: &Mark) -> Result<Open> {
    let io = |error: io::Error| io_error("opening the sled store", &error);
    make_dir(folder).map_err(io)?;
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path).map_err(io)?;
        }
    }
    let segment = segment_bytes(folder).map_err(io)?;
    examine(folder, segment, mark)?;
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(cache_bytes)
        .segment_size(segment)
        .flush_every_ms(Some(500))
        .mode(sled::Mode::LowSpace);
    // sled panics where it could return an error, for example on a log that is damaged in its middle.
    let from = Instant::now();
    let db = loop {
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| StoreError::Damaged("sled cannot read its files: it panicked while opening them".into()))?;
        match opened {
            // This process holds the folder's lock (see `data_folder::lock`), so sled's lock can only be held
            // by a thread of the sled that was just closed.
            Err(sled::Error::Io(error)) if is_locked(&error) && from.elapsed() < CLOSES_WITHIN => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => break opened.map_err(failure)?,
        }
    };
    let log = File::open(folder.join("db")).map_err(io)?;
    log.sync_all().map_err(io)?;
    File::open(folder.join("conf")).and_then(|conf| conf.sync_all()).map_err(io)?;
    sync_dir(folder).map_err(io)?;
    let large = LargePages::open(folder.join("blobs")).map_err(io)?;
    Ok(Open { db, log, segment, large: Mutex::new(large) })
}

/// Refuses a log that ends short of the mark's position. Runs before sled opens the log and destroys the rest.
fn examine(folder: &Path, segment: usize, mark: &Mark) -> Result<()> {
    let io = |error: io::Error| io_error("reading the sled log", &error);
    let reached = mark.reached();
    let found = survey(folder, segment).map_err(io)?;
    let end = found.map_or(0, |found| found.end);
    if end < reached.position {
        return Err(StoreError::Damaged(format!(
            "its log is readable up to byte {end} only, but was durable up to byte {}",
            reached.position
        )));
    }
    let suspect = |found: Survey| {
        let zeroed = match reached.unused {
            0 => found.gaps && found.unused > 0,
            before => found.unused >= before,
        };
        !found.whole || found.length < reached.length || zeroed
    };
    if found.is_some_and(suspect) {
        mark.suspect(true).map_err(io)?;
    }
    Ok(())
}
