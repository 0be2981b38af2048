//! Whose password is hashed next: as many at once as there are cores, one of a name, and first of those who took least lately.
//!
//! A hash takes tenths of a second of a core, and a user may make theirs take longer. In a plain queue, one client that sends
//! wrong passwords makes everybody else wait for all of them. Here each address and each name is charged for the time that its
//! hashes took, and a free core goes to the waiting request with the least charge of address and name together; a name never has
//! two cores. What was charged is halved every [`HALF_LIFE`], and waiting counts against it, so that nobody waits without end
//! behind a stream of others who were never charged.
//!
//! ```text
//! turn ─> waiting ─> (a core is free, the name is not busy, least charged) ─> Turn ─> dropped: charged, next
//! ```

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::limits::Origin;
use crate::auth::bounded::Bounded;

/// Time in which half of what was charged is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Seconds of charge that a second of waiting makes up for.
const PATIENCE: f64 = 0.1;
/// Addresses, and names, whose time is remembered.
const REMEMBERED: usize = 8192;

/// Hands out turns. One per server.
pub struct Turns {
    hasher: RandomState,
    state: Mutex<State>,
}

/// For whom a password is hashed. Names are kept as hashes: they are as long as clients like.
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
    free: usize,
    busy: HashSet<u64>,
    /// Oldest first.
    waiting: Vec<Waiting>,
    origins: Charges<Option<Origin>>,
    names: Charges<u64>,
}

/// Time that was taken, by whom.
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

/// What is left of a charge after a while.
fn left_of(seconds: f64, passed: Duration) -> f64 {
    seconds * 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())
}

/// A core to hash on, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    who: Who,
    began: Instant,
    /// Not handed over: there is nothing to give back.
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
    /// As many at once as `cores`.
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

    /// Waits for a turn to hash a password for `name`, asked for by `peer`. Dropping the future gives the place up.
    /// `None` cannot be, but for a server that ends.
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

    /// How many may begin at once now.
    #[cfg(test)]
    pub fn available_permits(&self) -> usize {
        self.state.lock().free
    }

    fn hand_out(self: &Arc<Turns>, state: &mut State, now: Instant) {
        while state.free > 0 {
            state.waiting.retain(|waiting| !waiting.go.is_closed());
            let Some(at) = next(state, now) else { return };
            // Not `swap_remove`: of equals, the one that waited longest goes first.
            let Waiting { who, go, .. } = state.waiting.remove(at);
            let turn = Turn { turns: self.clone(), who, began: now, void: false };
            match go.send(turn) {
                Ok(()) => {
                    state.free -= 1;
                    state.busy.insert(who.name);
                }
                // Gave up in this moment. The lock is held, which the drop of a real turn would take.
                Err(mut turn) => turn.void = true,
            }
        }
    }
}

/// The place of who is next; of equals, the one that came first.
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

    /// Begins to wait; the turn, if it was there at once.
    macro_rules! ask {
        ($turns:expr, $peer:expr, $name:expr) => {{
            let turns = $turns.clone();
            let mut waiting = Box::pin(async move { turns.turn(ip($peer), $name).await });
            let ready = poll!(&mut waiting);
            (ready, waiting)
        }};
    }

    #[tokio::test]
    async fn a_name_has_one_core_and_leaves_the_others() {
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
    async fn who_took_least_is_next() {
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
    async fn who_gives_up_holds_nothing() {
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
    fn charges_are_forgotten() {
        assert!(left_of(8.0, HALF_LIFE) < 4.1);
        assert!(left_of(8.0, HALF_LIFE * 10) < 0.01);
    }
}
