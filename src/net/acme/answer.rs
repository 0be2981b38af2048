//! The certificate that answers a challenge (RFC 8737, section 3).

use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::net::crypto_provider::provider;

/// A certificate for one name, signed by itself, and its key (PKCS #8), both in DER.
pub(crate) struct Answer {
    key: Zeroizing<Vec<u8>>,
    certificate: Vec<u8>,
}

impl Answer {
    /// The answer for the name, with the digest of the key authorization.
    pub fn make(domain: &str, digest: &[u8]) -> Result<Answer, String> {
        let make = || -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(vec![domain.to_owned()])?;
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = params.self_signed(&key)?.der().to_vec();
            Ok(Answer { key: Zeroizing::new(key.serialize_der()), certificate })
        };
        make().map_err(|error| error.to_string())
    }

    /// What a handshake shows.
    pub fn certified(&self) -> Result<CertifiedKey, String> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()));
        let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
        // Not `from_der`, which parses the certificate and refuses the critical extension that the challenge demands.
        Ok(CertifiedKey::new(vec![CertificateDer::from(self.certificate.clone())], key))
    }

    /// For other nodes: length of the key(2), key, certificate.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let length = (self.key.len() as u16).to_be_bytes();
        Zeroizing::new([&length, self.key.as_slice(), &self.certificate].concat())
    }

    /// The inverse of [`Answer::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (key, certificate) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some(Answer { key: Zeroizing::new(key.to_vec()), certificate: certificate.to_vec() })
    }
}
