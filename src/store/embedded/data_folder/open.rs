//! Opens a data folder, or creates it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::checks::{check_format, no_marker, refusal, refuse_foreign, refuse_incomplete, refuse_without_blobs};
use super::engine::Engine;
use super::lock::lock;
use super::marker::{Marker, read_marker, remove_announced, write_marker};
use super::open_error::OpenError;
use super::open_store::{Home, OpenStore};
use super::permissions;
use super::salvage;
use super::unfinished::{FILLED, NEW, begin, finish, refuse_unfinished};
use crate::store::blob::blobs::Blobs;
use crate::store::blob::files::BlobFiles;
use crate::store::crypto::cipher::FolderKeys;
use crate::store::crypto::master_key::Key;
use crate::store::disk_space::{Space, io_error, make_dir};
use crate::store::embedded::committer::Committer;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::Mark;
use crate::store::embedded::redb::RedbBackend;
use crate::store::embedded::sled::SledBackend;
use crate::store::{Result, Store, StoreError};

/// Sizes of the engines' caches, unless another one is set.
pub(crate) const SLED_CACHE: u64 = 16 << 20;
const REDB_CACHE: u64 = 64 << 20;

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

/// Opens the data folder `dir`, or creates it. For `engine`, see [`Options::engine`].
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

/// The id of the key under which the folder is encrypted, or `None` if it is not encrypted.
pub fn encrypted_under(dir: &Path) -> std::result::Result<Option<String>, OpenError> {
    let marker = read_marker(dir)?.ok_or_else(|| no_marker(dir))?;
    Ok(marker.envelope.map(|envelope| envelope.key))
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
    if let Some(marker) = &found {
        permissions::tighten(dir, marker);
    }
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
            refuse_foreign(dir)?;
            begin(dir, if options.filling { FILLED } else { NEW }).map_err(io)?;
            new_marker(&options)
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
    if let Err(error) = remove_announced(dir, &marker) {
        tracing::warn!("what an interrupted rewrite has left in {} cannot be removed: {error}", dir.display());
    }
    if !options.filling {
        // Removes the copy that an interrupted refusal has left.
        let _ = std::fs::remove_dir_all(dir.join(salvage::LOOKED_INTO));
    }
    space.keep_reserve();
    let engine = marker.engine;
    let home = Home { dir: dir.to_path_buf(), marker, keys, cache_bytes: options.cache_bytes, space };
    let store = Arc::new(OpenStore::new(store, home, lock));
    Ok(Opened { store, blobs: Arc::new(blobs), engine })
}

/// The marker of a new folder, and its keys if it is to be encrypted.
fn new_marker(options: &Options) -> (Marker, Option<FolderKeys>) {
    let keys = options.key.as_ref().map(|key| (FolderKeys::generate(), key));
    let envelope = keys.as_ref().map(|(keys, key)| keys.envelope(key));
    let marker = Marker { engine: options.engine.unwrap_or(Engine::ALL[0]), life: 1, blobs: 1, envelope };
    (marker, keys.map(|(keys, _)| keys))
}

pub(crate) fn open_engine(
    dir: &Path,
    marker: &Marker,
    keys: Option<&FolderKeys>,
    cache_bytes: Option<u64>,
    space: &Space,
) -> Result<Box<dyn Store>> {
    let folder = marker.store_folder(dir);
    let mark = Mark::open(dir, marker.life).map_err(|error| io_error("opening the mark", &error))?;
    let mark = Arc::new(mark);
    let frames = Frames::of(keys);
    Ok(match marker.engine {
        Engine::Sled => {
            let backend = SledBackend::open(&folder, cache_bytes.unwrap_or(SLED_CACHE), mark.clone())?;
            Box::new(Committer::marked(backend, frames, Some(space.clone()), mark)?)
        }
        Engine::Redb => {
            let backend = RedbBackend::open(&folder.join(marker.engine.file()), cache_bytes.unwrap_or(REDB_CACHE))?;
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
