//! Devices that sign in with tokens instead of a cookie: refresh tokens, their rotation, and the detection of stolen
//! ones.
//!
//! A refresh token is the device's family followed by a random secret. All tokens of a device share the family, so that
//! the reuse of any replaced token is detected with two hashes in the record.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Devices;
use super::record::{Client, Device, Kind, Refresh};
use crate::error::Result;
use crate::hex::hex;
use crate::store::Durability;

/// Lifetime of a refresh token in seconds.
pub const REFRESH_LIFETIME: u64 = 30 * 86_400;
/// Length of the prefix that all refresh tokens of a device share.
const FAMILY: usize = 32;

/// New tokens: the device, and the refresh token in plain text.
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

impl Devices {
    /// Registers a new device with tokens instead of a cookie.
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

    /// Exchanges a refresh token for the next one. Returns `None` if it is not valid. The reuse of a replaced
    /// token means that it was stolen: the device is revoked.
    pub fn rotate(&self, user: &str, salt: &str, tokens: &Tokens, client: &Client) -> Result<Option<Tokens>> {
        let now = self.now();
        // A token of an older build has no family: its first digits become the family of the next tokens.
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

    /// Notes a request with an access token of this device. Returns `false` if the device is revoked.
    pub fn token_seen(&self, user: &str, device: &str, client: &Client) -> Result<bool> {
        let now = self.now();
        self.with(user, |record| match record.devices.iter_mut().find(|known| known.id == device) {
            Some(device) => (true, device.touch(client, now).then_some(Durability::Relaxed)),
            None => (false, None),
        })
    }

    fn secret(&self) -> String {
        let mut bytes = [0; 32];
        self.clock.fill_random(&mut bytes);
        hex(&bytes)
    }
}

pub(super) fn hashed(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn same(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}
