//! Listens on the ports, accepts connections and serves each of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::received::{Peer, Respond};
use super::{http1, http2, preface};
use crate::app::App;
use crate::net::tls::{HTTP_2, Identity};

/// One port that is served.
pub struct Listening {
    pub socket: TcpListener,
    /// The certificate of a port that speaks TLS.
    pub identity: Option<Arc<Identity>>,
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
                    let (ports, identity) = (self.clone(), identity.clone());
                    let peer = Peer { address: peer.ip(), encrypted: identity.is_some(), is_owner: false };
                    self.connections.spawn(async move {
                        match identity {
                            None => ports.plain(socket, peer).await,
                            // Boxed: a connection without TLS does not take the memory of the other future.
                            Some(identity) => Box::pin(ports.encrypted(socket, peer, &identity)).await,
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

    /// Serves a connection without TLS, whose first bytes say whether it speaks HTTP/2.
    async fn plain(self, socket: TcpStream, peer: Peer) {
        let _open = self.app.metrics.open_connections.count();
        let settings = self.app.settings();
        let mut is_http2 = false;
        if settings.flag("settee", "http2") {
            let patience = Duration::from_secs(settings.number("settee", "header_timeout"));
            is_http2 = tokio::select! {
                first = tokio::time::timeout(patience, preface::begins(&socket)) => match first {
                    Ok(Ok(is_http2)) => is_http2,
                    Ok(Err(_)) | Err(_) => return,
                },
                () = self.app.shutdown.begun() => return,
            };
        }
        drop(settings);
        if is_http2 {
            // Boxed: a connection with HTTP/1.1 does not take the memory of the other future.
            Box::pin(http2::serve(self.app, self.respond, socket, peer, self.permits)).await;
        } else {
            http1::serve(self.app, self.respond, socket, peer).await;
        }
    }

    /// Serves a connection after its TLS handshake, which has agreed on the version of HTTP.
    async fn encrypted(self, socket: TcpStream, peer: Peer, identity: &Identity) {
        let shaken = tokio::select! {
            shaken = identity.accept(socket) => shaken,
            () = self.app.shutdown.begun() => return,
        };
        let _open = self.app.metrics.open_connections.count();
        match shaken {
            Ok(socket) if socket.get_ref().1.alpn_protocol() == Some(HTTP_2) => {
                Box::pin(http2::serve(self.app, self.respond, socket, peer, self.permits)).await;
            }
            Ok(socket) => http1::serve(self.app, self.respond, socket, peer).await,
            Err(error) => tracing::debug!(%error, peer = %peer.address, "a TLS handshake failed"),
        }
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
