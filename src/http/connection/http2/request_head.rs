//! Makes the head of a request as HTTP/1.1 would have brought it.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{self, Uri};

use crate::http::response::error::{Failure, Result};

/// Moves `:authority` into `Host`, and joins the fields of `Cookie` (RFC 9113, sections 8.3.1 and 8.2.3).
///
/// # Errors
/// 400 if `Host` and `:authority` name different servers, or `:authority` has a user's name.
pub fn translate(head: &mut Parts) -> Result<()> {
    join_cookies(&mut head.headers);
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    let host = authority.as_str();
    let same = |said: &HeaderValue| said.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    if host.contains('@') || !head.headers.get_all(header::HOST).iter().all(same) {
        return Err(Failure::bad_request("Host and :authority must name the same server"));
    }
    let value = HeaderValue::from_str(host).map_err(|_| Failure::bad_request("invalid :authority"))?;
    head.headers.insert(header::HOST, value);
    if let Some(target) = head.uri.path_and_query() {
        let mut parts = uri::Parts::default();
        parts.path_and_query = Some(target.clone());
        head.uri = Uri::from_parts(parts).map_err(|_| Failure::bad_request("invalid :path"))?;
    }
    Ok(())
}

/// Clients may send each cookie in a field of its own, which compresses better.
fn join_cookies(headers: &mut HeaderMap) {
    let fields = headers.get_all(header::COOKIE);
    if fields.iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = fields.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(uri: &str, headers: &[(&'static str, &str)]) -> Result<(String, HeaderMap)> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        translate(&mut head).map(|()| (head.uri.to_string(), head.headers))
    }

    #[test]
    fn the_authority_becomes_the_host() {
        for (uri, headers, target, host) in [
            ("https://a.example/db?x=1", &[][..], "/db?x=1", Some("a.example")),
            ("http://a.example:5984/", &[("host", "A.example:5984")], "/", Some("a.example:5984")),
            ("/db", &[("host", "b.example")], "/db", Some("b.example")),
            ("/db", &[], "/db", None),
            ("http://[::1]:5984/db", &[], "/db", Some("[::1]:5984")),
        ] {
            let (path, headers) = translated(uri, headers).unwrap();
            assert_eq!(path, target, "{uri}");
            assert_eq!(headers.get("host").map(|host| host.to_str().unwrap()), host, "{uri}");
            assert!(headers.get_all("host").iter().count() <= 1);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (uri, headers) in [
            ("http://a.example/", &[("host", "b.example")][..]),
            ("http://a.example/", &[("host", "a.example"), ("host", "b.example")]),
            ("http://ann@a.example/", &[]),
        ] {
            let reason = translated(uri, headers).unwrap_err();
            assert!(matches!(reason, Failure::Domain(crate::error::Error::BadRequest(_))), "{uri}: {reason:?}");
        }
    }

    #[test]
    fn cookies_are_joined() {
        let (_, headers) = translated("/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "AuthSession=b")]).unwrap();
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; AuthSession=b"]);
    }
}
