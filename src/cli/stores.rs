//! Commands on stores that are not in a data folder, and between two stores: `settee check`, `backup` and `restore`
//! with `--store postgres://...`, and `settee convert`.

#![allow(clippy::print_stdout, reason = "a command answers on the standard output")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::progress_bar::{Bar, Unit};
use crate::maintain::survey::Survey;
use crate::store::blob::blobs::Blobs;
use crate::store::postgres::{self, Address, Shared};
use crate::store::{self, Engine, Key, OpenError, Store};

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A data folder, perhaps with the engine that a new one gets.
    Folder { data: PathBuf, engine: Option<Engine> },
    /// A database server.
    Database(Box<Address>),
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Place {}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder { data, .. } => write!(out, "{}", data.display()),
            Place::Database(address) => write!(out, "{address}"),
        }
    }
}

/// An open store of a command.
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    /// The id of the key under which it is encrypted.
    pub encrypted_under: Option<String>,
    /// Set in a database server.
    shared: Option<Shared>,
}

impl Place {
    /// A folder, or a database server if `text` is its address.
    pub fn read(text: &str, environment: &[(String, String)]) -> Result<Place, String> {
        if !Address::is_one(text) {
            return Ok(Place::Folder { data: PathBuf::from(text), engine: None });
        }
        let variable = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        Ok(Place::Database(Box::new(Address::read(text, &variable)?)))
    }

    /// Opens a store that exists.
    pub fn open(&self, key: Option<Key>) -> Result<Opened, String> {
        match self {
            Place::Folder { data, .. } => {
                if !has_entries(data) {
                    return Err(no_data_folder(data));
                }
                let encrypted_under = store::encrypted_under(data).map_err(|error| error.to_string())?;
                let options = store::Options { key, ..store::Options::default() };
                let opened = store::open_existing(data, options).map_err(|error| error.to_string())?;
                Ok(Opened { store: opened.store, blobs: opened.blobs, encrypted_under, shared: None })
            }
            Place::Database(address) => {
                of_database(address, &postgres::Options { key, existing: true, filling: false })
            }
        }
    }

    /// Makes a new store, which others refuse to open until [`Place::finish`].
    pub fn make(&self, key: Option<Key>) -> Result<Opened, String> {
        match self {
            Place::Folder { data, engine } => {
                if has_entries(data) {
                    return Err(format!("{} is not empty: name a new folder", data.display()));
                }
                let encrypted_under = key.as_ref().map(Key::id);
                let options = store::Options { engine: *engine, key, filling: true, ..store::Options::default() };
                let opened = store::begin_filling(data).and_then(|()| store::open_with(data, options));
                let opened = opened.map_err(|error| error.to_string())?;
                Ok(Opened { store: opened.store, blobs: opened.blobs, encrypted_under, shared: None })
            }
            Place::Database(address) => {
                of_database(address, &postgres::Options { key, existing: false, filling: true })
            }
        }
    }

    /// Ends the filling of a new store, and closes it. A folder is complete then, and is rewritten, because the
    /// engines fill their files less densely; without room for a second store it stays as it is.
    pub fn finish(&self, opened: Opened, key: Option<Key>) -> Result<(), String> {
        match self {
            Place::Folder { data, .. } => {
                drop(opened);
                store::finish(data).map_err(|error| error.to_string())?;
                let how = store::Rewrite { key, ..store::Rewrite::default() };
                match store::rewrite(data, &how, |entry, _| Ok(entry), &mut |_| {}) {
                    // Another process may have opened the folder meanwhile.
                    Ok(_) | Err(OpenError::NoRoom { .. } | OpenError::Full(_) | OpenError::Locked(_)) => Ok(()),
                    Err(error) => Err(format!("{self} is complete, but was not rewritten to take less room: {error}")),
                }
            }
            Place::Database(_) => match &opened.shared {
                Some(shared) => shared.finish().map_err(|error| error.to_string()),
                None => Ok(()),
            },
        }
    }
}

/// Says that there is no data in a folder.
pub fn no_data_folder(data: &Path) -> String {
    format!(
        "{} is not a settee data folder: it is empty, or not there. Name the folder by --data; that of the Debian package \
         is /var/lib/settee",
        data.display()
    )
}

/// Whether a folder can be read and has something in it.
pub fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn of_database(address: &Address, options: &postgres::Options) -> Result<Opened, String> {
    let shared = postgres::open(address.clone(), options).map_err(|error| error.to_string())?;
    let (store, blobs, encrypted_under) = (shared.store.clone(), shared.blobs.clone(), shared.encrypted_under.clone());
    Ok(Opened { store, blobs, encrypted_under, shared: Some(shared) })
}

/// What `settee convert` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    pub from: Place,
    pub key: Option<Key>,
    pub to: Place,
    /// The key of the new store; `None`: it is not encrypted.
    pub to_key: Option<Key>,
}

/// `settee convert`: copies a store into a new one.
pub fn convert(how: &Conversion) -> Result<(), String> {
    let from = how.from.open(how.key.clone())?;
    if from.encrypted_under.is_some() && how.to_key.is_none() {
        println!("note: {} is encrypted, and {} will not be", how.from, how.to);
    }
    let to = how.to.make(how.to_key.clone())?;
    let survey = Survey::of(&*from.store).ok();
    let mut bar: Option<(bool, Bar)> = None;
    let changes = |key: &[u8]| survey.as_ref().and_then(|survey| survey.changes_before(key));
    let copied =
        crate::maintain::convert((&*from.store, &*from.blobs), (&*to.store, &*to.blobs), &changes, &mut |at| {
            let is_entries = at.what.is_empty();
            if bar.as_ref().is_none_or(|(entries, _)| *entries != is_entries) {
                let total = survey.as_ref().map(|survey| survey.changes).filter(|_| is_entries);
                bar = Some((is_entries, Bar::new(if is_entries { Unit::Changes } else { Unit::Attachments }, total)));
            }
            if let Some((_, bar)) = &bar {
                bar.show(at.what, at.done);
            }
        });
    drop(bar);
    let copied = copied.map_err(|error| format!("{error}\n{} is incomplete: remove it.", how.to))?;
    how.to.finish(to, how.to_key.clone())?;
    println!(
        "{} entries and {} attachments copied from {} to {}",
        copied.entries, copied.attachments, how.from, how.to
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_folder_that_cannot_be_rewritten_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| (dir.path().join(name), Place::Folder { data: dir.path().join(name), engine: None });
        let (data, refused) = place("refused");
        let opened = refused.make(None).unwrap();
        std::fs::create_dir(data.join("format.tmp")).unwrap();
        let told = refused.finish(opened, None).unwrap_err();
        assert!(told.contains("refused is complete"), "{told}");
        assert!(refused.open(None).is_ok());
        let (data, full) = place("full");
        let opened = full.make(None).unwrap();
        std::os::unix::fs::symlink("/dev/full", data.join("format.tmp")).unwrap();
        assert_eq!(full.finish(opened, None), Ok(()));
        assert!(full.open(None).is_ok());
        assert!(data.join("store-1").exists() && !data.join("store-2").exists());
    }
}
