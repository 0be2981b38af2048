//! `format.toml`: what a data folder is, and where its store and attachments are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::engine::{Engine, FORMAT};
use super::open_error::OpenError;
use crate::store::StoreError;
use crate::store::crypto::cipher::{Envelope, FolderKeys};
use crate::store::crypto::master_key::Key;
use crate::store::disk_space::sync_dir;
use crate::store::embedded::mark;

pub(super) const MARKER: &str = "format.toml";
/// The next `format.toml`. While a rewrite is under way, it names the store that is being written.
pub(crate) const NEXT: &str = "format.tmp";
/// Bytes of these files at most.
const LONGEST: u64 = 64 << 10;
pub(super) const CIPHER: &str = "XChaCha20-Poly1305";

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

/// Reads `format.toml`. `None` if the folder has none.
pub(crate) fn read_marker(dir: &Path) -> std::result::Result<Option<Marker>, OpenError> {
    read(dir, MARKER)
}

/// Reads what a rewrite has announced with [`announce_marker`]. `None` if there is none, or if it cannot be read.
pub(super) fn announced_marker(dir: &Path) -> Option<Marker> {
    read(dir, NEXT).ok().flatten()
}

fn read(dir: &Path, file: &str) -> std::result::Result<Option<Marker>, OpenError> {
    let not_ours = |why: String| match has_store(dir) {
        Some(_) => OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() },
        None => OpenError::NotOurs { folder: dir.to_path_buf(), why },
    };
    let mut text = String::new();
    let opened = File::open(dir.join(file)).map(|file| file.take(LONGEST + 1));
    match opened.and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(length) if length as u64 > LONGEST => return Err(not_ours(format!("its {file} is too long"))),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(not_ours(format!("its {file} is not text")));
        }
        Err(error) => return Err(OpenError::Io { folder: dir.to_path_buf(), error }),
    }
    let table: toml::Table = text.parse().map_err(|error| not_ours(format!("its {file} cannot be read: {error}")))?;
    let format = table.get("format").and_then(toml::Value::as_integer).and_then(|format| u32::try_from(format).ok());
    match format {
        None | Some(0) => return Err(not_ours(format!("its {file} names no format"))),
        Some(has) if has > FORMAT => return Err(OpenError::NewerFormat { folder: dir.to_path_buf(), has }),
        Some(_) => {}
    }
    let engine = table.get("engine").and_then(toml::Value::as_str);
    let engine = engine.ok_or_else(|| not_ours(format!("its {file} names no engine")))?;
    let number = |name: &str| {
        let number = table.get(name).map_or(Some(1), |number| u32::try_from(number.as_integer()?).ok());
        number.ok_or_else(|| not_ours(format!("its {file} has an invalid {name}")))
    };
    let envelope = table.get("encryption").map(|section| {
        let text = |name: &str| Some(section.get(name)?.as_str()?.to_owned());
        match (text("cipher").as_deref(), text("key"), text("keys")) {
            (Some(CIPHER), Some(key), Some(sealed)) => Ok(Envelope { key, sealed }),
            _ => Err(not_ours(format!("the section [encryption] of its {file} cannot be read"))),
        }
    });
    Ok(Some(Marker {
        engine: engine.parse().map_err(not_ours)?,
        life: number("life")?,
        blobs: number("blobs")?,
        envelope: envelope.transpose()?,
    }))
}

/// Replaces `format.toml`.
pub(crate) fn write_marker(dir: &Path, marker: &Marker) -> io::Result<()> {
    announce_marker(dir, marker)?;
    put_in_force(dir)
}

/// Writes the next `format.toml` durably, beside the one in force. Until [`put_in_force`] is called, a start removes the
/// store that it names.
pub(crate) fn announce_marker(dir: &Path, marker: &Marker) -> io::Result<()> {
    let mut file = File::create(dir.join(NEXT))?;
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
    sync_dir(dir)
}

/// Replaces `format.toml` by the announced one, durably.
pub(crate) fn put_in_force(dir: &Path) -> io::Result<()> {
    std::fs::rename(dir.join(NEXT), dir.join(MARKER))?;
    sync_dir(dir)
}

/// Removes the store that a rewrite has announced and was writing when it was interrupted, and the attachments beside it.
pub(super) fn remove_announced(dir: &Path, in_force: &Marker) -> io::Result<()> {
    if let Some(announced) = announced_marker(dir) {
        let newer = |number: u32, current: u32, folder: PathBuf| match number > current && folder.exists() {
            true => std::fs::remove_dir_all(folder),
            false => Ok(()),
        };
        newer(announced.life, in_force.life, announced.store_folder(dir))?;
        newer(announced.blobs, in_force.blobs, announced.blobs_folder(dir))?;
        if announced.life > in_force.life {
            remove_if_exists(&dir.join(mark::name(announced.life)))?;
        }
    }
    remove_if_exists(&dir.join(NEXT))
}

pub(crate) fn remove_if_exists(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the name of some file or folder in `dir` that belongs to a store.
pub(super) fn has_store(dir: &Path) -> Option<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| ["store-", "blobs", "mark-"].iter().any(|start| name.starts_with(start)))
}

/// Guesses the content of `format.toml` from the files: the newest store and the newest attachments. Those that a rewrite
/// has announced, and may not have finished, only if there are no others.
pub(crate) fn guess_marker(dir: &Path) -> std::result::Result<Marker, OpenError> {
    let (mut stores, mut blobs) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = |start: &str| name.strip_prefix(start)?.parse::<u32>().ok();
        blobs.extend(number("blobs-").or((name == "blobs").then_some(1)));
        if let Some(life) = number("store-")
            && let Some(engine) = Engine::ALL.iter().find(|engine| entry.path().join(engine.file()).exists())
        {
            stores.push((life, *engine));
        }
    }
    let announced = announced_marker(dir);
    let is_whole = |life: u32| announced.as_ref().is_none_or(|announced| announced.life != life);
    let found = stores.into_iter().max_by_key(|(life, _)| (is_whole(*life), *life));
    let are_whole = |number: u32| announced.as_ref().is_none_or(|announced| announced.blobs != number);
    let blobs = blobs.into_iter().max_by_key(|number| (are_whole(*number), *number)).unwrap_or(1);
    let (life, engine) = found.ok_or_else(|| match has_store(dir) {
        Some(_) => no_store(dir, "there is none in it, so nothing can be salvaged".into(), String::new()),
        None => OpenError::NotOurs { folder: dir.to_path_buf(), why: "there is no store in it".into() },
    })?;
    Ok(Marker { engine, life, blobs, envelope: None })
}

pub(super) fn no_store(dir: &Path, why: String, missing: String) -> OpenError {
    OpenError::NoStore { folder: dir.to_path_buf(), why, missing }
}
