//! The future answer of a queued or running script.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// The future answer of a script. Dropping it cancels the script.
#[must_use = "dropping a pending answer cancels the script"]
pub struct Pending<R> {
    answer: oneshot::Receiver<Result<R>>,
    cancel: Arc<AtomicBool>,
}

impl<R> Pending<R> {
    /// Creates a pending answer and the sender that resolves it.
    pub(super) fn new() -> (oneshot::Sender<Result<R>>, Pending<R>) {
        let (reply, answer) = oneshot::channel();
        (reply, Pending { answer, cancel: Arc::default() })
    }

    /// The flag that is set when the pending answer is dropped.
    pub(super) fn cancel(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Blocks until the answer is there. Must not be called on a thread of the async runtime.
    pub fn wait(mut self) -> Result<R> {
        let (_, none) = oneshot::channel();
        let answer = std::mem::replace(&mut self.answer, none);
        answer.blocking_recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl<R> Future for Pending<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(ended())))
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// The error for jobs after the pool has been closed.
pub(super) fn ended() -> Error {
    Error::Internal("the script engine has stopped".into())
}
