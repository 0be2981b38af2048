//! One connection that speaks HTTP/1.1.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::received::{Peer, Received, Respond};
use super::request_line::RequestLineRepair;
use super::write_timeout::WriteTimeout;
use crate::app::App;

/// Serves one connection over any byte stream (TLS wraps the socket before it comes here).
///
/// Not an `async fn`: such a future has room for its arguments and for what is made of them, and thousands of connections
/// wait.
pub fn serve<S>(app: Arc<App>, respond: impl Respond, socket: S, peer: Peer) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = app.settings();
    let line = app.answers.line();
    let write_timeout = Duration::from_secs(settings.number("settee", "write_timeout"));
    let header_size = settings.number("settee", "max_header_size") as usize;
    let header_timeout = Duration::from_secs(settings.number("settee", "header_timeout"));
    let io = TokioIo::new(RequestLineRepair::new(WriteTimeout::new(socket, line.clone(), write_timeout)));
    let shutdown = app.shutdown.clone();
    let service = service_fn(move |request| {
        let received = Received { request, line: line.clone(), peer, refused: None };
        respond(app.clone(), received).map(Ok::<_, Infallible>)
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(header_size)
        .max_buf_size(header_size.max(64 << 10))
        .title_case_headers(true)
        .serve_connection(io, service);
    async move {
        let mut begun = pin!(shutdown.begun());
        let mut watches = false;
        let ended = poll_fn(|context| {
            if let Poll::Ready(ended) = serving.poll_unpin(context) {
                return Poll::Ready(Some(ended));
            }
            // Polled once, since the task that it wakes stays the same: each poll takes a lock that all connections share.
            if watches && !shutdown.has_begun() {
                return Poll::Pending;
            }
            watches = true;
            begun.as_mut().poll(context).map(|()| None)
        });
        let ended = match ended.await {
            Some(ended) => ended,
            None => {
                Pin::new(&mut serving).graceful_shutdown();
                (&mut serving).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, peer = %peer.address, "a connection ended early");
        }
    }
}
