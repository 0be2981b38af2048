//! `/_session`: session information, sign-in, sign-out (CouchDB: `couch_httpd_auth.erl`).

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::json;

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::request::{Request, read_form};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::http::security::authenticate;

/// GET: the user, and how the request was authenticated.
pub fn info(app: &App, request: &Request) -> Result<Answer> {
    if request.user.name.is_none() && request.query.get("basic") == Some("true") {
        return Err(Error::Unauthorized("Please login.".into()).into());
    }
    Ok(Answer::ok(&auth::session_info(&request.user, &app.auth.settings())))
}

/// POST: name and password, as a form or as JSON.
pub async fn sign_in(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    let form = read_form(request).await?;
    let of = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let name = match (of("username"), of("name")) {
        (None, None) => return Err(Failure::bad_request("request body must contain a username")),
        (Some(one), Some(other)) if one != other => {
            return Err(Failure::bad_request("request body contains different usernames"));
        }
        (Some(name), _) | (None, Some(name)) => name,
    };
    let password = of("password").unwrap_or_default();
    match authenticate::sign_in(app, name, password, of("token"), request).await {
        Ok(signed) => {
            let cookie = authenticate::set_cookie(app, request, signed.cookie.as_deref().unwrap_or(""));
            let body = json!({"ok": true, "name": signed.user.name, "roles": signed.user.roles});
            Ok(redirected(request, "next", Answer::ok(&body)).with_text(header::SET_COOKIE, &cookie))
        }
        Err(Failure::Domain(Error::Unauthorized(reason))) => {
            let cookie = authenticate::set_cookie(app, request, "");
            let body = json!({"error": "unauthorized", "reason": reason});
            let answer = Answer::json(StatusCode::UNAUTHORIZED, &body);
            Ok(redirected(request, "fail", answer).with_text(header::SET_COOKIE, &cookie))
        }
        Err(other) => Err(other),
    }
}

/// DELETE: ends the session.
pub async fn sign_out(app: &Arc<App>, request: &Request) -> Result<Answer> {
    super::devices::end(app, request).await?;
    let cookie = authenticate::set_cookie(app, request, "");
    Ok(redirected(request, "next", Answer::ok(&json!({"ok": true}))).with_text(header::SET_COOKIE, &cookie))
}

/// Redirects with 302 to the path in `parameter` (`?next=/path`), if there is one. Accepts only paths of this
/// server; CouchDB accepts any URL, which makes it an open redirect.
fn redirected(request: &Request, parameter: &str, mut answer: Answer) -> Answer {
    match request.query.get(parameter) {
        Some(path) if path.starts_with('/') => {
            answer.status = StatusCode::FOUND;
            answer.with_text(header::LOCATION, &request.absolute_uri(path))
        }
        _ => answer,
    }
}
