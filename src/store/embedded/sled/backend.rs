//! The engine: reads, scans and batches.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use sled::IVec;

use super::error::failure;
use super::files::{Open, open_files, segment_bytes};
use super::log::{SEGMENT_HEADER, unused};
use super::undo::{Before, undo};
use super::value::{CHUNK, CHUNKS, Head, Value, join, value};
use crate::store::disk_space::{folder_bytes, io_error};
use crate::store::embedded::backend::{Backend, Reclaiming, Visit, VisitIndexed, Writes, begun, closed};
use crate::store::embedded::mark::Mark;
use crate::store::embedded::tally::Tally;
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::{TOTALS, clamp};
use crate::store::{Direction, PageLimit, Result, StoreError};

/// After this many attempts invalidated by concurrent batches, a scan blocks until the current batch is
/// written.
const OVERTAKEN: u32 = 4;

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

/// After so many bytes, a scan accesses the leaf at which it is once more. sled counts accesses to its cache, not bytes, and
/// a scan accesses each leaf once, whatever its size.
const BYTES_OF_ACCESS: usize = CHUNK;

/// Entries, and the last key if the range has more entries after it.
type Page = (Vec<(IVec, Value)>, Option<Vec<u8>>);

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

    pub(super) fn with<T>(&self, act: impl FnOnce(&Open) -> Result<T>) -> Result<T> {
        match &*self.open.read() {
            Some(open) => act(open),
            None => Err(closed()),
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
        let (mut bytes, mut accessed) = (0, 0);
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
            // The chunks of a value are accessed when they are joined.
            accessed += key.len() + stored.len();
            if accessed >= BYTES_OF_ACCESS {
                open.db.contains_key(&key).map_err(failure)?;
                accessed = 0;
            }
            if let Some(value) = join(open, &key, stored)? {
                bytes += key.len() + value.len();
                page.push((key, value));
            }
        }
        Ok((page, true))
    }
}

impl Backend for SledBackend {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()> {
        let (values, before) = self.with(|open| {
            let values = keys.iter().map(|key| value(open, key)).collect::<Result<Vec<_>>>()?;
            // Fetched after the reads, so that it undoes all that they have seen of a batch in flight; and before the engine
            // can be reopened, which ends that batch.
            Ok((values, self.before()))
        })?;
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
                    let head = old.as_deref().and_then(|old| Head::read(key, old));
                    if let Some(head) = &head {
                        head.chunk_keys().for_each(|chunk| batch.remove(&chunk));
                    }
                    count(open, tally, key, old.as_ref(), head.as_ref(), value.as_deref())?;
                    if sync {
                        let old = old.map(|old| join(open, key, old)).transpose()?.flatten();
                        before.insert(key.clone(), old);
                    }
                }
                match value {
                    None => batch.remove(key.as_slice()),
                    Some(value) if value.len() <= CHUNK => batch.insert(key.as_slice(), value.as_slice()),
                    Some(value) => {
                        self.any_chunks.store(true, Ordering::Relaxed);
                        let set = self.next_set.fetch_add(1, Ordering::Relaxed);
                        let head = Head::new(set, value.len());
                        for (chunk_key, chunk) in head.chunk_keys().zip(value.chunks(CHUNK)) {
                            batch.insert(&chunk_key, chunk);
                        }
                        batch.insert(key.as_slice(), head.write(key));
                    }
                }
            }
            batch.insert(TOTALS, tally.record());
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
                let synced = open.sync().map_err(|error| io_error("syncing the sled log", &error))?;
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
        let open = open_files(&self.folder, self.cache_bytes, &self.mark)?;
        let last_chunk = open.db.range(vec![CHUNKS, 0]..).next_back().transpose().map_err(failure)?;
        self.any_chunks.store(last_chunk.is_some(), Ordering::Relaxed);
        if let Some(set) =
            last_chunk.and_then(|(key, _)| key.get(1..9)?.first_chunk().map(|set| u64::from_be_bytes(*set)))
        {
            self.next_set.fetch_max(set + 1, Ordering::Relaxed);
        }
        *self.in_flight.lock() = None;
        *self.durable.lock() = open.sync().map_err(|error| io_error("syncing the sled log", &error))?;
        *slot = Some(open);
        Ok(())
    }

    fn position(&self) -> (u64, u64) {
        *self.durable.lock()
    }

    fn unused(&self) -> u64 {
        let unused = segment_bytes(&self.folder).and_then(|segment| unused(&self.folder, segment));
        unused.map_or(0, |unused| unused + 1)
    }

    /// Bytes of the segments that were free when sled opened and have not been used since. One segment is
    /// subtracted: the header of the one begun last may not be on disk yet.
    fn spare_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::FileExt;
        let io = |error: std::io::Error| io_error("looking for free segments", &error);
        self.with(|open| {
            let segment = open.segment as u64;
            let segments = open.log.metadata().map_err(io)?.len() / segment;
            let mut free = 0_u64;
            for slot in 0..segments {
                let mut header = [0; SEGMENT_HEADER];
                open.log.read_exact_at(&mut header, slot * segment).map_err(io)?;
                free += u64::from(header == [0; SEGMENT_HEADER]);
            }
            Ok(free.saturating_sub(1) * segment)
        })
    }

    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Reopening
    }

    /// sled writes a new snapshot of its page table beside the old one, and may fill up a segment.
    fn bytes_to_reopen(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let snapshots = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("snap."));
        let snapshot = snapshots.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).max().unwrap_or(0);
        snapshot + segment_bytes(&self.folder).unwrap_or(0) as u64
    }

    fn disk_bytes(&self) -> u64 {
        folder_bytes(&self.folder)
    }
}

impl Drop for SledBackend {
    fn drop(&mut self) {
        if let Some(open) = self.open.get_mut().take() {
            // Flushes the last relaxed writes. Acknowledged synced writes are on disk already.
            let synced = open
                .db
                .flush()
                .map_err(failure)
                .and_then(|_| open.log.sync_data().map_err(|error| io_error("syncing the sled log", &error)));
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
