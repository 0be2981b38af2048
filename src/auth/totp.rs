//! One-time codes (RFC 6238) for users whose document has a `totp` member (`couch_totp.erl`,
//! `couch_hotp.erl`): `{"key": BASE32, "algorithm": "sha"|..., "length": 6}`. Such a user can only sign in
//! through `_session`, with the code in `token`; Basic authentication is rejected.

use data_encoding::BASE32_NOPAD;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::session::Algorithm;

/// The `totp` member of a user.
#[derive(Clone)]
pub(super) struct Totp {
    /// `None` if the member is invalid; then no code is accepted.
    secret: Option<(Vec<u8>, Algorithm)>,
    digits: u32,
}

/// Maximum length of a base32 key. Users write their own keys, so the length must be limited.
const LONGEST: usize = 1024;
/// Time step of the codes in seconds.
const STEP: u64 = 30;

impl Totp {
    /// Reads the `totp` member of a user document. Returns `None` if there is none, so that the user needs no
    /// code.
    pub fn from_document(members: &Map<String, Value>) -> Option<Totp> {
        let totp = members.get("totp")?;
        let key = totp.get("key").and_then(Value::as_str).filter(|key| key.len() <= LONGEST).and_then(base32);
        let algorithm = match totp.get("algorithm") {
            None => Some(Algorithm::Sha),
            Some(name) => match name.as_str() {
                Some("sha") => Some(Algorithm::Sha),
                Some("sha256") => Some(Algorithm::Sha256),
                Some("sha512") => Some(Algorithm::Sha512),
                _ => None,
            },
        };
        let digits = totp.get("length").map_or(Some(6), Value::as_u64).filter(|digits| (6..=9).contains(digits));
        let secret = key.zip(algorithm).filter(|_| digits.is_some());
        Some(Totp { secret, digits: digits.unwrap_or(6) as u32 })
    }

    /// Returns the time step whose code is `code`, if it is valid at `now` seconds since the epoch, plus or
    /// minus one time step. A code of several steps counts as the latest. Runs in constant time.
    pub fn accepts(&self, code: &str, now: u64) -> Option<u64> {
        let (key, algorithm) = self.secret.as_ref()?;
        let mut right = None;
        for at in [now.saturating_sub(STEP), now, now.saturating_add(STEP)] {
            let expected = self.code(key, *algorithm, at / STEP);
            if bool::from(expected.as_bytes().ct_eq(code.as_bytes())) {
                right = Some(at / STEP);
            }
        }
        right
    }

    /// The key that makes the codes, if there is a usable one.
    pub fn key(&self) -> &[u8] {
        self.secret.as_ref().map_or(&[], |(key, _)| key)
    }

    /// Computes the code of a counter, with the truncation of RFC 4226.
    fn code(&self, key: &[u8], algorithm: Algorithm, counter: u64) -> String {
        let mac = algorithm.mac(key, &counter.to_be_bytes());
        let offset = usize::from(mac[mac.len() - 1] & 15);
        let bytes: [u8; 4] = mac[offset..offset + 4].try_into().expect("a MAC has at least 20 bytes");
        let number = (u32::from_be_bytes(bytes) & 0x7FFF_FFFF) % 10u32.pow(self.digits);
        format!("{number:0width$}", width = self.digits as usize)
    }
}

/// Decodes RFC 4648 base32. The padding is optional, and bits after the last complete byte are ignored, because
/// users make their keys with many tools.
fn base32(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    // `A` stands for zero bits.
    let padded = format!("{text:A<width$}", width = text.len().next_multiple_of(8));
    let mut bytes = BASE32_NOPAD.decode(padded.as_bytes()).ok()?;
    bytes.truncate(text.len() * 5 / 8);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totp(json: &str) -> Totp {
        Totp::from_document(&serde_json::from_str(json).expect("JSON")).expect("a totp member")
    }

    /// RFC 6238, appendix B, SHA-1 (its key is the ASCII text 12345678901234567890).
    #[test]
    fn codes_match_the_rfc() {
        let eight = totp(r#"{"totp":{"key":"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ","length":8}}"#);
        for (now, code) in [(59, "94287082"), (1_111_111_109, "07081804"), (20_000_000_000, "65353130")] {
            assert!(eight.accepts(code, now).is_some(), "at {now}");
            assert_eq!(
                (eight.accepts(code, now + 30), eight.accepts(code, now - 30)),
                (Some(now / 30), Some(now / 30))
            );
            assert!(eight.accepts(code, now + 90).is_none());
            assert!(eight.accepts(&code[1..], now).is_none());
        }
    }

    #[test]
    fn base32_is_decoded_with_or_without_padding() {
        for (text, bytes) in [
            ("", Some("")),
            ("MZXW6YTBOI======", Some("foobar")),
            ("MZXW6YTBOI", Some("foobar")),
            ("MZXW6===", Some("foo")),
            ("MZXW7", Some("foo")),
            ("MZXW6A", Some("foo")),
            ("MZX", Some("f")),
            ("M", Some("")),
            ("mzxw6", None),
            ("MZXW1", None),
            ("MZ=W6", None),
            ("MZXWé", None),
        ] {
            assert_eq!(base32(text).as_deref(), bytes.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn an_invalid_totp_member_rejects_all_codes() {
        for bad in [
            r#"{"totp":null}"#,
            r#"{"totp":{"key":"lower"}}"#,
            r#"{"totp":{"key":"GEZDGNBV","algorithm":"md5"}}"#,
            r#"{"totp":{"key":"GEZDGNBV","length":0}}"#,
        ] {
            assert_eq!(totp(bad).accepts("000000", 0), None, "{bad}");
            assert_eq!(totp(bad).accepts("", 0), None, "{bad}");
        }
        assert!(Totp::from_document(&Map::new()).is_none());
    }
}
