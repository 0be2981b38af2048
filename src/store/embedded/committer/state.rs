//! What a committer holds: its engine, the queue, and the state that only the leader uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::queue::Queue;
use super::recent_reads::RecentReads;
use super::room::Room;
use crate::store::StoreError;
use crate::store::disk_space::Space;
use crate::store::embedded::backend::Backend;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::{Mark, Notes};
use crate::store::embedded::tally::Totals;

/// The pause between two attempts to reopen a failed engine.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A [`Store`](crate::store::Store) made of a [`Backend`].
pub(crate) struct Committer<B: Backend> {
    pub(super) backend: B,
    pub(super) frames: Frames,
    pub(super) queue: Mutex<Queue>,
    pub(super) work: Mutex<Work>,
    pub(super) recent: RecentReads,
    pub(super) space: Option<Space>,
    /// Notes outside the store what has become durable.
    pub(super) mark: Arc<Mark>,
    /// Why every call is refused: the engine has opened without something that was acknowledged.
    pub(super) lost: RwLock<Option<StoreError>>,
    /// The pause between two attempts to reopen a failed backend.
    pub(super) pause: Duration,
    /// How many times the backend has been reopened.
    pub(super) reopened: AtomicU64,
    /// Incremented before and after each reopen: see
    /// [`Store::generation`](crate::store::Store::generation).
    pub(super) generation: AtomicU64,
    /// Whether `work` has a failure, readable without its lock.
    pub(super) failing: AtomicBool,
}

/// State that only the leader uses.
#[derive(Default)]
pub(super) struct Work {
    pub(super) unsynced: usize,
    pub(super) failure: Option<Failure>,
    /// The totals of the store, once they are known.
    pub(super) totals: Option<Totals>,
    /// What the mark must learn about databases from the commits since the last sync.
    pub(super) notes: Notes,
    pub(super) room: Room,
}

pub(super) struct Failure {
    pub(super) cause: StoreError,
    pub(super) tried: Instant,
}

impl<B: Backend> Committer<B> {
    pub fn new(backend: B, frames: Frames, space: Option<Space>) -> Committer<B> {
        Committer {
            backend,
            frames,
            queue: Mutex::default(),
            work: Mutex::default(),
            recent: RecentReads::default(),
            space,
            mark: Arc::default(),
            lost: RwLock::default(),
            pause: REOPEN_PAUSE,
            reopened: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// As [`Committer::new`], but every commit after a failure tries to reopen, without a pause.
    #[cfg(test)]
    pub fn eager(backend: B, frames: Frames) -> Committer<B> {
        let mut committer = Committer::new(backend, frames, None);
        committer.pause = Duration::ZERO;
        committer
    }
}
