//! How much of answers the server holds at once.
//!
//! ```text
//! load ──take──> rendered ──> buffer ──> hyper ──> socket          dropped: given back
//!                └───────── counted, in every piece ─────────┘
//! ```
//! An answer takes memory before it loads what it sends; the bytes carry what was taken until the last of them is written
//! to the socket and dropped. So what counts is what is really held, and a client that reads slowly stops its own
//! producer: the producer waits until the socket has taken the bytes before it loads more.
//!
//! Small answers ([`FREE`]) and feeds that wait take nothing. When there is no room:
//! - Of one owner (a user, or an address without one) all answers together take at most as much as is left for others, so
//!   that nobody fills the memory alone.
//! - Whoever asks waits, [`WAIT`] at most, and is then answered 503 (or cut, if the answer has begun).
//! - A connection whose client has not taken a [`PART`] of what it holds for [`STALLED`] is closed, the worst first. While
//!   nobody waits for room, none is closed for being slow; that is `write_timeout`'s matter.
//! - One connection at a time goes on beside the full memory with all that it needs, so that answers never all wait for
//!   each other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::failure::{Failure, Result};
use super::limits::Origin;

/// Bytes of an answer that are not counted.
pub const FREE: usize = 16 << 10;
/// What an answer takes that runs ahead of its client: buffers on the way.
pub const WINDOW: u64 = 256 << 10;
/// The same where pieces of attachments are among them.
pub const WIDE: u64 = 768 << 10;
/// Up to this, an owner may take four times as much as is left for others.
const SMALL: u64 = 2 << 20;
const WAIT: Duration = Duration::from_secs(30);
/// A client that takes less than a [`PART`] of what it holds in this time is slow.
const STALLED: Duration = Duration::from_secs(5);
const PART: u64 = 16;
/// How often those who wait look for slow connections.
const LOOK: Duration = Duration::from_millis(100);
/// From this age of the oldest on, the newest of an owner's requests comes first: the old ones were likely given up.
const OLD: Duration = Duration::from_secs(2);

/// The memory for answers, shared by all connections of a server.
#[derive(Clone)]
pub struct AnswerMemory(Arc<Shared>);

struct Shared {
    total: u64,
    /// How long a request waits for room.
    wait: Duration,
    stalled: Duration,
    given_up: AtomicU64,
    state: Mutex<State>,
}

type Owner = Arc<str>;

#[derive(Default)]
struct State {
    held: u64,
    /// The connection that goes on beside the full memory, and its pieces there.
    beside: Option<(u64, u64)>,
    owners: HashMap<Owner, u64>,
    /// Connections that hold something.
    connections: HashMap<u64, Arc<Connection>>,
    /// Those who wait, by owner and by whether they ask for much.
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

/// What is known of a connection: what it holds, and whether its client takes it.
struct Connection {
    number: u64,
    owner: Mutex<Owner>,
    held: AtomicU64,
    /// Pieces that are held; the connection is listed while there are any.
    pieces: AtomicU64,
    /// It keeps a share of the memory for bodies too.
    keeps_body: AtomicBool,
    progress: Mutex<Progress>,
    given_up: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Progress {
    /// Since when the client has taken less than a part of what the connection holds; `None`: nothing waits for it.
    since: Option<Instant>,
    /// Bytes that it has taken since then.
    taken: u64,
}

impl Connection {
    fn is_stalled(&self, now: Instant, stalled: Duration) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.progress.lock().since?);
        (waited >= stalled && !self.given_up.load(Ordering::Relaxed)).then_some(waited)
    }
}

impl AnswerMemory {
    /// Room for `bytes`. A connection that takes nothing for `patience` is slow in any case.
    pub fn new(bytes: u64, patience: Duration) -> AnswerMemory {
        AnswerMemory(Arc::new(Shared {
            total: bytes.clamp(WINDOW, u64::MAX / 8),
            wait: WAIT,
            stalled: STALLED.min(patience),
            given_up: AtomicU64::new(0),
            state: Mutex::default(),
        }))
    }

    /// A new connection's line; its answers belong to nobody yet.
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

    /// Bytes that answers hold now.
    pub fn held(&self) -> u64 {
        self.0.state.lock().owners.values().sum()
    }

    /// Connections that were closed because their clients were slow while others waited for room.
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }

    /// Closes the slowest connection that keeps a share of the memory for bodies: a body waits for room.
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
    /// Whether a connection of an owner may take so much now, and if it is beside the full memory.
    fn admit(&self, state: &State, owner: &Owner, connection: &Connection, bytes: u64) -> Option<bool> {
        let free = self.total.saturating_sub(state.held);
        let own = state.owners.get(owner).copied().unwrap_or(0);
        if bytes <= free && (own == 0 || own + bytes <= share(free, bytes)) {
            return Some(false);
        }
        // The same one goes on with all that it needs, so that it comes to an end.
        state.beside.is_none_or(|(number, _)| number == connection.number).then_some(true)
    }

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

    /// Gives room to those who wait and may have it now; the owner that holds least comes first.
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

    /// Closes slow connections, the slowest first, until those who are next have room.
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

/// What the connection beside the full memory waits for, wherever it stands.
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

/// What an owner may hold when so much is free for others.
fn share(free: u64, bytes: u64) -> u64 {
    if bytes > SMALL { free } else { 4 * free }
}

fn newest_first(queue: &VecDeque<Waiting>) -> bool {
    queue.front().is_some_and(|oldest| oldest.since.elapsed() > OLD)
}

fn next_of(queue: &VecDeque<Waiting>) -> Option<&Waiting> {
    if newest_first(queue) { queue.back() } else { queue.front() }
}

/// 503 for what found no room in time.
fn no_room() -> Failure {
    Failure::Refused {
        status: StatusCode::SERVICE_UNAVAILABLE,
        word: "service_unavailable",
        reason: "The server holds as many answers as it may. Try again.".into(),
    }
}

/// A connection as its answers see it.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Line {
    /// A line of its own with all the memory there is: for tests.
    #[cfg(test)]
    pub fn unlimited() -> Line {
        AnswerMemory::new(u64::MAX, WAIT).line()
    }

    /// Whose answers these are: a user, or an address where nobody is signed in.
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

    /// Takes so much, and waits for room a while. More than there is counts as all of it.
    ///
    /// # Errors
    /// 503 if no room was found.
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
        Err(no_room())
    }

    /// The same without waiting.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        let mut state = self.shared.state.lock();
        let owner = self.connection.owner.lock().clone();
        match self.shared.admit(&state, &owner, &self.connection, bytes) {
            Some(false) => Some(self.shared.charge(&mut state, &self.connection, bytes, false)),
            _ => None,
        }
    }

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

    /// Counts what is here already.
    ///
    /// # Errors
    /// 503 if twice the memory is held then, unless it `must` be sent: what was done cannot be refused any more.
    pub fn count(&self, bytes: u64, must: bool) -> Result<Held> {
        let mut state = self.shared.state.lock();
        if !must && state.held.saturating_add(bytes) > 2 * self.shared.total {
            return Err(no_room());
        }
        Ok(self.shared.charge(&mut state, &self.connection, bytes, false))
    }

    /// Says that an answer keeps a share of the memory for bodies until it is dropped.
    pub fn keeps_body(&self) -> KeepsBody {
        let held = {
            let mut state = self.shared.state.lock();
            self.shared.charge(&mut state, &self.connection, 0, false)
        };
        self.connection.keeps_body.store(true, Ordering::Relaxed);
        KeepsBody(held)
    }

    /// The client took so many bytes.
    pub fn wrote(&self, bytes: usize) {
        let mut progress = self.connection.progress.lock();
        if progress.since.is_some() {
            progress.taken += bytes as u64;
            if progress.taken >= self.connection.held.load(Ordering::Relaxed).max(WINDOW) / PART {
                *progress = Progress { since: Some(Instant::now()), taken: 0 };
            }
        }
    }

    /// Bytes wait for the client. Whether the connection is given up; if not, it is woken when that happens.
    pub fn waits(&self, context: &Context<'_>) -> bool {
        self.connection.waker.register(context.waker());
        self.connection.progress.lock().since.get_or_insert_with(Instant::now);
        self.connection.given_up.load(Ordering::Acquire)
    }

    /// Nothing waits for the client.
    pub fn rests(&self) {
        self.connection.progress.lock().since = None;
    }
}

fn hand_over(granted: Vec<(oneshot::Sender<Held>, Held)>) {
    for (answer, held) in granted {
        // Whoever does not wait any more gives it back.
        let _ = answer.send(held);
    }
}

/// Memory that an answer holds; given back when dropped.
pub struct Held {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    owner: Owner,
    bytes: AtomicU64,
    beside: bool,
}

impl Held {
    /// Bytes that hold it for as long as they are there.
    pub fn with(self: Arc<Held>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }

    /// What it is.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink(&self, bytes: u64) {
        let held = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.release(held.saturating_sub(bytes), false);
    }

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
