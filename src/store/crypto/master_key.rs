//! The owner's key for encryption at rest: 32 random bytes, written as base64 or hex digits.
//!
//! It encrypts only the keys of a data folder (see `cipher`) and backups. Its memory is overwritten when it
//! is dropped, and `Debug` prints only its id.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::hex::hex;

/// Length of a key in bytes.
const LENGTH: usize = 32;
/// Maximum number of bytes read from a key file; longer than any valid one.
const TEXT: u64 = 1024;

const HOW: &str = "a key is 32 random bytes in base64 or hex digits: create one with `settee make-key FILE`";

/// Base64 that accepts padding but does not require it.
pub(crate) fn base64(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// The owner's key for encryption at rest.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; LENGTH]>);

impl Key {
    /// Generates a random key.
    pub fn generate() -> Key {
        Key(random())
    }

    /// Parses a key: base64 (standard or URL-safe) or 64 hex digits. Surrounding white space is ignored.
    ///
    /// # Errors
    /// A message that describes the format of a key. It never contains the text.
    pub fn parse(text: &str) -> Result<Key, String> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0; LENGTH]);
        // `decode_mut` panics if the output has the wrong length for the input.
        let is_hex = text.len() == 2 * LENGTH && HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut *bytes).is_ok();
        if !is_hex {
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
            return Err(format!("all bytes of the key are the same; {HOW}"));
        }
        Ok(Key(bytes))
    }

    /// Reads the key in a file.
    ///
    /// # Errors
    /// A message that names the file and says how to fix the problem.
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

    /// Whether the permissions of the file allow access by users other than its owner.
    pub fn is_open_to_others(file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|found| found.mode() & 0o077 != 0)
    }

    /// Writes the key to a new file that only its owner can read.
    ///
    /// # Errors
    /// A message, also if the file exists: it is never replaced, because it may be the only copy of a key.
    pub fn write_new(&self, file: &Path) -> Result<(), String> {
        let write = || {
            let mut open = std::fs::File::options().create_new(true).write(true).mode(0o600).open(file)?;
            open.write_all(self.text().as_bytes())?;
            open.write_all(b"\n")?;
            open.sync_all()
        };
        write().map_err(|error| format!("the encryption key file {} cannot be created: {error}", file.display()))
    }

    /// The key in base64.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base64(&alphabet::STANDARD).encode(*self.0))
    }

    /// The id of the key: the first 16 hex digits of a hash of it. Data folders, backups and messages contain
    /// it.
    pub fn id(&self) -> String {
        let hash = Sha256::new().chain_update(b"settee key id 1\0").chain_update(*self.0).finalize();
        hex(&hash[..8])
    }

    /// Derives the key for one purpose.
    pub(crate) fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; LENGTH]> {
        derive(&self.0, purpose)
    }
}

/// Derives a key: HMAC-SHA-256 of `purpose` under `key`.
pub(crate) fn derive(key: &[u8; LENGTH], purpose: &[u8]) -> Zeroizing<[u8; LENGTH]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(purpose);
    let mut made = mac.finalize().into_bytes();
    let mut derived = Zeroizing::new([0; LENGTH]);
    derived.copy_from_slice(&made);
    made.as_mut_slice().zeroize();
    derived
}

/// Random bytes from the operating system.
pub(crate) fn random<const COUNT: usize>() -> Zeroizing<[u8; COUNT]> {
    let mut bytes = Zeroizing::new([0; COUNT]);
    getrandom::fill(&mut *bytes).expect("the operating system provides randomness");
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
    fn keys_are_parsed_from_every_accepted_form() {
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
    fn invalid_keys_are_refused_and_not_printed() {
        for (text, says) in [
            ("", "make-key"),
            ("hunter2 hunter2", "make-key"),
            ("c2VjcmV0IHNlY3JldA==", "it has 13 bytes"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "all bytes of the key are the same"),
            (&"é".repeat(32), "make-key"),
            (&"0a".repeat(31), "make-key"),
        ] {
            let wrong = Key::parse(text).unwrap_err();
            assert!(wrong.contains(says), "{wrong}");
            assert!(text.is_empty() || !wrong.contains(text));
        }
    }

    #[test]
    fn debug_prints_only_the_id() {
        let key = Key::generate();
        let shown = format!("{key:?} {:?}", Some(&key));
        assert!(shown.contains(&key.id()) && !shown.contains(&*key.text()) && !shown.contains(&hex(&*key.0)));
        assert_eq!(key.id().len(), 16);
        assert_ne!(key.id(), Key::generate().id());
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
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
