//! Rewrites a store while it is in use, as `settee compact-store` does when it is not (see `rewrite`): the disk gets back
//! what the old files held beside the live data.
//!
//! ```text
//! commits ──► store-N, and their keys are noted
//!             store-N ──────────────► store-N+1      all entries, in order of their keys
//!             noted keys ───────────► store-N+1      again and again, until few are left
//! commits wait: the last noted keys, the digests of both stores are compared, format.toml is replaced
//! commits ──► store-N+1                              store-N is removed
//! ```
//!
//! A key is noted after its commit. Whatever the copy has read of it, before the commit or after, is therefore read
//! again, and at the end each key has the value of its last commit. Until `format.toml` is replaced, nothing depends on
//! the new store: any error, and an end of the process, leaves the old one in force.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::data_folder::{Home, Marker, OpenStore, announce_marker, put_in_force, read_marker};
use super::fill::{EVERYTHING, Filling};
use super::rewrite::{abandon, live_bytes, remove_new, remove_old};
use crate::store::disk_space::{io_error, sync_dir};
use crate::store::{Batch, Direction, Durability, PageLimit, Result, Store, StoreError, pages};

/// The limit of a page that is copied. Commits may wait for a page.
const PAGE: PageLimit = PageLimit { entries: 500, bytes: 1 << 20 };
/// While commits wait, at most so many keys are copied, or as many as take so long, or the rewrite is given up.
const LAST_KEYS: usize = 2000;
const LAST_TIME: Duration = Duration::from_millis(500);
/// How often the keys that were noted meanwhile are copied without making commits wait.
const ROUNDS: u32 = 40;
/// Bytes of values that are read before they are written into the new store.
const COPIED: usize = 4 << 20;

impl OpenStore {
    /// Rewrites the store. Returns the bytes of its files before and after. See [`Store::rewrite`].
    pub(super) fn rewrite_in_use(&self, stop: &dyn Fn() -> bool) -> Result<(u64, u64)> {
        let Some(mut home) = self.home.try_lock() else { return Err(given_up("the store is being rewritten already")) };
        if let Some(why) = self.refused.get() {
            return Err(why.clone());
        }
        let home = &mut *home;
        let new = Marker { life: home.marker.life + 1, ..home.marker.clone() };
        let rewritten = {
            let _noting = Noting(self);
            Work { store: self, stop, generation: self.generation() }.rewrite(home, &new)
        };
        let in_force = rewritten.is_ok() || self.refused.get().is_some();
        if !in_force && let Err(error) = abandon(&home.dir, &new, false) {
            tracing::warn!("what a rewrite of the store has left cannot be removed yet: {error}");
        }
        let (old, before, after) = rewritten?;
        // The last file of the old store is closed before they are removed.
        drop(old);
        let former = std::mem::replace(&mut home.marker, new);
        if let Err(error) = remove_old(&home.dir, &former, false) {
            tracing::warn!("the old files of the store cannot be removed yet: {error}");
        }
        Ok((before, after))
    }
}

fn given_up(why: &str) -> StoreError {
    StoreError::Unavailable(why.into())
}

/// Ends the noting of keys when it is dropped.
struct Noting<'a>(&'a OpenStore);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        self.0.noting.store(false, Ordering::Release);
        *self.0.changed.lock() = Default::default();
    }
}

/// A rewrite that is under way.
struct Work<'a> {
    store: &'a OpenStore,
    stop: &'a dyn Fn() -> bool,
    /// The generation of the store when the rewrite began. In another one, relaxed commits may be lost that the new store
    /// has.
    generation: u64,
}

impl Work<'_> {
    /// Returns the old store, and the bytes of the old and of the new one.
    fn rewrite(&self, home: &Home, new: &Marker) -> Result<(Box<dyn Store>, u64, u64)> {
        let store = self.store;
        self.must_fit(home)?;
        let io = |error: std::io::Error| io_error("announcing the new store", &error);
        remove_new(&home.dir, new, false).and_then(|()| announce_marker(&home.dir, new)).map_err(io)?;
        {
            let _no_commits = store.commits.write();
            store.noting.store(true, Ordering::Release);
        }
        let mut filling = Filling::begin(&home.dir, new, home.keys.as_ref(), home.cache_bytes, &home.space)?;
        for page in pages(store, EVERYTHING, Direction::Forward, PAGE) {
            let page = page?;
            if let Some((last, _)) = page.last() {
                // Later pages are read after the commits that have noted keys behind this one.
                store.changed.lock().forget_after(last);
            }
            filling.put(page)?;
            self.go_on(home)?;
        }
        let filled = filling.open()?;
        filled.verify(&mut || self.go_on(home))?;
        let fresh = filled.into_store();
        let last_keys = self.catch_up(fresh.as_ref(), home)?;
        let _no_commits = store.commits.write();
        if store.changed.lock().keys.len() > last_keys {
            return Err(given_up("too much is being written while the store is rewritten"));
        }
        let before = store.disk_bytes();
        self.copy_changed(store, fresh.as_ref(), home)?;
        fresh.commit(Batch::new())?;
        must_be_equal(store, fresh.as_ref(), home.keys.is_some())?;
        // Nothing has failed up to here, so all that was committed is in both stores.
        self.go_on(home)?;
        self.put_in_force(home, new)?;
        let after = fresh.disk_bytes();
        let mut live = store.live.write();
        store.generations.fetch_add(live.generation(), Ordering::SeqCst);
        Ok((std::mem::replace(&mut *live, fresh), before, after))
    }

    /// Checks that the rewrite may go on.
    fn go_on(&self, home: &Home) -> Result<()> {
        if (self.stop)() {
            return Err(given_up("the rewrite of the store was stopped"));
        }
        let (overflowed, failed) = {
            let changed = self.store.changed.lock();
            (changed.overflowed, changed.failed)
        };
        // What a commit that failed has written may be visible until the store is reopened.
        if failed || self.store.generation() != self.generation {
            return Err(given_up("the store has failed while it was rewritten"));
        }
        if overflowed {
            return Err(given_up("too much is being written while the store is rewritten"));
        }
        if home.space.is_nearly_short() { Err(StoreError::Full) } else { Ok(()) }
    }

    /// Checks, before anything is written, that the new store fits on the disk beside the old one.
    fn must_fit(&self, home: &Home) -> Result<()> {
        let free = || home.space.free().unwrap_or(u64::MAX);
        // Shortcut: there is at least twice as much room as the old store takes.
        if free() < 2 * self.store.disk_bytes() + (256 << 20) {
            let live = live_bytes(self.store, &mut || self.go_on(home))?;
            if free() < live.room(home.marker.engine) {
                return Err(StoreError::Full);
            }
        }
        self.go_on(home)
    }

    /// Copies what commits have changed until little is left. Returns how many keys can be copied while commits wait.
    fn catch_up(&self, fresh: &dyn Store, home: &Home) -> Result<usize> {
        let mut most = LAST_KEYS;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let copied = self.copy_changed(self.store, fresh, home)?;
            // Each round syncs less, so that little is left to sync while commits wait.
            fresh.commit(Batch::new())?;
            let in_time = copied as f64 * LAST_TIME.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-6);
            if copied > LAST_KEYS {
                most = LAST_KEYS.max(in_time as usize);
            }
            if copied <= most / 4 {
                break;
            }
            self.go_on(home)?;
        }
        Ok(most)
    }

    /// Copies the present values of all keys that were noted. Returns their number.
    fn copy_changed(&self, from: &dyn Store, to: &dyn Store, home: &Home) -> Result<usize> {
        let keys = self.store.changed.lock().take();
        let copied = keys.len();
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        let mut bytes = 0;
        for key in keys {
            let value = from.get(&key)?;
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            batch.writes.push((key, value));
            if bytes > COPIED {
                to.commit(std::mem::replace(&mut batch, Batch { durability: Durability::Relaxed, ..Batch::new() }))?;
                bytes = 0;
                self.go_on(home)?;
            }
        }
        to.commit(batch)?;
        Ok(copied)
    }

    /// Replaces `format.toml`. If it is unknown which of the two stores is in force, all commits are refused from here on: at
    /// this moment both have the same entries.
    fn put_in_force(&self, home: &Home, new: &Marker) -> Result<()> {
        let replaced = put_in_force(&home.dir).or_else(|error| match read_marker(&home.dir) {
            Ok(Some(found)) if found == home.marker => Err((error, false)),
            Ok(Some(found)) if found == *new => sync_dir(&home.dir).map_err(|error| (error, true)),
            _ => Err((error, true)),
        });
        replaced.map_err(|(error, unknown)| {
            let error = io_error("replacing format.toml", &error);
            if unknown {
                tracing::error!("{error}. Writes are refused until the server is started again");
                let _ = self.store.refused.set(error.clone());
            }
            error
        })
    }
}

/// Compares the digests that both stores keep of their entries. Those of encrypted entries differ.
fn must_be_equal(old: &dyn Store, new: &dyn Store, encrypted: bool) -> Result<()> {
    match (old.digest(), new.digest()) {
        (Some((entries, sum)), Some((found, other))) if entries != found || (!encrypted && sum != other) => {
            Err(StoreError::Damaged(format!("the rewritten store has {found} of {entries} entries, or other ones")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
