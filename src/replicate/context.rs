//! What a pass needs of the server.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_rustls::rustls::ClientConfig;

use super::access::Access;
use super::address::is_public;
use super::host::Host;
use super::memory::Memory;
use super::session::Sessions;
use crate::clock::Clock;
use crate::net::http_client::{Guard, HttpClient, Proxy, Versions};

/// The services of the server that a pass uses. A cheap handle.
#[derive(Clone)]
pub struct Context {
    /// The rights of the job's user on the databases here.
    pub access: Arc<dyn Access>,
    /// One for the server.
    pub network: Arc<Network>,
    pub clock: Clock,
    /// The server's `uuid`: part of replication ids.
    pub server_uuid: Arc<str>,
}

/// Proxies whose connections are kept. Beyond, all are forgotten, and opened again when they are needed.
const MOST_PROXIES: usize = 64;

/// The clients of one way to other servers.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For requests that end soon.
    pub requests: HttpClient,
    /// For feeds that stay open. They are not sent over HTTP/2: a connection has some hundred streams, which the feeds
    /// of as many jobs would take from all requests to that server.
    pub feeds: HttpClient,
}

/// The resources that all jobs of a server share: connections, and the memory for documents in transit.
pub struct Network {
    tls: Arc<ClientConfig>,
    guard: Guard,
    direct: Clients,
    through: Mutex<HashMap<Proxy, Clients>>,
    pub(crate) memory: Memory,
    hosts: Mutex<HashMap<(String, bool), Weak<Host>>>,
    pub(super) sessions: Sessions,
}

impl Network {
    /// `tls` has the trusted authorities. `allow_private`: whether addresses of private networks and of this
    /// machine may be reached now (`[replicator] allow_private`).
    pub fn new(tls: Arc<ClientConfig>, allow_private: impl Fn() -> bool + Send + Sync + 'static) -> Network {
        let guard: Guard = Arc::new(move |address| is_public(address) || allow_private());
        Network {
            direct: Clients::new(&tls, &guard, None),
            through: Mutex::default(),
            tls,
            guard,
            memory: Memory::default(),
            hosts: Mutex::default(),
            sessions: Sessions::default(),
        }
    }

    /// The clients that reach other servers through a proxy, or directly.
    pub(crate) fn clients(&self, proxy: Option<&Proxy>) -> Clients {
        let Some(proxy) = proxy else { return self.direct.clone() };
        let mut through = self.through.lock();
        if let Some(clients) = through.get(proxy) {
            return clients.clone();
        }
        if through.len() >= MOST_PROXIES {
            through.clear();
        }
        let clients = Clients::new(&self.tls, &self.guard, Some(proxy));
        through.insert(proxy.clone(), clients.clone());
        clients
    }

    /// What all jobs of one host and port share, with at least this many connections. Sources and targets are counted
    /// apart: a document is written while the answer that it came with is still being read, so that reads which
    /// waited for the connections of writes, and writes for those of reads, would wait for ever.
    pub(crate) fn host(&self, authority: &str, is_target: bool, connections: usize) -> Arc<Host> {
        let mut hosts = self.hosts.lock();
        let key = (authority.to_ascii_lowercase(), is_target);
        if let Some(host) = hosts.get(&key).and_then(Weak::upgrade) {
            host.allow(connections);
            return host;
        }
        hosts.retain(|_, host| host.strong_count() > 0);
        let host = Arc::new(Host::new(connections));
        hosts.insert(key, Arc::downgrade(&host));
        host
    }
}

impl Clients {
    fn new(tls: &Arc<ClientConfig>, guard: &Guard, proxy: Option<&Proxy>) -> Clients {
        let client = |versions| HttpClient::guarded(tls.clone(), guard.clone(), versions, proxy);
        Clients { requests: client(Versions::Http2), feeds: client(Versions::Http1) }
    }
}
