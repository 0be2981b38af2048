//! How fast an answer comes: a peer that sends a byte now and then would hold its connection without end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bytes a second at least, over each minute of waiting.
const SLOWEST: u64 = 256;
const MINUTE: Duration = Duration::from_secs(60);

/// Measures how long a peer is waited for, and what comes in that time.
///
/// Only the peer's time counts. Who reads an answer may do so late: while the target takes what was read before,
/// nobody looks whether there is more. What has come meanwhile was not waited for.
pub(super) struct Pace {
    bell: Arc<Bell>,
    waited: Duration,
    received: u64,
    /// The answer of a feed may be slow without end, as long as bytes arrive.
    is_feed: bool,
}

/// Wakes the reader, and remembers when.
struct Bell {
    /// The reader, and when it was woken.
    state: Mutex<(Option<Waker>, Option<Instant>)>,
    now: fn() -> Instant,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        let waker = {
            let mut state = self.state.lock();
            state.1.get_or_insert_with(self.now);
            state.0.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Bell {
    /// Rings for this reader from now on. Returns when it has rung last.
    fn set(&self, waker: &Waker) -> Option<Instant> {
        let mut state = self.state.lock();
        state.0 = Some(waker.clone());
        state.1.take()
    }
}

impl Pace {
    /// Of an answer to the request for this path below a database. The server of a feed may search for long before it
    /// sends a row.
    pub fn of(path: &str) -> Pace {
        Pace::by(path, Instant::now)
    }

    fn by(path: &str, now: fn() -> Instant) -> Pace {
        let name = path.split(['?', '/']).nth(1);
        let is_feed = path.starts_with('/') && name == Some("_changes");
        let bell = Arc::new(Bell { state: Mutex::default(), now });
        Pace { bell, waited: Duration::ZERO, received: 0, is_feed }
    }

    /// Waits for something of the peer, and counts the time until it is there.
    pub async fn wait<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let mut since: Option<Instant> = None;
        poll_fn(|context| {
            let rung = self.bell.set(context.waker());
            let now = (self.bell.now)();
            if let Some(since) = since {
                self.waited += rung.unwrap_or(now).saturating_duration_since(since);
            }
            since = Some(now);
            poll(&mut Context::from_waker(&Waker::from(self.bell.clone())))
        })
        .await
    }

    /// Counts bytes that have come. Returns false if it is too slow.
    pub fn is_fine_after(&mut self, bytes: usize) -> bool {
        self.received = self.received.saturating_add(bytes as u64);
        if self.waited <= MINUTE || self.is_feed {
            return true;
        }
        let is_fine = self.received >= self.waited.as_secs().saturating_mul(SLOWEST);
        (self.waited, self.received) = (Duration::ZERO, 0);
        is_fine
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::mpsc;

    use super::*;

    thread_local! {
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn now() -> Instant {
        Instant::now() + PASSED.get()
    }

    fn pass(seconds: u64) {
        PASSED.set(PASSED.get() + Duration::from_secs(seconds));
    }

    /// Reads a piece that comes after so many seconds, and is looked at so many seconds later: another reader of the
    /// same task waits for the target.
    async fn read(pace: &mut Pace, bytes: usize, before: u64, late: u64) -> bool {
        // Otherwise, after many reads, the runtime would let this task wait although there is something.
        tokio::task::yield_now().await;
        let (send, mut receive) = mpsc::unbounded_channel();
        {
            let mut next = Box::pin(pace.wait(|context| receive.poll_recv(context)));
            assert!(futures_util::poll!(&mut next).is_pending());
            pass(before);
            send.send(()).unwrap();
            pass(late);
            assert_eq!(next.await, Some(()));
        }
        pace.is_fine_after(bytes)
    }

    /// How many of a hundred pieces are read.
    async fn pieces(path: &str, bytes: usize, before: u64, late: u64) -> usize {
        let mut pace = Pace::by(path, now);
        for read_so_far in 0..100 {
            if !read(&mut pace, bytes, before, late).await {
                return read_so_far;
            }
        }
        100
    }

    #[tokio::test]
    async fn only_a_peer_that_is_slow_itself_is_too_slow() {
        assert_eq!(pieces("/a?open_revs=x", 100, 11, 0).await, 5, "nine bytes a second, for more than a minute");
        assert_eq!(pieces("/a?open_revs=x", 3000, 10, 0).await, 100, "fast enough");
        assert_eq!(pieces("/a?open_revs=x", 100, 0, 3600).await, 100, "the reader is slow");
        assert_eq!(pieces("/a?open_revs=x", 300, 1, 3600).await, 100, "the reader is much slower than the peer");
        assert_eq!(pieces("/_changes?feed=normal", 1, 50, 0).await, 100, "a feed that searches for an hour");
        assert_eq!(pieces("/a/_changes", 1, 50, 0).await, 1, "an attachment of that name");
    }

    #[tokio::test]
    async fn a_fast_beginning_does_not_count_for_ever() {
        let mut pace = Pace::by("/a", now);
        assert!(read(&mut pace, 1 << 30, 0, 0).await);
        assert!(read(&mut pace, 1, 50, 0).await);
        assert!(read(&mut pace, 1, 50, 0).await, "the first minute");
        assert!(read(&mut pace, 1, 50, 0).await);
        assert!(!read(&mut pace, 1, 50, 0).await, "the second one");
    }
}
