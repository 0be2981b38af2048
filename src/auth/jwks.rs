//! Keys that an issuer publishes (RFC 7517): Supabase, Auth0, Keycloak and their like. Settings of `[jwt_auth]`:
//! `jwks_url`, `jwks_max_age`, `jwks_system_roles`.
//!
//! ```text
//! token's kid ─> known, fresh enough ─────────────────────────> key
//!            └─> unknown, or older than max age ─> fetch, once a RETRY at most ─> key | unknown
//! ```
//!
//! When the issuer cannot be reached, the keys that are known stay good. Fetching is the caller's trait; here is the
//! logic of when, and the parsing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use jsonwebtoken::DecodingKey;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::jwt::{Alg, Key, Kind};
use super::settings::{Source, boolean, number};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Settings of a JWKS URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// `jwks_url`: where the issuer publishes its keys.
    pub url: String,
    /// `jwks_max_age`: seconds after which they are fetched anew; 3600.
    pub max_age: Duration,
    /// `jwks_system_roles`: whether roles that begin with `_`, such as `_admin`, count in tokens of this issuer; false.
    pub system_roles: bool,
}

impl JwksSettings {
    pub(super) fn read(source: &dyn Source) -> Option<JwksSettings> {
        let get = |key: &str| source.get("jwt_auth", key);
        let url = get("jwks_url").map(|url| url.trim().to_string()).filter(|url| !url.is_empty())?;
        if !may_be_fetched(&url) {
            tracing::error!("jwt_auth/jwks_url must begin with https:// (or be on this machine); it is not used");
            return None;
        }
        let max_age = Duration::from_secs(number(get("jwks_max_age"), 3600));
        Some(JwksSettings { url, max_age, system_roles: boolean(get("jwks_system_roles"), false) })
    }
}

/// `https`, or `http` on this machine; without a name and password in it.
fn may_be_fetched(url: &str) -> bool {
    let Ok(url) = url.parse::<::http::Uri>() else { return false };
    let plain = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let named = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    !named && url.host().is_some() && (url.scheme_str() == Some("https") || url.scheme_str() == Some("http") && plain)
}

/// Gets the document at a URL. May block; bounds time and size ([`MAX_DOCUMENT`]).
pub trait Fetch: Send + Sync + 'static {
    fn fetch(&self, url: &str) -> Result<Vec<u8>>;
}

/// The most bytes that a JWKS document may have.
pub const MAX_DOCUMENT: usize = 256 << 10;
/// The most keys that are kept of one.
const MAX_KEYS: usize = 100;
/// How often an unknown `kid`, which anybody can send, or an issuer that does not answer may cost a fetch.
const RETRY: Duration = Duration::from_secs(60);
/// Requests that wait at once for a fetch that another one began: each holds a thread.
const MOST_WAITING: usize = 32;
/// How long one waits, a little more than a fetch may take.
const WAIT: Duration = Duration::from_secs(12);

/// Published keys, found by algorithm and `kid`.
pub trait Keys {
    fn find(&self, settings: &JwksSettings, alg: Alg, kid: Option<&str>) -> Result<Option<Key>>;

    /// Fetches them before they are too old, so that no request has to wait for it. Blocks.
    fn refresh_if_due(&self, _: &JwksSettings) {}
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
    /// Parses a document. Keys that are unknown, unusable, not for signatures or secret (`oct`) are left out.
    pub fn parse(document: &[u8]) -> Result<Jwks> {
        let document: Value = (document.len() <= MAX_DOCUMENT)
            .then(|| serde_json::from_slice(document).ok())
            .flatten()
            .ok_or_else(|| Error::Internal("the JWKS document is not JSON or too large".into()))?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| Error::Internal("the JWKS document has no keys".into()))?;
        Ok(Jwks { keys: keys.iter().filter_map(published).take(MAX_KEYS).collect() })
    }

    /// The key of this `kid`; without one, the only key of the kind.
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
            // A modulus of fewer than 2048 bits can be factored.
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

/// The keys of one URL, kept and fetched anew when due. One per server.
pub struct JwksCache {
    fetch: Box<dyn Fetch>,
    clock: Clock,
    held: RwLock<Held>,
    /// When the last fetch was tried; held while one runs, so that there is one at a time.
    tried: Mutex<Option<Duration>>,
    /// Who waits for `tried`.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Held {
    url: String,
    keys: Jwks,
    fetched: Option<Duration>,
}

impl JwksCache {
    pub fn new(fetch: Box<dyn Fetch>, clock: Clock) -> JwksCache {
        JwksCache { fetch, clock, held: RwLock::default(), tried: Mutex::new(None), waiting: AtomicUsize::new(0) }
    }

    /// The held key, and whether what is held is still fresh.
    fn held(&self, settings: &JwksSettings, alg: Alg, kid: Option<&str>) -> (Option<Key>, bool) {
        let held = self.held.read();
        if held.url != settings.url {
            return (None, false);
        }
        let age = held.fetched.map(|at| self.clock.since_epoch().saturating_sub(at));
        (held.keys.find(alg, kid), age.is_some_and(|age| age < settings.max_age))
    }

    /// Fetches, unless that was tried a moment ago. `wait`: if somebody else is fetching, until they have.
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
        let fetched = self.fetch.fetch(&settings.url).and_then(|document| Jwks::parse(&document));
        let mut held = self.held.write();
        if !same {
            *held = Held { url: settings.url.clone(), ..Held::default() };
        }
        match fetched {
            Ok(keys) => {
                held.keys = keys;
                held.fetched = Some(now);
            }
            Err(error) => tracing::warn!(url = settings.url, %error, "the JWKS could not be fetched"),
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
}

/// No published keys: for servers and tests that fetch nothing.
pub struct NoKeys;

impl Keys for NoKeys {
    fn find(&self, _: &JwksSettings, _: Alg, _: Option<&str>) -> Result<Option<Key>> {
        Ok(None)
    }
}

#[cfg(test)]
#[path = "jwks/tests.rs"]
mod tests;
