//! What a handshake is answered with: the certificate, or the answer to a challenge.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Shared between the port and who gets certificates.
#[derive(Default)]
pub struct Shown {
    certificate: RwLock<Option<Arc<CertifiedKey>>>,
    /// By name, while the authority checks it.
    challenges: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Shown {
    /// Open connections keep what they began with.
    pub fn use_from_now_on(&self, certificate: Arc<CertifiedKey>) {
        *self.certificate.write() = Some(certificate);
    }

    /// Answers the challenge for `domain` until what is returned is dropped.
    pub fn challenge(&self, domain: &str, answer: CertifiedKey) -> Challenged<'_> {
        self.challenges.lock().insert(domain.to_owned(), Arc::new(answer));
        Challenged { shown: self, domain: domain.to_owned() }
    }
}

impl ResolvesServerCert for Shown {
    /// `None` fails the handshake.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if rustls_acme::is_tls_alpn_challenge(&hello) {
            return self.challenges.lock().get(hello.server_name()?).cloned();
        }
        self.certificate.read().clone()
    }
}

/// There are keys in it.
impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// A challenge that can be answered now.
pub struct Challenged<'a> {
    shown: &'a Shown,
    domain: String,
}

impl Drop for Challenged<'_> {
    fn drop(&mut self) {
        self.shown.challenges.lock().remove(&self.domain);
    }
}
