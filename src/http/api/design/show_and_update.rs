//! `_show` and `_update`: a function of a design document renders the response (CouchDB: `chttpd_show.erl`).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::functions::{self, Asked};
use crate::app::App;
use crate::blocking::blocking;
use crate::db::read::render;
use crate::db::{Database, Found, Mode, Wanted};
use crate::error::Error;
use crate::http::api::document::{incoming, write};
use crate::http::request::{Request, etag_of};
use crate::http::response::error::Result;
use crate::http::response::{Answer, sandbox};
use crate::policy::visibility::Eyes;
use crate::query::script::{RequestBody, Response};

/// `/{db}/_design/{design}/_show/{function}[/{id}]`.
pub async fn show(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    design: String,
    function: String,
    id: Option<String>,
) -> Result<Answer> {
    let design = functions::open(&database, &design, ["shows", &function]).await?;
    let eyes = Eyes::of(app, &request.user, &database)?;
    id.as_deref().map_or(Ok(()), |id| eyes.check(id))?;
    let found = find(&database, id.as_deref()).await?.map(|found| eyes.see(found)).transpose()?;
    let has_body = !request.body.is_empty();
    let doc = found.as_ref().map(as_text);
    // The function receives the whole document, with its conflicts, and the request.
    let etag = etag_of([
        database.instance().as_str(),
        &design.id,
        &design.rev,
        id.as_deref().unwrap_or(""),
        doc.as_deref().unwrap_or(""),
        &request.target,
        request.header(header::ACCEPT).unwrap_or(""),
        &request.user.to_script_json(database.name()).to_string(),
        &database.security(),
    ]);
    // The answer to a body depends on the body.
    if !has_body && request.has_etag(&etag) {
        return Ok(Answer::not_modified(&etag));
    }
    let body = body(request).await?;
    let Asked { request: object, user } = functions::asked(app, request, &database, id.as_deref(), told(&body))?;
    let response = app.scripts.show(&design, &function, doc.as_deref(), &object, &user).await?;
    let mut response = Response::read(&response)?;
    if !has_body {
        response.set("ETag", format!("\"{etag}\""));
    }
    if !response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("vary")) {
        response.set("Vary", "Accept".into());
    }
    Ok(answer(request, response))
}

/// `/{db}/_design/{design}/_update/{function}[/{id}]`.
pub async fn update(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    design: String,
    function: String,
    id: Option<String>,
) -> Result<Answer> {
    let design = functions::open(&database, &design, ["updates", &function]).await?;
    let found = find(&database, id.as_deref()).await?;
    let body = body(request).await?;
    let Asked { request: object, user } = functions::asked(app, request, &database, id.as_deref(), told(&body))?;
    let doc = found.as_ref().map(as_text);
    drop(found);
    let updated = app.scripts.update(&design, &function, doc.as_deref(), &object, &user).await?;
    let gives_code = has_code(&updated.response);
    let mut response = Response::read(&updated.response)?;
    if let Some(text) = updated.doc {
        let edit = incoming::from_script(request, &database, &text).await?;
        let id = edit.id.clone();
        let revision = write::commit(app, request.by(), &database, edit, Mode::Interactive).await?;
        if !gives_code {
            response.code = 201;
        }
        response.set("X-Couch-Update-NewRev", revision.to_string());
        response.set("X-Couch-Id", incoming::encode(&id));
    }
    Ok(answer(request, response))
}

fn has_code(response: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(response).is_ok_and(|response| response.get("code").is_some())
}

/// Reads the document to pass to a show or update function; `None` if it does not exist or is deleted.
async fn find(database: &Arc<Database>, id: Option<&str>) -> Result<Option<Found>> {
    let Some(id) = id else { return Ok(None) };
    let (database, id) = (database.clone(), id.to_owned());
    let found = blocking(move || match database.find(&id, Wanted::Winner) {
        Err(Error::Missing | Error::Deleted) => Ok(None),
        found => found.map(Some),
    });
    Ok(found.await?)
}

/// Renders a document for these functions: with its history and its conflicts.
fn as_text(found: &Found) -> String {
    render::for_function(found, true)
}

/// Reads the request body; `None` if the request has none. A body without bytes is one, as in CouchDB: a function sees
/// the text "undefined" only if no body was sent, and functions read `JSON.parse(req.body || "{}")`.
pub async fn body(request: &mut Request) -> Result<Option<Bytes>> {
    let is_announced =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| request.header(name).is_some());
    match request.body.is_empty() && !is_announced {
        true => Ok(None),
        false => Ok(Some(request.whole().await?)),
    }
}

/// The body as a member of the request object that scripts receive.
pub fn told(body: &Option<Bytes>) -> RequestBody<'_> {
    body.as_deref().map_or(RequestBody::None, RequestBody::Bytes)
}

/// Converts the response of a function to an HTTP response. Drops invalid headers and those that only the
/// server may set.
pub fn answer(request: &Request, mut response: Response) -> Answer {
    if response.json {
        response.body.push(b'\n');
    }
    let status = StatusCode::from_u16(response.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = Answer::bytes(status, response.body);
    let is_json = |(name, value): &(String, String)| {
        !name.eq_ignore_ascii_case("content-type") || value.starts_with("application/json")
    };
    // CouchDB sends no policy with a `json` response. A function may still set another content type, such as
    // HTML; then the policy is needed.
    let sandboxed = !response.json || !response.headers.iter().all(is_json);
    set_headers(request, &mut answer, &response.headers, sandboxed);
    answer
}

/// Copies the headers of a function's response to `answer`. `sandboxed` adds the policy that prevents the
/// content from running scripts with the session of the user who opens it (`[csp] showlist_enable`). A policy
/// that the function sets is added to ours and can only restrict it further.
pub fn set_headers(request: &Request, answer: &mut Answer, headers: &[(String, String)], sandboxed: bool) {
    if sandboxed && let Some(policy) = sandbox(&request.settings, ["showlist_enable", "showlist_header_value"]) {
        answer.headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else { continue };
        // The connection sets these.
        if matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION | header::UPGRADE) {
            continue;
        }
        match name {
            header::CONTENT_SECURITY_POLICY => drop(answer.headers.append(name, value)),
            // A function must not replace the user's session.
            header::SET_COOKIE if is_session(value.as_bytes()) => {}
            name => drop(answer.headers.insert(name, value)),
        }
    }
}

/// Whether a `Set-Cookie` value sets the session cookie. Also matches `=AuthSession=...`: a browser sends a
/// cookie without a name as its value alone, which then looks like a session cookie.
fn is_session(value: &[u8]) -> bool {
    let name = value.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != b'=').unwrap_or(value.len());
    value[name..].starts_with(b"AuthSession")
}
