//! The last day of all replicating clients: sums of each ten minutes, and the last events.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::client::{Key, cut};
use super::record::Sums;

/// Milliseconds of a step.
pub const STEP: u64 = 600_000;
/// Steps that are kept: a day.
pub const STEPS: usize = 144;
/// Events that are kept.
pub const EVENTS: usize = 1000;

/// The sums of one step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// Clients that did something; one that syncs two databases counts twice.
    pub clients: u64,
    pub sums: Sums,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    FirstSeen,
    /// Seen again after an hour or more.
    Back,
    Refused,
    Error,
    /// Counted as a pattern that may be an attack.
    Suspicious,
}

impl EventKind {
    /// Its name in answers.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::FirstSeen => "first_seen",
            EventKind::Back => "back",
            EventKind::Refused => "refused",
            EventKind::Error => "error",
            EventKind::Suspicious => "suspicious",
        }
    }
}

/// Something that happened to one client.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: u64,
    pub kind: EventKind,
    pub key: Key,
    /// The client's name.
    pub client: String,
    pub detail: String,
}

/// The history.
pub struct History {
    steps: Mutex<VecDeque<Step>>,
    events: Mutex<VecDeque<Event>>,
}

/// Whether no request came in the step of `now` before this one.
pub fn is_first_in_step(before: u64, now: u64) -> bool {
    before / STEP != now / STEP
}

impl History {
    /// Creates an empty history.
    pub fn new(now: u64) -> History {
        let first = Step { at: now / STEP * STEP, ..Step::default() };
        History { steps: Mutex::new(VecDeque::from([first])), events: Mutex::default() }
    }

    /// Adds to the step of `now`.
    pub(super) fn count(&self, now: u64, sums: Sums, is_new_client: bool) {
        let mut steps = self.steps.lock();
        let at = now / STEP * STEP;
        if steps.back().is_none_or(|last| last.at < at) {
            if steps.len() == STEPS {
                steps.pop_front();
            }
            steps.push_back(Step { at, ..Step::default() });
        }
        let Some(step) = steps.back_mut() else { return };
        step.clients += u64::from(is_new_client);
        step.sums.add(sums);
    }

    /// Notes an event.
    pub(super) fn note(&self, at: u64, kind: EventKind, (key, client): (&Key, &str), detail: &str) {
        let [client, detail] = [client, detail].map(|text| cut(text).to_owned());
        let event = Event { at, kind, key: key.clone(), client, detail };
        let mut events = self.events.lock();
        if events.len() == EVENTS {
            events.pop_back();
        }
        events.push_front(event);
    }

    /// The steps from `from` to `now`, the oldest first; steps in which nothing happened are zero.
    pub fn steps(&self, from: u64, now: u64) -> Vec<Step> {
        let steps = self.steps.lock();
        let first = steps.front().map_or(now, |first| first.at).max(from / STEP * STEP);
        let mut known = steps.iter().skip_while(|step| step.at < first).peekable();
        (first / STEP..=now / STEP)
            .map(|number| match known.next_if(|step| step.at <= number * STEP) {
                Some(step) => *step,
                None => Step { at: number * STEP, ..Step::default() },
            })
            .collect()
    }

    /// The events that pass, the newest first.
    pub fn events(&self, passes: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.events.lock().iter().filter(|event| passes(event)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_steps_is_kept_and_quiet_ones_are_zero() {
        let history = History::new(0);
        let pull = Sums { pulls: 1, ..Sums::default() };
        history.count(5, pull, true);
        history.count(STEP - 1, pull, false);
        history.count(3 * STEP, pull, true);
        let steps = history.steps(0, 4 * STEP);
        assert_eq!(steps.iter().map(|step| step.sums.pulls).collect::<Vec<_>>(), [2, 0, 0, 1, 0]);
        assert_eq!(steps.iter().map(|step| step.clients).collect::<Vec<_>>(), [1, 0, 0, 1, 0]);
        for number in 0..1000 {
            history.count(number * STEP, pull, true);
        }
        assert_eq!(history.steps(0, 999 * STEP).len(), STEPS);
    }

    #[test]
    fn the_newest_events_are_kept() {
        let history = History::new(0);
        let key = Key::new(Some("ann"), None, "x", "db");
        for number in 0..3000 {
            history.note(number, EventKind::Error, (&key, "x"), "status 500");
        }
        let events = history.events(|_| true);
        assert_eq!((events.len(), events[0].at), (EVENTS, 2999));
    }
}
