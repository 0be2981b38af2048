//! Opens the connections of the HTTP client: directly, or through a proxy.
//!
//! ```text
//! no proxy                    DNS, TCP, (TLS)
//! http or https proxy         the same to the proxy; then, for an https URL, CONNECT and TLS within it;
//!                             an http URL is sent to the proxy whole, and the proxy forwards the request
//! socks5 proxy                DNS, TCP to the proxy, SOCKS 5 handshake; then (TLS) within it
//! ```
//! A proxy resolves the names of the servers itself. A guard therefore sees the address of the proxy.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use http::Uri;
use http::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tower::Service;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Decides which addresses may be connected to.
pub type Guard = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// A proxy: `http`, `https` or `socks5`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Scheme, host and port, without user and password.
    pub url: Uri,
    /// The user name and the password.
    pub user: Option<(String, String)>,
}

impl Proxy {
    fn is_socks(&self) -> bool {
        self.url.scheme_str() == Some("socks5")
    }

    fn authorization(&self) -> Option<HeaderValue> {
        let (name, password) = self.user.as_ref()?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The URL to connect to: the port of SOCKS is 1080 unless the proxy names another.
    fn address(&self) -> Uri {
        if !self.is_socks() {
            return self.url.clone();
        }
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(1080);
        Uri::builder()
            .scheme("http")
            .authority(format!("{host}:{port}"))
            .path_and_query("/")
            .build()
            .expect("an authority with another port is an authority")
    }
}

impl fmt::Debug for Proxy {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Proxy({})", self.url)
    }
}

/// The address that a host of a URL is, if it is no name.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// TCP, and TLS where the URL says so.
type Direct = HttpsConnector<HttpConnector<Resolver>>;

/// Connects within a time limit. hyper-util limits TCP only, not DNS and TLS.
#[derive(Clone)]
pub(super) struct Connector {
    direct: Direct,
    way: Way,
    guard: Option<Guard>,
    limit: Duration,
}

/// How a server is reached.
#[derive(Clone)]
enum Way {
    Direct,
    /// `https` URLs go through `tunnel`, `http` URLs to the proxy.
    Http {
        proxy: Proxy,
        address: Uri,
        tunnel: Box<HttpsConnector<Tunnel<Direct>>>,
    },
    Socks {
        address: Uri,
        through: Box<HttpsConnector<SocksV5<HttpConnector<Resolver>>>>,
    },
}

impl Connector {
    pub(super) fn new(
        tls: Arc<ClientConfig>,
        limit: Duration,
        guard: Option<Guard>,
        proxy: Option<&Proxy>,
    ) -> Connector {
        let mut tcp = HttpConnector::new_with_resolver(Resolver { system: GaiResolver::new(), guard: guard.clone() });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        let way = match proxy {
            None => Way::Direct,
            Some(proxy) if proxy.is_socks() => {
                let mut socks = SocksV5::new(proxy.address(), tcp.clone());
                if let Some((name, password)) = proxy.user.clone() {
                    socks = socks.with_auth(name, password);
                }
                Way::Socks { address: proxy.address(), through: Box::new(HttpsConnector::from((socks, tls.clone()))) }
            }
            Some(proxy) => {
                let to_proxy = HttpsConnector::from((tcp.clone(), http1_only(&tls)));
                let mut tunnel = Tunnel::new(proxy.address(), to_proxy);
                if let Some(authorization) = proxy.authorization() {
                    tunnel = tunnel.with_auth(authorization);
                }
                let tunnel = Box::new(HttpsConnector::from((tunnel, tls.clone())));
                Way::Http { proxy: proxy.clone(), address: proxy.address(), tunnel }
            }
        };
        let tls = if proxy.is_some() { http1_only(&tls) } else { tls };
        Connector { direct: HttpsConnector::from((tcp, tls)), way, guard, limit }
    }

    pub(super) fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// The credentials that requests need which a proxy forwards.
    pub(super) fn forwards_as(&self) -> Option<HeaderValue> {
        match &self.way {
            Way::Http { proxy, .. } => proxy.authorization(),
            Way::Direct | Way::Socks { .. } => None,
        }
    }

    /// The proxy's address, if it stands in its URL and the guard refuses it: it is connected to without the resolver.
    fn refused_proxy(&self) -> Option<IpAddr> {
        let address = match &self.way {
            Way::Direct => return None,
            Way::Http { address, .. } | Way::Socks { address, .. } => literal(address.host()?)?,
        };
        self.guard.as_ref().filter(|guard| !guard(address)).map(|_| address)
    }
}

/// The same settings for a connection to a proxy, which is asked in HTTP/1.1.
fn http1_only(tls: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut tls = ClientConfig::clone(tls);
    tls.alpn_protocols.clear();
    Arc::new(tls)
}

type Connecting = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // All connectors below are ready at any time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        if let Some(address) = self.refused_proxy() {
            return Box::pin(std::future::ready(Err(AllRefused(address).into())));
        }
        let connecting: Connecting = match &mut self.way {
            Way::Direct => stream(self.direct.call(url), false),
            Way::Http { tunnel, .. } if url.scheme_str() == Some("https") => stream(tunnel.call(url), false),
            Way::Http { address, .. } => stream(self.direct.call(address.clone()), true),
            Way::Socks { through, .. } => stream(through.call(url), false),
        };
        let limit = self.limit;
        Box::pin(async move {
            timeout(limit, connecting).await.unwrap_or_else(|_| {
                let wrong = format!("no connection within {} s", limit.as_secs_f32());
                Err(io::Error::new(io::ErrorKind::TimedOut, wrong).into())
            })
        })
    }
}

fn stream<T, E>(connecting: impl Future<Output = Result<T, E>> + Send + 'static, is_forwarded: bool) -> Connecting
where
    T: Io + 'static,
    E: Into<BoxError>,
{
    Box::pin(async move {
        let io = connecting.await.map_err(Into::into)?;
        Ok(Stream { io: Box::new(io), is_forwarded })
    })
}

trait Io: Read + Write + Connection + Send + Unpin {}

impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// An open connection.
pub(super) struct Stream {
    io: Box<dyn Io>,
    /// A proxy forwards the requests, which name their server whole.
    is_forwarded: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_forwarded)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, into)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, parts)
    }
}

/// Resolves names, and leaves out the addresses that the guard does not allow.
#[derive(Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    guard: Option<Guard>,
}

/// All addresses of a name are refused; the first of them.
#[derive(Debug)]
pub(super) struct AllRefused(pub IpAddr);

impl fmt::Display for AllRefused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the address {} may not be reached", self.0)
    }
}

impl std::error::Error for AllRefused {}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.system.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, guard) = (self.system.call(name), self.guard.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            let Some(guard) = guard else { return Ok(found.into_iter()) };
            let allowed: Vec<SocketAddr> = found.iter().copied().filter(|address| guard(address.ip())).collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(first)) => Err(AllRefused(first.ip()).into()),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}
