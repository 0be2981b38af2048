//! TLS with rustls, in both directions: the server's certificate, reloaded when its files change, and the
//! authorities that the server trusts for its own requests.
//!
//! ```text
//! cert_file, key_file ──open──> Identity ──accept──> encrypted connections
//!        └── changed? (watch, every few seconds) ──> valid: used for new connections
//!                                                    invalid: a warning, nothing changes
//! ```
//! Alternatively, the server obtains its certificate itself: `acme`.
//!
//! Open connections keep the certificate they started with. Only the administrator who starts the server can
//! name files, never an HTTP client (`config::catalogue::BLOCKED`): a setting that names a file is a way to
//! read it.

#![warn(missing_docs)]

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{Acceptor, ResolvesServerCert};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, LazyConfigAcceptor, TlsAcceptor};

use super::acme::Automatic;
use super::acme::shown::{CHALLENGE, asked_name};
use super::crypto_provider::provider;

/// Largest accepted PEM file. A certificate chain or key has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// How often the files are checked for changes.
const ROUND: Duration = Duration::from_secs(2);
/// Time limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// ALPN: HTTP/2.
pub const HTTP_2: &[u8] = b"h2";
/// ALPN: HTTP/1.1.
const HTTP_1: &[u8] = b"http/1.1";

/// The versions of HTTP that are offered to clients, the preferred one first.
fn versions(http2: bool) -> Vec<Vec<u8>> {
    let offered: &[&[u8]] = if http2 { &[HTTP_2, HTTP_1] } else { &[HTTP_1] };
    offered.iter().map(|name| name.to_vec()).collect()
}

/// The server's certificate and key.
pub struct Identity {
    current: RwLock<Arc<ServerConfig>>,
    source: Source,
}

/// Where the certificate comes from.
enum Source {
    Files(Files),
    Acme(Box<Automatic>),
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    /// The state of both files when they were last read.
    seen: Mutex<[Stamp; 2]>,
    /// HTTP/2 is offered.
    http2: bool,
}

/// Identifies the version of a file: any difference means that it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    file: (u64, u64),
}

impl Identity {
    /// Reads both PEM files. `http2` says whether HTTP/2 is offered beside HTTP/1.1. The error names the file and
    /// the problem. Blocks.
    pub fn open(cert: &Path, key: &Path, http2: bool) -> Result<Identity, String> {
        let seen = [stamp(cert)?, stamp(key)?];
        let current = RwLock::new(Arc::new(server_config(cert, key, http2)?));
        let files = Files { cert: cert.to_owned(), key: key.to_owned(), seen: Mutex::new(seen), http2 };
        Ok(Identity { current, source: Source::Files(files) })
    }

    /// An identity whose certificate is obtained and renewed while [`Identity::watch`] is polled. Until there
    /// is a certificate, handshakes fail.
    pub fn automatic(automatic: Automatic, http2: bool) -> Result<Identity, String> {
        let protocols = [versions(http2), vec![CHALLENGE.to_vec()]].concat();
        let config = config_of(automatic.shown(), protocols).map_err(|error| error.to_string())?;
        Ok(Identity { current: RwLock::new(Arc::new(config)), source: Source::Acme(Box::new(automatic)) })
    }

    /// Re-reads the files if they have changed, and returns whether they had. If the new files cannot be
    /// used, the current certificate stays in use. Blocks.
    pub fn reload_if_changed(&self) -> Result<bool, String> {
        let Source::Files(Files { cert, key, seen, http2 }) = &self.source else { return Ok(false) };
        let now = [stamp(cert)?, stamp(key)?];
        let mut seen = seen.lock();
        if *seen == now {
            return Ok(false);
        }
        // Stored even if loading fails, so that each change causes one warning. If the two files are replaced
        // one after the other, they do not match for a moment; the second replacement counts as a change
        // again.
        *seen = now;
        let fresh = server_config(cert, key, *http2)?;
        *self.current.write() = Arc::new(fresh);
        Ok(true)
    }

    /// Reloads or renews the certificate for as long as it is polled.
    pub async fn watch(self: Arc<Identity>) {
        let cert = match &self.source {
            Source::Files(files) => files.cert.display(),
            Source::Acme(automatic) => return automatic.run().await,
        };
        let mut failed = None;
        loop {
            tokio::time::sleep(ROUND).await;
            let identity = self.clone();
            match crate::blocking::spawn_blocking(move || identity.reload_if_changed()).await {
                Ok(Ok(true)) => tracing::info!(cert_file = %cert, "the certificate was reloaded"),
                Ok(Ok(false)) => continue,
                // A missing file is found missing in every round; warn only once.
                Ok(Err(wrong)) if failed.as_ref() == Some(&wrong) => continue,
                Ok(Err(wrong)) => {
                    tracing::warn!("the current certificate stays in use: {wrong}");
                    failed = Some(wrong);
                    continue;
                }
                Err(_) => return,
            }
            failed = None;
        }
    }

    /// Performs the handshake of one connection. Errors: a client that does not speak TLS or no common
    /// version, or is too slow; no certificate; an ACME validation, which ends with its handshake (RFC 8737,
    /// section 3).
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let config = self.current.read().clone();
        let handshake = async {
            let shaking = match &self.source {
                Source::Acme(automatic) if automatic.is_shared() => {
                    accept_on_any_node(automatic, config, socket).await?
                }
                _ => TlsAcceptor::from(config).accept(socket),
            };
            let mut stream = shaking.await?;
            if stream.get_ref().1.alpn_protocol() == Some(CHALLENGE) {
                stream.shutdown().await?;
                return Err(io::Error::other("the connection was an ACME validation, which ends with its handshake"));
            }
            Ok(stream)
        };
        tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// A handshake of a node that also answers the authority for the other nodes.
async fn accept_on_any_node<S: AsyncRead + AsyncWrite + Unpin>(
    automatic: &Automatic,
    config: Arc<ServerConfig>,
    socket: S,
) -> io::Result<Accept<S>> {
    let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let asked = asked_name(&begun.client_hello());
    let answer = match asked {
        Some(name) if !automatic.shown().answers(&name) => automatic.answer_of_another_node(&name).await,
        _ => None,
    };
    let config = match answer {
        Some(answer) => Arc::new(config_of(Arc::new(SingleCertAndKey::from(answer)), vec![CHALLENGE.to_vec()])?),
        None => config,
    };
    Ok(begun.into_stream(config))
}

/// The TLS settings of the server, with a certificate that is chosen in each handshake.
fn config_of(certificates: Arc<dyn ResolvesServerCert>, protocols: Vec<Vec<u8>>) -> io::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder.map_err(io::Error::other)?.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = protocols;
    Ok(config)
}

fn server_config(cert: &Path, key: &Path, http2: bool) -> Result<ServerConfig, String> {
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
    config.alpn_protocols = versions(http2);
    Ok(config)
}

/// The TLS settings for the server's own requests: trusts the public authorities and those in `ca_file`
/// (PEM). Blocks.
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
    config.alpn_protocols = versions(false);
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
