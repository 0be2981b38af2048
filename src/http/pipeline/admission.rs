//! Checks that the user may do what the route names, and calls the handler; again for the request that a
//! design document rewrites it to.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::error::Error;
use crate::http::api::design::rewrite::Rewritten;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::http::routing::route::{DbRoute, Route};
use crate::http::routing::route_table::route as route_of;
use crate::http::routing::{cross_site, dispatch, required_access};
use crate::policy::access::{self, Access, Verdict};

/// A request that only reads and took longer than this is checked again before its answer is sent.
const LONG: Duration = Duration::from_millis(100);

/// Admits an authenticated request and runs its handler.
pub async fn admit(app: &Arc<App>, request: &mut Request, mut routed: Result<Route>) -> Result<Answer> {
    for rewrites in 0.. {
        check_access(app, request, &routed).await?;
        let route = routed?;
        request.body.check_length()?;
        let Route::Database { name, what: DbRoute::Rewrite(design) } = &route else {
            return handle(app, request, route).await;
        };
        match dispatch::rewrite(app, request, name, design, rewrites).await? {
            Rewritten::Answer(answer) => return Ok(answer),
            Rewritten::Target(target) => routed = route_of(&target),
        }
        // The function may have taken seconds, and the body that it returns is not checked at its end.
        request.authorization.check().await?;
        request.refresh();
    }
    Err(Failure::missing())
}

/// Checks what the route requires, and records it in the request's authorization.
async fn check_access(app: &Arc<App>, request: &Request, routed: &Result<Route>) -> Result<()> {
    let openness = required_access::openness(routed);
    if request.user.name.is_none() && !request.user.is_server_admin() {
        access::check_nobody(openness, &request.settings)?;
    }
    cross_site::check_site(routed, request)?;
    let (needed, database) = match routed {
        Ok(route) => {
            let needed = match required_access::resets_vault(route, &request.settings) {
                true => Access::ManageDatabase,
                false => required_access::needed(route, &app.auth.settings().authentication_db),
            };
            (needed, if let Route::Database { name, .. } = route { Some(name.clone()) } else { None })
        }
        // A user who may not use a path does not learn what else is wrong with the request.
        Err(_) => required_access::needed_by_path(&request.segments),
    };
    let verdict = access::check(needed, &request.user, &request.settings)?;
    let mut by = None;
    if let Some(name) = database
        && (verdict == Verdict::AskDatabase || routed.is_err())
    {
        let (database, security) = dispatch::security_of(app, &name, request.received).await?;
        if verdict == Verdict::AskDatabase {
            let object =
                serde_json::from_str(&security).map_err(|_| Error::Damaged(format!("_security of database {name}")))?;
            access::check_database(needed, &request.user, &object)?;
        }
        by = Some((database, security));
    }
    request.authorization.let_in(needed, openness, by);
    Ok(())
}

/// Runs the handler of a route.
async fn handle(app: &Arc<App>, request: &mut Request, route: Route) -> Result<Answer> {
    let reads = required_access::only_reads(&route);
    let answer = dispatch::dispatch(app, request, route).await?;
    // The build of a view may have taken minutes, a function seconds.
    if reads && request.received.elapsed() > LONG {
        request.authorization.check().await?;
    }
    Ok(answer)
}
