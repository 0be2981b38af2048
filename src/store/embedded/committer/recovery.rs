//! Reopens a failed engine.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::state::{Committer, Failure, Work};
use crate::store::embedded::backend::Backend;
use crate::store::embedded::mark::Notes;
use crate::store::{Result, StoreError};

impl<B: Backend> Committer<B> {
    /// Reopens a failed engine, unless the last attempt is too recent.
    pub(super) fn recover(&self, work: &mut Work) -> Result<()> {
        let Some(failure) = &mut work.failure else { return Ok(()) };
        if failure.tried.elapsed() < self.pause {
            return Err(failure.cause.clone());
        }
        failure.tried = Instant::now();
        match self.reopen(work) {
            Ok(()) => {
                if let Some(failure) = work.failure.take() {
                    tracing::info!("the store has recovered from: {}", failure.cause);
                }
                work.room.opened();
                self.failing.store(false, Ordering::Release);
                if let Some(space) = &self.space {
                    work.room.reserved = space.keep_reserve();
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("the store cannot be reopened: {error}");
                if let Some(failure) = &mut work.failure {
                    failure.cause = error.clone();
                }
                Err(error)
            }
        }
    }

    /// Reopens the engine. Everything acknowledged before must be there, or the store refuses every call.
    pub(super) fn reopen(&self, work: &mut Work) -> Result<()> {
        work.totals = None;
        work.notes = Notes::default();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let losing = self.recent.losing();
        let reopened = self.backend.reopen().or_else(|error| match &self.space {
            // The reserve is released only here, not at the failure: a restart may need it more.
            Some(space) if error == StoreError::Full && space.release_reserve() => self.backend.reopen(),
            _ => Err(error),
        });
        drop(losing);
        let reopened = reopened.inspect_err(|error| {
            if matches!(error, StoreError::Damaged(_)) {
                *self.lost.write() = Some(error.clone());
            }
        });
        let reopened = reopened.and_then(|()| self.settle(work));
        self.generation.fetch_add(1, Ordering::SeqCst);
        if reopened.is_ok() {
            self.reopened.fetch_add(1, Ordering::Relaxed);
        }
        reopened
    }

    /// Runs a read. If the engine fails, reopens it at once, because no write may follow that would reopen it, and
    /// calls `read` a second time. An engine refuses reads after a failed write. sled also writes while it is idle,
    /// when it moves pages, and may find the disk full.
    pub(super) fn reading<T>(&self, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        let reopened = self.reopened.load(Ordering::Relaxed);
        let answer = self.attempt(&mut read);
        let Err(cause @ (StoreError::Unavailable(_) | StoreError::Full)) = &answer else { return answer };
        let recovered = {
            let mut work = self.work.lock();
            if self.reopened.load(Ordering::Relaxed) == reopened {
                if work.failure.is_none() {
                    self.fail(&mut work, cause);
                }
                self.recover(&mut work)
            } else {
                Ok(())
            }
        };
        // `recover` logs its own error. The caller gets the error of the read.
        if recovered.is_ok() { self.attempt(&mut read) } else { answer }
    }

    fn attempt<T>(&self, read: &mut impl FnMut() -> Result<T>) -> Result<T> {
        if let Some(lost) = &*self.lost.read() {
            return Err(lost.clone());
        }
        // Engines panic on a page that makes no sense. That is damage to the requested data, and must not end
        // the thread.
        std::panic::catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(StoreError::Damaged("the storage engine panicked while reading".into())))
    }

    pub(super) fn fail(&self, work: &mut Work, cause: &StoreError) {
        tracing::error!("the storage engine failed; writes are refused until the store has been reopened: {cause}");
        let long_ago = Instant::now().checked_sub(self.pause).unwrap_or_else(Instant::now);
        work.failure = Some(Failure { cause: cause.clone(), tried: long_ago });
        self.failing.store(true, Ordering::Release);
        work.unsynced = 0;
    }
}
