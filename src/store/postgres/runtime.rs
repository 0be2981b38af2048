//! The threads of the connections. The calls of `Store` are made on threads that may block, and wait here.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::store::{Later, Result, StoreError};

/// Where the result of a call goes. If it is dropped, the caller gets an error.
pub(super) enum Answer<T> {
    /// To a thread that waits in [`received`].
    Thread(SyncSender<Result<T>>),
    /// To a task.
    Task(oneshot::Sender<Result<T>>),
}

impl<T: Send + 'static> Answer<T> {
    /// The receiver is for [`received`].
    pub fn to_thread() -> (Answer<T>, Receiver<Result<T>>) {
        let (sender, receiver) = sync_channel(1);
        (Answer::Thread(sender), receiver)
    }

    pub fn to_task() -> (Answer<T>, Later<T>) {
        let (sender, receiver) = oneshot::channel();
        (Answer::Task(sender), Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(ended())) }))
    }

    pub fn send(self, result: Result<T>) {
        match self {
            Answer::Thread(sender) => drop(sender.send(result)),
            Answer::Task(sender) => drop(sender.send(result)),
        }
    }
}

fn ended() -> StoreError {
    StoreError::Down("PostgreSQL: the task of a call has ended without an answer".into())
}

/// Two threads that serve all connections. Dropping this does not wait for their end.
pub(super) struct Threads {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    pub fn start() -> io::Result<Threads> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("postgres").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Threads { runtime: Some(runtime), handle })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` on these threads and waits for its result.
    pub fn wait<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, answer) = sync_channel(1);
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        received(&answer)
    }
}

/// Waits for the result of a call. Callers should not be on an async thread; if one is, another thread takes over its
/// other tasks first.
pub(super) fn received<T>(answer: &Receiver<Result<T>>) -> Result<T> {
    crate::blocking::in_place(|| answer.recv()).unwrap_or_else(|_| Err(ended()))
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for them could block an async thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
