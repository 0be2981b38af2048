//! The state of authentication: settings, secrets, caches and counters, shared by all requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::account::{Account, Users, find_account};
use crate::auth::devices::Devices;
use crate::auth::jwks::{Fetch, JwksCache, Keys, NoKeys};
use crate::auth::lockout::Lockout;
use crate::auth::session::Secrets;
use crate::auth::settings::Settings;
use crate::auth::verified_passwords::Verified;
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Authenticates requests and sign-ins. One per server, shared by all requests.
pub struct Authenticator {
    pub(super) users: Arc<dyn Users>,
    pub(super) clock: Clock,
    current: RwLock<Current>,
    pub(super) verified: Verified,
    pub(super) lockout: Lockout,
    pub(super) published: Box<dyn Keys + Send + Sync>,
    pub(super) devices: Option<Arc<Devices>>,
    /// Number of passwords that the cache knew, and of those that were hashed.
    pub(super) fast: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) slow: AtomicU64,
    /// Number of changes of the settings.
    pub(super) generation: AtomicU64,
}

struct Current {
    settings: Arc<Settings>,
    secrets: Arc<Secrets>,
}

impl Authenticator {
    pub fn new(users: Arc<dyn Users>, settings: Settings, clock: Clock) -> Authenticator {
        let secrets = Arc::new(settings.secrets());
        let verified = Verified::new(&clock);
        let current = RwLock::new(Current { settings: Arc::new(settings), secrets });
        let published = Box::new(NoKeys);
        Authenticator {
            users,
            clock,
            current,
            verified,
            lockout: Lockout::new(),
            published,
            devices: None,
            fast: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            cache_misses: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Adds the record of devices: sessions can then be listed and revoked.
    pub fn with_devices(mut self, devices: Arc<Devices>) -> Authenticator {
        self.devices = Some(devices);
        self
    }

    /// Returns the record of devices.
    pub fn devices(&self) -> Option<&Arc<Devices>> {
        self.devices.as_ref()
    }

    /// Adds keys from a JWKS URL, which `fetch` fetches when a token needs one.
    pub fn with_published_keys(mut self, fetch: Fetch) -> Authenticator {
        self.published = Box::new(JwksCache::new(fetch, self.clock.clone()));
        self
    }

    /// If a JWKS URL is set, fetches the keys again before they expire. Blocks during the fetch.
    pub fn refresh_published_keys(&self) {
        if let Some(jwks) = self.settings().jwt.jwks() {
            self.published.refresh_if_due(jwks);
        }
    }

    /// Applies changed settings immediately. A replaced secret stays valid for one session timeout.
    pub fn configure(&self, settings: Settings) {
        let now = self.clock.since_epoch().as_secs();
        let mut current = self.current.write();
        let mut secrets = Secrets::clone(&current.secrets);
        secrets.replace(settings.secret.as_deref(), now, settings.timeout);
        *current = Current { settings: Arc::new(settings), secrets: Arc::new(secrets) };
        // Incremented after the change: a check that reads the counter first cannot miss it.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns the current settings.
    pub fn settings(&self) -> Arc<Settings> {
        self.current.read().settings.clone()
    }

    pub(super) fn current(&self) -> (Arc<Settings>, Arc<Secrets>) {
        let current = self.current.read();
        (current.settings.clone(), current.secrets.clone())
    }

    /// Returns the number of fast and of slow password checks since the start (`password_hashing_fast` and
    /// `password_hashing_slow` in CouchDB).
    pub fn hashings(&self) -> (u64, u64) {
        (self.fast.load(Ordering::Relaxed), self.slow.load(Ordering::Relaxed))
    }

    /// Returns the hits and misses of the cache of verified passwords since the start.
    pub fn cached(&self) -> (u64, u64) {
        (self.cache_hits.load(Ordering::Relaxed), self.cache_misses.load(Ordering::Relaxed))
    }

    /// Returns the account of this name: see [`find_account`].
    pub(super) fn account(&self, name: &str, settings: &Settings) -> Result<Option<Account>> {
        find_account(&*self.users, name, settings)
    }
}

pub(super) fn no_secret() -> Error {
    Error::Internal("cookie auth secret is not set".into())
}
