//! The connection loop, and the way of one request: limits, route, authenticate, access, handler, answer.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use super::api::design::rewrite::Rewritten;
use super::request::body::RequestBody;
use super::request::{Request, Target, Verb, accepts, client_address};
use super::response::body::Body;
use super::response::compression::MayCompress;
use super::response::error::{Failure, Result, panicked};
use super::response::{Answer, cors, jsonp};
use super::routing::dispatch;
use super::routing::required_access::{self, Verdict};
use super::routing::route::{self, DbRoute, Route};
use super::security::authenticate;
use super::security::authorization::{Seen, Standing};
use crate::app::answer_budget::Line;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::error::Error;

/// A reading request that took longer is checked again before its answer is sent.
const LONG: Duration = Duration::from_millis(100);

/// Keeps the system from taking megabytes of an answer that its client does not read: who reads slowly is then seen to,
/// and the system's memory is not filled instead of ours. What is on its way to the client is not bounded by it, so that
/// fast lines of any length stay fast.
pub(crate) fn bound_unsent(socket: &TcpStream) {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(256 << 10);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = socket;
}

/// What is known of a request from its first line and headers, kept for its answer and its log line.
struct Context {
    id: String,
    method: http::Method,
    path: String,
    headers: HeaderMap,
    head: bool,
    settings: Arc<Settings>,
    /// Counters that were read before the settings.
    seen: Seen,
    received: Instant,
    user: Option<String>,
    /// It is known who asks, if anybody.
    identified: bool,
    peer: Option<IpAddr>,
    /// The way to the client is encrypted, here or by a proxy.
    secure: bool,
    /// By this server.
    encrypted: bool,
    /// How long the request's body was waited for.
    body_time: Duration,
    /// The function that a script with the answer is to call.
    callback: Option<String>,
}

impl Context {
    fn event(&self, kind: Kind) -> Event<'_> {
        Event { user: self.user.as_deref(), peer: self.peer, ..Event::of(kind) }
    }
}

pub(crate) async fn respond(
    app: Arc<App>,
    request: http::Request<Incoming>,
    line: Line,
    peer: Option<IpAddr>,
    secure: bool,
) -> http::Response<Body> {
    let (parts, incoming) = request.into_parts();
    let seen = Seen::settings(&app);
    let settings = app.settings();
    let client = client_address::client(&settings, &parts.headers, peer, secure);
    let mut context = Context {
        id: request_id(&parts.headers, &app),
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        head: false,
        settings,
        seen,
        received: Instant::now(),
        user: None,
        identified: false,
        peer: client.address,
        secure: client.secure,
        encrypted: secure,
        body_time: Duration::ZERO,
        callback: None,
    };
    let answered = AssertUnwindSafe(answer(&app, &mut context, &parts.uri, incoming, &line)).catch_unwind().await;
    let mut answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => refuse(&app, &context, &failure),
        Err(panic) => refuse(&app, &context, &panicked(&*panic)),
    };
    if let Some(callback) = &context.callback {
        answer = jsonp::wrap(answer, callback);
    }
    // Only what changed nothing may still be refused.
    let must = !matches!(context.method, http::Method::GET | http::Method::HEAD);
    if let Err(failure) = answer.body.count(&line, must) {
        answer = refuse(&app, &context, &failure);
    }
    if answer.compressible
        && let Some(bytes) = compressor(&context.headers)
    {
        answer.compressible = answer.body.compress(&line, bytes);
    }
    finish(&app, context, answer)
}

/// Bytes that a compressor takes while it works, if the client accepts one.
fn compressor(headers: &HeaderMap) -> Option<u64> {
    let accepted = headers.get(header::ACCEPT_ENCODING)?.as_bytes();
    let names = |name: &[u8]| memchr::memmem::find(accepted, name).is_some();
    if names(b"zstd") {
        return Some(1536 << 10);
    }
    (names(b"gzip") || names(b"*")).then_some(384 << 10)
}

async fn answer(
    app: &Arc<App>,
    context: &mut Context,
    uri: &http::Uri,
    incoming: Incoming,
    line: &Line,
) -> Result<Answer> {
    line.belongs_to(None, context.peer);
    context.head = context.method == http::Method::HEAD;
    app.limits.request(context.peer)?;
    let target = Target::read(&context.method, uri, &context.headers, &context.settings)?;
    context.callback = jsonp::callback(&context.method, &target.query, &context.settings)?;
    context.head = target.head;
    if target.verb == Verb::Options
        && let Some(preflight) = cors::preflight(&context.settings.cors, &context.headers)
    {
        return Ok(preflight);
    }
    let standing = Arc::new(Standing::new(app, context.seen));
    let body = RequestBody::new(incoming, &context.headers, &context.settings, &app.bodies, &standing);
    let routed = route::route(&target);
    let Target { verb, head, segments, query } = target;
    let mut request = Request {
        verb,
        head,
        segments,
        target: uri.path_and_query().map_or_else(String::new, |target| target.as_str().to_owned()),
        query,
        headers: context.headers.clone(),
        body,
        user: UserCtx::default(),
        session: None,
        standing,
        id: context.id.clone(),
        peer: context.peer,
        secure: context.secure,
        settings: context.settings.clone(),
        received: context.received,
        line: line.clone(),
    };
    let mut answer = checked(app, context, &mut request, routed).await;
    if let Ok(answer) = &mut answer {
        // What is still to be answered is part of what was asked.
        answer.body.keep(request.body.take_share());
        answer.body.guard(&request.standing);
    }
    context.body_time = request.body.waited();
    if !matches!(answer, Err(Failure::Gone)) {
        request.body.swallow().await;
    }
    answer
}

/// Authenticate, access, handler.
async fn checked(
    app: &Arc<App>,
    context: &mut Context,
    request: &mut Request,
    routed: Result<Route>,
) -> Result<Answer> {
    let signed = authenticate::authenticate(app, request).await?;
    request.user = signed.user;
    request.session = signed.session;
    context.user = request.user.name.clone();
    context.identified = true;
    if let Some(name) = &context.user {
        request.line.belongs_to(Some(name), context.peer);
        app.limits.user(name)?;
    }
    let mut answer = admitted(app, request, routed).await?;
    if let Some(cookie) = signed.set_cookie
        && !answer.headers.contains_key(header::SET_COOKIE)
    {
        answer = answer.with_text(header::SET_COOKIE, &cookie);
    }
    Ok(answer)
}

/// Access and handler, for a user who is known; again for what a design document rewrote the request to.
async fn admitted(app: &Arc<App>, request: &mut Request, mut routed: Result<Route>) -> Result<Answer> {
    for rewrites in 0.. {
        let openness = required_access::openness(&routed);
        if request.user.name.is_none() && !request.user.is_server_admin() {
            required_access::check_nobody(openness, &request.settings)?;
        }
        required_access::check_site(&routed, request)?;
        let (needed, database) = match &routed {
            Ok(route) => {
                let needed = required_access::needed(route, &app.auth.settings().authentication_db);
                (needed, if let Route::Database { name, .. } = route { Some(name.clone()) } else { None })
            }
            // Who may not know about a path does not learn what is wrong with the request either.
            Err(_) => required_access::needed_by_path(&request.segments),
        };
        let verdict = required_access::check(needed, &request.user, &request.settings)?;
        let mut by = None;
        if let Some(name) = database
            && (verdict == Verdict::AskDatabase || routed.is_err())
        {
            let (database, security) = dispatch::security_of(app, &name).await?;
            if verdict == Verdict::AskDatabase {
                let object = serde_json::from_str(&security)
                    .map_err(|_| Error::Damaged(format!("_security of database {name}")))?;
                required_access::check_database(needed, &request.user, &object)?;
            }
            by = Some((database, security));
        }
        request.standing.let_in(needed, openness, by);
        let route = routed?;
        request.body.check_length()?;
        let Route::Database { name, what: DbRoute::Rewrite(design) } = &route else {
            let reads = required_access::only_reads(&route);
            let answer = dispatch::dispatch(app, request, route).await?;
            // The build of a view may have taken minutes, a function seconds.
            if reads && request.received.elapsed() > LONG {
                request.standing.check().await?;
            }
            return Ok(answer);
        };
        match dispatch::rewrite(app, request, name, design, rewrites).await? {
            Rewritten::Answer(answer) => return Ok(answer),
            Rewritten::Target(target) => routed = route::route(&target),
        }
        // A function may have taken seconds, and its body is not one that is checked at its end.
        request.standing.check().await?;
        request.refresh();
    }
    Err(Failure::missing())
}

/// The client's own request id if it is sane, else ten hex digits (`chttpd.erl`, `nonce`).
fn request_id(headers: &HeaderMap, app: &App) -> String {
    let given = headers.get("x-couch-request-id").and_then(|value| value.to_str().ok());
    match given {
        Some(given)
            if !given.is_empty()
                && given.len() <= 36
                && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') =>
        {
            given.to_owned()
        }
        _ => crate::json::hex(&app.clock.random_16()[..5]),
    }
}

/// The answer to a failure; unforeseen ones are logged with their cause.
fn refuse(app: &App, context: &Context, failure: &Failure) -> Answer {
    if let Failure::Domain(Error::Internal(cause) | Error::Damaged(cause)) = failure {
        tracing::error!(id = context.id, method = %context.method, path = context.path, cause, "a request failed");
    }
    if let Failure::TooMany { reason, .. } = failure {
        app.metrics.rate_limited.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(id = context.id, peer = ?context.peer, user = context.user, reason, "too many requests");
    }
    let answer = Answer::failure(failure);
    // Wrong credentials are told where they are looked at.
    if context.identified && matches!(answer.status.as_u16(), 401 | 403) {
        let (_, _, reason) = super::response::error::wire(failure);
        let event = Event { id: Some(&context.id), detail: Some(&reason), ..context.event(Kind::Denied) };
        security_events::denied(app, event, &format!("{} {}", context.method, context.path));
    }
    if answer.status == http::StatusCode::UNAUTHORIZED { ask_for_password(context, failure, answer) } else { answer }
}

/// What makes browsers ask for a password, or sends them to sign in (`chttpd.erl`, `error_headers`).
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
    let (_, _, reason) = super::response::error::wire(failure);
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut answer = answer.with_text(
        header::LOCATION,
        &format!("{redirect}?return={}&reason={}", encode(&context.path), encode(&reason)),
    );
    answer.status = http::StatusCode::FOUND;
    answer
}

const MINIMAL: [&str; 9] = [
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "server",
    "transfer-encoding",
    "vary",
    "connection",
];

fn finish(app: &Arc<App>, context: Context, answer: Answer) -> http::Response<Body> {
    let Answer { status, mut headers, mut body, compressible } = answer;
    if status == http::StatusCode::NOT_FOUND && matches!(context.method, http::Method::GET | http::Method::HEAD) {
        security_events::missed(app, &context.path, context.user.as_deref(), context.peer);
    }
    let versions = context.settings.flag("chttpd", "server_header_versions");
    headers.insert(header::SERVER, HeaderValue::from_static(if versions { SERVER } else { "CouchDB" }));
    headers.insert(HeaderName::from_static("x-couchdb-body-time"), (context.body_time.as_millis() as u64).into());
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        headers.insert(HeaderName::from_static("x-couch-request-id"), id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    cors::decorate(&context.settings.cors, &context.headers, &mut headers);
    let minimal =
        context.headers.get("prefer").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"return=minimal"));
    if minimal {
        let extra: Vec<HeaderName> = headers.keys().filter(|name| !MINIMAL.contains(&name.as_str())).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }
    if context.encrypted
        && let Some(policy) = context.settings.get("ssl", "hsts").filter(|policy| !policy.is_empty())
        && let Ok(policy) = HeaderValue::from_str(policy)
    {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, policy);
    }
    let head = context.head;
    if head {
        if let Some(length) = body.length()
            && !headers.contains_key(header::CONTENT_LENGTH)
        {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        body = Body::whole("");
    }
    let app = app.clone();
    // Not the whole context: a waiting feed keeps this for hours.
    let Context { id, method, path, received, user, peer, .. } = context;
    body.at_end(move |ended| {
        let time = received.elapsed();
        app.metrics.count(method.as_str(), status.as_u16(), time, ended.bytes, ended.whole);
        tracing::info!(
            target: "settee::request",
            %method,
            path,
            status = status.as_u16(),
            ms = (time.as_micros() as f64) / 1000.0,
            user = user.as_deref().unwrap_or("-"),
            bytes = ended.bytes,
            aborted = !ended.whole,
            peer = peer.map(tracing::field::display),
            id,
            "request"
        );
    });
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if compressible && !head {
        response.extensions_mut().insert(MayCompress);
    }
    response
}

/// Clients look for CouchDB's name in front.
const SERVER: &str = concat!("CouchDB/3.5.0 (settee/", env!("CARGO_PKG_VERSION"), ")");
