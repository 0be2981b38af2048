//! Fair scheduling of password hashing.
//!
//! A hash takes tenths of a second of a core, and a user can choose an iteration count that takes longer. In
//! a plain queue, one client that sends wrong passwords would make all others wait. The scheduler therefore
//! runs at most one hash per core and one per name. It charges each address and each name for the time that
//! its hashes took, and gives a free core to the waiting request whose address and name together have the
//! lowest charge. Charges decay by half every [`HALF_LIFE`]. Waiting time reduces the charge, so that a
//! stream of new clients without a charge cannot starve a request.
//!
//! ```text
//! turn() ─> waiting ─> (core free, name not busy, lowest charge) ─> Turn ─> drop: charge, schedule the next
//! ```

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::rate_limits::Origin;
use crate::bounded_map::Bounded;

/// Time in which a charge decays by half.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Seconds of charge that one second of waiting compensates.
const PATIENCE: f64 = 0.1;
/// Maximum number of addresses, and of names, whose charges are kept.
const REMEMBERED: usize = 8192;

/// The scheduler. One per server.
pub struct Turns {
    hasher: RandomState,
    state: Mutex<State>,
}

/// The address and the name that a hash is charged to. Names are stored as hashes, because clients choose
/// their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Who {
    origin: Option<Origin>,
    name: u64,
}

struct Waiting {
    who: Who,
    since: Instant,
    go: oneshot::Sender<Turn>,
}

struct State {
    /// Free cores.
    free: usize,
    /// Names with a running hash.
    busy: HashSet<u64>,
    /// Oldest first.
    waiting: Vec<Waiting>,
    origins: Charges<Option<Origin>>,
    names: Charges<u64>,
}

/// Per key: seconds of hashing charged, and when they were last updated.
struct Charges<K>(Bounded<K, (f64, Instant)>);

impl<K: std::hash::Hash + Eq> Charges<K> {
    fn of(&mut self, key: &K, now: Instant) -> f64 {
        self.0.get_mut(key).map_or(0.0, |(seconds, at)| left_of(*seconds, now.saturating_duration_since(*at)))
    }

    fn add(&mut self, key: K, time: Duration, now: Instant) {
        let before = self.of(&key, now);
        self.0.insert(key, (before + time.as_secs_f64(), now));
    }
}

/// What is left of a charge after `passed`.
fn left_of(seconds: f64, passed: Duration) -> f64 {
    seconds * 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())
}

/// The permission to use one core for a hash, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    who: Who,
    began: Instant,
    /// The receiver was gone: dropping it has no effect.
    void: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.void {
            return;
        }
        let now = Instant::now();
        let mut state = self.turns.state.lock();
        state.free += 1;
        state.busy.remove(&self.who.name);
        let time = now.saturating_duration_since(self.began);
        state.origins.add(self.who.origin, time, now);
        state.names.add(self.who.name, time, now);
        self.turns.hand_out(&mut state, now);
    }
}

impl Turns {
    /// Creates a scheduler that runs `cores` hashes at once.
    pub fn new(cores: usize) -> Arc<Turns> {
        let state = State {
            free: cores.max(1),
            busy: HashSet::new(),
            waiting: Vec::new(),
            origins: Charges(Bounded::new(REMEMBERED)),
            names: Charges(Bounded::new(REMEMBERED)),
        };
        Arc::new(Turns { hasher: RandomState::new(), state: Mutex::new(state) })
    }

    /// Waits for a core to hash a password for `name`, on behalf of `peer`. Dropping the future leaves the
    /// queue. Returns `None` only if the server shuts down.
    pub async fn turn(self: &Arc<Turns>, peer: Option<IpAddr>, name: &str) -> Option<Turn> {
        let who = Who { origin: peer.map(Origin::of), name: self.hasher.hash_one(name) };
        let (go, gone) = oneshot::channel();
        {
            let now = Instant::now();
            let mut state = self.state.lock();
            state.waiting.push(Waiting { who, since: now, go });
            self.hand_out(&mut state, now);
        }
        gone.await.ok()
    }

    /// The number of free cores.
    #[cfg(test)]
    pub fn available_permits(&self) -> usize {
        self.state.lock().free
    }

    fn hand_out(self: &Arc<Turns>, state: &mut State, now: Instant) {
        while state.free > 0 {
            state.waiting.retain(|waiting| !waiting.go.is_closed());
            let Some(at) = next(state, now) else { return };
            // Not `swap_remove`: of requests with equal charge, the oldest goes first.
            let Waiting { who, go, .. } = state.waiting.remove(at);
            let turn = Turn { turns: self.clone(), who, began: now, void: false };
            match go.send(turn) {
                Ok(()) => {
                    state.free -= 1;
                    state.busy.insert(who.name);
                }
                // The receiver was dropped just now. Dropping a real turn would deadlock: it takes the lock
                // held here.
                Err(mut turn) => turn.void = true,
            }
        }
    }
}

/// The position of the next request to serve; of requests with equal charge, the oldest.
fn next(state: &mut State, now: Instant) -> Option<usize> {
    let State { waiting, busy, origins, names, .. } = state;
    let mut best: Option<(f64, usize)> = None;
    for (at, waiting) in waiting.iter().enumerate().filter(|(_, waiting)| !busy.contains(&waiting.who.name)) {
        let charged = origins.of(&waiting.who.origin, now) + names.of(&waiting.who.name, now);
        let owed = charged - PATIENCE * now.saturating_duration_since(waiting.since).as_secs_f64();
        if best.is_none_or(|(least, _)| owed < least) {
            best = Some((owed, at));
        }
    }
    best.map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    /// Starts to wait for a turn; returns the result of the first poll and the future.
    macro_rules! ask {
        ($turns:expr, $peer:expr, $name:expr) => {{
            let turns = $turns.clone();
            let mut waiting = Box::pin(async move { turns.turn(ip($peer), $name).await });
            let ready = poll!(&mut waiting);
            (ready, waiting)
        }};
    }

    #[tokio::test]
    async fn a_name_uses_at_most_one_core() {
        let turns = Turns::new(2);
        let first = turns.turn(ip("192.0.2.1"), "eve").await.expect("a turn");
        let (ready, second) = ask!(turns, "192.0.2.1", "eve");
        assert!(ready.is_pending());
        assert!(turns.turn(ip("192.0.2.1"), "ann").await.is_some(), "the other core is free for anybody else");
        drop(first);
        assert!(second.await.is_some());
        assert_eq!(turns.available_permits(), 2);
    }

    #[tokio::test]
    async fn the_lowest_charge_is_served_next() {
        let turns = Turns::new(1);
        let first = turns.turn(ip("192.0.2.1"), "eve").await.expect("a turn");
        let mut eves = Vec::new();
        for _ in 0..8 {
            let (ready, waiting) = ask!(turns, "192.0.2.1", "eve");
            assert!(ready.is_pending());
            eves.push(waiting);
        }
        let (_, mut ann) = ask!(turns, "192.0.2.1", "ann");
        let (_, mut bob) = ask!(turns, "192.0.2.2", "bob");
        drop(first);
        let turn = match poll!(&mut bob) {
            std::task::Poll::Ready(turn) => turn.expect("a turn"),
            std::task::Poll::Pending => panic!("the address that took nothing is first"),
        };
        drop(turn);
        assert!(poll!(&mut ann).is_ready(), "the name that took nothing is next, though eight were there before");
        drop(ann);
        assert!(poll!(&mut eves[0]).is_ready(), "and then eve again");
    }

    #[tokio::test]
    async fn a_dropped_wait_holds_no_core() {
        let turns = Turns::new(1);
        let first = turns.turn(ip("192.0.2.1"), "eve").await.expect("a turn");
        let (_, waiting) = ask!(turns, "192.0.2.1", "ann");
        let (_, handed) = ask!(turns, "192.0.2.1", "bob");
        drop(waiting);
        drop(first);
        assert_eq!(turns.available_permits(), 0, "handed to bob");
        drop(handed);
        assert_eq!(turns.available_permits(), 1, "who did not take it");
        assert!(turns.turn(ip("192.0.2.1"), "ann").await.is_some());
    }

    #[test]
    fn charges_decay() {
        assert!(left_of(8.0, HALF_LIFE) < 4.1);
        assert!(left_of(8.0, HALF_LIFE * 10) < 0.01);
    }
}
