//! The key of encryption at rest, as its owner keeps it: 32 random bytes, written as base64 or as hex digits.
//!
//! It seals nothing but the keys of a data folder (see `cipher`) and backups. It is overwritten in memory when it is
//! dropped, and `Debug` shows its id alone.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::json::hex;

/// Bytes of a key.
const LENGTH: usize = 32;
/// No key is written in so many bytes.
const TEXT: u64 = 1024;

const HOW: &str = "a key is 32 random bytes in base64 or hex digits: make one with `settee make-key FILE`";

/// Takes base64 with and without padding.
pub(super) fn base64(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// A key of encryption at rest.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; LENGTH]>);

impl Key {
    /// A new key.
    pub fn generate() -> Key {
        Key(random())
    }

    /// A key from its text: base64 (either alphabet) or 64 hex digits, with white space around it.
    ///
    /// # Errors
    /// A sentence that says what a key looks like, and nothing of the text.
    pub fn parse(text: &str) -> Result<Key, String> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0; LENGTH]);
        if text.len() == 2 * LENGTH && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                let digit = |at: usize| (digits[at] as char).to_digit(16).unwrap_or(0) as u8;
                *byte = digit(0) << 4 | digit(1);
            }
        } else {
            let alphabet = match text.contains(['-', '_']) {
                true => alphabet::URL_SAFE,
                false => alphabet::STANDARD,
            };
            let decoded = base64(&alphabet).decode(text).map(Zeroizing::new).map_err(|_| HOW.to_owned())?;
            if decoded.len() != LENGTH {
                return Err(format!("it has {} bytes; {HOW}", decoded.len()));
            }
            bytes.copy_from_slice(&decoded);
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(format!("it is the same byte over and over; {HOW}"));
        }
        Ok(Key(bytes))
    }

    /// The key in a file.
    ///
    /// # Errors
    /// A sentence that names the file and says what to do.
    pub fn read(file: &Path) -> Result<Key, String> {
        let wrong = |how: &dyn fmt::Display| format!("the encryption key file {}: {how}", file.display());
        let mut text = Zeroizing::new(String::with_capacity(TEXT as usize + 1));
        let open = std::fs::File::open(file).map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
        match open.take(TEXT).read_to_string(&mut text) {
            Ok(_) => Key::parse(&text).map_err(|how| wrong(&how)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(wrong(&HOW)),
            Err(error) => Err(wrong(&format!("it cannot be read: {error}"))),
        }
    }

    /// Whether others than its owner may read the file.
    pub fn is_open_to_others(file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|found| found.mode() & 0o077 != 0)
    }

    /// Writes the key into a new file that only its owner may read.
    ///
    /// # Errors
    /// A sentence. A file that is there is never replaced: it may be the only copy of a key.
    pub fn write_new(&self, file: &Path) -> Result<(), String> {
        let write = || {
            let mut open = std::fs::File::options().create_new(true).write(true).mode(0o600).open(file)?;
            open.write_all(self.text().as_bytes())?;
            open.write_all(b"\n")?;
            open.sync_all()
        };
        write().map_err(|error| format!("the encryption key file {} cannot be made: {error}", file.display()))
    }

    /// The key in base64.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64(&alphabet::STANDARD).encode(*self.0))
    }

    /// What the key is called: 16 hex digits of a hash. It is written into data folders and backups, and into messages.
    pub fn id(&self) -> String {
        let hash = Sha256::new().chain_update(b"settee key id 1\0").chain_update(*self.0).finalize();
        hex(&hash[..8])
    }

    /// A key for one purpose.
    pub(super) fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; LENGTH]> {
        derive(&self.0, purpose)
    }
}

/// HMAC-SHA-256 of `purpose`.
pub(super) fn derive(key: &[u8; LENGTH], purpose: &[u8]) -> Zeroizing<[u8; LENGTH]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(purpose);
    let mut made = mac.finalize().into_bytes();
    let mut derived = Zeroizing::new([0; LENGTH]);
    derived.copy_from_slice(&made);
    made.as_mut_slice().zeroize();
    derived
}

/// Random bytes from the operating system.
pub(super) fn random<const COUNT: usize>() -> Zeroizing<[u8; COUNT]> {
    let mut bytes = Zeroizing::new([0; COUNT]);
    getrandom::fill(&mut *bytes).expect("the operating system gives randomness");
    bytes
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_people_write_them() {
        let key = Key::generate();
        let text = key.text().to_string();
        let url_safe = text.replace('+', "-").replace('/', "_");
        let digits = hex(&*key.0);
        for written in [&text, &format!(" {text}\n"), text.trim_end_matches('='), &url_safe, &digits] {
            assert_eq!(Key::parse(written), Ok(key.clone()), "{written}");
        }
        assert_eq!(Key::parse(&digits.to_uppercase()), Ok(key.clone()));
        assert_ne!(Key::generate(), key);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for (text, says) in [
            ("", "make-key"),
            ("hunter2 hunter2", "make-key"),
            ("c2VjcmV0IHNlY3JldA==", "it has 13 bytes"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "over and over"),
            (&"é".repeat(32), "make-key"),
            (&"0a".repeat(31), "make-key"),
        ] {
            let wrong = Key::parse(text).unwrap_err();
            assert!(wrong.contains(says), "{wrong}");
            assert!(text.is_empty() || !wrong.contains(text));
        }
    }

    #[test]
    fn debug_shows_the_id_alone() {
        let key = Key::generate();
        let shown = format!("{key:?} {:?}", Some(&key));
        assert!(shown.contains(&key.id()) && !shown.contains(&*key.text()) && !shown.contains(&hex(&*key.0)));
        assert_eq!(key.id().len(), 16);
        assert_ne!(key.id(), Key::generate().id());
    }

    #[test]
    fn a_key_s_file_is_its_owner_s_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        assert!(Key::read(&file).unwrap_err().contains("cannot be read"));
        let key = Key::generate();
        key.write_new(&file).unwrap();
        assert_eq!(Key::read(&file), Ok(key.clone()));
        assert!(!Key::is_open_to_others(&file));
        assert!(Key::generate().write_new(&file).is_err());
        assert_eq!(Key::read(&file), Ok(key));
        std::fs::write(&file, [0xC0; 32]).unwrap();
        assert!(Key::read(&file).unwrap_err().contains("make-key"), "raw bytes are no text");
    }
}
