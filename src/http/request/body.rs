//! Request bodies: whole within a limit, or chunk by chunk.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http_body_util::BodyExt;

use crate::app::body_budget::{BodyMemory, Pace, Share};
use crate::config::Settings;
use crate::error::Error;
use crate::http::response::error::{Failure, Result, too_large};
use crate::policy::authorization::Authorization;

/// How much an unread body may still hold for the server to swallow it, so that the client gets to read the
/// answer.
const SWALLOW: u64 = 1 << 20;
/// How long a body may come as slowly as it likes.
const GRACE: Duration = Duration::from_secs(60);
/// Inflating more than this goes off the async threads.
const INFLATE_INLINE: usize = 8 << 10;

/// A request's body. Reading more than the limit fails with 413.
pub struct RequestBody {
    incoming: Option<hyper::body::Incoming>,
    /// `Content-Length`, if it was sent.
    length: Option<u64>,
    limit: u64,
    read: u64,
    waits_for_continue: bool,
    waited: Duration,
    /// A client that sends nothing for this long in the middle of a body is gone (CouchDB's
    /// `REQUEST_RECV_TIMEOUT`).
    idle: Duration,
    /// Bytes a second that it must send on average while it is waited for.
    min_rate: u64,
    /// A body that is there already, instead of `incoming`.
    given: Option<Bytes>,
    /// Where bodies that are read whole take their share of memory; `None` for those that are there already.
    memory: Option<BodyMemory>,
    share: Share,
    pace: Pace,
    /// The authorization to check at the end of the body.
    authorization: Option<Arc<Authorization>>,
}

impl RequestBody {
    /// Looks at what is promised; an announced length over the limit is refused when the body is asked for.
    pub fn new(
        incoming: hyper::body::Incoming,
        headers: &HeaderMap,
        settings: &Settings,
        memory: &BodyMemory,
        authorization: &Arc<Authorization>,
    ) -> RequestBody {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        RequestBody {
            incoming: Some(incoming),
            length,
            limit: settings.max_request_size,
            read: 0,
            waits_for_continue: headers.contains_key(header::EXPECT),
            waited: Duration::ZERO,
            idle: Duration::from_secs(settings.body_timeout),
            min_rate: settings.min_body_rate,
            given: None,
            memory: Some(memory.clone()),
            share: Share::default(),
            pace: Pace::new(Duration::from_secs(settings.body_timeout)),
            authorization: Some(authorization.clone()),
        }
    }

    /// No body.
    pub fn empty() -> RequestBody {
        RequestBody::given(Bytes::new())
    }

    /// A body that did not come from the connection.
    pub fn given(body: Bytes) -> RequestBody {
        let length = body.len() as u64;
        RequestBody {
            incoming: None,
            length: Some(length),
            limit: length,
            read: 0,
            waits_for_continue: false,
            waited: Duration::ZERO,
            idle: Duration::MAX,
            min_rate: 0,
            given: Some(body).filter(|body| !body.is_empty()),
            memory: None,
            share: Share::default(),
            pace: Pace::new(Duration::MAX),
            authorization: None,
        }
    }

    /// `Content-Length`; `None` for a chunked body.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// How long the body was waited for: `X-CouchDB-Body-Time`.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether there is nothing to read, as far as the headers tell.
    pub fn is_empty(&self) -> bool {
        use hyper::body::Body;
        // With HTTP/2 the end of an empty body may come after the headers.
        let nothing_comes = || self.length == Some(0) || self.incoming.as_ref().is_none_or(Body::is_end_stream);
        self.given.is_none() && nothing_comes()
    }

    /// A tighter limit than `max_http_request_size`, for what has its own.
    pub fn tighten(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// Refuses an announced length over the limit, before `100 Continue` asks for the bytes.
    pub fn check_length(&self) -> Result<()> {
        if self.length.is_some_and(|length| length > self.limit) { Err(too_large()) } else { Ok(()) }
    }

    /// The next chunk as it comes, `None` at the end. The request's authorization is checked again at the
    /// end, before anything that the body brings can be written.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.check_length()?;
        if let Some(given) = self.given.take() {
            return Ok(Some(given));
        }
        loop {
            match self.frame().await {
                None => {
                    self.incoming = None;
                    self.check().await?;
                    return Ok(None);
                }
                Some(Err(_)) => {
                    self.incoming = None;
                    return Err(Failure::Gone);
                }
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    if chunk.is_empty() {
                        continue;
                    }
                    self.read += chunk.len() as u64;
                    if too_slow(self.read, self.waited, self.min_rate) {
                        // One byte now and then keeps any timeout from striking.
                        self.incoming = None;
                        return Err(Failure::Gone);
                    }
                    if self.read > self.limit {
                        return Err(too_large());
                    }
                    return Ok(Some(chunk));
                }
            }
        }
    }

    /// The next frame; an error if the client is gone, silent for too long, or in the way of others.
    async fn frame(&mut self) -> Option<Result<hyper::body::Frame<Bytes>>> {
        let incoming = self.incoming.as_mut()?;
        self.waits_for_continue = false;
        let quiet_since = Instant::now();
        loop {
            let holds = !self.share.is_empty();
            let began = Instant::now();
            let idle = self.idle.saturating_sub(quiet_since.elapsed());
            let patience = if holds { idle.min(self.pace.left(self.waited)) } else { idle };
            let frame = tokio::time::timeout(patience, incoming.frame()).await;
            self.waited += began.elapsed();
            if holds
                && self.pace.is_slow(self.waited, self.read)
                && self.memory.as_ref().is_some_and(BodyMemory::is_short)
            {
                return Some(Err(Failure::Gone));
            }
            match frame {
                Ok(frame) => return frame.map(|frame| frame.map_err(|_| Failure::Gone)),
                Err(_) if quiet_since.elapsed() >= self.idle => return Some(Err(Failure::Gone)),
                Err(_) => {}
            }
        }
    }

    /// The whole body, inflated if `Content-Encoding` says gzip; both sizes keep to the limit.
    pub async fn whole(&mut self, settings: &Settings, headers: &HeaderMap) -> Result<Bytes> {
        let gzip = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                return Err(Error::BadContentType(format!("{other} is not a supported content encoding.")).into());
            }
        };
        let body = self.raw().await?;
        if !gzip {
            return Ok(body);
        }
        let limit = settings.max_request_size.min(self.limit);
        if body.len() <= INFLATE_INLINE {
            // Small in, but not always small out; the reader stops at the limit either way.
            let bytes = inflated_bytes(&body, limit)?;
            self.hold(bytes).await?;
            return inflate(&body, bytes);
        }
        let off = |cause: tokio::task::JoinError| Failure::from(Error::Internal(cause.to_string()));
        let counted = body.clone();
        let bytes = crate::blocking::spawn_blocking(move || inflated_bytes(&counted, limit)).await.map_err(off)??;
        // Given back before more is asked for: waiting for others while they wait for this would have no end.
        self.share = Share::default();
        self.hold(body.len() as u64 + bytes).await?;
        crate::blocking::spawn_blocking(move || inflate(&body, bytes)).await.map_err(off)?
    }

    /// The body's share of the memory for bodies, for a caller that keeps values parsed from it.
    pub fn take_share(&mut self) -> Share {
        std::mem::take(&mut self.share)
    }

    /// Takes a share of the memory for bodies that is `bytes` large in all, until the request is done. This
    /// may wait for room: the authorization of a body that has ended is checked again.
    pub async fn hold(&mut self, bytes: u64) -> Result<()> {
        if let Some(memory) = &self.memory {
            memory.grow(&mut self.share, bytes).await?;
        }
        if self.incoming.is_none() { self.check().await } else { Ok(()) }
    }

    /// Checks that the request is still authorized.
    async fn check(&self) -> Result<()> {
        match &self.authorization {
            Some(authorization) => Ok(authorization.check().await?),
            None => Ok(()),
        }
    }

    async fn raw(&mut self) -> Result<Bytes> {
        self.check_length()?;
        if let (Some(memory), Some(length)) = (&self.memory, self.length) {
            memory.check(length)?;
        }
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        // What is announced is reserved at most a megabyte at a time: announcing is free, sending is not.
        let announced = self.length.unwrap_or(0).min(1 << 20) as usize;
        let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()));
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            self.hold((whole.len() + chunk.len()) as u64).await?;
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads a little more of a body that no handler wanted, so that a client that is still sending can read
    /// the answer; gives up on a large one (the connection then closes).
    pub async fn swallow(&mut self) {
        if self.is_empty() || self.waits_for_continue || self.length.is_some_and(|length| length > SWALLOW + self.read)
        {
            return;
        }
        let Some(mut incoming) = self.incoming.take() else { return };
        let mut left = SWALLOW as usize;
        let all = async {
            while let Some(Ok(frame)) = incoming.frame().await {
                let bytes = frame.data_ref().map_or(0, |data| data.remaining());
                if bytes > left {
                    return;
                }
                left -= bytes;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }
}

/// Whether a body has come with fewer bytes a second than it must, all the time it was waited for taken
/// together.
fn too_slow(read: u64, waited: Duration, min_rate: u64) -> bool {
    waited > GRACE && read < waited.as_secs().saturating_mul(min_rate)
}

/// How many bytes a gzipped body has, at most `limit`.
pub(crate) fn inflated_bytes(body: &[u8], limit: u64) -> Result<u64> {
    let mut reader = flate2::bufread::MultiGzDecoder::new(body).take(limit.saturating_add(1));
    let bytes = std::io::copy(&mut reader, &mut std::io::sink()).map_err(|_| not_gzip())?;
    if bytes > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Inflates a body of which [`inflated_bytes`] is known.
pub(crate) fn inflate(body: &[u8], bytes: u64) -> Result<Bytes> {
    let mut inflated = Vec::with_capacity(bytes as usize);
    flate2::bufread::MultiGzDecoder::new(body).read_to_end(&mut inflated).map_err(|_| not_gzip())?;
    Ok(inflated.into())
}

fn not_gzip() -> Failure {
    Failure::bad_request("Request body is not properly gzipped.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_body_must_come_at_some_rate_after_its_first_minute() {
        for (read, seconds, rate, slow) in [
            (1, 60, 256, false),
            (1, 61, 256, true),
            (16_000, 61, 256, false),
            (1, 600, 0, false),
            (100_000, 600, 256, true),
        ] {
            assert_eq!(too_slow(read, Duration::from_secs(seconds), rate), slow, "{read} {seconds}");
        }
    }

    #[test]
    fn inflating_stops_at_the_limit() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&vec![b'a'; 1 << 20]).unwrap();
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 4096);
        assert_eq!(inflated_bytes(&packed, 1 << 20), Ok(1 << 20));
        assert_eq!(inflate(&packed, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(inflated_bytes(&packed, (1 << 20) - 1), Err(too_large()));
        assert_eq!(inflated_bytes(b"not gzip", 100), Err(not_gzip()));
        assert_eq!(inflated_bytes(&packed[..packed.len() - 5], 1 << 20), Err(not_gzip()));
    }
}
