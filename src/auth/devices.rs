//! Which devices are signed in as whom: listed, revoked one by one or all, at once. CouchDB has nothing like it.
//!
//! A cookie session is known by (user, second of issue), which the cookie says itself, so that cookies stay CouchDB's;
//! two sign-ins of one user in one second get different seconds. Sessions that are not known here (made by another
//! server with the same secret, or before this record was) are good as in CouchDB, and listed from their first use on.
//!
//! ```text
//! sign in ─> begin ─> device {issued: [t]}       request ─> seen ─> known | adopted | revoked
//! renewal ─> renew ─> device {issued: [t, t']}   revoke  ─> device gone, its seconds remembered until they are over
//! tokens  ─> begin_tokens ─> device {refresh}    refresh ─> rotate; any older one used again: stolen, device gone
//! ```
//!
//! One record per user under `keys::server("devices/NAME")`, JSON behind a version byte. Structural changes are durable
//! when they return; times of last use are written some times an hour.

mod record;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::record::{Device, MAX_DATABASES, MAX_ISSUED, Record, Refresh, TOUCH, UsedCode, decode, encode};
use crate::bounded_map::Bounded;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::store::{self, Change, Durability, Store, keyspace};

pub use self::record::{Client, Kind};

/// Seconds that a refresh token is good for.
pub const REFRESH_LIFETIME: u64 = 30 * 86_400;
/// Users whose records are held in memory.
const MAX_USERS: usize = 16_384;
/// A pair of fresh tokens' parts: which device, and the refresh token in the clear.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    pub device: String,
    pub refresh: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tokens({})", self.device)
    }
}

/// All users' devices. One per server. Calls may block on the store.
pub struct Devices {
    store: Arc<dyn Store>,
    clock: Clock,
    /// Users by hash, so that one user's write does not hold up the others.
    shards: Vec<Mutex<Bounded<String, Held>>>,
    hasher: RandomState,
    /// Counts what may have ended a session.
    revocations: AtomicU64,
    /// Called with the user's name after a revocation.
    told: OnceLock<Told>,
}

/// A record in memory.
#[derive(Clone)]
struct Held {
    record: Record,
    /// Hash of the stored value that the record was read from or written as. `record` may be newer: times of
    /// last use are written some times an hour.
    stored: u64,
}

/// Is called with a user's name.
type Told = Box<dyn Fn(&str) + Send + Sync>;

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
        }
    }

    /// Registers a function that is called with the user's name after each revocation.
    pub fn when_revoked(&self, told: impl Fn(&str) + Send + Sync + 'static) {
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
    fn with<T>(&self, user: &str, mut change: impl FnMut(&mut Record) -> (T, Option<Durability>)) -> Result<T> {
        let mut shard = self.shard(user).lock();
        let name = user.to_string();
        if shard.get_mut(&name).is_none() {
            let stored = self.store.get(&key(user))?;
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
                    // The commit may be on disk all the same: the next call reads the record again.
                    shard.remove(&name);
                    return Err(error);
                }
            },
        };
        let revokes = next.record.revokes(&held.record);
        *held = next;
        drop(shard);
        if revokes {
            self.revocations.fetch_add(1, Ordering::Release);
            if let Some(told) = self.told.get() {
                told(user);
            }
        }
        Ok(result)
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
        store::update(&*self.store, &key(user), |stored| {
            let (record, result, durability) = match changed.take() {
                Some((record, result, durability)) if self.hasher.hash_one(stored) == held.stored => {
                    (record, result, Some(durability))
                }
                _ => {
                    let mut record = self.read(user, stored)?.record;
                    let (result, durability) = change(&mut record);
                    (record, result, durability)
                }
            };
            let Some(durability) = durability else {
                return Ok((Change::Keep, (result, Held { record, stored: self.hasher.hash_one(stored) })));
            };
            let value = encode(&record)?;
            let next = Held { record, stored: self.hasher.hash_one(Some(value.as_slice())) };
            Ok((Change::Write(Some(value), durability), (result, next)))
        })
    }

    fn read(&self, user: &str, stored: Option<&[u8]>) -> Result<Held> {
        let record = match stored {
            Some(value) => decode(value).ok_or_else(|| Error::Damaged(format!("the devices of {user}")))?,
            None => Record::default(),
        };
        Ok(Held { record, stored: self.hasher.hash_one(stored) })
    }

    /// A new cookie session. Returns its second of issue: now, or one near it if that one is taken.
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

    /// A request came with this session's cookie. Returns its device; `None`: the session is revoked.
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

    /// A session's cookie is replaced by a new one; its second of issue.
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

    /// The session is over: signed out.
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

    /// A new device that holds tokens instead of a cookie.
    pub fn begin_tokens(&self, user: &str, salt: &str, client: &Client, timeout: u64) -> Result<Tokens> {
        let (now, id) = (self.now(), hex(&self.clock.random_16()[..8]));
        let family = hex(&self.clock.random_16());
        let refresh = family.clone() + &self.secret();
        self.with(user, |record| {
            record.prune(now, timeout);
            let mut device = Device::new(id.clone(), Kind::Token, client, now);
            device.refresh = Some(Refresh {
                current: hashed(&refresh),
                family: Some(hashed(&family)),
                previous: None,
                until: now + REFRESH_LIFETIME,
                salt: salt.to_string(),
            });
            record.add(device);
            ((), Some(Durability::Synced))
        })?;
        Ok(Tokens { device: id, refresh })
    }

    /// Takes a refresh token and gives the next one. `None`: it is not good. One that was replaced before and comes again
    /// is a copy in other hands: the device is revoked.
    pub fn rotate(&self, user: &str, salt: &str, tokens: &Tokens, client: &Client) -> Result<Option<Tokens>> {
        let now = self.now();
        // One of an older build has no family: its first digits are the next ones' family.
        let family = tokens.refresh.get(..FAMILY).unwrap_or_default();
        let next = family.to_string() + &self.secret();
        let (given, given_family) = (hashed(&tokens.refresh), hashed(family));
        let rotated = self.with(user, |record| {
            let Some(device) = record.devices.iter_mut().find(|device| device.id == tokens.device) else {
                return (false, None);
            };
            let Some(refresh) = &mut device.refresh else { return (false, None) };
            if refresh.until <= now || refresh.salt != salt {
                return (false, None);
            }
            if same(&refresh.current, &given) {
                refresh.previous = Some(std::mem::replace(&mut refresh.current, hashed(&next)));
                refresh.family = Some(given_family.clone());
                refresh.until = now + REFRESH_LIFETIME;
                device.touch(client, now);
                return (true, Some(Durability::Synced));
            }
            let is_previous = refresh.previous.as_ref().is_some_and(|previous| same(previous, &given));
            let is_older = refresh.family.as_ref().is_some_and(|family| same(family, &given_family));
            if is_previous || is_older {
                tracing::warn!(user, device = tokens.device, "a refresh token was used twice: the device is revoked");
                record.remove(&tokens.device);
                return (false, Some(Durability::Synced));
            }
            (false, None)
        })?;
        Ok(rotated.then(|| Tokens { device: tokens.device.clone(), refresh: next }))
    }

    /// A request came with an access token of this device. `false`: revoked.
    pub fn token_seen(&self, user: &str, device: &str, client: &Client) -> Result<bool> {
        let now = self.now();
        self.with(user, |record| match record.devices.iter_mut().find(|known| known.id == device) {
            Some(device) => (true, device.touch(client, now).then_some(Durability::Relaxed)),
            None => (false, None),
        })
    }

    /// The device behind a session, if it is known.
    pub fn of_session(&self, user: &str, issued: u64) -> Result<Option<String>> {
        self.with(user, |record| {
            let device = record.devices.iter().find(|device| device.issued.contains(&issued));
            (device.map(|device| device.id.clone()), None)
        })
    }

    /// A device has written a checkpoint: how far it has synced a database.
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

    /// A client that sends name and password has written a checkpoint.
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

    /// The devices of a user, last seen first, as the API shows them; `current` is the asking one.
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

    /// Revokes a device: what it holds is no longer good. `false`: there is none of this id.
    pub fn revoke(&self, user: &str, device: &str) -> Result<bool> {
        self.with(user, |record| match record.remove(device) {
            true => (true, Some(Durability::Synced)),
            false => (false, None),
        })
    }

    /// Grows whenever a session has ended before its time: who holds a feed open asks again then.
    pub fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    /// The second at which the session of a device ends unless its cookie is renewed before. `None`: the device is revoked.
    pub fn session_end(&self, user: &str, device: &str, timeout: u64) -> Result<Option<u64>> {
        self.with(user, |record| {
            let device = record.devices.iter().find(|known| known.id == device);
            let last = device.map(|device| device.issued.iter().max().copied().unwrap_or(0));
            (last.map(|last| last.saturating_add(timeout)), None)
        })
    }

    /// Whether a device that holds tokens is not revoked.
    pub fn is_known(&self, user: &str, device: &str) -> Result<bool> {
        self.with(user, |record| (record.devices.iter().any(|known| known.id == device), None))
    }

    /// Revokes all devices, and sessions that are not known here. `except`: the one that asks, if it stays.
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
                // Unknown sessions cannot be told from the one that stays by their second alone.
                Some(device) => record.devices.push(device),
                None => record.signed_out = now,
            }
            (count, Some(Durability::Synced))
        })
    }

    /// Whether anything was ever noted of a user. Holds nothing in memory of one of whom there is nothing.
    pub fn knows(&self, user: &str) -> Result<bool> {
        let is_held = self.shard(user).lock().get_mut(&user.to_string()).is_some();
        Ok(is_held || self.store.get(&key(user))?.is_some())
    }

    /// The account is gone: its devices, sessions and used codes are not those of the next one of this name. Cookies issued until
    /// now are not good for it either, even if it has the same hash.
    pub fn forget(&self, user: &str) -> Result<()> {
        let now = self.now();
        self.with(user, |record| {
            if record.devices.is_empty() && record.revoked.is_empty() && record.code.is_none() {
                return ((), None);
            }
            // Some may be issued ahead of time: see `free_second`.
            let issued = record.devices.iter().flat_map(|device| &device.issued).chain(&record.revoked);
            let signed_out = issued.copied().chain([now, record.signed_out]).max().unwrap_or(now);
            *record = Record { signed_out, ..Record::default() };
            ((), Some(Durability::Synced))
        })
    }

    /// Uses the one-time code of a time step, under a key. `false`: it, or a later one, was used before. Of several that come
    /// with one code at once, one has `true`; durable when it returns.
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

    fn secret(&self) -> String {
        let mut bytes = [0; 32];
        self.clock.fill_random(&mut bytes);
        hex(&bytes)
    }
}

/// Digits at the beginning of a refresh token that it shares with those before and after it.
const FAMILY: usize = 32;

fn hashed(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn same(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

fn key(user: &str) -> Vec<u8> {
    keyspace::server(&format!("devices/{user}"))
}

#[cfg(test)]
mod tests;
