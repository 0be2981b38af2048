//! The catalog of databases: maps names to databases, creates and deletes them, and records `_db_updates`.
//!
//! A name maps to a number that is never reused. Deleting a database removes its name and its counters in one
//! commit, after which it can be neither read nor written. A background task then removes the keys of its
//! number.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::codec::decode_u64;
use super::counts::{Counts, Shared};
use super::database::Database;
use super::db_updates::{DbEvent, DbEventKind, EventState, Events, decode_event};
use super::freshness::{Freshness, SERVER};
use super::names::check_database_name;
use super::record::{Info, NameRecord};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::blob::blobs::Blobs;
use crate::store::{self, Batch, Direction, Durability, PageLimit, Store, StoreError, keyspace};

/// When this many handles are open, opening another one first closes all unused handles.
const IDLE_HANDLES: usize = 4096;
/// How often a database is looked up that other nodes delete and create meanwhile.
const OPENINGS: usize = 8;
/// The pause between two writes of `updated` rows.
const FLUSH_PAUSE: Duration = Duration::from_millis(250);
/// The same after a write that failed.
const FLUSH_PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(3);

/// Options of a new database.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// Whether document ids must have the form `partition:id`.
    pub partitioned: bool,
    /// The number of shards that the client requested; only stored and returned.
    pub q: u32,
    /// The number of replicas that the client requested; only stored and returned.
    pub n: u32,
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions { partitioned: false, q: 2, n: 1 }
    }
}

/// All databases of a server.
pub struct Databases {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    clock: Clock,
    open: RwLock<HashMap<String, Arc<Database>>>,
    /// Held while a database is created, opened or deleted, and while events are written.
    pub(super) naming: Mutex<()>,
    pub(super) events: Arc<Events>,
    shared: Arc<Shared>,
    pub(super) freshness: Freshness,
}

impl Databases {
    /// Opens the catalog: reads all rows of `_db_updates`. Opens no database.
    pub fn open(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>, clock: Clock) -> Result<Arc<Databases>> {
        let mut state = EventState { last: 0, latest: HashMap::new(), unsettled: None };
        state.read(&*store, 0)?;
        let epoch = if store.is_shared() { Some(store.epoch()?) } else { None };
        let freshness = Freshness { epoch: Mutex::new(epoch), ..Freshness::default() };
        let moved = watch::Sender::new(state.last);
        let events =
            Events { dirty: Mutex::default(), state: Mutex::new(state), moved, wake: tokio::sync::Notify::new() };
        Ok(Arc::new(Databases {
            store,
            blobs,
            clock,
            open: RwLock::default(),
            naming: Mutex::new(()),
            events: Arc::new(events),
            shared: Arc::default(),
            freshness,
        }))
    }

    /// Sets the maximum size of a partition in bytes; 0: no limit.
    pub fn limit_partitions(&self, bytes: u64) {
        self.shared.partition_limit.store(bytes, Ordering::Relaxed);
    }

    /// Counters of reads and writes.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// The number of open databases.
    pub fn open_count(&self) -> usize {
        self.open.read().len()
    }

    /// The store of all databases.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The blobs of all attachments.
    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.blobs
    }

    /// The clock of the server.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the database of this name if it is open. Does not access the store.
    pub fn opened(&self, name: &str) -> Option<Arc<Database>> {
        self.open.read().get(name).filter(|database| !database.is_gone()).cloned()
    }

    /// As [`Databases::opened`], if what is in memory is as of `moment` or later. On an embedded store it always
    /// is.
    pub fn opened_as_of(&self, name: &str, moment: Instant) -> Option<Arc<Database>> {
        self.opened(name).filter(|database| database.is_as_of(moment))
    }

    /// Returns all open databases.
    pub fn all_opened(&self) -> Vec<Arc<Database>> {
        self.open.read().values().cloned().collect()
    }

    /// Returns the database of this name; opens it if necessary.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], or `IllegalDatabaseName` for an invalid name.
    pub fn get(&self, name: &str) -> Result<Arc<Database>> {
        if let Some(database) = self.opened(name)
            && (!self.store.is_shared() || database.refresh()?)
        {
            return Ok(database);
        }
        check_database_name(name)?;
        let _naming = self.naming.lock();
        if let Some(database) = self.opened(name) {
            return Ok(database);
        }
        for _ in 0..OPENINGS {
            let Some(value) = self.store.get(&keyspace::name(name))? else { return Err(Error::NoDatabase) };
            match self.enter(name, NameRecord::decode(&value)?) {
                // Another node has deleted it between the two reads, and may have created it again.
                Err(Error::NoDatabase) if self.store.is_shared() => {}
                entered => return entered,
            }
        }
        Err(Error::NoDatabase)
    }

    fn enter(&self, name: &str, record: NameRecord) -> Result<Arc<Database>> {
        let events = self.events.clone();
        let on_commit = Box::new(move |name: &str| events.touch(name));
        let database = Arc::new(Database::open(
            name,
            record,
            self.store.clone(),
            self.blobs.clone(),
            self.clock.clone(),
            self.shared.clone(),
            on_commit,
        )?);
        let mut open = self.open.write();
        if open.len() >= IDLE_HANDLES {
            // Only this map references the handle, so it has no readers, watchers or pending work.
            open.retain(|_, database| Arc::strong_count(database) > 1);
        }
        if let Some(before) = open.insert(name.to_owned(), database.clone()) {
            // Another node has deleted it and created it again.
            before.mark_gone();
        }
        Ok(database)
    }

    /// Creates a database. `security` is its initial `_security` object.
    ///
    /// # Errors
    /// `IllegalDatabaseName`, `DatabaseExists`.
    pub fn create(&self, name: &str, options: CreateOptions, security: Option<&str>) -> Result<Arc<Database>> {
        check_database_name(name)?;
        let _naming = self.naming.lock();
        for attempt in 1.. {
            let mut found = self.store.get_many(&[keyspace::name(name), keyspace::LAST_NUMBER.to_vec()])?.into_iter();
            if found.next().flatten().is_some() {
                return Err(Error::DatabaseExists);
            }
            let last = found.next().flatten();
            let number = match &last {
                None => 1,
                Some(value) => 1 + decode_u64(value).ok_or_else(|| Error::Damaged("the last number".into()))?,
            };
            let record = NameRecord {
                number,
                instance: self.clock.random_16(),
                created: self.clock.since_epoch().as_millis() as u64,
                partitioned: options.partitioned,
                q: options.q,
                n: options.n,
            };
            let mut batch = Batch::new();
            batch.expect(keyspace::name(name), None);
            batch.expect(keyspace::LAST_NUMBER.to_vec(), last);
            batch.put(keyspace::LAST_NUMBER.to_vec(), number.to_be_bytes().to_vec());
            batch.put(keyspace::name(name), record.encode());
            batch.put(keyspace::info(number), Info::default().encode());
            if let Some(security) = security {
                batch.put(keyspace::security(number), security.as_bytes().to_vec());
            }
            let event = self.events.stage(&*self.store, &mut batch, name, DbEventKind::Created)?;
            match self.store.commit(batch) {
                Ok(()) => {
                    self.told(vec![event]);
                    return self.enter(name, record);
                }
                Err(StoreError::Conflict) => store::pause_after_conflict(&*self.store, attempt),
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends with a result")
    }

    /// Takes over committed events, and tells the other nodes.
    fn told(&self, events: Vec<DbEvent>) {
        self.events.committed(events);
        if self.store.is_shared() {
            self.store.tell(&[SERVER]);
        }
    }

    /// Deletes a database. When this returns, all readers and writers get `NoDatabase`. A background task
    /// frees the space.
    pub fn delete(&self, name: &str) -> Result<()> {
        check_database_name(name)?;
        let _naming = self.naming.lock();
        for attempt in 1.. {
            let Some(value) = self.store.get(&keyspace::name(name))? else {
                // An earlier deletion may have failed with an unknown outcome and have been committed after all,
                // or another node has deleted it.
                self.leave(name);
                return Err(Error::NoDatabase);
            };
            let number = NameRecord::decode(&value)?.number;
            let mut batch = Batch { frees: true, ..Batch::new() };
            batch.expect(keyspace::name(name), Some(value));
            batch.delete(keyspace::name(name));
            batch.delete(keyspace::info(number));
            batch.put(keyspace::doomed(number), Vec::new());
            let event = self.events.stage(&*self.store, &mut batch, name, DbEventKind::Deleted)?;
            match self.store.commit(batch) {
                Ok(()) => {
                    self.told(vec![event]);
                    if self.store.is_shared() {
                        self.store.tell(&[number]);
                    }
                    self.leave(name);
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

    /// Closes the handle of a deleted database, and marks it as gone for its current users.
    fn leave(&self, name: &str) {
        let left = self.open.write().remove(name);
        if let Some(database) = left {
            database.mark_gone();
        }
    }

    /// Lists at most `limit` names in `start..=end`, in order, after skipping `skip`. With `descending`, the
    /// scan runs backward and `start` is the higher bound, as in CouchDB.
    pub fn names(
        &self,
        start: Option<&str>,
        end: Option<&str>,
        inclusive_end: bool,
        descending: bool,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<String>> {
        let (low, high) = if descending { (end, start) } else { (start, end) };
        let mut range = keyspace::names(low, high);
        if !inclusive_end && let Some(end) = end {
            if descending {
                range.0 = Bound::Excluded(keyspace::name(end));
            } else {
                range.1 = Bound::Excluded(keyspace::name(end));
            }
        }
        let direction = if descending { Direction::Backward } else { Direction::Forward };
        let mut names = Vec::new();
        let mut to_skip = skip;
        while names.len() < limit {
            if crate::store::range::is_empty(&range) {
                break;
            }
            let wanted = (limit - names.len()).saturating_add(to_skip).min(1000);
            let page = self.store.scan(&range, direction, PageLimit::entries(wanted))?;
            let Some((last, _)) = page.last() else { break };
            let beyond = Bound::Excluded(last.clone());
            if descending {
                range.1 = beyond;
            } else {
                range.0 = beyond;
            }
            for (key, _) in &page {
                if to_skip > 0 {
                    to_skip -= 1;
                } else {
                    names.push(keyspace::name_of(key).to_owned());
                }
            }
        }
        names.truncate(limit);
        Ok(names)
    }

    /// Returns the names with their internal numbers. Skips names of missing databases.
    pub(crate) fn numbers(&self, names: &[String]) -> Result<Vec<(String, u64)>> {
        let keys: Vec<Vec<u8>> = names.iter().map(|name| keyspace::name(name)).collect();
        let mut numbers = Vec::with_capacity(names.len());
        for (name, value) in names.iter().zip(self.store.get_many(&keys)?) {
            if let Some(value) = value {
                numbers.push((name.clone(), NameRecord::decode(&value)?.number));
            }
        }
        Ok(numbers)
    }

    /// Reads up to `limit` rows of `_db_updates` after `since`, in order.
    pub fn events_after(&self, since: u64, limit: usize) -> Result<Vec<DbEvent>> {
        let page =
            self.store.scan(&keyspace::db_updates_after(since), Direction::Forward, PageLimit::entries(limit))?;
        page.iter().map(|(key, value)| decode_event(key, value)).collect()
    }

    /// The last committed sequence of `_db_updates`.
    pub fn last_event(&self) -> u64 {
        *self.events.moved.borrow()
    }

    /// Subscribes to the last sequence of `_db_updates`.
    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.events.moved.subscribe()
    }

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

    /// Writes an `updated` row for each database written since the last call. After a failure, the next call
    /// writes them.
    pub(super) fn flush_updates(&self) -> Result<()> {
        let mut names = std::mem::take(&mut *self.events.dirty.lock());
        names.sort_unstable();
        names.dedup();
        let flushed = self.write_updates(&names);
        if flushed.is_err() {
            self.events.dirty.lock().extend(names);
            self.events.wake.notify_one();
        }
        flushed
    }

    fn write_updates(&self, names: &[String]) -> Result<()> {
        // Prevents a concurrent deletion, so that no `updated` row follows the `deleted` row. On another node, the
        // expectations of the names do.
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
    pub(super) fn learn_events(&self) -> Result<()> {
        let _naming = self.naming.lock();
        self.events.learn(&*self.store)
    }

    /// Forgets all events and reads them again.
    pub(super) fn forget_events(&self) -> Result<()> {
        let _naming = self.naming.lock();
        self.events.forget(&*self.store)
    }
}
