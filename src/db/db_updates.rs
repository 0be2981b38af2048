//! Events of `_db_updates`: databases created, updated and deleted, in one ordered record.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::{self, Batch, Direction, Mark, PageLimit, Store, keyspace};

/// The kind of an event in `_db_updates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DbEventKind {
    Created,
    Updated,
    Deleted,
}

impl DbEventKind {
    /// The name on the wire.
    pub fn word(self) -> &'static str {
        match self {
            DbEventKind::Created => "created",
            DbEventKind::Updated => "updated",
            DbEventKind::Deleted => "deleted",
        }
    }
}

/// One row of `_db_updates`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbEvent {
    /// The position in the feed; ascending and unique.
    pub sequence: u64,
    /// The name of the database.
    pub name: String,
    /// The kind of the event.
    pub kind: DbEventKind,
}

/// Databases without an event for their last changes, by their numbers: names and last sequences.
pub(crate) type Dirty = HashMap<u64, (String, u64)>;

/// The `_db_updates` feed, which contains only the last event of each (kind, name).
pub(crate) struct Events {
    /// The databases written since the last flush, by their numbers: their names, and their last sequences.
    pub(crate) dirty: Mutex<Dirty>,
    pub(crate) state: Mutex<EventState>,
    /// The sequence of the last committed event.
    pub(crate) moved: watch::Sender<u64>,
    /// Notified when a name is added to `dirty`.
    pub(crate) wake: tokio::sync::Notify,
    /// When each database was written, in milliseconds since 1970, as far as this process knows. In memory only, and
    /// not read for old rows, which have no time.
    written: Mutex<HashMap<String, u64>>,
    clock: Clock,
}

pub(crate) struct EventState {
    /// The last sequence assigned to an event. On an embedded store, those of failed commits are not reused.
    pub(crate) last: u64,
    /// The committed row of each kind and name.
    pub(crate) latest: HashMap<(DbEventKind, String), u64>,
    /// Set from when an event is staged until its commit has succeeded: the last sequence before the event. After
    /// a failed commit, the store may or may not contain rows after this sequence.
    pub(crate) unsettled: Option<u64>,
}

impl EventState {
    /// Reads the rows after `sequence` from the store, and calls `each` for each.
    pub(crate) fn read(&mut self, store: &dyn Store, sequence: u64, mut each: impl FnMut(&DbEvent)) -> Result<()> {
        let range = keyspace::db_updates_after(sequence);
        for page in store::pages(store, range, Direction::Forward, PageLimit::entries(1000)) {
            for (key, value) in page? {
                let event = decode_event(&key, &value)?;
                self.last = self.last.max(event.sequence);
                each(&event);
                self.latest.insert((event.kind, event.name), event.sequence);
            }
        }
        Ok(())
    }
}

impl Events {
    /// Creates the feed with the rows that the store has.
    pub(crate) fn new(state: EventState, clock: Clock) -> Events {
        Events {
            dirty: Mutex::default(),
            moved: watch::Sender::new(state.last),
            state: Mutex::new(state),
            wake: tokio::sync::Notify::new(),
            written: Mutex::default(),
            clock,
        }
    }

    /// When a database was last written, in milliseconds since 1970; `None` if not since the start of the server.
    pub(crate) fn last_write(&self, name: &str) -> Option<u64> {
        self.written.lock().get(name).copied()
    }

    fn note_time(&self, event: &DbEvent) {
        let mut written = self.written.lock();
        match event.kind {
            DbEventKind::Deleted => drop(written.remove(&event.name)),
            DbEventKind::Created | DbEventKind::Updated => {
                written.insert(event.name.clone(), self.clock.since_epoch().as_millis() as u64);
            }
        }
    }

    /// Notes that a database was written.
    pub(crate) fn touch(&self, name: &str, mark: Mark) {
        let mut dirty = self.dirty.lock();
        let (_, last) = dirty.entry(mark.database).or_insert_with(|| (name.to_owned(), 0));
        *last = mark.sequence.max(*last);
        drop(dirty);
        self.wake.notify_one();
    }

    /// Notes again what could not be written.
    pub(crate) fn touch_again(&self, dirty: Dirty) {
        for (database, (name, sequence)) in dirty {
            self.touch(&name, Mark { database, sequence });
        }
    }

    /// Adds the row of an event to a batch, and removes the committed row of the same kind and name. The
    /// state in memory changes when the batch is [committed](Events::committed). The caller holds `naming`,
    /// so that sequences are committed in order.
    pub(crate) fn stage(&self, store: &dyn Store, batch: &mut Batch, name: &str, kind: DbEventKind) -> Result<DbEvent> {
        let mut state = self.state.lock();
        let is_first = batch.writes.last().is_none_or(|(key, _)| !keyspace::is_db_update(key));
        if is_first && store.is_shared() {
            // Sequences of failed commits are reused, and each commit expects its sequences to be free: therefore
            // no node commits a row before another row with a lower sequence.
            self.read(&mut state, store)?;
        } else if is_first && let Some(before) = state.unsettled {
            // A commit has failed, but its rows may be in the store all the same.
            state.read(store, before, |_| ())?;
            state.unsettled = None;
            let last = state.last;
            self.moved.send_if_modified(|moved| std::mem::replace(moved, last.max(*moved)) < last);
        }
        let before = state.last;
        state.unsettled.get_or_insert(before);
        state.last += 1;
        let sequence = state.last;
        if let Some(older) = state.latest.get(&(kind, name.to_owned())) {
            batch.delete(keyspace::db_update(*older));
        }
        let mut value = vec![1, kind as u8];
        value.extend_from_slice(name.as_bytes());
        if store.is_shared() {
            batch.expect(keyspace::db_update(sequence), None);
        }
        batch.put(keyspace::db_update(sequence), value);
        Ok(DbEvent { sequence, name: name.to_owned(), kind })
    }

    /// Reads the rows that other nodes have written, and wakes the feeds. The caller holds `naming`, so that no
    /// commit of this node is under way.
    pub(crate) fn learn(&self, store: &dyn Store) -> Result<()> {
        let mut state = self.state.lock();
        self.read(&mut state, store)
    }

    /// Forgets all rows and reads them again.
    pub(crate) fn forget(&self, store: &dyn Store) -> Result<()> {
        let mut state = self.state.lock();
        *state = EventState { last: 0, latest: HashMap::new(), unsettled: None };
        state.read(store, 0, |_| ())?;
        self.moved.send_replace(state.last);
        Ok(())
    }

    fn read(&self, state: &mut EventState, store: &dyn Store) -> Result<()> {
        let before = state.unsettled.unwrap_or(state.last);
        state.last = before;
        state.read(store, before, |event| self.note_time(event))?;
        state.unsettled = None;
        let last = state.last;
        self.moved.send_if_modified(|moved| std::mem::replace(moved, last.max(*moved)) < last);
        Ok(())
    }

    /// Records that the batch of these events has been committed, and wakes the feeds.
    pub(crate) fn committed(&self, events: Vec<DbEvent>) {
        let mut state = self.state.lock();
        let Some(newest) = events.last().map(|event| event.sequence) else { return };
        for event in events {
            self.note_time(&event);
            state.latest.insert((event.kind, event.name), event.sequence);
        }
        state.unsettled = None;
        drop(state);
        self.moved.send_if_modified(|last| {
            let newer = newest > *last;
            *last = newest.max(*last);
            newer
        });
    }
}

pub(crate) fn event_sequence(key: &[u8]) -> u64 {
    key[1..].try_into().map_or(u64::MAX, u64::from_be_bytes)
}

pub(crate) fn decode_event(key: &[u8], value: &[u8]) -> Result<DbEvent> {
    let damaged = || Error::Damaged("a row of _db_updates".into());
    let [1, kind, name @ ..] = value else { return Err(damaged()) };
    let kind = match kind {
        0 => DbEventKind::Created,
        1 => DbEventKind::Updated,
        2 => DbEventKind::Deleted,
        _ => return Err(damaged()),
    };
    let name = std::str::from_utf8(name).map_err(|_| damaged())?.to_owned();
    Ok(DbEvent { sequence: event_sequence(key), name, kind })
}
