//! Answers that are produced while the socket drains.
//!
//! ```text
//!   producer (a future)  --write-->  buffer (bounded)  <--poll_chunk--  hyper, as the socket takes bytes
//! ```
//! A producer is not a task of its own: the connection that wants its bytes polls it. It therefore costs no
//! hand-over between threads, a slow client slows it down, and a client that disconnects drops it. Ten
//! thousand waiting feeds are ten thousand small futures. What a producer has written is sent as soon as it
//! waits for anything, so that a feed flushes by itself.
//!
//! The memory that an answer holds is charged to the budget (`app::answer_budget`): a producer announces what
//! it is about to load ([`Sender::load`]), and its buffers are charged once they are not small.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::error::{Failure, Result};
use crate::app::answer_budget::{FREE, Held, Line, WIDE, WINDOW};
use crate::blocking::panicked;

/// Bytes that a producer may be ahead of the socket; a single larger write is let through.
const AHEAD: usize = 64 << 10;
/// Small writes are collected into chunks of about this size.
const CHUNK: usize = 16 << 10;

#[derive(Default)]
struct Buffer {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
    waiting: Option<Waker>,
    /// Taken for the buffers on the way, once there is much in them.
    window: Option<Arc<Held>>,
    /// Taken for what the producer loads.
    loaded: Option<Arc<Held>>,
    /// The producer waits for memory.
    asks: bool,
    /// It got none.
    refused: Option<Failure>,
}

impl Buffer {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        let counted = self.loaded.as_ref().filter(|_| bytes.len() > FREE);
        self.chunks.push_back(match counted {
            Some(held) => held.clone().with(bytes),
            None => bytes,
        });
    }

    fn end_chunk(&mut self) {
        let chunk = self.tail.split().freeze();
        self.chunks.push_back(chunk);
    }

    fn take_full(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() { None } else { self.take() }
    }

    fn take(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front().or_else(|| (!self.tail.is_empty()).then(|| self.tail.split().freeze()))?;
        self.bytes -= chunk.len();
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Some(match &self.window {
            Some(held) => held.clone().with(chunk),
            None => chunk,
        })
    }
}

/// Where a producer writes. Dropping the answer drops the producer: it never learns that the client is gone,
/// it just ends.
pub struct Sender {
    buffer: Arc<Mutex<Buffer>>,
    line: Line,
    /// What the buffers on the way take.
    window: u64,
}

impl Sender {
    /// Appends bytes; waits while the socket is far behind.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        {
            let mut buffer = self.buffer.lock();
            buffer.tail.extend_from_slice(bytes);
            buffer.bytes += bytes.len();
            if buffer.tail.len() >= CHUNK {
                buffer.end_chunk();
            }
        }
        self.room().await;
    }

    /// Appends a chunk without copying it; waits while the socket is far behind.
    pub async fn send(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let mut buffer = self.buffer.lock();
            if !buffer.tail.is_empty() {
                buffer.end_chunk();
            }
            buffer.push(bytes);
        }
        self.room().await;
    }

    /// Appends a text that may be large; waits while the socket is far behind.
    pub async fn text(&mut self, text: String) {
        if text.len() < CHUNK { self.write(text).await } else { self.send(text.into()).await }
    }

    /// Takes memory for what the producer is about to load, in the place of what it loaded before.
    pub async fn load(&mut self, bytes: u64) {
        self.buffer.lock().loaded = None;
        if bytes > FREE as u64
            && let Some(held) = self.take(bytes).await
        {
            self.buffer.lock().loaded = Some(Arc::new(held));
        }
    }

    /// Says how much what was loaded takes. Where that is more than was taken, the rest is counted too; the
    /// answer ends if there is no room for it at all.
    pub fn loaded(&mut self, bytes: u64) {
        let mut buffer = self.buffer.lock();
        if bytes <= FREE as u64 {
            buffer.loaded = None;
            return;
        }
        match &buffer.loaded {
            Some(held) if held.bytes() >= bytes => held.shrink(bytes),
            _ => match self.line.count(bytes, false) {
                Ok(held) => buffer.loaded = Some(Arc::new(held)),
                Err(refused) => buffer.refused = Some(refused.into()),
            },
        }
    }

    /// Holds what was taken before the answer began, for what is loaded already.
    pub fn holds(&mut self, held: Option<Arc<Held>>) {
        self.buffer.lock().loaded = held;
    }

    /// Says that pieces of attachments come.
    pub fn widen(&mut self) {
        if self.window < WIDE {
            self.window = WIDE;
            self.buffer.lock().window = None;
        }
    }

    /// Says that the producer now waits for something to happen: it holds no memory meanwhile but for what is
    /// still to be sent.
    pub fn rests(&mut self) {
        let mut buffer = self.buffer.lock();
        (buffer.window, buffer.loaded) = (None, None);
    }

    async fn room(&mut self) {
        let runs_ahead = {
            let buffer = self.buffer.lock();
            buffer.bytes > FREE && buffer.window.is_none()
        };
        if runs_ahead && let Some(held) = self.take(self.window).await {
            self.buffer.lock().window = Some(Arc::new(held));
        }
        std::future::poll_fn(|context| {
            let mut buffer = self.buffer.lock();
            if buffer.bytes <= AHEAD {
                return Poll::Ready(());
            }
            buffer.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Without room the answer ends here: [`Producing::run`] sees why.
    async fn take(&mut self, bytes: u64) -> Option<Held> {
        self.buffer.lock().asks = true;
        let taken = self.line.take(bytes).await;
        self.buffer.lock().asks = false;
        match taken {
            Ok(held) => Some(held),
            Err(refused) => {
                self.buffer.lock().refused = Some(refused.into());
                std::future::pending().await
            }
        }
    }
}

type Producer = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A producer and what it has written so far.
pub struct Producing {
    buffer: Arc<Mutex<Buffer>>,
    /// `None` once it has ended.
    producer: Option<Producer>,
    /// The connection that the answer goes to.
    pub(super) line: Line,
}

impl Producing {
    /// Makes a producer for a connection; nothing runs yet.
    pub fn new<F, P>(line: &Line, produce: P) -> Producing
    where
        P: FnOnce(Sender) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let buffer = Arc::new(Mutex::new(Buffer::default()));
        let producer = Box::pin(produce(Sender { buffer: buffer.clone(), line: line.clone(), window: WINDOW }));
        Producing { buffer, producer: Some(producer), line: line.clone() }
    }

    /// Runs until there is something to send, or the end. An error before that is the caller's to answer.
    pub async fn first(&mut self) -> Result<()> {
        std::future::poll_fn(|context| match self.run(context) {
            Some(result) => Poll::Ready(result),
            None => {
                let buffer = self.buffer.lock();
                if buffer.bytes > 0 && !buffer.asks { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
        })
        .await
    }

    /// All bytes, if the producer has ended already and they are few.
    pub fn if_complete(&mut self) -> Option<Bytes> {
        let mut buffer = self.buffer.lock();
        if self.producer.is_some() || buffer.bytes > AHEAD {
            return None;
        }
        let mut whole = BytesMut::with_capacity(buffer.bytes);
        while let Some(chunk) = buffer.take() {
            whole.extend_from_slice(&chunk);
        }
        Some(whole.freeze())
    }

    /// Polls the producer once; its result if it ends now.
    fn run(&mut self, context: &mut Context<'_>) -> Option<Result<()>> {
        let producer = self.producer.as_mut()?;
        let result = match catch_unwind(AssertUnwindSafe(|| producer.as_mut().poll(context))) {
            Ok(polled) => match (self.buffer.lock().refused.take(), polled) {
                (Some(failure), _) => Err(failure),
                (None, Poll::Ready(result)) => result,
                (None, Poll::Pending) => return None,
            },
            Err(panic) => Err(panicked(&*panic).into()),
        };
        self.producer = None;
        Some(result)
    }

    /// The next chunk, `None` at the end.
    pub(super) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let ready = self.buffer.lock().take_full();
        if let Some(chunk) = ready {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if let Some(Err(failure)) = self.run(context) {
            return Poll::Ready(Some(Err(failure)));
        }
        let rest = self.buffer.lock().take();
        match rest {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None if self.producer.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
