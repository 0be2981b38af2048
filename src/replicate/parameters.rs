//! What a replication does: the members of a `_replicate` body and of a `_replicator` document, checked.

pub mod parse;

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Uri};
use serde_json::{Map, Value};

use crate::net::http_client::Proxy;

/// One end of a replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A database of this server.
    Local { name: String },
    /// A database of another server, or of this one over HTTP.
    Remote(Box<RemoteEndpoint>),
}

/// A database that is reached over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// `http` or `https`, without user and password, the path ending with the database's name and without a
    /// slash at its end.
    pub url: Uri,
    /// Added to every request. `Authorization` may be among them.
    pub headers: HeaderMap,
    /// From `auth.basic`, or from the URL.
    pub auth: Option<Basic>,
    /// From `proxy`, `source_proxy` or `target_proxy`.
    pub proxy: Option<Proxy>,
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Basic {
    pub username: String,
    pub password: String,
}

impl Endpoint {
    /// The same endpoint, reached through a proxy. A database here needs none.
    pub fn through(mut self, proxy: Option<Proxy>) -> Endpoint {
        if let Endpoint::Remote(remote) = &mut self {
            remote.proxy = proxy;
        }
        self
    }

    /// The URL of its proxy, without credentials.
    pub fn proxy(&self) -> Option<String> {
        match self {
            Endpoint::Remote(remote) => remote.proxy.as_ref().map(|proxy| proxy.url.to_string()),
            Endpoint::Local { .. } => None,
        }
    }
}

impl fmt::Debug for RemoteEndpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RemoteEndpoint({})", self.url)
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Basic({}, password hidden)", self.username)
    }
}

impl fmt::Display for Endpoint {
    /// The name or the URL, without credentials.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Local { name } => out.write_str(name),
            Endpoint::Remote(remote) if remote.url.query().is_some() => write!(out, "{}", remote.url),
            Endpoint::Remote(remote) => write!(out, "{}/", remote.url.to_string().trim_end_matches('/')),
        }
    }
}

/// Which documents are replicated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    #[default]
    None,
    /// Sorted, unique, not percent-encoded.
    DocIds(Vec<String>),
    /// `design/function`, `_view`, `_design` or another name that the source's `_changes` knows.
    Named(String),
    /// A Mango selector: a JSON object.
    Selector(Value),
}

/// A replication, checked. The defaults are CouchDB's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    pub source: Endpoint,
    pub target: Endpoint,
    pub continuous: bool,
    /// Creates the target if it does not exist.
    pub create_target: bool,
    /// `q`, `n`, `partitioned`.
    pub create_target_params: Map<String, Value>,
    pub filter: Filter,
    /// Parameters of a named filter, in order.
    pub query_params: Vec<(String, String)>,
    /// Starts after this sequence of the source, where no checkpoint says otherwise: JSON, as `_changes` writes it.
    pub since_seq: Option<Value>,
    pub winning_revs_only: bool,
    pub use_checkpoints: bool,
    pub checkpoint_interval: Duration,
    pub use_bulk_get: bool,
    /// Batches that are fetched and written at the same time.
    pub worker_processes: usize,
    /// Changes of one batch.
    pub worker_batch_size: usize,
    /// Connections to one peer.
    pub http_connections: usize,
    pub connection_timeout: Duration,
    pub retries_per_request: u32,
}

impl Parameters {
    /// A replication of everything, once, with the default values.
    pub fn new(source: Endpoint, target: Endpoint) -> Parameters {
        Parameters {
            source,
            target,
            continuous: false,
            create_target: false,
            create_target_params: Map::new(),
            filter: Filter::None,
            query_params: Vec::new(),
            since_seq: None,
            winning_revs_only: false,
            use_checkpoints: true,
            checkpoint_interval: Duration::from_secs(30),
            use_bulk_get: true,
            worker_processes: 4,
            worker_batch_size: 500,
            http_connections: 20,
            connection_timeout: Duration::from_secs(30),
            retries_per_request: 5,
        }
    }
}
