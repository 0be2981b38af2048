//! The connection loop, and the way of one request: limits, route, authenticate, access, handler, answer.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

use super::access::{self, Verdict};
use super::answer::Answer;
use super::body::RequestBody;
use super::failure::{Failure, Result};
use super::handlers::rewrite::Rewritten;
use super::lenient::Lenient;
use super::patient::Patient;
use super::request::{Request, Target, Verb};
use super::route::{self, DbRoute, Route};
use super::standing::{Seen, Standing};
use super::stream::Body;
use super::{cors, handlers, jsonp, peer, signin};
use crate::app::answer_budget::Line;
use crate::app::{App, security_events};
use crate::audit::{Event, Kind};
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::error::Error;
use crate::net::tls::Identity;

/// A reading request that took longer is checked again before its answer is sent.
const LONG: Duration = Duration::from_millis(100);

/// One port that is served.
pub struct Listening {
    pub socket: TcpListener,
    /// The certificate of a port that speaks TLS.
    pub identity: Option<Arc<Identity>>,
}

/// What all ports share.
#[derive(Clone)]
struct Ports {
    app: Arc<App>,
    /// One for each connection that may be open at once.
    permits: Arc<Semaphore>,
    connections: TaskTracker,
}

/// Accepts connections until shutdown begins; then lets what is at work end, for `[settee] drain_timeout` seconds at most.
pub async fn serve(app: Arc<App>, listeners: Vec<Listening>) -> io::Result<()> {
    let most = app.settings().number("settee", "max_connections") as usize;
    let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let ports = Ports { app: app.clone(), permits, connections: TaskTracker::new() };
    join_all(listeners.into_iter().map(|listening| ports.clone().accept(listening))).await;
    ports.connections.close();
    if tokio::time::timeout(app.drain_timeout(), ports.connections.wait()).await.is_err() {
        tracing::warn!(open = ports.connections.len(), "stopping although connections are still at work");
    }
    Ok(())
}

impl Ports {
    /// Accepts on one port until shutdown begins.
    async fn accept(self, Listening { socket: listener, identity }: Listening) {
        let begun = self.app.shutdown.begun();
        tokio::pin!(begun);
        let watching = identity.clone().map(|identity| AbortOnDrop(tokio::spawn(identity.watch())));
        loop {
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit,
                () = begun.as_mut() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = begun.as_mut() => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    bound_unsent(&socket);
                    let Some(open) = self.app.limits.connect(peer.ip()) else {
                        self.app.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let (app, identity) = (self.app.clone(), identity.clone());
                    self.connections.spawn(async move {
                        match identity {
                            None => connection(app, socket, Some(peer.ip()), false).await,
                            Some(identity) => encrypted(app, socket, peer.ip(), &identity).await,
                        }
                        drop((permit, open));
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: connections must end before more can be accepted.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(watching);
    }
}

/// Keeps the system from taking megabytes of an answer that its client does not read: who reads slowly is then seen to,
/// and the system's memory is not filled instead of ours. What is on its way to the client is not bounded by it, so that
/// fast lines of any length stay fast.
fn bound_unsent(socket: &TcpStream) {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(256 << 10);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = socket;
}

/// Ends a task with what it serves.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn encrypted(app: Arc<App>, socket: TcpStream, peer: IpAddr, identity: &Identity) {
    let shaken = tokio::select! {
        shaken = identity.accept(socket) => shaken,
        () = app.shutdown.begun() => return,
    };
    match shaken {
        Ok(socket) => connection(app, socket, Some(peer), true).await,
        Err(error) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
    }
}

/// Serves one connection over any byte stream (TLS wraps the socket before it comes here).
pub async fn connection<S>(app: Arc<App>, socket: S, peer: Option<IpAddr>, secure: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = app.settings();
    let line = app.answers.line();
    let service = {
        let (app, line) = (app.clone(), line.clone());
        tower::service_fn(move |request| {
            let (app, line) = (app.clone(), line.clone());
            async move { Ok::<_, Infallible>(respond(app, request, line, peer, secure).await) }
        })
    };
    let compression = CompressionLayer::new()
        .gzip(true)
        .zstd(true)
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(1024).and(Compressible));
    let service = ServiceBuilder::new().layer(compression).service(service);
    let write_timeout = Duration::from_secs(settings.number("settee", "write_timeout"));
    let header_size = settings.number("settee", "max_header_size") as usize;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.number("settee", "header_timeout")))
        .max_header_size(header_size)
        .max_buf_size(header_size.max(64 << 10))
        .title_case_headers(true)
        .serve_connection(
            TokioIo::new(Lenient::new(Patient::new(socket, line, write_timeout))),
            TowerToHyperService::new(service),
        );
    tokio::pin!(serving);
    app.metrics.open_connections.fetch_add(1, Ordering::Relaxed);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = app.shutdown.begun() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    app.metrics.open_connections.fetch_sub(1, Ordering::Relaxed);
    if let Err(error) = ended {
        tracing::debug!(%error, ?peer, "a connection ended early");
    }
}

/// Only what says so, and only text: attachments are stored compressed, feeds must not sit in a compressor.
#[derive(Clone, Copy)]
struct Compressible;

/// Marks an answer that may be compressed.
#[derive(Clone, Copy)]
struct MayCompress;

impl Predicate for Compressible {
    fn should_compress<B: hyper::body::Body>(&self, response: &http::Response<B>) -> bool {
        response.extensions().get::<MayCompress>().is_some()
    }
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

async fn respond(
    app: Arc<App>,
    request: http::Request<Incoming>,
    line: Line,
    peer: Option<IpAddr>,
    secure: bool,
) -> http::Response<Body> {
    let (parts, incoming) = request.into_parts();
    let seen = Seen::settings(&app);
    let settings = app.settings();
    let client = peer::client(&settings, &parts.headers, peer, secure);
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
    let signed = signin::authenticate(app, request).await?;
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
        let openness = access::openness(&routed);
        if request.user.name.is_none() && !request.user.is_server_admin() {
            access::check_nobody(openness, &request.settings)?;
        }
        access::check_site(&routed, request)?;
        let (needed, database) = match &routed {
            Ok(route) => {
                let needed = access::needed(route, &app.auth.settings().authentication_db);
                (needed, if let Route::Database { name, .. } = route { Some(name.clone()) } else { None })
            }
            // Who may not know about a path does not learn what is wrong with the request either.
            Err(_) => access::needed_by_path(&request.segments),
        };
        let verdict = access::check(needed, &request.user, &request.settings)?;
        let mut by = None;
        if let Some(name) = database
            && (verdict == Verdict::AskDatabase || routed.is_err())
        {
            let (database, security) = handlers::security_of(app, &name).await?;
            if verdict == Verdict::AskDatabase {
                let object = serde_json::from_str(&security)
                    .map_err(|_| Error::Damaged(format!("_security of database {name}")))?;
                access::check_database(needed, &request.user, &object)?;
            }
            by = Some((database, security));
        }
        request.standing.let_in(needed, openness, by);
        let route = routed?;
        request.body.check_length()?;
        let Route::Database { name, what: DbRoute::Rewrite(design) } = &route else {
            let reads = access::only_reads(&route);
            let answer = handlers::dispatch(app, request, route).await?;
            // The build of a view may have taken minutes, a function seconds.
            if reads && request.received.elapsed() > LONG {
                request.standing.check().await?;
            }
            return Ok(answer);
        };
        match handlers::rewrite(app, request, name, design, rewrites).await? {
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
        let (_, _, reason) = super::failure::wire(failure);
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
    let (_, _, reason) = super::failure::wire(failure);
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut answer = answer.with_text(
        header::LOCATION,
        &format!("{redirect}?return={}&reason={}", encode(&context.path), encode(&reason)),
    );
    answer.status = http::StatusCode::FOUND;
    answer
}

/// Whether `Accept` takes a type; none at all takes everything.
pub fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else { return true };
    let family = wanted.split('/').next().unwrap_or("");
    accept.split(',').filter_map(|one| one.split(';').next()).map(str::trim).any(|one| {
        one == "*/*" || one.eq_ignore_ascii_case(wanted) || one.strip_suffix("/*").is_some_and(|one| one == family)
    })
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

/// Turns a caught panic into a failure whose cause is logged.
pub fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    Failure::Domain(Error::Internal(format!("panicked: {said}")))
}
