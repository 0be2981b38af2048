//! The stored form of a value: a tag byte, a checksum, the value.
//!
//! ```text
//! ┌─────┬──────────────────┬───────
//! │ tag │ CRC-32, 4 bytes  │ value
//! └─────┴──────────────────┴───────
//! ```
//!
//! The checksum covers key and value, so it detects flipped bits as well as a value that an engine returns
//! under the wrong key. For every engine, only this file sets and verifies it. The tag belongs to the engine:
//! `WHOLE`, unless the engine stores the value in another form (see `sled`). With encryption at rest the tag
//! is `SEALED`, and the value consists of the nonce, the ciphertext and the authentication tag of `cipher`,
//! with the entry's key as associated data.

use std::borrow::Cow;
use std::sync::Arc;

use crate::store::crypto::cipher::{self, Cipher, FolderKeys};
use crate::store::reserved_keys::TOTALS;
use crate::store::{Result, StoreError, keyspace};

/// The tag of a value stored in one piece.
pub(crate) const WHOLE: u8 = 0;
/// The tag of an encrypted value stored in one piece.
const SEALED: u8 = 2;
/// Bytes before the value.
pub(crate) const HEAD: usize = 5;

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The stored form of `value`.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEAD + value.len());
    framed.push(WHOLE);
    framed.extend_from_slice(&checksum(key, value).to_le_bytes());
    framed.extend_from_slice(value);
    framed
}

/// Returns the value in `framed`, or `Damaged` with a description of the key.
pub(crate) fn unseal<'a>(key: &[u8], framed: &'a [u8]) -> Result<&'a [u8]> {
    let Some((head, value)) = framed.split_at_checked(HEAD) else {
        return Err(damaged(key, "is cut short"));
    };
    if head[0] != WHOLE || head[1..] != checksum(key, value).to_le_bytes() {
        return Err(damaged(key, "does not match its checksum"));
    }
    Ok(value)
}

/// `framed` with the checksum that matches `key`.
#[cfg(test)]
pub(crate) fn retarget(key: &[u8], framed: &[u8]) -> Vec<u8> {
    let mut framed = framed.to_vec();
    let sum = checksum(key, &framed[HEAD..]);
    framed[1..HEAD].copy_from_slice(&sum.to_le_bytes());
    framed
}

/// Length of the value in `framed`, in bytes.
pub(crate) fn length(framed: &[u8]) -> usize {
    let head = if framed.first() == Some(&SEALED) { HEAD + cipher::OVERHEAD } else { HEAD };
    framed.len().saturating_sub(head)
}

/// Frames values, and encrypts them if the folder is encrypted. Two records stay unencrypted: the format
/// record, which names the required key, and the record of totals (see `tally`), which only counts.
#[derive(Clone, Default)]
pub(crate) struct Frames(Option<Arc<Cipher>>);

impl Frames {
    /// Frames for a folder with these keys, or for one that is not encrypted.
    pub fn of(keys: Option<&FolderKeys>) -> Frames {
        keys.map_or_else(Frames::default, |keys| Frames::sealing(keys.values()))
    }

    pub fn sealing(cipher: Cipher) -> Frames {
        Frames(Some(Arc::new(cipher)))
    }

    /// The cipher for the value of `key`, if that value is encrypted.
    fn cipher(&self, key: &[u8]) -> Option<&Cipher> {
        self.0.as_deref().filter(|_| key != keyspace::FORMAT && key != TOTALS)
    }

    /// The stored form of `value`.
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        let Some(cipher) = self.cipher(key) else { return seal(key, value) };
        let mut framed = Vec::with_capacity(HEAD + cipher::OVERHEAD + value.len());
        framed.extend_from_slice(&[SEALED, 0, 0, 0, 0]);
        cipher.seal(key, value, &mut framed);
        let sum = checksum(key, &framed[HEAD..]);
        framed[1..HEAD].copy_from_slice(&sum.to_le_bytes());
        framed
    }

    /// Returns the value in `framed`, or `Damaged` with a description of the key.
    pub fn unseal<'a>(&self, key: &[u8], framed: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let Some(cipher) = self.cipher(key) else { return unseal(key, framed).map(Cow::Borrowed) };
        match framed.split_at_checked(HEAD) {
            None => Err(damaged(key, "is cut short")),
            // A failed checksum means flipped bits; a failed authentication means that somebody has put the
            // value here.
            Some((head, sealed)) if head[1..] != checksum(key, sealed).to_le_bytes() => {
                Err(damaged(key, "does not match its checksum"))
            }
            Some((head, sealed)) if head[0] == SEALED => {
                cipher.open(key, sealed).map(Cow::Owned).ok_or_else(|| damaged(key, "is not what was sealed there"))
            }
            Some(_) => Err(damaged(key, "is not sealed, as everything in an encrypted folder is")),
        }
    }

    /// As [`Frames::unseal`], for a value that [`Frames::seal`] has just returned: skips the checksum.
    pub fn own<'a>(&self, key: &[u8], framed: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        match self.cipher(key) {
            Some(_) => self.unseal(key, framed),
            None => Ok(Cow::Borrowed(&framed[HEAD..])),
        }
    }
}

/// `Damaged`, with a description of the key.
pub(crate) fn damaged(key: &[u8], how: &str) -> StoreError {
    StoreError::Damaged(format!("{} {how}", keyspace::describe(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_have_a_checksum_and_an_authentication_tag() {
        let (plain, sealed) = (Frames::default(), Frames::sealing(FolderKeys::generate().values()));
        let framed = sealed.seal(b"key", b"value");
        assert!(!framed.windows(5).any(|window| window == b"value"));
        assert_eq!(length(&framed), 5);
        assert_eq!(length(&plain.seal(b"key", b"value")), 5);
        assert_eq!(sealed.unseal(b"key", &framed).unwrap(), &b"value"[..]);
        assert_eq!(sealed.own(b"key", &framed).unwrap(), &b"value"[..]);
        for bit in 0..framed.len() * 8 {
            let mut turned = framed.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert!(sealed.unseal(b"key", &turned).is_err(), "bit {bit}");
        }
        let how = |frames: &Frames, key: &[u8], framed: &[u8]| frames.unseal(key, framed).unwrap_err().to_string();
        // Forged with a matching checksum: anyone can compute the checksum, but not the authentication tag.
        assert!(how(&sealed, b"kez", &retarget(b"kez", &framed)).contains("is not what was sealed there"));
        assert!(how(&sealed, b"key", &plain.seal(b"key", b"value")).contains("is not sealed"));
        assert!(how(&plain, b"key", &framed).contains("checksum"));
        let format = sealed.seal(keyspace::FORMAT, b"format");
        assert_eq!(plain.unseal(keyspace::FORMAT, &format).unwrap(), &b"format"[..]);
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let framed = seal(b"key", b"value");
        assert_eq!(unseal(b"key", &framed), Ok(&b"value"[..]));
        assert!(unseal(b"kez", &framed).is_err(), "a value under a wrong key");
        for bit in 0..framed.len() * 8 {
            let mut turned = framed.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &turned).is_err(), "bit {bit}");
        }
        for length in 0..framed.len() {
            assert!(unseal(b"key", &framed[..length]).is_err(), "cut to {length}");
        }
    }
}
