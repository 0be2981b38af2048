//! Counters of the HTTP layer. The names are those of CouchDB's `_stats`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the request-time histogram, in milliseconds, inclusive. One more bucket holds longer
/// times.
pub const BOUNDS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];

/// Counters since the server started. They are accessed with relaxed ordering: no decision depends on them.
#[derive(Default)]
pub struct Metrics {
    /// Requests whose response was sent completely.
    pub requests: AtomicU64,
    /// Requests whose response ended early.
    pub aborted_requests: AtomicU64,
    /// Requests to `_bulk_docs` and `_bulk_get`.
    pub bulk_requests: AtomicU64,
    /// Queries of views.
    pub view_reads: AtomicU64,
    /// Clients of `_changes` feeds that wait for changes.
    pub clients_requesting_changes: Arc<Gauge>,
    /// Connections that are open now.
    pub open_connections: Arc<Gauge>,
    /// Those of them that speak HTTP/2.
    pub open_http2_connections: Arc<Gauge>,
    /// Requests over HTTP/2 that are open now.
    pub open_streams: Arc<Gauge>,
    /// Connections with HTTP/2 that were closed because their clients cancelled too many requests.
    pub floods: AtomicU64,
    /// Connections, and requests over HTTP/2, that were refused because their address already had the maximum
    /// number open.
    pub refused_connections: AtomicU64,
    /// Successful password checks.
    pub sign_ins: AtomicU64,
    /// Wrong passwords, cookies and tokens.
    pub sign_in_failures: AtomicU64,
    /// Sign-ins refused because of too many earlier failures.
    pub lockouts: AtomicU64,
    /// Requests answered 401 or 403.
    pub denials: AtomicU64,
    /// How often a user or address reached `[audit] mass_deletion` deletions within a minute.
    pub mass_deletions: AtomicU64,
    /// How often a user or address reached `[audit] id_scanning` requests for missing documents within a
    /// minute.
    pub id_scans: AtomicU64,
    /// How often an address reached `[audit] guessing` failed sign-ins within a minute.
    pub guessing: AtomicU64,
    /// Requests answered with a status from 400 to 499.
    pub client_errors: AtomicU64,
    /// Requests answered with a status from 500 on.
    pub server_errors: AtomicU64,
    /// Requests answered 429.
    pub rate_limited: AtomicU64,
    /// Bytes of response bodies, before compression.
    pub sent_bytes: AtomicU64,
    methods: [AtomicU64; METHODS.len()],
    statuses: [AtomicU64; STATUSES.len()],
    times: Histogram,
    /// Those of `times` that were feeds, which wait for changes.
    feed_times: Histogram,
}

/// The methods with their own counter, in CouchDB's order.
pub const METHODS: [&str; 8] = ["COPY", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "OTHER"];
/// The statuses with their own counter; other statuses are not counted.
pub const STATUSES: [u16; 23] =
    [200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 416, 417, 429, 500];

/// Counts durations by the buckets of [`BOUNDS_MS`].
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    total_us: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// The number of durations in each bucket of [`BOUNDS_MS`] (not cumulative), and in one for longer ones.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
    /// The sum of all durations, in microseconds.
    pub total_us: u64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let millis = time.as_millis() as u64;
        let bucket = BOUNDS_MS.iter().position(|bound| millis <= *bound).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Times {
        let buckets = std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed));
        Times { buckets, total_us: self.total_us.load(Ordering::Relaxed) }
    }
}

impl Times {
    /// What was added since `before`.
    pub fn since(&self, before: &Times) -> Times {
        Times {
            buckets: std::array::from_fn(|index| self.buckets[index].saturating_sub(before.buckets[index])),
            total_us: self.total_us.saturating_sub(before.total_us),
        }
    }
}

/// Counts what exists now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// One of the things that a [`Gauge`] counts, until it is dropped.
pub struct Counted(Arc<Gauge>);

impl Gauge {
    /// Counts one more until the result is dropped.
    pub fn count(self: &Arc<Self>) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// How many there are.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a finished request. `time` is its duration, `bytes` the size of the response body before
    /// compression; `whole` says whether the response was sent completely, `is_feed` whether it may have waited for
    /// changes.
    pub fn count(&self, method: &str, status: u16, time: Duration, bytes: u64, whole: bool, is_feed: bool) {
        let counter = if whole { &self.requests } else { &self.aborted_requests };
        counter.fetch_add(1, Ordering::Relaxed);
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        self.methods[method].fetch_add(1, Ordering::Relaxed);
        if let Some(status) = STATUSES.iter().position(|known| *known == status) {
            self.statuses[status].fetch_add(1, Ordering::Relaxed);
        }
        match status {
            400..500 => self.client_errors.fetch_add(1, Ordering::Relaxed),
            500.. => self.server_errors.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        self.times.add(time);
        if is_feed {
            self.feed_times.add(time);
        }
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Method → number of requests.
    pub fn methods(&self) -> BTreeMap<&'static str, u64> {
        METHODS.iter().zip(&self.methods).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    /// Status → number of responses.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        STATUSES.iter().zip(&self.statuses).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    /// The number of requests per bucket of [`BOUNDS_MS`] (not cumulative), and the sum of all durations in
    /// seconds.
    pub fn times(&self) -> (Vec<u64>, f64) {
        let times = self.times.read();
        (times.buckets.to_vec(), times.total_us as f64 / 1e6)
    }

    /// The times of all requests but feeds.
    pub fn times_without_feeds(&self) -> Times {
        // In this order: a feed is added to both, to `times` first.
        let feeds = self.feed_times.read();
        self.times.read().since(&feeds)
    }
}
