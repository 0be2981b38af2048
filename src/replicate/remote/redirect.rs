//! Where a request goes: the URLs of an endpoint, and redirects.

use http::uri::Scheme;
use http::{Method, StatusCode, Uri, header};

use super::text::shown;
use crate::replicate::failure::Failure;

/// Where a request goes after redirects.
pub(super) struct Place {
    pub url: Uri,
    pub method: Method,
    pub has_body: bool,
    /// Whether it still is the endpoint's own server, so that it gets the credentials.
    pub is_own: bool,
}

/// A URL beside the database.
pub(super) fn server_url(database: &Uri, path: &str) -> Result<Uri, Failure> {
    let root = database.path().rsplit_once('/').map_or("", |(root, _)| root);
    let mut parts = database.clone().into_parts();
    parts.path_and_query = format!("{root}{path}").parse().ok();
    Uri::from_parts(parts).map_err(|_| Failure::BadRequest(format!("{} is no URL", shown(path))))
}

/// Where a redirect leads; `None` if the answer is none.
///
/// # Errors
/// It leads from HTTPS to HTTP, or nowhere.
pub(super) fn redirected(from: &Place, answer: &crate::net::http_client::Answer) -> Result<Option<Place>, Failure> {
    let keeps = match answer.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => from.method == Method::GET,
        StatusCode::SEE_OTHER => false,
        _ => return Ok(None),
    };
    let wrong = |what: &str| Failure::Protocol(format!("{}: a redirect {what}", from.url));
    if !keeps && answer.status() != StatusCode::SEE_OTHER {
        // To send the body again as a GET, as browsers do, would write nothing.
        return Err(wrong("of a write that is not 307 or 308"));
    }
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let url = location.and_then(|location| joined(&from.url, location)).ok_or_else(|| wrong("without a place"))?;
    let is_secure = |url: &Uri| url.scheme() == Some(&Scheme::HTTPS);
    if is_secure(&from.url) && !is_secure(&url) {
        return Err(wrong("from HTTPS to HTTP"));
    }
    let place = |url: &Uri| {
        let port = url.port_u16().unwrap_or(if is_secure(url) { 443 } else { 80 });
        (url.host().unwrap_or_default().to_ascii_lowercase(), port)
    };
    // From port 80 to 443 of the same host is the usual way to HTTPS, and keeps the credentials.
    let (before, after) = (place(&from.url), place(&url));
    let is_upgrade = before.0 == after.0 && (before.1, after.1) == (80, 443);
    let is_own = from.is_own && (before == after || is_upgrade);
    let method = if keeps { from.method.clone() } else { Method::GET };
    Ok(Some(Place { url, method, has_body: keeps && from.has_body, is_own }))
}

/// The URL of a `Location` header.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        let url: Uri = location.parse().ok()?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        return (is_http && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))).then_some(url);
    }
    let mut parts = base.clone().into_parts();
    let path = match location.starts_with('/') {
        true if location.starts_with("//") => return None,
        true => location.to_owned(),
        false => format!("{}/{location}", base.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}
