//! The memory for documents on their way: from when they are read until they are written.
//!
//! ```text
//! all jobs   128 MB            a job takes up to 16 MB of it
//! each job   256 KB of its own
//! ```
//! A peer may be so slow that its job holds what it has for hours. Eight such jobs hold all that is common; the others
//! go on with what is their own, in smaller batches.
//!
//! A call that waits for memory holds none, but may hold a connection or a permit to read large documents, which another
//! call of the job needs. To prevent a deadlock, a call that holds memory and waits for the source writes its documents
//! as soon as another call waits for memory ([`Share::wanted`]).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Memory of all jobs together.
const ALL: usize = 128 << 20;
/// What one job takes of it.
const MOST: usize = 16 << 20;
/// What each job has in addition, for itself alone.
const OWN: usize = 256 << 10;
/// The unit in which it is counted.
const UNIT: usize = 1 << 10;

/// The memory that all jobs share.
pub(crate) struct Memory(Arc<Semaphore>);

/// What the documents of one job may hold.
pub(crate) struct Share {
    own: Arc<Semaphore>,
    most: Arc<Semaphore>,
    all: Arc<Semaphore>,
    /// How many wait in [`Share::hold`].
    waiting: watch::Sender<usize>,
}

/// One that waits for memory.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Waits<'a> {
        waiting.send_modify(|count| *count += 1);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Memory of a document; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    _permit: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory(Arc::new(Semaphore::new(ALL / UNIT)))
    }
}

impl Memory {
    /// The share of a job that begins a pass.
    pub fn share(&self) -> Share {
        let of = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT));
        Share { own: of(OWN), most: of(MOST), all: self.0.clone(), waiting: watch::Sender::new(0) }
    }
}

impl Share {
    /// Memory for a document of this many bytes, if there is some now.
    pub fn hold_now(&self, bytes: usize) -> Option<Held> {
        if let Ok(permit) = self.own.clone().try_acquire_many_owned(units(bytes, OWN)) {
            return Some(Held { _permit: permit, _of_all: None });
        }
        let units = units(bytes, MOST);
        let permit = self.most.clone().try_acquire_many_owned(units).ok()?;
        let of_all = self.all.clone().try_acquire_many_owned(units).ok()?;
        Some(Held { _permit: permit, _of_all: Some(of_all) })
    }

    /// Waits until somebody waits for memory of this job.
    pub async fn wanted(&self) {
        let waits = self.waiting.subscribe().wait_for(|count| *count > 0).await.is_ok();
        debug_assert!(waits, "the sender is here");
    }

    /// The same as [`Share::hold_now`], when there is some. Who waits must hold none.
    pub async fn hold(&self, bytes: usize) -> Held {
        let _waits = Waits::new(&self.waiting);
        let own = acquire(&self.own, units(bytes, OWN));
        let shared = async {
            let units = units(bytes, MOST);
            (acquire(&self.most, units).await, acquire(&self.all, units).await)
        };
        tokio::select! {
            biased;
            permit = own => Held { _permit: permit, _of_all: None },
            (permit, of_all) = shared => Held { _permit: permit, _of_all: Some(of_all) },
        }
    }
}

async fn acquire(of: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
    of.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
}

/// A document larger than the limit counts as the limit, so that it can be held at all.
fn units(bytes: usize, most: usize) -> u32 {
    bytes.min(most).div_ceil(UNIT).max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that a job gets.
    fn take_all(share: &Share, bytes: usize) -> Vec<Held> {
        std::iter::from_fn(|| share.hold_now(bytes)).collect()
    }

    #[tokio::test]
    async fn jobs_that_hold_everything_do_not_stop_the_others() {
        let memory = Memory::default();
        let greedy: Vec<Share> = (0..ALL / MOST).map(|_| memory.share()).collect();
        let held: Vec<Vec<Held>> = greedy.iter().map(|share| take_all(share, 1 << 20)).collect();
        // A document of a megabyte takes all that is a job's own, and 16 are of what is common.
        assert!(held.iter().all(|held| held.len() == 1 + MOST / (1 << 20)), "a job has its limit");
        let other = memory.share();
        let small = take_all(&other, 10_000);
        assert_eq!(small.len(), OWN / UNIT / 10, "the own memory of another job");
        let mut waits = Box::pin(other.hold(1 << 30));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(small);
        let large = waits.await;
        assert!(large._of_all.is_none(), "a large document goes through alone");
        drop(held);
        assert_eq!(take_all(&other, 1 << 20).len(), MOST / (1 << 20));
    }
}
