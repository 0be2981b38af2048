//! Conditional requests: `If-None-Match`.

use http::header::{self, HeaderMap};

/// Whether `If-None-Match` contains the tag (given without quotes), as a strong or a weak one.
pub fn matches_etag(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split([',', ' ']).any(|one| {
            let one = one.strip_prefix("W/").unwrap_or(one);
            one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag)
        })
    })
}
