//! Public keys that a token issuer (Supabase, Auth0, Keycloak, ...) publishes as a JWKS document (RFC 7517).
//! Settings in `[jwt_auth]`: `jwks_url`, `jwks_max_age`, `jwks_system_roles`.
//!
//! ```text
//! token's kid ─> known and fresh ───────────────────────────────────────> key
//!            └─> unknown, or older than max age ─> fetch, at most once per RETRY ─> key | unknown
//! ```
//!
//! If the issuer is unreachable, the known keys stay valid. The caller passes the fetch ([`Fetch`]); this
//! module decides when to fetch, and parses the document.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use jsonwebtoken::DecodingKey;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::jwt::key::{Alg, Key, Kind};
use super::source::{Source, boolean, number};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Settings of a JWKS URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// `jwks_url`: where the issuer publishes its keys.
    pub url: String,
    /// `jwks_max_age`: seconds after which the keys are fetched again; default 3600.
    pub max_age: Duration,
    /// `jwks_system_roles`: whether tokens of this issuer may have roles that start with `_`, such as
    /// `_admin`; default false.
    pub system_roles: bool,
}

impl JwksSettings {
    /// Reads the settings. Returns `None` if no URL is set, or if the URL is not allowed.
    pub(super) fn read(source: &dyn Source) -> Option<JwksSettings> {
        let get = |key: &str| source.get("jwt_auth", key);
        let url = get("jwks_url").map(|url| url.trim().to_string()).filter(|url| !url.is_empty())?;
        if !may_be_fetched(&url) {
            tracing::error!("ignoring jwt_auth/jwks_url: it must begin with https:// (or be on this machine)");
            return None;
        }
        let max_age = Duration::from_secs(number(get("jwks_max_age"), 3600));
        Some(JwksSettings { url, max_age, system_roles: boolean(get("jwks_system_roles"), false) })
    }
}

/// Allows `https` URLs, and `http` URLs of this machine; not if they contain a user name.
fn may_be_fetched(url: &str) -> bool {
    let Ok(url) = url.parse::<::http::Uri>() else { return false };
    let plain = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let named = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    !named && url.host().is_some() && (url.scheme_str() == Some("https") || url.scheme_str() == Some("http") && plain)
}

/// Fetches the document at a URL. May block, for at most [`FETCH_TIME`], and returns at most
/// [`MAX_DOCUMENT`] bytes.
pub type Fetch = Box<dyn Fn(&str) -> Result<Vec<u8>> + Send + Sync>;

/// Time limit of a fetch.
pub const FETCH_TIME: Duration = Duration::from_secs(10);

/// Maximum size of a JWKS document in bytes.
pub const MAX_DOCUMENT: usize = 256 << 10;
/// Maximum number of keys of one document; further keys are ignored.
const MAX_KEYS: usize = 100;
/// Minimum time between two fetches. Without it, any client could cause fetches by sending unknown `kid`s.
const RETRY: Duration = Duration::from_secs(60);
/// Maximum number of requests that wait for the fetch of another request. Each of them blocks a thread.
const MOST_WAITING: usize = 32;
/// Maximum time of such a wait, a little more than a fetch may take.
const WAIT: Duration = Duration::from_secs(12);

/// A source of published keys.
pub trait Keys {
    /// Finds the key for an algorithm and a `kid`. May block to fetch the keys.
    fn find(&self, settings: &JwksSettings, alg: Alg, kid: Option<&str>) -> Result<Option<Key>>;

    /// Fetches the keys before they expire, so that requests need not wait for a fetch. Blocks.
    fn refresh_if_due(&self, _: &JwksSettings) {}

    /// Counts how often other keys were published.
    fn changes(&self) -> u64 {
        0
    }
}

/// A parsed JWKS document.
#[derive(Debug, Clone, Default)]
pub struct Jwks {
    keys: Vec<Published>,
}

#[derive(Debug, Clone)]
struct Published {
    kid: Option<String>,
    kind: Kind,
    key: Key,
}

impl Jwks {
    /// Parses a document. Skips keys of unknown types, invalid keys, symmetric keys (`oct`), and keys that
    /// are not for signatures.
    pub fn parse(document: &[u8]) -> Result<Jwks> {
        let document: Value = (document.len() <= MAX_DOCUMENT)
            .then(|| serde_json::from_slice(document).ok())
            .flatten()
            .ok_or_else(|| Error::Internal("the JWKS document is not JSON or too large".into()))?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| Error::Internal("the JWKS document has no keys".into()))?;
        Ok(Jwks { keys: keys.iter().filter_map(published).take(MAX_KEYS).collect() })
    }

    /// Finds the key with this `kid`. Without a `kid`, returns the key of the algorithm's kind if there is
    /// exactly one.
    fn find(&self, alg: Alg, kid: Option<&str>) -> Option<Key> {
        let mut fitting = self.keys.iter().filter(|key| key.kind == alg.kind);
        let found = match kid {
            Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        found.map(|found| found.key.clone())
    }
}

fn published(jwk: &Value) -> Option<Published> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let (kind, decoding) = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            // Rejects moduli of fewer than 2048 bits, which are too weak.
            let modulus = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text("n")?).ok()?;
            let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            (bits >= 2048).then_some(())?;
            (Kind::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?)
        }
        ("EC", Some("P-256" | "P-384" | "P-521")) => {
            (Kind::Ec, DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?)
        }
        ("OKP", Some("Ed25519")) => (Kind::Ed25519, DecodingKey::from_ed_components(text("x")?).ok()?),
        _ => return None,
    };
    let only = match text("alg") {
        Some(name) => Some(Alg::named(name).filter(|alg| alg.kind == kind)?.name()),
        None => None,
    };
    Some(Published { kid: text("kid").map(str::to_string), kind, key: Key { decoding, only } })
}

/// Caches the keys of one URL and fetches them again when due. There is one cache per server.
pub struct JwksCache {
    fetch: Fetch,
    clock: Clock,
    held: RwLock<Held>,
    /// Time of the last attempt to fetch. Locked during a fetch, so that only one runs at a time.
    tried: Mutex<Option<Duration>>,
    /// Number of requests that wait for `tried`.
    waiting: AtomicUsize,
    changes: AtomicU64,
}

#[derive(Default)]
struct Held {
    url: String,
    keys: Jwks,
    /// The document that the keys are of.
    document: Vec<u8>,
    fetched: Option<Duration>,
}

impl JwksCache {
    /// Creates an empty cache. The first lookup fetches the keys.
    pub fn new(fetch: Fetch, clock: Clock) -> JwksCache {
        JwksCache {
            fetch,
            clock,
            held: RwLock::default(),
            tried: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// Returns the cached key, and whether the cached keys are still fresh.
    fn held(&self, settings: &JwksSettings, alg: Alg, kid: Option<&str>) -> (Option<Key>, bool) {
        let held = self.held.read();
        if held.url != settings.url {
            return (None, false);
        }
        let age = held.fetched.map(|at| self.clock.since_epoch().saturating_sub(at));
        (held.keys.find(alg, kid), age.is_some_and(|age| age < settings.max_age))
    }

    /// Fetches the keys, unless the last attempt is less than [`RETRY`] ago. If another request is fetching,
    /// waits for it if `wait`, and otherwise returns immediately.
    fn refresh(&self, settings: &JwksSettings, wait: bool) {
        let tried = match self.tried.try_lock() {
            Some(tried) => Some(tried),
            None if wait && self.waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING => {
                let tried = self.tried.try_lock_for(WAIT);
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                tried
            }
            None => {
                if wait {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                None
            }
        };
        let Some(mut tried) = tried else { return };
        let now = self.clock.since_epoch();
        let same = self.held.read().url == settings.url;
        if same && tried.is_some_and(|at| now.saturating_sub(at) < RETRY) {
            return;
        }
        *tried = Some(now);
        let fetched = (self.fetch)(&settings.url).and_then(|document| Ok((Jwks::parse(&document)?, document)));
        let mut held = self.held.write();
        if !same {
            *held = Held { url: settings.url.clone(), ..Held::default() };
        }
        match fetched {
            Ok((keys, document)) => {
                let changed = held.document != document;
                (held.keys, held.document, held.fetched) = (keys, document, Some(now));
                if changed {
                    self.changes.fetch_add(1, Ordering::Release);
                }
            }
            Err(error) => tracing::warn!(url = settings.url, %error, "fetching the JWKS failed"),
        }
    }
}

impl Keys for JwksCache {
    fn find(&self, settings: &JwksSettings, alg: Alg, kid: Option<&str>) -> Result<Option<Key>> {
        match self.held(settings, alg, kid) {
            (Some(key), true) => Ok(Some(key)),
            (known, _) => {
                self.refresh(settings, known.is_none());
                Ok(self.held(settings, alg, kid).0)
            }
        }
    }

    fn refresh_if_due(&self, settings: &JwksSettings) {
        let held = self.held.read();
        let age = held.fetched.map(|at| self.clock.since_epoch().saturating_sub(at));
        let due = held.url != settings.url || age.is_none_or(|age| age >= settings.max_age / 4 * 3);
        drop(held);
        if due {
            self.refresh(settings, false);
        }
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

/// A source without keys, for servers without a JWKS URL and for tests.
pub struct NoKeys;

impl Keys for NoKeys {
    fn find(&self, _: &JwksSettings, _: Alg, _: Option<&str>) -> Result<Option<Key>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
