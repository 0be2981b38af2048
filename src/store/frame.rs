//! What an engine stores for a value: a tag byte, a checksum, the value.
//!
//! ```text
//! ┌─────┬──────────────────┬───────
//! │ tag │ CRC-32, 4 bytes  │ value
//! └─────┴──────────────────┴───────
//! ```
//!
//! The checksum covers key and value, so that a value that an engine hands out under a wrong key is found as well as one
//! whose bits have turned. It is set and tested here and nowhere else, for every engine. The tag is the engine's: `WHOLE`
//! unless it keeps the value in another form (see `sled`).

use super::{Result, StoreError, keys};

/// The tag of a value that stands in one piece.
pub(super) const WHOLE: u8 = 0;
/// Bytes before the value.
pub(super) const HEAD: usize = 5;

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The stored form of `value`.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEAD + value.len());
    framed.push(WHOLE);
    framed.extend_from_slice(&checksum(key, value).to_le_bytes());
    framed.extend_from_slice(value);
    framed
}

/// The value in `framed`, or `Damaged` with what the key names.
pub(super) fn unseal<'a>(key: &[u8], framed: &'a [u8]) -> Result<&'a [u8]> {
    let Some((head, value)) = framed.split_at_checked(HEAD) else {
        return Err(damaged(key, "is cut short"));
    };
    if head[0] != WHOLE || head[1..] != checksum(key, value).to_le_bytes() {
        return Err(damaged(key, "does not match its checksum"));
    }
    Ok(value)
}

/// `Damaged`, naming what was read.
pub(super) fn damaged(key: &[u8], how: &str) -> StoreError {
    StoreError::Damaged(format!("{} {how}", keys::describe(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turned_bit_is_found() {
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
