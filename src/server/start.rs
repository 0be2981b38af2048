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

use crate::app::App;
use crate::app::active_tasks::Tasks;
use crate::app::anomalies::Suspicion;
use crate::app::answer_budget::AnswerMemory;
use crate::app::body_budget::BodyMemory;
use crate::app::feed_wakes::Wakes;
use crate::app::hash_queue::Turns;
use crate::app::metrics::Metrics;
use crate::app::rate_limits::RateLimits;
use crate::app::script_limits::script_limits;
use crate::app::shutdown::Shutdown;
use crate::app::uuids::Uuids;
use crate::auth::Authenticator;
use crate::auth::devices::Devices;
use crate::auth::jwks::{FETCH_TIME, Fetch, MAX_DOCUMENT};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::config::tls::{Certificate, Tls, tls_of};
use crate::config::{Live, Settings, Table};
use crate::db::Databases;
use crate::error::{Error, Result};
use crate::http::connection::listener::Listening;
use crate::http::pipeline;
use crate::net::acme::Automatic;
use crate::net::blocking::BlockingClient;
use crate::net::http_client::{HttpClient, Limits};
use crate::net::tls::Identity;
use crate::query::script::Scripts;
use crate::query::view::Views;
use crate::store::Store;
use crate::store::blob::blobs::Blobs;

/// What a server is made of.
pub struct Options {
    /// Settings of file, environment and flags, without admins.
    pub base: Table,
    /// Admins of file, environment and flags: name and password (or hash). One that was persisted before
    /// stays as it is.
    pub admins: Vec<(String, String)>,
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Clock,
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
    let Options { base, admins, store, blobs, clock } = options;
    blocking(move || {
        let config = Arc::new(Live::open(base, store.clone())?);
        let settings = config.settings();
        for (section, key) in [("couchdb", "uuid"), ("chttpd_auth", "secret")] {
            if settings.get(section, key).is_none() {
                config.set_missing(section, key, &clock.uuid())?;
            }
        }
        let made_admin = crate::app::admins::settle_admins(&config, &admins, &clock)?;
        let auth_settings = crate::auth::Settings::read(config.settings().table());
        let client = http_client(&config.settings()).map_err(Error::BadRequest)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let databases = Databases::open(store.clone(), blobs, clock.clone())?;
        let accounts = Arc::new(crate::app::user_store::Accounts::new(config.clone(), databases.clone()));
        let scripts = Scripts::new(script_limits(&config.settings()));
        let limits = Arc::new(RateLimits::new(&config.settings(), &clock));
        let views = Views::new(scripts.clone());
        let wakes = Arc::new(Wakes::default());
        let devices = Devices::new(store.clone(), clock.clone());
        let woken = wakes.clone();
        devices.when_revoked(move |user| woken.wake(user));
        let patience = Duration::from_secs(config.settings().number("settee", "write_timeout"));
        let answers = AnswerMemory::new(config.settings().number("settee", "max_answer_memory"), patience);
        let app = App {
            wakes,
            databases,
            removal: Notify::new(),
            freed: Arc::default(),
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
            hashing: Turns::new(cores),
            uuids: Uuids::new(clock.clone()),
            clock: clock.clone(),
            store,
            limits,
            metrics: Metrics::default(),
            suspicion: Suspicion::new(clock),
            shutdown: Shutdown::new(),
            started: Instant::now(),
        };
        Ok(Prepared { app: Arc::new(app), made_admin })
    })
    .await
}

/// Prepares, listens on a free port of this machine, and serves in the background: what tests use.
pub async fn start(options: Options) -> Result<Running> {
    let Prepared { app, .. } = prepare(options).await?;
    listen(app, SocketAddr::from(([127, 0, 0, 1], 0))).await
}

/// Listens on `bind` (port 0: a free one), and for TLS where the settings say, and serves in the background.
pub async fn listen(app: Arc<App>, bind: SocketAddr) -> Result<Running> {
    let (plain, address) = open(bind, "--bind").await?;
    let mut listeners = vec![Listening { socket: plain, identity: None }];
    let mut secure_address = None;
    if let Some(Tls { bind, certificate }) = tls_of(&app.settings(), address).map_err(Error::BadRequest)? {
        let (client, clock) = (app.client.clone(), app.clock.clone());
        let http2 = app.settings().flag("settee", "http2");
        let read = move || match &certificate {
            Certificate::Files { cert, key } => Identity::open(cert, key, http2),
            Certificate::Acme { wanted, folder } => {
                Identity::automatic(Automatic::open(wanted.clone(), folder, client, clock)?, http2)
            }
        };
        let identity = blocking(move || read().map_err(Error::BadRequest)).await?;
        let (socket, address) = open(bind, "--tls-bind").await?;
        listeners.push(Listening { socket, identity: Some(Arc::new(identity)) });
        secure_address = Some(address);
    }
    super::bootstrap::settle_all(&app).await?;
    super::jobs::start_jobs(&app);
    // In a box of its own: the future of a request is as large as the largest handler's, and hyper keeps room for one in
    // each connection, also while the connection is idle or its answer waits.
    let respond = |app, received| Box::pin(pipeline::respond(app, received));
    let serving = tokio::spawn(crate::http::connection::listener::serve(app.clone(), listeners, respond));
    Ok(Running { address, secure_address, app, serving })
}

/// The client for all requests to other servers. Trusts the public authorities and those of `ca_file`. Blocks.
fn http_client(settings: &Settings) -> std::result::Result<HttpClient, String> {
    let authorities = settings.get("settee", "ca_file").map(Path::new);
    let tls = crate::net::tls::client_config(authorities).map_err(|wrong| format!("ca_file: {wrong}"))?;
    Ok(HttpClient::new(tls))
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

async fn open(bind: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(bind).await.map_err(|error| {
        Error::BadRequest(format!(
            "cannot listen on {bind}: {error}. Is another server running there? {flag} ADDR:PORT"
        ))
    })?;
    let address = listener.local_addr().map_err(|error| Error::Internal(error.to_string()))?;
    Ok((listener, address))
}
