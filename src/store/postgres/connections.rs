//! The pool of connections, and the statements that they run.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::QueueMode;
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::connection::Connection;
use super::errors::{is_connection, of_pool, of_read, was_cut};
use super::hosts::Hosts;
use crate::store::{Result, StoreError};

/// A call that gets no connection within this time fails.
const WAIT: Duration = Duration::from_secs(10);
/// How much later than its timeout a statement may be answered.
const LATE: Duration = Duration::from_secs(5);
/// The most time to connect, over all hosts.
const CREATE: Duration = Duration::from_secs(15);

/// For how long a read whose connections are cut is sent again before the error is returned.
const CUT: Duration = Duration::from_secs(10);
/// Each repetition waits longer than the one before by this time; the first one does not wait.
const PAUSE: Duration = Duration::from_millis(5);

/// The parameters of a statement.
pub(super) type Parameters = Vec<Box<dyn ToSql + Sync + Send>>;

/// The error of a guarded call that has not succeeded.
pub(super) fn failed_call<T>(ended: Option<std::result::Result<T, tokio_postgres::Error>>) -> StoreError {
    ended.and_then(std::result::Result::err).map_or_else(silent, |error| of_read(&error))
}

/// The pool. Clones share it.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    pub address: Arc<Address>,
    pub hosts: Hosts,
    /// How often all connections have been given up.
    given_up: Arc<watch::Sender<u64>>,
    #[cfg(test)]
    pub probe: Arc<Probe>,
}

/// What tests inject and count.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Probe {
    /// The next calls on connections that panic after they were answered.
    pub panics: std::sync::atomic::AtomicUsize,
    /// Notified: the calls that wait for their answers panic.
    pub strikes: tokio::sync::Notify,
    /// How often a connection was asked of the pool.
    pub asked: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Probe {
    fn panic_if_asked(&self) {
        let left = |left: usize| left.checked_sub(1);
        let order = std::sync::atomic::Ordering::SeqCst;
        assert!(self.panics.fetch_update(order, order, left).is_err(), "a panic for a test");
    }

    /// Waits for `call`, or panics meanwhile if a test wants that.
    async fn or_panics<T>(&self, call: impl Future<Output = T>) -> T {
        tokio::select! {
            ended = call => ended,
            () = self.strikes.notified() => panic!("a panic for a test"),
        }
    }
}

/// The error text for a server that was given up, or did not answer in time.
pub(super) const SILENT: &str = "PostgreSQL: the server does not answer";

/// The error of a call to such a server.
pub(super) fn silent() -> StoreError {
    StoreError::Down(SILENT.to_owned())
}

impl Connections {
    /// Opens a pool without any connection yet.
    pub fn new(address: Address, connector: MakeRustlsConnect) -> Connections {
        let hosts = Hosts::new(&address.config, connector);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(address.config.clone(), hosts.clone(), recycling);
        let settings = settings(&address);
        let known = hosts.clone();
        let begins = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let (settings, known) = (settings.clone(), known.clone());
            Box::pin(async move {
                client.batch_execute(&settings).await.map_err(HookError::Backend)?;
                // The pool took `created` before this check, so `may_be_replaced` detects a later failover.
                match known.is_old(client).await.map_err(HookError::Backend)? {
                    true => Err(HookError::message("the database server has been replaced")),
                    false => Ok(()),
                }
            })
        });
        let known = hosts.clone();
        let may_be_used = Hook::sync_fn(move |_, metrics| match known.may_be_replaced(metrics.created) {
            true => Err(HookError::message("the database server has been replaced")),
            false => Ok(()),
        });
        let pool = Pool::builder(manager)
            .max_size(address.pool)
            .runtime(Runtime::Tokio1)
            // Prefers the connection that was used last: the caches of its server process are warm.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(CREATE))
            .post_create(begins)
            // If the hook refuses a connection, the pool tries the next one, or opens a new one.
            .pre_recycle(may_be_used)
            .build()
            .expect("a pool with a runtime can always be built");
        Connections {
            pool,
            address: Arc::new(address),
            hosts,
            given_up: Arc::new(watch::Sender::new(0)),
            #[cfg(test)]
            probe: Arc::default(),
        }
    }

    /// A connection from the pool.
    pub async fn get(&self) -> Result<Connection> {
        self.connection().await.map_err(|error| of_pool(&error))
    }

    async fn connection(&self) -> std::result::Result<Connection, PoolError> {
        #[cfg(test)]
        self.probe.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.pool.get().await.map(Connection::new)
    }

    /// Drops all idle connections: they may have ended, or lead to a server that no longer takes writes.
    pub fn forget(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Gives up all connections, also those in use: the calls on them end.
    pub fn give_up(&self, why: &str) {
        tracing::warn!("{why}; its connections are given up");
        self.forget();
        self.given_up.send_modify(|times| *times += 1);
    }

    /// Completes when the connections that exist now are given up.
    pub fn given_up(&self) -> impl Future<Output = ()> + use<> {
        let mut given_up = self.given_up.subscribe();
        async move { drop(given_up.changed().await) }
    }

    /// Waits for a call on the connection `client`. `None`: the server was given up, has been replaced meanwhile, or did not
    /// answer in time; the connection is closed when it is dropped.
    pub async fn guarded<T>(&self, client: &Connection, call: impl Future<Output = T>) -> Option<T> {
        let given_up = self.given_up();
        // The server itself ends a statement at its timeout, but not a commit that waits for a standby.
        let limit = self.address.statement_timeout + LATE;
        #[cfg(test)]
        let call = self.probe.or_panics(call);
        client.set_runs(true);
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, call) => {
                ended.ok().filter(|_| !self.hosts.may_be_replaced(Object::metrics(client.object()).created))
            }
            () = given_up => None,
        };
        client.set_runs(ended.is_none());
        #[cfg(test)]
        self.probe.panic_if_asked();
        ended
    }

    /// Runs a statement that reads, on another connection if the first one has ended. Does not wait for a server that
    /// is down.
    pub async fn rows(&self, sql: &str, parameters: Parameters) -> Result<Vec<Row>> {
        let begun = Instant::now();
        let mut cuts = 0;
        loop {
            let error = match self.connection().await {
                Ok(client) => match self.guarded(&client, read(&client, sql, &parameters)).await {
                    Some(Ok(rows)) => return Ok(rows),
                    Some(Err(error)) if !is_connection(&error) => return Err(of_read(&error)),
                    ended => {
                        client.close();
                        self.forget();
                        failed_call(ended)
                    }
                },
                Err(error) if was_cut(&error) => of_pool(&error),
                Err(error) => return Err(of_pool(&error)),
            };
            if begun.elapsed() > CUT {
                return Err(error);
            }
            tokio::time::sleep(PAUSE * cuts).await;
            cuts += 1;
        }
    }

    /// As [`Connections::rows`], for a statement with one row.
    pub async fn row(&self, sql: &str, parameters: Parameters) -> Result<Row> {
        let mut rows = self.rows(sql, parameters).await?;
        rows.pop().ok_or_else(|| StoreError::Unavailable(format!("PostgreSQL: no row from {sql}")))
    }

    /// The server's timeline, which grows when a standby takes over; 0 if unknown. Each new connection asks for it.
    pub async fn epoch(&self) -> Result<u64> {
        drop(self.get().await?);
        Ok(self.hosts.timeline())
    }

    pub fn size(&self) -> usize {
        self.address.pool
    }
}

async fn read(
    client: &Connection,
    sql: &str,
    parameters: &Parameters,
) -> std::result::Result<Vec<Row>, tokio_postgres::Error> {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync)).collect();
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, &parameters).await
}

/// The settings of a new connection: no statement may hang, and none may read a whole table. A connection plans each
/// statement once: the plan of none depends on its parameters, and planning often takes longer than the execution.
pub(super) fn settings(address: &Address) -> String {
    format!(
        "set statement_timeout = {}; set idle_in_transaction_session_timeout = '60s'; set enable_seqscan = off; \
         set enable_hashjoin = off; set enable_mergejoin = off; set jit = off; \
         set plan_cache_mode = force_generic_plan",
        address.statement_timeout.as_millis()
    )
}
