//! Keys of JSON Web Tokens: their algorithm and how they are read.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::auth::curves;

/// The type of a key: the part before the colon in `[jwt_keys]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Hmac,
    Rsa,
    Ec,
    Ed25519,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "hmac" => Kind::Hmac,
            "rsa" => Kind::Rsa,
            "ec" => Kind::Ec,
            "ed25519" => Kind::Ed25519,
            _ => return None,
        })
    }
}

/// An accepted algorithm: CouchDB's algorithms, EdDSA and RSA-PSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alg {
    pub(crate) name: &'static str,
    /// The type of key that the algorithm requires.
    pub kind: Kind,
    /// `None` for ES512, whose curve `jsonwebtoken` does not support ([`curves`] does).
    standard: Option<Algorithm>,
}

const ALGORITHMS: [Alg; 13] = {
    const fn alg(name: &'static str, kind: Kind, standard: Algorithm) -> Alg {
        Alg { name, kind, standard: Some(standard) }
    }
    [
        alg("HS256", Kind::Hmac, Algorithm::HS256),
        alg("HS384", Kind::Hmac, Algorithm::HS384),
        alg("HS512", Kind::Hmac, Algorithm::HS512),
        alg("RS256", Kind::Rsa, Algorithm::RS256),
        alg("RS384", Kind::Rsa, Algorithm::RS384),
        alg("RS512", Kind::Rsa, Algorithm::RS512),
        alg("PS256", Kind::Rsa, Algorithm::PS256),
        alg("PS384", Kind::Rsa, Algorithm::PS384),
        alg("PS512", Kind::Rsa, Algorithm::PS512),
        alg("ES256", Kind::Ec, Algorithm::ES256),
        alg("ES384", Kind::Ec, Algorithm::ES384),
        Alg { name: "ES512", kind: Kind::Ec, standard: None },
        alg("EdDSA", Kind::Ed25519, Algorithm::EdDSA),
    ]
};

impl Alg {
    /// Finds an algorithm by the name in the header `alg`.
    pub(crate) fn named(name: &str) -> Option<Alg> {
        ALGORITHMS.into_iter().find(|alg| alg.name == name)
    }

    /// The name in the header `alg`.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }
}

/// A key that verifies signatures. Its `Debug` output does not contain the key.
#[derive(Clone)]
pub struct Key {
    /// The key material.
    pub(crate) decoding: DecodingKey,
    /// The only algorithm that the key may be used with (`alg` in a JWKS); `None`: any of its kind.
    pub(crate) only: Option<&'static str>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Key")
    }
}

impl Key {
    pub(crate) fn verifies(&self, alg: Alg, message: &[u8], signature: &str) -> bool {
        if self.only.is_some_and(|only| only != alg.name) {
            return false;
        }
        if alg.kind == Kind::Ec {
            let bytes = BASE64.decode(signature).ok().zip(self.decoding.try_get_as_bytes().ok());
            return bytes.is_some_and(|(signature, point)| curves::verify(alg.name, point, message, &signature));
        }
        let Some(standard) = alg.standard else { return false };
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, standard).unwrap_or(false)
    }
}

/// Parses a key of `[jwt_keys]`: base64 for HMAC; for the others PEM, with `\n` for newlines.
pub(crate) fn key(kind: Kind, value: &str) -> std::result::Result<Key, &'static str> {
    let pem = value.trim().replace("\\n", "\n");
    let decoding = match kind {
        Kind::Hmac => {
            let secret = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok();
            // With an empty secret, anybody could sign tokens.
            let secret = secret.filter(|secret| !secret.is_empty()).ok_or("Not a valid key")?;
            DecodingKey::from_secret(&secret)
        }
        Kind::Rsa => DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| "not an RSA public key")?,
        Kind::Ec => DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| "not an EC public key")?,
        Kind::Ed25519 => DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| "not an Ed25519 public key")?,
    };
    Ok(Key { decoding, only: None })
}

pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
