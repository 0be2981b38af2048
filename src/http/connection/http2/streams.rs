//! What the streams of one connection share: their number, the limits on them, and what they leave unwritten.
//!
//! A stream costs the server as much as a connection with one request. All streams but one of a connection
//! therefore count as connections, for `max_connections` and `max_connections_per_address`; the one is covered
//! by the connection itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::app::App;
use crate::app::metrics::Counted;
use crate::app::rate_limits::{Open, TooMany};
use crate::http::connection::received::Peer;
use crate::http::response::error::Failure;

/// Bytes of responses that a connection may hold after their streams have ended. A response that ends beyond
/// this keeps its stream until it is written, so that the stream can be dropped.
const LEFT: i64 = 64 << 10;
/// How many requests the client may cancel in each [`PERIOD`] before the connection is closed: each has made
/// work that was done for nothing ("rapid reset", CVE-2023-44487).
const CANCELLATIONS: u32 = 500;
const PERIOD: Duration = Duration::from_secs(10);

/// The state of one connection.
pub struct Streams {
    app: Arc<App>,
    peer: Peer,
    /// One for each connection that may be open at once.
    permits: Arc<Semaphore>,
    open: AtomicUsize,
    /// When the last stream ended.
    idle_since: Mutex<Instant>,
    /// Bytes of ended responses that are not written.
    left: AtomicI64,
    /// When the current period began, and how many requests were cancelled in it. `None`: the client is a trusted
    /// proxy, behind which one client must not end the requests of all others.
    cancelled: Option<Mutex<(Instant, u32)>>,
    must_close: AtomicBool,
    /// The connection waits for the end of its last stream.
    closing: AtomicBool,
    changed: Notify,
}

/// An open stream, until it is dropped.
pub struct OpenStream {
    streams: Arc<Streams>,
    _of_all: Option<OwnedSemaphorePermit>,
    _of_address: Option<Open>,
    _counted: Counted,
}

impl Streams {
    /// Creates the state of a connection without streams. `trusted`: from a proxy of `trusted_proxies`.
    pub fn new(app: &Arc<App>, peer: Peer, permits: Arc<Semaphore>, trusted: bool) -> Arc<Streams> {
        Arc::new(Streams {
            app: app.clone(),
            peer,
            permits,
            open: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            left: AtomicI64::new(0),
            cancelled: (!trusted).then(|| Mutex::new((Instant::now(), 0))),
            must_close: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Counts a new stream. Returns also why its request is refused, if it is.
    pub fn open(self: &Arc<Streams>) -> (OpenStream, Option<Failure>) {
        let mut stream = OpenStream {
            streams: self.clone(),
            _of_all: None,
            _of_address: None,
            _counted: self.app.metrics.open_streams.count(),
        };
        if self.open.fetch_add(1, Ordering::Relaxed) == 0 {
            return (stream, None);
        }
        let Ok(of_all) = self.permits.clone().try_acquire_owned() else {
            let reason = "The server has too many open requests. Try again later.".into();
            let word = "service_unavailable";
            return (stream, Some(Failure::Refused { status: StatusCode::SERVICE_UNAVAILABLE, word, reason }));
        };
        let Some(of_address) = self.app.limits.connect(self.peer.address) else {
            self.app.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
            let reason = "Too many open requests from this address.";
            return (stream, Some(TooMany { seconds: 5, reason }.into()));
        };
        stream._of_all = Some(of_all);
        stream._of_address = Some(of_address);
        (stream, None)
    }

    /// How long the connection has been without a stream.
    pub fn idle_for(&self) -> Option<Duration> {
        (self.open.load(Ordering::Acquire) == 0).then(|| self.idle_since.lock().elapsed())
    }

    /// Makes the connection learn of the end of its last stream.
    pub fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Waits until the last stream has ended while the connection is closing, or until it must be closed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the connection must be closed at once.
    pub fn must_close(&self) -> bool {
        self.must_close.load(Ordering::Acquire)
    }

    /// Closes the connection at once.
    pub fn close(&self) {
        self.must_close.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Counts a request that the client has cancelled.
    pub fn cancel(&self) {
        let Some(cancelled) = &self.cancelled else { return };
        let (now, mut cancelled) = (Instant::now(), cancelled.lock());
        if now - cancelled.0 > PERIOD {
            *cancelled = (now, 0);
        }
        cancelled.1 += 1;
        if cancelled.1 == CANCELLATIONS {
            self.app.metrics.floods.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %self.peer.address, "too many requests of a connection were cancelled");
            self.close();
        }
    }

    /// Whether a response may end although `bytes` of it are not written.
    pub fn may_leave(&self, bytes: u64) -> bool {
        self.left.load(Ordering::Relaxed).saturating_add_unsigned(bytes) <= LEFT
    }

    /// Adds to the bytes that ended responses leave unwritten. It may be for a moment below zero, when another
    /// thread writes them before they are added.
    pub fn leave(&self, bytes: i64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let streams = &self.streams;
        *streams.idle_since.lock() = Instant::now();
        if streams.open.fetch_sub(1, Ordering::Release) == 1 && streams.closing.load(Ordering::Acquire) {
            streams.changed.notify_one();
        }
    }
}
