//! Protection against cross-site request forgery: refuses requests that a page of another site sends with the
//! session of the user who looks at it.

use http::header;

use super::route::{DbRoute, Route, ServerRoute};
use crate::auth::Session;
use crate::error::Error;
use crate::http::request::{Request, Verb};
use crate::http::response::cors;
use crate::http::response::error::Result;

/// Checks a request. Reading is left to the browser, which does not show the answer to such a page. CouchDB's own
/// protection is that writes need JSON; this also covers what that misses: a bare `POST
/// /_node/_local/_restart`, an update function by GET.
pub fn check_site(route: &Result<Route>, request: &Request) -> Result<()> {
    use ServerRoute as S;
    // Signing in needs no session: a form on another site could sign its visitor in as somebody else (login
    // CSRF). Another site has no use for the devices and tokens of a session either.
    if let Ok(Route::Server(S::SignIn | S::SignOut | S::Token | S::Devices | S::RevokeDevices(_))) = route
        && !matches!(request.verb, Verb::Get | Verb::Options)
    {
        let says_json = request.header(header::CONTENT_TYPE).is_some_and(is_json);
        let preflighted = says_json || request.verb == Verb::Delete;
        // Tokens are for apps whose pages may have any origin or none; only a form could be another site's.
        let is_app = says_json && matches!(route, Ok(Route::Server(S::Token)));
        if !is_app && cors::is_from_elsewhere(&request.settings.cors, &request.headers, preflighted) {
            let reason = "A page of another site may not do this; its origin is not in [cors] origins.";
            return Err(Error::Forbidden(reason.into()).into());
        }
    }
    let by_cookie = matches!(request.session, Some(Session::Cookie(_)));
    let harmless = match route {
        Ok(Route::Server(ServerRoute::SignIn)) => true,
        Ok(Route::Database { what: DbRoute::Update(..), .. }) => false,
        _ => matches!(request.verb, Verb::Get | Verb::Options),
    };
    if by_cookie && !harmless && cors::is_foreign(&request.settings.cors, &request.headers) {
        let reason = "A page of another site may not do this with your session; its origin is not in [cors] origins.";
        return Err(Error::Forbidden(reason.into()).into());
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
