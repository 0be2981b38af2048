//! Fills a fresh store, which nobody uses yet, with entries in ascending order of their keys.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::committer::Committer;
use super::data_folder::{Engine, Marker, SLED_CACHE, open_engine};
use super::frame::Frames;
use super::mark::{Mark, Notes, Reached};
use super::sled::{BulkWriter, SledBackend};
use super::tally::{Tally, Totals};
use crate::store::crypto::cipher::FolderKeys;
use crate::store::crypto::master_key::random;
use crate::store::disk_space::{Space, io_error};
use crate::store::range::KeyRange;
use crate::store::reserved_keys::check_key;
use crate::store::{Batch, Direction, Durability, Entry, PageLimit, Result, Store, StoreError, pages};

/// All keys.
pub(crate) const EVERYTHING: KeyRange = (Bound::Unbounded, Bound::Unbounded);
/// The limit of a page that is copied.
pub(crate) const COPIED_AT_ONCE: PageLimit = PageLimit { entries: 4096, bytes: 4 << 20 };

/// A store that is being filled. It is unusable until [`Filled::finish`] returns.
pub(crate) struct Filling<'a> {
    to: (&'a Path, &'a Marker),
    cache_bytes: Option<u64>,
    space: &'a Space,
    target: Target,
    entries: u64,
}

enum Target {
    /// sled's log is written without sled (see `sled::bulk`).
    Log { writer: Box<BulkWriter>, frames: Frames, totals: Totals, notes: Notes },
    /// The engine itself fills its files densely enough.
    Commits(Box<dyn Store>),
}

impl<'a> Filling<'a> {
    /// Begins the store that `marker` names in `dir`, which must not exist yet. For `cache_bytes`, see
    /// [`Options::cache_bytes`](super::data_folder::Options::cache_bytes).
    pub fn begin(
        dir: &'a Path,
        marker: &'a Marker,
        keys: Option<&FolderKeys>,
        cache_bytes: Option<u64>,
        space: &'a Space,
    ) -> Result<Filling<'a>> {
        let target = match marker.engine {
            Engine::Sled => {
                let frames = Frames::of(keys);
                let totals = Totals::default().of(u64::from_be_bytes(*random()), 0);
                let totals = Tally::after(&totals, &frames).totals;
                let writer = Box::new(BulkWriter::create(&marker.store_folder(dir))?);
                Target::Log { writer, frames, totals, notes: Notes::default() }
            }
            Engine::Redb => Target::Commits(open_engine(dir, marker, keys, cache_bytes, space)?),
        };
        Ok(Filling { to: (dir, marker), cache_bytes, space, target, entries: 0 })
    }

    /// Adds a page of entries, in ascending order of their keys.
    pub fn put(&mut self, page: Vec<Entry>) -> Result<()> {
        self.entries += page.len() as u64;
        match &mut self.target {
            Target::Log { writer, frames, totals, notes } => {
                for (key, value) in page {
                    check_key(&key)?;
                    let framed = frames.seal(&key, &value);
                    totals.count(&key, Some(&framed));
                    notes.take_entry(&key, &value);
                    writer.put(key, framed)?;
                }
                Ok(())
            }
            Target::Commits(store) => store.commit(relaxed(page)),
        }
    }

    /// Makes the entries durable and opens the store.
    pub fn open(self) -> Result<Filled> {
        let store = match self.target {
            Target::Log { writer, frames, totals, notes } => {
                writer.finish(totals.record(&frames))?;
                let (dir, marker) = self.to;
                let mark = Mark::open(dir, marker.life).map_err(|error| io_error("opening the mark", &error))?;
                let mark = Arc::new(mark);
                mark.note(Reached { store: totals.store, ..Reached::default() }, &notes);
                let backend =
                    SledBackend::open(&marker.store_folder(dir), self.cache_bytes.unwrap_or(SLED_CACHE), mark.clone())?;
                Box::new(Committer::marked(backend, frames, Some(self.space.clone()), mark)?) as Box<dyn Store>
            }
            Target::Commits(store) => {
                store.commit(Batch::new())?;
                store
            }
        };
        Ok(Filled { store, entries: self.entries })
    }
}

/// A store that was filled, and is open.
pub(crate) struct Filled {
    store: Box<dyn Store>,
    entries: u64,
}

impl Filled {
    /// Adds entries, in any order.
    pub fn put(&mut self, page: Vec<Entry>) -> Result<()> {
        self.entries += page.len() as u64;
        self.store.commit(relaxed(page))
    }

    /// Makes the store durable, and reads all its entries. Calls `each` after each page.
    ///
    /// # Errors
    /// `Damaged` if the store does not have exactly the entries that were added, and the errors of `each`.
    pub fn verify(&self, each: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.store.commit(Batch::new())?;
        let mut found = 0;
        for page in pages(self.store.as_ref(), EVERYTHING, Direction::Forward, COPIED_AT_ONCE) {
            found += page?.len() as u64;
            each()?;
        }
        if found != self.entries {
            return Err(StoreError::Damaged(format!("the new store has {found} of {} entries", self.entries)));
        }
        Ok(())
    }

    pub fn into_store(self) -> Box<dyn Store> {
        self.store
    }
}

fn relaxed(page: Vec<Entry>) -> Batch {
    let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
    page.into_iter().for_each(|(key, value)| batch.put(key, value));
    batch
}
