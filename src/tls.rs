//! TLS by rustls, both ways: the server's certificate, read anew when its files change, and what the server trusts when
//! it fetches something itself.
//!
//! ```text
//! cert_file, key_file ──open──> Identity ──accept──> encrypted connections
//!        └── changed? (watch, every few seconds) ──> good: new connections get it │ bad: a warning, the old one stays
//! ```
//! Or the server gets its certificate by itself: [`acme`].
//!
//! Connections that are open keep the certificate that they began with. Files are named by whoever starts the server,
//! never over HTTP (`config::catalogue::BLOCKED`): a setting that names a file is a way to read it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub mod acme;

use acme::Automatic;

/// A certificate chain or key is a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// How often the files are looked at.
const ROUND: Duration = Duration::from_secs(2);
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// The server's certificate and key.
pub struct Identity {
    current: RwLock<Arc<ServerConfig>>,
    source: Source,
}

/// Where they come from.
enum Source {
    Files(Files),
    Acme(Box<Automatic>),
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    /// What the files looked like when they were last read.
    seen: Mutex<[Stamp; 2]>,
}

/// When a file is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    file: (u64, u64),
}

impl Identity {
    /// Reads both PEM files. The error names the file and says what is wrong. Blocks.
    pub fn open(cert: &Path, key: &Path) -> Result<Identity, String> {
        let seen = [stamp(cert)?, stamp(key)?];
        let current = RwLock::new(Arc::new(server_config(cert, key)?));
        let files = Files { cert: cert.to_owned(), key: key.to_owned(), seen: Mutex::new(seen) };
        Ok(Identity { current, source: Source::Files(files) })
    }

    /// One that is got and renewed while [`Identity::watch`] is polled. Without a certificate handshakes fail.
    pub fn automatic(automatic: Automatic) -> Result<Identity, String> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(automatic.shown());
        config.alpn_protocols = vec![b"http/1.1".to_vec(), acme::CHALLENGE.to_vec()];
        Ok(Identity { current: RwLock::new(Arc::new(config)), source: Source::Acme(Box::new(automatic)) })
    }

    /// Reads the files again if they have changed; whether they had. What cannot be used leaves all as it was. Blocks.
    pub fn reload_if_changed(&self) -> Result<bool, String> {
        let Source::Files(Files { cert, key, seen }) = &self.source else { return Ok(false) };
        let now = [stamp(cert)?, stamp(key)?];
        let mut seen = seen.lock();
        if *seen == now {
            return Ok(false);
        }
        // Remembered although it may fail: one warning for each change. Files that are renewed one after the other do
        // not fit each other for a moment, and the second one is a change again.
        *seen = now;
        let fresh = server_config(cert, key)?;
        *self.current.write() = Arc::new(fresh);
        Ok(true)
    }

    /// Reloads, or renews, for as long as it is polled.
    pub async fn watch(self: Arc<Identity>) {
        let cert = match &self.source {
            Source::Files(files) => files.cert.display(),
            Source::Acme(automatic) => return automatic.run().await,
        };
        let mut failed = None;
        loop {
            tokio::time::sleep(ROUND).await;
            let identity = self.clone();
            match tokio::task::spawn_blocking(move || identity.reload_if_changed()).await {
                Ok(Ok(true)) => tracing::info!(cert_file = %cert, "the certificate was read anew"),
                Ok(Ok(false)) => continue,
                // A file that is gone is gone every few seconds.
                Ok(Err(wrong)) if failed.as_ref() == Some(&wrong) => continue,
                Ok(Err(wrong)) => {
                    tracing::warn!("the certificate in use stays in use: {wrong}");
                    failed = Some(wrong);
                    continue;
                }
                Err(_) => return,
            }
            failed = None;
        }
    }

    /// The handshake of one connection. Errors: a client that speaks no TLS or no common version, or is too slow; no
    /// certificate; an authority that checked a name, which ends with its handshake (RFC 8737, section 3).
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let config = self.current.read().clone();
        let handshake = async {
            let mut stream = TlsAcceptor::from(config).accept(socket).await?;
            if stream.get_ref().1.alpn_protocol() == Some(acme::CHALLENGE) {
                stream.shutdown().await?;
                return Err(io::Error::other("it was the check of a name, which has its answer"));
            }
            Ok(stream)
        };
        tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, String> {
    let chain = certificates(cert)?;
    let pem = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("{} holds no private key (PEM, not encrypted)", key.display()))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| format!("{} and {} cannot be used together: {error}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What the server trusts when it asks others: the public authorities, and those in `ca_file` (PEM). Blocks.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        for authority in certificates(path)? {
            roots.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(format!("{} holds no certificate (PEM)", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is too large for a certificate or key", path.display()));
    }
    Ok(bytes)
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if !about.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    Ok(Stamp { modified: about.modified().ok(), bytes: about.len(), file: (about.dev(), about.ino()) })
}

#[cfg(test)]
pub mod tests;
