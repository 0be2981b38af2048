//! The one HTTP client for everything that the server asks of others: a token issuer's keys (JWKS), an ACME
//! authority, and later the servers that it replicates with. It is hyper-util's pooled client over rustls.
//!
//! ```text
//! request ──> slot ──> pooled connection ─────────────────> head ──> body ──> slot is free again
//!                  └─> DNS, TCP, TLS (limit: CONNECT) ──┘
//!             └── send: time limit up to the head ────────────┘
//!             └── fetch: time limit up to the last byte, size limit of the body ──┘
//! ```
//! Invariants:
//! - Every wait ends. [`HttpClient::send`] does not limit how long a body may take, because a replication's
//!   `_changes` feed never ends; its caller does.
//! - At most [`SLOTS`] requests run at a time. A request keeps its slot until its answer is read or dropped.
//! - No redirects, cookies or compression: a redirect could lead to an address that the caller has not allowed.
//! - A guarded client ([`HttpClient::guarded`]) opens connections only to addresses that its guard allows. The
//!   guard sees the resolved address that is connected to: that of the proxy, if there is one.
//!
//! HTTP/1.1, or HTTP/2 over TLS where the caller asks for it and the server has it (ALPN). Through a proxy only
//! if the caller names one: the variables of the environment do not count. `connector` opens the connections.

use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use super::connector::{AllRefused, BoxError, Connector, literal};
pub use super::connector::{Guard, Proxy};

/// Requests that run at a time. Callers that keep answers open for long, such as a replicator with its
/// `_changes` feeds, use a client of their own, so that they do not take the slots of others.
const SLOTS: usize = 64;
/// Time limit of a new connection: DNS, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an unused connection stays open, and how many of them for one host.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 4;
/// The same for a client whose addresses are guarded: its caller limits the connections to a host.
const IDLE_PER_GUARDED_HOST: usize = 20;
/// Largest head of an answer, and size of a connection's read buffer.
const BUFFER: usize = 64 << 10;
/// Name and version of this server, for other servers' logs.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("settee/", env!("CARGO_PKG_VERSION")));

/// The body of a request: empty, complete or streamed.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// An answer whose body is still to be read.
pub type Answer = Response<AnswerBody>;

/// A request without a body.
pub fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The limits of one complete answer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the call to the last byte of the body, the wait for a slot included.
    pub time: Duration,
    /// Bytes of the body.
    pub bytes: usize,
}

/// Why there is no answer. The texts are for logs, on one line.
#[derive(Debug)]
pub enum HttpError {
    /// The URL cannot be requested.
    Url(&'static str),
    /// There is no connection: the name is unknown, nothing listens, or the certificate is not trusted.
    Connect(String),
    /// The guard does not allow this address.
    Refused(IpAddr),
    /// There was no (complete) answer in time.
    TimedOut(Duration),
    /// The body has more bytes than the limit.
    TooLarge(usize),
    /// The connection broke, or the answer is not HTTP.
    Broken(String),
    /// A status other than 200, where only the content counts.
    Status(http::StatusCode),
}

impl fmt::Display for HttpError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Url(wrong) => out.write_str(wrong),
            HttpError::Connect(wrong) => write!(out, "cannot connect: {wrong}"),
            HttpError::Refused(address) => write!(out, "the address {address} may not be reached"),
            HttpError::TimedOut(limit) => write!(out, "no complete answer within {} s", limit.as_secs_f32()),
            HttpError::TooLarge(limit) => write!(out, "the answer exceeds the limit of {limit} bytes"),
            HttpError::Broken(wrong) => write!(out, "the answer is incomplete or invalid: {wrong}"),
            HttpError::Status(status) => {
                write!(out, "the server answered {} (redirects are not followed)", status.as_u16())
            }
        }
    }
}

impl std::error::Error for HttpError {}

/// The client. A cheap handle: clones share connections and slots. Its methods need a Tokio runtime.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<Connector, RequestBody>,
    slots: Arc<Semaphore>,
    guard: Option<Guard>,
    /// For requests that a proxy forwards.
    proxy_authorization: Option<HeaderValue>,
}

/// What a guarded client speaks over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// One request at a time on a connection.
    Http1,
    /// HTTP/2 where the server has it, otherwise HTTP/1.1.
    Http2,
}

impl HttpClient {
    /// Creates a client. `tls` has the trusted certificate authorities.
    pub fn new(tls: Arc<ClientConfig>) -> HttpClient {
        HttpClient::with(Connector::new(tls, CONNECT, None, None), SLOTS, IDLE_PER_HOST)
    }

    /// Creates a client that connects only to addresses that `guard` allows, through `proxy` if there is one. It
    /// has no limit of requests at a time: its caller has.
    pub fn guarded(tls: Arc<ClientConfig>, guard: Guard, versions: Versions, proxy: Option<&Proxy>) -> HttpClient {
        let mut tls = ClientConfig::clone(&tls);
        if versions == Versions::Http2 {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let connector = Connector::new(Arc::new(tls), CONNECT, Some(guard), proxy);
        HttpClient::with(connector, Semaphore::MAX_PERMITS, IDLE_PER_GUARDED_HOST)
    }

    pub(super) fn with(connector: Connector, slots: usize, idle: usize) -> HttpClient {
        let (guard, proxy_authorization) = (connector.guard().cloned(), connector.forwards_as());
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(BUFFER)
            .http2_max_header_list_size(BUFFER as u32)
            .build(connector);
        HttpClient { client, slots: Arc::new(Semaphore::new(slots)), guard, proxy_authorization }
    }

    /// Sends a request to an `https` or `http` URL; the caller decides which URLs are acceptable. Returns the
    /// answer, of any status, as soon as its head has arrived, within `limit`.
    pub async fn send(&self, request: Request<RequestBody>, limit: Duration) -> Result<Answer, HttpError> {
        timeout(limit, self.begin(request)).await.unwrap_or(Err(HttpError::TimedOut(limit)))
    }

    /// Sends a request, and returns the complete answer, of any status.
    pub async fn fetch(&self, request: Request<RequestBody>, limits: Limits) -> Result<Response<Bytes>, HttpError> {
        let complete = async {
            let (head, body) = self.begin(request).await?.into_parts();
            Ok(Response::from_parts(head, whole(body, limits.bytes).await?))
        };
        timeout(limits.time, complete).await.unwrap_or(Err(HttpError::TimedOut(limits.time)))
    }

    /// Fetches the JSON document at a URL. Any status but 200 is an error.
    pub async fn get(&self, url: &str, limits: Limits) -> Result<Bytes, HttpError> {
        let url: Uri = url.parse().map_err(|_| HttpError::Url("the URL does not parse"))?;
        let mut request = Request::new(empty());
        *request.uri_mut() = url;
        request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
        let complete = async {
            let (head, body) = self.begin(request).await?.into_parts();
            match head.status {
                http::StatusCode::OK => whole(body, limits.bytes).await,
                other => Err(HttpError::Status(other)),
            }
        };
        timeout(limits.time, complete).await.unwrap_or(Err(HttpError::TimedOut(limits.time)))
    }

    #[cfg(test)]
    pub(super) fn slots_free(&self) -> usize {
        self.slots.available_permits()
    }

    async fn begin(&self, mut request: Request<RequestBody>) -> Result<Answer, HttpError> {
        let url = request.uri();
        if !matches!(url.scheme_str(), Some("https" | "http")) {
            return Err(HttpError::Url("the URL is neither https nor http"));
        }
        let Some(host) = url.host().filter(|host| !host.is_empty()) else {
            return Err(HttpError::Url("the URL has no host"));
        };
        // An address in the URL is connected to without the resolver.
        if let (Some(address), Some(guard)) = (literal(host), &self.guard)
            && !guard(address)
        {
            return Err(HttpError::Refused(address));
        }
        if url.scheme_str() == Some("http")
            && let Some(authorization) = &self.proxy_authorization
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request.headers_mut().insert(USER_AGENT, AGENT);
        let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let answer = self.client.request(request).await.map_err(|error| failure(&error))?;
        Ok(answer.map(|body| AnswerBody { body, _slot: slot }))
    }
}

/// Reads a body of at most `limit` bytes.
async fn whole(body: AnswerBody, limit: usize) -> Result<Bytes, HttpError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(HttpError::TooLarge(limit));
    }
    let read = Limited::new(body, limit).collect().await;
    let body = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => HttpError::TooLarge(limit),
        None => HttpError::Broken(with_causes(&*error)),
    })?;
    Ok(body.to_bytes())
}

/// The body of an answer. Dropping it early closes the connection.
pub struct AnswerBody {
    body: Incoming,
    _slot: OwnedSemaphorePermit,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The address that the guard has refused, if that is why there is no connection.
fn refused(error: &(dyn std::error::Error + 'static)) -> Option<IpAddr> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(AllRefused(address)) = error.downcast_ref() {
            return Some(*address);
        }
        cause = error.source();
    }
    None
}

fn failure(error: &ClientError) -> HttpError {
    if let Some(address) = refused(error) {
        return HttpError::Refused(address);
    }
    // The error itself says only "client error (Connect)".
    let causes = error.source().map_or_else(|| error.to_string(), with_causes);
    if error.is_connect() { HttpError::Connect(causes) } else { HttpError::Broken(causes) }
}

/// The error and what caused it, on one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat the text of their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
