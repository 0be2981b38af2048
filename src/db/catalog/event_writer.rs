//! Writes the `updated` events of `_db_updates`, and reads those of other nodes.

use std::sync::Arc;
use std::time::Duration;

use super::Databases;
use crate::db::db_updates::DbEventKind;
use crate::error::Result;
use crate::store::{self, Batch, Durability, Mark, StoreError, keyspace};

/// The pause between two writes of `updated` rows.
const FLUSH_PAUSE: Duration = Duration::from_millis(250);
/// The same after a write that failed.
const FLUSH_PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(3);
/// The most time for the write at the end.
const LAST_FLUSH: Duration = Duration::from_secs(3);

impl Databases {
    /// Records writes as `updated` rows of `_db_updates`, at most four times a second. Runs until the task is
    /// dropped.
    pub async fn record_updates(self: Arc<Self>) {
        let mut is_failing = false;
        loop {
            self.events.wake.notified().await;
            let databases = self.clone();
            let flushed = crate::blocking::blocking(move || databases.flush_updates()).await;
            match &flushed {
                Err(error) if !is_failing => {
                    tracing::warn!(%error, "writing _db_updates failed and will be tried again");
                }
                Ok(()) if is_failing => tracing::info!("_db_updates are written again"),
                _ => {}
            }
            is_failing = flushed.is_err();
            tokio::time::sleep(if is_failing { FLUSH_PAUSE_AFTER_FAILURE } else { FLUSH_PAUSE }).await;
        }
    }

    /// Writes the rows that are missing when the server stops and no request is left. A store that does not answer holds up
    /// the stop for a few seconds only.
    pub async fn record_last_updates(self: Arc<Self>) {
        let databases = self.clone();
        let flushing = crate::blocking::blocking(move || databases.flush_updates());
        match tokio::time::timeout(LAST_FLUSH, flushing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last events of _db_updates could not be written"),
            Err(_) => tracing::warn!("the last events of _db_updates could not be written in time"),
        }
    }

    /// Writes an `updated` row for each database written since the last call. After a failure, the next call
    /// writes them.
    pub(in crate::db) fn flush_updates(&self) -> Result<()> {
        let dirty = std::mem::take(&mut *self.events.dirty.lock());
        let mut names: Vec<String> = dirty.values().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        if let Err(error) = self.write_updates(&names) {
            self.events.touch_again(dirty);
            return Err(error);
        }
        let mark = |(database, (_, sequence))| Mark { database, sequence };
        self.store.announced(&dirty.into_iter().map(mark).collect::<Vec<_>>());
        Ok(())
    }

    /// Writes an `updated` row for each of these databases that exists. `names` has no duplicates.
    pub(super) fn write_updates(&self, names: &[String]) -> Result<()> {
        // Prevents a concurrent deletion, so that no `updated` row follows the `deleted` row. A deletion by another
        // node makes the commit conflict, because it expects the name records.
        let _naming = self.naming.lock();
        for attempt in 1.. {
            let keys: Vec<Vec<u8>> = names.iter().map(|name| keyspace::name(name)).collect();
            let found = self.store.get_many(&keys)?;
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
            let mut events = Vec::new();
            for ((name, key), value) in names.iter().zip(keys).zip(found) {
                if value.is_some() {
                    events.push(self.events.stage(&*self.store, &mut batch, name, DbEventKind::Updated)?);
                    if self.store.is_shared() {
                        batch.expect(key, value);
                    }
                }
            }
            if events.is_empty() {
                return Ok(());
            }
            match self.store.commit(batch) {
                Ok(()) => {
                    self.told(events);
                    return Ok(());
                }
                Err(StoreError::Conflict) if self.store.is_shared() => {
                    store::pause_after_conflict(&*self.store, attempt);
                }
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends with a result")
    }

    /// Reads the events that other nodes have written.
    pub(in crate::db) fn learn_events(&self) -> Result<()> {
        let _naming = self.naming.lock();
        self.events.learn(&*self.store)
    }

    /// Forgets all events and reads them again.
    pub(in crate::db) fn forget_events(&self) -> Result<()> {
        let _naming = self.naming.lock();
        self.events.forget(&*self.store)
    }
}
