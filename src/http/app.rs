//! What every handler can reach.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};

use super::failure::Result;
use super::metrics::Metrics;
use super::tasks::Tasks;
use crate::auth::Authenticator;
use crate::auth::UserCtx;
use crate::clock::Clock;
use crate::config::{Live, Settings};
use crate::db::{AllowAll, Database, Databases, Validate};
use crate::error::Error;
use crate::query::find::StoredIndexes;
use crate::store::Store;

/// The running server's parts. One per server, shared by all connections; nothing of it is global.
pub struct App {
    pub config: Arc<Live>,
    pub auth: Authenticator,
    /// Bounds how many password hashes run at once: each takes a core for tenths of a second.
    pub hashing: Semaphore,
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub databases: Arc<Databases>,
    /// Rung when a database was deleted: its range is to be removed.
    pub removal: Notify,
    pub tasks: Tasks,
    /// Mango's indexes.
    pub indexes: StoredIndexes,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// When this process began to serve.
    pub started: Instant,
    /// Makes ids for `_uuids` and for documents posted without one.
    pub uuids: super::uuids::Uuids,
}

impl App {
    /// The settings of this moment.
    pub fn settings(&self) -> Arc<Settings> {
        self.config.settings()
    }

    /// Hands changed settings to those that keep a view of them. Call after every change of `config`.
    pub fn reconfigure(&self) {
        self.auth.configure(crate::auth::Settings::read(self.settings().table()));
    }

    /// What edits by this user are held against.
    pub fn validate(&self, _user: &UserCtx) -> Box<dyn Validate> {
        Box::new(AllowAll)
    }

    /// Compacts a database in the background.
    pub fn compact(self: &Arc<Self>, database: Arc<Database>) {
        let app = self.clone();
        let now = move || app.clock.since_epoch().as_secs();
        let about = serde_json::json!({"database": database.name(), "phase": "document_copy"});
        let task = self.tasks.begin("database_compaction", about, now());
        let begun = database.begin_compaction();
        tokio::spawn(async move {
            let Some(begun) = begun else { return };
            if let Err(error) = begun.run(&|done, total| task.progress(done, total, now())).await {
                tracing::warn!(database = database.name(), %error, "compaction ended early");
            }
        });
    }

    /// The work that goes on for as long as the server runs.
    pub fn run_background(self: &Arc<Self>) {
        tokio::spawn(self.databases.clone().record_updates());
        let app = self.clone();
        tokio::spawn(async move {
            loop {
                let databases = app.databases.clone();
                match crate::db::blocking(move || databases.remove_some()).await {
                    Ok(true) => continue,
                    Ok(false) => app.removal.notified().await,
                    Err(error) => {
                        tracing::warn!(%error, "a deleted database's range could not be removed yet");
                        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
                    }
                }
            }
        });
    }

    /// This server's identity, `uuid` of `GET /`.
    pub fn uuid(&self) -> String {
        self.settings().get("couchdb", "uuid").unwrap_or_default().to_owned()
    }
}

/// Runs a blocking call (the store's, mostly) off the async threads.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(super::server::panicked(&*panic)),
            Err(cancelled) => Err(Error::Internal(cancelled.to_string()).into()),
        },
    }
}

/// Tells everybody that the server is about to stop, for good or to begin anew.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Stage>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Restarting,
    Stopping,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Shutdown {
        Shutdown(watch::Sender::new(Stage::Running))
    }

    /// Begins: nothing new is accepted, live feeds end, what is at work is finished.
    pub fn begin(&self) {
        self.0.send_replace(Stage::Stopping);
    }

    /// The same, but the server is to come up again. Stopping for good is not taken back.
    pub fn begin_restart(&self) {
        self.0.send_if_modified(|stage| {
            let begins = *stage == Stage::Running;
            if begins {
                *stage = Stage::Restarting;
            }
            begins
        });
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() != Stage::Running
    }

    /// Whether the server is to come up again.
    pub fn is_restart(&self) -> bool {
        *self.0.borrow() == Stage::Restarting
    }

    /// Waits until it begins. Feeds wait for this beside their next change.
    pub async fn begun(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|stage| *stage != Stage::Running).await;
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}
