//! Which answers are compressed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{self, HeaderMap};
use http::{Request, Response};
use hyper::body::{Frame, SizeHint};
use tower::{Layer, Service};
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionBody, CompressionLayer, CompressionLevel};

use super::body::Body;

/// Answers of at most this many bytes are not compressed.
const SMALL: u64 = 1024;

/// The body of a response as the connection sends it. hyper keeps room for one in each connection: what few responses
/// need is boxed.
pub enum Sent {
    /// As the handler wrote it.
    Plain(Body),
    /// What `tower-http` makes of it.
    Negotiated(Pin<Box<CompressionBody<Body>>>),
}

/// Compresses a response of more than a kilobyte, if it `may` be compressed, in an encoding that the client accepts.
/// `request`: the headers of the request. Attachments, which are stored compressed, and feeds, which must not sit in a
/// compressor, may not be compressed.
pub fn compress(response: Response<Body>, may: bool, request: &HeaderMap) -> Response<Sent> {
    let may = may && SizeAbove::new(SMALL).should_compress(&response);
    // Without this header every encoding is acceptable, and only the header `Vary` is to be set.
    if !may && !request.contains_key(header::ACCEPT_ENCODING) {
        return response.map(Sent::Plain);
    }
    let layer = CompressionLayer::new().gzip(true).zstd(true).quality(CompressionLevel::Fastest);
    let mut accepts = Request::new(());
    for accepted in request.get_all(header::ACCEPT_ENCODING) {
        accepts.headers_mut().append(header::ACCEPT_ENCODING, accepted.clone());
    }
    let mut response = Some(response);
    let service = tower::service_fn(|_| std::future::ready(Ok::<_, Infallible>(response.take().expect("called once"))));
    let compressed = layer.compress_when(If(may)).layer(service).call(accepts).now_or_never();
    let Some(Ok(compressed)) = compressed else { unreachable!("the response is there already") };
    compressed.map(|body| Sent::Negotiated(Box::pin(body)))
}

/// Decides before the response is looked at.
#[derive(Clone, Copy)]
struct If(bool);

impl Predicate for If {
    fn should_compress<B: hyper::body::Body>(&self, _response: &Response<B>) -> bool {
        self.0
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Sent::Plain(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Sent::Negotiated(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sent::Plain(body) => body.is_end_stream(),
            Sent::Negotiated(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Plain(body) => body.size_hint(),
            Sent::Negotiated(body) => body.size_hint(),
        }
    }
}

/// Bytes that a compressor takes while it works, if the client accepts one.
pub(crate) fn bytes_needed(headers: &HeaderMap) -> Option<u64> {
    let accepted = headers.get(header::ACCEPT_ENCODING)?.as_bytes();
    let names = |name: &[u8]| memchr::memmem::find(accepted, name).is_some();
    if names(b"zstd") {
        return Some(1536 << 10);
    }
    (names(b"gzip") || names(b"*")).then_some(384 << 10)
}
