//! A certificate as it came from an authority, with its key before it, in one PEM text: so the two always fit each other.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::tls::provider;

/// The text: a private key (PKCS #8) and the chain, the server's certificate first. Wiped from memory after use.
pub(super) type Pem = Zeroizing<Vec<u8>>;

/// Bytes of that text, and certificates of the chain.
pub(super) const MAX_PEM: usize = 1 << 20;
const MAX_CHAIN: usize = 20;

/// What can be shown to clients, and until when.
pub(super) struct Issued {
    key: Arc<CertifiedKey>,
    /// Both since the epoch.
    from: Duration,
    until: Duration,
}

impl Issued {
    /// Reads it. The error says why it is of no use: it is none, it does not fit its key, it is not for all of `domains`.
    pub fn read(pem: &[u8], domains: &[String]) -> Result<Issued, String> {
        if pem.len() > MAX_PEM {
            return Err("it is too large for a certificate".into());
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it has no private key (PEM)".to_owned())?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MAX_CHAIN + 1).collect();
        let chain = chain.map_err(|error| format!("its certificates cannot be read: {error}"))?;
        let first = match chain.first() {
            Some(first) if chain.len() <= MAX_CHAIN => first.clone(),
            Some(_) => return Err(format!("it has more than {MAX_CHAIN} certificates")),
            None => return Err("it has no certificate (PEM)".into()),
        };
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| error.to_string())?;
        let parsed = ParsedCertificate::try_from(&first).map_err(|error| error.to_string())?;
        for domain in domains {
            let name = ServerName::try_from(domain.as_str()).map_err(|error| format!("{domain}: {error}"))?;
            verify_server_name(&parsed, &name).map_err(|_| format!("it is not for {domain}"))?;
        }
        let (_, dates) = x509_parser::parse_x509_certificate(&first).map_err(|error| error.to_string())?;
        let validity = dates.validity();
        // What is older than the epoch is as good as it.
        let [from, until] = [validity.not_before, validity.not_after]
            .map(|time| Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)));
        if until <= from {
            return Err("it ends before it begins".into());
        }
        Ok(Issued { key: Arc::new(key), from, until })
    }

    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// When it ends, since the epoch.
    pub fn until(&self) -> Duration {
        self.until
    }

    /// The same for people.
    pub fn ends(&self) -> String {
        super::date(self.until)
    }

    /// When it is to be renewed, since the epoch: after two thirds of its life, as Let's Encrypt advises.
    pub fn due(&self) -> Duration {
        self.until.saturating_sub(self.until.saturating_sub(self.from) / 3)
    }
}
