//! Detects patterns that are unusual for normal clients: many deletions, requests for missing documents or
//! wrong passwords from one user or address within a minute.
//!
//! A pattern is counted in `_stats` and written to the audit log, but no request is refused: a client that
//! cleans up can cause the same pattern.

use std::time::Duration;

use parking_lot::Mutex;

use super::rate_limits::Origin;
use crate::bounded_map::Bounded;
use crate::clock::Clock;

/// Maximum number of users and addresses that are tracked.
const WATCHED: usize = 20_000;
/// Length of the window in which events are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of denials per user or address and window that are written to the audit log, so that an
/// attacker cannot fill the disk.
const DENIALS: u64 = 100;

/// The kinds of counted events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    MassDeletion,
    IdScanning,
    Guessing,
    /// A refused request. Not a pattern; this count limits the entries in the audit log.
    Denial,
}

/// The subject of a count: a user, or the address of a client that is not authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    User(String),
    Address(Origin),
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    counts: [u64; 4],
}

/// Counts events per subject and window, in bounded memory.
pub struct Anomalies {
    seen: Mutex<Bounded<Who, Window>>,
    clock: Clock,
}

impl Anomalies {
    /// Creates empty counts.
    pub fn new(clock: Clock) -> Anomalies {
        Anomalies { seen: Mutex::new(Bounded::new(WATCHED)), clock }
    }

    /// Adds to a count. Returns whether this addition reaches `threshold` in the current window. A threshold
    /// of 0 is never reached.
    pub fn note(&self, who: Who, pattern: Pattern, count: u64, threshold: u64) -> bool {
        if threshold == 0 || count == 0 {
            return false;
        }
        let (before, after) = self.add(who, pattern, count);
        before < threshold && after >= threshold
    }

    /// Counts a denial. Returns whether it should be written to the audit log.
    pub fn denial(&self, who: Who) -> bool {
        self.add(who, Pattern::Denial, 1).1 <= DENIALS
    }

    fn add(&self, who: Who, pattern: Pattern, count: u64) -> (u64, u64) {
        let now = self.clock.since_epoch();
        let mut seen = self.seen.lock();
        let fits = |window: &Window| now.checked_sub(window.began).is_some_and(|age| age < WINDOW);
        let add = |window: &mut Window| {
            let counted = &mut window.counts[pattern as usize];
            let before = *counted;
            *counted = before.saturating_add(count);
            (before, *counted)
        };
        match seen.get_mut(&who) {
            Some(window) => {
                if !fits(window) {
                    *window = Window { began: now, ..Window::default() };
                }
                add(window)
            }
            None => {
                let mut window = Window { began: now, ..Window::default() };
                let counted = add(&mut window);
                seen.insert(who, window);
                counted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Who {
        Who::User("ann".into())
    }

    #[test]
    fn reaching_a_threshold_is_reported_once_per_window() {
        let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
        let anomalies = Anomalies::new(clock.clone());
        let delete = |who, count| anomalies.note(who, Pattern::MassDeletion, count, 100);
        assert!(!delete(ann(), 99));
        assert!(!anomalies.note(ann(), Pattern::IdScanning, 99, 100), "another count");
        assert!(!delete(Who::Address(Origin::of([203, 0, 113, 1].into())), 99), "somebody else");
        assert!(delete(ann(), 1));
        assert!(!delete(ann(), 500), "told already");
        clock.advance(WINDOW);
        assert!(!delete(ann(), 99));
        clock.advance(WINDOW / 2);
        assert!(delete(ann(), 99));
        assert!(!anomalies.note(ann(), Pattern::Guessing, 1000, 0), "off");
    }

    #[test]
    fn logged_denials_are_limited_per_window() {
        let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
        let anomalies = Anomalies::new(clock.clone());
        let told = || (0..1000).filter(|_| anomalies.denial(ann())).count() as u64;
        assert_eq!((told(), told()), (DENIALS, 0));
        clock.advance(WINDOW);
        assert_eq!(told(), DENIALS);
    }
}
