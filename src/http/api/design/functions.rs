//! Functions of design documents in requests: loads them, builds the request object, and filters feeds.

use std::sync::Arc;

use crate::app::App;
use crate::blocking::blocking;
use crate::db::Database;
use crate::http::request::{Request, Verb};
use crate::http::response::error::Result;
use crate::query::changes_filter::{FilterFunction, Judge, ViewFunction};
use crate::query::design;
use crate::query::script::{Design, RequestBody, RequestContext, RequestParts, request_object, rewrite_request_object};

/// Loads the design document `name` and checks that it has the function at `path`: a section and a member of
/// it.
///
/// # Errors
/// `NotFound` if the section or the function is missing.
pub async fn open(database: &Arc<Database>, name: &str, path: [&str; 2]) -> Result<Arc<Design>> {
    let (of, name, path) = (database.clone(), name.to_owned(), path.map(str::to_owned));
    Ok(blocking(move || design::with_function(&of, &name, [&path[0], &path[1]])).await?)
}

/// The request object of a function.
pub struct Asked {
    /// The request object as JSON.
    pub request: String,
    /// Its `userCtx` as JSON.
    pub user: String,
}

/// Builds the request object of filters, shows, lists and updates. `id` is the document that the path names.
pub fn asked(
    app: &App,
    request: &Request,
    database: &Database,
    id: Option<&str>,
    body: RequestBody<'_>,
) -> Result<Asked> {
    let user = request.user.to_script_json(database.name()).to_string();
    let context = RequestContext {
        info: &crate::http::api::database::database::info(database).to_string(),
        uuid: &app.uuids.make(&request.settings.uuids),
        id,
        user: &user,
        security: &database.security(),
    };
    let object = with_parts(app, request, body, |parts| request_object(parts, &context))?;
    Ok(Asked { request: object, user })
}

/// Builds the request object of a rewrite function.
pub fn asked_to_rewrite(app: &App, request: &Request, database: &Database, body: RequestBody<'_>) -> Result<Asked> {
    let user = request.user.to_script_json(database.name()).to_string();
    let object = with_parts(app, request, body, |parts| rewrite_request_object(parts, &user, &database.security()))?;
    Ok(Asked { request: object, user })
}

/// The name of the request's method. HEAD is reported as GET, as CouchDB does for functions.
pub fn method(request: &Request) -> &'static str {
    match request.verb {
        Verb::Get => "GET",
        Verb::Put => "PUT",
        Verb::Post => "POST",
        Verb::Delete => "DELETE",
        Verb::Copy => "COPY",
        Verb::Options => "OPTIONS",
        Verb::Other => "OTHER",
    }
}

fn with_parts<R>(
    app: &App,
    request: &Request,
    body: RequestBody<'_>,
    make: impl FnOnce(&RequestParts<'_>) -> crate::error::Result<R>,
) -> Result<R> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let query: Vec<(String, String)> = request.query.iter().map(owned).collect();
    let auth = app.auth.settings();
    // Omits the proxy's credential headers by their configured names. `request_object` omits the default
    // names.
    let signs_in = |name: &str| {
        let proxy = &auth.proxy;
        [&proxy.user_header, &proxy.roles_header, &proxy.token_header].iter().any(|it| it.eq_ignore_ascii_case(name))
    };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .filter(|(name, _)| !signs_in(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let peer = request.peer.map(|peer| peer.to_string()).unwrap_or_default();
    Ok(make(&RequestParts {
        method: method(request),
        requested_path: &request.segments,
        path: &request.segments,
        raw_path: &request.target,
        query: &query,
        headers: &headers,
        body,
        peer: &peer,
    })?)
}

/// The filter of `filter=design/function`.
pub async fn filter(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    name: &str,
    function: &str,
) -> Result<Box<dyn Judge>> {
    let design = open(database, name, ["filters", function]).await?;
    let Asked { request, user } = asked(app, request, database, None, RequestBody::None)?;
    let scripts = app.scripts.clone();
    Ok(Box::new(FilterFunction { scripts, design, name: function.to_owned(), request, user }))
}

/// The filter of `filter=_view&view=design/view`.
pub async fn view_filter(app: &Arc<App>, database: &Arc<Database>, name: &str, view: &str) -> Result<Box<dyn Judge>> {
    let design = open(database, name, ["views", view]).await?;
    Ok(Box::new(ViewFunction { scripts: app.scripts.clone(), design, name: view.to_owned() }))
}
