//! A connection as the budget sees it: its owner, how much its responses hold, and whether its client reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::app::rate_limits::Origin;

/// Bytes that a streamed response reserves for its buffers.
pub const WINDOW: u64 = 256 << 10;
pub const PART: u64 = 16;

/// Whose responses a connection sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Nobody that is known.
    #[default]
    Nobody,
    /// Anonymous clients of this network.
    Anonymous(Origin),
    /// A user.
    User(Arc<str>),
}

/// The state of a connection: how much it holds, and whether its client reads.
pub struct Connection {
    pub number: u64,
    pub owner: Mutex<Owner>,
    pub held: AtomicU64,
    /// Number of its `Held`; `State::connections` lists the connection while this is not zero.
    pub pieces: AtomicU64,
    /// Whether it also keeps a share of the memory budget for request bodies.
    pub keeps_body: AtomicBool,
    pub progress: Mutex<Progress>,
    pub given_up: AtomicBool,
    pub waker: AtomicWaker,
}

#[derive(Default)]
pub struct Progress {
    /// The start of the current measurement: since then the client has read less than 1/[`PART`] of what the
    /// connection holds. `None` if no bytes wait for the client.
    pub since: Option<Instant>,
    /// Bytes that the client has read since then.
    pub taken: u64,
}

impl Connection {
    /// Creates the state of a connection that holds nothing and has no owner.
    pub fn new(number: u64) -> Connection {
        Connection {
            number,
            owner: Mutex::default(),
            held: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            keeps_body: AtomicBool::new(false),
            progress: Mutex::default(),
            given_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Returns how long the client has been slow, if that is at least `stalled` and the connection is not
    /// being closed already.
    pub fn is_stalled(&self, now: Instant, stalled: Duration) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.progress.lock().since?);
        (waited >= stalled && !self.given_up.load(Ordering::Relaxed)).then_some(waited)
    }

    /// Records that the client has read `bytes`.
    pub fn wrote(&self, bytes: usize) {
        let mut progress = self.progress.lock();
        if progress.since.is_some() {
            progress.taken += bytes as u64;
            if progress.taken >= self.held.load(Ordering::Relaxed).max(WINDOW) / PART {
                *progress = Progress { since: Some(Instant::now()), taken: 0 };
            }
        }
    }

    /// Records that bytes wait for the client. Returns whether the connection is to be closed; if not, the
    /// task is woken when it is.
    pub fn waits(&self, context: &Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.progress.lock().since.get_or_insert_with(Instant::now);
        self.given_up.load(Ordering::Acquire)
    }

    /// Records that no bytes wait for the client.
    pub fn rests(&self) {
        self.progress.lock().since = None;
    }
}
