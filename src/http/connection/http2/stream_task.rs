//! The task of one stream: runs its request, and gives the stream up when its client does not read.
//!
//! hyper's stream is a future that owns the request, its handler and the response; dropping it resets the
//! stream. It is dropped when the client has taken nothing for `write_timeout`, or when the memory budget
//! (`app::answer_budget`) wants what the stream holds. What the connection has taken out of the stream's queue
//! cannot be given back that way; if it is not written soon either, the whole connection is closed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::streams::OpenStream;
use super::unwritten::Unwritten;

/// How long a dropped stream may leave bytes in the connection before the connection is closed.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// A new stream between the two calls that hyper makes for it: it calls first the service with the request, then the
/// executor with the future of the whole stream.
pub type Next = Arc<Mutex<Option<(Arc<Unwritten>, OpenStream)>>>;

/// Starts the tasks of a connection's streams.
#[derive(Clone)]
pub struct StreamTasks {
    pub next: Next,
    pub write_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let next = self.next.lock().take();
        if let Some((unwritten, open)) = next {
            let write_timeout = self.write_timeout;
            tokio::spawn(StreamTask { stream: Some(stream), unwritten, write_timeout, timer: None, _open: open });
        }
    }
}

pin_project! {
    struct StreamTask<F> {
        // `None` when the stream is given up.
        #[pin]
        stream: Option<F>,
        unwritten: Arc<Unwritten>,
        write_timeout: Duration,
        // The timer of a stream with unwritten bytes. Boxed because most streams never need it.
        timer: Option<Pin<Box<Sleep>>>,
        _open: OpenStream,
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let unwritten = &**this.unwritten;
        if let Some(stream) = this.stream.as_mut().as_pin_mut() {
            if stream.poll(context).is_ready() {
                if !unwritten.is_whole() {
                    unwritten.streams.cancel();
                }
                return Poll::Ready(());
            }
            if unwritten.bytes() == 0 || reads(unwritten, *this.write_timeout, this.timer, context) {
                return Poll::Pending;
            }
            tracing::debug!("a stream is given up because its client does not read");
            this.stream.set(None);
            *this.timer = Some(Box::pin(tokio::time::sleep(LEFT_BEHIND)));
        }
        unwritten.wake_when_written(context.waker());
        if unwritten.bytes() == 0 {
            return Poll::Ready(());
        }
        let late = this.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(context).is_ready());
        if !late {
            return Poll::Pending;
        }
        unwritten.streams.close();
        Poll::Ready(())
    }
}

/// Whether the client reads fast enough. If so, the task is woken when that may have changed.
fn reads(
    unwritten: &Unwritten,
    limit: Duration,
    timer: &mut Option<Pin<Box<Sleep>>>,
    context: &mut Context<'_>,
) -> bool {
    if unwritten.line.waits(context) {
        return false;
    }
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
    while timer.as_mut().poll(context).is_ready() {
        let stalled = unwritten.stalled_for();
        if stalled >= limit {
            return false;
        }
        timer.as_mut().reset(Instant::now() + (limit - stalled));
    }
    true
}
