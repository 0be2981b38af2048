//! One request to another server: its credentials, its retries, its redirects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use super::answer::Answer;
use super::text::{reason_of, shown};
use crate::clock::Clock;
use crate::net::http_client::{HttpError, RequestBody, empty};
use crate::replicate::address::refusal;
use crate::replicate::context::{Clients, Context};
use crate::replicate::failure::Failure;
use crate::replicate::host::Host;
use crate::replicate::parameters::{Parameters, RemoteEndpoint};
use crate::replicate::session::{Ready, Session};

/// The first pause before a request is sent again; each one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a request is sent again to a host that has too much to do.
const REFUSALS: u32 = 20;
/// Redirects that one request follows.
const REDIRECTS: usize = 5;
/// Bytes a second that a request takes at least.
const SLOWEST: u64 = 16 << 10;
/// The longest time for the upload of one attachment, as long as it moves.
const LONGEST_UPLOAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest time for a sign-in, which other jobs wait for.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(60);
/// Bytes of the body of an error.
const ERROR_BYTES: usize = 64 << 10;

/// Makes the body of a request; called again for each attempt.
pub(super) type MakeBody = Arc<dyn Fn() -> RequestBody + Send + Sync>;

/// A request below the database's URL.
#[derive(Clone)]
pub(super) struct Ask {
    pub method: Method,
    /// Path and query after the database's URL: empty, or with a slash or a question mark at its start.
    pub path: String,
    pub accept: &'static str,
    pub content: Content,
    /// The longest time until the head of the answer has come.
    pub patience: Duration,
    /// Whether it takes none of the host's connections: it waits for changes, or it is about the pass itself, which
    /// must go on while all connections are taken by batches.
    pub is_beside: bool,
    /// Whether it goes to the server's root instead of the database.
    pub is_of_server: bool,
}

/// The body of a request.
#[derive(Clone)]
pub(super) enum Content {
    None,
    Json(Bytes),
    /// A stream of this content type and length. `sent` counts the bytes that were taken from it.
    Stream {
        content_type: String,
        length: u64,
        make: MakeBody,
        sent: Arc<AtomicU64>,
    },
}

impl Ask {
    /// `GET` of JSON.
    pub fn get(path: impl Into<String>) -> Ask {
        Ask {
            method: Method::GET,
            path: path.into(),
            accept: "application/json",
            content: Content::None,
            patience: Duration::ZERO,
            is_beside: false,
            is_of_server: false,
        }
    }

    /// `GET` of what the server says of itself.
    pub fn server() -> Ask {
        Ask { is_beside: true, is_of_server: true, ..Ask::get("/") }
    }

    /// A request with a JSON body.
    pub fn with(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Ask {
        Ask { method, content: Content::Json(body.into()), ..Ask::get(path) }
    }
}

/// Sends requests to one database of another server.
pub(super) struct Requester<'a> {
    pub clock: &'a Clock,
    pub endpoint: &'a RemoteEndpoint,
    pub parameters: &'a Parameters,
    clients: Clients,
    host: Arc<Host>,
    session: Arc<Session>,
}

/// Where a request goes after redirects.
struct Place {
    url: Uri,
    method: Method,
    has_body: bool,
    /// Whether it still is the endpoint's own server, so that it gets the credentials.
    is_own: bool,
}

impl<'a> Requester<'a> {
    /// A requester for the endpoint.
    pub fn new(
        context: &'a Context,
        endpoint: &'a RemoteEndpoint,
        parameters: &'a Parameters,
        is_target: bool,
    ) -> Result<Requester<'a>, Failure> {
        let authority = endpoint.url.authority().map(Authority::as_str).unwrap_or_default();
        if authority.is_empty() || authority.contains('@') {
            return Err(Failure::BadRequest("the URL of an endpoint needs a host, and no user in it".into()));
        }
        let root = server_url(&endpoint.url, "/")?.to_string();
        Ok(Requester {
            clock: &context.clock,
            endpoint,
            parameters,
            clients: context.network.clients(endpoint.proxy.as_ref()),
            host: context.network.host(authority, is_target, parameters.http_connections),
            session: context.network.sessions.of(endpoint, &root),
        })
    }

    /// Sends a request until there is an answer of this server: retried after failures of the network, 5xx, 429,
    /// and once after the end of a session. The answer has any other status.
    pub async fn send(&self, ask: &Ask) -> Result<Answer, Failure> {
        let (mut failures, mut refusals, mut renewed) = (0, 0, false);
        loop {
            let failure = match self.once(ask).await {
                Ok((answer, used)) => match answer.status {
                    StatusCode::UNAUTHORIZED if !renewed && self.is_over(used.as_ref()).await => {
                        renewed = true;
                        continue;
                    }
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        self.host.refused();
                        let failure = self.status(answer).await;
                        refusals += 1;
                        if refusals > REFUSALS {
                            return Err(failure);
                        }
                        self.pause(refusals.min(6)).await;
                        continue;
                    }
                    status if status.is_server_error() => self.status(answer).await,
                    _ => {
                        self.host.answered();
                        return Ok(answer);
                    }
                },
                Err(failure) => failure,
            };
            if !is_worth_a_retry(&failure) || failures >= self.parameters.retries_per_request {
                return Err(failure);
            }
            failures += 1;
            self.pause(failures).await;
        }
    }

    /// Sends a request and reads the whole answer, of at most `most` bytes. An answer that breaks off is asked for
    /// again.
    pub async fn fetch(&self, ask: &Ask, most: usize) -> Result<(StatusCode, Vec<u8>), Failure> {
        let mut failures = 0;
        loop {
            let answer = self.send(ask).await?;
            let status = answer.status;
            match answer.whole(most).await {
                Ok(body) => return Ok((status, body)),
                Err(failure) if is_worth_a_retry(&failure) && failures < self.parameters.retries_per_request => {
                    failures += 1;
                    self.pause(failures).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The failure that an answer of this status means.
    pub async fn status(&self, answer: Answer) -> Failure {
        let status = answer.status;
        let body = answer.whole(ERROR_BYTES).await.unwrap_or_default();
        self.failure_of(status, &body)
    }

    /// The failure that a status and a body mean.
    pub fn failure_of(&self, status: StatusCode, body: &[u8]) -> Failure {
        failure_of(&self.endpoint.url, status, body)
    }

    /// Waits before an attempt: longer each time, and not at the same time as others.
    pub async fn pause(&self, attempt: u32) {
        let whole = PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let [first, second, ..] = self.clock.random_16();
        let random = u16::from_le_bytes([first, second]);
        tokio::time::sleep(whole.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u16::MAX))).await;
    }

    /// Sends a request once, and follows redirects. Returns the cookie that was used, too.
    async fn once(&self, ask: &Ask) -> Result<(Answer, Option<HeaderValue>), Failure> {
        // Before the turn: others go on while one signs in.
        let sign_in = self.sign_in().await?;
        let turn = match ask.is_beside {
            true => {
                self.host.pause().await;
                None
            }
            false => Some(self.host.turn().await),
        };
        let used = sign_in.as_ref().filter(|(name, _)| name == header::COOKIE).map(|(_, value)| value.clone());
        let url = if ask.is_of_server { server_url(&self.endpoint.url, &ask.path)? } else { self.url(&ask.path)? };
        let mut place = Place { url, method: ask.method.clone(), has_body: true, is_own: true };
        for _ in 0..=REDIRECTS {
            let request = self.request(ask, &place, sign_in.as_ref())?;
            let answer = self.answer(ask, request).await.map_err(|error| self.error(error))?;
            let Some(next) = redirected(&place, &answer)? else {
                let answer = Answer::new(answer, self.parameters.connection_timeout, turn);
                let answer = answer.feed(ask.path.starts_with("/_changes"));
                if place.is_own && self.session.is_used() {
                    self.session.take(&answer.headers, Instant::now());
                }
                return Ok((answer, used));
            };
            place = next;
        }
        Err(Failure::Protocol(format!("{}: too many redirects", self.endpoint.url)))
    }

    /// Sends a request, and waits for the head of its answer: as long as the body moves, and then for the time that
    /// an answer may take.
    async fn answer(
        &self,
        ask: &Ask,
        request: Request<RequestBody>,
    ) -> Result<crate::net::http_client::Answer, HttpError> {
        let mut patience = if ask.patience.is_zero() { self.parameters.connection_timeout } else { ask.patience };
        if let Content::Json(body) = &ask.content {
            patience += Duration::from_secs(body.len() as u64 / SLOWEST);
        }
        let Content::Stream { sent, .. } = &ask.content else {
            let client = if ask.is_beside { &self.clients.feeds } else { &self.clients.requests };
            return client.send(request, patience).await;
        };
        let mut answer = std::pin::pin!(self.clients.requests.send(request, LONGEST_UPLOAD));
        let mut before = sent.load(Ordering::Relaxed);
        loop {
            if let Ok(answer) = tokio::time::timeout(patience, &mut answer).await {
                return answer;
            }
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return Err(HttpError::TimedOut(patience));
            }
            before = now;
        }
    }

    fn url(&self, path: &str) -> Result<Uri, Failure> {
        let url = format!("{}{path}", self.endpoint.url);
        url.parse().map_err(|_| Failure::BadRequest(format!("{} is no URL", shown(&url))))
    }

    fn request(
        &self,
        ask: &Ask,
        place: &Place,
        sign_in: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Request<RequestBody>, Failure> {
        let mut request = Request::new(empty());
        *request.method_mut() = place.method.clone();
        *request.uri_mut() = place.url.clone();
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ask.accept));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if place.is_own {
            for (name, value) in &self.endpoint.headers {
                headers.append(name.clone(), value.clone());
            }
            if let Some((name, value)) = sign_in {
                headers.insert(name.clone(), value.clone());
            }
        }
        if !place.has_body {
            return Ok(request);
        }
        match &ask.content {
            Content::None => {}
            Content::Json(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *request.body_mut() = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            }
            Content::Stream { content_type, length, make, .. } => {
                let content_type = HeaderValue::from_str(content_type)
                    .map_err(|_| Failure::Protocol("a content type is no header".into()))?;
                headers.insert(header::CONTENT_TYPE, content_type);
                headers.insert(header::CONTENT_LENGTH, (*length).into());
                *request.body_mut() = make();
            }
        }
        Ok(request)
    }

    /// The header by which the user signs in, after a sign-in if there is no session yet.
    async fn sign_in(&self) -> Result<Option<(HeaderName, HeaderValue)>, Failure> {
        let Some(basic) = &self.endpoint.auth else { return Ok(None) };
        if self.endpoint.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        if let Ready::Header(name, value) = self.session.ready(basic, Instant::now()) {
            return Ok(Some((name, value)));
        }
        let _turn = self.session.turn().await?;
        if let Ready::Header(name, value) = self.session.ready(basic, Instant::now()) {
            return Ok(Some((name, value)));
        }
        if !self.begin_session().await.inspect_err(|failure| self.session.fail(failure))? {
            self.session.give_up(Instant::now());
        }
        match self.session.ready(basic, Instant::now()) {
            Ready::Header(name, value) => Ok(Some((name, value))),
            Ready::SignIn => Err(Failure::Protocol("the session ends as soon as it begins".into())),
        }
    }

    /// Begins a session. Returns false if the server has none: a proxy before it may have.
    async fn begin_session(&self) -> Result<bool, Failure> {
        let mut refusals = 0;
        loop {
            match self.ask_for_session().await {
                Err(failure) if failure.is_refusal() && refusals < REFUSALS => {
                    refusals += 1;
                    self.host.refused();
                    self.pause(refusals.min(6)).await;
                }
                begun => return begun,
            }
        }
    }

    async fn ask_for_session(&self) -> Result<bool, Failure> {
        let Some(basic) = &self.endpoint.auth else { return Ok(false) };
        let body = serde_json::json!({"name": basic.username, "password": basic.password}).to_string();
        let ask = Ask::with(Method::POST, "", body);
        let url = server_url(&self.endpoint.url, "/_session")?;
        let place = Place { url: url.clone(), method: Method::POST, has_body: true, is_own: true };
        let request = self.request(&ask, &place, None)?;
        let answer = self.of_session(request).await?;
        match answer.status {
            StatusCode::OK => {
                let taken = self.session.take(&answer.headers, Instant::now());
                let _ = answer.whole(ERROR_BYTES).await;
                Ok(taken)
            }
            status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                let body = answer.whole(ERROR_BYTES).await.unwrap_or_default();
                Err(failure_of(&url, status, &body))
            }
            // The password itself tells.
            _ => Ok(false),
        }
    }

    /// Sends a request to `_session`. Jobs of other databases may wait for its answer, so its failure does not name this
    /// one's.
    async fn of_session(&self, request: Request<RequestBody>) -> Result<Answer, Failure> {
        let (url, patience) = (request.uri().clone(), self.parameters.connection_timeout.min(LONGEST_SIGN_IN));
        let answer = self.clients.requests.send(request, patience).await;
        Ok(Answer::new(answer.map_err(|error| failed(&url, error))?, patience, None))
    }

    /// Whether a request was refused because its session has ended, and not because the user may not do that. A server
    /// says 401 for both; the session of all jobs is not given up for each document that is refused.
    async fn is_over(&self, used: Option<&HeaderValue>) -> bool {
        if let Some(cookie) = used
            && self.is_accepted(cookie).await.unwrap_or(false)
        {
            return false;
        }
        self.session.is_over(used)
    }

    /// Whether the server takes the cookie for that of a user.
    async fn is_accepted(&self, cookie: &HeaderValue) -> Result<bool, Failure> {
        let url = server_url(&self.endpoint.url, "/_session")?;
        let place = Place { url, method: Method::GET, has_body: false, is_own: true };
        let request = self.request(&Ask::get(""), &place, Some(&(header::COOKIE, cookie.clone())))?;
        let answer = self.of_session(request).await?;
        let is_ok = answer.status == StatusCode::OK;
        let told: serde_json::Value = serde_json::from_slice(&answer.whole(ERROR_BYTES).await?).unwrap_or_default();
        Ok(is_ok && told["userCtx"]["name"].is_string())
    }

    fn error(&self, error: HttpError) -> Failure {
        failed(&self.endpoint.url, error)
    }
}

/// Why there is no answer from a URL.
fn failed(url: &Uri, error: HttpError) -> Failure {
    match error {
        HttpError::Refused(address) => Failure::AddressRefused(refusal(address)),
        HttpError::Url(wrong) => Failure::BadRequest(format!("{url}: {wrong}")),
        HttpError::TooLarge(_) => Failure::Protocol(format!("{url}: {error}")),
        HttpError::Connect(_) | HttpError::TimedOut(_) | HttpError::Broken(_) | HttpError::Status(_) => {
            Failure::Network(format!("{url}: {error}"))
        }
    }
}

/// The failure that a status and a body from a URL mean.
fn failure_of(url: &Uri, status: StatusCode, body: &[u8]) -> Failure {
    let text = format!("{url}: {}", reason_of(body));
    match status {
        StatusCode::UNAUTHORIZED => Failure::Unauthorized(text),
        StatusCode::FORBIDDEN => Failure::Forbidden(text),
        _ => Failure::Status { status: status.as_u16(), text },
    }
}

/// A URL beside the database.
fn server_url(database: &Uri, path: &str) -> Result<Uri, Failure> {
    let root = database.path().rsplit_once('/').map_or("", |(root, _)| root);
    let mut parts = database.clone().into_parts();
    parts.path_and_query = format!("{root}{path}").parse().ok();
    Uri::from_parts(parts).map_err(|_| Failure::BadRequest(format!("{} is no URL", shown(path))))
}

/// Whether the same request may succeed later.
pub(super) fn is_worth_a_retry(failure: &Failure) -> bool {
    match failure {
        Failure::Network(_) => true,
        Failure::Status { status, .. } => *status >= 500,
        _ => false,
    }
}

/// Where a redirect leads; `None` if the answer is none.
///
/// # Errors
/// It leads from HTTPS to HTTP, or nowhere.
fn redirected(from: &Place, answer: &crate::net::http_client::Answer) -> Result<Option<Place>, Failure> {
    let keeps = match answer.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => from.method == Method::GET,
        StatusCode::SEE_OTHER => false,
        _ => return Ok(None),
    };
    let wrong = |what: &str| Failure::Protocol(format!("{}: a redirect {what}", from.url));
    if !keeps && answer.status() != StatusCode::SEE_OTHER {
        // To send the body again as a GET, as browsers do, would write nothing.
        return Err(wrong("of a write that is not 307 or 308"));
    }
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let url = location.and_then(|location| joined(&from.url, location)).ok_or_else(|| wrong("without a place"))?;
    let is_secure = |url: &Uri| url.scheme() == Some(&Scheme::HTTPS);
    if is_secure(&from.url) && !is_secure(&url) {
        return Err(wrong("from HTTPS to HTTP"));
    }
    let place = |url: &Uri| {
        let port = url.port_u16().unwrap_or(if is_secure(url) { 443 } else { 80 });
        (url.host().unwrap_or_default().to_ascii_lowercase(), port)
    };
    // From port 80 to 443 of the same host is the usual way to HTTPS, and keeps the credentials.
    let (before, after) = (place(&from.url), place(&url));
    let is_upgrade = before.0 == after.0 && (before.1, after.1) == (80, 443);
    let is_own = from.is_own && (before == after || is_upgrade);
    let method = if keeps { from.method.clone() } else { Method::GET };
    Ok(Some(Place { url, method, has_body: keeps && from.has_body, is_own }))
}

/// The URL of a `Location` header.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        let url: Uri = location.parse().ok()?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        return (is_http && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))).then_some(url);
    }
    let mut parts = base.clone().into_parts();
    let path = match location.starts_with('/') {
        true if location.starts_with("//") => return None,
        true => location.to_owned(),
        false => format!("{}/{location}", base.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}
