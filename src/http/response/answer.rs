//! Builders of answers: JSON as CouchDB writes it, streams, ETags.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::body::Body;
use super::error::{self, Failure, Result};
use super::producer::{Producing, Sender};
use crate::app::answer_budget::{Held, Line};
use crate::config::Settings;
use crate::error::Error;

/// A response before the server adds the headers common to all responses (date, request id, server, CORS).
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether the body may be compressed if the client accepts that; false for feeds and attachments.
    pub compressible: bool,
}

/// The `Retry-After` of a 503, in seconds.
const RETRY_AFTER: u64 = 5;
/// Room for the headers that most answers have.
const HEADERS: usize = 7;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MUST_REVALIDATE: HeaderValue = HeaderValue::from_static("must-revalidate");

impl Answer {
    /// A status and a body, without headers.
    pub fn bytes(status: StatusCode, body: impl Into<Bytes>) -> Answer {
        Answer { status, headers: HeaderMap::with_capacity(HEADERS), body: Body::whole(body), compressible: true }
    }

    /// Compact JSON, with a newline at the end as CouchDB sends it.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
        match serde_json::to_vec(value) {
            Ok(text) => Answer::json_text(status, text),
            Err(cause) => Answer::failure(&Failure::Domain(Error::Internal(cause.to_string()))),
        }
    }

    /// 200 with JSON.
    pub fn ok(value: &impl Serialize) -> Answer {
        Answer::json(StatusCode::OK, value)
    }

    /// JSON that is serialized already; adds the newline.
    pub fn json_text(status: StatusCode, text: impl Into<Vec<u8>>) -> Answer {
        let mut text = text.into();
        text.push(b'\n');
        Answer::bytes(status, text).with(header::CONTENT_TYPE, JSON).with(header::CACHE_CONTROL, MUST_REVALIDATE)
    }

    /// `{"error": ..., "reason": ...}` with the failure's status.
    pub fn failure(failure: &Failure) -> Answer {
        let (status, word, reason) = error::wire(failure);
        let mut text = serde_json::json!({"error": word, "reason": error::reason_json(failure, reason)});
        if let Failure::Domain(Error::Locked(wait)) = failure {
            // CouchDB has no such members. Its reason alone made users try the right password again and again.
            text["retry_after"] = (*wait).into();
            text["hint"] = format!("The right password is refused as well. Wait {wait} seconds.").into();
        }
        let answer = Answer::json(status, &text);
        match failure {
            Failure::Domain(Error::Locked(wait)) => answer.with(header::RETRY_AFTER, (*wait).into()),
            Failure::MethodNotAllowed(allow) => answer.with(header::ALLOW, HeaderValue::from_static(allow)),
            Failure::TooMany { seconds, .. } => answer.with(header::RETRY_AFTER, (*seconds).into()),
            Failure::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. } | Failure::Domain(Error::Down(_)) => {
                answer.with(header::RETRY_AFTER, RETRY_AFTER.into())
            }
            Failure::Gone => answer.with(header::CONNECTION, HeaderValue::from_static("close")),
            _ => answer,
        }
    }

    /// 200 with a body that `produce` writes while the socket drains. This function polls `produce` until it
    /// has written something and then waits, or until it ends. A failure up to that point is returned and
    /// becomes a proper JSON error; a later failure can only close the connection. Producers therefore read
    /// their first page before they write the first byte.
    ///
    /// A JSON stream ends with a newline, as in CouchDB; `produce` writes it.
    pub async fn stream<F, P>(line: &Line, content_type: &'static str, produce: P) -> Result<Answer>
    where
        P: FnOnce(Sender) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut producing = Producing::new(line, produce);
        producing.first().await?;
        let body = match producing.if_complete() {
            Some(whole) => Body::whole(whole),
            None => Body::producing(producing),
        };
        let answer =
            Answer { status: StatusCode::OK, headers: HeaderMap::with_capacity(HEADERS), body, compressible: true };
        Ok(answer
            .with(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .with(header::CACHE_CONTROL, MUST_REVALIDATE))
    }

    /// As [`Answer::stream`], for a body whose length is known in advance, such as an attachment. Never
    /// compressed.
    pub async fn stream_of_length<F, P>(line: &Line, content_type: &str, length: u64, produce: P) -> Result<Answer>
    where
        P: FnOnce(Sender) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let answer = Answer::stream(line, "application/octet-stream", produce).await?;
        let mut answer = answer.with(header::CONTENT_TYPE, content_type_of(content_type)).uncompressed();
        answer.headers.insert(header::CONTENT_LENGTH, length.into());
        Ok(answer)
    }

    /// 304 with the current `ETag`, given without quotes.
    pub fn not_modified(etag: &str) -> Answer {
        Answer::bytes(StatusCode::NOT_MODIFIED, Bytes::new()).with(header::CONTENT_LENGTH, 0.into()).etag(etag)
    }

    /// 301 to a URL, which may be relative to that of the request.
    pub fn moved(to: &str) -> Answer {
        Answer::bytes(StatusCode::MOVED_PERMANENTLY, Bytes::new()).with_text(header::LOCATION, to)
    }

    /// Sets a header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.insert(name, value);
        self
    }

    /// Sets a header to untrusted text; percent-encodes control characters if the text is not a valid header
    /// value.
    pub fn with_text(self, name: HeaderName, value: &str) -> Answer {
        let value = HeaderValue::from_str(value).unwrap_or_else(|_| {
            let safe = percent_encoding::utf8_percent_encode(value, percent_encoding::CONTROLS).to_string();
            HeaderValue::from_str(&safe).unwrap_or_else(|_| HeaderValue::from_static(""))
        });
        self.with(name, value)
    }

    /// Sets the `ETag` to `tag`, given without quotes.
    pub fn etag(self, tag: &str) -> Answer {
        self.with_text(header::ETAG, &format!("\"{tag}\""))
    }

    /// Attaches to a complete body the memory that was reserved for it.
    pub fn holding(mut self, held: Option<Arc<Held>>) -> Answer {
        if let Some(held) = held {
            self.body.hold(held);
        }
        self
    }

    /// Disables compression: each chunk must be sent as soon as it is written, or the length and ranges of
    /// the body matter.
    pub fn uncompressed(mut self) -> Answer {
        self.compressible = false;
        self
    }
}

/// The `Content-Type` of an attachment. One that no header can have, such as a type with line breaks, is unknown.
pub fn content_type_of(stored: &str) -> HeaderValue {
    HeaderValue::from_str(stored).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

/// The `Content-Security-Policy` that prevents document content from running scripts with the session of the
/// user who opens it. `enable` is the key in `[csp]` that turns the policy on or off, `value` the key that
/// replaces the default `sandbox` (`chttpd_util:maybe_add_csp_header`).
pub fn sandbox(settings: &Settings, [enable, value]: [&str; 2]) -> Option<HeaderValue> {
    let policy = || settings.get("csp", value).and_then(|policy| HeaderValue::from_str(policy).ok());
    settings.flag("csp", enable).then(|| policy().unwrap_or_else(|| HeaderValue::from_static("sandbox")))
}
