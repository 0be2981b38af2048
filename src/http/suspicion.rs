//! Patterns that normal clients do not show: many deletions, many misses, many wrong passwords of one user or address within a
//! minute. Counted for `_stats`, told to the audit log, never refused: a client that tidies up may do the same.

use std::time::Duration;

use parking_lot::Mutex;

use super::limits::Origin;
use crate::auth::bounded::Bounded;
use crate::clock::Clock;

/// Users and addresses that are watched at once.
const WATCHED: usize = 20_000;
/// What is counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Denials of one user or address that are told one by one in a window; who is refused without end fills no disk.
const DENIALS: u64 = 100;

/// What may be suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    MassDeletion,
    IdScanning,
    Guessing,
    /// Not a pattern by itself: bounds what the audit log is told.
    Denial,
}

/// Who shows it: a user, or an address without one.
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

/// Counts, in bounded memory.
pub struct Suspicion {
    seen: Mutex<Bounded<Who, Window>>,
    clock: Clock,
}

impl Suspicion {
    pub fn new(clock: Clock) -> Suspicion {
        Suspicion { seen: Mutex::new(Bounded::new(WATCHED)), clock }
    }

    /// Adds to a count of this minute. Whether that is what reaches `threshold` (0: never).
    pub fn note(&self, who: Who, pattern: Pattern, count: u64, threshold: u64) -> bool {
        if threshold == 0 || count == 0 {
            return false;
        }
        let (before, after) = self.add(who, pattern, count);
        before < threshold && after >= threshold
    }

    /// Counts a denial; whether it is to be told.
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
    fn a_threshold_is_told_once_a_minute() {
        let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
        let suspicion = Suspicion::new(clock.clone());
        let delete = |who, count| suspicion.note(who, Pattern::MassDeletion, count, 100);
        assert!(!delete(ann(), 99));
        assert!(!suspicion.note(ann(), Pattern::IdScanning, 99, 100), "another count");
        assert!(!delete(Who::Address(Origin::of([203, 0, 113, 1].into())), 99), "somebody else");
        assert!(delete(ann(), 1));
        assert!(!delete(ann(), 500), "told already");
        clock.advance(WINDOW);
        assert!(!delete(ann(), 99));
        clock.advance(WINDOW / 2);
        assert!(delete(ann(), 99));
        assert!(!suspicion.note(ann(), Pattern::Guessing, 1000, 0), "off");
    }

    #[test]
    fn denials_without_end_are_told_up_to_a_bound() {
        let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
        let suspicion = Suspicion::new(clock.clone());
        let told = || (0..1000).filter(|_| suspicion.denial(ann())).count() as u64;
        assert_eq!((told(), told()), (DENIALS, 0));
        clock.advance(WINDOW);
        assert_eq!(told(), DENIALS);
    }
}
