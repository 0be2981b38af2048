//! Which answers are compressed.

use http::header::{self, HeaderMap};
use tower_http::compression::predicate::{And, Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

/// Compresses answers of more than a kilobyte that say that they may be, in an encoding that the client accepts.
pub(crate) fn compression() -> CompressionLayer<And<SizeAbove, Compressible>> {
    CompressionLayer::new()
        .gzip(true)
        .zstd(true)
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(1024).and(Compressible))
}

/// Only what says so, and only text: attachments are stored compressed, feeds must not sit in a compressor.
#[derive(Clone, Copy)]
pub(crate) struct Compressible;

/// Marks an answer that may be compressed.
#[derive(Clone, Copy)]
pub(crate) struct MayCompress;

impl Predicate for Compressible {
    fn should_compress<B: hyper::body::Body>(&self, response: &http::Response<B>) -> bool {
        response.extensions().get::<MayCompress>().is_some()
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
