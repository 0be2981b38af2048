//! The body of a response as the connection takes it: every piece is counted until it is written.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::unwritten::{Piece, Unwritten};

pin_project! {
    /// A body whose pieces are counted.
    pub struct Measured<B> {
        #[pin]
        body: B,
        unwritten: Arc<Unwritten>,
        state: State,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// The body has no more pieces, but too many bytes of it are unwritten.
    Written,
    Ended,
}

impl<B: Body> Measured<B> {
    /// Counts the pieces of `body` in `unwritten`.
    pub fn new(body: B, unwritten: Arc<Unwritten>) -> Measured<B> {
        let state = if body.is_end_stream() && unwritten.end() { State::Ended } else { State::Reading };
        Measured { body, unwritten, state }
    }
}

impl<B: Body<Data = Bytes>> Body for Measured<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let mut this = self.project();
        if *this.state == State::Reading {
            match ready!(this.body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => {
                    let frame = frame.map_data(|bytes| this.unwritten.hand(bytes));
                    if this.body.is_end_stream() {
                        *this.state = if this.unwritten.end() { State::Ended } else { State::Written };
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => *this.state = State::Written,
            }
        }
        if *this.state == State::Written {
            this.unwritten.wake_when_written(context.waker());
            if !this.unwritten.end() {
                return Poll::Pending;
            }
            *this.state = State::Ended;
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
