//! One request to another server: its credentials, its retries, its redirects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use super::answer::Answer;
use super::redirect::{Place, redirected, server_url};
use super::text::{is_done, is_error, reason_of, shown};
use crate::clock::Clock;
use crate::net::http_client::{HttpError, RequestBody, empty};
use crate::replicate::address::refusal;
use crate::replicate::context::{Clients, Context};
use crate::replicate::failure::Failure;
use crate::replicate::host::Host;
use crate::replicate::parameters::{Parameters, RemoteEndpoint};
use crate::replicate::session::Session;

/// The first pause before a request is sent again; each one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a request is sent again to a host that has too much to do.
pub(super) const REFUSALS: u32 = 20;
/// Redirects that one request follows.
const REDIRECTS: usize = 5;
/// Bytes a second that a request takes at least.
const SLOWEST: u64 = 16 << 10;
/// The longest time for the upload of one attachment, as long as it moves.
const LONGEST_UPLOAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of the body of an error.
pub(super) const ERROR_BYTES: usize = 64 << 10;

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
    pub(super) clients: Clients,
    pub(super) host: Arc<Host>,
    pub(super) session: Arc<Session>,
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

    /// Like [`Requester::fetch`], for a write whose refusal (400, 401, 403, 415) would count against a document. A
    /// refusal without CouchDB's JSON error comes from a proxy or firewall and says nothing about the document: the
    /// request is tried again, and then fails.
    pub async fn fetch_of_document(&self, ask: &Ask, most: usize) -> Result<(StatusCode, Vec<u8>), Failure> {
        let mut failures = 0;
        loop {
            let (status, body) = self.fetch(ask, most).await?;
            if !is_of_somebody_else(status, &body) {
                return Ok((status, body));
            }
            if failures >= self.parameters.retries_per_request {
                return Err(self.of_somebody_else(status));
            }
            failures += 1;
            self.pause(failures).await;
        }
    }

    /// Checks that an answer of a good status to a write comes from a database server, which says that it is done.
    pub fn check_done(&self, status: StatusCode, body: &[u8]) -> Result<(), Failure> {
        if is_done(body) { Ok(()) } else { Err(self.of_somebody_else(status)) }
    }

    /// The failure of a request that was refused by something before the database server.
    pub fn of_somebody_else(&self, status: StatusCode) -> Failure {
        let text = format!("{}: the answer is not that of a database server", self.endpoint.url);
        Failure::Status { status: status.as_u16(), text }
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
                let answer = Answer::new(answer, &ask.path, self.parameters.connection_timeout, turn);
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

    pub(super) fn request(
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

    fn error(&self, error: HttpError) -> Failure {
        failed(&self.endpoint.url, error)
    }
}

/// Why there is no answer from a URL.
pub(super) fn failed(url: &Uri, error: HttpError) -> Failure {
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
pub(super) fn failure_of(url: &Uri, status: StatusCode, body: &[u8]) -> Failure {
    let text = format!("{url}: {}", reason_of(body));
    match status {
        StatusCode::UNAUTHORIZED => Failure::Unauthorized(text),
        StatusCode::FORBIDDEN => Failure::Forbidden(text),
        _ => Failure::Status { status: status.as_u16(), text },
    }
}

/// Whether a refusal is not from a database server. Too large is what is too large for anybody on the way.
pub(super) fn is_of_somebody_else(status: StatusCode, body: &[u8]) -> bool {
    let refuses = matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    refuses && !is_error(body)
}

/// Whether the same request may succeed later.
pub(super) fn is_worth_a_retry(failure: &Failure) -> bool {
    match failure {
        Failure::Network(_) => true,
        Failure::Status { status, .. } => *status >= 500,
        _ => false,
    }
}
