//! The body of an answer: complete in memory, or produced while it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::error::{self, Failure};
use super::guard::Guard;
use super::producer::Producing;
pub use super::producer::Sender;
use crate::app::answer_budget::{FREE, Held, KeepsBody, Line};
use crate::app::body_budget::Share;
use crate::policy::authorization::Authorization;

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
    pub fn guard(&mut self, authorization: &Arc<Authorization>) {
        if matches!(self.content, Content::Producing(_)) && !self.checks_itself {
            self.guard = Some(Box::new(Guard::new(authorization)));
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

    /// The same with something before it and something behind it, in the place of the newline at its end if
    /// it is whole.
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
                    tracing::warn!(?failure, "a response was cut off");
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
