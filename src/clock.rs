//! Time, randomness and UUIDs behind one handle, so that tests can fix them.

#![warn(missing_docs)]

use std::cell::RefCell;
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

/// Random names that a thread draws at once.
const NAMES_AT_ONCE: usize = 50;

thread_local! {
    /// The names that [`Clock::random_name`] has drawn, and the number of those that it has returned.
    static NAMES: RefCell<([[u8; 5]; NAMES_AT_ONCE], usize)> =
        const { RefCell::new(([[0; 5]; NAMES_AT_ONCE], NAMES_AT_ONCE)) };
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

    /// Five random bytes for the name of a request: not for secrets. Each thread asks the operating system for many at
    /// once, because a system call for each request would cost more than the rest of its name.
    pub fn random_name(&self) -> [u8; 5] {
        if self.is_fixed() {
            let [first, second, third, fourth, fifth, ..] = self.random_16();
            return [first, second, third, fourth, fifth];
        }
        NAMES.with_borrow_mut(|(names, used)| {
            if *used == names.len() {
                self.fill_random(names.as_flattened_mut());
                *used = 0;
            }
            *used += 1;
            names[*used - 1]
        })
    }

    /// 32 lower-case hex digits, like CouchDB's `random` UUID algorithm.
    pub fn uuid(&self) -> String {
        crate::hex::hex(&self.random_16())
    }
}

/// Seconds since the epoch as CouchDB's replicator writes them: `2026-11-28T23:07:33Z`.
pub fn iso8601(seconds: u64) -> String {
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Days since 1 January 1970 as year, month and day. Years here begin in March: the leap day is then the last day
/// of a year, and months have the lengths of a fixed pattern.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.min(u64::from(u32::MAX)) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn random_names_differ() {
        let names = |count: usize| (0..count).map(|_| Clock::system().random_name()).collect::<HashSet<_>>();
        let other = std::thread::spawn(move || names(3 * NAMES_AT_ONCE)).join().unwrap();
        assert_eq!(names(3 * NAMES_AT_ONCE).union(&other).count(), 6 * NAMES_AT_ONCE);
    }

    #[test]
    fn times_are_written_as_couchdb_does() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_796_083_199, "2026-11-30T23:59:59Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(iso8601(seconds), text);
        }
    }
}
