//! Password hashes as CouchDB 3.5 stores them, for admins (`[admins]` settings) and for `_users` documents.
//!
//! CouchDB's schemes (`couch_passwords.erl`, `couch_httpd_auth.erl`):
//!
//! ```text
//! simple          password_sha = hex(SHA-1(password ++ salt))
//! pbkdf2          derived_key  = hex(PBKDF2-HMAC-prf(password, salt, iterations, size of prf's hash))
//! simple+pbkdf2   derived_key  = pbkdf2 of the text that simple gives: an old hash strengthened in place
//! ```
//!
//! The salt is used as the bytes of its text (32 hex digits), never decoded. Everything here blocks for as long as a
//! hash takes: call it off the async threads.

use hmac::Hmac;
use serde_json::{Map, Value};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::json::hex;

/// The hash under PBKDF2's HMAC: setting `chttpd_auth/pbkdf2_prf`, document member `pbkdf2_prf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prf {
    Sha,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Prf {
    /// CouchDB's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Prf::Sha => "sha",
            Prf::Sha224 => "sha224",
            Prf::Sha256 => "sha256",
            Prf::Sha384 => "sha384",
            Prf::Sha512 => "sha512",
        }
    }

    /// The one that CouchDB names `name`.
    pub fn named(name: &str) -> Option<Prf> {
        [Prf::Sha, Prf::Sha224, Prf::Sha256, Prf::Sha384, Prf::Sha512].into_iter().find(|prf| prf.name() == name)
    }

    /// What one iteration takes, in iterations of SHA-1 or SHA-256, about.
    fn cost(self) -> u64 {
        match self {
            Prf::Sha | Prf::Sha224 | Prf::Sha256 => 1,
            Prf::Sha384 | Prf::Sha512 => 2,
        }
    }

    /// PBKDF2 as lower-case hex digits, as long as the hash.
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
    /// `password_scheme`, `pbkdf2` by default. `None`: the setting holds something else, and nothing can be hashed.
    pub scheme: Option<Scheme>,
    /// `pbkdf2_prf`, `sha256` by default. `None` as above.
    pub prf: Option<Prf>,
    /// `iterations` of new hashes, 600,000 by default.
    pub iterations: u32,
    /// `min_iterations` that a stored hash may have, 1 by default.
    pub min_iterations: u64,
    /// `max_iterations` that a hash may have; those of SHA-384 and SHA-512 count twice. CouchDB's default is 1,000,000,000,
    /// which lets a user who may write their own document keep a core busy for minutes with every sign-in. 1,500,000 here:
    /// less than a second, and more than the usual advice for any of the hashes.
    pub max_iterations: u64,
    /// `upgrade_hash_on_auth`: hash anew, in today's scheme, when somebody signs in with an older hash.
    pub upgrade_on_sign_in: bool,
}

impl Policy {
    /// The number of iterations, if a hash may have so many.
    fn check_iterations(&self, prf: Prf, iterations: u64) -> Result<u32> {
        if iterations < self.min_iterations.max(1) {
            return Err(Error::Forbidden("Iteration count is too low for this server".into()));
        }
        match (iterations.checked_mul(prf.cost()), u32::try_from(iterations)) {
            (Some(cost), Ok(rounds)) if cost <= self.max_iterations => Ok(rounds),
            _ => Err(Error::Forbidden("Iteration count is too high for this server".into())),
        }
    }

    /// Iterations of new hashes: never more than a stored hash may have.
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

/// A stored password: what is needed to tell whether a given one is right. `Debug` shows the scheme only.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// Mixed into the hash, and part of the key of the user's session cookies.
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
        /// The password was hashed as `simple` first.
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

/// What CouchDB answers when its own settings do not let it hash.
pub const CANNOT_HASH: &str = "Server cannot hash passwords at this time.";

impl Stored {
    /// Hashes `password` as `policy` says, with `salt` or a new one. Blocks.
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

    /// Reads the value of an `[admins]` setting: `-hashed-SHA,SALT`, `-pbkdf2-KEY,SALT,ITERATIONS` (SHA-1),
    /// `-pbkdf2:PRF-KEY,SALT,ITERATIONS`. `None`: it is not a hash that CouchDB would take.
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

    /// The value of an `[admins]` setting: what [`Stored::from_admin_setting`] reads.
    pub fn to_admin_setting(&self) -> String {
        match &self.kind {
            Kind::Simple { password_sha } => format!("-hashed-{password_sha},{}", self.salt),
            Kind::Pbkdf2 { prf, iterations, derived_key, .. } => {
                format!("-pbkdf2:{}-{derived_key},{},{iterations}", prf.name(), self.salt)
            }
        }
    }

    /// Reads the members of a `_users` document. `None`: it has no usable hash, so no password is right.
    /// `Error::Forbidden`: a member names something that CouchDB refuses in these words.
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

    /// The members that CouchDB 3.5 keeps in a `_users` document, in its order.
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

    /// Whether `password` is the one. Costs a full hash, then compares in constant time. Blocks.
    /// `Error::Forbidden` if the stored hash asks for more or fewer iterations than `policy` allows.
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

    /// Spends what a hash of today's `policy` would have cost more than this one, whose password was wrong: an old, cheap
    /// hash would else tell that somebody has its name. Blocks.
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

    /// Whether a sign-in should write the hash anew (CouchDB `couch_password_hasher:needs_upgrade/1`).
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

    /// Sixteen bytes that change whenever the stored hash does: part of the key of [`super::cache::Verified`].
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

/// Longer salts and hashes are none that CouchDB or this server writes; users may write them into their documents, and
/// every look at one would cost its length.
const LONGEST: usize = 1024;

/// Refuses the members of a user's document if they ask for a hash that this server would not compute: more or fewer iterations
/// than `policy` allows, an unknown hash function, texts of a length that no hash has. `Forbidden`, in CouchDB's words where it
/// has some.
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

/// Spends the time of a hash on a name that nobody has, so that the answer's time does not tell. Blocks.
pub fn verify_nobody(password: &str, policy: &Policy) {
    if let (Some(Scheme::Pbkdf2), Some(prf)) = (policy.scheme, policy.prf) {
        std::hint::black_box(prf.derive(password.as_bytes(), b"nobody", policy.rounds(prf)));
    }
}

/// CouchDB's oldest scheme: hex SHA-1 of the password and the salt.
fn simple(password: &str, salt: &str) -> String {
    hex(&Sha1::new().chain_update(password).chain_update(salt).finalize())
}

/// Equality in a time that depends on the lengths alone.
pub(super) fn equal(left: &str, right: &str) -> bool {
    left.as_bytes().ct_eq(right.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn members(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).expect("JSON")
    }

    fn policy(iterations: u32) -> Policy {
        Policy { iterations, ..Policy::default() }
    }

    /// RFC 6070 and RFC 7914: the derivation itself, as hex.
    #[test]
    fn derives_as_the_rfcs_say() {
        assert_eq!(Prf::Sha.derive(b"password", b"salt", 2), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
        assert_eq!(
            Prf::Sha256.derive(b"passwd", b"salt", 1),
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        );
    }

    /// The example of CouchDB's own documentation (`config/auth.rst`), and its password from `couch_passwords` docs.
    #[test]
    fn reads_what_couchdb_writes_for_admins() {
        let rows = [
            "-hashed-6d3c30241ba0aaa4e16c6ea99224f915687ed8cd,7f4a3e05e0cbc6f48a0035e3508eef90",
            "-pbkdf2:sha-43ecbd256a70a3a2f7de40d2374b6c3002918834,921a12f74df0c1052b3e562a23cd227f,10000",
            "-pbkdf2:sha256-00,5d,600000",
        ];
        for row in rows {
            assert_eq!(Stored::from_admin_setting(row).expect(row).to_admin_setting(), row);
        }
        let old = Stored::from_admin_setting("-pbkdf2-43ec,921a,10000").expect("the form without a prf");
        assert_eq!(old.to_admin_setting(), "-pbkdf2:sha-43ec,921a,10000");
        for row in ["secret", "-hashed-nosalt", "-pbkdf2-a,b", "-pbkdf2-a,b,x", "-pbkdf2:md5-a,b,1", "-pbkdf2-a,b,1,c"]
        {
            assert_eq!(Stored::from_admin_setting(row), None, "{row}");
        }
    }

    #[test]
    fn a_hash_accepts_its_password_only() {
        let clock = Clock::fixed(Duration::from_secs(1));
        for prf in [Prf::Sha, Prf::Sha224, Prf::Sha256, Prf::Sha384, Prf::Sha512] {
            let policy = Policy { prf: Some(prf), ..policy(3) };
            let stored = Stored::hash("häslich", None, &policy, &clock).expect("hashes");
            let again = Stored::from_admin_setting(&stored.to_admin_setting()).expect("reads what it wrote");
            assert_eq!(again, stored);
            assert_eq!(again.verify("häslich", &policy), Ok(true));
            assert_eq!(again.verify("haslich", &policy), Ok(false));
            assert!(!again.needs_upgrade(&policy));
            assert!(again.needs_upgrade(&Policy { iterations: 4, ..policy.clone() }));
        }
    }

    #[test]
    fn old_schemes_are_accepted_and_want_an_upgrade() {
        let simple = members(&format!(r#"{{"salt":"5d","password_sha":"{}"}}"#, super::simple("pw", "5d")));
        let stored = Stored::from_document(&simple).expect("valid").expect("a hash");
        assert_eq!(stored.verify("pw", &policy(1)), Ok(true));
        assert_eq!(stored.verify("PW", &policy(1)), Ok(false));
        assert!(stored.needs_upgrade(&policy(1)));

        let key = Prf::Sha256.derive(super::simple("pw", "5d").as_bytes(), b"5d", 5);
        let both = members(&format!(
            r#"{{"password_scheme":"simple+pbkdf2","salt":"5d","pbkdf2_prf":"sha256","iterations":5,"derived_key":"{key}"}}"#
        ));
        let stored = Stored::from_document(&both).expect("valid").expect("a hash");
        assert_eq!(stored.verify("pw", &policy(5)), Ok(true));
        assert!(stored.needs_upgrade(&policy(5)));
        let kept: Map<String, Value> = stored.to_document().into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        assert_eq!(Stored::from_document(&kept).expect("valid"), Some(stored));
    }

    #[test]
    fn a_document_without_a_usable_hash_lets_nobody_in() {
        for row in [
            r#"{}"#,
            r#"{"password_sha":null,"salt":"x"}"#,
            r#"{"password_scheme":"bcrypt","derived_key":"x"}"#,
            r#"{"password_scheme":"pbkdf2","iterations":10}"#,
            r#"{"password_scheme":"pbkdf2","iterations":-1,"derived_key":"x"}"#,
            r#"{"password_scheme":7}"#,
        ] {
            assert_eq!(Stored::from_document(&members(row)), Ok(None), "{row}");
        }
        let bad = members(r#"{"password_scheme":"pbkdf2","pbkdf2_prf":"md5","derived_key":"x"}"#);
        assert_eq!(Stored::from_document(&bad), Err(Error::Forbidden("PRF is invalid".into())));
    }

    #[test]
    fn a_cheap_hash_takes_as_long_to_refuse_as_none() {
        let rest = |setting: &str, policy: &Policy| Stored::from_admin_setting(setting).expect("reads").rest(policy);
        for (setting, left) in [
            ("-hashed-6d3c,5d", Some(600_000)),
            ("-pbkdf2-43ec,5d,10", Some(599_990)),
            ("-pbkdf2:sha256-43ec,5d,600000", None),
            ("-pbkdf2:sha256-43ec,5d,9999999999", None),
        ] {
            assert_eq!(rest(setting, &Policy::default()), left, "{setting}");
        }
        let simple = Policy { scheme: Some(Scheme::Simple), ..Policy::default() };
        assert_eq!(rest("-hashed-6d3c,5d", &simple), None, "then nobody's names cost nothing either");
    }

    #[test]
    fn a_salt_of_megabytes_is_no_salt() {
        for member in ["salt", "password_sha", "derived_key"] {
            let mut document = members(r#"{"password_scheme":"pbkdf2","iterations":1,"salt":"a","derived_key":"b"}"#);
            document.insert(member.into(), "x".repeat(LONGEST + 1).into());
            assert_eq!(Stored::from_document(&document), Ok(None), "{member}");
        }
    }

    #[test]
    fn iterations_out_of_bounds_are_refused_before_any_work() {
        let stored = |iterations: u64| Stored {
            salt: "s".into(),
            kind: Kind::Pbkdf2 { prf: Prf::Sha256, iterations, derived_key: "x".into(), over_simple: false },
        };
        let policy = Policy { min_iterations: 10, ..Policy::default() };
        let reason = |iterations| stored(iterations).verify("pw", &policy).expect_err("refused").to_string();
        assert_eq!(reason(9), "Iteration count is too low for this server");
        assert_eq!(reason(0), "Iteration count is too low for this server");
        assert_eq!(reason(1_500_001), "Iteration count is too high for this server");
        assert_eq!(reason(u64::MAX), "Iteration count is too high for this server");
    }

    #[test]
    fn a_hash_that_would_not_be_computed_is_not_written() {
        let policy = Policy { min_iterations: 10, ..Policy::default() };
        let check = |json: &str| check_members(&members(json), &policy).map_err(|error| error.to_string());
        let pbkdf2 = |prf: &str, iterations: &str| {
            check(&format!(r#"{{"password_scheme":"pbkdf2","pbkdf2_prf":"{prf}","iterations":{iterations}}}"#))
        };
        for (prf, iterations) in [("sha", "1500000"), ("sha256", "600000"), ("sha512", "750000"), ("sha384", "10")] {
            assert_eq!(pbkdf2(prf, iterations), Ok(()), "{prf} {iterations}");
        }
        let (low, high) = ("Iteration count is too low for this server", "Iteration count is too high for this server");
        for (prf, iterations, reason) in [
            ("sha", "1500001", high),
            ("sha512", "750001", high),
            ("sha384", "18446744073709551615", high),
            ("sha256", "9", low),
            ("sha256", "1.5", "iterations must be a number."),
            ("sha256", "-1", "iterations must be a number."),
            ("md5", "100", "PRF is invalid"),
        ] {
            assert_eq!(pbkdf2(prf, iterations), Err(reason.to_string()), "{prf} {iterations}");
        }
        assert_eq!(check(r#"{"salt":"a","password_sha":"b"}"#), Ok(()), "simple");
        let long = format!(r#"{{"salt":"{}"}}"#, "a".repeat(LONGEST + 1));
        assert_eq!(check(&long), Err("salt is longer than 1024 bytes.".to_string()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let stored = Stored::from_admin_setting("-pbkdf2:sha256-feed,5a17,7").expect("reads");
        assert_eq!(format!("{stored:?}"), "Stored(pbkdf2 sha256 7)");
    }
}
