//! Content negotiation: `Accept`.

use http::header::{self, HeaderMap};

use super::decoded::Request;
use crate::net::header_text::header_text;

/// Whether `Accept` takes a type; none at all takes everything.
pub fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(header_text) else { return true };
    let family = wanted.split('/').next().unwrap_or("");
    accept.split(',').filter_map(|one| one.split(';').next()).map(str::trim).any(|one| {
        one == "*/*" || one.eq_ignore_ascii_case(wanted) || one.strip_suffix("/*").is_some_and(|one| one == family)
    })
}

/// Returns the first of `kinds` that the client accepts. `None` means JSON: the client accepts none of them,
/// or it names JSON explicitly and none of `kinds`.
pub fn wanted(request: &Request, kinds: &[&'static str]) -> Option<&'static str> {
    let accept = request.header(header::ACCEPT).unwrap_or("");
    if accept.contains("application/json") && !kinds.iter().any(|kind| accept.contains(kind)) {
        return None;
    }
    kinds.iter().find(|kind| accepts(&request.headers, kind)).copied()
}
