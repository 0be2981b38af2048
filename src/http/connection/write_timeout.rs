//! The write timeout: disconnects a client that does not read its response. This happens after a time limit,
//! or sooner if other requests wait for the memory that the response holds (`app::answer_budget`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::app::answer_budget::Line;

/// A socket whose writes fail with `TimedOut` when one write has been blocked for `limit`, or when the memory
/// budget closes the connection.
pub struct WriteTimeout<S> {
    socket: S,
    line: Line,
    limit: Duration,
    /// The timer of a blocked write. Boxed because most connections never need it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Wraps `socket`; reports the progress of its writes to `line`.
    pub fn new(socket: S, line: Line, limit: Duration) -> WriteTimeout<S> {
        WriteTimeout { socket, line, limit, stalled: None }
    }

    /// Records the result of a write, and fails if the client is too slow.
    fn wrote(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.line.wrote(bytes);
        }
        self.watch(context, written)
    }

    /// Starts or polls the timer if the operation is pending, and stops it otherwise.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        if self.line.waits(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.socket).poll_flush(context);
        if written.is_ready() {
            self.line.rests();
        }
        self.watch(context, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.socket).poll_shutdown(context);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_stops_reading_times_out() {
        let (mut client, server) = tokio::io::duplex(16);
        let mut server = WriteTimeout::new(server, Line::unlimited(), Duration::from_secs(60));
        let reading = async {
            let mut all = vec![0; 10_000];
            client.read_exact(&mut all).await.unwrap();
        };
        let (written, ()) = tokio::join!(server.write_all(&[7; 10_000]), reading);
        written.unwrap();
        server.limit = Duration::from_millis(20);
        let error = server.write_all(&[7; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
