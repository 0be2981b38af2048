//! Bringing a server up: for `main`, and in-process on port 0 for tests.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;

use super::systemd::Sockets;
use crate::app::active_tasks::Tasks;
use crate::app::anomalies::Anomalies;
use crate::app::answer_budget::AnswerMemory;
use crate::app::body_budget::BodyMemory;
use crate::app::feed_wakes::Wakes;
use crate::app::hash_queue::Turns;
use crate::app::hints::Hints;
use crate::app::history::History;
use crate::app::leases::Leases;
use crate::app::metrics::Metrics;
use crate::app::nodes::Nodes;
use crate::app::rate_limits::RateLimits;
use crate::app::replication_settings::scheduler_settings;
use crate::app::replications::Replications;
use crate::app::script_limits::script_limits;
use crate::app::shutdown::Shutdown;
use crate::app::sync::SyncStatus;
use crate::app::sync::conflict_growth::ConflictGrowth;
use crate::app::uuids::Uuids;
use crate::app::{App, Recent, disk_use};
use crate::auth::Authenticator;
use crate::auth::devices::Devices;
use crate::auth::jwks::{FETCH_TIME, Fetch, MAX_DOCUMENT};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::config::source::Sources;
use crate::config::tls::{Certificate, Tls, tls_of};
use crate::config::{Live, Settings, Table};
use crate::db::Databases;
use crate::error::{Error, Result};
use crate::http::connection::http1;
use crate::http::connection::listener::{self, Listening};
use crate::http::connection::received::Peer;
use crate::http::pipeline;
use crate::net::acme::Automatic;
use crate::net::blocking::BlockingClient;
use crate::net::http_client::{HttpClient, Limits};
use crate::net::tls::Identity;
use crate::query::index::upkeep;
use crate::query::script::Scripts;
use crate::query::view::Views;
use crate::replicate::Network;
use crate::store::blob::blobs::Blobs;
use crate::store::{Key, Store};

/// What a server is made of.
pub struct Options {
    /// Settings of file, environment and flags, without admins.
    pub base: Table,
    /// Where each of them comes from.
    pub sources: Sources,
    /// Admins of file, environment and flags: name and password (or hash). One that was persisted before
    /// stays as it is.
    pub admins: Vec<(String, String)>,
    pub store: Arc<dyn Store>,
    /// Where a node of a shared store keeps its indexes. `None`: in memory. Not used if the store is not shared: then
    /// the store keeps them.
    pub indexes: Option<Arc<dyn Store>>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Clock,
    /// What was logged lately.
    pub recent: Recent,
    /// The key under which backups are sealed, if the store is encrypted.
    pub backup_key: Option<Key>,
}

/// A server that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for TLS.
    pub secure_address: Option<SocketAddr>,
    pub app: Arc<App>,
    serving: JoinHandle<io::Result<()>>,
}

impl Running {
    /// `http://address`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the server stops by itself: after `app.shutdown` began.
    pub async fn stopped(self) -> io::Result<()> {
        self.serving.await.map_err(io::Error::other)?
    }

    /// Drains and stops. Returns when every connection has ended, or the drain time is over.
    pub async fn shutdown(self) -> io::Result<()> {
        self.app.shutdown.begin();
        self.serving.await.map_err(io::Error::other)?
    }
}

/// An app that does not listen yet.
pub struct Prepared {
    pub app: Arc<App>,
    /// Name and password of the admin that was made because there was none: to be shown once.
    pub made_admin: Option<(String, String)>,
}

/// Makes the app: settings from the store over `base`, identity, secret, admins.
pub async fn prepare(options: Options) -> Result<Prepared> {
    let Options { base, sources, admins, store, indexes, blobs, clock, recent, backup_key } = options;
    blocking(move || {
        let config = Arc::new(Live::open(base, store.clone())?);
        config.set_sources(sources);
        let settings = config.settings();
        for (section, key) in [("couchdb", "uuid"), ("chttpd_auth", "secret")] {
            if settings.get(section, key).is_none() {
                config.set_missing(section, key, &clock.uuid())?;
            }
        }
        let made_admin = crate::app::admins::settle_admins(&config, &admins, &clock)?;
        let auth_settings = crate::auth::Settings::read(config.settings().table());
        let tls = client_tls(&config.settings()).map_err(Error::BadRequest)?;
        let client = HttpClient::new(tls.clone());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let databases = match indexes.filter(|_| store.is_shared()) {
            Some(indexes) => Databases::open_with(store.clone(), indexes, blobs, clock.clone())?,
            None => Databases::open(store.clone(), blobs, clock.clone())?,
        };
        let replications = replications(&config, tls, &databases, &clock);
        let accounts = Arc::new(crate::app::user_store::Accounts::new(config.clone(), databases.clone()));
        let scripts = Scripts::new(script_limits(&config.settings()));
        let limits = Arc::new(RateLimits::new(&config.settings(), &clock));
        let views = Views::new(scripts.clone());
        let wakes = Arc::new(Wakes::default());
        let devices = Devices::new(store.clone(), clock.clone());
        let woken = wakes.clone();
        devices.when_revoked(move |user| match user {
            Some(user) => woken.wake(user),
            None => woken.wake_all(),
        });
        let patience = Duration::from_secs(config.settings().number("settee", "write_timeout"));
        let answers = AnswerMemory::new(config.settings().number("settee", "max_answer_memory"), patience);
        let app = App {
            wakes,
            databases,
            removal: Notify::new(),
            freed: Arc::default(),
            disk_use: disk_use::Wake::default(),
            tasks: Tasks::default(),
            views,
            scripts,
            bodies: BodyMemory::new(config.settings().max_json_memory).beside(answers.clone()),
            answers,
            config,
            accounts: accounts.clone(),
            auth: Authenticator::new(accounts, auth_settings, clock.clone())
                .with_devices(Arc::new(devices))
                .with_published_keys(published_keys(client.clone())),
            client,
            replications,
            hashing: Turns::new(cores),
            uuids: Uuids::new(clock.clone(), store.is_shared()),
            clock: clock.clone(),
            leases: Leases::new(store.clone(), &clock),
            nodes: Nodes::new(clock.uuid(), clock.since_epoch().as_millis() as u64),
            store,
            limits,
            metrics: Metrics::default(),
            recent,
            history: History::new(clock.since_epoch().as_millis() as u64),
            backups: Arc::default(),
            backup_key,
            checks: Arc::default(),
            sync: SyncStatus::new(clock.clone()),
            conflict_growth: ConflictGrowth::default(),
            anomalies: Anomalies::new(clock),
            hints: Hints::default(),
            shutdown: Shutdown::new(),
            started: Instant::now(),
        };
        let app = Arc::new(app);
        if app.store.is_shared() {
            remember_shared_records(&app)?;
        }
        Ok(Prepared { app, made_admin })
    })
    .await
}

/// On a shared store: what is read again when another node has changed settings or revoked a session, and after a
/// failover. Blocks.
fn remember_shared_records(app: &Arc<App>) -> Result<()> {
    let of = Arc::downgrade(app);
    app.databases.remember(crate::config::live::change_key(), move |_, _| {
        let Some(app) = of.upgrade() else { return Ok(()) };
        app.config.learn()?;
        app.reconfigure();
        Ok(())
    });
    if let Some(devices) = app.auth.devices() {
        let devices = devices.clone();
        let (key, epoch) = (crate::auth::devices::revoked_users::key(), app.store.epoch()?);
        devices.learn(app.store.get(&key)?.as_deref(), epoch)?;
        app.databases.remember(key, move |noted, epoch| devices.learn(noted, epoch));
    }
    let (histories, indexes, uuid) = (app.views.histories().clone(), app.databases.index_store().clone(), app.uuid());
    upkeep::settle(&histories, &*indexes, &uuid, app.store.epoch()?)?;
    app.databases.when_history_begins(move |epoch| upkeep::settle(&histories, &*indexes, &uuid, epoch));
    Ok(())
}

/// Prepares, listens on a free port of this machine, and serves in the background: what tests use.
pub async fn start(options: Options) -> Result<Running> {
    let Prepared { app, .. } = prepare(options).await?;
    listen(app, SocketAddr::from(([127, 0, 0, 1], 0))).await
}

/// Listens on `bind` (port 0: a free one), and for TLS where the settings say, and serves in the background.
pub async fn listen(app: Arc<App>, bind: SocketAddr) -> Result<Running> {
    listen_on(app, bind, &Sockets::default()).await
}

/// As [`listen`], but on the sockets that systemd has opened, if there are any.
pub async fn listen_on(app: Arc<App>, bind: SocketAddr, sockets: &Sockets) -> Result<Running> {
    let (plain, address) = open(bind, "--bind", sockets.clones(false)).await?;
    app.nodes.listens(address, app.store.is_shared());
    let mut listeners: Vec<_> = plain.into_iter().map(|socket| Listening { socket, identity: None }).collect();
    let mut secure_address = None;
    if let Some(Tls { bind, certificate }) = tls_of(&app.settings(), address).map_err(Error::BadRequest)? {
        let (client, clock, store) = (app.client.clone(), app.clock.clone(), app.store.clone());
        let http2 = app.settings().flag("settee", "http2");
        let read = move || match &certificate {
            Certificate::Files { cert, key } => Identity::open(cert, key, http2),
            Certificate::Acme { wanted, .. } if store.is_shared() => {
                Identity::automatic(Automatic::shared(wanted.clone(), store, client, clock), http2)
            }
            Certificate::Acme { wanted, folder } => {
                Identity::automatic(Automatic::open(wanted.clone(), folder, client, clock)?, http2)
            }
        };
        let identity = blocking(move || read().map_err(Error::BadRequest)).await?;
        let (secure, address) = open(bind, "--tls-bind", sockets.clones(true)).await?;
        let identity = Arc::new(identity);
        listeners.extend(secure.into_iter().map(|socket| Listening { socket, identity: Some(identity.clone()) }));
        secure_address = Some(address);
    }
    super::bootstrap::settle_all(&app).await?;
    super::jobs::start_jobs(&app);
    // In a box of its own: the future of a request is as large as the largest handler's, and hyper keeps room for one in
    // each connection, also while the connection is idle or its answer waits.
    let respond = |app, received| Box::pin(pipeline::respond(app, received));
    let served = app.clone();
    let serving = tokio::spawn(async move {
        let ended = listener::serve(served.clone(), listeners, respond).await;
        served.databases.clone().record_last_updates().await;
        ended
    });
    Ok(Running { address, secure_address, app, serving })
}

/// TLS for all requests to other servers. Trusts the public authorities and those of `ca_file`. Blocks.
fn client_tls(settings: &Settings) -> std::result::Result<Arc<ClientConfig>, String> {
    let authorities = settings.get("settee", "ca_file").map(Path::new);
    crate::net::tls::client_config(authorities).map_err(|wrong| format!("ca_file: {wrong}"))
}

/// The replications of the server, by its settings of now.
fn replications(config: &Arc<Live>, tls: Arc<ClientConfig>, databases: &Arc<Databases>, clock: &Clock) -> Replications {
    let live = config.clone();
    let allow_private = move || live.settings().flag("replicator", "allow_private");
    let replications = Replications::new(databases, Arc::new(Network::new(tls, allow_private)), clock);
    replications.scheduler.configure(scheduler_settings(&config.settings()));
    replications
}

/// Fetches the keys that token issuers publish. Must be called in the runtime that is to run the requests.
fn published_keys(client: HttpClient) -> Fetch {
    let client = BlockingClient::new(client, Handle::current());
    let limits = Limits { time: FETCH_TIME, bytes: MAX_DOCUMENT };
    Box::new(move |url| match client.get(url, limits) {
        Ok(document) => Ok(document.to_vec()),
        Err(error) => Err(Error::Internal(error.to_string())),
    })
}

/// Takes the sockets that were handed over, or opens one on `bind`. Returns the address of the first one, too.
async fn open(
    bind: SocketAddr,
    flag: &str,
    handed: io::Result<Vec<std::net::TcpListener>>,
) -> Result<(Vec<TcpListener>, SocketAddr)> {
    let internal = |error: io::Error| Error::Internal(error.to_string());
    let mut listeners: Vec<TcpListener> =
        handed.and_then(|sockets| sockets.into_iter().map(TcpListener::from_std).collect()).map_err(internal)?;
    if listeners.is_empty() {
        let opened = TcpListener::bind(bind).await;
        listeners.push(opened.map_err(|error| Error::BadRequest(cannot_listen(bind, flag, &error)))?);
    }
    let address = listeners[0].local_addr().map_err(internal)?;
    Ok((listeners, address))
}

/// Why the address cannot be used, and what to do about it.
fn cannot_listen(bind: SocketAddr, flag: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program listens there, perhaps another settee; choose another port: {flag} ADDR:PORT")
        }
        io::ErrorKind::PermissionDenied if bind.port() < 1024 => format!(
            "ports below 1024 need a right: choose a higher port ({flag} ADDR:PORT), let systemd open the socket, or \
             run `setcap cap_net_bind_service=+ep` on the binary"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; {flag} 0.0.0.0 means all of them")
        }
        _ => format!("choose another address: {flag} ADDR:PORT"),
    };
    format!("cannot listen on {bind}: {error}. {}{}", advice[..1].to_uppercase(), &advice[1..])
}

/// The URL under which this machine's browsers open the server. `localhost` rather than `127.0.0.1`: a cookie set for
/// one does not come back from a page on the other, and development servers run on `localhost`.
pub fn link(address: SocketAddr) -> String {
    let is_local = address.ip().is_loopback() || address.ip().is_unspecified();
    match is_local {
        true => format!("http://localhost:{}/", address.port()),
        false => format!("http://{address}/"),
    }
}

/// Serves a connection of the data folder's owner.
pub async fn serve_owner(app: Arc<App>, stream: tokio::net::UnixStream) {
    http1::serve(app, |app, received| Box::pin(pipeline::respond(app, received)), stream, Peer::owner()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_localhost_where_it_reaches_the_server() {
        for (address, url) in [
            ("127.0.0.1:5984", "http://localhost:5984/"),
            ("0.0.0.0:80", "http://localhost:80/"),
            ("[::1]:5984", "http://localhost:5984/"),
            ("192.168.1.7:5984", "http://192.168.1.7:5984/"),
            ("[2001:db8::1]:5984", "http://[2001:db8::1]:5984/"),
        ] {
            assert_eq!(link(address.parse().unwrap()), url);
        }
    }

    #[test]
    fn a_failure_to_listen_names_its_cause() {
        let said = |port: u16, kind: io::ErrorKind| {
            cannot_listen(SocketAddr::from(([127, 0, 0, 1], port)), "--bind", &io::Error::from(kind))
        };
        for (port, kind, says) in [
            (5984, io::ErrorKind::AddrInUse, "Another program listens there"),
            (80, io::ErrorKind::PermissionDenied, "Ports below 1024 need a right"),
            (5984, io::ErrorKind::AddrNotAvailable, "This machine has no such address"),
            (5984, io::ErrorKind::Other, "Choose another address"),
        ] {
            let said = said(port, kind);
            assert!(said.contains(says) && said.contains("--bind"), "{said}");
            assert_eq!(said.contains("another settee"), kind == io::ErrorKind::AddrInUse, "{said}");
        }
    }
}
