//! What a pass needs of the server.

use std::sync::Arc;

use tokio_rustls::rustls::ClientConfig;

use super::access::Access;
use crate::clock::Clock;

/// What a pass needs of the server. A cheap handle.
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

/// What all jobs of a server share: connections, and the memory for documents on their way.
pub struct Network {
    #[allow(dead_code, reason = "the peers over HTTP come next")]
    tls: Arc<ClientConfig>,
    #[allow(dead_code, reason = "the peers over HTTP come next")]
    allow_private: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Network {
    /// `tls` has the trusted authorities. `allow_private`: whether addresses of private networks and of this
    /// machine may be reached now (`[replicator] allow_private`).
    pub fn new(tls: Arc<ClientConfig>, allow_private: impl Fn() -> bool + Send + Sync + 'static) -> Network {
        Network { tls, allow_private: Box::new(allow_private) }
    }
}
