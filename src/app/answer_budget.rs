//! The memory budget for responses: limits how many response bytes the server holds at once.
//!
//! ```text
//! load ──take──> rendered ──> buffer ──> hyper ──> socket          dropped: returned to the budget
//!                └────── charged, in every piece ──────┘
//! ```
//! A response reserves memory before it loads the data that it sends. The bytes carry the reservation
//! ([`Held`]) until the last of them is written to the socket and dropped. The budget therefore counts the
//! memory that is really held, and a slow client applies backpressure to its own producer: the producer loads
//! more only after the socket has taken the bytes.
//!
//! Small responses ([`FREE`]) and idle feeds reserve nothing. When the budget is exhausted:
//! - All responses of one owner (a user, or the address of an anonymous client) together may hold at most as
//!   much as is left for others, so that no owner fills the budget alone.
//! - A request waits for at most [`WAIT`] and then fails, or its connection is cut if the response
//!   has started.
//! - A connection whose client has not read a sixteenth ([`PART`]) of what the connection holds within
//!   [`STALLED`] is closed, the worst first. While no request waits for room, no connection is closed for
//!   this reason; then only `write_timeout` applies.
//! - One connection at a time, the overflow connection, may reserve memory beyond the budget. This prevents a
//!   deadlock in which every response waits for another one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::rate_limits::Origin;

/// Responses up to this many bytes are not charged.
pub const FREE: usize = 16 << 10;
/// Bytes that a streamed response reserves for its buffers.
pub const WINDOW: u64 = 256 << 10;
/// Bytes that a streamed response reserves for its buffers when it sends pieces of attachments.
pub const WIDE: u64 = 768 << 10;
/// For reservations up to this size, an owner may hold four times as much as is left for others.
const SMALL: u64 = 2 << 20;
/// How long a request waits for room before it fails.
const WAIT: Duration = Duration::from_secs(30);
/// A client is slow if it reads less than 1/[`PART`] of what its connection holds within this time.
const STALLED: Duration = Duration::from_secs(5);
const PART: u64 = 16;
/// How often a waiting request looks for slow connections to close.
const LOOK: Duration = Duration::from_millis(100);
/// When the oldest request of an owner has waited this long, the queue serves the newest first: clients have
/// probably abandoned the old requests.
const OLD: Duration = Duration::from_secs(2);

/// The memory budget for responses, shared by all connections of a server.
#[derive(Clone)]
pub struct AnswerMemory(Arc<Shared>);

struct Shared {
    total: u64,
    /// See [`WAIT`]; tests set it lower.
    wait: Duration,
    stalled: Duration,
    given_up: AtomicU64,
    state: Mutex<State>,
}

type Owner = Arc<str>;

#[derive(Default)]
struct State {
    /// Bytes charged to the budget, without those of the overflow connection.
    held: u64,
    /// The number of the overflow connection, and how many [`Held`] it has beyond the budget.
    beside: Option<(u64, u64)>,
    /// Bytes held by each owner, including those beyond the budget.
    owners: HashMap<Owner, u64>,
    /// Connections that have at least one [`Held`], by number.
    connections: HashMap<u64, Arc<Connection>>,
    /// Waiting requests, by owner and by whether they ask for more than [`SMALL`].
    waiting: BTreeMap<(Owner, bool), VecDeque<Waiting>>,
    last_number: u64,
    looked: Option<Instant>,
}

struct Waiting {
    bytes: u64,
    since: Instant,
    connection: Arc<Connection>,
    answer: oneshot::Sender<Held>,
}

/// The state of a connection: how much it holds, and whether its client reads.
struct Connection {
    number: u64,
    owner: Mutex<Owner>,
    held: AtomicU64,
    /// Number of its [`Held`]; `State::connections` lists the connection while this is not zero.
    pieces: AtomicU64,
    /// Whether it also keeps a share of the memory budget for request bodies.
    keeps_body: AtomicBool,
    progress: Mutex<Progress>,
    given_up: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Progress {
    /// The start of the current measurement: since then the client has read less than 1/[`PART`] of what the
    /// connection holds. `None` if no bytes wait for the client.
    since: Option<Instant>,
    /// Bytes that the client has read since then.
    taken: u64,
}

impl Connection {
    /// Returns how long the client has been slow, if that is at least `stalled` and the connection is not
    /// being closed already.
    fn is_stalled(&self, now: Instant, stalled: Duration) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.progress.lock().since?);
        (waited >= stalled && !self.given_up.load(Ordering::Relaxed)).then_some(waited)
    }
}

impl AnswerMemory {
    /// Creates a budget of `bytes`. A client counts as slow after [`STALLED`] or `patience`, whichever is
    /// shorter.
    pub fn new(bytes: u64, patience: Duration) -> AnswerMemory {
        AnswerMemory(Arc::new(Shared {
            total: bytes.clamp(WINDOW, u64::MAX / 8),
            wait: WAIT,
            stalled: STALLED.min(patience),
            given_up: AtomicU64::new(0),
            state: Mutex::default(),
        }))
    }

    /// Creates the handle of a new connection. Its responses have no owner until [`Line::belongs_to`] is
    /// called.
    pub fn line(&self) -> Line {
        let number = {
            let mut state = self.0.state.lock();
            state.last_number += 1;
            state.last_number
        };
        let connection = Connection {
            number,
            owner: Mutex::new("".into()),
            held: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            keeps_body: AtomicBool::new(false),
            progress: Mutex::default(),
            given_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        };
        Line { shared: self.0.clone(), connection: Arc::new(connection) }
    }

    /// Bytes that responses hold now, including those beyond the budget.
    pub fn held(&self) -> u64 {
        self.0.state.lock().owners.values().sum()
    }

    /// Number of connections closed because their clients were slow while other requests waited for room.
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }

    /// Closes the slowest of the connections that keep a share of the budget for request bodies, if one is
    /// slow. Called while a request body waits for room.
    pub fn give_up_one_that_keeps_a_body(&self) {
        let state = self.0.state.lock();
        let now = Instant::now();
        let keepers = state.connections.values().filter(|one| one.keeps_body.load(Ordering::Relaxed));
        let slow = keepers.filter_map(|one| Some((one.is_stalled(now, self.0.stalled)?, one)));
        if let Some((_, slowest)) = slow.max_by_key(|(waited, _)| *waited) {
            self.0.give_up(slowest);
        }
    }
}

impl Shared {
    /// Decides whether `connection` may reserve `bytes` now: `Some(false)` within the budget, `Some(true)`
    /// beyond it as the overflow connection, `None` if it must wait.
    fn admit(&self, state: &State, owner: &Owner, connection: &Connection, bytes: u64) -> Option<bool> {
        let free = self.total.saturating_sub(state.held);
        let own = state.owners.get(owner).copied().unwrap_or(0);
        if bytes <= free && (own == 0 || own + bytes <= share(free, bytes)) {
            return Some(false);
        }
        // The overflow connection may reserve all that it needs, so that it finishes.
        state.beside.is_none_or(|(number, _)| number == connection.number).then_some(true)
    }

    /// Records a reservation that [`Shared::admit`] allowed.
    fn charge(self: &Arc<Shared>, state: &mut State, connection: &Arc<Connection>, bytes: u64, beside: bool) -> Held {
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
    fn settle(self: &Arc<Shared>, state: &mut State) -> Vec<(oneshot::Sender<Held>, Held)> {
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

    /// Closes slow connections, the worst first (waiting time times bytes held), until the next request of
    /// each queue has room.
    fn make_room(&self, state: &mut State) {
        let now = Instant::now();
        if state.waiting.is_empty() || state.looked.is_some_and(|looked| now - looked < LOOK / 2) {
            return;
        }
        state.looked = Some(now);
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

    fn give_up(&self, connection: &Connection) {
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

/// The refusal of a reservation: no room was free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// The result of a reservation.
pub type Result<T> = std::result::Result<T, NoRoom>;

/// A connection's handle to the memory budget.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Line {
    /// Creates a connection with its own unlimited budget.
    #[cfg(test)]
    pub fn unlimited() -> Line {
        AnswerMemory::new(u64::MAX, WAIT).line()
    }

    /// Sets the owner of this connection's next responses: the user, or the address of an anonymous client.
    pub fn belongs_to(&self, user: Option<&str>, address: Option<IpAddr>) {
        let owner = match (user, address) {
            (Some(user), _) => format!("user {user}"),
            (None, Some(address)) => format!("{:?}", Origin::of(address)),
            (None, None) => String::new(),
        };
        let mut known = self.connection.owner.lock();
        if **known != *owner {
            *known = owner.into();
        }
    }

    /// Reserves `bytes`, and waits for room if necessary. A request for more than the whole budget is reduced
    /// to the whole budget.
    ///
    /// # Errors
    /// [`NoRoom`] if there is no room within [`WAIT`].
    pub async fn take(&self, bytes: u64) -> Result<Held> {
        let bytes = bytes.min(self.shared.total);
        let mut answer = match self.take_or_wait(bytes) {
            Ok(held) => return Ok(held),
            Err(answer) => answer,
        };
        let deadline = Instant::now() + self.shared.wait;
        while Instant::now() < deadline {
            match tokio::time::timeout(LOOK, &mut answer).await {
                Ok(Ok(held)) => return Ok(held),
                Ok(Err(_)) => break,
                Err(_) => {
                    let mut state = self.shared.state.lock();
                    self.shared.make_room(&mut state);
                }
            }
        }
        Err(NoRoom)
    }

    /// Reserves `bytes` if that is possible without waiting and within the budget.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        let mut state = self.shared.state.lock();
        let owner = self.connection.owner.lock().clone();
        match self.shared.admit(&state, &owner, &self.connection, bytes) {
            Some(false) => Some(self.shared.charge(&mut state, &self.connection, bytes, false)),
            _ => None,
        }
    }

    /// Reserves `bytes`, or joins the queue and returns the receiver of the later reservation.
    fn take_or_wait(&self, bytes: u64) -> std::result::Result<Held, oneshot::Receiver<Held>> {
        let mut state = self.shared.state.lock();
        let owner = self.connection.owner.lock().clone();
        let key = (owner, bytes > SMALL);
        if !state.waiting.contains_key(&key)
            && let Some(beside) = self.shared.admit(&state, &key.0, &self.connection, bytes)
        {
            return Ok(self.shared.charge(&mut state, &self.connection, bytes, beside));
        }
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting { bytes, since: Instant::now(), connection: self.connection.clone(), answer: sender };
        state.waiting.entry(key).or_default().push_back(waiting);
        let granted = self.shared.settle(&mut state);
        self.shared.make_room(&mut state);
        drop(state);
        hand_over(granted);
        Err(answer)
    }

    /// Charges bytes that are in memory already.
    ///
    /// # Errors
    /// [`NoRoom`] if more than twice the budget would be held. With `must` it never fails: the operation is done and
    /// its response can no longer be refused.
    pub fn count(&self, bytes: u64, must: bool) -> Result<Held> {
        let mut state = self.shared.state.lock();
        if !must && state.held.saturating_add(bytes) > 2 * self.shared.total {
            return Err(NoRoom);
        }
        Ok(self.shared.charge(&mut state, &self.connection, bytes, false))
    }

    /// Marks the connection as keeping a share of the budget for request bodies, until the returned guard is
    /// dropped.
    pub fn keeps_body(&self) -> KeepsBody {
        let held = {
            let mut state = self.shared.state.lock();
            self.shared.charge(&mut state, &self.connection, 0, false)
        };
        self.connection.keeps_body.store(true, Ordering::Relaxed);
        KeepsBody(held)
    }

    /// Records that the client has read `bytes`.
    pub fn wrote(&self, bytes: usize) {
        let mut progress = self.connection.progress.lock();
        if progress.since.is_some() {
            progress.taken += bytes as u64;
            if progress.taken >= self.connection.held.load(Ordering::Relaxed).max(WINDOW) / PART {
                *progress = Progress { since: Some(Instant::now()), taken: 0 };
            }
        }
    }

    /// Records that bytes wait for the client. Returns whether the connection is to be closed; if not, the
    /// task is woken when it is.
    pub fn waits(&self, context: &Context<'_>) -> bool {
        self.connection.waker.register(context.waker());
        self.connection.progress.lock().since.get_or_insert_with(Instant::now);
        self.connection.given_up.load(Ordering::Acquire)
    }

    /// Records that no bytes wait for the client.
    pub fn rests(&self) {
        self.connection.progress.lock().since = None;
    }
}

fn hand_over(granted: Vec<(oneshot::Sender<Held>, Held)>) {
    for (answer, held) in granted {
        // If the request has stopped waiting, the send fails and drops `held`, which returns it to the
        // budget.
        let _ = answer.send(held);
    }
}

/// A reservation of a response; dropping it returns the memory to the budget.
pub struct Held {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
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

/// See [`Line::keeps_body`].
pub struct KeepsBody(Held);

impl Drop for KeepsBody {
    fn drop(&mut self) {
        self.0.connection.keeps_body.store(false, Ordering::Relaxed);
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

#[cfg(test)]
mod tests;
