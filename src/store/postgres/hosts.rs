//! The hosts of the address: which of them takes writes.
//!
//! After a failover two servers may both take writes for a while: the one that was promoted, and the old one, which was
//! frozen or cut off and does not know that it has been replaced. The promoted one has the higher *timeline*. Once a
//! connection has found a timeline, no connection to a server with a lower one is used any more: a feed that read the
//! last sequence on one connection, and the changes on another, would skip those that the old server does not have.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Connect;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A client, and its connection, which does the I/O and must be polled.
type Connected = (Client, tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>);

/// How long a host may take to accept a connection and to report its timeline.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two rounds over all hosts.
const PAUSE: Duration = Duration::from_millis(200);

/// The hosts. Clones share what is known of them.
#[derive(Clone)]
pub(super) struct Hosts(Arc<Inner>);

struct Inner {
    /// One for each host.
    configs: Vec<Config>,
    connector: MakeRustlsConnect,
    /// The host that is tried first: usually the one that took writes last.
    preferred: AtomicUsize,
    newest: Mutex<Newest>,
}

#[derive(Default)]
struct Newest {
    /// The highest timeline that any server has reported. 0: they report none. `None`: no server was asked yet.
    timeline: Option<u64>,
    /// When it was first reported, if another one was known before.
    since: Option<Instant>,
}

/// Why a host is not used.
pub(super) enum Unused {
    /// It does not answer in time.
    Silent,
    /// It was replaced: its timeline is lower than that of another.
    Replaced,
    Failed(Error),
}

impl Hosts {
    pub fn new(config: &Config, connector: MakeRustlsConnect) -> Hosts {
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        let configs = (0..count).map(|at| alone(config, at)).collect();
        Hosts(Arc::new(Inner { configs, connector, preferred: AtomicUsize::new(0), newest: Mutex::default() }))
    }

    /// How many hosts the address names: at least one.
    pub fn count(&self) -> usize {
        self.0.configs.len()
    }

    /// The host that takes writes, as far as is known.
    pub fn preferred(&self) -> usize {
        self.0.preferred.load(Ordering::SeqCst)
    }

    /// The highest timeline that a server has reported. 0: they report none. `None`: no server was asked yet.
    pub fn known_timeline(&self) -> Option<u64> {
        self.0.newest.lock().timeline
    }

    /// As [`Hosts::known_timeline`], and 0 before a server was asked.
    pub fn timeline(&self) -> u64 {
        self.known_timeline().unwrap_or(0)
    }

    /// Whether a connection that was made at `made` may lead to a server that has been replaced since.
    pub fn may_be_replaced(&self, made: Instant) -> bool {
        self.0.newest.lock().since.is_some_and(|since| made <= since)
    }

    /// Records the timeline of a server. Returns whether the server has been replaced. A server that reports none, such
    /// as a service that is not PostgreSQL itself, counts as not replaced.
    fn is_replaced(&self, timeline: u64) -> bool {
        let mut newest = self.0.newest.lock();
        let before = newest.timeline.unwrap_or(0);
        if newest.timeline.is_none() || timeline > before {
            let since = (before != 0).then(Instant::now);
            *newest = Newest { timeline: Some(timeline), since };
        }
        timeline != 0 && timeline < before
    }

    /// Whether the server of a connection has been replaced.
    pub async fn is_old(&self, client: &Client) -> Result<bool, Error> {
        Ok(self.is_replaced(timeline_of(client).await?))
    }

    /// From now on, tries this host first.
    pub fn prefer(&self, at: usize) {
        self.0.preferred.store(at, Ordering::SeqCst);
    }

    /// From now on, tries the host after the preferred one first.
    pub fn prefer_next(&self) {
        self.prefer((self.preferred() + 1) % self.count());
    }

    /// Connects to the first host that takes writes, beginning with the one that did so before. Fails when every host
    /// has returned an error; while one of them is silent or replaced, tries again until the caller gives up.
    pub async fn connect(&self) -> Result<Connected, Error> {
        loop {
            let (mut error, mut may_change) = (None, false);
            let first = self.preferred();
            for at in (0..self.count()).map(|step| (first + step) % self.count()) {
                match self.connect_to(at).await {
                    Ok(connected) => {
                        self.prefer(at);
                        return Ok(connected);
                    }
                    Err(Unused::Failed(failed)) => error = Some(failed),
                    Err(Unused::Silent | Unused::Replaced) => may_change = true,
                }
            }
            match error {
                Some(error) if !may_change => return Err(error),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Connects to one host, which must take writes and must not have been replaced.
    pub async fn connect_to(&self, at: usize) -> Result<Connected, Unused> {
        let connecting = async {
            let (client, mut connection) = self.0.configs[at].connect(self.0.connector.clone()).await?;
            let timeline = {
                let mut asked = pin!(timeline_of(&client));
                tokio::select! {
                    timeline = &mut asked => timeline?,
                    ended = &mut connection => {
                        ended?;
                        asked.await?
                    }
                }
            };
            Ok((client, connection, timeline))
        };
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok((.., timeline))) if self.is_replaced(timeline) => Err(Unused::Replaced),
            Ok(Ok((client, connection, _))) => Ok((client, connection)),
            Ok(Err(error)) => Err(Unused::Failed(error)),
            Err(_) => Err(Unused::Silent),
        }
    }
}

impl Connect for Hosts {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async move {
            let (client, connection) = self.connect().await?;
            // The calls on the connection return its error.
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        })
    }
}

/// The number of the server's timeline: the first eight digits of the name of its current write-ahead log file. 0 if
/// the server reports none.
async fn timeline_of(client: &Client) -> Result<u64, Error> {
    match client.query_one("select pg_walfile_name(pg_current_wal_lsn())", &[]).await {
        Ok(row) => {
            let name: Option<String> = row.try_get(0).ok();
            Ok(name.and_then(|name| u64::from_str_radix(name.get(..8)?, 16).ok()).unwrap_or(0))
        }
        Err(error) if error.as_db_error().is_some() && !client.is_closed() => Ok(0),
        Err(error) => Err(error),
    }
}

/// The settings for one of the hosts.
fn alone(config: &Config, at: usize) -> Config {
    let mut own = Config::new();
    match config.get_hosts().get(at) {
        Some(Host::Tcp(name)) => drop(own.host(name)),
        #[cfg(unix)]
        Some(Host::Unix(path)) => drop(own.host_path(path)),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(at) {
        own.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(at).or(config.get_ports().first()) {
        own.port(*port);
    }
    if let Some(user) = config.get_user() {
        own.user(user);
    }
    if let Some(password) = config.get_password() {
        own.password(password);
    }
    if let Some(name) = config.get_dbname() {
        own.dbname(name);
    }
    if let Some(options) = config.get_options() {
        own.options(options);
    }
    if let Some(name) = config.get_application_name() {
        own.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        own.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        own.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        own.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        own.keepalives_retries(retries);
    }
    own.keepalives(config.get_keepalives());
    own.keepalives_idle(config.get_keepalives_idle());
    own.ssl_mode(config.get_ssl_mode());
    own.ssl_negotiation(config.get_ssl_negotiation());
    own.channel_binding(config.get_channel_binding());
    own.target_session_attrs(config.get_target_session_attrs());
    own.load_balance_hosts(config.get_load_balance_hosts());
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the library gets a setting that [`alone`] does not copy.
    #[test]
    fn a_host_keeps_all_settings_of_the_address() {
        let common = "user=u password=p dbname=d options='-c x=1' application_name=a sslmode=require connect_timeout=7 \
                      tcp_user_timeout=9 keepalives=1 keepalives_idle=3 keepalives_interval=2 keepalives_retries=4 \
                      target_session_attrs=read-write channel_binding=disable sslnegotiation=direct \
                      load_balance_hosts=random";
        let read = |hosts: &str| format!("{hosts} {common}").parse::<Config>().unwrap();
        let both = read("host=one,two hostaddr=10.0.0.1,10.0.0.2 port=1,2");
        assert_eq!(alone(&both, 0), read("host=one hostaddr=10.0.0.1 port=1"));
        assert_eq!(alone(&both, 1), read("host=two hostaddr=10.0.0.2 port=2"));
        assert_eq!(alone(&read("host=one,two port=5"), 1), read("host=two port=5"), "one port for all");
        assert_eq!(alone(&read("host=one,/run"), 1), read("host=/run"));
    }
}
