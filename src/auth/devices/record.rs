//! The record of a user's devices, sessions and used codes, and its stored form: JSON after a version byte.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Maximum number of devices per user; the one not seen for longest is dropped first.
pub(super) const MAX_DEVICES: usize = 64;
/// Maximum number of valid cookies per device: a renewal keeps the previous cookie valid for running
/// requests.
pub(super) const MAX_ISSUED: usize = 8;
/// Maximum number of revoked cookies that a record remembers. Beyond it, all unknown sessions as old as the
/// older half become invalid.
pub(super) const MAX_REVOKED: usize = 1024;
/// Maximum number of databases listed per device.
pub(super) const MAX_DATABASES: usize = 64;
/// Minimum time between writes of the time of last use, in seconds.
pub(super) const TOUCH: u64 = 600;
/// Time after which a device without valid cookies or tokens is dropped, in seconds.
pub(super) const FORGET: u64 = 30 * 86_400;
const VERSION: u8 = 1;

/// The description of a client. Both texts are truncated when stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The client's own name for the device (header `X-Settee-Device`), else its user agent.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// How a device authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Cookie,
    Token,
    /// A client that sends name and password with every request, listed because it wrote a checkpoint.
    /// Revoking it only removes it from the list, because it has the password.
    Basic,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Device {
    pub id: String,
    pub name: String,
    pub kind: Kind,
    pub first_seen: u64,
    pub last_seen: u64,
    pub address: String,
    /// For each database, the last sequence that the device wrote in a checkpoint.
    #[serde(default)]
    pub databases: BTreeMap<String, String>,
    /// Seconds of issue of its cookies.
    #[serde(default)]
    pub issued: Vec<u64>,
    #[serde(default)]
    pub refresh: Option<Refresh>,
}

/// A refresh token in its stored, hashed form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refresh {
    pub current: String,
    /// Hash of the prefix that all refresh tokens of the device share: a token with this prefix that is not
    /// the current one was replaced before. `None` in records of older builds, until the next rotation.
    #[serde(default)]
    pub family: Option<String>,
    /// The previous token: if it is used again, it was copied.
    pub previous: Option<String>,
    pub until: u64,
    /// The user's salt at the time of issue: a new password invalidates the token.
    pub salt: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub devices: Vec<Device>,
    /// Seconds of issue of revoked cookies.
    #[serde(default)]
    pub revoked: Vec<u64>,
    /// Cookies issued in this second or before are revoked.
    #[serde(default)]
    pub signed_out: u64,
    /// The latest used one-time code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<UsedCode>,
}

/// A used one-time code: it and all earlier ones are no longer valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UsedCode {
    /// Hash of the key: codes of another key are independent.
    pub key: String,
    /// Its time step.
    pub step: u64,
}

impl Device {
    pub fn new(id: String, kind: Kind, client: &Client, now: u64) -> Device {
        let mut device = Device {
            id,
            name: String::new(),
            kind,
            first_seen: now,
            last_seen: now,
            address: String::new(),
            databases: BTreeMap::new(),
            issued: Vec::new(),
            refresh: None,
        };
        device.describe(client);
        device
    }

    pub fn describe(&mut self, client: &Client) {
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(128).collect::<String>();
        self.name = cut(&client.name);
        self.address = cut(&client.address);
    }

    /// Whether a use is to be noted.
    pub fn is_due(&self, client: &Client, now: u64) -> bool {
        now.saturating_sub(self.last_seen) >= TOUCH || self.address != client.address
    }

    /// Notes a use if it is to be noted. Returns whether the record must be written.
    pub fn touch(&mut self, client: &Client, now: u64) -> bool {
        let due = self.is_due(client, now);
        if due {
            self.last_seen = now;
            self.describe(client);
        }
        due
    }

    pub fn is_active(&self, now: u64, timeout: u64) -> bool {
        let session = self.issued.iter().any(|issued| issued.saturating_add(timeout) > now);
        session || self.refresh.as_ref().is_some_and(|refresh| refresh.until > now)
    }
}

impl Record {
    /// Whether a cookie or device that was valid in `before` no longer is.
    pub fn revokes(&self, before: &Record) -> bool {
        self.revoked != before.revoked
            || self.signed_out != before.signed_out
            || before.devices.iter().any(|device| !self.devices.iter().any(|kept| kept.id == device.id))
    }

    /// Returns a second of issue that no session of this user has: now or shortly before, or in the future if
    /// all those are taken or were signed out. Not long before, because the session would expire early.
    pub fn free_second(&self, now: u64, timeout: u64) -> u64 {
        let issued = self.devices.iter().flat_map(|device| &device.issued);
        let taken: HashSet<u64> = self.revoked.iter().chain(issued).copied().collect();
        let free = |second: &u64| !taken.contains(second);
        // A cookie is renewed after a tenth of its lifetime.
        let earliest = now.saturating_sub(timeout / 10).max(self.signed_out.saturating_add(1));
        let ahead = now.max(self.signed_out).saturating_add(1)..=u64::MAX;
        (earliest..=now).rev().find(free).or_else(|| ahead.into_iter().find(free)).unwrap_or(now)
    }

    /// Adds a device. If the record is full, it replaces an entry of the same client, if any, so that a
    /// client that signs in repeatedly does not displace the user's other devices.
    pub fn add(&mut self, device: Device) {
        if self.devices.len() >= MAX_DEVICES {
            let twin = |known: &Device| {
                known.kind == device.kind && known.name == device.name && known.address == device.address
            };
            let last_seen = |at: &usize| self.devices[*at].last_seen;
            let places = 0..self.devices.len();
            let oldest = places.clone().filter(|at| twin(&self.devices[*at])).min_by_key(last_seen);
            if let Some(at) = oldest.or_else(|| places.min_by_key(last_seen)) {
                let oldest = self.devices.swap_remove(at);
                self.revoke(oldest.issued);
            }
        }
        self.devices.push(device);
    }

    /// Remembers revoked cookies.
    pub fn revoke(&mut self, issued: impl IntoIterator<Item = u64>) {
        self.revoked.extend(issued);
        if self.revoked.len() > MAX_REVOKED {
            self.revoked.sort_unstable();
            let newer = self.revoked.split_off(MAX_REVOKED / 2);
            let older = std::mem::replace(&mut self.revoked, newer);
            self.signed_out = self.signed_out.max(older.last().copied().unwrap_or(0));
        }
    }

    pub fn remove(&mut self, id: &str) -> bool {
        let Some(at) = self.devices.iter().position(|device| device.id == id) else { return false };
        let device = self.devices.swap_remove(at);
        self.revoke(device.issued);
        true
    }

    /// Drops expired cookies, and devices that have been inactive for long.
    pub fn prune(&mut self, now: u64, timeout: u64) {
        let alive = |issued: &u64| issued.saturating_add(timeout) > now;
        // If the session timeout is increased later, revoked sessions must not become valid again.
        let over = self.revoked.iter().filter(|issued| !alive(issued)).max();
        self.signed_out = self.signed_out.max(over.copied().unwrap_or(0));
        self.revoked.retain(alive);
        for device in &mut self.devices {
            device.issued.retain(alive);
        }
        self.devices.retain(|device| device.is_active(now, timeout) || now.saturating_sub(device.last_seen) < FORGET);
    }
}

pub(super) fn encode(record: &Record) -> Result<Vec<u8>> {
    let mut value = vec![VERSION];
    serde_json::to_writer(&mut value, record).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(value)
}

pub(super) fn decode(value: &[u8]) -> Option<Record> {
    let (version, json) = value.split_first()?;
    (*version == VERSION).then(|| serde_json::from_slice(json).ok())?
}
