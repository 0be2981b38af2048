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
//! - A connection whose client has not read a sixteenth (`PART`) of what the connection holds within
//!   [`STALLED`] is closed, the worst first. While no request waits for room, no connection is closed for
//!   this reason; then only `write_timeout` applies.
//! - One connection at a time, the overflow connection, may reserve memory beyond the budget. This prevents a
//!   deadlock in which every response waits for another one.

mod connection;
mod ledger;
mod line;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::connection::Connection;
pub use self::connection::WINDOW;
pub use self::ledger::Held;
use self::ledger::Shared;
pub use self::line::{KeepsBody, Line, NoRoom, Result};

/// Responses up to this many bytes are not charged.
pub const FREE: usize = 16 << 10;
/// Bytes that a streamed response reserves for its buffers when it sends pieces of attachments.
pub const WIDE: u64 = 768 << 10;
/// How long a request waits for room before it fails.
const WAIT: Duration = Duration::from_secs(30);
/// A client is slow if it reads less than 1/`PART` of what its connection holds within this time.
const STALLED: Duration = Duration::from_secs(5);

/// The memory budget for responses, shared by all connections of a server.
#[derive(Clone)]
pub struct AnswerMemory(Arc<Shared>);

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
        Line { shared: self.0.clone(), connection: Arc::new(Connection::new(number)) }
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

#[cfg(test)]
impl Line {
    /// Creates a connection with its own unlimited budget.
    pub fn unlimited() -> Line {
        AnswerMemory::new(u64::MAX, WAIT).line()
    }
}

#[cfg(test)]
mod tests;
