//! The sled engine (0.34.7), hardened. No other file names sled, except `sled_log`, which reads its log.
//!
//! As shipped, sled loses acknowledged writes at a power cut, and sometimes the whole database. The
//! countermeasures:
//!
//! - On Linux, `flush()` does not reach the device. Every flush is followed by our own `fdatasync` of the
//!   `db` file.
//! - sled writes a leaf larger than a quarter of a segment to a separate file in `blobs/` that it never
//!   syncs. A leaf holds up to 17 entries. With segments of 8 MiB and values cut into chunks of at most 64
//!   KiB, no leaf comes near 2 MiB, so `blobs/` stays empty.
//! - A snapshot torn by a kill (`snap.*.generating`) makes the next open fail. It holds nothing that is
//!   needed, so it is deleted before sled opens.
//! - The directory entries of a new database are synced.
//! - Trees are expensive, so there is only one. Only sled's background flusher reclaims segments, so it is
//!   enabled.
//! - The file grows by whole segments and shrinks only at its end. sled reuses free segments before the file
//!   grows, but does not report how many there are. It fills free segments with zeros when it opens, so we
//!   count the zeroed ones.
//! - A batch is visible to readers before it is on disk, and stays visible after it failed. Until the batch
//!   is synced, readers get the values from before it (`in_flight`, an undo log of one batch).
//!
//! A large value is stored in chunks under keys that begin with 0xFF, and a head takes its place under its
//! own key:
//!
//! ```text
//! key                      0x01, chunk set (8 bytes), length (8), CRC-32 of key and the 17 bytes before (4)
//! 0xFF, chunk set, index   up to 64 KiB of the framed value
//! ```
//!
//! The process never reuses the number of a chunk set. A reader that finds a chunk missing therefore knows
//! that the value has been replaced, and reads the head again.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sled::IVec;

use super::backend::{Backend, Reclaiming, Visit, VisitIndexed, Writes};
use super::disk_space::{folder_bytes, make_dir, sync_dir};
use super::frame;
use super::mark::Mark;
use super::sled_log::{Survey, survey, unused};
use super::tally::{RECORD, Tally};
use crate::store::range::{KeyRange, is_empty};
use crate::store::{Direction, PageLimit, Result, StoreError};

/// Fixed when a database is created: sled refuses to open it with another size.
const SEGMENT: usize = 8 << 20;
/// Bytes of a segment's header. A segment that is in use has a header that is not all zeros.
const SEGMENT_HEADER: usize = 20;
/// The largest value handed to sled in one piece, in bytes.
const CHUNK: usize = 64 << 10;
/// How long the threads of a closed sled may take to release its files.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);
/// After this many attempts invalidated by concurrent batches, a scan blocks until the current batch is
/// written.
const OVERTAKEN: u32 = 4;
/// The first byte of a chunk's key.
const CHUNKS: u8 = 0xFF;
/// The tag of a chunked value's head (see `frame`).
const CHUNKED: u8 = 1;
const HEAD_LENGTH: usize = 1 + 8 + 8 + 4;

pub(crate) struct SledBackend {
    folder: PathBuf,
    cache_bytes: u64,
    /// What the log must hold. Checked before sled opens the log, because sled destroys what it cannot
    /// replay.
    mark: Arc<Mark>,
    open: RwLock<Option<Open>>,
    /// Undo log: the values from before the batch that is being written.
    in_flight: Mutex<Option<Arc<Before>>>,
    /// Incremented when a batch begins to be written, and again after a batch without a sync has been
    /// written. A scan during which it changes may have seen part of a batch and is repeated.
    begun: AtomicU64,
    /// Held for writing while a batch is written, so that a scan that was invalidated too often can wait for
    /// it.
    writing: RwLock<()>,
    /// Whether any value may be chunked. While none is, unsynced writes need not look for old chunks.
    any_chunks: AtomicBool,
    next_set: AtomicU64,
    /// The end of the log and the length of its file, taken before the last sync. sled's own threads keep
    /// writing: what they have written since may not be on the device, so the mark must not count it.
    durable: Mutex<(u64, u64)>,
}

struct Open {
    db: sled::Db,
    /// A second handle on sled's log file, for syncing it.
    log: File,
}

impl Open {
    /// The end of the log, and the length of its file.
    fn position(&self) -> (u64, u64) {
        // Only sled knows its stable position. The field is public in 0.34.7, but hidden from the docs.
        let stable = self.db.context.pagecache.log.stable_offset();
        (u64::try_from(stable).unwrap_or(0), self.log.metadata().map_or(0, |found| found.len()))
    }

    /// Syncs the log. Returns its end and its file's length from before the sync.
    fn sync(&self) -> std::io::Result<(u64, u64)> {
        let position = self.position();
        self.log.sync_data()?;
        Ok(position)
    }
}

/// Entries, and the last key if the range has more entries after it.
type Page = (Vec<(IVec, Value)>, Option<Vec<u8>>);

type Before = BTreeMap<Vec<u8>, Option<Value>>;

/// A framed value as it was read.
#[derive(Clone)]
enum Value {
    Whole(IVec),
    Joined(Arc<[u8]>),
    Bad(StoreError),
}

impl Value {
    fn bytes(&self) -> Result<&[u8]> {
        match self {
            Value::Whole(bytes) => Ok(bytes),
            Value::Joined(bytes) => Ok(bytes),
            Value::Bad(error) => Err(error.clone()),
        }
    }

    fn len(&self) -> usize {
        self.bytes().map_or(0, frame::length)
    }
}

impl SledBackend {
    pub fn open(folder: &Path, cache_bytes: u64, mark: Arc<Mark>) -> Result<SledBackend> {
        let backend = SledBackend {
            folder: folder.to_path_buf(),
            cache_bytes,
            mark,
            open: RwLock::new(None),
            in_flight: Mutex::new(None),
            begun: AtomicU64::new(0),
            writing: RwLock::new(()),
            any_chunks: AtomicBool::new(false),
            next_set: AtomicU64::new(0),
            durable: Mutex::default(),
        };
        backend.reopen()?;
        Ok(backend)
    }

    fn open_files(&self) -> Result<Open> {
        let io = |error: std::io::Error| super::disk_space::io_error("opening the sled store", &error);
        make_dir(&self.folder).map_err(io)?;
        for entry in std::fs::read_dir(&self.folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                std::fs::remove_file(&path).map_err(io)?;
            }
        }
        self.examine()?;
        let config = sled::Config::new()
            .path(&self.folder)
            .cache_capacity(self.cache_bytes)
            .segment_size(SEGMENT)
            .flush_every_ms(Some(500))
            .mode(sled::Mode::LowSpace);
        // sled panics where it could return an error, for example on a log that is damaged in its middle.
        let from = Instant::now();
        let db = loop {
            let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|_| {
                StoreError::Damaged("sled cannot read its files: it panicked while opening them".into())
            })?;
            match opened {
                // This process holds the folder's lock (see `open`), so sled's lock can only be held by a
                // thread of the sled that was just closed.
                Err(sled::Error::Io(error)) if is_locked(&error) && from.elapsed() < CLOSES_WITHIN => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => break opened.map_err(failure)?,
            }
        };
        let log = File::open(self.folder.join("db")).map_err(io)?;
        log.sync_all().map_err(io)?;
        File::open(self.folder.join("conf")).and_then(|conf| conf.sync_all()).map_err(io)?;
        sync_dir(&self.folder).map_err(io)?;
        if folder_bytes(&self.folder.join("blobs")) > 0
            && std::fs::read_dir(self.folder.join("blobs")).is_ok_and(|mut files| files.next().is_some())
        {
            tracing::warn!("sled has written values to {}/blobs, which it never syncs", self.folder.display());
        }
        Ok(Open { db, log })
    }

    /// Refuses a log that ends before what was durable, before sled opens it and destroys the rest.
    fn examine(&self) -> Result<()> {
        let io = |error: std::io::Error| super::disk_space::io_error("reading the sled log", &error);
        let reached = self.mark.reached();
        let found = survey(&self.folder, SEGMENT).map_err(io)?;
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
            self.mark.suspect(true).map_err(io)?;
        }
        Ok(())
    }

    fn with<T>(&self, act: impl FnOnce(&Open) -> Result<T>) -> Result<T> {
        match &*self.open.read() {
            Some(open) => act(open),
            None => Err(StoreError::Unavailable("the store is closed after a failure".into())),
        }
    }

    /// The value that sled holds now, joined if it is chunked.
    fn value(&self, open: &Open, key: &[u8]) -> Result<Option<Value>> {
        match open.db.get(key).map_err(failure)? {
            Some(stored) => self.join(open, key, stored),
            None => Ok(None),
        }
    }

    /// Returns the value, given `stored`, which is either the whole value or its head. `None` if the key was
    /// deleted while its chunks were read.
    fn join(&self, open: &Open, key: &[u8], mut stored: IVec) -> Result<Option<Value>> {
        loop {
            if stored.first() != Some(&CHUNKED) {
                return Ok(Some(Value::Whole(stored)));
            }
            let Some(head) = Head::read(key, &stored) else {
                return Ok(Some(Value::Bad(frame::damaged(key, "does not match its checksum"))));
            };
            if let Some(joined) = head.join(open)? {
                return Ok(Some(Value::Joined(joined)));
            }
            let Some(again) = open.db.get(key).map_err(failure)? else { return Ok(None) };
            if again == stored {
                return Ok(Some(Value::Bad(frame::damaged(key, "has lost a part of its value"))));
            }
            stored = again;
        }
    }

    fn before(&self) -> Option<Arc<Before>> {
        self.in_flight.lock().clone()
    }

    /// Returns a consistent page: it contains all writes of a batch or none. sled's own range iterator goes
    /// from leaf to leaf and sees the current content of each.
    fn page(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Page> {
        let mut overtaken = 0;
        loop {
            let _still = (overtaken >= OVERTAKEN).then(|| self.writing.read());
            let begun = self.begun.load(Ordering::SeqCst);
            let before = self.before();
            let (mut page, more) = self.with(|open| self.found(open, range, direction, limit))?;
            if self.begun.load(Ordering::SeqCst) != begun {
                overtaken += 1;
                continue;
            }
            let end = page.last().map(|(key, _)| key.to_vec()).filter(|_| more);
            if let Some(before) = before {
                undo(&mut page, &before, range, direction, end.as_deref());
            }
            return Ok((page, end));
        }
    }

    /// Returns a page of sled's current content, and whether the range has more entries after it.
    fn found(
        &self,
        open: &Open,
        range: &KeyRange,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<(Vec<(IVec, Value)>, bool)> {
        let mut found = open.db.range::<Vec<u8>, _>((range.0.clone(), range.1.clone()));
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < limit.entries && bytes < limit.bytes.max(1) {
            let next = match direction {
                Direction::Forward => found.next(),
                Direction::Backward => found.next_back(),
            };
            let Some(next) = next else { return Ok((page, false)) };
            let (key, stored) = match next.map_err(failure) {
                Ok(entry) => entry,
                // One of sled's pages is damaged: return the entries before it. The next page reports the
                // error.
                Err(StoreError::Damaged(_)) if !page.is_empty() => return Ok((page, true)),
                Err(error) => return Err(error),
            };
            if let Some(value) = self.join(open, &key, stored)? {
                bytes += key.len() + value.len();
                page.push((key, value));
            }
        }
        Ok((page, true))
    }
}

struct Head {
    set: u64,
    length: u64,
}

impl Head {
    fn read(key: &[u8], stored: &[u8]) -> Option<Head> {
        let stored: &[u8; HEAD_LENGTH] = stored.try_into().ok()?;
        let (head, sum) = stored.split_at(HEAD_LENGTH - 4);
        let number = |at: usize| head[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        (checksum(key, head) == *sum).then_some(Head { set: number(1)?, length: number(9)? })
    }

    fn write(&self, key: &[u8]) -> Vec<u8> {
        let mut head = vec![CHUNKED];
        head.extend_from_slice(&self.set.to_be_bytes());
        head.extend_from_slice(&self.length.to_be_bytes());
        head.extend_from_slice(&checksum(key, &head));
        head
    }

    fn chunk_keys(&self) -> impl Iterator<Item = [u8; 13]> {
        let set = self.set;
        (0..self.length.div_ceil(CHUNK as u64) as u32).map(move |index| {
            let mut key = [CHUNKS; 13];
            key[1..9].copy_from_slice(&set.to_be_bytes());
            key[9..].copy_from_slice(&index.to_be_bytes());
            key
        })
    }

    /// Reads all chunks. `None` if one is missing.
    fn join(&self, open: &Open) -> Result<Option<Arc<[u8]>>> {
        let mut joined = Vec::new();
        for key in self.chunk_keys() {
            match open.db.get(key).map_err(failure)? {
                Some(chunk) => joined.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        Ok(Some(joined.into()))
    }
}

fn checksum(key: &[u8], head: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(head);
    hasher.finalize().to_le_bytes()
}

impl Backend for SledBackend {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()> {
        let values = self.with(|open| keys.iter().map(|key| self.value(open, key)).collect::<Result<Vec<_>>>())?;
        // Fetched after the reads, so that it undoes all that they have seen of a batch in flight.
        let before = self.before();
        for (index, (key, value)) in keys.iter().zip(&values).enumerate() {
            let value = before.as_ref().and_then(|before| before.get(key)).unwrap_or(value);
            visit(index, value.as_ref().map(Value::bytes).transpose());
        }
        Ok(())
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit, visit: Visit<'_>) -> Result<()> {
        let mut range = clamp(range);
        loop {
            if is_empty(&range) {
                return Ok(());
            }
            let (page, end) = self.page(&range, direction, limit)?;
            for (key, value) in page.iter().take(limit.entries) {
                visit(key, value.bytes());
            }
            match end {
                // The batch in flight created every entry of the page: continue behind it.
                Some(end) if page.is_empty() => match direction {
                    Direction::Forward => range.0 = Bound::Excluded(end),
                    Direction::Backward => range.1 = Bound::Excluded(end),
                },
                _ => return Ok(()),
            }
        }
    }

    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.with(|open| {
            let mut any = false;
            for key in open.db.range::<Vec<u8>, _>(clamp(range)).keys().take(entries) {
                match key.map_err(failure) {
                    Ok(key) => visit(&key),
                    // As in a scan.
                    Err(StoreError::Damaged(_)) if any => break,
                    Err(error) => return Err(error),
                }
                any = true;
            }
            Ok(())
        })
    }

    fn apply(&self, writes: &Writes, sync: bool, tally: &mut Tally<'_>) -> Result<()> {
        self.with(|open| {
            let mut batch = sled::Batch::default();
            let mut before = Before::new();
            let look = sync || self.any_chunks.load(Ordering::Relaxed);
            for (key, value) in writes {
                if look || tally.needs(key) {
                    let old = open.db.get(key).map_err(failure)?;
                    let head = old.as_deref().and_then(|old| Head::read(key, old).filter(|_| old[0] == CHUNKED));
                    if let Some(head) = &head {
                        head.chunk_keys().for_each(|chunk| batch.remove(&chunk));
                    }
                    count(open, tally, key, old.as_ref(), head.as_ref(), value.as_deref())?;
                    if sync {
                        let old = old.map(|old| self.join(open, key, old)).transpose()?.flatten();
                        before.insert(key.clone(), old);
                    }
                }
                match value {
                    None => batch.remove(key.as_slice()),
                    Some(value) if value.len() <= CHUNK => batch.insert(key.as_slice(), value.as_slice()),
                    Some(value) => {
                        self.any_chunks.store(true, Ordering::Relaxed);
                        let set = self.next_set.fetch_add(1, Ordering::Relaxed);
                        let head = Head { set, length: value.len() as u64 };
                        for (chunk_key, chunk) in head.chunk_keys().zip(value.chunks(CHUNK)) {
                            batch.insert(&chunk_key, chunk);
                        }
                        batch.insert(key.as_slice(), head.write(key));
                    }
                }
            }
            batch.insert(RECORD, tally.record());
            let _writing = self.writing.write();
            if sync {
                *self.in_flight.lock() = Some(Arc::new(before));
            }
            self.begun.fetch_add(1, Ordering::SeqCst);
            let applied = open.db.apply_batch(batch).map_err(|error| begun(failure(error)));
            if !sync {
                self.begun.fetch_add(1, Ordering::SeqCst);
            }
            applied?;
            if sync {
                open.db.flush().map_err(|error| begun(failure(error)))?;
                let synced =
                    open.sync().map_err(|error| super::disk_space::io_error("syncing the sled log", &error))?;
                *self.durable.lock() = synced;
                // On any error above, `in_flight` stays and hides the writes of the failed batch until the
                // store is reopened.
                *self.in_flight.lock() = None;
            }
            Ok(())
        })
    }

    fn reopen(&self) -> Result<()> {
        let mut slot = self.open.write();
        *slot = None;
        let open = self.open_files()?;
        let last_chunk = open.db.range(vec![CHUNKS, 0]..).next_back().transpose().map_err(failure)?;
        self.any_chunks.store(last_chunk.is_some(), Ordering::Relaxed);
        if let Some(set) =
            last_chunk.and_then(|(key, _)| key.get(1..9)?.first_chunk().map(|set| u64::from_be_bytes(*set)))
        {
            self.next_set.fetch_max(set + 1, Ordering::Relaxed);
        }
        *self.in_flight.lock() = None;
        *self.durable.lock() =
            open.sync().map_err(|error| super::disk_space::io_error("syncing the sled log", &error))?;
        *slot = Some(open);
        Ok(())
    }

    fn position(&self) -> (u64, u64) {
        *self.durable.lock()
    }

    fn unused(&self) -> u64 {
        unused(&self.folder, SEGMENT).map_or(0, |unused| unused + 1)
    }

    /// Bytes of the segments that were free when sled opened and have not been used since. One segment is
    /// subtracted: the header of the one begun last may not be on disk yet.
    fn spare_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::FileExt;
        let io = |error: std::io::Error| super::disk_space::io_error("looking for free segments", &error);
        self.with(|open| {
            let segments = open.log.metadata().map_err(io)?.len() / SEGMENT as u64;
            let mut free = 0_u64;
            for segment in 0..segments {
                let mut header = [0; SEGMENT_HEADER];
                open.log.read_exact_at(&mut header, segment * SEGMENT as u64).map_err(io)?;
                free += u64::from(header == [0; SEGMENT_HEADER]);
            }
            Ok(free.saturating_sub(1) * SEGMENT as u64)
        })
    }

    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Reopening
    }

    fn disk_bytes(&self) -> u64 {
        folder_bytes(&self.folder)
    }
}

impl Drop for SledBackend {
    fn drop(&mut self) {
        if let Some(open) = self.open.get_mut().take() {
            // Flushes the last relaxed writes. Acknowledged synced writes are on disk already.
            let synced = open.db.flush().map_err(failure).and_then(|_| {
                open.log.sync_data().map_err(|error| super::disk_space::io_error("syncing the sled log", &error))
            });
            if let Err(error) = synced {
                tracing::warn!("the store could not be synced while closing: {error}");
            }
        }
    }
}

/// Counts the value that a write replaces. Of a chunked value, only the first chunk is read: it holds the
/// checksum.
fn count(
    open: &Open,
    tally: &mut Tally<'_>,
    key: &[u8],
    old: Option<&IVec>,
    head: Option<&Head>,
    new: Option<&[u8]>,
) -> Result<()> {
    match (old, head) {
        (Some(_), Some(head)) => match head.chunk_keys().next().map(|chunk| open.db.get(chunk)).transpose() {
            Ok(Some(Some(first))) => tally.replaces_part(key, Some((&first, head.length as usize)), new),
            Ok(_) => {
                tally.loses_track();
                tally.replaces(key, None, new);
            }
            Err(error) => return Err(failure(error)),
        },
        (old, _) => tally.replaces(key, old.map(AsRef::as_ref), new),
    }
    Ok(())
}

/// The range without the keys of chunks.
fn clamp(range: &KeyRange) -> KeyRange {
    let high = match &range.1 {
        Bound::Unbounded => Bound::Excluded(vec![CHUNKS]),
        bounded => bounded.clone(),
    };
    (range.0.clone(), high)
}

/// Replaces the values that a batch in flight has written by those from `before`. `end` is the page's last
/// key if the range has more entries after the page.
fn undo(page: &mut Vec<(IVec, Value)>, before: &Before, range: &KeyRange, direction: Direction, end: Option<&[u8]>) {
    let bound = |end: &[u8]| Bound::Included(end.to_vec());
    let covered = match (direction, end) {
        (Direction::Forward, Some(end)) => (range.0.clone(), bound(end)),
        (Direction::Backward, Some(end)) => (bound(end), range.1.clone()),
        (_, None) => range.clone(),
    };
    if before.range::<Vec<u8>, _>((covered.0.as_ref(), covered.1.as_ref())).next().is_none() {
        return;
    }
    page.retain(|(key, _)| !before.contains_key(key.as_ref()));
    for (key, value) in before.range::<Vec<u8>, _>((covered.0.as_ref(), covered.1.as_ref())) {
        if let Some(value) = value {
            page.push((IVec::from(key.as_slice()), value.clone()));
        }
    }
    page.sort_by(|(left, _), (right, _)| left.cmp(right));
    if direction == Direction::Backward {
        page.reverse();
    }
}

/// sled wraps the system's error in a text of its own, so only the text can be matched.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Converts the error of a write. `Damaged` would mean that nothing was begun, so it becomes `Unavailable`.
fn begun(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged(what) => StoreError::Unavailable(what),
        error => error,
    }
}

fn failure(error: sled::Error) -> StoreError {
    match error {
        // sled reads a page beyond the end of its file: the file was truncated.
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged("a page of the sled log lies beyond the end of its file".into())
        }
        sled::Error::Io(error) => super::disk_space::io_error("sled", &error),
        sled::Error::Corruption { at, .. } => StoreError::Damaged(format!("a page of the sled log (at {at:?})")),
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::embedded::committer::Committer;
    use crate::store::embedded::frame::Frames;
    use crate::store::embedded::tally::Totals;
    use crate::store::{Batch, Durability, Store};

    #[test]
    fn the_durable_position_is_the_one_from_before_the_last_sync() {
        let dir = tempfile::tempdir().unwrap();
        let backend = SledBackend::open(dir.path(), 16 << 20, Arc::default()).unwrap();
        let frames = Frames::default();
        let writes = Writes::from([(b"k".to_vec(), Some(vec![7; 1000]))]);
        backend.apply(&writes, true, &mut Tally::after(&Totals::default(), &frames)).unwrap();
        let synced = backend.position();
        assert!(synced.0 > 1000, "{synced:?}");
        // sled's own threads may do the same at any time.
        backend
            .with(|open| {
                open.db.insert(b"l", vec![7; 1000]).unwrap();
                open.db.flush().unwrap();
                assert!(open.position().0 > synced.0 + 1000);
                Ok(())
            })
            .unwrap();
        assert_eq!(backend.position(), synced, "a power cut may lose what was written since");
        backend.apply(&writes, true, &mut Tally::after(&Totals::default(), &frames)).unwrap();
        assert!(backend.position().0 > synced.0 + 1000);
    }

    /// Opens the store with its mark.
    fn open(dir: &Path) -> Result<Committer<SledBackend>> {
        let mark = Arc::new(Mark::open(dir, 1).unwrap());
        let backend = SledBackend::open(&dir.join("store"), 16 << 20, mark.clone())?;
        Committer::marked(backend, Frames::default(), None, mark)
    }

    #[test]
    fn a_zeroed_segment_is_not_mistaken_for_a_free_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for number in 0..40u32 {
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
            for part in 0..20u32 {
                let key = [&b"k"[..], &number.to_be_bytes(), &part.to_be_bytes()].concat();
                batch.put(key, (0..60_000).map(|at| (at * number + part) as u8).collect());
            }
            store.commit(batch).unwrap();
        }
        store.commit(Batch::new()).unwrap();
        drop(store);
        drop(open(dir.path()).unwrap());
        let path = dir.path().join("store/db");
        let whole = std::fs::read(&path).unwrap();
        let snapshots = |dir: &Path| {
            let files = std::fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
        };
        let before: Vec<(PathBuf, Vec<u8>)> = snapshots(dir.path());
        let mark = std::fs::read(dir.path().join("mark-1")).unwrap();
        let mut refused = 0;
        for slot in 0..whole.len() / SEGMENT {
            for (path, bytes) in &before {
                std::fs::write(path, bytes).unwrap();
            }
            std::fs::write(dir.path().join("mark-1"), &mark).unwrap();
            let zeroed = whole[slot * SEGMENT..][..SEGMENT].iter().all(|byte| *byte == 0);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&vec![0; SEGMENT], (slot * SEGMENT) as u64).unwrap();
            match open(dir.path()) {
                Ok(store) => assert!(zeroed || store.complete().is_ok(), "the loss of segment {slot} goes unnoticed"),
                Err(StoreError::Damaged(_)) => refused += 1,
                Err(error) => panic!("segment {slot}: {error}"),
            }
        }
        assert!(refused > 2, "{refused}");
    }
}
