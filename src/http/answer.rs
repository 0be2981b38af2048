//! Builders of answers: JSON as CouchDB writes it, streams, ETags.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::answer_memory::{Held, Line};
use super::failure::{self, Failure, Result};
use super::stream::{Body, Producing, Sender};
use crate::config::Settings;

/// An answer before the frame adds what every answer has (date, request id, server, CORS).
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether it may be compressed when the client asks. Feeds and attachments may not.
    pub compressible: bool,
}

/// Seconds after which a client that found no room may ask again.
const RETRY_AFTER: u64 = 5;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MUST_REVALIDATE: HeaderValue = HeaderValue::from_static("must-revalidate");

impl Answer {
    /// Status and body, no headers.
    pub fn bytes(status: StatusCode, body: impl Into<Bytes>) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: Body::whole(body), compressible: true }
    }

    /// JSON, compact, with CouchDB's newline at the end.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
        match serde_json::to_vec(value) {
            Ok(text) => Answer::json_text(status, text),
            Err(cause) => Answer::failure(&Failure::Domain(crate::error::Error::Internal(cause.to_string()))),
        }
    }

    /// 200 with JSON.
    pub fn ok(value: &impl Serialize) -> Answer {
        Answer::json(StatusCode::OK, value)
    }

    /// JSON that is text already; the newline is added.
    pub fn json_text(status: StatusCode, text: impl Into<Vec<u8>>) -> Answer {
        let mut text = text.into();
        text.push(b'\n');
        Answer::bytes(status, text).with(header::CONTENT_TYPE, JSON).with(header::CACHE_CONTROL, MUST_REVALIDATE)
    }

    /// `{"error": ..., "reason": ...}` with the failure's status.
    pub fn failure(failure: &Failure) -> Answer {
        let (status, word, reason) = failure::wire(failure);
        let answer = Answer::json(status, &serde_json::json!({"error": word, "reason": reason}));
        match failure {
            Failure::MethodNotAllowed(allow) => answer.with(header::ALLOW, HeaderValue::from_static(allow)),
            Failure::TooMany { seconds, .. } => answer.with(header::RETRY_AFTER, (*seconds).into()),
            Failure::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. } => {
                answer.with(header::RETRY_AFTER, RETRY_AFTER.into())
            }
            Failure::Gone => answer.with(header::CONNECTION, HeaderValue::from_static("close")),
            _ => answer,
        }
    }

    /// 200 with a body that `produce` writes while the socket drains. `produce` runs here until it has written something
    /// and then waits, or ends: a failure until then is returned, and becomes a proper JSON error; a later one can only
    /// break the connection off. So read the first page before writing the first byte.
    ///
    /// JSON streams end with a newline, as CouchDB's: `produce` writes it.
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
        let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body, compressible: true };
        Ok(answer
            .with(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .with(header::CACHE_CONTROL, MUST_REVALIDATE))
    }

    /// The same with a length that is known before: an attachment. Never compressed.
    pub async fn stream_of_length<F, P>(line: &Line, content_type: &str, length: u64, produce: P) -> Result<Answer>
    where
        P: FnOnce(Sender) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let answer = Answer::stream(line, "application/octet-stream", produce).await?;
        let content_type = HeaderValue::from_str(content_type)
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
        let mut answer = answer.with(header::CONTENT_TYPE, content_type).uncompressed();
        answer.headers.insert(header::CONTENT_LENGTH, length.into());
        Ok(answer)
    }

    /// 304 with the tag that still holds.
    pub fn not_modified(etag: &str) -> Answer {
        Answer::bytes(StatusCode::NOT_MODIFIED, Bytes::new()).with(header::CONTENT_LENGTH, 0.into()).etag(etag)
    }

    /// 301 to an absolute address.
    pub fn moved(to: &str) -> Answer {
        Answer::bytes(StatusCode::MOVED_PERMANENTLY, Bytes::new()).with_text(header::LOCATION, to)
    }

    /// Sets a header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.insert(name, value);
        self
    }

    /// Sets a header whose value is text from outside; characters that a header cannot hold are percent-encoded.
    pub fn with_text(self, name: HeaderName, value: &str) -> Answer {
        let value = HeaderValue::from_str(value).unwrap_or_else(|_| {
            let safe = percent_encoding::utf8_percent_encode(value, percent_encoding::CONTROLS).to_string();
            HeaderValue::from_str(&safe).unwrap_or_else(|_| HeaderValue::from_static(""))
        });
        self.with(name, value)
    }

    /// Sets the `ETag`: give the tag without quotes.
    pub fn etag(self, tag: &str) -> Answer {
        self.with_text(header::ETAG, &format!("\"{tag}\""))
    }

    /// A body that is there already carries what was taken for it.
    pub fn holding(mut self, held: Option<Arc<Held>>) -> Answer {
        if let Some(held) = held {
            self.body.hold(held);
        }
        self
    }

    /// Never compress it: its bytes must go out as they come, or their length and ranges matter.
    pub fn uncompressed(mut self) -> Answer {
        self.compressible = false;
        self
    }
}

/// The policy that keeps what documents hold from running scripts with the session of who opens it: `[csp]`'s key that
/// turns it off, and the one that says something else (`chttpd_util:maybe_add_csp_header`).
pub fn sandbox(settings: &Settings, [enable, value]: [&str; 2]) -> Option<HeaderValue> {
    let policy = || settings.get("csp", value).and_then(|policy| HeaderValue::from_str(policy).ok());
    settings.flag("csp", enable).then(|| policy().unwrap_or_else(|| HeaderValue::from_static("sandbox")))
}

/// Whether `If-None-Match` names the tag (given without quotes), weakly or not.
pub fn matches_etag(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split([',', ' ']).any(|one| {
            let one = one.strip_prefix("W/").unwrap_or(one);
            one.strip_prefix('"').and_then(|one| one.strip_suffix('"')) == Some(tag)
        })
    })
}
