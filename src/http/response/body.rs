//! Bodies of answers: whole, or produced while the socket drains.
//!
//! ```text
//!   producer (a future)  --write-->  buffer (bounded)  <--poll_frame--  hyper, as the socket takes bytes
//! ```
//! A producer is not a task of its own: it is polled by the connection that wants its bytes. So it costs no hand-over
//! between threads, a slow client slows it down, a client that is gone drops it, and ten thousand waiting feeds are ten
//! thousand small futures. What it has written goes out as soon as it waits for anything: a feed flushes by itself.
//!
//! What an answer holds counts as memory for answers (`answer_memory`): a producer says what it is about to load
//! ([`Sender::load`]), and the buffers on the way count once they are not small.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::error::{self, Failure};
use crate::app::answer_budget::{FREE, Held, KeepsBody, Line, WIDE, WINDOW};
use crate::app::body_budget::Share;
use crate::blocking::panicked;
use crate::policy::authorization::Standing;

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

/// Where a producer writes. Dropping the answer drops the producer: it never learns that the client is gone, it just ends.
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

    /// Says how much what was loaded takes. Where that is more than was taken, the rest is counted too; the answer ends if
    /// there is no room for it at all.
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

    /// Says that the producer now waits for something to happen: it holds no memory meanwhile but for what is still to be
    /// sent.
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

type Producer = Pin<Box<dyn Future<Output = error::Result<()>> + Send>>;

/// A producer and what it has written so far.
pub struct Producing {
    buffer: Arc<Mutex<Buffer>>,
    /// `None` once it has ended.
    producer: Option<Producer>,
    line: Line,
}

impl Producing {
    /// Makes a producer for a connection; nothing runs yet.
    pub fn new<F, P>(line: &Line, produce: P) -> Producing
    where
        P: FnOnce(Sender) -> F,
        F: Future<Output = error::Result<()>> + Send + 'static,
    {
        let buffer = Arc::new(Mutex::new(Buffer::default()));
        let producer = Box::pin(produce(Sender { buffer: buffer.clone(), line: line.clone(), window: WINDOW }));
        Producing { buffer, producer: Some(producer), line: line.clone() }
    }

    /// Runs until there is something to send, or the end. An error before that is the caller's to answer.
    pub async fn first(&mut self) -> error::Result<()> {
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
    fn run(&mut self, context: &mut Context<'_>) -> Option<error::Result<()>> {
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

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
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

/// The next chunk, after the check that is due.
fn guarded(
    producing: &mut Producing,
    guard: &mut Option<Box<Guard>>,
    held: Result<Option<Bytes>, Failure>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, Failure>>> {
    if let Some(held) = held.transpose() {
        return Poll::Ready(Some(held));
    }
    match (std::task::ready!(producing.poll_chunk(context)), guard) {
        (Some(Ok(chunk)), Some(guard)) => guard.pass(chunk, context).map(Some),
        (other, _) => Poll::Ready(other),
    }
}

enum Content {
    Whole(Bytes),
    Producing(Box<Producing>),
}

/// How an answer's body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Bytes handed to the connection, before compression.
    pub bytes: u64,
    /// Everything was handed over; otherwise the client went away or the producer failed.
    pub whole: bool,
}

type AtEnd = Box<dyn FnOnce(Ended) + Send>;

/// How often the authorization for a long answer is checked.
const CHECKED: Duration = Duration::from_secs(1);

type Checking = Pin<Box<dyn Future<Output = error::Result<()>> + Send>>;

/// Re-checks the authorization for an answer while it is sent.
struct Guard {
    standing: Arc<Standing>,
    checked: Instant,
    checking: Option<Checking>,
    /// The chunk to send if the check succeeds.
    held: Option<Bytes>,
}

impl Guard {
    /// Passes a chunk on, after a check if one is due.
    fn pass(&mut self, chunk: Bytes, context: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        if self.checking.is_none() {
            if self.checked.elapsed() < CHECKED {
                return Poll::Ready(Ok(chunk));
            }
            let standing = self.standing.clone();
            self.checking = Some(Box::pin(async move { Ok(standing.check().await?) }));
        }
        self.held = Some(chunk);
        self.go_on(context).map(|passed| passed.map(Option::unwrap_or_default))
    }

    /// Polls the check that is under way, and returns the chunk that waited for it.
    fn go_on(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        let Some(checking) = &mut self.checking else { return Poll::Ready(Ok(None)) };
        let checked = std::task::ready!(checking.as_mut().poll(context));
        (self.checking, self.checked) = (None, Instant::now());
        let held = self.held.take();
        Poll::Ready(checked.map(|()| held))
    }
}

/// What a request holds of the memory for bodies while its answer is produced.
struct Kept {
    _share: Share,
    _told: KeepsBody,
}

/// The body of every answer.
pub struct Body {
    content: Content,
    sent: u64,
    whole: bool,
    at_end: Option<AtEnd>,
    kept: Option<Box<Kept>>,
    /// Taken for a compressor.
    compressor: Option<Box<Held>>,
    /// What is there already carries what was taken for it.
    counted: bool,
    guard: Option<Box<Guard>>,
    /// The producer checks the authorization by itself.
    checks_itself: bool,
}

impl Body {
    fn new(content: Content, whole: bool) -> Body {
        Body {
            content,
            sent: 0,
            whole,
            at_end: None,
            kept: None,
            compressor: None,
            counted: false,
            guard: None,
            checks_itself: false,
        }
    }

    /// A body that is there already.
    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        let whole = bytes.is_empty();
        Body::new(Content::Whole(bytes), whole)
    }

    /// A body that is produced while it is sent.
    pub fn producing(producing: Producing) -> Body {
        Body::new(Content::Producing(Box::new(producing)), false)
    }

    /// Checks the authorization while a produced body is sent. The answer breaks off when it is withdrawn.
    pub fn guard(&mut self, standing: &Arc<Standing>) {
        if matches!(self.content, Content::Producing(_)) && !self.checks_itself {
            let (standing, checked) = (standing.clone(), Instant::now());
            self.guard = Some(Box::new(Guard { standing, checked, checking: None, held: None }));
        }
    }

    /// Declares that the producer checks the authorization by itself, as feeds do.
    pub fn checks_itself(&mut self) {
        self.checks_itself = true;
    }

    /// Keeps a request's share until all of the answer is produced.
    pub fn keep(&mut self, share: Share) {
        if let Content::Producing(producing) = &self.content
            && !share.is_empty()
        {
            self.kept = Some(Box::new(Kept { _share: share, _told: producing.line.keeps_body() }));
        }
    }

    /// A body that is there already carries what was taken for it.
    pub fn hold(&mut self, held: Arc<Held>) {
        if let Content::Whole(bytes) = &mut self.content {
            held.shrink(bytes.len() as u64);
            *bytes = held.with(std::mem::take(bytes));
            self.counted = true;
        }
    }

    /// Counts a body that is there already and not small. `must`: it cannot be refused.
    ///
    /// # Errors
    /// 503 if there is no room at all.
    pub fn count(&mut self, line: &Line, must: bool) -> error::Result<()> {
        if let Content::Whole(bytes) = &mut self.content
            && bytes.len() > FREE
            && !self.counted
        {
            let held = line.count(bytes.len() as u64, must)?;
            *bytes = Arc::new(held).with(std::mem::take(bytes));
        }
        Ok(())
    }

    /// Takes memory for a compressor that works until the body is sent; false if there is no room for one.
    pub fn compress(&mut self, line: &Line, bytes: u64) -> bool {
        if self.length().is_none_or(|length| length > FREE as u64) {
            self.compressor = line.try_take(bytes).map(Box::new);
            return self.compressor.is_some();
        }
        true
    }

    /// The same with something before it and something behind it, in the place of the newline at its end if it is whole.
    pub fn between(mut self, before: Bytes, behind: Bytes) -> Body {
        let line = match &self.content {
            Content::Whole(bytes) => {
                let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                return Body::whole([&before, bytes, &behind].concat());
            }
            Content::Producing(producing) => producing.line.clone(),
        };
        let guard = self.guard.take();
        let mut body = Body::producing(Producing::new(&line, |mut out| async move {
            out.send(before).await;
            while let Content::Producing(producing) = &mut self.content
                && let Some(chunk) = std::future::poll_fn(|context| producing.poll_chunk(context)).await
            {
                out.send(chunk?).await;
            }
            out.send(behind).await;
            Ok(())
        }));
        body.guard = guard;
        body
    }

    /// Calls `then` when the body is sent, or given up.
    pub fn at_end(&mut self, then: impl FnOnce(Ended) + Send + 'static) {
        self.at_end = Some(Box::new(then));
    }

    /// Bytes of a whole body.
    pub fn length(&self) -> Option<u64> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Producing(_) => None,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end(Ended { bytes: self.sent, whole: self.whole });
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let Body { content, guard, .. } = &mut *self;
        let held = match guard {
            Some(guard) => std::task::ready!(guard.go_on(context)),
            None => Ok(None),
        };
        let chunk = match content {
            Content::Whole(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Content::Producing(producing) => match std::task::ready!(guarded(producing, guard, held, context)) {
                Some(Ok(chunk)) => Some(chunk),
                Some(Err(failure)) => {
                    // The head is out, so the only honest way to say it is to break off.
                    tracing::warn!(?failure, "an answer breaks off");
                    return Poll::Ready(Some(Err(std::io::Error::other("the answer could not be completed"))));
                }
                None => None,
            },
        };
        Poll::Ready(match chunk {
            Some(chunk) => {
                self.sent += chunk.len() as u64;
                self.whole = matches!(self.content, Content::Whole(_));
                Some(Ok(Frame::data(chunk)))
            }
            None => {
                self.whole = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Producing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Producing(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn collect(body: Body) -> Result<Bytes, std::io::Error> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_producer_far_ahead_waits_and_nothing_is_lost_or_swapped() {
        let producing = Producing::new(&Line::unlimited(), |mut out| async move {
            for number in 0..50_000_u32 {
                out.write(format!("{number}\n")).await;
                if number % 1000 == 0 {
                    out.send(Bytes::from_static(b"!\n")).await;
                }
            }
            Ok(())
        });
        let wanted: String =
            (0..50_000).map(|n| if n % 1000 == 0 { format!("{n}\n!\n") } else { format!("{n}\n") }).collect();
        assert_eq!(collect(Body::producing(producing)).await.unwrap(), wanted);
    }

    #[tokio::test]
    async fn an_error_before_the_first_byte_is_the_callers_and_a_later_one_breaks_off() {
        let mut early = Producing::new(&Line::unlimited(), |_| async { Err(Failure::missing()) });
        assert_eq!(early.first().await, Err(Failure::missing()));

        let mut late = Producing::new(&Line::unlimited(), |mut out| async move {
            out.write("x").await;
            tokio::task::yield_now().await;
            Err(Failure::missing())
        });
        assert_eq!(late.first().await, Ok(()));
        assert!(collect(Body::producing(late)).await.is_err());
    }

    #[tokio::test]
    async fn something_before_and_behind() {
        let (before, behind) = (Bytes::from_static(b"f("), Bytes::from_static(b");\n"));
        let whole = Body::whole("{}\n").between(before.clone(), behind.clone());
        assert_eq!(whole.length(), Some(7));
        assert_eq!(collect(whole).await.unwrap(), "f({});\n");
        let producing = Producing::new(&Line::unlimited(), |mut out| async move {
            out.write("[1,\n").await;
            tokio::task::yield_now().await;
            out.write("2]\n").await;
            Ok(())
        });
        let produced = Body::producing(producing).between(before.clone(), behind.clone());
        assert_eq!(collect(produced).await.unwrap(), "f([1,\n2]\n);\n");
        let failing = Producing::new(&Line::unlimited(), |_| async { Err(Failure::missing()) });
        assert!(collect(Body::producing(failing).between(before, behind)).await.is_err());
    }

    #[tokio::test]
    async fn what_is_written_goes_out_while_the_producer_waits() {
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut producing = Producing::new(&Line::unlimited(), |mut out| async move {
            out.write("a").await;
            let _ = wait.await;
            out.write("b").await;
            Ok(())
        });
        producing.first().await.unwrap();
        let mut body = Body::producing(producing);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        go.send(()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_panicking_producer_is_an_error_not_a_dead_connection() {
        let mut producing = Producing::new(&Line::unlimited(), |_| async { panic!("boom") });
        assert!(matches!(producing.first().await, Err(Failure::Domain(crate::error::Error::Internal(_)))));
    }
}
