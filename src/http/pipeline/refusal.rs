//! The answer to a request that failed, with its entries in the log and the audit log.

use std::sync::atomic::Ordering;

use http::header;

use super::context::Context;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::error::Error;
use crate::http::request::accept::accepts;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, wire};

/// Builds the answer to a failure. Logs the cause of an internal error.
pub fn refuse(app: &App, context: &Context, failure: &Failure) -> Answer {
    let path = context.uri.path();
    if let Failure::Domain(Error::Internal(cause) | Error::Damaged(cause)) = failure {
        tracing::error!(id = context.id, method = %context.method, path, cause, "a request failed");
    }
    if let Failure::TooMany { reason, .. } = failure {
        app.metrics.rate_limited.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(id = context.id, peer = ?context.peer, user = context.user, reason, "too many requests");
    }
    let answer = Answer::failure(failure);
    // Authentication records wrong credentials itself.
    if context.identified && matches!(answer.status.as_u16(), 401 | 403) {
        let (_, _, reason) = wire(failure);
        let event = Event { id: Some(&context.id), detail: Some(&reason), ..context.event(Kind::Denied) };
        security_events::denied(app, event, &format!("{} {path}", context.method));
    }
    if answer.status == http::StatusCode::UNAUTHORIZED { ask_for_password(context, failure, answer) } else { answer }
}

/// Makes a browser ask for a password, or redirects it to the sign-in page (`chttpd.erl`, `error_headers`).
fn ask_for_password(context: &Context, failure: &Failure, answer: Answer) -> Answer {
    let settings = &context.settings;
    let asked = context.headers.get("x-couchdb-www-authenticate").and_then(|value| value.to_str().ok());
    if let Some(challenge) = asked.or_else(|| settings.get("chttpd", "WWW-Authenticate")) {
        return answer.with_text(header::WWW_AUTHENTICATE, challenge);
    }
    if settings.require_valid_user {
        return answer.with_text(header::WWW_AUTHENTICATE, "Basic realm=\"server\"");
    }
    if accepts(&context.headers, "application/json") || !accepts(&context.headers, "text/html") {
        return answer;
    }
    let Some(redirect) = settings.get("chttpd_auth", "authentication_redirect") else { return answer };
    let (_, _, reason) = wire(failure);
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut answer = answer.with_text(
        header::LOCATION,
        &format!("{redirect}?return={}&reason={}", encode(context.uri.path()), encode(&reason)),
    );
    answer.status = http::StatusCode::FOUND;
    answer
}
