//! The redb engine: one file, copy-on-write B-trees, snapshots. No other file uses the crate `redb`.
//!
//! redb needs none of the countermeasures for sled: a synced commit becomes visible only when it is on disk,
//! the tree holds values of any size, and freed pages are reused. Free pages may be holes in the file, so on
//! a full disk the file is compacted. An unsynced commit (`Durability::None`) is kept in memory until the
//! next synced one.

use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use parking_lot::RwLock;
use redb::{Builder, Database, ReadableDatabase, TableDefinition, TableError};

use super::backend::{Backend, Reclaiming, Visit, VisitIndexed, Writes, begun, closed};
use super::frame;
use super::tally::Tally;
use crate::store::disk_space::{io_error, make_dir, sync_dir};
use crate::store::range::KeyRange;
use crate::store::reserved_keys::TOTALS;
use crate::store::{Direction, PageLimit, Result, StoreError};

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");

pub(crate) struct RedbBackend {
    file: PathBuf,
    cache_bytes: u64,
    /// Whether opening verifies all pages. redb verifies them on open or never, and a damaged key would make
    /// its document "not found". False for a file that is known to be damaged.
    verified: bool,
    open: RwLock<Option<Database>>,
}

type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl RedbBackend {
    pub fn open(file: &Path, cache_bytes: u64) -> Result<RedbBackend> {
        RedbBackend::opened(file, cache_bytes, true)
    }

    /// Opens a file without verifying it, to read what is still readable.
    pub fn unverified(file: &Path, cache_bytes: u64) -> Result<RedbBackend> {
        RedbBackend::opened(file, cache_bytes, false)
    }

    fn opened(file: &Path, cache_bytes: u64, verified: bool) -> Result<RedbBackend> {
        let backend = RedbBackend { file: file.to_path_buf(), cache_bytes, verified, open: RwLock::new(None) };
        backend.reopen()?;
        Ok(backend)
    }

    fn open_file(&self) -> Result<Database> {
        Builder::new()
            .set_cache_size(usize::try_from(self.cache_bytes).unwrap_or(usize::MAX))
            // Verification and repair after a crash share one pass.
            .set_check_integrity_on_open(self.verified)
            .set_repair_callback(|repair| tracing::info!("verifying the store: {:.0} %", repair.progress() * 100.0))
            .create(&self.file)
            .map_err(failure)
    }

    fn read<T>(&self, act: impl FnOnce(&Table) -> Result<T>) -> Result<T> {
        let open = self.open.read();
        let database = open.as_ref().ok_or_else(closed)?;
        let transaction = database.begin_read().map_err(failure)?;
        act(&transaction.open_table(ENTRIES).map_err(failure)?)
    }
}

impl Drop for RedbBackend {
    fn drop(&mut self) {
        close(self.open.get_mut().take());
    }
}

/// Closes a file. redb then writes which pages are free, and may panic if the file is damaged; what was
/// committed is on disk already.
fn close(database: Option<Database>) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
        tracing::warn!("redb could not close its file in order: it panicked");
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice))
}

impl Backend for RedbBackend {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn get_many(&self, keys: &[Vec<u8>], visit: VisitIndexed<'_>) -> Result<()> {
        self.read(|table| {
            for (index, key) in keys.iter().enumerate() {
                let found = table.get(key.as_slice()).map_err(failure)?;
                visit(index, Ok(found.as_ref().map(|found| found.value())));
            }
            Ok(())
        })
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit, visit: Visit<'_>) -> Result<()> {
        self.read(|table| {
            let mut found = table.range::<&[u8]>(bounds(range)).map_err(failure)?;
            let (mut entries, mut bytes) = (0, 0);
            while entries < limit.entries && bytes < limit.bytes.max(1) {
                let next = match direction {
                    Direction::Forward => found.next(),
                    Direction::Backward => found.next_back(),
                };
                let Some(next) = next else { break };
                let (key, value) = match next.map_err(failure) {
                    Ok(entry) => entry,
                    Err(StoreError::Damaged(_)) if entries > 0 => break,
                    Err(error) => return Err(error),
                };
                entries += 1;
                bytes += key.value().len() + frame::length(value.value());
                visit(key.value(), Ok(value.value()));
            }
            Ok(())
        })
    }

    fn keys(&self, range: &KeyRange, entries: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.read(|table| {
            let mut any = false;
            for entry in table.range::<&[u8]>(bounds(range)).map_err(failure)?.take(entries) {
                match entry.map_err(failure) {
                    Ok((key, _)) => visit(key.value()),
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
        let open = self.open.read();
        let mut transaction = open.as_ref().ok_or_else(closed)?.begin_write().map_err(failure)?;
        let durability = if sync { redb::Durability::Immediate } else { redb::Durability::None };
        transaction.set_durability(durability).map_err(failure)?;
        {
            let mut table = transaction.open_table(ENTRIES).map_err(failure)?;
            for (key, value) in writes {
                let old = match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()).map_err(failure)?,
                    None => table.remove(key.as_slice()).map_err(failure)?,
                };
                tally.replaces(key, old.as_ref().map(|old| old.value()), value.as_deref());
            }
            table.insert(TOTALS, tally.record().as_slice()).map_err(failure)?;
        }
        transaction.commit().map_err(|error| begun(failure(error)))
    }

    fn reopen(&self) -> Result<()> {
        let mut slot = self.open.write();
        close(slot.take());
        let io = |error: std::io::Error| io_error("opening the redb store", &error);
        let folder = self.file.parent().unwrap_or(Path::new("."));
        make_dir(folder).map_err(io)?;
        let opening = || {
            let database = self.open_file()?;
            let opened = database.begin_read().map_err(failure)?.open_table(ENTRIES);
            // Checks for the table and not for the file: the process may have been killed after creating the
            // file.
            if let Err(TableError::TableDoesNotExist(_)) = opened {
                let transaction = database.begin_write().map_err(failure)?;
                transaction.open_table(ENTRIES).map_err(failure)?;
                transaction.commit().map_err(failure)?;
            }
            Ok(database)
        };
        // redb panics where it could return an error.
        let database = std::panic::catch_unwind(AssertUnwindSafe(opening))
            .map_err(|_| StoreError::Damaged("redb cannot read its file: it panicked while opening it".into()))??;
        if let Err(error) = sync_dir(folder) {
            close(Some(database));
            return Err(io(error));
        }
        *slot = Some(database);
        Ok(())
    }

    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Compacting
    }

    /// Moves pages to the front of the file, into holes where needed, and truncates the file.
    fn compact(&self) -> Result<()> {
        let mut open = self.open.write();
        open.as_mut().ok_or_else(closed)?.compact().map(drop).map_err(failure)
    }

    fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.file).map_or(0, |found| found.blocks() * 512)
    }
}

fn failure(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => io_error("redb", &error),
        redb::Error::Corrupted(what) => StoreError::Damaged(format!("a page of the redb file ({what})")),
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_pages_exchanged_is_opened_and_closed_without_a_panic() {
        const PAGE: usize = 4096;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settee.redb");
        let backend = RedbBackend::open(&file, 1 << 20).unwrap();
        for batch in 0..12_u8 {
            let transaction = backend.open.read().as_ref().unwrap().begin_write().unwrap();
            {
                let mut table = transaction.open_table(ENTRIES).unwrap();
                for entry in 0..30_u8 {
                    table.insert(&[entry, batch][..], &[7; 900][..]).unwrap();
                    table.remove(&[entry, batch / 2][..]).unwrap();
                }
            }
            transaction.commit().unwrap();
        }
        drop(backend);
        let whole = std::fs::read(&file).unwrap();
        let used = whole.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        let used: Vec<usize> = used.map(|(at, _)| at).collect();
        for (nth, one) in used.iter().enumerate() {
            for other in used[nth + 1..].iter().step_by(3) {
                let mut bytes = whole.clone();
                for index in 0..PAGE {
                    bytes.swap(one * PAGE + index, other * PAGE + index);
                }
                std::fs::write(&file, bytes).unwrap();
                if let Ok(backend) = RedbBackend::unverified(&file, 1 << 20) {
                    drop(backend);
                }
            }
        }
    }
}
