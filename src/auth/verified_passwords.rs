//! A cache of verified passwords, so that repeated Basic authentication skips the slow password hash.
//!
//! The cache holds only correct passwords, so that a wrong one always costs the full hash. (CouchDB's
//! `couch_passwords_cache` also rejects wrong ones fast, which helps an attacker who guesses.) Entries are
//! useless for offline guessing: each is an HMAC of the password under a random key of this process. A
//! fingerprint of the user's stored hash is part of the map's key, so that an entry no longer matches after
//! the password or the hash has changed.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::password::Stored;
use crate::bounded_map::Bounded;
use crate::clock::Clock;

/// CouchDB's `couch_passwords_cache/max_objects`.
const BOUND: usize = 10_000;
/// CouchDB's `couch_passwords_cache/max_idle`.
const IDLE: Duration = Duration::from_secs(600);

struct Entry {
    mac: [u8; 32],
    used: Duration,
}

/// Verified passwords, limited in number and in idle time.
pub(crate) struct Verified {
    /// HMAC under the random key, before any password.
    keyed: Hmac<Sha256>,
    entries: Mutex<Bounded<(String, [u8; 16]), Entry>>,
}

impl Verified {
    /// Creates an empty cache with a random key.
    pub fn new(clock: &Clock) -> Verified {
        let mut key = [0; 32];
        clock.fill_random(&mut key);
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Verified { keyed, entries: Mutex::new(Bounded::new(BOUND)) }
    }

    /// Whether the password with this HMAC was recently verified against this stored hash. `false` means
    /// unknown.
    pub fn knows(&self, name: &str, mac: &[u8; 32], stored: &Stored, now: Duration) -> bool {
        let key = (name.to_string(), stored.fingerprint());
        let mut entries = self.entries.lock();
        match entries.get_mut(&key) {
            Some(entry) if now.saturating_sub(entry.used) <= IDLE => {
                let known: bool = entry.mac.ct_eq(mac).into();
                if known {
                    entry.used = now;
                }
                known
            }
            Some(_) => {
                entries.remove(&key);
                false
            }
            None => false,
        }
    }

    /// Records that the password with this HMAC was verified by the full hash.
    pub fn remember(&self, name: &str, mac: [u8; 32], stored: &Stored, now: Duration) {
        let key = (name.to_string(), stored.fingerprint());
        self.entries.lock().insert(key, Entry { mac, used: now });
    }

    /// The HMAC of a password under this process's key.
    pub fn mac(&self, password: &str) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(setting: &str) -> Stored {
        Stored::from_admin_setting(setting).expect("reads")
    }

    #[test]
    fn matches_only_the_same_user_password_and_hash() {
        let now = Duration::from_secs(1000);
        let cache = Verified::new(&Clock::fixed(now));
        let one = stored("-pbkdf2:sha256-feed,5a17,7");
        cache.remember("ann", cache.mac("pw"), &one, now);
        assert!(cache.knows("ann", &cache.mac("pw"), &one, now));
        assert!(!cache.knows("ann", &cache.mac("pW"), &one, now));
        assert!(!cache.knows("bob", &cache.mac("pw"), &one, now));
        assert!(!cache.knows("ann", &cache.mac("pw"), &stored("-pbkdf2:sha256-feed,5a18,7"), now), "another salt");
        assert!(!cache.knows("ann", &cache.mac("pw"), &stored("-pbkdf2:sha256-feee,5a17,7"), now), "another key");
        assert!(cache.knows("ann", &cache.mac("pw"), &one, now + IDLE), "each use renews");
        assert!(cache.knows("ann", &cache.mac("pw"), &one, now + IDLE * 2));
        assert!(!cache.knows("ann", &cache.mac("pw"), &one, now + IDLE * 4));
    }
}
