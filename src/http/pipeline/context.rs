//! What is known of a request from its first line and headers, kept for its answer and its log line.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::app::App;
use crate::app::answer_budget::Line;
use crate::app::sync::Syncing;
use crate::audit::{Event, Kind};
use crate::auth::UserCtx;
use crate::config::Settings;
use crate::db::Kept;
use crate::http::connection::received::Peer;
use crate::http::request::body::RequestBody;
use crate::http::request::target::Target;
use crate::http::request::{Request, client_address};
use crate::http::response::error::Result;
use crate::net::header_text::{decode_latin_1, header_text};
use crate::policy::authorization::Authorization;
use crate::policy::change_counters::Seen;

/// The longest document id, in bytes, whose record is read at the start of a request.
const LONGEST: usize = 512;

/// The state of one request on its way through the pipeline.
pub struct Context {
    /// `X-Couch-Request-ID`.
    pub id: String,
    pub method: http::Method,
    pub uri: http::Uri,
    pub headers: Arc<HeaderMap>,
    /// The answer goes out without its body.
    pub head: bool,
    /// The settings that hold for the whole of this request.
    pub settings: Arc<Settings>,
    /// Counters that were read before the settings.
    pub seen: Seen,
    pub received: Instant,
    pub user: Option<String>,
    /// Authentication has succeeded, if only as an anonymous user.
    pub identified: bool,
    pub peer: Option<IpAddr>,
    /// The connection to the client is encrypted, by this server or by a proxy.
    pub secure: bool,
    /// The connection is encrypted by this server.
    pub encrypted: bool,
    /// The client is the owner of the data folder.
    pub is_owner: bool,
    /// How long the server has waited for the request's body.
    pub body_time: Duration,
    /// The JSONP function to which the answer is passed.
    pub callback: Option<String>,
    /// Set if the client replicates.
    pub syncing: Option<Syncing>,
    /// The record of the document that this request reads or writes, if it was read at its start.
    pub kept: Option<Kept>,
}

impl Context {
    /// Creates the state of a request.
    pub fn new(app: &App, mut parts: http::request::Parts, peer: Peer) -> Context {
        decode_latin_1(&mut parts.headers);
        let Peer { address, encrypted, is_owner } = peer;
        let peer = (!is_owner).then_some(address);
        let seen = Seen::settings(app);
        let settings = app.settings();
        let client = client_address::client(&settings, &parts.headers, peer, encrypted);
        if let Some(address) = client.ignored_proxy {
            app.hints.ignored_proxy(address);
        }
        Context {
            id: request_id(&parts.headers, app),
            head: parts.method == http::Method::HEAD,
            method: parts.method,
            uri: parts.uri,
            headers: Arc::new(parts.headers),
            settings,
            seen,
            received: Instant::now(),
            user: None,
            identified: false,
            peer: client.address,
            secure: client.secure,
            encrypted,
            is_owner,
            body_time: Duration::ZERO,
            callback: None,
            syncing: None,
            kept: None,
        }
    }

    /// On a shared store: learns what other nodes have changed of the settings, the accounts and the database that
    /// the path names, in one read. What is in memory is then as of this request.
    pub async fn catch_up(&mut self, app: &Arc<App>) -> Result<()> {
        let decoded = |part: &str| percent_encoding::percent_decode(part.as_bytes()).decode_utf8_lossy().into_owned();
        let mut parts = self.uri.path().split('/').filter(|part| !part.is_empty()).map(decoded);
        let name = parts.next().unwrap_or_default();
        let reads_or_writes = !matches!(self.method, http::Method::POST | http::Method::OPTIONS);
        let document = match (parts.next(), parts.next()) {
            (Some(id), None) if reads_or_writes && !id.starts_with('_') && id.len() <= LONGEST => Some(id),
            _ => None,
        };
        // The health of the store is what `_up` tells.
        let is_up = name == "_up";
        match app.catch_up(&name, document.as_deref()).await {
            Ok(kept) => self.kept = kept,
            Err(_) if is_up => {}
            Err(error) => return Err(error.into()),
        }
        self.seen = Seen::settings(app);
        self.settings = app.settings();
        Ok(())
    }

    /// Creates the request as handlers see it. The user is anonymous until it is authenticated.
    pub fn request(
        &self,
        target: Target,
        body: RequestBody,
        authorization: Arc<Authorization>,
        line: &Line,
    ) -> Request {
        let Target { verb, head, segments, query } = target;
        Request {
            verb,
            head,
            segments,
            target: self.uri.path_and_query().map_or_else(String::new, |target| target.as_str().to_owned()),
            query,
            headers: self.headers.clone(),
            body,
            user: UserCtx::default(),
            session: None,
            device: None,
            syncing: None,
            authorization,
            id: self.id.clone(),
            peer: self.peer,
            secure: self.secure,
            is_owner: self.is_owner,
            settings: self.settings.clone(),
            received: self.received,
            line: line.clone(),
        }
    }

    /// Creates an audit event that names the user and the address.
    pub fn event(&self, kind: Kind) -> Event<'_> {
        Event { user: self.user.as_deref(), peer: self.peer, ..Event::of(kind) }
    }
}

/// The client's own request id if it is short and harmless, or else ten hex digits (`chttpd.erl`, `nonce`).
fn request_id(headers: &HeaderMap, app: &App) -> String {
    let given = headers.get("x-couch-request-id").and_then(header_text);
    match given {
        Some(given)
            if !given.is_empty()
                && given.len() <= 36
                && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') =>
        {
            given.to_owned()
        }
        _ => crate::hex::hex(&app.clock.random_name()),
    }
}
