//! The way of one request: limits, target, CORS, route, authentication, access, handler, response.

mod admission;
mod context;
mod finish;
mod refusal;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use http::header;
use hyper::body::Incoming;

use self::context::Context;
use self::finish::finish;
use self::refusal::refuse;
use super::connection::received::Received;
use super::request::Request;
use super::request::body::RequestBody;
use super::request::target::{Target, Verb};
use super::response::compression::{self, Sent};
use super::response::cors::{self, Preflight};
use super::response::error::{Failure, Result};
use super::response::{Answer, jsonp};
use super::routing::replicator;
use super::routing::route::Route;
use super::routing::route_table::route;
use super::security::authenticate;
use crate::app::App;
use crate::app::answer_budget::Line;
use crate::blocking::panicked;
use crate::error::Error;
use crate::policy::authorization::Authorization;

/// Answers one request.
pub async fn respond(app: Arc<App>, received: Received) -> http::Response<Sent> {
    let Received { request, line, peer, refused } = received;
    let (parts, incoming) = request.into_parts();
    let mut context = Context::new(&app, parts, peer);
    let answered = match refused {
        Some(failure) => Ok(Err(failure)),
        None => AssertUnwindSafe(answer(&app, &mut context, incoming, &line)).catch_unwind().await,
    };
    let mut answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => refuse(&app, &context, &failure),
        Err(panic) => refuse(&app, &context, &panicked(&*panic).into()),
    };
    if let Some(callback) = &context.callback {
        answer = jsonp::wrap(answer, callback);
    }
    // Only the answer to a request that changed nothing may still be refused.
    let must = !matches!(context.method, http::Method::GET | http::Method::HEAD);
    if let Err(failure) = answer.body.count(&line, must) {
        answer = refuse(&app, &context, &failure);
    }
    if answer.compressible
        && let Some(bytes) = compression::bytes_needed(&context.headers)
    {
        answer.compressible = answer.body.compress(&line, bytes);
    }
    finish(&app, context, answer)
}

/// Reads the request and its route, and gets the answer of its handler.
async fn answer(app: &Arc<App>, context: &mut Context, incoming: Incoming, line: &Line) -> Result<Answer> {
    line.belongs_to(None, context.peer);
    app.limits.request(context.peer)?;
    if app.store.is_shared() {
        Box::pin(context.catch_up(app)).await?;
    }
    let target = Target::read(&context.method, &context.uri, &context.headers, &context.settings)?;
    context.callback = jsonp::callback(&context.method, target.query.get("callback"), &context.settings)?;
    context.head = target.head;
    if target.verb == Verb::Options {
        match cors::preflight(&context.settings.cors, &context.headers) {
            Some(Preflight::Granted(answer)) => return Ok(*answer),
            Some(Preflight::Refused { origin, reason }) => app.hints.refused_preflight(&origin, &reason),
            None => {}
        }
    }
    let authorization = Arc::new(Authorization::new(app, context.seen));
    let body = RequestBody::new(incoming, &context.headers, &context.settings, &app.bodies, &authorization);
    let routed = route(&target);
    let mut request = context.request(target, body, authorization, line);
    let mut answer = identify(app, context, &mut request, routed).await;
    context.syncing = request.syncing.take();
    if let Ok(answer) = &mut answer {
        // While the answer is produced, it needs the memory of the request.
        answer.body.keep(request.body.take_share());
        answer.body.guard(&request.authorization);
    }
    context.body_time = request.body.waited();
    if !matches!(answer, Err(Failure::Gone)) {
        request.body.swallow().await;
    }
    answer
}

/// Authenticates the request, and admits it to its handler.
async fn identify(
    app: &Arc<App>,
    context: &mut Context,
    request: &mut Request,
    routed: Result<Route>,
) -> Result<Answer> {
    let signed = authenticate::authenticate(app, request).await?;
    request.user = signed.user;
    request.session = signed.session;
    request.device = signed.device;
    context.user = request.user.name.clone();
    context.identified = true;
    if let Some(name) = &context.user {
        request.line.belongs_to(Some(name), context.peer);
        app.limits.user(name)?;
    }
    let admitted = admission::admit(app, request, routed).await;
    if let Err(Failure::Domain(Error::Forbidden(_) | Error::Unauthorized(_))) = &admitted
        && request.syncing.is_none()
    {
        replicator::recognize_refused(app, request);
    }
    let answer = admitted?;
    Ok(match signed.set_cookie {
        Some(cookie) if !answer.headers.contains_key(header::SET_COOKIE) => {
            answer.with_text(header::SET_COOKIE, &cookie)
        }
        _ => answer,
    })
}
