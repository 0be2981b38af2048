//! What is known about the free space within the engine's files, and when the store may look for more.

use std::time::{Duration, Instant};

/// The pause between two looks or queries, as a multiple of the time that the last one took...
const SHARE: u32 = 20;
/// ...but between two looks at least this long.
const PAUSE: Duration = Duration::from_secs(2);
/// Each look that finds too little doubles the pause, at most this many times (for a quick look: up to 8.5
/// minutes). Looks never end: an engine may free its space long after the last write.
const DOUBLINGS: u32 = 8;

/// What is known about the free space within the engine's files.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that the engine can still write into free space of its files: the result of the last query, or
    /// less (see [`Room::written`]).
    pub(super) spare: u64,
    /// Whether `spare` is the result of a query, and nothing was written since.
    pub(super) exact: bool,
    /// When the log last warned that the disk is full. `None` if writes have fit since.
    pub(super) warned: Option<Instant>,
    /// Something was written since the engine was opened at the start or after a failure.
    pub(super) written_since_open: bool,
    /// Whether the reserve file exists.
    pub(super) reserved: bool,
    /// The last look.
    pub(super) looked: Option<Spent>,
    /// The last query.
    pub(super) queried: Option<Spent>,
    /// How many looks in succession have found too little since the last write that freed something.
    fruitless: u32,
}

/// When something ended, and how long it took.
pub(super) struct Spent {
    ended: Instant,
    took: Duration,
}

impl Spent {
    fn new(begun: Instant, ended: Instant) -> Spent {
        Spent { ended, took: ended.saturating_duration_since(begun) }
    }
}

impl Room {
    /// Accounts for a written group. `freed`: whether some of it has freed something.
    pub(super) fn written(&mut self, bytes: usize, freed: bool) {
        self.spare = self.spare.saturating_sub(2 * bytes as u64);
        (self.exact, self.written_since_open) = (false, true);
        if freed {
            self.fruitless = 0;
        }
    }

    /// The engine was opened again after a failure: what is known of looks stays.
    pub(super) fn opened(&mut self) {
        let Room { looked, fruitless, .. } = std::mem::take(self);
        *self = Room { looked, fruitless, ..Room::default() };
    }

    /// Whether `spare` may be queried. A query takes a read of each segment.
    pub(super) fn may_query(&self, now: Instant) -> bool {
        let last = self.queried.as_ref();
        !self.exact && last.is_none_or(|last| now.saturating_duration_since(last.ended) >= last.took * SHARE)
    }

    /// Takes over the result of a query from `begun` to `ended`.
    pub(super) fn queried(&mut self, begun: Instant, ended: Instant, spare: u64) {
        (self.spare, self.exact, self.queried) = (spare, true, Some(Spent::new(begun, ended)));
    }

    /// Whether the pause after the last look has passed.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        self.looked.as_ref().is_none_or(|look| {
            let pause = (look.took * SHARE).max(PAUSE) * (1 << self.fruitless.min(DOUBLINGS));
            now.saturating_duration_since(look.ended) >= pause
        })
    }

    /// Accounts for a look from `begun` to `ended`. `enough`: whether the write that needed space has it now.
    pub(super) fn looked(&mut self, begun: Instant, ended: Instant, enough: bool) {
        self.looked = Some(Spent::new(begun, ended));
        self.fruitless = if enough { 0 } else { self.fruitless.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until the next look may begin.
    fn pause(room: &Room, ended: Instant) -> u32 {
        (0..100_000).find(|seconds| room.may_look(ended + *seconds * SECOND)).unwrap()
    }

    #[test]
    fn looks_become_rarer_until_something_is_freed_and_never_end() {
        let now = Instant::now();
        let mut room = Room::default();
        assert!(room.may_look(now), "a store looks at once");
        let mut pauses = Vec::new();
        for _ in 0..10 {
            room.looked(now, now, false);
            pauses.push(pause(&room, now));
        }
        assert_eq!(pauses, [4, 8, 16, 32, 64, 128, 256, 512, 512, 512]);
        room.written(1, false);
        assert_eq!(pause(&room, now), 512);
        room.written(1, true);
        assert_eq!(pause(&room, now), 2, "also for the look before");
        room.looked(now, now, false);
        room.looked(now, now, true);
        assert_eq!(pause(&room, now), 2, "a look that found enough");
    }

    #[test]
    fn looks_and_queries_take_at_most_a_twentieth_of_the_time() {
        let now = Instant::now();
        let mut room = Room::default();
        assert!(room.may_query(now));
        room.queried(now, now + SECOND, 1000);
        assert!(!room.may_query(now + 1000 * SECOND), "nothing was written since");
        room.written(1, false);
        assert_eq!(room.spare, 998);
        assert!(!room.may_query(now + 20 * SECOND) && room.may_query(now + 21 * SECOND));
        room.looked(now, now + 9 * SECOND, true);
        assert_eq!(pause(&room, now + 9 * SECOND), 180);
        room.looked(now, now + 9 * SECOND, false);
        assert_eq!(pause(&room, now + 9 * SECOND), 360);
        room.opened();
        assert_eq!(pause(&room, now + 9 * SECOND), 360, "also after a failure");
        assert_eq!(room.spare, 0);
    }
}
