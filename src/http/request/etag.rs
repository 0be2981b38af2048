//! Conditional requests: `If-None-Match`, and the tags that it names.

use http::header::{self, HeaderMap};
use md5::{Digest, Md5};

use crate::net::header_text::header_text;

/// The tag of an answer that `parts` determine, without quotes. Each part counts with its length, so that no
/// two lists of parts are the same text.
pub fn etag_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    crate::hex::hex(&digest.finalize())
}

/// Whether `If-None-Match` contains the tag (given without quotes), as a strong or a weak one.
pub fn matches_etag(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(header_text).any(|value| {
        value.split([',', ' ']).any(|one| {
            let one = one.strip_prefix("W/").unwrap_or(one);
            one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag)
        })
    })
}
