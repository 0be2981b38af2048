//! The catalog of databases: maps names to databases, creates and deletes them, and records `_db_updates`.
//!
//! A name maps to a number that is never reused. Deleting a database removes its name and its counters in one
//! commit, after which it can be neither read nor written. A background task then removes the keys of its
//! number.

mod event_writer;
mod lost_events;
mod naming;

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::conflicted::ConflictIndex;
use super::counts::{Counts, Shared};
use super::database::Database;
use super::db_updates::{DbEvent, EventState, Events, decode_event};
use super::freshness::Freshness;
use super::names::check_database_name;
use super::record::{Info, NameRecord};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::blob::blobs::Blobs;
use crate::store::memory::Memory;
use crate::store::{Direction, PageLimit, Store, keyspace};

/// When this many handles are open, opening another one first closes all unused handles.
const IDLE_HANDLES: usize = 4096;
/// Maximum number of lookups of a database that other nodes delete and create again meanwhile.
const OPENINGS: usize = 8;

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
    /// The store of view and Mango indexes.
    indexes: Arc<dyn Store>,
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
    /// Opens the catalog: reads all rows of `_db_updates`. Opens no database. Indexes are kept in `store`, or in
    /// memory if it is shared.
    pub fn open(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>, clock: Clock) -> Result<Arc<Databases>> {
        let indexes: Arc<dyn Store> = match store.is_shared() {
            true => Arc::new(Memory::new()),
            false => store.clone(),
        };
        Databases::open_with(store, indexes, blobs, clock)
    }

    /// As [`Databases::open`]. Indexes are kept in `indexes`: on an embedded store it is the same store; on a
    /// shared store it belongs to this node alone.
    pub fn open_with(
        store: Arc<dyn Store>,
        indexes: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        clock: Clock,
    ) -> Result<Arc<Databases>> {
        let mut state = EventState { last: 0, latest: HashMap::new(), unsettled: None };
        state.read(&*store, 0, |_| ())?;
        let epoch = if store.is_shared() { Some(store.epoch()?) } else { None };
        let freshness = Freshness { epoch: Mutex::new(epoch), ..Freshness::default() };
        let events = Events::new(state, clock.clone());
        Ok(Arc::new(Databases {
            store,
            indexes,
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

    /// The store of view and Mango indexes.
    pub fn index_store(&self) -> &Arc<dyn Store> {
        &self.indexes
    }

    /// The blobs of all attachments.
    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.blobs
    }

    /// When a database was last written, to a quarter of a second, in milliseconds since 1970. `None`: not since the
    /// start of the server.
    pub fn last_write(&self, name: &str) -> Option<u64> {
        self.events.last_write(name)
    }

    /// The clock of the server.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the database of this name if it is open. Does not access the store.
    pub fn opened(&self, name: &str) -> Option<Arc<Database>> {
        self.open.read().get(name).filter(|database| !database.is_gone()).cloned()
    }

    /// Like [`Databases::opened`], but only if the state in memory was read at `moment` or later. On an embedded
    /// store, this is always true.
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
        let on_commit = Box::new(move |name: &str, mark| events.touch(name, mark));
        let database = Arc::new(Database::open(
            name,
            record,
            (self.store.clone(), self.indexes.clone()),
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

    /// The index of conflicts of each of these databases, without opening them. Skips names of missing databases.
    pub fn conflict_indexes(&self, names: &[String]) -> Result<Vec<(String, ConflictIndex)>> {
        let mut indexes = Vec::with_capacity(names.len());
        let numbers = self.numbers(names)?;
        let keys = |(_, number): &(String, u64)| [keyspace::info(*number), keyspace::conflict_index(*number)];
        let mut values = self.store.get_each(&numbers.iter().flat_map(keys).collect::<Vec<_>>())?.into_iter();
        for (name, _) in numbers {
            let (info, record) = (values.next(), values.next());
            let open = if self.store.is_shared() { None } else { self.opened(&name) };
            let index = match (open, info.transpose().ok().flatten().flatten()) {
                (Some(open), _) => open.info().conflicts,
                (None, Some(info)) => match Info::decode(&info) {
                    Ok(info) if info.commits > 0 => info.conflicts,
                    Ok(info) => ConflictIndex::recover(record.unwrap_or(Ok(None)), info.sequence)?,
                    Err(_) => continue,
                },
                // The database was deleted, or its counters are damaged and nothing in it can be read.
                (None, None) => continue,
            };
            indexes.push((name, index));
        }
        Ok(indexes)
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
}
