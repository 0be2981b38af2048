//! The `AuthSession` cookie, byte for byte CouchDB's (`couch_httpd_auth.erl`, `couch_secrets.erl`):
//!
//! ```text
//! base64url( NAME ":" TIME ":" HMAC )      no padding
//! TIME  seconds since the epoch when it was issued, upper-case hex
//! HMAC  raw bytes of HMAC(server secret ++ user's salt, NAME ":" TIME)
//! ```
//!
//! The user's salt is part of the key, so changing the password ends all sessions of the user. This module
//! stores nothing; [`super::devices`] records the issued sessions, so that they can be listed and revoked.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::digest::block_api::EagerHash;
use hmac::{Hmac, KeyInit, Mac};
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// The name of the cookie.
pub const COOKIE: &str = "AuthSession";

/// URL-safe base64. As in CouchDB, padding is optional when decoding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A hash function for the cookie's HMAC (setting `chttpd_auth/hash_algorithms`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Sha,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// Parses a comma-separated list and ignores unknown names. Returns `sha256` if none is known.
    pub fn list(setting: &str) -> Vec<Algorithm> {
        let found: Vec<Algorithm> = setting.split(',').filter_map(|name| Algorithm::named(name.trim())).collect();
        if found.is_empty() { vec![Algorithm::Sha256] } else { found }
    }

    fn named(name: &str) -> Option<Algorithm> {
        Some(match name {
            "sha" => Algorithm::Sha,
            "sha224" => Algorithm::Sha224,
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Algorithm::Sha => 20,
            Algorithm::Sha224 => 28,
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }

    /// The HMAC of `message` with `key`.
    pub(super) fn mac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        fn mac<D: EagerHash>(key: &[u8], message: &[u8]) -> Vec<u8>
        where
            Hmac<D>: Mac + KeyInit,
        {
            let mut mac = <Hmac<D> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
            mac.update(message);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Algorithm::Sha => mac::<sha1::Sha1>(key, message),
            Algorithm::Sha224 => mac::<sha2::Sha224>(key, message),
            Algorithm::Sha256 => mac::<sha2::Sha256>(key, message),
            Algorithm::Sha384 => mac::<sha2::Sha384>(key, message),
            Algorithm::Sha512 => mac::<sha2::Sha512>(key, message),
        }
    }
}

/// The secrets of the server. The current one signs cookies; a replaced one still verifies them for one
/// session timeout.
#[derive(Clone, Default)]
pub struct Secrets {
    current: Option<Vec<u8>>,
    /// Replaced secrets, newest first, with the last second (since the epoch) at which each is valid.
    previous: Vec<(Vec<u8>, u64)>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Secrets({} older)", self.previous.len())
    }
}

/// Maximum number of replaced secrets that are kept.
const PREVIOUS: usize = 8;

impl Secrets {
    /// Creates the set with the current secret, if there is one.
    pub fn new(current: Option<&str>) -> Secrets {
        Secrets { current: current.map(|secret| secret.as_bytes().to_vec()), previous: Vec::new() }
    }

    /// Replaces the current secret. The old one stays valid for `timeout` seconds from `now`.
    pub fn replace(&mut self, secret: Option<&str>, now: u64, timeout: u64) {
        let secret = secret.map(|secret| secret.as_bytes().to_vec());
        if secret == self.current {
            return;
        }
        if let Some(old) = std::mem::replace(&mut self.current, secret) {
            self.previous.insert(0, (old, now.saturating_add(timeout)));
        }
        self.previous.retain(|(_, until)| *until >= now);
        self.previous.truncate(PREVIOUS);
    }

    /// Whether there is a current secret.
    pub fn is_set(&self) -> bool {
        self.current.is_some()
    }

    /// Whether `mac` is the HMAC of `message`. The key is any valid secret followed by `extra`; the algorithm
    /// is any in `algorithms` with the size of `mac`.
    pub fn verify(&self, message: &[u8], extra: &[u8], mac: &[u8], algorithms: &[Algorithm], now: u64) -> bool {
        let older = self.previous.iter().filter(|(_, until)| *until >= now).map(|(secret, _)| secret);
        let mut good = false;
        for secret in self.current.iter().chain(older) {
            let key = [secret.as_slice(), extra].concat();
            for algorithm in algorithms.iter().filter(|algorithm| algorithm.size() == mac.len()) {
                good |= bool::from(algorithm.mac(&key, message).ct_eq(mac));
            }
        }
        good
    }

    pub(super) fn sign(&self, message: &[u8], extra: &[u8], algorithms: &[Algorithm]) -> Option<Vec<u8>> {
        let key = [self.current.as_deref()?, extra].concat();
        Some(algorithms.first().unwrap_or(&Algorithm::Sha256).mac(&key, message))
    }
}

/// A parsed cookie that is not verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie {
    /// The user's name.
    pub name: String,
    /// When the cookie was issued, in seconds since the epoch.
    pub issued: u64,
    signed: Vec<u8>,
    mac: Vec<u8>,
}

/// Omits the HMAC: the HMAC is enough to use the session.
impl std::fmt::Debug for Cookie {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cookie").field("name", &self.name).field("issued", &self.issued).finish_non_exhaustive()
    }
}

/// CouchDB's reason for a malformed cookie (status 400).
pub const MALFORMED: &str = "Malformed AuthSession cookie. Please clear your cookies.";

impl Cookie {
    /// Parses the value of a cookie. Returns `Ok(None)` if it is well-formed but cannot be valid for any
    /// user.
    ///
    /// # Errors
    /// `BadRequest` with CouchDB's reason if it is malformed.
    pub fn parse(value: &str) -> Result<Option<Cookie>> {
        let malformed = || Error::BadRequest(MALFORMED.into());
        let bytes = BASE64.decode(value).map_err(|_| malformed())?;
        let first = bytes.iter().position(|byte| *byte == b':').ok_or_else(malformed)?;
        let second = first + 1 + bytes[first + 1..].iter().position(|byte| *byte == b':').ok_or_else(malformed)?;
        let name = std::str::from_utf8(&bytes[..first]).ok();
        let time = std::str::from_utf8(&bytes[first + 1..second]).ok();
        let issued = time.and_then(|time| u64::from_str_radix(time, 16).ok());
        Ok(name.zip(issued).map(|(name, issued)| Cookie {
            name: name.to_string(),
            issued,
            signed: bytes[..second].to_vec(),
            mac: bytes[second + 1..].to_vec(),
        }))
    }

    /// Whether this server, or one that shares its secret, issued the cookie for a user with this salt.
    pub fn verify(&self, secrets: &Secrets, salt: &str, algorithms: &[Algorithm], now: u64) -> bool {
        secrets.verify(&self.signed, salt.as_bytes(), &self.mac, algorithms, now)
    }

    /// Seconds until the session expires; `None` if it has expired.
    pub fn time_left(&self, now: u64, timeout: u64) -> Option<u64> {
        let end = self.issued.saturating_add(timeout);
        (now < end).then(|| end - now)
    }
}

/// Whether a session with `left` seconds of `timeout` left should get a new cookie: after a tenth of its
/// timeout.
pub fn due_for_renewal(left: u64, timeout: u64) -> bool {
    u128::from(left) * 10 < u128::from(timeout) * 9
}

/// Returns the value of a new cookie, or `None` if the server has no secret.
pub fn issue(name: &str, salt: &str, issued: u64, secrets: &Secrets, algorithms: &[Algorithm]) -> Option<String> {
    let mut bytes = format!("{name}:{issued:X}").into_bytes();
    let mac = secrets.sign(&bytes, salt.as_bytes(), algorithms)?;
    bytes.push(b':');
    bytes.extend_from_slice(&mac);
    Some(BASE64.encode(bytes))
}

/// Returns the value of the session cookie in a `Cookie` header. As in CouchDB, an empty value counts as no
/// cookie.
pub fn find(header: &str) -> Option<&str> {
    header.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        (name.trim() == COOKIE && !value.is_empty()).then_some(value)
    })
}

/// The attributes of a `Set-Cookie` header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// How many seconds the browser keeps the cookie (`allow_persistent_cookies`); `None` for a session
    /// cookie, which it discards when it is closed.
    pub max_age: Option<u64>,
    /// Whether the browser may send the cookie only over TLS.
    pub secure: bool,
    /// The setting `cookie_domain`; if empty, the cookie is valid only for this host.
    pub domain: String,
    /// The setting `same_site`.
    pub same_site: Option<SameSite>,
}

/// Values of the `SameSite` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    None,
    Lax,
    Strict,
}

/// Returns the text of a `Set-Cookie` header for the session cookie, formatted as by CouchDB's library
/// (`mochiweb_cookies.erl`). An empty `value` signs the user out. `now` is in seconds since the epoch.
pub fn set_cookie(value: &str, attributes: &Attributes, now: u64) -> String {
    use std::fmt::Write;
    let mut text = format!("{COOKIE}={value}; Version=1");
    if let Some(age) = attributes.max_age {
        // The date format ends with the year 9999.
        let at = now.saturating_add(age).min(253_402_300_799);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
        let _ = write!(text, "; Expires={}; Max-Age={age}", httpdate::fmt_http_date(at));
    }
    if attributes.secure {
        text.push_str("; Secure");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    if !attributes.domain.is_empty() && attributes.domain.chars().all(plain) {
        let _ = write!(text, "; Domain={}", attributes.domain);
    }
    text.push_str("; Path=/; HttpOnly");
    match attributes.same_site {
        Some(SameSite::None) => text.push_str("; SameSite=None"),
        Some(SameSite::Lax) => text.push_str("; SameSite=Lax"),
        Some(SameSite::Strict) => text.push_str("; SameSite=Strict"),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Algorithm] = &[Algorithm::Sha256, Algorithm::Sha];

    #[test]
    fn a_cookie_consists_of_name_time_and_raw_hmac() {
        let secrets = Secrets::new(Some("s3cret"));
        let value = issue("Jason Davies", "5a17", 0x67AB_12CD, &secrets, BOTH).expect("there is a secret");
        let bytes = BASE64.decode(&value).expect("base64");
        assert!(bytes.starts_with(b"Jason Davies:67AB12CD:"), "upper-case hex: {bytes:?}");
        assert_eq!(&bytes[22..], Algorithm::Sha256.mac(b"s3cret5a17", b"Jason Davies:67AB12CD"));
        assert!(!value.contains('='), "no padding");
    }

    /// Test case 2 of RFC 2202.
    #[test]
    fn hmac_matches_the_rfc() {
        let mac = Algorithm::Sha.mac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(crate::hex::hex(&mac), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    }

    #[test]
    fn a_cookie_is_valid_only_for_its_user_secret_salt_and_algorithms() {
        let secrets = Secrets::new(Some("s3cret"));
        for algorithm in [Algorithm::Sha256, Algorithm::Sha] {
            let value = issue("ann", "5a17", 100, &secrets, &[algorithm]).expect("there is a secret");
            let cookie = Cookie::parse(&value).expect("comes apart").expect("somebody's");
            assert_eq!((cookie.name.as_str(), cookie.issued), ("ann", 100));
            assert!(cookie.verify(&secrets, "5a17", BOTH, 100));
            assert!(!cookie.verify(&secrets, "5a18", BOTH, 100), "the password was changed");
            assert!(!cookie.verify(&Secrets::new(Some("other")), "5a17", BOTH, 100));
            assert!(!cookie.verify(&Secrets::new(None), "5a17", BOTH, 100));
            assert!(!cookie.verify(&secrets, "5a17", &[Algorithm::Sha512], 100), "an algorithm not in the list");
            let forged = Cookie { signed: b"bob:64".to_vec(), name: "bob".into(), ..cookie };
            assert!(!forged.verify(&secrets, "5a17", BOTH, 100));
        }
    }

    #[test]
    fn malformed_cookies_are_refused_with_couchdbs_reason() {
        let encode = |bytes: &[u8]| BASE64.encode(bytes);
        for bad in ["*".to_string(), encode(b"ann"), encode(b"ann:64"), encode(b"")] {
            assert_eq!(Cookie::parse(&bad), Err(Error::BadRequest(MALFORMED.into())), "{bad}");
        }
        for nobody in [&b"ann:xyz:mac"[..], b"ann::mac", b"\xff:64:mac", b"ann:fffffffffffffffffff:mac", b"ann:-1:m"] {
            assert_eq!(Cookie::parse(&encode(nobody)), Ok(None), "{nobody:?}");
        }
        let colons = Cookie::parse(&encode(b"ann:64:a:b:")).expect("comes apart").expect("somebody's");
        assert_eq!(colons.mac, b"a:b:", "the mac is raw bytes and may hold colons");
        assert!(!colons.verify(&Secrets::new(Some("s")), "", BOTH, 0));
    }

    #[test]
    fn a_session_expires_after_its_timeout_and_is_renewed_after_a_tenth_of_it() {
        let cookie = Cookie { name: "ann".into(), issued: 1000, signed: vec![], mac: vec![] };
        assert_eq!(cookie.time_left(1000, 600), Some(600));
        assert_eq!(cookie.time_left(1599, 600), Some(1));
        assert_eq!(cookie.time_left(1600, 600), None);
        assert_eq!(Cookie { issued: u64::MAX, ..cookie }.time_left(1000, 600), Some(u64::MAX - 1000));
        assert!(!due_for_renewal(600, 600));
        assert!(!due_for_renewal(540, 600));
        assert!(due_for_renewal(539, 600));
    }

    #[test]
    fn a_replaced_secret_stays_valid_for_one_timeout() {
        let mut secrets = Secrets::new(Some("old"));
        let value = issue("ann", "", 100, &secrets, BOTH).expect("there is a secret");
        let cookie = Cookie::parse(&value).expect("comes apart").expect("somebody's");
        secrets.replace(Some("new"), 100, 600);
        secrets.replace(Some("new"), 650, 600);
        assert!(cookie.verify(&secrets, "", BOTH, 700));
        assert!(!cookie.verify(&secrets, "", BOTH, 701));
    }

    #[test]
    fn find_returns_the_session_cookie_of_a_header() {
        assert_eq!(find("a=b; AuthSession=abc; c=d"), Some("abc"));
        assert_eq!(find("AuthSession=\"abc\""), Some("abc"));
        for none in ["", "AuthSession", "AuthSession=", "XAuthSession=abc", "a=AuthSession"] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    #[test]
    fn set_cookie_is_formatted_like_couchdbs() {
        let plain = Attributes::default();
        assert_eq!(set_cookie("abc", &plain, 0), "AuthSession=abc; Version=1; Path=/; HttpOnly");
        let full = Attributes {
            max_age: Some(600),
            secure: true,
            domain: "example.com".into(),
            same_site: Some(SameSite::Strict),
        };
        assert_eq!(
            set_cookie("", &full, 1_700_000_000),
            "AuthSession=; Version=1; Expires=Tue, 14 Nov 2023 22:23:20 GMT; Max-Age=600; Secure; \
             Domain=example.com; Path=/; HttpOnly; SameSite=Strict"
        );
        let odd = Attributes { domain: "a; Domain=b\r\nX: y".into(), ..plain };
        assert!(!set_cookie("abc", &odd, 0).contains("Domain"), "a setting cannot add attributes or headers");
    }
}
