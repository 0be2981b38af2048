//! Why a data folder could not be opened, and what the user can do about it.

use std::path::PathBuf;
use std::{fmt, io};

use super::engine::{Engine, FORMAT};
use crate::store::StoreError;

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
