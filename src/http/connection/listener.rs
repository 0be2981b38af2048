//! Listens on the ports, accepts connections and serves each of them.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

use super::request_line::Lenient;
use super::write_timeout::Patient;
use crate::app::App;
use crate::app::answer_budget::Line;
use crate::http::response::body::Body;
use crate::http::response::compression::Compressible;
use crate::net::tls::Identity;

/// One port that is served.
pub struct Listening {
    pub socket: TcpListener,
    /// The certificate of a port that speaks TLS.
    pub identity: Option<Arc<Identity>>,
}

/// A request as it comes from a connection.
pub struct Received {
    pub request: http::Request<Incoming>,
    /// The connection's handle to the memory budget for answers.
    pub line: Line,
    /// The address of the socket's other end.
    pub peer: Option<IpAddr>,
    /// The connection is encrypted by this server.
    pub encrypted: bool,
}

/// The function that answers requests: the pipeline.
pub trait Respond: Fn(Arc<App>, Received) -> Self::Answering + Clone + Send + Sync + 'static {
    /// The future of one response.
    type Answering: Future<Output = http::Response<Body>> + Send + 'static;
}

impl<F, A> Respond for F
where
    F: Fn(Arc<App>, Received) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = http::Response<Body>> + Send + 'static,
{
    type Answering = A;
}

/// What all ports share.
#[derive(Clone)]
struct Ports<R> {
    app: Arc<App>,
    respond: R,
    /// One for each connection that may be open at once.
    permits: Arc<Semaphore>,
    connections: TaskTracker,
}

/// Accepts connections until shutdown begins, and answers their requests with `respond`. Then lets running
/// requests end, for at most `[settee] drain_timeout` seconds.
pub async fn serve(app: Arc<App>, listeners: Vec<Listening>, respond: impl Respond) -> io::Result<()> {
    let most = app.settings().number("settee", "max_connections") as usize;
    let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let ports = Ports { app: app.clone(), respond, permits, connections: TaskTracker::new() };
    join_all(listeners.into_iter().map(|listening| ports.clone().accept(listening))).await;
    ports.connections.close();
    if tokio::time::timeout(app.drain_timeout(), ports.connections.wait()).await.is_err() {
        tracing::warn!(open = ports.connections.len(), "stopping although connections are still at work");
    }
    Ok(())
}

impl<R: Respond> Ports<R> {
    /// Accepts on one port until shutdown begins.
    async fn accept(self, Listening { socket: listener, identity }: Listening) {
        let begun = self.app.shutdown.begun();
        tokio::pin!(begun);
        let watching = identity.clone().map(|identity| AbortOnDrop(tokio::spawn(identity.watch())));
        loop {
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit,
                () = begun.as_mut() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = begun.as_mut() => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    bound_unsent(&socket);
                    let Some(open) = self.app.limits.connect(peer.ip()) else {
                        self.app.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let (app, respond, identity) = (self.app.clone(), self.respond.clone(), identity.clone());
                    self.connections.spawn(async move {
                        match identity {
                            None => connection(app, respond, socket, Some(peer.ip()), false).await,
                            Some(identity) => encrypted(app, respond, socket, peer.ip(), &identity).await,
                        }
                        drop((permit, open));
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: connections must end before more can be accepted.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(watching);
    }
}

/// Limits how much of an answer the system's send buffer takes before the client reads it. A slow client is
/// then noticed, and the answer fills our bounded memory rather than the system's. Bytes that are on their
/// way to the client are not limited, so that fast connections of any distance stay fast.
fn bound_unsent(socket: &TcpStream) {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(256 << 10);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = socket;
}

/// Ends a task with what it serves.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn encrypted(app: Arc<App>, respond: impl Respond, socket: TcpStream, peer: IpAddr, identity: &Identity) {
    let shaken = tokio::select! {
        shaken = identity.accept(socket) => shaken,
        () = app.shutdown.begun() => return,
    };
    match shaken {
        Ok(socket) => connection(app, respond, socket, Some(peer), true).await,
        Err(error) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
    }
}

/// Serves one connection over any byte stream (TLS wraps the socket before it comes here).
async fn connection<S>(app: Arc<App>, respond: impl Respond, socket: S, peer: Option<IpAddr>, encrypted: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = app.settings();
    let line = app.answers.line();
    let service = {
        let (app, line) = (app.clone(), line.clone());
        tower::service_fn(move |request| {
            let answering = respond(app.clone(), Received { request, line: line.clone(), peer, encrypted });
            async move { Ok::<_, Infallible>(answering.await) }
        })
    };
    let compression = CompressionLayer::new()
        .gzip(true)
        .zstd(true)
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(1024).and(Compressible));
    let service = ServiceBuilder::new().layer(compression).service(service);
    let write_timeout = Duration::from_secs(settings.number("settee", "write_timeout"));
    let header_size = settings.number("settee", "max_header_size") as usize;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.number("settee", "header_timeout")))
        .max_header_size(header_size)
        .max_buf_size(header_size.max(64 << 10))
        .title_case_headers(true)
        .serve_connection(
            TokioIo::new(Lenient::new(Patient::new(socket, line, write_timeout))),
            TowerToHyperService::new(service),
        );
    tokio::pin!(serving);
    app.metrics.open_connections.fetch_add(1, Ordering::Relaxed);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = app.shutdown.begun() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    app.metrics.open_connections.fetch_sub(1, Ordering::Relaxed);
    if let Err(error) = ended {
        tracing::debug!(%error, ?peer, "a connection ended early");
    }
}
