//! Events of `_db_updates`: databases created, updated and deleted, in one ordered record.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::store::{Batch, keyspace};

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

/// The `_db_updates` feed, which contains only the last event of each (kind, name).
pub(crate) struct Events {
    /// Names of the databases written since the last flush; may contain duplicates.
    pub(crate) dirty: Mutex<Vec<String>>,
    pub(crate) state: Mutex<EventState>,
    /// The sequence of the last committed event.
    pub(crate) moved: watch::Sender<u64>,
    /// Notified when a name is added to `dirty`.
    pub(crate) wake: tokio::sync::Notify,
}

pub(crate) struct EventState {
    pub(crate) last: u64,
    pub(crate) latest: HashMap<(DbEventKind, String), u64>,
}

impl Events {
    pub(crate) fn touch(&self, name: &str) {
        let mut dirty = self.dirty.lock();
        if dirty.last().is_none_or(|last| last != name) {
            dirty.push(name.to_owned());
        }
        if dirty.len() >= 10_000 {
            dirty.sort_unstable();
            dirty.dedup();
        }
        drop(dirty);
        self.wake.notify_one();
    }

    /// Adds the row of an event to a batch, and removes the previous row of the same kind and name. The
    /// caller holds `naming`, so that sequences are committed in order.
    pub(crate) fn write(&self, batch: &mut Batch, name: &str, kind: DbEventKind) -> DbEvent {
        let mut state = self.state.lock();
        state.last += 1;
        let sequence = state.last;
        if let Some(older) = state.latest.insert((kind, name.to_owned()), sequence) {
            batch.delete(keyspace::db_update(older));
        }
        let mut value = vec![1, kind as u8];
        value.extend_from_slice(name.as_bytes());
        batch.put(keyspace::db_update(sequence), value);
        DbEvent { sequence, name: name.to_owned(), kind }
    }

    pub(crate) fn done(&self, event: DbEvent) {
        self.moved.send_if_modified(|last| {
            let newer = event.sequence > *last;
            *last = event.sequence.max(*last);
            newer
        });
    }
}

pub(crate) fn decode_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

pub(crate) fn event_sequence(key: &[u8]) -> u64 {
    decode_u64(&key[1..]).unwrap_or(u64::MAX)
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
