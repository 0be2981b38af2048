//! The signed-in devices of each user, which can be listed and revoked, one by one or all at once. CouchDB
//! has no equivalent.
//!
//! A cookie session is identified by (user, second of issue). The cookie contains both, so that cookies keep
//! CouchDB's format. Two sign-ins of a user in the same second get different seconds. Unknown sessions (from
//! another server with the same secret, or older than the record) are valid as in CouchDB, and listed from
//! their first use on.
//!
//! ```text
//! sign in ─> begin ─> device {issued: [t]}       request ─> seen ─> known | adopted | revoked
//! renewal ─> renew ─> device {issued: [t, t']}   revoke  ─> device removed, its seconds kept until they expire
//! tokens  ─> begin_tokens ─> device {refresh}    refresh ─> rotate; reuse of an older token: device removed
//! ```
//!
//! Each user has a record under `keyspace::server("devices/NAME")`: JSON after a version byte. Structural
//! changes are durable when the call returns; times of last use are written a few times per hour.

mod record;
pub mod revoked_users;
mod tokens;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::record::{Device, MAX_DATABASES, MAX_ISSUED, Record, TOUCH, UsedCode, decode, encode};
use crate::bounded_map::Bounded;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::store::{self, Batch, Change, Durability, Store, keyspace};

pub use self::record::{Client, Kind};
pub use self::tokens::{REFRESH_LIFETIME, Tokens};

/// Maximum number of users whose records are cached.
const MAX_USERS: usize = 16_384;
/// The devices of all users. One per server. Calls may block on the store.
pub struct Devices {
    store: Arc<dyn Store>,
    clock: Clock,
    /// Sharded by a hash of the user, so that a write for one user does not block the others.
    shards: Vec<Mutex<Bounded<String, Held>>>,
    hasher: RandomState,
    /// Number of changes that may have ended a session.
    revocations: AtomicU64,
    /// Called with the user's name after a revocation.
    told: OnceLock<Told>,
    /// On a shared store: the number of the last revocation of any node that this node has processed.
    learned: Mutex<Option<revoked_users::Known>>,
}

/// A record in memory.
#[derive(Clone)]
struct Held {
    record: Record,
    /// Hash of the stored value that the record was read from or written as. `record` may be newer: times of
    /// last use are written some times an hour.
    stored: u64,
}

/// A function that is called with a user's name.
type Told = Box<dyn Fn(Option<&str>) + Send + Sync>;

const SHARDS: usize = 16;

impl Devices {
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Devices {
        let shards = (0..SHARDS).map(|_| Mutex::new(Bounded::new(MAX_USERS / SHARDS))).collect();
        Devices {
            store,
            clock,
            shards,
            hasher: RandomState::new(),
            revocations: AtomicU64::new(0),
            told: OnceLock::new(),
            learned: Mutex::default(),
        }
    }

    /// Registers a function that is called with the user's name after each revocation; `None`: anybody's.
    pub fn when_revoked(&self, told: impl Fn(Option<&str>) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }

    fn now(&self) -> u64 {
        self.clock.since_epoch().as_secs()
    }

    fn shard(&self, user: &str) -> &Mutex<Bounded<String, Held>> {
        &self.shards[self.hasher.hash_one(user) as usize % SHARDS]
    }

    /// Works on a user's record; `change` says whether it must be written, and how. `change` is called again
    /// if the stored record is not the one in memory: another writer has changed it.
    ///
    /// On a shared store, the record is always read: another node may have begun or revoked a session.
    fn with<T>(&self, user: &str, mut change: impl FnMut(&mut Record) -> (T, Option<Durability>)) -> Result<T> {
        let read = if self.store.is_shared() { Some(self.store.get(&key(user))?) } else { None };
        let mut shard = self.shard(user).lock();
        let name = user.to_string();
        let is_held = shard.get_mut(&name).is_some_and(|held| match &read {
            Some(stored) => held.stored == self.hasher.hash_one(stored.as_deref()),
            None => true,
        });
        if !is_held {
            let stored = read.map_or_else(|| self.store.get(&key(user)), Ok)?;
            shard.insert(name.clone(), self.read(user, stored.as_deref())?);
        }
        let held = shard.get_mut(&name).ok_or_else(|| Error::Internal("a record was not kept".into()))?;
        // Changed in a copy, so that a failed commit changes nothing.
        let mut record = held.record.clone();
        let (result, write) = change(&mut record);
        let (result, next) = match write {
            None => (result, Held { record, stored: held.stored }),
            Some(durability) => match self.write(user, held, (record, result, durability), change) {
                Ok(written) => written,
                Err(error) => {
                    // The commit may nevertheless be on disk: the next call reads the record again, and so do open
                    // feeds, in case it revoked their device.
                    shard.remove(&name);
                    drop(shard);
                    self.announce(Some(user));
                    return Err(error);
                }
            },
        };
        let revokes = next.record.revokes(&held.record);
        *held = next;
        drop(shard);
        if revokes {
            self.announce(Some(user));
        }
        Ok(result)
    }

    /// Notifies the holders of sign-ins of this user, or of all users, that they may have been revoked.
    fn announce(&self, user: Option<&str>) {
        self.revocations.fetch_add(1, Ordering::Release);
        if let Some(told) = self.told.get() {
            told(user);
        }
    }

    /// Commits a record that was changed in memory. If the stored record is not the one that is held,
    /// `change` works on the stored one instead.
    fn write<T>(
        &self,
        user: &str,
        held: &Held,
        changed: (Record, T, Durability),
        mut change: impl FnMut(&mut Record) -> (T, Option<Durability>),
    ) -> Result<(T, Held)> {
        let mut changed = Some(changed);
        let revokes = Cell::new(false);
        let beside = |batch: &mut Batch| match revokes.get() && self.store.is_shared() {
            true => revoked_users::note(&*self.store, batch, user),
            false => Ok(()),
        };
        let written = store::update_with(&*self.store, &key(user), beside, |stored| {
            let (record, result, durability) = match changed.take() {
                Some((record, result, durability)) if self.hasher.hash_one(stored) == held.stored => {
                    revokes.set(record.revokes(&held.record));
                    (record, result, Some(durability))
                }
                _ => {
                    let mut record = self.read(user, stored)?.record;
                    let before = record.clone();
                    let (result, durability) = change(&mut record);
                    revokes.set(record.revokes(&before));
                    (record, result, durability)
                }
            };
            let Some(durability) = durability else {
                return Ok((Change::Keep, (result, Held { record, stored: self.hasher.hash_one(stored) })));
            };
            let value = encode(&record)?;
            let next = Held { record, stored: self.hasher.hash_one(Some(value.as_slice())) };
            Ok((Change::Write(Some(value), durability), (result, next)))
        });
        if written.is_ok() && revokes.get() && self.store.is_shared() {
            // Number 0 stands for records of no database.
            self.store.tell(&[0]);
        }
        written
    }

    /// Takes over the record [`revoked_users::key`], in which every node notes whose sessions it has revoked: wakes
    /// the feeds of those users. The first call, before there are feeds, only notes where the record stands.
    /// `epoch`: the store's, read before the record.
    pub fn learn(&self, noted: Option<&[u8]>, epoch: u64) -> Result<()> {
        let mut known = self.learned.lock();
        let (next, users) = revoked_users::after(noted, epoch, *known)?;
        *known = Some(next);
        drop(known);
        match users {
            Some(users) => users.iter().for_each(|user| self.announce(Some(user))),
            None => self.announce(None),
        }
        Ok(())
    }

    fn read(&self, user: &str, stored: Option<&[u8]>) -> Result<Held> {
        let record = match stored {
            Some(value) => decode(value).ok_or_else(|| Error::Damaged(format!("the devices of {user}")))?,
            None => Record::default(),
        };
        Ok(Held { record, stored: self.hasher.hash_one(stored) })
    }

    /// Creates a cookie session. Returns its second of issue: now, or a second close to it if that one is
    /// taken.
    pub fn begin(&self, user: &str, client: &Client, timeout: u64) -> Result<u64> {
        let (now, id) = (self.now(), hex(&self.clock.random_16()[..8]));
        self.with(user, |record| {
            record.prune(now, timeout);
            let issued = record.free_second(now, timeout);
            let mut device = Device::new(id.clone(), Kind::Cookie, client, now);
            device.issued.push(issued);
            record.add(device);
            (issued, Some(Durability::Synced))
        })
    }

    /// Notes a request with this session's cookie. Returns its device, or `None` if the session is revoked.
    pub fn seen(&self, user: &str, issued: u64, client: &Client, timeout: u64) -> Result<Option<String>> {
        let (now, id) = (self.now(), hex(&self.clock.random_16()[..8]));
        self.with(user, |record| match record.devices.iter_mut().find(|device| device.issued.contains(&issued)) {
            Some(device) => {
                let write = device.touch(client, now).then_some(Durability::Relaxed);
                (Some(device.id.clone()), write)
            }
            None if issued <= record.signed_out || record.revoked.contains(&issued) => (None, None),
            None => {
                record.prune(now, timeout);
                let mut device = Device::new(id.clone(), Kind::Cookie, client, now);
                device.issued.push(issued);
                record.add(device);
                (Some(id.clone()), Some(Durability::Relaxed))
            }
        })
    }

    /// As [`Devices::seen`], for a record that is `stored` as it is held in memory. `None`: it is not, or something must be
    /// written, or the session is not known, or another call is at work, which may wait for the store. Does not block.
    pub fn seen_in_memory(&self, user: &str, issued: u64, client: &Client, stored: Option<&[u8]>) -> Option<String> {
        let now = self.now();
        let mut shard = self.shard(user).try_lock()?;
        let held = shard.get_mut(&user.to_owned()).filter(|held| held.stored == self.hasher.hash_one(stored))?;
        let device = held.record.devices.iter().find(|device| device.issued.contains(&issued))?;
        (!device.is_due(client, now)).then(|| device.id.clone())
    }

    /// Renews a session's cookie. Returns the new second of issue.
    pub fn renew(&self, user: &str, issued: u64, timeout: u64) -> Result<u64> {
        let now = self.now();
        self.with(user, |record| {
            record.prune(now, timeout);
            let renewed = record.free_second(now, timeout);
            if let Some(device) = record.devices.iter_mut().find(|device| device.issued.contains(&issued)) {
                device.issued.push(renewed);
                if device.issued.len() > MAX_ISSUED {
                    device.issued.remove(0);
                }
            }
            (renewed, Some(Durability::Relaxed))
        })
    }

    /// Ends a session, because the user signed out.
    pub fn end(&self, user: &str, issued: u64) -> Result<()> {
        self.with(user, |record| {
            let id = record.devices.iter().find(|device| device.issued.contains(&issued)).map(|d| d.id.clone());
            match id {
                Some(id) => drop(record.remove(&id)),
                None => record.revoke([issued]),
            }
            ((), Some(Durability::Synced))
        })
    }

    /// Returns the device of a session if it is known.
    pub fn of_session(&self, user: &str, issued: u64) -> Result<Option<String>> {
        self.with(user, |record| {
            let device = record.devices.iter().find(|device| device.issued.contains(&issued));
            (device.map(|device| device.id.clone()), None)
        })
    }

    /// Notes that a device has written a checkpoint: how far it has synced a database.
    pub fn synced(&self, user: &str, device: &str, database: &str, sequence: &str) -> Result<()> {
        let now = self.now();
        self.with(user, |record| {
            let Some(device) = record.devices.iter_mut().find(|known| known.id == device) else { return ((), None) };
            if device.databases.len() >= MAX_DATABASES && !device.databases.contains_key(database) {
                return ((), None);
            }
            let sequence: String = sequence.chars().take(128).collect();
            let fresh = device.databases.insert(database.to_string(), sequence).is_none();
            let due = now.saturating_sub(device.last_seen) >= TOUCH;
            if due {
                device.last_seen = now;
            }
            ((), (fresh || due).then_some(Durability::Relaxed))
        })
    }

    /// As [`Devices::synced`], for a client that sends name and password with every request.
    pub fn synced_with_password(&self, user: &str, client: &Client, database: &str, sequence: &str) -> Result<()> {
        let (now, id) = (self.now(), hex(&self.clock.random_16()[..8]));
        let found = self.with(user, |record| {
            let device = Device::new(id.clone(), Kind::Basic, client, now);
            let same = |known: &&Device| {
                known.kind == Kind::Basic && known.name == device.name && known.address == device.address
            };
            match record.devices.iter().find(same) {
                Some(known) => (known.id.clone(), None),
                None => {
                    let id = device.id.clone();
                    record.add(device);
                    (id, Some(Durability::Relaxed))
                }
            }
        })?;
        self.synced(user, &found, database, sequence)
    }

    /// Returns the devices of a user as the API shows them, last seen first. `current`: the device of the
    /// request.
    pub fn list(&self, user: &str, current: Option<&str>, timeout: u64) -> Result<Value> {
        let now = self.now();
        self.with(user, |record| {
            record.prune(now, timeout);
            let mut devices: Vec<&Device> = record.devices.iter().collect();
            devices.sort_by_key(|device| std::cmp::Reverse(device.last_seen));
            let rows: Vec<Value> = devices
                .into_iter()
                .map(|device| {
                    json!({
                        "id": device.id,
                        "name": device.name,
                        "kind": device.kind,
                        "first_seen": device.first_seen,
                        "last_seen": device.last_seen,
                        "address": device.address,
                        "databases": device.databases,
                        "active": device.is_active(now, timeout),
                        "current": current == Some(device.id.as_str()),
                    })
                })
                .collect();
            (Value::Array(rows), None)
        })
    }

    /// Revokes a device: its cookies and tokens are no longer valid. Returns `false` if the id is unknown.
    pub fn revoke(&self, user: &str, device: &str) -> Result<bool> {
        self.with(user, |record| match record.remove(device) {
            true => (true, Some(Durability::Synced)),
            false => (false, None),
        })
    }

    /// Increases whenever a session ends early, so that long-lived feeds know when to check again.
    pub fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    /// Returns the second at which the session of a device ends unless its cookie is renewed before, or
    /// `None` if the device is revoked.
    pub fn session_end(&self, user: &str, device: &str, timeout: u64) -> Result<Option<u64>> {
        self.with(user, |record| {
            let device = record.devices.iter().find(|known| known.id == device);
            let last = device.map(|device| device.issued.iter().max().copied().unwrap_or(0));
            (last.map(|last| last.saturating_add(timeout)), None)
        })
    }

    /// Whether a device exists, that is, has not been revoked.
    pub fn is_known(&self, user: &str, device: &str) -> Result<bool> {
        self.with(user, |record| (record.devices.iter().any(|known| known.id == device), None))
    }

    /// Revokes all devices except `except`. If there is no such device, it revokes unknown sessions as well.
    pub fn revoke_all(&self, user: &str, except: Option<&str>) -> Result<usize> {
        let now = self.now();
        self.with(user, |record| {
            let kept = record.devices.iter().position(|device| Some(device.id.as_str()) == except);
            let kept = kept.map(|at| record.devices.swap_remove(at));
            let count = record.devices.len();
            for device in std::mem::take(&mut record.devices) {
                record.revoke(device.issued);
            }
            match kept {
                // Unknown sessions stay valid: by their second alone, they cannot be distinguished from the one
                // that stays.
                Some(device) => record.devices.push(device),
                None => record.signed_out = now,
            }
            (count, Some(Durability::Synced))
        })
    }

    /// Whether there is a record of a user. Does not add an empty record to the cache.
    pub fn knows(&self, user: &str) -> Result<bool> {
        let is_held = !self.store.is_shared() && self.shard(user).lock().get_mut(&user.to_string()).is_some();
        Ok(is_held || self.store.get(&key(user))?.is_some())
    }

    /// Removes everything of a deleted account, so that the next account of this name does not inherit
    /// devices, sessions or used codes. Cookies issued until now are invalid for it even if it has the same
    /// hash.
    pub fn forget(&self, user: &str) -> Result<()> {
        let now = self.now();
        self.with(user, |record| {
            if record.devices.is_empty() && record.revoked.is_empty() && record.code.is_none() {
                return ((), None);
            }
            // Some cookies may have a second of issue in the future: see `free_second`.
            let issued = record.devices.iter().flat_map(|device| &device.issued).chain(&record.revoked);
            let signed_out = issued.copied().chain([now, record.signed_out]).max().unwrap_or(now);
            *record = Record { signed_out, ..Record::default() };
            ((), Some(Durability::Synced))
        })
    }

    /// Uses up the one-time code of a time step, for a key. Returns `false` if it or a later one was used
    /// before. Of several concurrent calls with one code, only one returns `true`. Durable when it returns.
    pub fn use_code(&self, user: &str, key: &[u8], step: u64) -> Result<bool> {
        let key = hex(&Sha256::digest(key)[..16]);
        self.with(user, |record| {
            if record.code.as_ref().is_some_and(|used| used.key == key && used.step >= step) {
                return (false, None);
            }
            record.code = Some(UsedCode { key: key.clone(), step });
            (true, Some(Durability::Synced))
        })
    }
}

/// The key of a user's record.
pub fn key(user: &str) -> Vec<u8> {
    keyspace::server(&format!("devices/{user}"))
}

#[cfg(test)]
mod tests;
