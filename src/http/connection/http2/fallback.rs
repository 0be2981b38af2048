//! Makes clients send a malformed request again over HTTP/1.1, where it is repaired or answered with an error.
//!
//! CouchDB accepts `curl 'https://.../_view/v?key="a"'`, and so does `request_line` with HTTP/1.1. With HTTP/2
//! the `h2` crate refuses a target that is no URI, before any code of ours sees the request: it resets the stream
//! with PROTOCOL_ERROR. Here the code becomes HTTP_1_1_REQUIRED (RFC 9113, section 7), on which curl and browsers
//! repeat the request over HTTP/1.1. So does every other request that is malformed.
//!
//! The wrapper follows the frames that are written. Of RST_STREAM it changes the last byte of the code, so that
//! nothing moves: it writes what stands before that byte, and then another byte in its place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The type of the frame RST_STREAM.
const RST_STREAM: u8 = 3;
/// Bytes before the payload of a frame.
const HEAD: usize = 9;
/// The last bytes of the two error codes; their other bytes are zero, as those of all codes.
const PROTOCOL_ERROR: u8 = 1;
const HTTP_1_1_REQUIRED: u8 = 13;

/// A connection whose PROTOCOL_ERROR of streams becomes HTTP_1_1_REQUIRED.
pub struct Fallback<S> {
    socket: S,
    written: Frames,
}

/// A place in the frames that are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Frames {
    head: [u8; HEAD],
    /// How much of the head is known.
    known: usize,
    /// How much of the payload is missing, if all of the head is known.
    left: usize,
}

impl Frames {
    /// Moves over `bytes`, or to the first byte that must be changed. Returns how many bytes stand before it.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.known < HEAD {
                let count = (HEAD - self.known).min(bytes.len() - at);
                self.head[self.known..self.known + count].copy_from_slice(&bytes[at..at + count]);
                self.known += count;
                at += count;
                self.left = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
            } else {
                let count = self.left.min(bytes.len() - at);
                let last = at + count;
                if self.head[3] == RST_STREAM && count == self.left && bytes[last - 1] == PROTOCOL_ERROR {
                    self.left = 1;
                    return last - 1;
                }
                self.left -= count;
                at = last;
            }
            if self.known == HEAD && self.left == 0 {
                self.known = 0;
            }
        }
        at
    }
}

impl<S> Fallback<S> {
    pub fn new(socket: S) -> Fallback<S> {
        Fallback { socket, written: Frames::default() }
    }
}

impl<S: AsyncWrite + Unpin> Fallback<S> {
    /// Writes the first of `slices`, or the part of it before a byte that must be changed, or that byte.
    fn write_first(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let before = self.written;
        let unchanged = self.written.walk(bytes);
        self.written = before;
        if unchanged == 0 && !bytes.is_empty() {
            let wrote = ready!(Pin::new(&mut self.socket).poll_write(context, &[HTTP_1_1_REQUIRED]))?;
            if wrote == 1 {
                self.written = Frames::default();
            }
            return Poll::Ready(Ok(wrote));
        }
        let wrote = ready!(Pin::new(&mut self.socket).poll_write(context, &bytes[..unchanged]))?;
        self.written.walk(&bytes[..wrote]);
        Poll::Ready(Ok(wrote))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fallback<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fallback<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_first(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ahead = self.written;
        if !slices.iter().all(|slice| ahead.walk(slice) == slice.len()) {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.write_first(context, first);
        }
        let wrote = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, slices))?;
        let mut left = wrote;
        for slice in slices {
            let count = slice.len().min(left);
            self.written.walk(&slice[..count]);
            left -= count;
        }
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 5], payload].concat()
    }

    fn reset(code: u8) -> Vec<u8> {
        frame(RST_STREAM, &[0, 0, 0, code])
    }

    /// What arrives of `sent`, which is written in pieces of `piece` bytes, vectored if it has several slices, to
    /// a socket that takes `takes` bytes at a time.
    async fn passed(sent: &[u8], piece: usize, takes: usize, vectored: bool) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(takes);
        let mut server = Fallback::new(server);
        let writing = async {
            for piece in sent.chunks(piece) {
                if !vectored {
                    server.write_all(piece).await.unwrap();
                    continue;
                }
                let mut at = 0;
                while at < piece.len() {
                    let (one, two) = piece[at..].split_at((piece.len() - at) / 2);
                    at += server.write_vectored(&[IoSlice::new(one), IoSlice::new(two)]).await.unwrap();
                }
            }
            drop(server);
        };
        let mut all = Vec::new();
        let (read, ()) = tokio::join!(client.read_to_end(&mut all), writing);
        read.unwrap();
        all
    }

    #[tokio::test]
    async fn only_a_protocol_error_of_a_stream_is_changed() {
        let frames = |code| {
            let long = [RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 1].repeat(20);
            [frame(0, &long), reset(code), frame(4, b""), reset(8), reset(code), frame(7, &[0, 0, 0, 1, 0, 0, 0, 1])]
                .concat()
        };
        let (sent, wanted) = (frames(PROTOCOL_ERROR), frames(HTTP_1_1_REQUIRED));
        for piece in [1, 2, 3, 8, 9, 10, 12, 13, 14, 50, 1000] {
            for takes in [1, 7, 1000] {
                for vectored in [false, true] {
                    assert_eq!(passed(&sent, piece, takes, vectored).await, wanted, "{piece} {takes} {vectored}");
                }
            }
        }
    }
}
