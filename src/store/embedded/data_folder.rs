//! Opens a data folder: determines its engine, whether another process holds it, and whether this build can
//! read it.
//!
//! ```text
//! DIR/format.toml     format version, engine, which store-N is in force; an encrypted folder's keys
//! DIR/lock            held by the process that has the folder open
//! DIR/reserve         space to release when the disk is full
//! DIR/store-1/        the engine's files; `compact` makes store-2 from it, and so on
//! DIR/mark-1          high-water mark of the store (see `mark`)
//! DIR/unfinished      exists while a first start (`new`) or a restore (`restore`) creates the folder
//! DIR/blobs/          attachments (see `blob_files`); blobs-2 and so on after a change of encryption
//! ```
//!
//! A new folder is created in this order, each step durable before the next: `unfinished`, store,
//! attachments, `format.toml`, removal of `unfinished`. Therefore a `format.toml` always has a store beside
//! it. A folder in which one of the two is missing has lost it: it is refused, and never taken for a new
//! folder.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::committer::Committer;
use super::disk_space::{Space, make_dir, sync_dir};
use super::frame::Frames;
use super::mark::Mark;
use super::redb::RedbBackend;
use super::salvage;
use super::sled::SledBackend;
use crate::store::blob::blobs::Blobs;
use crate::store::blob::files::BlobFiles;
use crate::store::crypto::cipher::{Envelope, FolderKeys};
use crate::store::crypto::master_key::Key;
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Entry, PageLimit, Result, Store, StoreError, keyspace};

/// The format that this build writes, and the newest that it can read.
pub const FORMAT: u32 = 1;
const MARKER: &str = "format.toml";
const LOCK: &str = "lock";
const UNFINISHED: &str = "unfinished";
/// The possible contents of `unfinished`: a first start, or a folder that is filled by a restore or salvage.
const NEW: &str = "new";
const FILLED: &str = "restore";
const CIPHER: &str = "XChaCha20-Poly1305";

/// The engines that a data folder can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34: a log-structured store.
    Sled,
    /// redb: copy-on-write B-trees in one file.
    Redb,
}

impl Engine {
    /// All engines. The first is the default.
    pub const ALL: &[Engine] = &[Engine::Sled, Engine::Redb];

    /// The engine's data file in the store's folder.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Engine::Sled => "db",
            Engine::Redb => "settee.redb",
        }
    }

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
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The engine of a new folder. For an existing folder it must match. `None`: the folder's own engine, or
    /// the default.
    pub engine: Option<Engine>,
    /// Size of the engine's cache. `None`: 16 MiB for sled, which uses about eight times its setting; 64 MiB
    /// for redb.
    pub cache_bytes: Option<u64>,
    /// The key of an encrypted folder. A new folder is encrypted if a key is given.
    pub key: Option<Key>,
    /// The caller fills a new folder, which other processes refuse to open until [`finish`] is called.
    pub filling: bool,
}

/// An open data folder. The lock on the folder is released when the store and all its clones are dropped.
#[derive(Clone)]
pub struct Opened {
    /// The ordered map. Holds the lock on the folder.
    pub store: Arc<dyn Store>,
    /// The attachments.
    pub blobs: Arc<dyn Blobs>,
    /// The folder's engine.
    pub engine: Engine,
}

/// Why a data folder could not be opened. The texts tell the user what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has the folder open.
    Locked(PathBuf),
    /// The folder was made with another engine than the requested one.
    OtherEngine { folder: PathBuf, has: Engine, asked: Engine },
    /// The folder is encrypted, and no key was given.
    NoKey { folder: PathBuf, needs: String },
    /// The folder is encrypted under another key.
    WrongKey { folder: PathBuf, needs: String, given: String },
    /// A key was given, and the folder is not encrypted.
    NotEncrypted { folder: PathBuf },
    /// A newer settee wrote the folder.
    NewerFormat { folder: PathBuf, has: u32 },
    /// The folder holds other files, or its marker cannot be read.
    NotOurs { folder: PathBuf, why: String },
    /// The disk is full, even after the reserve was released.
    Full(PathBuf),
    /// A rewritten store does not fit: the bytes that it needs, and those that are free.
    NoRoom { folder: PathBuf, target: PathBuf, needs: u64, free: u64 },
    /// A folder that must be new is not empty.
    NotEmpty(PathBuf),
    /// The file system returned an error.
    Io { folder: PathBuf, error: io::Error },
    /// The engine could not be opened.
    Engine { folder: PathBuf, error: StoreError },
    /// The store lacks something that it must have. `missing`: what is known to be missing, as text for the
    /// user.
    Damaged { folder: PathBuf, why: String, missing: String },
    /// A restore or a salvage was filling the folder and was interrupted.
    Unfinished(PathBuf),
    /// The store itself is lost: nothing can be salvaged.
    NoStore { folder: PathBuf, why: String, missing: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked(folder) => write!(
                out,
                "the data folder {} is in use by another process: stop that process first, or choose another folder",
                folder.display()
            ),
            OpenError::OtherEngine { folder, has, asked } => write!(
                out,
                "the data folder {} was made with the engine {has}, not {asked}: leave out the engine or name {has}, \
                 or convert the folder with `settee compact-store`",
                folder.display()
            ),
            OpenError::NoKey { folder, needs } => write!(
                out,
                "the data folder {} is encrypted: name the file with the key {needs} by --encryption-key-file, or put the \
                 key into SETTEE_ENCRYPTION_KEY",
                folder.display()
            ),
            OpenError::WrongKey { folder, needs, given } => write!(
                out,
                "the data folder {} is encrypted under the key {needs}, and the one given is {given}: give the right \
                 key, or change the folder's key with `settee compact-store --to-key-file`",
                folder.display()
            ),
            OpenError::NotEncrypted { folder } => write!(
                out,
                "the data folder {0} is not encrypted, but an encryption key was given: encrypt the folder with `settee \
                 compact-store --data {0} --to-key-file FILE`, or start without a key",
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
                "the disk of the data folder {0} is full: free some space, or move the data to another disk with \
                 `settee compact-store --data {0} --to FOLDER`",
                folder.display()
            ),
            OpenError::NoRoom { folder, target, needs, free } => write!(
                out,
                "a fresh store needs about {} MB on the disk of {}, but only {} MB are free: free some space, or write \
                 it to another disk with `settee compact-store --data {} --to FOLDER`",
                needs.div_ceil(1_000_000),
                target.display(),
                free / 1_000_000,
                folder.display()
            ),
            OpenError::NotEmpty(folder) => {
                write!(out, "{} is not empty: name a new folder", folder.display())
            }
            OpenError::Io { folder, error } => {
                write!(out, "the data folder {} cannot be used: {error}", folder.display())
            }
            OpenError::Engine { folder, error } => write!(
                out,
                "the store in {} cannot be opened: {error}. Copy the folder before you try to repair it, or \
                 restore a backup into a new folder with `settee restore`",
                folder.display()
            ),
            OpenError::Damaged { folder, why, missing } => write!(
                out,
                "the data folder {0} is damaged: {why}.{missing}\nNothing is served from it. Restore a backup into a new \
                 folder with `settee restore`, or copy what is still readable into a new one with `settee check --data {0} \
                 --salvage NEWDIR`, which does not change this one",
                folder.display()
            ),
            OpenError::NoStore { folder, why, missing } => write!(
                out,
                "the data folder {} has lost its store: {why}.{missing}\nNone of its documents are left, and \
                 nothing is served from it. Restore a backup into a new folder with `settee restore`",
                folder.display()
            ),
            OpenError::Unfinished(folder) => write!(
                out,
                "the data folder {} is not whole: the `settee restore` or salvage that made it was cut off. Remove it, and \
                 restore or salvage again",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens the data folder `dir`, with `engine` or its own, and creates it if it does not exist.
pub fn open(dir: &Path, engine: Option<Engine>) -> std::result::Result<Opened, OpenError> {
    open_with(dir, Options { engine, ..Options::default() })
}

/// As [`open`], but the folder must exist: for commands that must not create one because of a mistyped path.
pub fn open_existing(dir: &Path, options: Options) -> std::result::Result<Opened, OpenError> {
    match read_marker(dir)? {
        Some(_) => open_with(dir, options),
        None => Err(no_marker(dir)),
    }
}

/// Creates a folder and marks it as being filled, so that no other process takes it for a new one meanwhile.
pub fn begin_filling(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    make_dir(dir).and_then(|()| begin(dir, FILLED)).map_err(io)
}

/// Ends the filling of a new folder (see [`Options::filling`]). Everything in it must be durable and closed.
pub fn finish(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    std::fs::remove_file(dir.join(UNFINISHED)).and_then(|()| sync_dir(dir)).map_err(io)
}

/// The id of the key under which the folder is encrypted, or `None` if it is not encrypted.
pub fn encrypted_under(dir: &Path) -> std::result::Result<Option<String>, OpenError> {
    let marker = read_marker(dir)?.ok_or_else(|| no_marker(dir))?;
    Ok(marker.envelope.map(|envelope| envelope.key))
}

pub(crate) fn no_marker(dir: &Path) -> OpenError {
    refuse_foreign(dir).err().unwrap_or_else(|| {
        let why = format!("it has no {MARKER}");
        OpenError::NotOurs { folder: dir.to_path_buf(), why }
    })
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
    if !options.filling {
        refuse_unfinished(dir)?;
    }
    let found = read_marker(dir)?;
    let new = found.is_none();
    let (marker, keys) = match found {
        Some(marker) => match options.engine {
            Some(asked) if asked != marker.engine => {
                return Err(OpenError::OtherEngine { folder: dir.to_path_buf(), has: marker.engine, asked });
            }
            _ => {
                let keys = marker.keys(dir, options.key.as_ref())?;
                refuse_incomplete(dir, &marker)?;
                (marker, keys)
            }
        },
        None => {
            let keys = options.key.as_ref().map(|key| (FolderKeys::generate(), key));
            let envelope = keys.as_ref().map(|(keys, key)| keys.envelope(key));
            let marker = Marker { engine: options.engine.unwrap_or(Engine::ALL[0]), life: 1, blobs: 1, envelope };
            refuse_foreign(dir)?;
            begin(dir, if options.filling { FILLED } else { NEW }).map_err(io)?;
            (marker, keys.map(|(keys, _)| keys))
        }
    };
    let open = || open_engine(dir, &marker, keys.as_ref(), options.cache_bytes, &space);
    let opened = open().or_else(|error| {
        // An engine may need free space to open. A second attempt does not harm a damaged folder.
        if error == StoreError::Full && space.release_reserve() { open() } else { Err(error) }
    });
    let store = opened.map_err(|error| refusal(dir, &marker, &space, error))?;
    check_format(dir, &marker, store.as_ref(), new)?;
    if !new {
        refuse_without_blobs(dir, &marker, store.as_ref())?;
    }
    let blobs = open_blobs(dir, &marker, keys.as_ref(), &space).map_err(io)?;
    if new {
        write_marker(dir, &marker).map_err(io)?;
        if !options.filling {
            finish(dir)?;
        }
    }
    clear_former(dir, &marker);
    if !options.filling {
        // Left by a refusal that was interrupted.
        let _ = std::fs::remove_dir_all(dir.join(salvage::LOOKED_INTO));
    }
    space.keep_reserve();
    let lock = Arc::new(lock);
    let store = Arc::new(Locked { inner: store, _lock: lock });
    Ok(Opened { store, blobs: Arc::new(blobs), engine: marker.engine })
}

/// The content of `format.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    pub engine: Engine,
    /// The number of the store's folder. Each rewrite increments it.
    pub life: u32,
    /// The number of the attachments' folder; 1 is `blobs`.
    pub blobs: u32,
    /// The wrapped keys of an encrypted folder.
    pub envelope: Option<Envelope>,
}

impl Marker {
    pub fn store_folder(&self, dir: &Path) -> PathBuf {
        dir.join(format!("store-{}", self.life))
    }

    pub fn blobs_folder(&self, dir: &Path) -> PathBuf {
        match self.blobs {
            1 => dir.join("blobs"),
            number => dir.join(format!("blobs-{number}")),
        }
    }

    /// Unwraps the folder's keys with the user's key.
    pub fn keys(&self, dir: &Path, key: Option<&Key>) -> std::result::Result<Option<FolderKeys>, OpenError> {
        let folder = dir.to_path_buf();
        match (&self.envelope, key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(OpenError::NotEncrypted { folder }),
            (Some(envelope), None) => Err(OpenError::NoKey { folder, needs: envelope.key.clone() }),
            (Some(envelope), Some(key)) if envelope.key != key.id() => {
                Err(OpenError::WrongKey { folder, needs: envelope.key.clone(), given: key.id() })
            }
            (Some(envelope), Some(key)) => match envelope.open(key) {
                Some(keys) => Ok(Some(keys)),
                None => Err(OpenError::Engine {
                    folder,
                    error: StoreError::Damaged(format!("the sealed keys in {MARKER} (the given key is the right one)")),
                }),
            },
        }
    }

    /// The format record, an entry of the store: the format version, and a second copy of the wrapped keys.
    pub fn format_record(&self) -> Vec<u8> {
        let mut record = FORMAT.to_be_bytes().to_vec();
        if let Some(envelope) = &self.envelope {
            record.extend_from_slice(envelope.to_string().as_bytes());
        }
        record
    }
}

pub(crate) fn open_engine(
    dir: &Path,
    marker: &Marker,
    keys: Option<&FolderKeys>,
    cache_bytes: Option<u64>,
    space: &Space,
) -> Result<Box<dyn Store>> {
    let folder = marker.store_folder(dir);
    let mark = Mark::open(dir, marker.life).map_err(|error| super::disk_space::io_error("opening the mark", &error))?;
    let mark = Arc::new(mark);
    let frames = keys.map_or_else(Frames::default, |keys| Frames::sealing(keys.values()));
    Ok(match marker.engine {
        Engine::Sled => {
            let backend = SledBackend::open(&folder, cache_bytes.unwrap_or(16 << 20), mark.clone())?;
            Box::new(Committer::marked(backend, frames, Some(space.clone()), mark)?)
        }
        Engine::Redb => {
            let backend = RedbBackend::open(&folder.join("settee.redb"), cache_bytes.unwrap_or(64 << 20))?;
            Box::new(Committer::marked(backend, frames, Some(space.clone()), mark)?)
        }
    })
}

pub(crate) fn open_blobs(
    dir: &Path,
    marker: &Marker,
    keys: Option<&FolderKeys>,
    space: &Space,
) -> io::Result<BlobFiles> {
    BlobFiles::open(&marker.blobs_folder(dir), space.clone(), keys.map(FolderKeys::attachments))
}

/// Removes the previous store and attachments if a rewrite was interrupted after it had replaced
/// `format.toml`. They must not stay on the disk: they may be unencrypted, or encrypted under a key that was
/// given up.
fn clear_former(dir: &Path, marker: &Marker) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("mark-").is_some_and(|life| life.parse().is_ok_and(|life: u32| life < marker.life)) {
            let _ = std::fs::remove_file(entry.path());
        }
        let former = match (name.as_str(), name.strip_prefix("store-"), name.strip_prefix("blobs-")) {
            ("blobs", ..) => marker.blobs > 1,
            (_, Some(life), _) => life.parse().is_ok_and(|life: u32| life < marker.life),
            (_, _, Some(number)) => number.parse().is_ok_and(|number: u32| number < marker.blobs),
            _ => false,
        };
        if former && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!("{} is no longer used, but cannot be removed: {error}", entry.path().display());
        }
    }
}

pub(crate) fn lock(dir: &Path) -> std::result::Result<File, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    hold(dir, File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(io)?)
}

/// As [`lock`], but opens the lock file read-only, because the system may have remounted the file system
/// read-only. `None` if there is no lock file.
pub(crate) fn lock_to_read(dir: &Path) -> std::result::Result<Option<File>, OpenError> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => hold(dir, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

fn hold(dir: &Path, file: File) -> std::result::Result<File, OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
}

/// Reads `format.toml`. `None` if the folder has none.
pub(crate) fn read_marker(dir: &Path) -> std::result::Result<Option<Marker>, OpenError> {
    let not_ours = |why: String| match has_store(dir) {
        Some(_) => OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() },
        None => OpenError::NotOurs { folder: dir.to_path_buf(), why },
    };
    let text = match std::fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(not_ours(format!("its {MARKER} is not text")));
        }
        Err(error) => return Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    };
    let table: toml::Table = text.parse().map_err(|error| not_ours(format!("its {MARKER} cannot be read: {error}")))?;
    let format = table.get("format").and_then(toml::Value::as_integer).and_then(|format| u32::try_from(format).ok());
    match format {
        None | Some(0) => return Err(not_ours(format!("its {MARKER} names no format"))),
        Some(has) if has > FORMAT => return Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has }),
        Some(_) => {}
    }
    let engine = table.get("engine").and_then(toml::Value::as_str);
    let engine = engine.ok_or_else(|| not_ours(format!("its {MARKER} names no engine")))?;
    let number = |name: &str| {
        let number = table.get(name).map_or(Some(1), |number| u32::try_from(number.as_integer()?).ok());
        number.ok_or_else(|| not_ours(format!("its {MARKER} has an invalid {name}")))
    };
    let envelope = table.get("encryption").map(|section| {
        let text = |name: &str| Some(section.get(name)?.as_str()?.to_owned());
        match (text("cipher").as_deref(), text("key"), text("keys")) {
            (Some(CIPHER), Some(key), Some(sealed)) => Ok(Envelope { key, sealed }),
            _ => Err(not_ours(format!("the section [encryption] of its {MARKER} cannot be read"))),
        }
    });
    Ok(Some(Marker {
        engine: engine.parse().map_err(not_ours)?,
        life: number("life")?,
        blobs: number("blobs")?,
        envelope: envelope.transpose()?,
    }))
}

pub(crate) fn write_marker(dir: &Path, marker: &Marker) -> io::Result<()> {
    let temporary = dir.join("format.tmp");
    let mut file = File::create(&temporary)?;
    let Marker { engine, life, blobs, envelope } = marker;
    writeln!(file, "# Written by settee. Do not edit.\nformat = {FORMAT}\nengine = \"{engine}\"\nlife = {life}")?;
    if *blobs > 1 {
        writeln!(file, "blobs = {blobs}")?;
    }
    if let Some(Envelope { key, sealed }) = envelope {
        writeln!(file, "\n# Without these keys nothing here can be read; the key that opens them is kept elsewhere.")?;
        writeln!(file, "[encryption]\ncipher = \"{CIPHER}\"\nkey = \"{key}\"\nkeys = \"{sealed}\"")?;
    }
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(MARKER))?;
    sync_dir(dir)
}

/// Refuses a folder that has no marker but holds files of a store.
fn refuse_foreign(dir: &Path) -> std::result::Result<(), OpenError> {
    match has_store(dir) {
        Some(name) => {
            let why = format!("it has {name} in it but no {MARKER}");
            Err(match guess_marker(dir) {
                Ok(_) => OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() },
                Err(_) => no_store(dir, why, String::new()),
            })
        }
        None => Ok(()),
    }
}

/// Returns the name of some file or folder in `dir` that belongs to a store.
fn has_store(dir: &Path) -> Option<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| ["store-", "blobs", "mark-"].iter().any(|start| name.starts_with(start)))
}

/// Guesses the content of `format.toml` from the files: the newest store and the newest attachments.
pub(crate) fn guess_marker(dir: &Path) -> std::result::Result<Marker, OpenError> {
    let (mut found, mut blobs) = (None, 1);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = |start: &str| name.strip_prefix(start)?.parse::<u32>().ok();
        blobs = blobs.max(number("blobs-").unwrap_or(1));
        if let Some(life) = number("store-")
            && let Some(engine) = Engine::ALL.iter().find(|engine| entry.path().join(engine.file()).exists())
            && found.is_none_or(|(newest, _)| newest < life)
        {
            found = Some((life, *engine));
        }
    }
    let (life, engine) = found.ok_or_else(|| match has_store(dir) {
        Some(_) => no_store(dir, "there is none in it, so nothing can be salvaged".into(), String::new()),
        None => OpenError::NotOurs { folder: dir.to_path_buf(), why: "there is no store in it".into() },
    })?;
    Ok(Marker { engine, life, blobs, envelope: None })
}

/// Converts the error of a store that the engine, or the comparison with the mark, found damaged.
pub(crate) fn refusal(dir: &Path, marker: &Marker, space: &Space, error: StoreError) -> OpenError {
    match error {
        StoreError::Full => OpenError::Full(dir.to_path_buf()),
        StoreError::Damaged(why) => {
            tracing::error!("the store in {} is damaged: {why}. Looking for what is missing", dir.display());
            let missing = salvage::missing(dir, marker, space);
            OpenError::Damaged { folder: dir.to_path_buf(), why: format!("its store: {why}"), missing }
        }
        error => OpenError::Engine { folder: dir.to_path_buf(), error },
    }
}

/// Whether the creation or filling of the folder was interrupted.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Marks the folder as being created.
fn begin(dir: &Path, how: &str) -> io::Result<()> {
    let mut file = File::create(dir.join(UNFINISHED))?;
    file.write_all(how.as_bytes())?;
    file.sync_all()?;
    sync_dir(dir)
}

/// Refuses a folder whose filling was interrupted. Clears away what an interrupted first start has left:
/// nothing was ever acknowledged there.
pub(crate) fn refuse_unfinished(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let how = match std::fs::read(dir.join(UNFINISHED)) {
        Ok(how) => how,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let has_marker = dir.join(MARKER).exists();
    // If empty: interrupted before its one word was written, and therefore before everything else.
    if how != NEW.as_bytes() && !(how.is_empty() && !has_marker && has_store(dir).is_none()) {
        return Err(OpenError::Unfinished(dir.to_path_buf()));
    }
    if !has_marker {
        for entry in std::fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.as_str() {
                "store-1" | "blobs" => std::fs::remove_dir_all(entry.path()).map_err(io)?,
                "mark-1" => std::fs::remove_file(entry.path()).map_err(io)?,
                _ => {}
            }
        }
    }
    finish(dir)
}

/// Refuses a folder that has lost its store.
pub(crate) fn refuse_incomplete(dir: &Path, marker: &Marker) -> std::result::Result<(), OpenError> {
    let folder = marker.store_folder(dir);
    let file = folder.join(marker.engine.file());
    if std::fs::metadata(&file).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = match folder.exists() {
        true => format!("{name} has no {} in it, or an empty one", marker.engine.file()),
        false => format!("{name}, which its {MARKER} names, is missing"),
    };
    let (folder, missing) = (dir.to_path_buf(), salvage::reached(dir, marker));
    Err(match guess_marker(dir) {
        // Another store exists, and may still be readable.
        Ok(_) => OpenError::Damaged { folder, why, missing },
        Err(_) => no_store(dir, why, missing),
    })
}

fn no_store(dir: &Path, why: String, missing: String) -> OpenError {
    OpenError::NoStore { folder: dir.to_path_buf(), why, missing }
}

/// Refuses a folder that has lost all attachments: their folder was removed or replaced.
pub(crate) fn refuse_without_blobs(
    dir: &Path,
    marker: &Marker,
    store: &dyn Store,
) -> std::result::Result<(), OpenError> {
    let folder = marker.blobs_folder(dir);
    let any = std::fs::read_dir(&folder).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().len() == 2 && entry.path().is_dir()))
    });
    let engine = |error| OpenError::Engine { folder: dir.to_path_buf(), error };
    if any {
        return Ok(());
    }
    let first = store.keys(&keyspace::all_blob_references(), 1).map_err(engine)?;
    if !first.first().is_some_and(|key| keyspace::is_blob_reference(key)) {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = format!("its documents have attachments, and {name} is missing or empty");
    Err(OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() })
}

/// Compares the marker with the store's own format record, or writes that record into a new store. The marker
/// could have been copied from elsewhere, or stripped of its keys so that later writes are not encrypted.
pub(crate) fn check_format(
    dir: &Path,
    marker: &Marker,
    store: &dyn Store,
    new: bool,
) -> std::result::Result<(), OpenError> {
    let engine = |error| OpenError::Engine { folder: dir.to_path_buf(), error };
    let own = marker.format_record();
    match store.get(keyspace::FORMAT).map_err(engine)? {
        Some(value) => match value.split_first_chunk() {
            Some((bytes, _)) if u32::from_be_bytes(*bytes) > FORMAT => {
                Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has: u32::from_be_bytes(*bytes) })
            }
            Some((_, sealed)) if sealed == &own[4..] => Ok(()),
            Some(_) => Err(OpenError::NotOurs {
                folder: dir.to_path_buf(),
                why: format!("its {MARKER} names another encryption than the store beside it"),
            }),
            None => Err(engine(StoreError::Damaged("the format record".into()))),
        },
        None if !new => Err(OpenError::Damaged {
            folder: dir.to_path_buf(),
            why: "its store is empty, or was not written by settee".into(),
            missing: salvage::reached(dir, marker),
        }),
        None => {
            let mut batch = Batch::new();
            batch.put(keyspace::FORMAT.to_vec(), own);
            store.commit(batch).map_err(|error| match error {
                StoreError::Full => OpenError::Full(dir.to_path_buf()),
                error => engine(error),
            })
        }
    }
}

/// A store that holds the folder's lock while it lives. Fields drop in order: the engine closes before the
/// lock is released.
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

    fn complete(&self) -> Result<()> {
        self.inner.complete()
    }

    fn generation(&self) -> u64 {
        self.inner.generation()
    }

    fn is_short_of_room(&self) -> bool {
        self.inner.is_short_of_room()
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
