//! Opening a data folder: which engine it has, whether another process holds it, whether this build can read it.
//!
//! ```text
//! DIR/format.toml     format version, engine, and which of the folders below is the store
//! DIR/lock            held by the process that has the folder open
//! DIR/reserve         room to give up when the disk is full
//! DIR/store-1/        the engine's files; `compact` makes store-2 from it, and so on
//! DIR/blobs/          attachments (see `blob_files`)
//! ```

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::blob_files::BlobFiles;
use super::blobs::Blobs;
use super::committer::Committer;
use super::redb::RedbBackend;
use super::sled::SledBackend;
use super::space::{Space, folder_bytes, make_dir, sync_dir};
use super::{Batch, Direction, Durability, Entry, KeyRange, PageLimit, Result, Store, StoreError, keys};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
const MARKER: &str = "format.toml";
const LOCK: &str = "lock";

/// The engines that a data folder can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sled,
    Redb,
}

impl Engine {
    /// All engines, the default first.
    pub const ALL: &[Engine] = &[Engine::Sled, Engine::Redb];

    /// The name that `--store` and the data folder use.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Sled => "sled",
            Engine::Redb => "redb",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Engine, String> {
        let known = Engine::ALL.iter().find(|engine| engine.name() == name);
        known.copied().ok_or_else(|| {
            let names: Vec<_> = Engine::ALL.iter().map(|engine| engine.name()).collect();
            format!("there is no storage engine {name:?}; choose one of: {}", names.join(", "))
        })
    }
}

/// How to open a data folder.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The engine of a new folder; for an existing one it must be the folder's. `None`: the folder's, or the default.
    pub engine: Option<Engine>,
    /// The engine's cache; `None`: 16 MiB for sled, which takes about eight times what it is given, 64 MiB for redb.
    pub cache_bytes: Option<u64>,
}

/// An open data folder. The folder is another process's to open when both handles and all their clones are gone.
#[derive(Clone)]
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    pub engine: Engine,
}

/// Why a data folder could not be opened. The texts say what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has the folder open.
    Locked(PathBuf),
    /// The folder was made with another engine than the one asked for.
    OtherEngine { folder: PathBuf, has: Engine, asked: Engine },
    /// A newer settee wrote the folder.
    NewerFormat { folder: PathBuf, has: u32 },
    /// The folder has other things in it, or its marker cannot be read.
    NotOurs { folder: PathBuf, why: String },
    /// The disk is full and the reserve did not help.
    Full(PathBuf),
    /// The file system said no.
    Io { folder: PathBuf, error: io::Error },
    /// The engine could not be opened.
    Engine { folder: PathBuf, error: StoreError },
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked(folder) => write!(
                out,
                "the data folder {} is in use by another process: stop that one first, or choose another folder",
                folder.display()
            ),
            OpenError::OtherEngine { folder, has, asked } => write!(
                out,
                "the data folder {} was made with the engine {has}, not {asked}: leave the engine away or name {has}, \
                 or convert the folder with `settee compact-store`",
                folder.display()
            ),
            OpenError::NewerFormat { folder, has } => write!(
                out,
                "the data folder {} has format {has}, and this settee knows formats up to {FORMAT}: use the newer settee \
                 that wrote it, or restore a backup into a new folder",
                folder.display()
            ),
            OpenError::NotOurs { folder, why } => write!(
                out,
                "{} is not a settee data folder ({why}): name an empty folder or one that settee has made",
                folder.display()
            ),
            OpenError::Full(folder) => write!(
                out,
                "there is no room on the device of the data folder {}: make some, then start again",
                folder.display()
            ),
            OpenError::Io { folder, error } => {
                write!(out, "the data folder {} cannot be used: {error}", folder.display())
            }
            OpenError::Engine { folder, error } => write!(
                out,
                "the store in {} cannot be opened: {error}. Copy the folder before you try anything on it; a backup is \
                 brought back with `settee restore`",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens the data folder `dir`, making it if it is not there, with `engine` or the one that it has.
pub fn open(dir: &Path, engine: Option<Engine>) -> std::result::Result<Opened, OpenError> {
    open_with(dir, Options { engine, ..Options::default() })
}

/// As [`open`], of a folder that must be there: for commands that are not to make one by a slip of the hand.
pub fn open_existing(dir: &Path, engine: Option<Engine>) -> std::result::Result<Opened, OpenError> {
    match read_marker(dir)? {
        Some(_) => open(dir, engine),
        None => Err(no_marker(dir)),
    }
}

fn no_marker(dir: &Path) -> OpenError {
    OpenError::NotOurs { folder: dir.to_path_buf(), why: format!("it has no {MARKER}") }
}

/// As [`open`], with all options.
pub fn open_with(dir: &Path, options: Options) -> std::result::Result<Opened, OpenError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => OpenError::Full(dir.to_path_buf()),
        _ => OpenError::Io { folder: dir.to_path_buf(), error },
    };
    make_dir(dir).map_err(io)?;
    let lock = lock(dir)?;
    let space = Space::watch(dir).map_err(io)?;
    let marker = match read_marker(dir)? {
        Some(marker) => match options.engine {
            Some(asked) if asked != marker.engine => {
                return Err(OpenError::OtherEngine { folder: dir.to_path_buf(), has: marker.engine, asked });
            }
            _ => marker,
        },
        None => {
            let marker = Marker { engine: options.engine.unwrap_or(Engine::ALL[0]), life: 1 };
            refuse_foreign(dir)?;
            write_marker(dir, marker).map_err(io)?;
            marker
        }
    };
    let opened = open_engine(dir, marker, options.cache_bytes, &space).or_else(|error| {
        // An engine may need room to open. A folder that is merely damaged loses nothing by the second try.
        if error == StoreError::Full && space.release_reserve() {
            open_engine(dir, marker, options.cache_bytes, &space)
        } else {
            Err(error)
        }
    });
    let store = opened.map_err(|error| match error {
        StoreError::Full => OpenError::Full(dir.to_path_buf()),
        error => OpenError::Engine { folder: dir.to_path_buf(), error },
    })?;
    check_format(dir, store.as_ref())?;
    let blobs = BlobFiles::open(&dir.join("blobs"), space.clone()).map_err(io)?;
    space.keep_reserve();
    let lock = Arc::new(lock);
    let store = Arc::new(Locked { inner: store, _lock: lock });
    Ok(Opened { store, blobs: Arc::new(blobs), engine: marker.engine })
}

/// What `format.toml` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marker {
    engine: Engine,
    /// How often the store was made anew: the number of its folder.
    life: u32,
}

impl Marker {
    fn folder(self, dir: &Path) -> PathBuf {
        dir.join(format!("store-{}", self.life))
    }
}

fn open_engine(dir: &Path, marker: Marker, cache_bytes: Option<u64>, space: &Space) -> Result<Box<dyn Store>> {
    let folder = marker.folder(dir);
    Ok(match marker.engine {
        Engine::Sled => {
            let backend = SledBackend::open(&folder, cache_bytes.unwrap_or(16 << 20))?;
            Box::new(Committer::new(backend, Some(space.clone())))
        }
        Engine::Redb => {
            let backend = RedbBackend::open(&folder.join("settee.redb"), cache_bytes.unwrap_or(64 << 20))?;
            Box::new(Committer::new(backend, Some(space.clone())))
        }
    })
}

/// Rewrites the store of `dir` into a fresh one, of another engine if `engine` says so, and puts it in its place. Nothing
/// else may have the folder open. A cut at any moment leaves the old store or the new one, whole. `progress` hears of the
/// entries copied. Returns the bytes on disk before and after.
pub fn compact(
    dir: &Path,
    engine: Option<Engine>,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(u64, u64), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let failed = |error: StoreError| match error {
        StoreError::Full => OpenError::Full(dir.to_path_buf()),
        error => OpenError::Engine { folder: dir.to_path_buf(), error },
    };
    let old = read_marker(dir)?.ok_or_else(|| no_marker(dir))?;
    let _lock = lock(dir)?;
    let space = Space::watch(dir).map_err(io)?;
    let new = Marker { engine: engine.unwrap_or(old.engine), life: old.life + 1 };
    let target = new.folder(dir);
    if target.exists() {
        // Left by a rewrite that was cut off before its marker was written.
        std::fs::remove_dir_all(&target).map_err(io)?;
    }
    let from = open_engine(dir, old, None, &space).map_err(failed)?;
    check_format(dir, from.as_ref())?;
    let to = open_engine(dir, new, None, &space).map_err(failed)?;
    let copied = copy(from.as_ref(), to.as_ref(), progress);
    if let Err(error) = copied {
        drop(to);
        let _ = std::fs::remove_dir_all(&target);
        return Err(failed(error));
    }
    drop((from, to));
    let sizes = (folder_bytes(&old.folder(dir)), folder_bytes(&target));
    write_marker(dir, new).map_err(io)?;
    std::fs::remove_dir_all(old.folder(dir)).map_err(io)?;
    Ok(sizes)
}

fn copy(from: &dyn Store, to: &dyn Store, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut low = Bound::Unbounded;
    let mut copied = 0;
    loop {
        let limit = PageLimit { entries: 4096, bytes: 4 << 20 };
        let page = from.scan(&(low, Bound::Unbounded), Direction::Forward, limit)?;
        let Some((last, _)) = page.last() else { break };
        low = Bound::Excluded(last.clone());
        copied += page.len() as u64;
        let writes = page.into_iter().map(|(key, value)| (key, Some(value))).collect();
        to.commit(Batch { writes, durability: Durability::Relaxed, ..Batch::new() })?;
        progress(copied);
    }
    to.commit(Batch::new())
}

fn lock(dir: &Path) -> std::result::Result<File, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// `None` without a marker.
fn read_marker(dir: &Path) -> std::result::Result<Option<Marker>, OpenError> {
    let not_ours = |why: String| OpenError::NotOurs { folder: dir.to_path_buf(), why };
    let text = match std::fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    };
    let table: toml::Table = text.parse().map_err(|error| not_ours(format!("its {MARKER} cannot be read: {error}")))?;
    let format = table.get("format").and_then(toml::Value::as_integer).and_then(|format| u32::try_from(format).ok());
    match format {
        None => return Err(not_ours(format!("its {MARKER} names no format"))),
        Some(has) if has > FORMAT => return Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has }),
        Some(_) => {}
    }
    let engine = table.get("engine").and_then(toml::Value::as_str);
    let engine = engine.ok_or_else(|| not_ours(format!("its {MARKER} names no engine")))?;
    let life = table.get("life").map_or(Some(1), |life| u32::try_from(life.as_integer()?).ok());
    let life = life.ok_or_else(|| not_ours(format!("its {MARKER} has a wrong life")))?;
    Ok(Some(Marker { engine: engine.parse().map_err(not_ours)?, life }))
}

fn write_marker(dir: &Path, marker: Marker) -> io::Result<()> {
    let temporary = dir.join("format.tmp");
    let mut file = File::create(&temporary)?;
    let Marker { engine, life } = marker;
    writeln!(file, "# Written by settee. Do not edit.\nformat = {FORMAT}\nengine = \"{engine}\"\nlife = {life}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(MARKER))?;
    sync_dir(dir)
}

/// A folder without a marker must not hold what an engine would take for its own.
fn refuse_foreign(dir: &Path) -> std::result::Result<(), OpenError> {
    for name in ["store-1", "blobs"] {
        if dir.join(name).exists() {
            let why = format!("it has {name} in it but no {MARKER}");
            return Err(OpenError::NotOurs { folder: dir.to_path_buf(), why });
        }
    }
    Ok(())
}

/// The store's own record of its format: the marker could have been copied from elsewhere.
fn check_format(dir: &Path, store: &dyn Store) -> std::result::Result<(), OpenError> {
    let engine = |error| OpenError::Engine { folder: dir.to_path_buf(), error };
    match store.get(keys::FORMAT).map_err(engine)? {
        Some(value) => match value.first_chunk() {
            Some(bytes) if u32::from_be_bytes(*bytes) > FORMAT => {
                Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has: u32::from_be_bytes(*bytes) })
            }
            Some(_) => Ok(()),
            None => Err(engine(StoreError::Damaged("the format record".into()))),
        },
        None => {
            let mut batch = Batch::new();
            batch.put(keys::FORMAT.to_vec(), FORMAT.to_be_bytes().to_vec());
            store.commit(batch).map_err(|error| match error {
                StoreError::Full => OpenError::Full(dir.to_path_buf()),
                error => engine(error),
            })
        }
    }
}

/// A store that holds the folder's lock while it lives. Fields drop in order: the engine closes, then the lock goes.
struct Locked {
    inner: Box<dyn Store>,
    _lock: Arc<File>,
}

impl Store for Locked {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.inner.get_many(keys)
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        self.inner.get_each(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.inner.scan(range, direction, limit)
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        self.inner.keys(range, entries)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.inner.commit(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn ready(&self) -> Result<()> {
        self.inner.ready()
    }

    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}

#[cfg(test)]
mod tests;
