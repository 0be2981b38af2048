//! Password hashes as CouchDB 3.5 stores them, for admins (`[admins]` settings) and for `_users` documents.
//!
//! CouchDB's schemes (`couch_passwords.erl`, `couch_httpd_auth.erl`):
//!
//! ```text
//! simple          password_sha = hex(SHA-1(password ++ salt))
//! pbkdf2          derived_key  = hex(PBKDF2-HMAC-prf(password, salt, iterations, size of prf's hash))
//! simple+pbkdf2   derived_key  = pbkdf2 of the hex text of simple's hash: an old hash strengthened in place
//! ```
//!
//! The salt's text (32 hex digits) is used as bytes and is never decoded. Hashing and verifying block for the
//! whole cost of a hash: call them off the async threads.

use hmac::Hmac;
use serde_json::{Map, Value};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::hex;

/// The hash function inside PBKDF2's HMAC: setting `chttpd_auth/pbkdf2_prf`, document member `pbkdf2_prf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prf {
    Sha,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Prf {
    /// CouchDB's name of this hash function.
    pub fn name(self) -> &'static str {
        match self {
            Prf::Sha => "sha",
            Prf::Sha224 => "sha224",
            Prf::Sha256 => "sha256",
            Prf::Sha384 => "sha384",
            Prf::Sha512 => "sha512",
        }
    }

    /// Parses CouchDB's name of a hash function. `None` if CouchDB has no such name.
    pub fn named(name: &str) -> Option<Prf> {
        [Prf::Sha, Prf::Sha224, Prf::Sha256, Prf::Sha384, Prf::Sha512].into_iter().find(|prf| prf.name() == name)
    }

    /// Approximate cost of one iteration, in iterations of SHA-1 or SHA-256.
    fn cost(self) -> u64 {
        match self {
            Prf::Sha | Prf::Sha224 | Prf::Sha256 => 1,
            Prf::Sha384 | Prf::Sha512 => 2,
        }
    }

    /// Returns the PBKDF2 key as lower-case hex digits. The key has the length of the hash.
    fn derive(self, password: &[u8], salt: &[u8], iterations: u32) -> String {
        let mut key = [0u8; 64];
        let length = match self {
            Prf::Sha => 20,
            Prf::Sha224 => 28,
            Prf::Sha256 => 32,
            Prf::Sha384 => 48,
            Prf::Sha512 => 64,
        };
        let key = &mut key[..length];
        let done = match self {
            Prf::Sha => pbkdf2::pbkdf2::<Hmac<Sha1>>(password, salt, iterations, key),
            Prf::Sha224 => pbkdf2::pbkdf2::<Hmac<Sha224>>(password, salt, iterations, key),
            Prf::Sha256 => pbkdf2::pbkdf2::<Hmac<Sha256>>(password, salt, iterations, key),
            Prf::Sha384 => pbkdf2::pbkdf2::<Hmac<Sha384>>(password, salt, iterations, key),
            Prf::Sha512 => pbkdf2::pbkdf2::<Hmac<Sha512>>(password, salt, iterations, key),
        };
        done.expect("HMAC takes a key of any length");
        hex(key)
    }
}

/// Which scheme new hashes use: setting `chttpd_auth/password_scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Simple,
    Pbkdf2,
}

/// How passwords are hashed, from `[chttpd_auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `password_scheme`, `pbkdf2` by default. `None`: the setting has an unknown value, and hashing fails.
    pub scheme: Option<Scheme>,
    /// `pbkdf2_prf`, `sha256` by default. `None`: the setting has an unknown value, and PBKDF2 hashing fails.
    pub prf: Option<Prf>,
    /// `iterations` of new hashes, 600,000 by default.
    pub iterations: u32,
    /// `min_iterations`: the fewest iterations that a stored hash may have, 1 by default.
    pub min_iterations: u64,
    /// `max_iterations`: the most iterations that a hash may have; an iteration of SHA-384 or SHA-512 counts
    /// twice. CouchDB's default is 1,000,000,000. With it, a user who may write their own `_users` document
    /// can keep a core busy for minutes with every sign-in. The default here is 1,500,000: a sign-in takes
    /// less than a second, and the limit is above the usual recommendations for each of the hash functions.
    pub max_iterations: u64,
    /// `upgrade_hash_on_auth`: rehash the password under the current policy when a user signs in with an
    /// older hash.
    pub upgrade_on_sign_in: bool,
}

impl Policy {
    /// Returns `iterations` if it is within the policy's bounds, else `Error::Forbidden` with CouchDB's
    /// reason.
    fn check_iterations(&self, prf: Prf, iterations: u64) -> Result<u32> {
        if iterations < self.min_iterations.max(1) {
            return Err(Error::Forbidden("Iteration count is too low for this server".into()));
        }
        match (iterations.checked_mul(prf.cost()), u32::try_from(iterations)) {
            (Some(cost), Ok(rounds)) if cost <= self.max_iterations => Ok(rounds),
            _ => Err(Error::Forbidden("Iteration count is too high for this server".into())),
        }
    }

    /// Iterations of new hashes: `iterations`, limited by `max_iterations`, and at least 1.
    fn rounds(&self, prf: Prf) -> u32 {
        let most = u32::try_from(self.max_iterations / prf.cost()).unwrap_or(u32::MAX);
        self.iterations.min(most).max(1)
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            scheme: Some(Scheme::Pbkdf2),
            prf: Some(Prf::Sha256),
            iterations: 600_000,
            min_iterations: 1,
            max_iterations: 1_500_000,
            upgrade_on_sign_in: true,
        }
    }
}

/// A stored password hash, which verifies passwords. `Debug` shows only the scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// Input of the hash, and part of the key that signs the user's session cookies.
    pub salt: String,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Simple {
        password_sha: String,
    },
    Pbkdf2 {
        prf: Prf,
        iterations: u64,
        derived_key: String,
        /// The password was hashed with the `simple` scheme first, and PBKDF2 hashed the result.
        over_simple: bool,
    },
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Simple { .. } => out.write_str("Stored(simple)"),
            Kind::Pbkdf2 { prf, iterations, .. } => write!(out, "Stored(pbkdf2 {} {iterations})", prf.name()),
        }
    }
}

/// CouchDB's reason when its settings do not allow hashing.
pub const CANNOT_HASH: &str = "Server cannot hash passwords at this time.";

impl Stored {
    /// Hashes `password` under `policy`, with `salt` or a new random salt. Blocks.
    pub fn hash(password: &str, salt: Option<String>, policy: &Policy, clock: &Clock) -> Result<Stored> {
        let salt = salt.unwrap_or_else(|| clock.uuid());
        let kind = match (policy.scheme, policy.prf) {
            (Some(Scheme::Simple), _) => Kind::Simple { password_sha: simple(password, &salt) },
            (Some(Scheme::Pbkdf2), Some(prf)) => Kind::Pbkdf2 {
                prf,
                iterations: u64::from(policy.rounds(prf)),
                derived_key: prf.derive(password.as_bytes(), salt.as_bytes(), policy.rounds(prf)),
                over_simple: false,
            },
            _ => return Err(Error::Forbidden(CANNOT_HASH.into())),
        };
        Ok(Stored { salt, kind })
    }

    /// Parses the value of an `[admins]` setting: `-hashed-SHA,SALT`, `-pbkdf2-KEY,SALT,ITERATIONS` (SHA-1),
    /// or `-pbkdf2:PRF-KEY,SALT,ITERATIONS`. `None` if CouchDB would not accept the value as a hash.
    pub fn from_admin_setting(setting: &str) -> Option<Stored> {
        if let Some(rest) = setting.strip_prefix("-hashed-") {
            let (password_sha, salt) = rest.split_once(',')?;
            let kind = Kind::Simple { password_sha: password_sha.to_string() };
            return Some(Stored { salt: salt.to_string(), kind });
        }
        let (prf, rest) = match setting.strip_prefix("-pbkdf2:") {
            Some(rest) => {
                let (prf, rest) = rest.split_once('-')?;
                (Prf::named(prf)?, rest)
            }
            None => (Prf::Sha, setting.strip_prefix("-pbkdf2-")?),
        };
        let mut parts = rest.split(',');
        let (derived_key, salt, iterations) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let kind = Kind::Pbkdf2 {
            prf,
            iterations: iterations.trim().parse().ok()?,
            derived_key: derived_key.to_string(),
            over_simple: false,
        };
        Some(Stored { salt: salt.to_string(), kind })
    }

    /// Formats the hash as the value of an `[admins]` setting, which [`Stored::from_admin_setting`] parses.
    pub fn to_admin_setting(&self) -> String {
        match &self.kind {
            Kind::Simple { password_sha } => format!("-hashed-{password_sha},{}", self.salt),
            Kind::Pbkdf2 { prf, iterations, derived_key, .. } => {
                format!("-pbkdf2:{}-{derived_key},{},{iterations}", prf.name(), self.salt)
            }
        }
    }

    /// Reads the hash from the members of a `_users` document. `None`: the document has no usable hash, so
    /// every password is wrong. `Error::Forbidden`: `pbkdf2_prf` is unknown; the reason is CouchDB's.
    pub fn from_document(members: &Map<String, Value>) -> Result<Option<Stored>> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        if ["salt", "password_sha", "derived_key"].into_iter().filter_map(text).any(|text| text.len() > LONGEST) {
            return Ok(None);
        }
        let salt = text("salt").unwrap_or("").to_string();
        let scheme = members.get("password_scheme").map_or(Some("simple"), Value::as_str);
        let kind = match scheme {
            Some("simple") => match text("password_sha") {
                Some(password_sha) => Kind::Simple { password_sha: password_sha.to_string() },
                None => return Ok(None),
            },
            Some(scheme @ ("pbkdf2" | "simple+pbkdf2")) => {
                let prf = members.get("pbkdf2_prf").map_or(Some("sha"), Value::as_str).and_then(Prf::named);
                let prf = prf.ok_or_else(|| Error::Forbidden("PRF is invalid".into()))?;
                let iterations = members.get("iterations").map_or(Some(10_000), Value::as_u64);
                match (text("derived_key"), iterations) {
                    (Some(derived_key), Some(iterations)) => Kind::Pbkdf2 {
                        prf,
                        iterations,
                        derived_key: derived_key.to_string(),
                        over_simple: scheme != "pbkdf2",
                    },
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Stored { salt, kind }))
    }

    /// The members that CouchDB 3.5 stores in a `_users` document, in CouchDB's order.
    pub fn to_document(&self) -> Vec<(&'static str, Value)> {
        match &self.kind {
            Kind::Simple { password_sha } => vec![
                ("password_scheme", Value::from("simple")),
                ("salt", Value::from(self.salt.as_str())),
                ("password_sha", Value::from(password_sha.as_str())),
            ],
            Kind::Pbkdf2 { prf, iterations, derived_key, over_simple } => vec![
                ("password_scheme", Value::from(if *over_simple { "simple+pbkdf2" } else { "pbkdf2" })),
                ("pbkdf2_prf", Value::from(prf.name())),
                ("salt", Value::from(self.salt.as_str())),
                ("iterations", Value::from(*iterations)),
                ("derived_key", Value::from(derived_key.as_str())),
            ],
        }
    }

    /// Whether `password` matches the hash. Computes a full hash and compares in constant time. Blocks.
    /// `Error::Forbidden` if the number of iterations is outside the bounds of `policy`.
    pub fn verify(&self, password: &str, policy: &Policy) -> Result<bool> {
        match &self.kind {
            Kind::Simple { password_sha } => Ok(equal(&simple(password, &self.salt), password_sha)),
            Kind::Pbkdf2 { prf, iterations, derived_key, over_simple } => {
                let rounds = policy.check_iterations(*prf, *iterations)?;
                let first = if *over_simple { simple(password, &self.salt) } else { String::new() };
                let secret = if *over_simple { first.as_str() } else { password };
                Ok(equal(&prf.derive(secret.as_bytes(), self.salt.as_bytes(), rounds), derived_key))
            }
        }
    }

    /// After a wrong password: spends the difference between the cost of a hash under the current `policy`
    /// and the cost of this hash. Otherwise the short response time of an old, cheap hash reveals that the
    /// user exists. Blocks.
    pub fn spend_rest(&self, password: &str, policy: &Policy) {
        if let (Some(prf), Some(rest)) = (policy.prf, self.rest(policy)) {
            std::hint::black_box(prf.derive(password.as_bytes(), b"nobody", rest));
        }
    }

    fn rest(&self, policy: &Policy) -> Option<u32> {
        let spent = match &self.kind {
            Kind::Simple { .. } => 0,
            Kind::Pbkdf2 { iterations, prf, .. } => iterations.saturating_mul(prf.cost()),
        };
        let cost = policy.prf?.cost();
        let whole = u64::from(policy.rounds(policy.prf?)) * cost;
        let rest = u32::try_from(whole.saturating_sub(spent) / cost).unwrap_or(0);
        (policy.scheme == Some(Scheme::Pbkdf2) && rest > 0).then_some(rest)
    }

    /// Whether a successful sign-in should rehash the password (CouchDB
    /// `couch_password_hasher:needs_upgrade/1`).
    pub fn needs_upgrade(&self, policy: &Policy) -> bool {
        match (&self.kind, policy.scheme) {
            (_, None) => false,
            (Kind::Simple { .. }, Some(Scheme::Simple)) => false,
            (Kind::Pbkdf2 { prf, iterations, over_simple, .. }, Some(Scheme::Pbkdf2)) => {
                *over_simple || Some(*prf) != policy.prf || *iterations != u64::from(policy.rounds(*prf))
            }
            _ => true,
        }
    }

    /// Sixteen bytes that change whenever the stored hash changes: part of the key of
    /// [`super::verified_passwords::Verified`].
    pub(super) fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        match &self.kind {
            Kind::Simple { password_sha } => hash.update(password_sha),
            Kind::Pbkdf2 { prf, iterations, derived_key, over_simple } => {
                hash.update([1, u8::from(*over_simple)]);
                hash.update(prf.name());
                hash.update(iterations.to_be_bytes());
                hash.update(derived_key);
            }
        }
        hash.update([0]);
        hash.update(&self.salt);
        let digest = hash.finalize();
        let mut out = [0; 16];
        out.copy_from_slice(&digest[..16]);
        out
    }
}

/// The longest salt or hash that is accepted, in bytes. CouchDB and this server write shorter ones. Users may
/// write longer ones into their own documents, and every comparison would cost time in proportion to the
/// length.
const LONGEST: usize = 1024;

/// Refuses a user document's members if this server would refuse to compute their hash: the number of
/// iterations is outside the bounds of `policy`, the hash function is unknown, or a salt or hash is longer
/// than any real one. Returns `Forbidden`, with CouchDB's reason where CouchDB has one.
pub fn check_members(members: &Map<String, Value>, policy: &Policy) -> Result<()> {
    for name in ["salt", "password_sha", "derived_key"] {
        if members.get(name).and_then(Value::as_str).is_some_and(|text| text.len() > LONGEST) {
            return Err(Error::Forbidden(format!("{name} is longer than {LONGEST} bytes.")));
        }
    }
    if !matches!(members.get("password_scheme").and_then(Value::as_str), Some("pbkdf2" | "simple+pbkdf2")) {
        return Ok(());
    }
    let prf = members.get("pbkdf2_prf").map_or(Some("sha"), Value::as_str).and_then(Prf::named);
    let prf = prf.ok_or_else(|| Error::Forbidden("PRF is invalid".into()))?;
    match members.get("iterations") {
        None => Ok(()),
        Some(iterations) => {
            let iterations = iterations.as_u64();
            let iterations = iterations.ok_or_else(|| Error::Forbidden("iterations must be a number.".into()))?;
            policy.check_iterations(prf, iterations).map(drop)
        }
    }
}

/// Spends the time of a hash for an unknown user name, so that the response time does not reveal which names
/// exist. Blocks.
pub fn verify_nobody(password: &str, policy: &Policy) {
    if let (Some(Scheme::Pbkdf2), Some(prf)) = (policy.scheme, policy.prf) {
        std::hint::black_box(prf.derive(password.as_bytes(), b"nobody", policy.rounds(prf)));
    }
}

/// CouchDB's oldest scheme: hex SHA-1 of the password followed by the salt.
fn simple(password: &str, salt: &str) -> String {
    hex(&Sha1::new().chain_update(password).chain_update(salt).finalize())
}

/// Compares in a time that depends only on the lengths.
pub(super) fn equal(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

#[cfg(test)]
mod tests;
