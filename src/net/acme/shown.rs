//! The certificates that handshakes use: the server's own, or the answer to a challenge.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// The ALPN protocol of the challenge (RFC 8737, section 4).
pub(crate) const CHALLENGE: &[u8] = b"acme-tls/1";

/// Shared between the TLS listener and the task that obtains certificates.
#[derive(Default)]
pub struct Shown {
    certificate: RwLock<Option<Arc<CertifiedKey>>>,
    /// The answers by name, while the authority validates them.
    challenges: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Shown {
    /// Sets the certificate for new connections; open connections keep theirs.
    pub fn use_from_now_on(&self, certificate: Arc<CertifiedKey>) {
        *self.certificate.write() = Some(certificate);
    }

    /// Answers the challenge for `domain` until the returned guard is dropped.
    pub fn challenge(&self, domain: &str, answer: CertifiedKey) -> Challenged<'_> {
        self.challenges.lock().insert(domain.to_owned(), Arc::new(answer));
        Challenged { shown: self, domain: domain.to_owned() }
    }

    /// Whether this node answers a challenge for `domain`.
    pub fn answers(&self, domain: &str) -> bool {
        self.challenges.lock().contains_key(domain)
    }
}

/// The name whose challenge the client wants to see answered. `None`: it wants something else.
pub(crate) fn asked_name(hello: &ClientHello<'_>) -> Option<String> {
    let is_challenge = hello.alpn().is_some_and(|offered| offered.eq([CHALLENGE]));
    is_challenge.then(|| hello.server_name().map(str::to_owned))?
}

impl ResolvesServerCert for Shown {
    /// Returns `None` to fail the handshake.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|offered| offered.eq([CHALLENGE])) {
            return self.challenges.lock().get(&asked_name(&hello)?).cloned();
        }
        self.certificate.read().clone()
    }
}

/// Does not print the keys.
impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// Guard of a challenge that is being answered.
pub struct Challenged<'a> {
    shown: &'a Shown,
    domain: String,
}

impl Drop for Challenged<'_> {
    fn drop(&mut self) {
        self.shown.challenges.lock().remove(&self.domain);
    }
}
