//! Accounts for the budget: the bytes that each connection and owner holds, the queue of waiting connections,
//! and which of them gets memory next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Connection, Owner};

/// For reservations up to this size, an owner may hold four times as much as is left for others.
pub const SMALL: u64 = 2 << 20;
/// How often a waiting request looks for slow connections to close.
pub const LOOK: Duration = Duration::from_millis(100);
/// When the oldest request of an owner has waited this long, the queue serves the newest first: clients have
/// probably abandoned the old requests.
pub const OLD: Duration = Duration::from_secs(2);

/// What all connections share.
pub struct Shared {
    pub total: u64,
    /// See `WAIT`; tests set it lower.
    pub wait: Duration,
    pub stalled: Duration,
    pub given_up: AtomicU64,
    pub state: Mutex<State>,
}

/// What is held, and who waits.
#[derive(Default)]
pub struct State {
    /// Bytes charged to the budget, without those of the overflow connection.
    pub held: u64,
    /// The number of the overflow connection, and how many [`Held`] it has beyond the budget.
    pub beside: Option<(u64, u64)>,
    /// Bytes held by each owner, including those beyond the budget.
    pub owners: HashMap<Owner, u64>,
    /// Connections that have at least one [`Held`], by number.
    pub connections: HashMap<u64, Arc<Connection>>,
    /// Waiting requests, by owner and by whether they ask for more than [`SMALL`].
    pub waiting: BTreeMap<(Owner, bool), VecDeque<Waiting>>,
    pub last_number: u64,
    pub looked: Option<Instant>,
}

/// A request that waits for room.
pub struct Waiting {
    pub bytes: u64,
    pub since: Instant,
    pub connection: Arc<Connection>,
    pub answer: oneshot::Sender<Held>,
}

impl Shared {
    /// Decides whether `connection` may reserve `bytes` now: `Some(false)` within the budget, `Some(true)`
    /// beyond it as the overflow connection, `None` if it must wait.
    pub fn admit(&self, state: &State, owner: &Owner, connection: &Connection, bytes: u64) -> Option<bool> {
        let free = self.total.saturating_sub(state.held);
        let own = state.owners.get(owner).copied().unwrap_or(0);
        if bytes <= free && (own == 0 || own + bytes <= share(free, bytes)) {
            return Some(false);
        }
        // The overflow connection may reserve all that it needs, so that it finishes.
        state.beside.is_none_or(|(number, _)| number == connection.number).then_some(true)
    }

    /// Records a reservation that [`Shared::admit`] allowed.
    pub fn charge(
        self: &Arc<Shared>,
        state: &mut State,
        connection: &Arc<Connection>,
        bytes: u64,
        beside: bool,
    ) -> Held {
        let owner = connection.owner.lock().clone();
        match beside {
            true => state.beside = Some((connection.number, state.beside.map_or(0, |(_, pieces)| pieces) + 1)),
            false => state.held += bytes,
        }
        match state.owners.get_mut(&owner) {
            Some(own) => *own += bytes,
            None => drop(state.owners.insert(owner.clone(), bytes)),
        }
        connection.held.fetch_add(bytes, Ordering::Relaxed);
        if connection.pieces.fetch_add(1, Ordering::Relaxed) == 0 {
            state.connections.insert(connection.number, connection.clone());
        }
        let bytes = AtomicU64::new(bytes);
        Held { shared: self.clone(), connection: connection.clone(), owner, bytes, beside }
    }

    /// Grants reservations to waiting requests that fit now, starting with the owner that holds least. The
    /// caller sends them with [`hand_over`] after it has released the lock, because dropping a [`Held`] takes
    /// it.
    pub fn settle(self: &Arc<Shared>, state: &mut State) -> Vec<(oneshot::Sender<Held>, Held)> {
        let mut granted = Vec::new();
        state.waiting.retain(|_, queue| {
            queue.retain(|one| !one.answer.is_closed());
            !queue.is_empty()
        });
        while let Some(one) = next_beside(state) {
            let held = self.charge(state, &one.connection, one.bytes, true);
            granted.push((one.answer, held));
        }
        while !state.waiting.is_empty() {
            let fitting = state.waiting.iter().filter_map(|(key, queue)| {
                let next = next_of(queue)?;
                let beside = self.admit(state, &key.0, &next.connection, next.bytes)?;
                let own = state.owners.get(&key.0).copied().unwrap_or(0);
                Some((beside, own, queue.front()?.since, key))
            });
            let Some((beside, _, _, key)) = fitting.min() else { break };
            let key = key.clone();
            let Some(queue) = state.waiting.get_mut(&key) else { break };
            let Some(one) = (if newest_first(queue) { queue.pop_back() } else { queue.pop_front() }) else { break };
            if queue.is_empty() {
                state.waiting.remove(&key);
            }
            let held = self.charge(state, &one.connection, one.bytes, beside);
            granted.push((one.answer, held));
        }
        granted
    }

    /// What a waiting request does from time to time. First it grants what fits, because with time alone another
    /// request of a queue becomes the next one ([`OLD`]). Then it closes slow connections for those that still
    /// wait. The caller sends what is granted with [`hand_over`] after it has released the lock.
    pub fn look(self: &Arc<Shared>, state: &mut State) -> Vec<(oneshot::Sender<Held>, Held)> {
        let now = Instant::now();
        if state.waiting.is_empty() || state.looked.is_some_and(|looked| now - looked < LOOK / 2) {
            return Vec::new();
        }
        state.looked = Some(now);
        let granted = self.settle(state);
        self.make_room(state, now);
        granted
    }

    /// Closes slow connections, the worst first (waiting time times bytes held), until the next request of
    /// each queue has room.
    fn make_room(&self, state: &mut State, now: Instant) {
        let given_up = |one: &&Arc<Connection>| one.given_up.load(Ordering::Relaxed);
        let mut coming: u64 =
            state.connections.values().filter(given_up).map(|one| one.held.load(Ordering::Relaxed)).sum();
        let mut slow: Vec<(u128, u64, Owner, &Arc<Connection>)> = state
            .connections
            .values()
            .filter_map(|one| {
                let held = one.held.load(Ordering::Relaxed);
                let waited = one.is_stalled(now, self.stalled).filter(|_| held > 0)?;
                Some((waited.as_millis() * u128::from(held), held, one.owner.lock().clone(), one))
            })
            .collect();
        slow.sort_by_key(|(score, ..)| std::cmp::Reverse(*score));
        for ((owner, _), queue) in &state.waiting {
            let Some(next) = next_of(queue) else { continue };
            let free = self.total.saturating_sub(state.held);
            let own = state.owners.get(owner).copied().unwrap_or(0);
            let of_all = next.bytes.saturating_sub(free);
            let of_own = if own == 0 { 0 } else { (own + next.bytes).saturating_sub(share(free, next.bytes)) };
            let mut missing = of_all.max(of_own).saturating_sub(coming);
            slow.retain(|(_, held, slow_owner, one)| {
                let counts = missing > 0 && (of_all > 0 || slow_owner == owner);
                if counts {
                    self.give_up(one);
                    missing = missing.saturating_sub(*held);
                    coming += held;
                }
                !counts
            });
        }
    }

    /// Closes a connection.
    pub fn give_up(&self, connection: &Connection) {
        connection.given_up.store(true, Ordering::Release);
        connection.waker.wake();
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }
}

/// Removes and returns the waiting request of the overflow connection, whatever its place in the queue.
fn next_beside(state: &mut State) -> Option<Waiting> {
    let (number, _) = state.beside?;
    let (key, at) = state.waiting.iter().find_map(|(key, queue)| {
        let at = queue.iter().position(|one| one.connection.number == number)?;
        Some((key.clone(), at))
    })?;
    let queue = state.waiting.get_mut(&key)?;
    let one = queue.remove(at);
    if queue.is_empty() {
        state.waiting.remove(&key);
    }
    one
}

/// How much an owner may hold after a reservation of `bytes`, when `free` bytes are left.
fn share(free: u64, bytes: u64) -> u64 {
    if bytes > SMALL { free } else { 4 * free }
}

fn newest_first(queue: &VecDeque<Waiting>) -> bool {
    queue.front().is_some_and(|oldest| oldest.since.elapsed() > OLD)
}

fn next_of(queue: &VecDeque<Waiting>) -> Option<&Waiting> {
    if newest_first(queue) { queue.back() } else { queue.front() }
}

/// Sends granted reservations to the requests that wait for them.
pub fn hand_over(granted: Vec<(oneshot::Sender<Held>, Held)>) {
    for (answer, held) in granted {
        // If the request has stopped waiting, the send fails and drops `held`, which returns it to the
        // budget.
        let _ = answer.send(held);
    }
}

/// A reservation of a response; dropping it returns the memory to the budget.
pub struct Held {
    shared: Arc<Shared>,
    pub(super) connection: Arc<Connection>,
    owner: Owner,
    bytes: AtomicU64,
    beside: bool,
}

impl Held {
    /// Attaches the reservation to `bytes`: it is released when the last clone or slice of them is dropped.
    pub fn with(self: Arc<Held>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }

    /// The size of the reservation.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Reduces the reservation to at most `bytes`.
    pub fn shrink(&self, bytes: u64) {
        let held = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.release(held.saturating_sub(bytes), false);
    }

    /// Returns `bytes` to the budget and serves waiting requests. `ended`: the reservation itself is dropped.
    fn release(&self, bytes: u64, ended: bool) {
        if bytes == 0 && !ended {
            return;
        }
        let mut state = self.shared.state.lock();
        match self.beside {
            true if ended => {
                state.beside = state.beside.and_then(|(number, pieces)| (pieces > 1).then_some((number, pieces - 1)));
            }
            true => {}
            false => state.held -= bytes,
        }
        if let Some(own) = state.owners.get_mut(&self.owner) {
            *own -= bytes;
            if *own == 0 {
                state.owners.remove(&self.owner);
            }
        }
        self.connection.held.fetch_sub(bytes, Ordering::Relaxed);
        if ended && self.connection.pieces.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.connections.remove(&self.connection.number);
        }
        let granted = if state.waiting.is_empty() { Vec::new() } else { self.shared.settle(&mut state) };
        drop(state);
        hand_over(granted);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes.load(Ordering::Relaxed), true);
    }
}

struct Counted {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
