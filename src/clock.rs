//! Time, randomness and UUIDs behind one handle, so that tests can fix them.

#![warn(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The source of time and randomness. A cheap handle; every component holds a clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System,
    /// Milliseconds since the epoch, advanced only by tests; the "random" bytes are derived from a counter.
    Fixed {
        millis: AtomicU64,
        drawn: AtomicU64,
    },
}

impl Clock {
    /// The machine's clock and the operating system's randomness.
    pub fn system() -> Clock {
        Clock(Arc::new(Source::System))
    }

    /// A clock that stays at `since_epoch` until [`Clock::advance`] moves it, with predictable "randomness".
    /// For tests.
    pub fn fixed(since_epoch: Duration) -> Clock {
        Clock(Arc::new(Source::Fixed {
            millis: AtomicU64::new(since_epoch.as_millis() as u64),
            drawn: AtomicU64::new(0),
        }))
    }

    /// Whether this is a fixed clock, which only [`Clock::advance`] moves.
    pub fn is_fixed(&self) -> bool {
        matches!(&*self.0, Source::Fixed { .. })
    }

    /// Moves a fixed clock forward. Does nothing on a system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Fixed { millis, .. } = &*self.0 {
            millis.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Time since the Unix epoch.
    pub fn since_epoch(&self) -> Duration {
        match &*self.0 {
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Fixed { millis, .. } => Duration::from_millis(millis.load(Ordering::Relaxed)),
        }
    }

    /// 16 unpredictable bytes.
    pub fn random_16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill_random(&mut bytes);
        bytes
    }

    /// Fills `bytes` with unpredictable bytes.
    pub fn fill_random(&self, bytes: &mut [u8]) {
        match &*self.0 {
            Source::System => getrandom::fill(bytes).expect("the operating system provides randomness"),
            Source::Fixed { drawn, .. } => {
                for byte in bytes.iter_mut() {
                    *byte = (drawn.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
                }
            }
        }
    }

    /// 32 lower-case hex digits, like CouchDB's `random` UUID algorithm.
    pub fn uuid(&self) -> String {
        crate::hex::hex(&self.random_16())
    }
}
