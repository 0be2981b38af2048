//! What of a response the connection holds and has not written: the counter of a stream, and the pieces that
//! report to it.
//!
//! ```text
//! body ──hand──> Piece ──> queue of the stream ──window of the client──> socket      advance, drop: wrote
//! ```
//! With HTTP/2 a client that reads nothing does not block the socket: it gives a stream no window. Each stream
//! therefore measures by itself whether its client reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::time::{Duration, Instant};

use super::streams::Streams;
use crate::app::answer_budget::{FREE, Line};

/// The bit of [`Unwritten::bytes`] that says that the response has ended.
const ENDED: u64 = 1 << 63;

/// The bytes of one stream that are handed over and not written.
pub struct Unwritten {
    /// The stream's handle to the memory budget for answers.
    pub line: Line,
    pub streams: Arc<Streams>,
    /// The number of bytes, and [`ENDED`].
    bytes: AtomicU64,
    began: Instant,
    /// When the client last took something, in milliseconds after `began`.
    progress: AtomicU64,
    /// The response was handed over to its end.
    whole: AtomicBool,
    /// Woken when all bytes are written.
    waker: AtomicWaker,
}

impl Unwritten {
    /// Creates the counter of a new stream.
    pub fn new(line: Line, streams: Arc<Streams>) -> Arc<Unwritten> {
        Arc::new(Unwritten {
            line,
            streams,
            bytes: AtomicU64::new(0),
            began: Instant::now(),
            progress: AtomicU64::new(0),
            whole: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// Bytes that are handed over and not written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire) & !ENDED
    }

    /// Whether the response was handed over to its end.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// How long the client has taken nothing.
    pub fn stalled_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.progress.load(Ordering::Relaxed)))
    }

    /// Wakes the task when all bytes are written.
    pub fn wake_when_written(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Hands bytes over.
    pub fn hand(self: &Arc<Unwritten>, bytes: Bytes) -> Piece {
        if self.bytes.fetch_add(bytes.len() as u64, Ordering::AcqRel) == 0 {
            self.make_progress();
        }
        Piece { bytes, of: self.clone() }
    }

    /// Ends the response. Returns false if too much of it is unwritten: then it may end later.
    ///
    /// After its end the stream is gone and can no longer be dropped, while its last bytes may still wait for the
    /// client. Therefore both the stream and the connection may leave few bytes.
    pub fn end(&self) -> bool {
        let bytes = self.bytes();
        if bytes > 0 && (bytes > FREE as u64 || !self.streams.may_leave(bytes)) {
            return false;
        }
        let left = self.bytes.fetch_or(ENDED, Ordering::AcqRel) & !ENDED;
        self.streams.leave(left as i64);
        self.whole.store(true, Ordering::Release);
        true
    }

    /// Counts bytes that are written, or dropped with their stream.
    fn wrote(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes as u64, Ordering::AcqRel);
        self.line.wrote(bytes);
        if before & ENDED != 0 {
            self.streams.leave(-(bytes as i64));
        }
        if before & !ENDED == bytes as u64 {
            self.line.rests();
            self.waker.wake();
        } else {
            self.make_progress();
        }
    }

    fn make_progress(&self) {
        self.progress.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// Bytes of a response on their way to the socket.
pub struct Piece {
    bytes: Bytes,
    of: Arc<Unwritten>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        if count == self.bytes.len() {
            // The memory is free now, also if the empty piece is kept.
            self.bytes = Bytes::new();
        } else {
            self.bytes.advance(count);
        }
        if count > 0 {
            self.of.wrote(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.of.wrote(self.bytes.len());
        }
    }
}
