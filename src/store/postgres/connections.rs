//! The pool of connections, and the statements that they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::errors::{is_connection, of_pool, of_read, was_cut};
use crate::store::{Result, StoreError};

/// A call that gets no connection within this time fails.
const WAIT: Duration = Duration::from_secs(10);
/// Connecting takes at most so long, over all hosts.
const CREATE: Duration = Duration::from_secs(15);

/// A read whose connections are cut is sent again for so long before the error is returned.
const CUT: Duration = Duration::from_secs(10);
/// The pause before the second time; each one is longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// The parameters of a statement.
pub(super) type Parameters = Vec<Box<dyn ToSql + Sync + Send>>;

/// The pool. Clones share it.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    pub address: Arc<Address>,
    pub connector: MakeRustlsConnect,
    /// The server's timeline, as the newest connection found it; 0: unknown.
    timeline: Arc<AtomicU64>,
}

impl Connections {
    /// Opens a pool without any connection yet.
    pub fn new(address: Address, connector: MakeRustlsConnect) -> Connections {
        let timeline = Arc::new(AtomicU64::new(0));
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(address.config.clone(), connector.clone(), recycling);
        let (settings, seen) = (settings(&address), timeline.clone());
        let begins = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let (settings, seen) = (settings.clone(), seen.clone());
            Box::pin(async move {
                client.batch_execute(&settings).await.map_err(HookError::Backend)?;
                seen.fetch_max(timeline_of(client).await, Ordering::SeqCst);
                Ok(())
            })
        });
        let pool = Pool::builder(manager)
            .max_size(address.pool)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(CREATE))
            .post_create(begins)
            .build()
            .expect("a pool with a runtime can always be built");
        Connections { pool, address: Arc::new(address), connector, timeline }
    }

    /// A connection from the pool.
    pub async fn get(&self) -> Result<Object> {
        self.pool.get().await.map_err(|error| of_pool(&error))
    }

    /// Forgets the connections that have ended or lead to a server that no longer takes writes.
    pub fn forget(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Runs a statement that reads, on another connection if the first one has ended. A server that is down is not
    /// waited for.
    pub async fn rows(&self, sql: &str, parameters: Parameters) -> Result<Vec<Row>> {
        let begun = Instant::now();
        let mut cuts = 0;
        loop {
            let error = match self.pool.get().await {
                Ok(client) => match read(&client, sql, &parameters).await {
                    Ok(rows) => return Ok(rows),
                    Err(error) if is_connection(&error) => {
                        drop(Object::take(client));
                        self.forget();
                        of_read(&error)
                    }
                    Err(error) => return Err(of_read(&error)),
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

    /// The server's timeline: it grows when a standby takes over. 0 if the server tells none.
    pub async fn epoch(&self) -> Result<u64> {
        if self.timeline.load(Ordering::SeqCst) == 0 {
            drop(self.get().await?);
        }
        Ok(self.timeline.load(Ordering::SeqCst))
    }

    pub fn size(&self) -> usize {
        self.address.pool
    }
}

async fn read(
    client: &Object,
    sql: &str,
    parameters: &Parameters,
) -> std::result::Result<Vec<Row>, tokio_postgres::Error> {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync)).collect();
    let statement = client.prepare_cached(sql).await?;
    client.query(&statement, &parameters).await
}

/// What a new connection is told: no statement may hang, and none may read a whole table.
pub(super) fn settings(address: &Address) -> String {
    format!(
        "set statement_timeout = {}; set idle_in_transaction_session_timeout = '60s'; set enable_seqscan = off; \
         set enable_hashjoin = off; set enable_mergejoin = off; set jit = off",
        address.statement_timeout.as_millis()
    )
}

/// The number of the server's timeline: the first eight digits of the name of the log file that it writes.
async fn timeline_of(client: &tokio_postgres::Client) -> u64 {
    let name = client.query_one("select pg_walfile_name(pg_current_wal_lsn())", &[]).await;
    let name: Option<String> = name.ok().and_then(|row| row.try_get(0).ok());
    name.and_then(|name| u64::from_str_radix(name.get(..8)?, 16).ok()).unwrap_or(0)
}
