//! One connection that speaks HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceBuilder;

use super::received::{Peer, Received, Respond};
use super::request_line::RequestLineRepair;
use super::write_timeout::WriteTimeout;
use crate::app::App;
use crate::http::response::compression::compression;

/// Serves one connection over any byte stream (TLS wraps the socket before it comes here).
pub async fn serve<S>(app: Arc<App>, respond: impl Respond, socket: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = app.settings();
    let line = app.answers.line();
    let service = {
        let (app, line) = (app.clone(), line.clone());
        tower::service_fn(move |request| {
            let answering = respond(app.clone(), Received { request, line: line.clone(), peer, refused: None });
            async move { Ok::<_, Infallible>(answering.await) }
        })
    };
    let service = ServiceBuilder::new().layer(compression()).service(service);
    let write_timeout = Duration::from_secs(settings.number("settee", "write_timeout"));
    let header_size = settings.number("settee", "max_header_size") as usize;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.number("settee", "header_timeout")))
        .max_header_size(header_size)
        .max_buf_size(header_size.max(64 << 10))
        .title_case_headers(true)
        .serve_connection(
            TokioIo::new(RequestLineRepair::new(WriteTimeout::new(socket, line, write_timeout))),
            TowerToHyperService::new(service),
        );
    // A connection may last for days: it does not keep the settings that it began with.
    drop(settings);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = app.shutdown.begun() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %peer.address, "a connection ended early");
    }
}
