//! The entries: the progress of each replicating client and database.
//!
//! What clients can make the server hold is bounded: [`ENTRIES`] entries, [`PER_USER`] of one user, ten refused
//! documents of an entry, texts of 200 bytes. The entries that were not used for longest go first. A request of a replicator
//! takes one look into the map.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::client::{Key, cut};
use super::history::{EventKind, History, is_first_in_step};
use super::record::{Checkpoint, Failed, HOUR, Record, Sums};
use crate::clock::Clock;

/// The most entries.
pub const ENTRIES: usize = 5000;
/// The most entries of one user; those who have not signed in count as one.
pub const PER_USER: usize = 500;
/// When the table is full, one in so many entries is removed at once, so that not every new entry has to search
/// all.
const PART: usize = 10;

struct Entry {
    key: Key,
    record: Mutex<Record>,
    /// Feeds that are open now.
    feeds: AtomicUsize,
}

/// An entry as it is now.
pub struct Seen {
    pub key: Key,
    pub record: Record,
    /// A feed is open.
    pub live: bool,
}

#[derive(Default)]
struct Entries {
    all: HashMap<Key, Arc<Entry>>,
    /// Number of entries of each user.
    users: HashMap<Option<String>, usize>,
}

/// The entries of a server, and its history.
pub struct SyncStatus {
    clock: Clock,
    entries: Mutex<Entries>,
    pub history: History,
    /// When it began, in milliseconds since 1970.
    pub since: u64,
}

/// A client that is replicating: the handle through which handlers record what it does.
#[derive(Clone)]
pub struct Syncing {
    status: Arc<SyncStatus>,
    entry: Arc<Entry>,
}

/// What a client says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The name that it gives its device.
    pub device_name: Option<&'a str>,
    /// Its `User-Agent`.
    pub agent: &'a str,
    pub address: Option<IpAddr>,
}

/// A feed that is open until it is dropped.
pub struct OpenFeed(Syncing);

impl Drop for OpenFeed {
    fn drop(&mut self) {
        self.0.entry.feeds.fetch_sub(1, Ordering::Relaxed);
        self.0.entry.record.lock().last_seen = self.0.status.now();
    }
}

impl OpenFeed {
    /// The feed has sent the changes up to this sequence.
    pub fn sent(&self, sequence: u64) {
        self.0.entry.record.lock().sent = Some(sequence);
    }
}

impl SyncStatus {
    /// Creates it without entries.
    pub fn new(clock: Clock) -> Arc<SyncStatus> {
        let since = clock.since_epoch().as_millis() as u64;
        Arc::new(SyncStatus { clock, entries: Mutex::default(), history: History::new(since), since })
    }

    fn now(&self) -> u64 {
        self.clock.since_epoch().as_millis() as u64
    }

    /// The client, if it is known to replicate.
    pub fn known(self: &Arc<Self>, key: &Key) -> Option<Syncing> {
        let entry = self.entries.lock().all.get(key).cloned()?;
        Some(Syncing { status: self.clone(), entry })
    }

    /// The client, which is known from now on.
    pub fn of(self: &Arc<Self>, key: Key, about: About) -> Syncing {
        let now = self.now();
        let (entry, is_new) = self.entries.lock().of(key, now);
        {
            let mut record = entry.record.lock();
            record.address = about.address;
            if record.agent != cut(about.agent) {
                record.agent = cut(about.agent).to_owned();
            }
            if record.device_name.as_deref() != about.device_name.map(cut) {
                record.device_name = about.device_name.map(|name| cut(name).to_owned());
            }
        }
        let syncing = Syncing { status: self.clone(), entry };
        if is_new {
            syncing.event(now, EventKind::FirstSeen, "");
        }
        syncing
    }

    /// A user, or an address, did what may be an attack.
    pub fn suspicious(&self, user: Option<&str>, pattern: &str, count: u64, address: Option<IpAddr>) {
        let from = address.map_or_else(String::new, |address| format!(" from {address}"));
        let key = Key::new(user, None, "", "");
        self.history.note(
            self.now(),
            EventKind::Suspicious,
            (&key, ""),
            &format!("{pattern}: {count} in a minute{from}"),
        );
    }

    /// All entries that pass, the last seen first.
    pub fn list(&self, passes: impl Fn(&Key) -> bool) -> Vec<Seen> {
        let entries: Vec<Arc<Entry>> =
            self.entries.lock().all.values().filter(|entry| passes(&entry.key)).cloned().collect();
        let now = self.now();
        let seen = |entry: Arc<Entry>| {
            let live = entry.feeds.load(Ordering::Relaxed) > 0;
            let mut record = entry.record.lock().clone();
            if live {
                record.last_seen = now;
            }
            Seen { key: entry.key.clone(), record, live }
        };
        let mut list: Vec<Seen> = entries.into_iter().map(seen).collect();
        list.sort_by_key(|seen| std::cmp::Reverse(seen.record.last_seen));
        list
    }
}

impl Entries {
    fn of(&mut self, key: Key, now: u64) -> (Arc<Entry>, bool) {
        if let Some(entry) = self.all.get(&key) {
            return (entry.clone(), false);
        }
        if self.users.get(&key.user).is_some_and(|count| *count >= PER_USER) {
            self.forget(PER_USER / PART, |of| of.user == key.user);
        }
        if self.all.len() >= ENTRIES {
            self.forget(ENTRIES / PART, |_| true);
        }
        *self.users.entry(key.user.clone()).or_default() += 1;
        let record = Record { first_seen: now, last_seen: now, ..Record::default() };
        let entry = Arc::new(Entry { key: key.clone(), record: Mutex::new(record), feeds: AtomicUsize::new(0) });
        self.all.insert(key, entry.clone());
        (entry, true)
    }

    /// Forgets those entries of some that were not used for longest.
    fn forget(&mut self, count: usize, of: impl Fn(&Key) -> bool) {
        let age = |entry: &Entry| (entry.feeds.load(Ordering::Relaxed) > 0, entry.record.lock().last_seen);
        let mut old: Vec<_> =
            self.all.values().filter(|entry| of(&entry.key)).map(|entry| (age(entry), entry)).collect();
        old.sort_by_key(|(age, _)| *age);
        let keys: Vec<Key> = old.into_iter().take(count).map(|(_, entry)| entry.key.clone()).collect();
        for key in keys {
            self.all.remove(&key);
            if let Some(left) = self.users.get_mut(&key.user) {
                *left -= 1;
                if *left == 0 {
                    self.users.remove(&key.user);
                }
            }
        }
    }
}

impl Syncing {
    fn event(&self, at: u64, kind: EventKind, detail: &str) {
        let name = {
            let record = self.entry.record.lock();
            record.device_name.clone().unwrap_or_else(|| record.agent.clone())
        };
        self.status.history.note(at, kind, (&self.entry.key, &name), detail);
    }

    fn note(&self, sums: Sums, change: impl FnOnce(&mut Record, u64)) {
        let now = self.status.now();
        let (before, is_first) = {
            let mut record = self.entry.record.lock();
            let before = std::mem::replace(&mut record.last_seen, now);
            let is_first = record.total == Sums::default() || is_first_in_step(before, now);
            record.count(now, sums);
            change(&mut record, now);
            (before, is_first)
        };
        self.status.history.count(now, sums, is_first);
        if now.saturating_sub(before) >= HOUR {
            self.event(now, EventKind::Back, &format!("after {} minutes", (now - before) / 60_000));
        }
    }

    /// It asked for the changes after `since`.
    pub fn asked(&self, since: u64) {
        self.note(Sums { pulls: 1, ..Sums::default() }, |record, now| {
            record.since = Some(since);
            record.sent = None;
            record.pulled_at = Some(now);
        });
    }

    /// It keeps a feed open until the result is dropped.
    pub fn opened(&self) -> OpenFeed {
        self.entry.feeds.fetch_add(1, Ordering::Relaxed);
        OpenFeed(self.clone())
    }

    /// It reads this many documents.
    pub fn reads(&self, documents: u64) {
        self.note(Sums { documents_sent: documents, ..Sums::default() }, |record, now| record.pulled_at = Some(now));
    }

    /// It pushed documents, some of which were refused: id, error and reason of each. `bytes`: of the request.
    pub fn pushed(&self, documents: u64, bytes: u64, refused: &[[String; 3]]) {
        let sums = Sums {
            pushes: 1,
            documents_received: documents,
            refused: refused.len() as u64,
            bytes_received: bytes,
            ..Sums::default()
        };
        self.note(sums, |record, now| {
            record.pushed_at = Some(now);
            for [id, error, reason] in refused {
                record.refuse(id, error, reason, now);
            }
        });
        if let Some([id, error, reason]) = refused.first() {
            let more = refused.len() - 1;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            let detail = format!("{}{more}: {error}: {reason}", &id[..id.floor_char_boundary(60)]);
            self.event(self.status.now(), EventKind::Refused, &detail);
        }
    }

    /// It wrote a checkpoint: a sequence of this database, or one of its own.
    pub fn checkpoint(&self, own: Option<u64>, sequence: &str, id: &str) {
        self.note(Sums::default(), |record, at| match own {
            Some(sequence) => record.pulled_up_to(sequence, id, at),
            None => {
                let (sequence, id) = (cut(sequence).to_owned(), cut(id).to_owned());
                record.push_checkpoint = Some(Checkpoint { sequence, at, id });
            }
        });
    }

    /// One of its requests was answered with this many bytes.
    pub fn answered(&self, sent: u64) {
        self.note(Sums { bytes_sent: sent, ..Sums::default() }, |_, _| ());
    }

    /// One of its requests failed.
    pub fn failed(&self, status: u16, reason: &str) {
        self.note(Sums { errors: 1, ..Sums::default() }, |record, at| {
            record.last_error = Some(Failed { at, status, reason: cut(reason).to_owned() });
        });
        self.event(self.status.now(), EventKind::Error, &format!("{status}: {reason}"));
    }
}

#[cfg(test)]
mod tests;
