//! Opening a data folder: which engine it has, whether another process holds it, whether this build can read it.
//!
//! ```text
//! DIR/format.toml     format version, engine, which of the folders below is the store; the sealed keys of an encrypted folder
//! DIR/lock            held by the process that has the folder open
//! DIR/reserve         room to give up when the disk is full
//! DIR/store-1/        the engine's files; `compact` makes store-2 from it, and so on
//! DIR/mark-1          how far the store had got (see `mark`)
//! DIR/unfinished      while the folder is made, by a first start (`new`) or a restore (`restore`): nothing in it counts yet
//! DIR/blobs/          attachments (see `blob_files`); blobs-2 and so on after encryption was begun, ended or renewed
//! ```
//!
//! A new folder is made in this order, each step on disk before the next: `unfinished`, store, attachments, `format.toml`, and
//! then `unfinished` goes. So a `format.toml` always has a store beside it, and a folder in which one of them is missing has
//! lost it: it is refused, and never taken for a new one.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::blob_files::BlobFiles;
use super::blobs::Blobs;
use super::cipher::{Envelope, FolderKeys};
use super::committer::Committer;
use super::frame::Frames;
use super::key::Key;
use super::mark::Mark;
use super::redb::RedbBackend;
use super::salvage;
use super::sled::SledBackend;
use super::space::{Space, make_dir, sync_dir};
use super::{Batch, Direction, Entry, KeyRange, PageLimit, Result, Store, StoreError, keys};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
const MARKER: &str = "format.toml";
const LOCK: &str = "lock";
const UNFINISHED: &str = "unfinished";
/// What stands in `unfinished`: a first start, or a folder that is filled from elsewhere.
const NEW: &str = "new";
const FILLED: &str = "restore";
const CIPHER: &str = "XChaCha20-Poly1305";

/// The engines that a data folder can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sled,
    Redb,
}

impl Engine {
    /// All engines, the default first.
    pub const ALL: &[Engine] = &[Engine::Sled, Engine::Redb];

    /// The file that holds its data, in the store's folder.
    pub(super) fn file(self) -> &'static str {
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
    /// The engine of a new folder; for an existing one it must be the folder's. `None`: the folder's, or the default.
    pub engine: Option<Engine>,
    /// The engine's cache; `None`: 16 MiB for sled, which takes about eight times what it is given, 64 MiB for redb.
    pub cache_bytes: Option<u64>,
    /// The key of an encrypted folder; a new folder is encrypted if there is one.
    pub key: Option<Key>,
    /// A new folder is filled from elsewhere, and is refused by others until [`finish`] is called.
    pub filling: bool,
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
    /// The folder is encrypted, and no key was given.
    NoKey { folder: PathBuf, needs: String },
    /// The folder is encrypted under another key.
    WrongKey { folder: PathBuf, needs: String, given: String },
    /// A key was given, and the folder is not encrypted.
    NotEncrypted { folder: PathBuf },
    /// A newer settee wrote the folder.
    NewerFormat { folder: PathBuf, has: u32 },
    /// The folder has other things in it, or its marker cannot be read.
    NotOurs { folder: PathBuf, why: String },
    /// The disk is full and the reserve did not help.
    Full(PathBuf),
    /// A rewritten store does not fit: bytes that it needs, and that are free.
    NoRoom { folder: PathBuf, target: PathBuf, needs: u64, free: u64 },
    /// A folder that is to be made new has something in it.
    NotEmpty(PathBuf),
    /// The file system said no.
    Io { folder: PathBuf, error: io::Error },
    /// The engine could not be opened.
    Engine { folder: PathBuf, error: StoreError },
    /// The store has not what it must have. `missing`: what is known of it, in lines of their own.
    Damaged { folder: PathBuf, why: String, missing: String },
    /// The folder was being filled, by a restore or a salvage, and that did not come to its end.
    Unfinished(PathBuf),
    /// The store itself is gone: nothing can be salvaged.
    NoStore { folder: PathBuf, why: String, missing: String },
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
            OpenError::NoKey { folder, needs } => write!(
                out,
                "the data folder {} is encrypted: name the file with the key {needs} by --encryption-key-file, or put the \
                 key into SETTEE_ENCRYPTION_KEY",
                folder.display()
            ),
            OpenError::WrongKey { folder, needs, given } => write!(
                out,
                "the data folder {} is encrypted under the key {needs}, and the one given is {given}: give that one, or \
                 change the folder's with `settee compact-store --to-key-file`",
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
                "there is no room on the device of the data folder {0}: free some, or move the data to another device with \
                 `settee compact-store --data {0} --to FOLDER`",
                folder.display()
            ),
            OpenError::NoRoom { folder, target, needs, free } => write!(
                out,
                "a fresh store needs about {} MB on the device of {}, and {} MB are free: free some, or write it to another \
                 device with `settee compact-store --data {} --to FOLDER`",
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
                "the store in {} cannot be opened: {error}. Copy the folder before you try anything on it; a backup is \
                 brought back with `settee restore`",
                folder.display()
            ),
            OpenError::Damaged { folder, why, missing } => write!(
                out,
                "the data folder {0} is damaged: {why}.{missing}\nNothing is served from it. Restore a backup into a new \
                 folder with `settee restore`, or take what can still be read into a new one with `settee check --data {0} \
                 --salvage NEWDIR`, which leaves this one as it is",
                folder.display()
            ),
            OpenError::NoStore { folder, why, missing } => write!(
                out,
                "the data folder {} has lost its store: {why}.{missing}\nNothing of its documents is left in it, and \
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

/// Opens the data folder `dir`, making it if it is not there, with `engine` or the one that it has.
pub fn open(dir: &Path, engine: Option<Engine>) -> std::result::Result<Opened, OpenError> {
    open_with(dir, Options { engine, ..Options::default() })
}

/// As [`open`], of a folder that must be there: for commands that are not to make one by a slip of the hand.
pub fn open_existing(dir: &Path, options: Options) -> std::result::Result<Opened, OpenError> {
    match read_marker(dir)? {
        Some(_) => open_with(dir, options),
        None => Err(no_marker(dir)),
    }
}

/// Makes a folder that is going to be filled, so that nobody takes it for a new one meanwhile.
pub fn begin_filling(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    make_dir(dir).and_then(|()| begin(dir, FILLED)).map_err(io)
}

/// Ends the filling of a new folder (see [`Options::filling`]). Everything in it must be on disk, and closed.
pub fn finish(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    std::fs::remove_file(dir.join(UNFINISHED)).and_then(|()| sync_dir(dir)).map_err(io)
}

/// The id of the key that the folder is encrypted under.
pub fn encrypted_under(dir: &Path) -> std::result::Result<Option<String>, OpenError> {
    let marker = read_marker(dir)?.ok_or_else(|| no_marker(dir))?;
    Ok(marker.envelope.map(|envelope| envelope.key))
}

pub(super) fn no_marker(dir: &Path) -> OpenError {
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
        // An engine may need room to open. A folder that is merely damaged loses nothing by the second try.
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
        // Left by a refusal that was cut off.
        let _ = std::fs::remove_dir_all(dir.join(salvage::LOOKED_INTO));
    }
    space.keep_reserve();
    let lock = Arc::new(lock);
    let store = Arc::new(Locked { inner: store, _lock: lock });
    Ok(Opened { store, blobs: Arc::new(blobs), engine: marker.engine })
}

/// What `format.toml` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub engine: Engine,
    /// How often the store was made anew: the number of its folder.
    pub life: u32,
    /// The same of the attachments; 1 is `blobs`.
    pub blobs: u32,
    /// The keys of an encrypted folder, sealed.
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

    /// The folder's keys, opened with its owner's.
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
                    error: StoreError::Damaged(format!(
                        "the sealed keys in {MARKER} (the key itself is the right one)"
                    )),
                }),
            },
        }
    }

    /// The format record, which stands in the store: the format, and the sealed keys once more.
    pub fn format_record(&self) -> Vec<u8> {
        let mut record = FORMAT.to_be_bytes().to_vec();
        if let Some(envelope) = &self.envelope {
            record.extend_from_slice(envelope.to_string().as_bytes());
        }
        record
    }
}

pub(super) fn open_engine(
    dir: &Path,
    marker: &Marker,
    keys: Option<&FolderKeys>,
    cache_bytes: Option<u64>,
    space: &Space,
) -> Result<Box<dyn Store>> {
    let folder = marker.store_folder(dir);
    let mark = Mark::open(dir, marker.life).map_err(|error| super::space::io_error("opening the mark", &error))?;
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

pub(super) fn open_blobs(
    dir: &Path,
    marker: &Marker,
    keys: Option<&FolderKeys>,
    space: &Space,
) -> io::Result<BlobFiles> {
    BlobFiles::open(&marker.blobs_folder(dir), space.clone(), keys.map(FolderKeys::attachments))
}

/// Removes what a rewrite that was cut off after its end has left: the folders of lives before those in force. Left alone,
/// they would keep on the disk what was meant to be encrypted, or under a key that was given up.
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
            tracing::warn!("{} is of no use any more and cannot be removed: {error}", entry.path().display());
        }
    }
}

pub(super) fn lock(dir: &Path) -> std::result::Result<File, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    hold(dir, File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(io)?)
}

/// As [`lock`], for reading: of a folder that may be on a device that the system has made read-only.
pub(super) fn lock_to_read(dir: &Path) -> std::result::Result<Option<File>, OpenError> {
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

/// `None` without a marker.
pub(super) fn read_marker(dir: &Path) -> std::result::Result<Option<Marker>, OpenError> {
    let not_ours = |why: String| match has_store(dir) {
        Some(_) => OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() },
        None => OpenError::NotOurs { folder: dir.to_path_buf(), why },
    };
    let text = match std::fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(not_ours(format!("its {MARKER} is no text")));
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
        number.ok_or_else(|| not_ours(format!("its {MARKER} has a wrong {name}")))
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

pub(super) fn write_marker(dir: &Path, marker: &Marker) -> io::Result<()> {
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

/// A folder without a marker must not hold what an engine would take for its own.
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

/// What there is of a store in the folder.
fn has_store(dir: &Path) -> Option<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| ["store-", "blobs", "mark-"].iter().any(|start| name.starts_with(start)))
}

/// What `format.toml` may have said, from what there is: the newest store, with the newest attachments.
pub(super) fn guess_marker(dir: &Path) -> std::result::Result<Marker, OpenError> {
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

/// The refusal of a store that the engine, or the comparison with the mark, found wrong.
pub(super) fn refusal(dir: &Path, marker: &Marker, space: &Space, error: StoreError) -> OpenError {
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

/// Whether the folder was being made, or filled, and that was cut off.
pub(super) fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Notes that the folder is being made.
fn begin(dir: &Path, how: &str) -> io::Result<()> {
    let mut file = File::create(dir.join(UNFINISHED))?;
    file.write_all(how.as_bytes())?;
    file.sync_all()?;
    sync_dir(dir)
}

/// Refuses a folder whose filling was cut off, and clears away what a first start that was cut off has left: nothing was ever
/// acknowledged there.
pub(super) fn refuse_unfinished(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let how = match std::fs::read(dir.join(UNFINISHED)) {
        Ok(how) => how,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let has_marker = dir.join(MARKER).exists();
    // Empty: cut off before its one word was written, and so before everything else.
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

/// Refuses a folder whose store is gone.
pub(super) fn refuse_incomplete(dir: &Path, marker: &Marker) -> std::result::Result<(), OpenError> {
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
        // Another store is there, which may still be read.
        Ok(_) => OpenError::Damaged { folder, why, missing },
        Err(_) => no_store(dir, why, missing),
    })
}

fn no_store(dir: &Path, why: String, missing: String) -> OpenError {
    OpenError::NoStore { folder: dir.to_path_buf(), why, missing }
}

/// Refuses a folder whose attachments are gone, all of them: the folder itself was removed, or is another one.
pub(super) fn refuse_without_blobs(
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
    let first = store.keys(&keys::all_blob_references(), 1).map_err(engine)?;
    if !first.first().is_some_and(|key| keys::is_blob_reference(key)) {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = format!("its documents have attachments, and {name} is missing or empty");
    Err(OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() })
}

/// The store's own record of its format: the marker could have been copied from elsewhere, or its keys left out of it so
/// that what is written from now on is not encrypted.
pub(super) fn check_format(
    dir: &Path,
    marker: &Marker,
    store: &dyn Store,
    new: bool,
) -> std::result::Result<(), OpenError> {
    let engine = |error| OpenError::Engine { folder: dir.to_path_buf(), error };
    let own = marker.format_record();
    match store.get(keys::FORMAT).map_err(engine)? {
        Some(value) => match value.split_first_chunk() {
            Some((bytes, _)) if u32::from_be_bytes(*bytes) > FORMAT => {
                Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has: u32::from_be_bytes(*bytes) })
            }
            Some((_, sealed)) if sealed == &own[4..] => Ok(()),
            Some(_) => Err(OpenError::NotOurs {
                folder: dir.to_path_buf(),
                why: format!("its {MARKER} says another encryption than the store beside it"),
            }),
            None => Err(engine(StoreError::Damaged("the format record".into()))),
        },
        None if !new => Err(OpenError::Damaged {
            folder: dir.to_path_buf(),
            why: "its store is empty, or is none of settee's".into(),
            missing: salvage::reached(dir, marker),
        }),
        None => {
            let mut batch = Batch::new();
            batch.put(keys::FORMAT.to_vec(), own);
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
