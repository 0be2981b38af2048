//! The answer to a request that failed, with its entries in the log and the audit log.

use std::sync::atomic::Ordering;

use http::header;

use super::context::Context;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::config::settings::CHALLENGE;
use crate::error::Error;
use crate::http::request::accept::accepts;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, wire};
use crate::net::header_text::header_text;

/// Builds the answer to a failure. Logs the cause of an internal error.
pub fn refuse(app: &App, context: &Context, failure: &Failure) -> Answer {
    let path = context.uri.path();
    if let Failure::Domain(Error::Internal(cause) | Error::Damaged(cause) | Error::Down(cause)) = failure {
        tracing::error!(id = context.id, method = %context.method, path, cause, "a request failed");
    }
    if let Failure::TooMany { reason, .. } = failure {
        app.metrics.rate_limited.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(id = context.id, peer = ?context.peer, user = context.user, reason, "too many requests");
    }
    let answer = Answer::failure(failure);
    if let Some(syncing) = &context.syncing
        && is_news(answer.status)
    {
        syncing.failed(answer.status.as_u16(), &wire(failure).2);
    }
    // Authentication records wrong credentials itself.
    let told = !context.identified || matches!(failure, Failure::Domain(Error::Locked(_)));
    if !told && matches!(answer.status.as_u16(), 401 | 403) {
        let (_, _, reason) = wire(failure);
        let event = Event { id: Some(&context.id), detail: Some(&reason), ..context.event(Kind::Denied) };
        security_events::denied(app, event, &format!("{} {path}", context.method));
    }
    if answer.status == http::StatusCode::UNAUTHORIZED { ask_for_password(context, failure, answer) } else { answer }
}

/// Whether an error is none that replicators meet every day: a missing checkpoint, a checkpoint that they write twice.
fn is_news(status: http::StatusCode) -> bool {
    !matches!(status, http::StatusCode::NOT_FOUND | http::StatusCode::CONFLICT)
}

/// Makes a browser ask for a password, or redirects it to the sign-in page (`chttpd.erl`, `error_headers`).
fn ask_for_password(context: &Context, failure: &Failure, answer: Answer) -> Answer {
    let settings = &context.settings;
    let asked = context.headers.get("x-couchdb-www-authenticate").and_then(header_text);
    if let Some(challenge) = asked.or_else(|| settings.get("chttpd", "WWW-Authenticate")) {
        return answer.with_text(header::WWW_AUTHENTICATE, challenge);
    }
    if settings.require_valid_user {
        return answer.with_text(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    if accepts(&context.headers, "application/json") || !accepts(&context.headers, "text/html") {
        return answer;
    }
    let Some(redirect) = settings.get("chttpd_auth", "authentication_redirect") else { return answer };
    let (_, _, reason) = wire(failure);
    let path = context.uri.path();
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut answer = answer.with_text(
        header::LOCATION,
        &format!("{}?return={}&reason={}", from(path, redirect), encode(path), encode(&reason)),
    );
    answer.status = http::StatusCode::FOUND;
    answer
}

/// The path `to` as a reference that is relative to `path`, so that it stays below the path at which a proxy serves the
/// server. Everything but a path, such as a whole URL, is returned unchanged.
fn from(path: &str, to: &str) -> String {
    match to.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
        Some(rest) => "../".repeat(path.matches('/').count().saturating_sub(1)) + rest,
        None => to.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::from;

    #[test]
    fn a_redirect_stays_below_the_path_of_a_proxy() {
        for (path, to, reference) in [
            ("/", "/_utils/session.html", "_utils/session.html"),
            ("/db", "/_utils/session.html", "_utils/session.html"),
            ("/db/", "/_utils/session.html", "../_utils/session.html"),
            ("/db/doc/name", "/_utils/session.html", "../../_utils/session.html"),
            ("/db//doc", "/_utils/session.html", "../../_utils/session.html"),
            ("/db", "https://sign-in.example/", "https://sign-in.example/"),
            ("/db", "//sign-in.example/", "//sign-in.example/"),
        ] {
            assert_eq!(from(path, to), reference, "{path} {to}");
        }
    }
}
