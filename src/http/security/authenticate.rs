//! Connects HTTP with `auth`: extracts the credentials of a request, signs in, and sets session cookies.

use std::net::IpAddr;
use std::sync::Arc;

use http::header;

use crate::app::{App, security_events};
use crate::auth::{Authenticator, Credentials, Proof, Session, SignedIn, Step, UserCtx, session};
use crate::blocking::{blocking, reading};
use crate::http::request::Request;
use crate::http::response::error::Result;
use crate::net::header_text::header_text;
use crate::store::StoreError;

/// The result of authentication.
pub struct Signed {
    /// The user; anonymous if the request has no credentials.
    pub user: UserCtx,
    /// The session or token that the client sent.
    pub session: Option<Session>,
    /// The id of the device that the session or token belongs to.
    pub device: Option<String>,
    /// The value of `Set-Cookie`, if the session was renewed.
    pub set_cookie: Option<String>,
}

/// Authenticates a request. Without credentials the user is anonymous.
///
/// # Errors
/// 401, 400 or 403 if the credentials are not valid.
pub async fn authenticate(app: &Arc<App>, request: &Request) -> Result<Signed> {
    if request.is_owner {
        // A process that may open the control socket may also read and replace all data without the server.
        let user = UserCtx::server();
        request.authorization.signed_in(&user, Proof::Owner, request.authorization.seen());
        return Ok(Signed { user, session: None, device: None, set_cookie: None });
    }
    let auth = app.auth.settings();
    let header = |name: &str| request.header(name);
    let cookies = request.headers.get_all(header::COOKIE);
    let credentials = Credentials {
        authorization: request.header(header::AUTHORIZATION),
        cookie: cookies.iter().filter_map(header_text).find_map(session::find),
        proxy_user: header(&auth.proxy.user_header),
        proxy_roles: header(&auth.proxy.roles_header),
        proxy_token: header(&auth.proxy.token_header),
        peer: request.peer,
        device: device(request),
    };
    if credentials.is_empty() {
        return Ok(Signed { user: UserCtx::anonymous(), session: None, device: None, set_cookie: None });
    }
    let seen = request.authorization.seen().with_accounts(app);
    let begun = Box::pin(begin(app, &credentials)).await;
    let step = begun.inspect_err(|error| security_events::credentials_refused(app, request.caller(), None, error))?;
    let hashes = matches!(step, Step::Hash(_));
    let signed = finish(app, step, request).await?;
    if hashes {
        security_events::signed_in(app, request.caller(), signed.user.name.as_deref(), "request");
    }
    let set_cookie = signed.cookie.map(|value| set_cookie(app, request, &value));
    let device = signed.proof.device().map(str::to_owned);
    request.authorization.signed_in(&signed.user, signed.proof, seen);
    Ok(Signed { user: signed.user, session: signed.session, device, set_cookie })
}

/// Begins the authentication, on a thread that may block if it reads accounts or devices.
async fn begin(app: &Arc<App>, credentials: &Credentials<'_>) -> crate::error::Result<Step> {
    if let Some(step) = app.auth.begin_in_memory(credentials) {
        return step;
    }
    if app.store.is_shared()
        && let Some(session) = app.auth.cookie_in_memory(credentials)
    {
        // Another node may have revoked the session. If its record cannot be read here, `begin` reads it again.
        match app.store.begin_get_each(vec![session.devices_key()]).await.as_deref() {
            Ok([Ok(devices)]) => {
                if let Some(signed) = app.auth.signed_in_by_cookie(credentials, session, devices.as_deref()) {
                    return Ok(Step::Done(signed));
                }
            }
            Err(error @ StoreError::Down(_)) => return Err(error.clone().into()),
            _ => {}
        }
    }
    let kept: [Option<String>; 6] = [
        credentials.authorization,
        credentials.cookie,
        credentials.proxy_user,
        credentials.proxy_roles,
        credentials.proxy_token,
        credentials.device,
    ]
    .map(|text| text.map(str::to_owned));
    // A JWT may require a fetch of its issuer's keys, which must not block an async thread.
    let waits = credentials.authorization.is_some_and(|text| text.starts_with("Bearer"));
    let (app, peer) = (app.clone(), credentials.peer);
    let begin = move || {
        let [authorization, cookie, proxy_user, proxy_roles, proxy_token, device] = &kept;
        app.auth.begin(&Credentials {
            authorization: authorization.as_deref(),
            cookie: cookie.as_deref(),
            proxy_user: proxy_user.as_deref(),
            proxy_roles: proxy_roles.as_deref(),
            proxy_token: proxy_token.as_deref(),
            peer,
            device: device.as_deref(),
        })
    };
    if waits { blocking(begin).await } else { reading(begin).await }
}

/// The name that the client gives its device: `X-Settee-Device`, or else the user agent.
pub fn device(request: &Request) -> Option<&str> {
    request.header("x-settee-device").or_else(|| request.header(header::USER_AGENT))
}

/// Checks name, password and one-time code, and begins a session: `POST /_session`.
pub async fn sign_in(
    app: &Arc<App>,
    name: String,
    password: String,
    code: Option<String>,
    request: &Request,
) -> Result<SignedIn> {
    let device = device(request).unwrap_or_default().to_owned();
    let begin = move |auth: &Authenticator, name: &str, peer| {
        auth.begin_session(name, &password, code.as_deref(), peer, &device)
    };
    verified(app, name, begin, request, "session").await
}

/// Checks name, password and one-time code without beginning a session. `purpose`: what it is for.
pub async fn check_password(
    app: &Arc<App>,
    name: String,
    password: String,
    code: Option<String>,
    request: &Request,
    purpose: &'static str,
) -> Result<SignedIn> {
    let begin = move |auth: &Authenticator, name: &str, peer| auth.begin_check(name, &password, code.as_deref(), peer);
    verified(app, name, begin, request, purpose).await
}

/// Begins a sign-in with a password, completes it, and records how it ended. `purpose`: what it is for.
async fn verified(
    app: &Arc<App>,
    name: String,
    begin: impl FnOnce(&Authenticator, &str, Option<IpAddr>) -> crate::error::Result<Step> + Send + 'static,
    request: &Request,
    purpose: &'static str,
) -> Result<SignedIn> {
    let (shared, asked, peer) = (app.clone(), name.clone(), request.peer);
    let begun = blocking(move || begin(&shared.auth, &asked, peer)).await;
    let step =
        begun.inspect_err(|error| security_events::credentials_refused(app, request.caller(), Some(&name), error))?;
    let signed = finish(app, step, request).await?;
    security_events::signed_in(app, request.caller(), signed.user.name.as_deref(), purpose);
    Ok(signed)
}

/// Completes a sign-in: hashes the password if necessary, within the limits for sign-ins, and schedules the
/// upgrade of an old hash.
async fn finish(app: &Arc<App>, step: Step, request: &Request) -> Result<SignedIn> {
    let mut signed = match step {
        Step::Done(signed) => signed,
        Step::Hash(pending) => {
            let name = pending.name().to_owned();
            app.limits
                .sign_in(request.peer)
                .inspect_err(|_| security_events::sign_in_limited(request.caller(), Some(&name)))?;
            let shared = app.clone();
            let hashed = Box::pin(app.hash(request.peer, &name, move || shared.auth.finish(pending))).await;
            hashed
                .inspect_err(|error| security_events::credentials_refused(app, request.caller(), Some(&name), error))?
        }
    };
    if let Some(upgrade) = signed.upgrade.take() {
        crate::policy::password_upgrade::upgrade(app, upgrade);
    }
    Ok(signed)
}

/// The `Set-Cookie` header for a session cookie; an empty `value` deletes the cookie.
pub fn set_cookie(app: &App, request: &Request, value: &str) -> String {
    let attributes = app.auth.settings().cookie_attributes(request.secure);
    session::set_cookie(value, &attributes, app.clock.since_epoch().as_secs())
}
