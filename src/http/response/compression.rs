//! Which answers are compressed.

use tower_http::compression::predicate::Predicate;

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
