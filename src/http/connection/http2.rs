//! One connection that speaks HTTP/2: many requests at once, each on a stream of its own.
//!
//! ```text
//! socket ── hyper (frames, header compression, flow control) ──> a task for each stream
//!                      request_head: as HTTP/1.1 would say it ──> pipeline ──> measured_body ──> hyper
//! ```
//! Every limit of a connection with HTTP/1.1 holds here for each stream (`streams`, `stream_task`) or for the
//! connection:
//! - Streams count as connections; headers have a size; rates, bodies and answers are limited by the pipeline.
//! - A client that takes nothing loses the stream after `write_timeout`, or sooner if memory is short.
//! - A connection without streams is closed after `header_timeout`. A client that answers no ping is gone.
//! - What a client may send before it is read is the receive window ([`receive_window`]).
//! - Floods of resets close the connection; those of other frames are bounded by the `h2` crate, which answers
//!   one frame at a time and counts small ones.

mod fallback;
mod measured_body;
mod request_head;
mod stream_task;
mod streams;
mod unwritten;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::fallback::Fallback;
use self::measured_body::Measured;
use self::stream_task::{Next, StreamTasks};
use self::streams::Streams;
use self::unwritten::Unwritten;
use super::received::{Peer, Received, Respond};
use super::write_timeout::WriteTimeout;
use crate::app::App;
use crate::config::Settings;
use crate::http::response::compression::Sent;

/// Bytes that all connections may receive together before anybody reads them, as long as they are few.
const WINDOWS: u64 = 256 << 20;
/// The largest and the smallest window of a connection.
const WINDOW: std::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 20);
/// Bytes that a stream may have in the connection before its body waits; a single larger piece is let through.
const AHEAD: usize = 64 << 10;
/// How many requests that have not begun a trusted proxy may cancel at once; for others `h2` has a limit of 20.
const OF_PROXIES: usize = 1000;
/// How long a client without requests has to close a connection that the server ends.
const PARTING: Duration = Duration::from_secs(1);

/// Serves one connection over any byte stream.
pub async fn serve<S>(app: Arc<App>, respond: impl Respond, socket: S, peer: Peer, permits: Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _counted = app.metrics.open_http2_connections.count();
    let settings = app.settings();
    let (idle, write_timeout) = (seconds(&settings, "header_timeout"), seconds(&settings, "write_timeout"));
    let trusted = settings.trusted_proxies.contains(peer.address);
    let streams = Streams::new(&app, peer, permits, trusted);
    let requests = Requests { app: app.clone(), respond, peer, streams: streams.clone(), next: Next::default() };
    let tasks = StreamTasks { next: requests.next.clone(), write_timeout };
    let window = receive_window(app.metrics.open_http2_connections.value());
    let serving = builder(&settings, tasks, window, trusted).serve_connection(
        TokioIo::new(Fallback::new(WriteTimeout::new(socket, app.answers.line(), write_timeout))),
        hyper::service::service_fn(move |request| requests.answer(request)),
    );
    drop(settings);
    tokio::pin!(serving);
    let begun = app.shutdown.begun();
    tokio::pin!(begun);
    // Since when the connection takes no more requests.
    let mut closing: Option<Instant> = None;
    loop {
        let rested = streams.idle_for().map(|rested| closing.map_or(rested, |since| rested.min(since.elapsed())));
        let limit = if closing.is_some() { PARTING } else { idle };
        let over = rested.is_some_and(|rested| rested >= limit);
        if streams.must_close() || (over && closing.is_some()) {
            return;
        }
        let closes = over
            || tokio::select! {
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, peer = %peer.address, "a connection ended early");
                    }
                    return;
                }
                () = begun.as_mut(), if closing.is_none() => true,
                () = streams.changed() => false,
                () = tokio::time::sleep(limit - rested.unwrap_or_default()) => false,
            };
        if closes {
            closing = Some(Instant::now());
            streams.begin_closing();
            serving.as_mut().graceful_shutdown();
        }
    }
}

fn seconds(settings: &Settings, key: &str) -> Duration {
    Duration::from_secs(settings.number("settee", key))
}

/// The limits, as the HTTP/2 library takes them.
fn builder(settings: &Settings, tasks: StreamTasks, window: u32, trusted: bool) -> http2::Builder<StreamTasks> {
    let patience = seconds(settings, "header_timeout");
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(settings.number("settee", "max_streams") as u32)
        .max_header_list_size(settings.number("settee", "max_header_size") as u32)
        .max_pending_accept_reset_streams(trusted.then_some(OF_PROXIES))
        .max_send_buf_size(AHEAD)
        .keep_alive_interval(patience / 2)
        .keep_alive_timeout(patience);
    builder
}

/// How many bytes a client may send before they are read, when `open` connections are open. Nothing else
/// limits what is received and not read, so many connections get less each than few.
fn receive_window(open: i64) -> u32 {
    (WINDOWS / open.max(1).unsigned_abs()).clamp(*WINDOW.start(), *WINDOW.end()) as u32
}

/// Answers the requests of a connection.
struct Requests<R> {
    app: Arc<App>,
    respond: R,
    peer: Peer,
    streams: Arc<Streams>,
    next: Next,
}

impl<R: Respond> Requests<R> {
    /// Begins a stream.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Measured<Sent>>, Infallible>> + use<R> {
        let (open, mut refused) = self.streams.open();
        let line = self.app.answers.line();
        let unwritten = Unwritten::new(line.clone(), self.streams.clone());
        *self.next.lock() = Some((unwritten.clone(), open));
        let (mut head, body) = request.into_parts();
        if let Err(failure) = request_head::translate(&mut head) {
            refused.get_or_insert(failure);
        }
        let request = Request::from_parts(head, body);
        let answering = (self.respond)(self.app.clone(), Received { request, line, peer: self.peer, refused });
        async move { Ok(answering.await.map(|body| Measured::new(body, unwritten))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_receive_less_each() {
        for (open, window) in [(0, 1 << 20), (1, 1 << 20), (256, 1 << 20), (1024, 256 << 10), (100_000, 64 << 10)] {
            assert_eq!(receive_window(open), window, "{open}");
        }
    }
}
