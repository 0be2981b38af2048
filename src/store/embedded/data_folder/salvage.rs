//! Reads a damaged data folder without changing it.
//!
//! Engines write to their files when they open them, and sled destroys what it cannot replay. Therefore the
//! damaged store is copied first. The copy is opened in several ways, the least intrusive first:
//!
//! ```text
//! the copy as it is ──► without sled's snapshot (replays the whole log) ──► without its settings file too
//! ```
//!
//! The content of the copy is then compared with the mark to say what is missing, or read entry by entry into
//! a new folder (`settee check --salvage`, in `maintain`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::engine::Engine;
use super::lock::{Lock, lock_to_read};
use super::marker::{Marker, guess_marker, read_marker};
use super::open_error::OpenError;
use super::unfinished::is_unfinished;
use crate::store::blob::blobs::Blobs;
use crate::store::blob::files::BlobFiles;
use crate::store::crypto::cipher::{Envelope, FolderKeys};
use crate::store::crypto::master_key::Key;
use crate::store::disk_space::{Space, folder_bytes, io_error};
use crate::store::embedded::committer::Committer;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::{self, Mark, Noted};
use crate::store::embedded::redb::RedbBackend;
use crate::store::embedded::sled::SledBackend;
use crate::store::{Direction, PageLimit, Result, Store, StoreError, keyspace};

/// The most databases that are listed by name.
const NAMED: usize = 20;
/// Largest store, in bytes, that a refusal copies to examine it. With larger ones, a supervisor that keeps
/// restarting the server would keep the disk busy.
const COPIED: u64 = 2 << 30;
/// The copy that a refusal examines.
pub(crate) const LOOKED_INTO: &str = "damaged-copy";

/// The readable content of a damaged folder.
pub struct Source {
    /// The opened copy of the store.
    pub store: Box<dyn Store>,
    /// The attachments, read in place.
    pub blobs: Arc<dyn Blobs>,
    /// The folder's engine.
    pub engine: Engine,
    /// Whether the folder is encrypted.
    pub encrypted: bool,
    /// What had to be done to open it, as text for the user.
    pub notes: Vec<String>,
    /// What is known to be lost before anything is read, as text for the user.
    pub lost: Vec<String>,
    /// What the mark holds of each database, by number.
    pub(crate) noted: BTreeMap<u64, Noted>,
    _lock: Option<Lock>,
}

/// Opens as much as possible of the damaged folder `dir`, through a copy in `scratch`.
///
/// # Errors
/// If nothing can be opened.
pub fn open_damaged(dir: &Path, key: Option<&Key>, scratch: &Path) -> std::result::Result<Source, OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let mut notes = Vec::new();
    let lock = lock_to_read(dir)?;
    let marker = match read_marker(dir) {
        Ok(Some(marker)) if marker.store_folder(dir).exists() => marker,
        Err(error @ OpenError::NewerFormat { .. }) => return Err(error),
        _ => {
            notes.push(
                "format.toml cannot be read, or names a store that does not exist: using the newest store".into(),
            );
            guess_marker(dir)?
        }
    };
    let failed = |error| cannot_salvage(dir.to_path_buf(), error);
    let ways = open_ways(&marker, dir, scratch, &mut notes).map_err(failed)?;
    let mut lost = Vec::new();
    if is_unfinished(dir) {
        lost.push("the folder was never complete: the restore or salvage that filled it was interrupted, and what it had not yet written is unknown".to_owned());
    }
    if !matches!(ways.get(keyspace::FORMAT), Ok(Some(_))) {
        lost.push("the store has no format record: it has lost everything, or was not written by settee".to_owned());
    }
    if !Mark::read(dir, marker.life).is_ok_and(|mark| mark.reached().commits > 0) {
        lost.push("the mark: it is unknown whether the last commits are missing".to_owned());
    }
    // The store holds a second copy of the wrapped keys.
    let envelopes = sealed_keys(ways.as_ref()).into_iter().chain(marker.envelope.clone());
    let envelopes: Vec<Envelope> = envelopes.collect();
    drop(ways);
    let keys = folder_keys(dir, &envelopes, key)?;
    let frames = keys.as_ref().map_or_else(Frames::default, |keys| Frames::sealing(keys.values()));
    let store = open_copy(marker.engine, scratch, frames).map_err(failed)?;
    let space = Space::watch(scratch).map_err(io)?;
    let blobs = BlobFiles::as_it_is(&marker.blobs_folder(dir), space, keys.as_ref().map(FolderKeys::attachments));
    Ok(Source {
        store,
        blobs: Arc::new(blobs),
        engine: marker.engine,
        encrypted: keys.is_some(),
        notes,
        lost,
        noted: noted(dir, &marker),
        _lock: lock,
    })
}

/// Opens the first of the sealed copies of the folder's keys that `key` opens. `None` if there is no copy: the folder is
/// not encrypted.
fn folder_keys(
    dir: &Path,
    envelopes: &[Envelope],
    key: Option<&Key>,
) -> std::result::Result<Option<FolderKeys>, OpenError> {
    let folder = dir.to_path_buf();
    let Some(envelope) = envelopes.first() else { return Ok(None) };
    let needs = envelope.key.clone();
    let Some(key) = key else { return Err(OpenError::NoKey { folder, needs }) };
    match envelopes.iter().find_map(|envelope| envelope.open(key)) {
        Some(keys) => Ok(Some(keys)),
        None if needs != key.id() => Err(OpenError::WrongKey { folder, needs, given: key.id() }),
        None => {
            Err(cannot_salvage(folder, StoreError::Damaged("the sealed keys, in format.toml and in the store".into())))
        }
    }
}

/// The refusal of a folder of which nothing can be salvaged.
fn cannot_salvage(folder: PathBuf, error: StoreError) -> OpenError {
    let error = match error {
        StoreError::Damaged(why) => {
            StoreError::Damaged(format!("{why}, and no other way to open it worked: nothing can be salvaged"))
        }
        error => error,
    };
    OpenError::Engine { folder, error }
}

/// Copies the store to `scratch` and tries one way after the other to open the copy.
fn open_ways(marker: &Marker, dir: &Path, scratch: &Path, notes: &mut Vec<String>) -> Result<Box<dyn Store>> {
    let io = |error: io::Error| io_error("copying the damaged store", &error);
    let ways: &[&[&str]] = match marker.engine {
        Engine::Sled => &[&[], &["snap."], &["snap.", "conf"]],
        Engine::Redb => &[&[]],
    };
    let mut refused = StoreError::Damaged("there is no store".into());
    for without in ways {
        if scratch.exists() {
            std::fs::remove_dir_all(scratch).map_err(io)?;
        }
        copy_folder(&marker.store_folder(dir), scratch, without).map_err(io)?;
        match open_copy(marker.engine, scratch, Frames::default()) {
            Ok(store) => {
                if !without.is_empty() {
                    notes.push(format!("the store opens only without its files {}", without.join(", ")));
                }
                return Ok(store);
            }
            Err(StoreError::Full) => return Err(StoreError::Full),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Opens a copy of a store for reading, without comparing it with a mark.
fn open_copy(engine: Engine, folder: &Path, frames: Frames) -> Result<Box<dyn Store>> {
    Ok(match engine {
        Engine::Sled => {
            let backend = SledBackend::open(folder, 16 << 20, Arc::default())?;
            Box::new(Committer::new(backend, frames, None))
        }
        Engine::Redb => {
            let backend = RedbBackend::unverified(&folder.join(engine.file()), 64 << 20)?;
            Box::new(Committer::new(backend, frames, None))
        }
    })
}

fn sealed_keys(store: &dyn Store) -> Option<Envelope> {
    let record = store.get(keyspace::FORMAT).ok()??;
    let (key, sealed) = std::str::from_utf8(record.get(4..)?).ok()?.split_once(' ')?;
    Some(Envelope { key: key.to_owned(), sealed: sealed.to_owned() })
}

/// Copies the files of a folder except those whose names begin with one of `without`.
fn copy_folder(from: &Path, to: &Path, without: &[&str]) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if without.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to.join(name), &[])?,
            false => std::fs::copy(entry.path(), to.join(name)).map(drop)?,
        }
    }
    Ok(())
}

fn noted(dir: &Path, marker: &Marker) -> BTreeMap<u64, Noted> {
    if !dir.join(mark::name(marker.life)).exists() {
        return BTreeMap::new();
    }
    Mark::read(dir, marker.life).and_then(|mark| mark.databases()).unwrap_or_default()
}

/// Lists the sequences that the databases of a lost store had reached, as text for the user.
pub(crate) fn reached(dir: &Path, marker: &Marker) -> String {
    let lines = noted(dir, marker).into_iter().map(|(number, noted)| {
        let name = database(number, &noted.name);
        format!("{name} had reached sequence {}", noted.sequence)
    });
    listed("Lost with it", lines.collect())
}

/// Lists what is missing in a damaged store, as text for the user. Opens a copy of the store for this, and
/// removes it. If the store is too large or there is no room for a copy, lists the sequences that the
/// databases had reached.
pub(crate) fn missing(dir: &Path, marker: &Marker, space: &Space) -> String {
    let scratch = dir.join(LOOKED_INTO);
    let bytes = folder_bytes(&marker.store_folder(dir));
    let copied = match space.room_for(bytes) {
        Ok(()) if bytes <= COPIED => open_ways(marker, dir, &scratch, &mut Vec::new()).ok(),
        _ => None,
    };
    let lines = copied.as_ref().map(|store| {
        let lines = noted(dir, marker).into_iter().filter_map(|(number, noted)| {
            let has = last_sequence(store.as_ref(), number);
            let name = database(number, &noted.name);
            match has {
                Some(has) if has >= noted.sequence => None,
                Some(has) => Some(format!("{name}: sequences {} to {}", has + 1, noted.sequence)),
                None => Some(format!("{name}: perhaps all up to sequence {}", noted.sequence)),
            }
        });
        listed("Missing at least", lines.collect())
    });
    drop(copied);
    let _ = std::fs::remove_dir_all(&scratch);
    lines.unwrap_or_else(|| reached(dir, marker))
}

/// The last sequence in the changes order of a database; 0 if it has none. `None` if it cannot be read.
pub fn last_sequence(store: &dyn Store, number: u64) -> Option<u64> {
    let rows = keyspace::kind(number, keyspace::Kind::Sequence);
    let page = store.scan(&rows, Direction::Backward, PageLimit::entries(1)).ok()?;
    Some(page.first().map_or(0, |(key, _)| keyspace::sequence_of(key)))
}

/// The name of a database in texts for the user.
pub fn database(number: u64, name: &str) -> String {
    if name.is_empty() { format!("database number {number}") } else { name.to_owned() }
}

fn listed(head: &str, lines: Vec<String>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let more = lines.len().saturating_sub(NAMED);
    let mut text = format!(" {head}: {}", lines[..lines.len() - more].join("; "));
    if more > 0 {
        text.push_str(&format!("; and {more} more databases"));
    }
    text.push('.');
    text
}
