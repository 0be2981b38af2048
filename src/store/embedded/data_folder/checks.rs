//! What is checked of a data folder before it is used, and the refusals of a damaged one.

use std::path::Path;

use super::engine::FORMAT;
use super::marker::{MARKER, Marker, guess_marker, has_store, no_store};
use super::open_error::OpenError;
use super::salvage;
use crate::store::disk_space::Space;
use crate::store::{Batch, Store, StoreError, keyspace};

/// Refuses a folder that has no marker but holds files of a store.
pub(super) fn refuse_foreign(dir: &Path) -> std::result::Result<(), OpenError> {
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

pub(crate) fn no_marker(dir: &Path) -> OpenError {
    refuse_foreign(dir).err().unwrap_or_else(|| {
        let why = format!("it has no {MARKER}");
        OpenError::NotOurs { folder: dir.to_path_buf(), why }
    })
}

/// Converts the error of a store that could not be opened. If the store is damaged, adds what is missing.
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
