//! The state that all jobs of one host share: its connections, and the rate of requests that it accepts.
//!
//! A host that answers 429 or 503 is asked less often: each such answer multiplies the interval between two
//! requests, and each good answer shortens it a little (additive decrease, multiplicative increase, as CouchDB's
//! `couch_replicator_rate_limiter`, which counts for each method and URL; settee counts for each host, because
//! it is the host that has too much to do).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The first interval after a refusal, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(25);
/// How much longer the interval is after each refusal.
const FACTOR: f64 = 1.2;
/// How much shorter it is after each good answer. An interval longer than the first is shortened by this many steps at
/// once: otherwise 25 s would take 1,250 answers.
const STEP: Duration = Duration::from_millis(20);
const FASTER: [(Duration, u32); 3] =
    [(Duration::from_secs(10), 50), (Duration::from_secs(1), 5), (Duration::from_millis(100), 2)];

/// One host and port.
pub(crate) struct Host {
    connections: Arc<Semaphore>,
    allowed: AtomicUsize,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    interval: Duration,
    /// When the next request may start.
    next: Option<Instant>,
    /// When the interval was last made longer: refusals of requests that were on their way count once.
    slowed: Option<Instant>,
}

impl Host {
    pub fn new(connections: usize) -> Host {
        let connections = connections.max(1);
        Host {
            connections: Arc::new(Semaphore::new(connections)),
            allowed: AtomicUsize::new(connections),
            pace: Mutex::default(),
        }
    }

    /// Allows at least this many connections.
    pub fn allow(&self, connections: usize) {
        let before = self.allowed.fetch_max(connections, Ordering::Relaxed);
        self.connections.add_permits(connections.saturating_sub(before));
    }

    /// Waits for a connection and for the time of the next request. Requests are served in the order in which
    /// they come, so that all jobs get their share.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        let permit = self.connections.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.pause().await;
        permit
    }

    /// Waits for the time of the next request.
    pub async fn pause(&self) {
        if let Some(at) = self.next_start(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// When the next request may start, if it has to wait.
    fn next_start(&self, now: Instant) -> Option<Instant> {
        let mut pace = self.pace.lock();
        if pace.interval.is_zero() {
            return None;
        }
        let at = pace.next.map_or(now, |next| next.max(now));
        pace.next = Some(at + pace.interval);
        Some(at)
    }

    /// The host has answered.
    pub fn answered(&self) {
        self.answered_at(Instant::now());
    }

    fn answered_at(&self, now: Instant) {
        let mut pace = self.pace.lock();
        let times = FASTER.iter().find(|(longer, _)| pace.interval > *longer).map_or(1, |(_, times)| *times);
        pace.interval = pace.interval.saturating_sub(STEP * times);
        // The next request does not wait for intervals that were reserved when they were longer.
        pace.next = pace.next.filter(|_| !pace.interval.is_zero()).map(|next| next.min(now + pace.interval));
    }

    /// The host has too much to do.
    pub fn refused(&self) {
        self.refused_at(Instant::now());
    }

    fn refused_at(&self, now: Instant) {
        let mut pace = self.pace.lock();
        if pace.slowed.is_some_and(|slowed| now.duration_since(slowed) < pace.interval) {
            return;
        }
        pace.interval = pace.interval.mul_f64(FACTOR).clamp(FIRST, LONGEST);
        pace.slowed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_grows_with_refusals_and_shrinks_with_answers() {
        let host = Host::new(2);
        let interval = || host.pace.lock().interval;
        let mut now = Instant::now();
        assert_eq!(host.next_start(now), None, "no interval at first");
        host.refused_at(now);
        host.refused_at(now);
        assert_eq!(interval(), FIRST, "refusals at the same time count once");
        for _ in 0..100 {
            now += LONGEST;
            host.refused_at(now);
        }
        assert_eq!(interval(), LONGEST, "it is bounded");
        assert_eq!(host.next_start(now), Some(now));
        assert_eq!(host.next_start(now), Some(now + LONGEST));
        (0..1000).for_each(|_| assert!(host.next_start(now).is_some()));
        host.answered_at(now);
        assert!(host.next_start(now) <= Some(now + LONGEST), "one answer forgets the queue");
        let mut answers = 0;
        while !interval().is_zero() {
            host.answered_at(now);
            answers += 1;
        }
        assert!(answers < 200, "{answers} answers until it is asked as before");
        assert_eq!(host.next_start(now), None);
    }

    #[tokio::test]
    async fn connections_are_limited_and_more_can_be_allowed() {
        let host = Host::new(1);
        let first = host.turn().await;
        assert_eq!(host.connections.available_permits(), 0);
        host.allow(3);
        host.allow(2);
        assert_eq!(host.connections.available_permits(), 2);
        drop(first);
        assert_eq!(host.connections.available_permits(), 3);
    }
}
