//! The body of an answer: decompressed, within a size limit, and never waited for without end.

use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::pace::Pace;
use crate::net::http_client::{self, AnswerBody};
use crate::net::multipart::{Chunks, Malformed};
use crate::replicate::failure::Failure;

/// Compressed bytes that are decompressed at once: they may become a thousand times as many.
const STEP: usize = 1 << 10;

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
    pace: Pace,
    /// The connection's share of its host.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// An answer to a request for `path` that has begun. `turn` is given back with it.
    pub fn new(
        answer: http_client::Answer,
        path: &str,
        patience: Duration,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Answer {
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
            pace: Pace::of(path),
            _turn: turn,
        }
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
        Ok(self.whole_while(most, |_| true).await?.unwrap_or_default())
    }

    /// As above, while the answer may have so many bytes; `None` if it has more.
    pub async fn whole_while(
        self,
        most: usize,
        mut may_have: impl FnMut(usize) -> bool,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let mut answer = self.limited(most as u64);
        let mut whole = Vec::new();
        while let Some(chunk) = answer.next().await? {
            if !may_have(whole.len() + chunk.len()) {
                return Ok(None);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Some(whole))
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
            let body = &mut self.body;
            let frame = self.pace.wait(|context| Pin::new(&mut *body).poll_frame(context));
            let frame = timeout(self.patience, frame).await.map_err(|_| {
                Failure::Network(format!("the answer has stopped for {} s", self.patience.as_secs_f32()))
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !self.pace.is_fine_after(data.len()) => {
                        return Err(Failure::Network("the answer comes too slowly".into()));
                    }
                    Ok(data) => return Ok(Some(data)),
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
