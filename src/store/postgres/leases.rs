//! Leases of background work, and turns at a database that several nodes write to.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Connection;
use super::connections::{Connections, failed_call};
use super::runtime::Threads;
use crate::store::Result;

/// How long a node waits for its turn before it writes without one.
const TURN: Duration = Duration::from_secs(2);

/// Takes the lease `name` for `owner`, or prolongs it. Returns whether the owner has it. A `ttl` of 0 gives it up.
pub(super) async fn lease(connections: Connections, name: String, owner: String, ttl: Duration) -> Result<bool> {
    let leases = format!("{}.leases", connections.address.schema);
    if ttl.is_zero() {
        let sql = format!("delete from {leases} where name = $1 and owner = $2");
        return connections.rows(&sql, vec![Box::new(name), Box::new(owner)]).await.map(|_| false);
    }
    let sql = format!(
        "insert into {leases} as held (name, owner, until) values ($1, $2, now() + $3 * interval '1 second') \
         on conflict (name) do update set owner = excluded.owner, until = excluded.until \
         where held.owner = excluded.owner or held.until < now() returning 1"
    );
    let rows = connections.rows(&sql, vec![Box::new(name), Box::new(owner), Box::new(ttl.as_secs_f64())]).await?;
    Ok(!rows.is_empty())
}

/// Turns to write a database. A turn is an advisory lock, on a connection of its own. A writer that gets none in time
/// writes without one, and may meet conflicts.
pub(super) struct Turns {
    connections: Connections,
    /// Limits the turns, because each one takes a connection away from reads and commits.
    free: Arc<Semaphore>,
}

/// A turn; dropping it releases the lock.
struct Turn {
    client: Option<Connection>,
    connections: Connections,
    handle: Handle,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub fn new(connections: Connections) -> Turns {
        let free = Arc::new(Semaphore::new((connections.size() / 4).max(1)));
        Turns { connections, free }
    }

    /// Waits for the turn to write the database with this number. `None`: the turn cannot be taken.
    pub fn take(&self, threads: &Threads, number: u64) -> Option<Box<dyn Send>> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        let (connections, handle) = (self.connections.clone(), threads.handle().clone());
        let client = threads.wait(async move {
            let client = connections.get().await?;
            // Two numbers, because settee's databases are numbered from 1, and other programs may lock single numbers.
            let sql = format!(
                "begin; set local lock_timeout = {}; select pg_advisory_xact_lock({LOCKS}, {})",
                TURN.as_millis(),
                number as i32
            );
            match connections.guarded(&client, client.batch_execute(&sql)).await {
                Some(Ok(())) => {
                    client.set_holds(true);
                    Ok(client)
                }
                ended => {
                    client.close();
                    Err(failed_call(ended))
                }
            }
        });
        let connections = self.connections.clone();
        Some(Box::new(Turn { client: Some(client.ok()?), connections, handle, permit: Some(permit) }))
    }
}

/// The first number of the locks: "sett" in ASCII.
const LOCKS: i32 = 0x7365_7474;

impl Drop for Turn {
    fn drop(&mut self) {
        let (client, permit) = (self.client.take(), self.permit.take());
        let Some(client) = client else { return };
        let connections = self.connections.clone();
        self.handle.spawn(async move {
            if let Some(Ok(())) = connections.guarded(&client, client.batch_execute("rollback")).await {
                client.set_holds(false);
            }
            drop(client);
            drop(permit);
        });
    }
}
