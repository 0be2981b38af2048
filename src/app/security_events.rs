//! Writes audit events of requests, and counts suspicious ones.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::App;
use super::anomalies::{Pattern, Who};
use super::rate_limits::Origin;
use crate::audit::{Event, Kind};
use crate::auth::UserCtx;
use crate::auth::authenticate::INCORRECT;
use crate::auth::users::INVALID_PASSWORD;
use crate::error::Error;

/// The client of a request: the user, the address, and the request's id.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub user: &'a UserCtx,
    pub peer: Option<IpAddr>,
    pub id: &'a str,
}

impl<'a> Caller<'a> {
    /// Creates an audit event that names this client and its request.
    pub fn event(self, kind: Kind) -> Event<'a> {
        Event { user: self.user.name.as_deref(), peer: self.peer, id: Some(self.id), ..Event::of(kind) }
    }
}

fn who(user: Option<&str>, peer: Option<IpAddr>) -> Option<Who> {
    match (user, peer) {
        (Some(name), _) => Some(Who::User(name.chars().take(128).collect())),
        (None, Some(peer)) => Some(Who::Address(Origin::of(peer))),
        (None, None) => None,
    }
}

/// Counts an event that may be part of a pattern, and reports the pattern when its threshold is reached.
fn watch(app: &App, pattern: Pattern, user: Option<&str>, peer: Option<IpAddr>, count: u64) {
    let (key, counter) = match pattern {
        Pattern::MassDeletion => ("mass_deletion", &app.metrics.mass_deletions),
        Pattern::IdScanning => ("id_scanning", &app.metrics.id_scans),
        Pattern::Guessing => ("guessing", &app.metrics.guessing),
        Pattern::Denial => return,
    };
    let Some(who) = who(user, peer) else { return };
    if app.anomalies.note(who, pattern, count, app.settings().number("audit", key)) {
        counter.fetch_add(1, Ordering::Relaxed);
        app.sync.suspicious(user, key, app.settings().number("audit", key), peer);
        Event { user, peer, detail: Some(key), ..Event::of(Kind::Suspicious) }.record();
    }
}

/// A request was refused: 401 or 403. `asked`: method and path.
pub fn denied(app: &App, event: Event<'_>, asked: &str) {
    // Told where the password was looked at.
    if event.detail == Some(INCORRECT) {
        return;
    }
    app.metrics.denials.fetch_add(1, Ordering::Relaxed);
    if who(event.user, event.peer).is_none_or(|who| app.anomalies.denial(who)) {
        // CouchDB's words name the password.
        let is_told = |reason: &str| !reason.starts_with(INVALID_PASSWORD);
        let detail = event.detail.map(|reason| if is_told(reason) { reason } else { "a password that is no text" });
        Event { kind: Kind::Denied, subject: Some(asked), detail, ..event }.record();
    }
}

/// A request was answered 404. Counts requests for documents, but not for `_local` ones: a client that begins to
/// replicate asks for checkpoints that do not exist yet.
pub fn missed(app: &App, path: &str, user: Option<&str>, peer: Option<IpAddr>) {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let is_document = parts.next().is_some_and(|database| !database.starts_with('_'))
        && parts.next().is_some_and(|id| !id.starts_with('_'));
    if is_document {
        watch(app, Pattern::IdScanning, user, peer, 1);
    }
}

/// Documents were deleted.
pub fn deleted(app: &App, caller: Caller<'_>, count: u64) {
    if count > 0 {
        watch(app, Pattern::MassDeletion, caller.user.name.as_deref(), caller.peer, count);
    }
}

/// A password was right. `purpose`: what for.
pub fn signed_in(app: &App, caller: Caller<'_>, name: Option<&str>, purpose: &'static str) {
    app.metrics.sign_ins.fetch_add(1, Ordering::Relaxed);
    Event { user: name, detail: Some(purpose), ..caller.event(Kind::SignIn) }.record();
}

/// A password, cookie or token was wrong. `name`: the user that it names, if known.
pub fn sign_in_failed(app: &App, caller: Caller<'_>, name: Option<&str>, reason: &str) {
    app.metrics.sign_in_failures.fetch_add(1, Ordering::Relaxed);
    Event { user: name, detail: Some(reason), ..caller.event(Kind::SignInFailed) }.record();
    watch(app, Pattern::Guessing, None, caller.peer, 1);
}

/// Credentials were refused before any password was looked at.
pub fn credentials_refused(app: &App, caller: Caller<'_>, name: Option<&str>, error: &Error) {
    match error {
        Error::Locked(_) => {
            app.metrics.lockouts.fetch_add(1, Ordering::Relaxed);
            Event { user: name, detail: Some("lockout"), ..caller.event(Kind::SignInRefused) }.record();
        }
        Error::Unauthorized(reason) | Error::BadRequest(reason) => sign_in_failed(app, caller, name, reason),
        _ => {}
    }
}

/// An address has tried too many passwords.
pub fn sign_in_limited(caller: Caller<'_>, name: Option<&str>) {
    Event { user: name, detail: Some("rate limit"), ..caller.event(Kind::SignInRefused) }.record();
}
