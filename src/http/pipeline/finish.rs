//! From an answer to the response on the wire: the headers that all responses have, and the log line at the
//! end.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::context::Context;
use crate::app::{App, security_events};
use crate::http::response::body::Body;
use crate::http::response::compression::{Sent, compress};
use crate::http::response::{Answer, cors};

/// Clients look for CouchDB's name at the beginning.
const SERVER: &str = concat!("CouchDB/3.5.0 (settee/", env!("CARGO_PKG_VERSION"), ")");

/// The headers that are left with `Prefer: return=minimal`.
const MINIMAL: [&str; 9] = [
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "server",
    "transfer-encoding",
    "vary",
    "connection",
];

/// Builds the response.
pub fn finish(app: &Arc<App>, context: Context, answer: Answer) -> http::Response<Sent> {
    let Answer { status, mut headers, mut body, compressible } = answer;
    if status == http::StatusCode::NOT_FOUND && matches!(context.method, http::Method::GET | http::Method::HEAD) {
        security_events::missed(app, context.uri.path(), context.user.as_deref(), context.peer);
    }
    add_common_headers(&context, &mut headers);
    let head = context.head;
    if head {
        if let Some(length) = body.length()
            && !headers.contains_key(header::CONTENT_LENGTH)
        {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        body = Body::whole("");
    }
    let promised = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let request = context.headers.clone();
    log_at_end(app.clone(), context, status, promised.filter(|_| !head), &mut body);
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    compress(response, compressible && !head, &request)
}

/// Adds the headers that all responses have, and removes those that the client does not want.
fn add_common_headers(context: &Context, headers: &mut HeaderMap) {
    let versions = context.settings.server_header_versions;
    headers.insert(header::SERVER, HeaderValue::from_static(if versions { SERVER } else { "CouchDB" }));
    headers.insert(HeaderName::from_static("x-couchdb-body-time"), (context.body_time.as_millis() as u64).into());
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        headers.insert(HeaderName::from_static("x-couch-request-id"), id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    cors::decorate(&context.settings.cors, &context.headers, headers);
    let minimal =
        context.headers.get("prefer").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"return=minimal"));
    if minimal {
        let extra: Vec<HeaderName> = headers.keys().filter(|name| !MINIMAL.contains(&name.as_str())).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }
    if context.encrypted
        && let Some(policy) = context.settings.get("ssl", "hsts").filter(|policy| !policy.is_empty())
        && let Ok(policy) = HeaderValue::from_str(policy)
    {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, policy);
    }
}

/// Counts and logs the request when its body is sent or given up. `promised`: the `Content-Length`; the
/// connection does not ask a produced body for its end after so many bytes.
fn log_at_end(app: Arc<App>, context: Context, status: http::StatusCode, promised: Option<u64>, body: &mut Body) {
    // Not the whole context: a waiting feed keeps these for hours.
    let Context { id, method, uri, received, user, peer, syncing, .. } = context;
    let path = uri.path().to_owned();
    drop(uri);
    body.at_end(move |ended| {
        let time = received.elapsed();
        let whole = ended.whole || promised == Some(ended.bytes);
        let is_feed = path.ends_with("/_changes") || path == "/_db_updates";
        app.metrics.count(method.as_str(), status.as_u16(), time, ended.bytes, whole, is_feed);
        if let Some(syncing) = &syncing {
            syncing.answered(ended.bytes);
        }
        tracing::info!(
            target: "settee::request",
            %method,
            path,
            status = status.as_u16(),
            ms = (time.as_micros() as f64) / 1000.0,
            user = user.as_deref().unwrap_or("-"),
            bytes = ended.bytes,
            aborted = !whole,
            peer = peer.map(tracing::field::display),
            id,
            "request"
        );
    });
}
