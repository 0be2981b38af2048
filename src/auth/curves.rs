//! ECDSA verification over P-256, P-384 and P-521, each with any of the three hashes. RFC 7518 binds each
//! `alg` to one curve. CouchDB binds it only to the hash and takes the curve from the key, and its signers
//! pad both halves of the signature to the width of the `alg`'s number. Accepting these combinations is safe,
//! because only the key determines the curve.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Verifies `signature` (two halves of equal length, big-endian) of `message` with the public key `point`
/// (SEC1).
pub(super) fn verify(alg: &str, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let hash = match alg {
        "ES256" => Sha256::digest(message).to_vec(),
        "ES384" => Sha384::digest(message).to_vec(),
        "ES512" => Sha512::digest(message).to_vec(),
        _ => return false,
    };
    match point.len() {
        33 | 65 => halves(signature, 32)
            .and_then(|bytes| p256::ecdsa::Signature::from_slice(&bytes).ok())
            .zip(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok())
            .is_some_and(|(signature, key)| key.verify_prehash(&hash, &signature).is_ok()),
        // The library accepts hashes of at least half the curve's width, so SHA-256 needs no padding here.
        49 | 97 => halves(signature, 48)
            .and_then(|bytes| p384::ecdsa::Signature::from_slice(&bytes).ok())
            .zip(p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok())
            .is_some_and(|(signature, key)| key.verify_prehash(&hash, &signature).is_ok()),
        // SHA-256 is shorter than half the curve's width, so it must be padded. Zeros on the left do not
        // change the number that it encodes.
        67 | 133 => halves(signature, 66)
            .and_then(|bytes| p521::ecdsa::Signature::from_slice(&bytes).ok())
            .zip(p521::ecdsa::VerifyingKey::from_sec1_bytes(point).ok())
            .is_some_and(|(signature, key)| key.verify_prehash(&padded(&hash, 66), &signature).is_ok()),
        _ => false,
    }
}

fn padded(hash: &[u8], width: usize) -> Vec<u8> {
    let mut out = vec![0; width.saturating_sub(hash.len())];
    out.extend_from_slice(hash);
    out
}

/// Pads or truncates both halves to `width` bytes. Returns `None` if truncation would cut off nonzero bytes.
fn halves(signature: &[u8], width: usize) -> Option<Vec<u8>> {
    if !signature.len().is_multiple_of(2) || signature.is_empty() || signature.len() > 256 {
        return None;
    }
    let mut out = Vec::with_capacity(2 * width);
    for half in signature.chunks(signature.len() / 2) {
        let extra = half.len().saturating_sub(width);
        if half[..extra].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.resize(out.len() + width.saturating_sub(half.len()), 0);
        out.extend_from_slice(&half[extra..]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::hazmat::PrehashSigner;

    use super::*;

    fn wide(signature: &[u8], width: usize) -> Vec<u8> {
        let (r, s) = signature.split_at(signature.len() / 2);
        [r, s].iter().flat_map(|half| [vec![0; width - half.len()], half.to_vec()].concat()).collect()
    }

    #[test]
    fn the_key_determines_the_curve_and_the_alg_determines_the_hash() {
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a key");
        let point = key.verifying_key().to_encoded_point(false);
        for (alg, hash, width) in [
            ("ES256", Sha256::digest(b"hello").to_vec(), 32),
            ("ES384", Sha384::digest(b"hello").to_vec(), 48),
            ("ES512", Sha512::digest(b"hello").to_vec(), 64),
        ] {
            let signature: p256::ecdsa::Signature = key.sign_prehash(&hash).expect("signs");
            let bytes = signature.to_bytes();
            for given in [bytes.to_vec(), wide(&bytes, width)] {
                assert!(verify(alg, point.as_bytes(), b"hello", &given), "{alg}");
                assert!(!verify(alg, point.as_bytes(), b"Hello", &given), "{alg}");
                assert!(!verify("HS256", point.as_bytes(), b"hello", &given));
                let mut other = given.clone();
                other[0] ^= 1;
                assert!(!verify(alg, point.as_bytes(), b"hello", &other), "{alg}");
            }
            assert!(!verify(if alg == "ES256" { "ES512" } else { "ES256" }, point.as_bytes(), b"hello", &bytes));
        }
        let key = p384::ecdsa::SigningKey::from_slice(&[7; 48]).expect("a key");
        let point = key.verifying_key().to_encoded_point(false);
        let signature: p384::ecdsa::Signature = key.sign_prehash(&Sha384::digest(b"hello")).expect("signs");
        assert!(verify("ES384", point.as_bytes(), b"hello", &signature.to_bytes()));
        let key = p521::ecdsa::SigningKey::from_slice(&[[0; 1].as_slice(), &[7; 65]].concat()).expect("a key");
        let point = p521::ecdsa::VerifyingKey::from(&key).to_encoded_point(false);
        for (alg, hash) in [("ES256", Sha256::digest(b"hello").to_vec()), ("ES512", Sha512::digest(b"hello").to_vec())]
        {
            let signature: p521::ecdsa::Signature = key.sign_prehash(&padded(&hash, 66)).expect("signs");
            assert!(verify(alg, point.as_bytes(), b"hello", &signature.to_bytes()), "{alg}");
            assert!(!verify(alg, point.as_bytes(), b"Hello", &signature.to_bytes()), "{alg}");
        }
        let key = p384::ecdsa::SigningKey::from_slice(&[7; 48]).expect("a key");
        let point = key.verifying_key().to_encoded_point(false);
        for odd in [&[][..], &[1], &[0; 96], &[0xFF; 96], &[0xFF; 128], &[1; 300]] {
            assert!(!verify("ES384", point.as_bytes(), b"hello", odd));
        }
        assert!(!verify("ES384", b"\x04short", b"hello", &signature.to_bytes()));
    }
}
