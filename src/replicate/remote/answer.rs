//! The body of an answer: decompressed, within a size limit, and never waited for without end.

use std::io::Write;
use std::time::Duration;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::net::http_client::{self, AnswerBody};
use crate::net::multipart::{Chunks, Malformed};
use crate::replicate::failure::Failure;

/// Compressed bytes that are decompressed at once: they may become a thousand times as many.
const STEP: usize = 1 << 10;

/// Bytes a second at least, after the first minute of waiting.
const SLOWEST: u64 = 256;
const GRACE: Duration = Duration::from_secs(60);

/// An answer whose body is read in chunks.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: AnswerBody,
    /// The longest wait for the next bytes.
    patience: Duration,
    /// Received bytes that are not decompressed yet.
    packed: Bytes,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Bytes that may still come.
    left: u64,
    /// Bytes that were received, and how long they were waited for.
    received: u64,
    waited: Duration,
    /// The answer may come as slowly as it likes, as long as it goes on: a feed.
    is_feed: bool,
    /// The connection's share of its host.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// An answer that has begun. `turn` is given back with it.
    pub fn new(answer: http_client::Answer, patience: Duration, turn: Option<OwnedSemaphorePermit>) -> Answer {
        let (head, body) = answer.into_parts();
        let is_gzip = head.headers.get(CONTENT_ENCODING).is_some_and(|value| value.as_bytes() == b"gzip");
        Answer {
            status: head.status,
            headers: head.headers,
            body,
            patience,
            packed: Bytes::new(),
            gzip: is_gzip.then(|| MultiGzDecoder::new(Vec::new())),
            left: u64::MAX,
            received: 0,
            waited: Duration::ZERO,
            is_feed: false,
            _turn: turn,
        }
    }

    /// The answer of a feed: its server may search for long before it sends a row.
    pub fn feed(mut self, is_feed: bool) -> Answer {
        self.is_feed = is_feed;
        self
    }

    /// Limits the body to this many bytes from here on.
    pub fn limited(mut self, bytes: u64) -> Answer {
        self.left = bytes;
        self
    }

    /// The value of a header, if it is text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads the whole body, of at most `most` bytes.
    pub async fn whole(self, most: usize) -> Result<Vec<u8>, Failure> {
        let mut answer = self.limited(most as u64);
        let mut whole = Vec::new();
        while let Some(chunk) = answer.next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// The next bytes, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let chunk = match &mut self.gzip {
                None => self.received().await?,
                Some(_) => self.unpacked().await?,
            };
            let Some(chunk) = chunk else { return Ok(None) };
            let length = chunk.len() as u64;
            self.left = self.left.checked_sub(length).ok_or_else(too_large)?;
            if length > 0 {
                return Ok(Some(chunk));
            }
        }
    }

    async fn received(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let begun = Instant::now();
            let frame = timeout(self.patience, self.body.frame()).await;
            self.waited += begun.elapsed();
            if !self.is_feed && is_too_slow(self.received, self.waited) {
                return Err(Failure::Network("the answer comes too slowly".into()));
            }
            let frame = frame.map_err(|_| {
                Failure::Network(format!("the answer has stopped for {} s", self.patience.as_secs_f32()))
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.received += data.len() as u64;
                        return Ok(Some(data));
                    }
                    // Trailers.
                    Err(_) => continue,
                },
                Some(Err(_)) => return Err(Failure::Network("the answer has ended early".into())),
            }
        }
    }

    async fn unpacked(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.packed.is_empty() {
            match self.received().await? {
                Some(chunk) => self.packed = chunk,
                None => {
                    let Some(mut gzip) = self.gzip.take() else { return Ok(None) };
                    gzip.try_finish().map_err(|_| not_gzip())?;
                    let rest = std::mem::take(gzip.get_mut());
                    return Ok((!rest.is_empty()).then(|| rest.into()));
                }
            }
        }
        let step = self.packed.split_to(self.packed.len().min(STEP));
        let Some(gzip) = &mut self.gzip else { return Ok(Some(step)) };
        gzip.write_all(step.chunk()).map_err(|_| not_gzip())?;
        Ok(Some(std::mem::take(gzip.get_mut()).into()))
    }
}

/// Whether an answer comes so slowly that it would hold its place without end.
fn is_too_slow(received: u64, waited: Duration) -> bool {
    waited > GRACE && received < waited.as_secs().saturating_mul(SLOWEST)
}

fn not_gzip() -> Failure {
    Failure::Network("the answer is not the gzip that it says".into())
}

fn too_large() -> Failure {
    Failure::Protocol("the answer is too large".into())
}

impl From<Malformed> for Failure {
    fn from(Malformed(wrong): Malformed) -> Failure {
        Failure::Network(wrong)
    }
}

impl Chunks for Answer {
    type Error = Failure;

    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, Failure>> + Send {
        self.next()
    }
}
