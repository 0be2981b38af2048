//! A certificate as received from the authority, preceded by its key, in one PEM text, so that the two always
//! match.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use crate::net::crypto_provider::provider;

/// A PEM text: a private key (PKCS #8) and then the chain, the server's certificate first. Zeroed after use.
pub(crate) type Pem = Zeroizing<Vec<u8>>;

/// Limits: bytes of this text, and certificates in the chain.
pub(crate) const MAX_PEM: usize = 1 << 20;
const MAX_CHAIN: usize = 20;

/// A certificate that can be served, and its validity.
pub(crate) struct Issued {
    key: Arc<CertifiedKey>,
    /// Start and end of the validity, since the epoch.
    from: Duration,
    until: Duration,
}

impl Issued {
    /// Parses the text. The error says why it cannot be used: it is no certificate, it does not match its
    /// key, or it is not valid for all `domains`.
    pub fn read(pem: &[u8], domains: &[String]) -> Result<Issued, String> {
        if pem.len() > MAX_PEM {
            return Err("the file is too large for a certificate".into());
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "the file has no private key (PEM)".to_owned())?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MAX_CHAIN + 1).collect();
        let chain = chain.map_err(|error| format!("the certificates cannot be parsed: {error}"))?;
        let first = match chain.first() {
            Some(first) if chain.len() <= MAX_CHAIN => first.clone(),
            Some(_) => return Err(format!("the chain has more than {MAX_CHAIN} certificates")),
            None => return Err("the file has no certificate (PEM)".into()),
        };
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| error.to_string())?;
        let parsed = ParsedCertificate::try_from(&first).map_err(|error| error.to_string())?;
        for domain in domains {
            let name = ServerName::try_from(domain.as_str()).map_err(|error| format!("{domain}: {error}"))?;
            verify_server_name(&parsed, &name).map_err(|_| format!("the certificate is not valid for {domain}"))?;
        }
        // `Raw`, because private authorities use serial numbers that RFC 5280 does not allow.
        let dates = CertificateInner::<Raw>::from_der(&first).map_err(|error| error.to_string())?;
        let validity = dates.tbs_certificate.validity;
        let [from, until] = [validity.not_before, validity.not_after].map(|time| time.to_unix_duration());
        if until <= from {
            return Err("the certificate ends before it begins".into());
        }
        Ok(Issued { key: Arc::new(key), from, until })
    }

    /// The certificate and key for rustls.
    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// End of the validity, since the epoch.
    pub fn until(&self) -> Duration {
        self.until
    }

    /// End of the validity, in readable form.
    pub fn ends(&self) -> String {
        self::date(self.until)
    }

    /// When to renew, since the epoch: after two thirds of the validity, as Let's Encrypt recommends.
    pub fn due(&self) -> Duration {
        self.until.saturating_sub(self.until.saturating_sub(self.from) / 3)
    }
}

/// A time since the epoch, in readable form.
fn date(since_epoch: Duration) -> String {
    UNIX_EPOCH.checked_add(since_epoch).map_or_else(String::new, httpdate::fmt_http_date)
}
