//! Counters of the HTTP side, under the names that CouchDB's `_stats` gives them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the request-time histogram, in milliseconds; one more bucket holds the rest.
pub const BOUNDS_MS: [u64; 11] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];

/// Counters since the start. Relaxed: they are for people and dashboards.
#[derive(Default)]
pub struct Metrics {
    pub requests: AtomicU64,
    pub aborted_requests: AtomicU64,
    pub bulk_requests: AtomicU64,
    pub view_reads: AtomicU64,
    pub database_reads: AtomicU64,
    pub database_writes: AtomicU64,
    pub document_writes: AtomicU64,
    pub document_inserts: AtomicU64,
    pub open_databases: AtomicI64,
    pub auth_cache_hits: AtomicU64,
    pub auth_cache_misses: AtomicU64,
    /// Waiting and streaming `_changes` right now.
    pub clients_requesting_changes: AtomicI64,
    pub open_connections: AtomicI64,
    /// Connections refused because their address had enough of them.
    pub refused_connections: AtomicU64,
    /// Passwords that were right, where one was asked for or hashed.
    pub sign_ins: AtomicU64,
    pub sign_in_failures: AtomicU64,
    /// Sign-ins refused because too many failed before.
    pub lockouts: AtomicU64,
    /// Requests answered 401 or 403.
    pub denials: AtomicU64,
    /// Users and minutes with so many deletions that it was told (`[audit] mass_deletion`).
    pub mass_deletions: AtomicU64,
    /// Users and minutes with so many documents that were not there (`[audit] id_scanning`).
    pub id_scans: AtomicU64,
    /// Addresses and minutes with so many wrong passwords (`[audit] guessing`).
    pub guessing: AtomicU64,
    /// Requests answered 429.
    pub rate_limited: AtomicU64,
    pub sent_bytes: AtomicU64,
    methods: [AtomicU64; METHODS.len()],
    statuses: [AtomicU64; STATUSES.len()],
    times: [AtomicU64; BOUNDS_MS.len() + 1],
    time_total_us: AtomicU64,
}

/// Methods that are counted, in CouchDB's order.
pub const METHODS: [&str; 8] = ["COPY", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "OTHER"];
/// Statuses that are counted; others are not.
pub const STATUSES: [u16; 23] =
    [200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 416, 417, 429, 500];

impl Metrics {
    /// Counts one finished request.
    pub fn count(&self, method: &str, status: u16, time: Duration, bytes: u64, whole: bool) {
        let counter = if whole { &self.requests } else { &self.aborted_requests };
        counter.fetch_add(1, Ordering::Relaxed);
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        self.methods[method].fetch_add(1, Ordering::Relaxed);
        if let Some(status) = STATUSES.iter().position(|known| *known == status) {
            self.statuses[status].fetch_add(1, Ordering::Relaxed);
        }
        let millis = time.as_millis() as u64;
        let bucket = BOUNDS_MS.iter().position(|bound| millis <= *bound).unwrap_or(BOUNDS_MS.len());
        self.times[bucket].fetch_add(1, Ordering::Relaxed);
        self.time_total_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Method → requests.
    pub fn methods(&self) -> BTreeMap<&'static str, u64> {
        METHODS.iter().zip(&self.methods).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    /// Status → answers.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        STATUSES.iter().zip(&self.statuses).map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    /// Requests per bucket of [`BOUNDS_MS`] (not cumulative), and the sum of all times in seconds.
    pub fn times(&self) -> (Vec<u64>, f64) {
        let buckets = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        (buckets, self.time_total_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}
