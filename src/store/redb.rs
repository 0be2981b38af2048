//! The redb engine: one file, copy-on-write B-trees, snapshots. The only file that names redb.
//!
//! Needs none of sled's protections: a commit is visible only when it is on disk, values of any size stand in the tree, and
//! freed pages are used again (they may be holes in the file: on a full device the file is compacted). A commit that is not synced (`Durability::None`) is kept in memory until the next that is.

use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use parking_lot::RwLock;
use redb::{Builder, Database, ReadableDatabase, TableDefinition, TableError};

use super::backend::{Backend, Reclaiming, Visit, VisitIndexed, Writes};
use super::space::{io_error, make_dir, sync_dir};
use super::tally::{RECORD, Tally};
use super::{Direction, KeyRange, PageLimit, Result, StoreError, frame};

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");

pub(super) struct RedbBackend {
    file: PathBuf,
    cache_bytes: u64,
    /// All pages are tested when the file is opened: redb tests them then or never, and a damaged key would be a document that
    /// is not found. Not for a file that is known to be damaged.
    verified: bool,
    open: RwLock<Option<Database>>,
}

type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl RedbBackend {
    pub fn open(file: &Path, cache_bytes: u64) -> Result<RedbBackend> {
        RedbBackend::opened(file, cache_bytes, true)
    }

    /// A file as it is, for reading what can be read of it.
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
            // One pass, with the repair after a crash where there is one to be made.
            .set_check_integrity_on_open(self.verified)
            .set_repair_callback(|repair| tracing::info!("testing the store: {:.0} %", repair.progress() * 100.0))
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

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed after a failure".into())
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
            for entry in table.range::<&[u8]>(bounds(range)).map_err(failure)?.take(entries) {
                visit(entry.map_err(failure)?.0.value());
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
            table.insert(RECORD, tally.record().as_slice()).map_err(failure)?;
        }
        transaction.commit().map_err(|error| begun(failure(error)))
    }

    fn reopen(&self) -> Result<()> {
        let mut slot = self.open.write();
        *slot = None;
        let io = |error: std::io::Error| io_error("opening the redb store", &error);
        let folder = self.file.parent().unwrap_or(Path::new("."));
        make_dir(folder).map_err(io)?;
        // redb asserts where it could return an error.
        let database = std::panic::catch_unwind(AssertUnwindSafe(|| self.open_file())).map_err(|_| {
            StoreError::Damaged("redb cannot make sense of its file and panicked while opening".into())
        })??;
        let opened = database.begin_read().map_err(failure)?.open_table(ENTRIES);
        // Asked of the database and not of the file's existence: a kill may have come between the two.
        if let Err(TableError::TableDoesNotExist(_)) = opened {
            let transaction = database.begin_write().map_err(failure)?;
            transaction.open_table(ENTRIES).map_err(failure)?;
            transaction.commit().map_err(failure)?;
        }
        sync_dir(folder).map_err(io)?;
        *slot = Some(database);
        Ok(())
    }

    fn reclaiming(&self) -> Reclaiming {
        Reclaiming::Compacting
    }

    /// Moves pages to the front of the file, which may have holes where pages have never been written, and cuts off its end.
    fn compact(&self) -> Result<()> {
        let mut open = self.open.write();
        open.as_mut().ok_or_else(closed)?.compact().map(drop).map_err(failure)
    }

    fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&self.file).map_or(0, |found| found.blocks() * 512)
    }
}

/// The error of a write that may have been begun.
fn begun(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged(what) => StoreError::Unavailable(what),
        error => error,
    }
}

fn failure(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => io_error("redb", &error),
        redb::Error::Corrupted(what) => StoreError::Damaged(format!("a page of the redb file ({what})")),
        other => StoreError::Unavailable(other.to_string()),
    }
}
