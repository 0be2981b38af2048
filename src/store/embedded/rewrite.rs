//! `settee compact-store`: replaces a store by a fresh one. This returns disk space, changes the engine, or
//! begins, ends or renews encryption. No other process may have the folder open.
//!
//! ```text
//! format.tmp names store-N+1 and blobs-M+1 ──► both are written and synced
//!                                          ──► format.tmp becomes format.toml ──► the old ones are removed
//! ```
//!
//! With `--to`, the fresh store and all attachments go into a new folder, possibly on another disk, and the
//! old folder does not change. This is the way out when the disk is full.
//!
//! An interruption at any moment leaves either the old or the new folders in force, complete. Attachments are
//! rewritten only when their keys change. When encryption begins, their names change too, from a digest of
//! the content to a keyed hash of that digest. Entries that contain such names are converted by [`Renamed`]
//! as they are copied.

use std::io;
use std::path::{Path, PathBuf};

use super::data_folder::{
    Engine, LOCK, Lock, Marker, NEXT, UNFINISHED, announce_marker, begin_filling, check_format, finish, lock,
    no_marker, open_blobs, open_engine, put_in_force, read_marker, refusal, refuse_incomplete, refuse_unfinished,
    refuse_without_blobs, remove_if_exists,
};
use super::fill::{COPIED_AT_ONCE, EVERYTHING, Filling};
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::blob::files::BlobFiles;
use crate::store::crypto::cipher::{BlobKeys, Envelope, FolderKeys};
use crate::store::crypto::master_key::Key;
use crate::store::disk_space::{RESERVE, Space, copy_folder, folder_bytes, io_error, make_dir};
use crate::store::{Direction, Entry, OpenError, Result, Store, StoreError, keyspace, pages};

/// What a rewrite does to the encryption of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sealing {
    /// Keeps it as it is, under the same keys.
    #[default]
    Keep,
    /// Encrypts everything under new folder keys, which are wrapped with this key.
    Under(Key),
    /// Decrypts everything.
    Plain,
}

/// How to rewrite a data folder.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// `None`: the folder's current engine.
    pub engine: Option<Engine>,
    /// The folder's current key.
    pub key: Option<Key>,
    /// What happens to the encryption.
    pub sealing: Sealing,
    /// A new folder for the result. `None`: the result replaces the old store.
    pub to: Option<PathBuf>,
}

impl Rewrite {
    /// Whether the folder keeps its place, its engine and its encryption: only its size changes.
    pub fn keeps_all(&self) -> bool {
        self.engine.is_none() && self.to.is_none() && self.sealing == Sealing::Keep
    }
}

/// Converts an entry when attachments are renamed. The function argument maps an old name to the new one.
pub type Renamed = fn(Entry, &dyn Fn(&BlobId) -> BlobId) -> Result<Entry>;

/// Progress of a rewrite.
pub enum Step<'a> {
    /// Reports the store that will be copied.
    Begins(&'a dyn Store),
    /// `done` of `total` attachments are copied.
    Attachments { done: u64, total: u64 },
    /// `done` entries are copied, the last of them under the key `last`.
    Entries { done: u64, last: &'a [u8] },
}

/// Rewrites the store of `dir` into a fresh one, with `engine` if one is given. See [`rewrite`].
pub fn compact(
    dir: &Path,
    engine: Option<Engine>,
    progress: &mut dyn FnMut(Step<'_>),
) -> std::result::Result<(u64, u64), OpenError> {
    rewrite(dir, &Rewrite { engine, ..Rewrite::default() }, |entry, _| Ok(entry), progress)
}

/// Rewrites the store of `dir` into a fresh one and replaces it. Calls `progress` at each step. Returns the
/// bytes on disk before and after.
pub fn rewrite(
    dir: &Path,
    how: &Rewrite,
    renamed: Renamed,
    progress: &mut dyn FnMut(Step<'_>),
) -> std::result::Result<(u64, u64), OpenError> {
    let mut filling = false;
    let rewritten = rewrite_into(dir, how, renamed, progress, &mut filling);
    // While `filling` is false, the target may be in use by another process.
    if let (Err(_), Some(to), true) = (&rewritten, &how.to, filling) {
        // Leaves nothing behind that would block the next attempt.
        for left in [UNFINISHED, LOCK, RESERVE] {
            let _ = std::fs::remove_file(to.join(left));
        }
        let _ = std::fs::remove_dir_all(to.join("source"));
        let _ = std::fs::remove_dir(to);
    }
    rewritten
}

/// Sets `filling` to true once the new folder is known to be empty and is locked.
fn rewrite_into(
    dir: &Path,
    how: &Rewrite,
    renamed: Renamed,
    progress: &mut dyn FnMut(Step<'_>),
    filling: &mut bool,
) -> std::result::Result<(u64, u64), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let failed = |error: StoreError| match error {
        StoreError::Full => OpenError::Full(dir.to_path_buf()),
        StoreError::Damaged(why) => OpenError::Damaged { folder: dir.to_path_buf(), why, missing: String::new() },
        error => OpenError::Engine { folder: dir.to_path_buf(), error },
    };
    let old = read_marker(dir)?.ok_or_else(|| no_marker(dir))?;
    let _lock = lock(dir)?;
    refuse_unfinished(dir)?;
    refuse_incomplete(dir, &old)?;
    let space = Space::watch(dir).map_err(io)?;
    let target = how.to.as_deref().unwrap_or(dir);
    let (_target_lock, target_space) = match &how.to {
        None => (None, space.clone()),
        Some(to) => {
            let (locked, space) = lock_new(to, filling)?;
            (Some(locked), space)
        }
    };
    // The settings may already name the key under which this rewrite encrypts the folder.
    let needless = old.envelope.is_none() && how.sealing != Sealing::Keep;
    let old_keys = old.keys(dir, how.key.as_ref().filter(|_| !needless))?;
    let (new_keys, envelope) = new_keys(&how.sealing, &old, old_keys.as_ref());
    let moves =
        how.to.is_some() || matches!(how.sealing, Sealing::Under(_)) || old_keys.is_some() != new_keys.is_some();
    let (life, blobs) = match how.to {
        Some(_) => (1, 1),
        None => (old.life + 1, old.blobs + u32::from(moves)),
    };
    let new = Marker { engine: how.engine.unwrap_or(old.engine), life, blobs, envelope };
    // Left by a rewrite that was interrupted before it wrote its marker.
    remove_new(target, &new, moves).map_err(io)?;
    let source = how.to.as_ref().map(|to| to.join("source"));
    let from = open_source(dir, source.as_deref(), &old, old_keys.as_ref(), &space);
    let from = from.map_err(|error| refusal(dir, &old, &space, error))?;
    check_format(dir, &old, from.as_ref(), false)?;
    refuse_without_blobs(dir, &old, from.as_ref())?;
    let attachments = if moves { folder_bytes(&old.blobs_folder(dir)) } else { 0 };
    must_fit(dir, target, from.as_ref(), new.engine, attachments, &target_space)?;
    progress(Step::Begins(from.as_ref()));
    let sides = Sides {
        from: (dir, &old, old_keys.as_ref(), &space),
        to: (target, &new, new_keys.as_ref(), &target_space),
        moves,
    };
    // A start after an interruption, or a salvage, knows from it that the new store is not complete.
    let announced = announce_marker(target, &new).map_err(|error| io_error("writing format.tmp", &error));
    let copied = announced.and_then(|()| sides.copy(from.as_ref(), renamed, progress));
    if let Err(error) = copied {
        let _ = abandon(target, &new, moves);
        if let Some(source) = source {
            drop(from);
            let _ = std::fs::remove_dir_all(source);
        }
        return Err(match error {
            StoreError::Full => OpenError::Full(target.to_path_buf()),
            error => failed(error),
        });
    }
    drop(from);
    let bytes = |dir: &Path, marker: &Marker| {
        folder_bytes(&marker.store_folder(dir)) + if moves { folder_bytes(&marker.blobs_folder(dir)) } else { 0 }
    };
    let sizes = (bytes(dir, &old), bytes(target, &new));
    if let Some(source) = source.filter(|source| source.exists()) {
        std::fs::remove_dir_all(source).map_err(io)?;
    }
    if let Err(error) = put_in_force(target) {
        // The new store must not fill the disk further, unless it is in force already.
        if read_marker(target).is_ok_and(|found| found.as_ref() != Some(&new)) {
            let _ = abandon(target, &new, moves);
        }
        return Err(io(error));
    }
    if how.to.is_some() {
        finish(target)?;
        return Ok(sizes);
    }
    remove_old(dir, &old, moves).map_err(io)?;
    Ok(sizes)
}

/// A folder, its marker, its keys if it is encrypted, and the space on its disk.
type Side<'a> = (&'a Path, &'a Marker, Option<&'a FolderKeys>, &'a Space);

/// What is copied from where to where. `moves`: the attachments are copied too.
struct Sides<'a> {
    from: Side<'a>,
    to: Side<'a>,
    moves: bool,
}

impl Sides<'_> {
    /// Copies the attachments, if they move, and then the store `source`.
    fn copy(&self, source: &dyn Store, renamed: Renamed, progress: &mut dyn FnMut(Step<'_>)) -> Result<()> {
        let (dir, old, old_keys, space) = self.from;
        let (target, new, new_keys, target_space) = self.to;
        let names = new_keys.filter(|_| old_keys.is_none()).map(FolderKeys::attachments);
        let name = |id: &BlobId| names.as_ref().map_or(*id, |names: &BlobKeys| names.name(id));
        if self.moves {
            let io = |error: io::Error| io_error("opening the attachments", &error);
            let from = open_blobs(dir, old, old_keys, space).map_err(io)?;
            let to = open_blobs(target, new, new_keys, target_space).map_err(io)?;
            copy_blobs(&from, &to, &name, progress)?;
        }
        let to = Filling::begin(target, new, new_keys, None, target_space)?;
        let change = |entry: Entry| match names {
            _ if entry.0 == keyspace::FORMAT => Ok((entry.0, new.format_record())),
            Some(_) => renamed(entry, &name),
            None => Ok(entry),
        };
        copy(source, to, &change, progress)
    }
}

/// Removes what a rewrite has written of the new store, and of the attachments if they move.
pub(super) fn remove_new(target: &Path, new: &Marker, moves: bool) -> io::Result<()> {
    let blobs = Some(new.blobs_folder(target)).filter(|_| moves);
    for folder in [Some(new.store_folder(target)), blobs].into_iter().flatten().filter(|folder| folder.exists()) {
        std::fs::remove_dir_all(folder)?;
    }
    remove_mark(target, new)
}

/// Gives a rewrite up: as [`remove_new`], and the new store is no longer announced.
pub(super) fn abandon(target: &Path, new: &Marker, moves: bool) -> io::Result<()> {
    remove_new(target, new, moves)?;
    remove_if_exists(&target.join(NEXT))
}

/// Creates and locks the new folder `to`, which must be empty.
fn lock_new(to: &Path, filling: &mut bool) -> std::result::Result<(Lock, Space), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: to.to_path_buf(), error };
    make_dir(to).map_err(io)?;
    if std::fs::read_dir(to).map_err(io)?.next().is_some() {
        return Err(OpenError::NotEmpty(to.to_path_buf()));
    }
    let locked = lock(to)?;
    *filling = true;
    begin_filling(to)?;
    Ok((locked, Space::watch(to).map_err(io)?))
}

/// The keys of the rewritten folder, and their wrapped form.
fn new_keys(sealing: &Sealing, old: &Marker, old_keys: Option<&FolderKeys>) -> (Option<FolderKeys>, Option<Envelope>) {
    match sealing {
        Sealing::Keep => (old_keys.cloned(), old.envelope.clone()),
        Sealing::Under(key) => {
            let keys = old_keys.map_or_else(FolderKeys::generate, FolderKeys::renewed);
            let envelope = keys.envelope(key);
            (Some(keys), Some(envelope))
        }
        Sealing::Plain => (None, None),
    }
}

/// Removes the old store, and the old attachments if they were copied.
pub(super) fn remove_old(dir: &Path, old: &Marker, moves: bool) -> io::Result<()> {
    std::fs::remove_dir_all(old.store_folder(dir))?;
    remove_mark(dir, old)?;
    if moves && old.blobs_folder(dir).exists() {
        std::fs::remove_dir_all(old.blobs_folder(dir))?;
    }
    Ok(())
}

/// Removes the mark of a store that is not in force. Otherwise the next store with this number would be
/// compared with it.
fn remove_mark(dir: &Path, of: &Marker) -> io::Result<()> {
    remove_if_exists(&dir.join(super::mark::name(of.life)))
}

/// Opens the store that is to be rewritten. An engine may need free space to open: if there is none even
/// after releasing the reserve, opens a copy of its files under `copy`.
fn open_source(
    dir: &Path,
    copy: Option<&Path>,
    old: &Marker,
    keys: Option<&FolderKeys>,
    space: &Space,
) -> Result<Box<dyn Store>> {
    let open = |dir: &Path| open_engine(dir, old, keys, None, space);
    match open(dir) {
        Err(StoreError::Full) => {}
        opened => return opened,
    }
    if space.release_reserve() {
        match open(dir) {
            Err(StoreError::Full) => {}
            opened => return opened,
        }
    }
    let Some(copy) = copy else { return Err(StoreError::Full) };
    let io = |error: io::Error| io_error("copying the store", &error);
    copy_folder(&old.store_folder(dir), &old.store_folder(copy)).map_err(io)?;
    // Includes the mark, so that a copy that has lost something is refused like the store itself.
    let mark = super::mark::name(old.life);
    if dir.join(&mark).exists() {
        std::fs::copy(dir.join(&mark), copy.join(&mark)).map_err(io)?;
    }
    open(copy)
}

/// Checks, before anything is written, that the fresh store and `attachments` bytes fit on the target's disk.
fn must_fit(
    dir: &Path,
    target: &Path,
    from: &dyn Store,
    engine: Engine,
    attachments: u64,
    space: &Space,
) -> std::result::Result<(), OpenError> {
    let free = || space.free().unwrap_or(u64::MAX);
    // Shortcut: there is at least twice as much room as the old store takes.
    if free() >= 2 * from.disk_bytes() + attachments + (64 << 20) {
        return Ok(());
    }
    let live =
        live_bytes(from, &mut || Ok(())).map_err(|error| OpenError::Engine { folder: dir.to_path_buf(), error })?;
    let needs = attachments + live.room(engine);
    if free() < needs && dir == target {
        // The reserve exists for a full disk.
        space.release_reserve();
    }
    match free() {
        free if free < needs => {
            Err(OpenError::NoRoom { folder: dir.to_path_buf(), target: target.to_path_buf(), needs, free })
        }
        _ => Ok(()),
    }
}

/// The number of entries, and the bytes of all keys and of all values.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub entries: u64,
    pub keys: u64,
    pub values: u64,
}

impl Live {
    /// The most bytes that a fresh store with these entries takes on disk.
    pub fn room(&self, engine: Engine) -> u64 {
        // What comes to an entry: its frame, with encryption 45 bytes, and its share of a node.
        let live = self.keys + self.values + 64 * self.entries;
        match engine {
            // Each leaf of nine entries has three keys more, in itself and above it, and large nodes do not fill
            // the segments.
            Engine::Sled => live + live / 16 + self.keys / 2 + (16 << 20),
            Engine::Redb => live + live / 2 + (8 << 20),
        }
    }
}

/// Counts all entries. Calls `each` after each page.
pub(super) fn live_bytes(from: &dyn Store, each: &mut dyn FnMut() -> Result<()>) -> Result<Live> {
    let mut live = Live::default();
    for page in pages(from, EVERYTHING, Direction::Forward, COPIED_AT_ONCE) {
        each()?;
        for (key, value) in page? {
            live.entries += 1;
            live.keys += key.len() as u64;
            live.values += value.len() as u64;
        }
    }
    Ok(live)
}

/// Copies the attachments one by one, in bounded memory. Stops at a damaged one: the old folder stays in
/// force, and the attachment must be dealt with there.
fn copy_blobs(
    from: &BlobFiles,
    to: &BlobFiles,
    name: &dyn Fn(&BlobId) -> BlobId,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<()> {
    let pages = |each: &mut dyn FnMut(&BlobId) -> Result<()>| {
        let mut after = None;
        loop {
            let page = from.list(after.as_ref(), 1000)?;
            page.iter().try_for_each(&mut *each)?;
            match page.last() {
                Some(last) => after = Some(*last),
                None => return Ok(()),
            }
        }
    };
    let (mut total, mut done) = (0, 0);
    pages(&mut |_| {
        total += 1;
        Ok(())
    })?;
    pages(&mut |id| {
        to.take_over(from, id, name(id))?;
        done += 1;
        progress(Step::Attachments { done, total });
        Ok(())
    })
}

/// Copies the entries of `from`. Those whose keys `change` has changed follow at the end: their order is another
/// one. Only references to attachments have such keys.
fn copy(
    from: &dyn Store,
    mut to: Filling<'_>,
    change: &dyn Fn(Entry) -> Result<Entry>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<()> {
    // (with the same key, with another one)
    let changed = |page: Vec<Entry>| -> Result<(Vec<Entry>, Vec<Entry>)> {
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for entry in page {
            let key = entry.0.clone();
            let entry = change(entry)?;
            if entry.0 == key { same.push(entry) } else { other.push(entry) }
        }
        Ok((same, other))
    };
    let (mut done, mut moved) = (0, 0);
    for page in pages(from, EVERYTHING, Direction::Forward, COPIED_AT_ONCE) {
        let page = page?;
        let last = page.last().map(|(key, _)| key.clone()).unwrap_or_default();
        done += page.len() as u64;
        let (same, other) = changed(page)?;
        moved += other.len();
        to.put(same)?;
        progress(Step::Entries { done, last: &last });
    }
    let mut to = to.open()?;
    if moved > 0 {
        for page in pages(from, keyspace::all_blob_references(), Direction::Forward, COPIED_AT_ONCE) {
            let (_, other) = changed(page?)?;
            moved -= other.len();
            to.put(other)?;
        }
    }
    assert_eq!(moved, 0, "only references to attachments get other keys");
    to.verify(&mut || Ok(()))
}
