//! The calls of [`Store`], and the last sync when the store is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{News, Ticket, Waiting};
use super::state::Committer;
use crate::store::disk_space::Space;
use crate::store::embedded::backend::{Backend, Writes};
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::clamp;
use crate::store::{Batch, Direction, Entry, PageLimit, Result, Store, StoreError, keyspace};

impl<B: Backend> Store for Committer<B> {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.get_each(keys)?.into_iter().collect()
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        let mut values = Vec::with_capacity(keys.len());
        let read = self.reading(|| {
            values.clear();
            self.backend.get_many(keys, &mut |index, found| {
                values.push(found.and_then(|found| match found {
                    Some(framed) => Ok(Some(self.frames.unseal(&keys[index], framed)?.into_owned())),
                    None => Ok(None),
                }));
            })
        });
        match read {
            Ok(()) => Ok(values),
            // A page of the engine is damaged: read each key by itself, as the others may be readable.
            Err(StoreError::Damaged(_)) if keys.len() > 1 => {
                let one = |key: &Vec<u8>| match self.get_each(std::slice::from_ref(key)) {
                    Ok(mut value) => Ok(value.pop().unwrap_or(Ok(None))),
                    Err(error @ StoreError::Damaged(_)) => Ok(Err(error)),
                    Err(error) => Err(error),
                };
                keys.iter().map(one).collect()
            }
            Err(error @ StoreError::Damaged(_)) if keys.len() == 1 => Ok(vec![Err(error)]),
            Err(error) => Err(error),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let stamp = self.recent.stamp(key);
        let value = self.get_many(&[key.to_vec()])?.pop().flatten();
        if let (Some(stamp), Some(value)) = (stamp, &value) {
            self.recent.keep(stamp, key, value);
        }
        Ok(value)
    }

    fn recent(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.recent.get(key)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.reading(|| self.page(range, direction, limit))
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        let range = &clamp(range);
        if !is_empty(range) {
            self.reading(|| {
                keys.clear();
                self.backend.keys(range, entries, &mut |key| keys.push(key.to_vec()))
            })?;
        }
        Ok(keys)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let ticket = Arc::new(Ticket::default());
        let lead = {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(Waiting { batch, ticket: ticket.clone() });
            !std::mem::replace(&mut queue.led, true)
        };
        if lead {
            self.lead();
        }
        loop {
            match ticket.wait() {
                News::Done(answer) => return answer,
                News::Lead => self.lead(),
            }
        }
    }

    fn ready(&self) -> Result<()> {
        let recovered = match self.work.try_lock() {
            Some(mut work) => self.recover(&mut work),
            // A commit is running: do not wait for it.
            None if self.failing.load(Ordering::Acquire) => {
                Err(StoreError::Unavailable("the store is being reopened after a failure".into()))
            }
            None => Ok(()),
        };
        self.get(keyspace::FORMAT)?;
        recovered
    }

    fn complete(&self) -> Result<()> {
        let totals = self.work.lock().totals;
        // The totals are unknown after an overwritten entry could not be read.
        totals.filter(|totals| !totals.is_unknown()).map_or(Ok(()), |totals| self.reading(|| self.found(&totals)))
    }

    fn digest(&self) -> Option<(u64, u64)> {
        self.work.lock().totals.and_then(|totals| totals.digest())
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn is_short_of_room(&self) -> bool {
        self.space.as_ref().is_some_and(Space::is_short)
    }

    fn engine(&self) -> &'static str {
        self.backend.name()
    }

    fn disk_bytes(&self) -> u64 {
        self.backend.disk_bytes()
    }
}

impl<B: Backend> Drop for Committer<B> {
    fn drop(&mut self) {
        let mut work = std::mem::take(self.work.get_mut());
        if work.failure.is_some() || work.totals.is_none() {
            return;
        }
        if work.unsynced > 0
            && let Err(error) = self.apply(&mut work, &Writes::new(), true)
        {
            tracing::warn!("the last unsynced commits could not be synced: {error}");
            return;
        }
        self.note(&mut work, self.backend.unused());
        if let Err(error) = self.mark.sync() {
            tracing::warn!("the mark of the store could not be synced: {error}");
        }
    }
}
