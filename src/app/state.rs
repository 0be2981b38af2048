//! The parts of a running server, which every handler can reach.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::active_tasks::{Task, Tasks};
use super::anomalies::Anomalies;
use super::answer_budget::AnswerMemory;
use super::body_budget::BodyMemory;
use super::disk_use;
use super::feed_wakes::Wakes;
use super::hash_queue::Turns;
use super::hints::Hints;
use super::history::History;
use super::leases::Leases;
use super::long_work::LongWork;
use super::metrics::Metrics;
use super::nodes::{Nodes, State};
use super::rate_limits::RateLimits;
use super::recent::Recent;
use super::replication_settings::scheduler_settings;
use super::replications::Replications;
use super::script_limits::script_limits;
use super::shutdown::Shutdown;
use super::sync::SyncStatus;
use super::sync::conflict_growth::ConflictGrowth;
use super::user_store::Accounts;
use super::uuids::Uuids;
use crate::auth::security_object::Security;
use crate::auth::{Authenticator, UserCtx};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::config::{Live, Settings};
use crate::db::{Database, Databases, Kept, Validate};
use crate::error::{self, Error};
use crate::maintain::Checked;
use crate::net::http_client::HttpClient;
use crate::query::script::Scripts;
use crate::query::validation::{Editor, Validation};
use crate::query::view::Views;
use crate::store::{Key, Store};

/// The running server's parts. One per server, shared by all connections; nothing of it is global.
pub struct App {
    pub config: Arc<Live>,
    pub auth: Authenticator,
    pub accounts: Arc<Accounts>,
    /// Wakes feeds whose authorization may have changed.
    pub wakes: Arc<Wakes>,
    /// The queue of password hashes: each takes a core for tenths of a second.
    pub hashing: Arc<Turns>,
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub databases: Arc<Databases>,
    /// The leases of background jobs, each of which runs on one node of a shared store.
    pub leases: Leases,
    /// This node of a shared store, and the others.
    pub nodes: Nodes,
    /// Notified when a database was deleted, so that its range is removed.
    pub removal: Notify,
    /// Wakes the background maintenance, after space was freed on a full disk.
    pub freed: Arc<Notify>,
    /// Wakes the job that gives disk space back.
    pub disk_use: disk_use::Wake,
    pub tasks: Tasks,
    /// Runs the functions of design documents.
    pub scripts: Scripts,
    /// JavaScript views.
    pub views: Views,
    /// What may be held of request bodies.
    pub bodies: BodyMemory,
    /// What may be held of answers.
    pub answers: AnswerMemory,
    /// How much one address and one user may ask for.
    pub limits: Arc<RateLimits>,
    pub metrics: Metrics,
    /// What was logged lately.
    pub recent: Recent,
    /// What the server did in the last hour and day.
    pub history: History,
    /// Backups that admins make over HTTP: the name of each, or why it failed.
    pub backups: Arc<LongWork<Result<String, String>>>,
    /// The key under which backups are sealed, if the store is encrypted.
    pub backup_key: Option<Key>,
    /// Checks of all that is stored.
    pub checks: Arc<LongWork<Result<Arc<Checked>, String>>>,
    /// Counts what may be an attack.
    pub anomalies: Anomalies,
    /// Which clients replicate, and how it goes.
    pub sync: Arc<SyncStatus>,
    /// Samples of the numbers of conflicted documents.
    pub conflict_growth: ConflictGrowth,
    /// The hints about settings that were logged already.
    pub hints: Hints,
    pub shutdown: Shutdown,
    /// When this process began to serve.
    pub started: Instant,
    /// Asks other servers.
    pub client: HttpClient,
    /// Copies databases from and to other servers.
    pub replications: Replications,
    /// Makes ids for `_uuids` and for documents posted without one.
    pub uuids: Uuids,
}

impl App {
    /// The settings of this moment.
    pub fn settings(&self) -> Arc<Settings> {
        self.config.settings()
    }

    /// How long running requests may take when the server stops.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.settings().number("settee", "drain_timeout"))
    }

    /// On a shared store: learns what other nodes have changed, for a request to the database `name`. `document`: the id
    /// of the document that the request reads or writes. Its record is read at the same time, and kept for that as long as
    /// what is returned.
    pub async fn catch_up(&self, name: &str, document: Option<&str>) -> error::Result<Option<Kept>> {
        loop {
            let accounts = self.auth.settings();
            let names = [accounts.authentication_db.as_str(), name];
            let kept = self.databases.catch_up_for(&names, document.map(|id| (name, id))).await?;
            // Another node may have changed which database has the accounts.
            if self.auth.settings().authentication_db == accounts.authentication_db {
                return Ok(kept);
            }
        }
    }

    /// Passes changed settings to the parts that keep values from them. Call after every change of `config`.
    pub fn reconfigure(&self) {
        self.auth.configure(crate::auth::Settings::read(self.settings().table()));
        self.limits.configure(&self.settings());
        self.scripts.set_limits(script_limits(&self.settings()));
        self.replications.scheduler.configure(scheduler_settings(&self.settings()));
        self.databases.limit_partitions(self.settings().number("couchdb", "max_partition_size"));
        self.wakes.wake_all();
    }

    /// Hashes a password for `name`, asked for by `peer`, when the hash queue grants a turn, off the async
    /// threads. The turn lasts until the hash is done, even if the client disconnects: otherwise a client
    /// that reconnects could have any number of hashes run at once.
    pub async fn hash<T: Send + 'static>(
        &self,
        peer: Option<IpAddr>,
        name: &str,
        hash: impl FnOnce() -> error::Result<T> + Send + 'static,
    ) -> error::Result<T> {
        let turn = self.hashing.turn(peer, name).await;
        let turn = turn.ok_or_else(|| Error::Internal("a password was not given its turn".into()))?;
        crate::blocking::blocking(move || {
            let _turn = turn;
            hash()
        })
        .await
    }

    /// What edits by this user are held against.
    pub fn validate(&self, user: &UserCtx) -> Box<dyn Validate> {
        let user = user.clone();
        let editor = move |database: &Database| {
            let security = serde_json::from_str(&database.security()).unwrap_or_default();
            Editor {
                user: user.to_script_json(database.name()).to_string(),
                signed_in: user.name.is_some(),
                admin: user.is_server_admin() || Security::stored(&security).is_admin(&user),
            }
        };
        Box::new(Validation { scripts: self.scripts.clone(), editor: Box::new(editor) })
    }

    /// Compacts a database in the background. The returned handle ends with the compaction, which goes on if the
    /// handle is dropped.
    pub fn compact(self: &Arc<Self>, database: Arc<Database>) -> JoinHandle<()> {
        let (app, leases) = (self.clone(), self.leases.clone());
        let now = move || app.clock.since_epoch().as_secs();
        let about = serde_json::json!({"database": database.name(), "phase": "document_copy"});
        let task = self.tasks.begin("database_compaction", about, now());
        let begun = database.begin_compaction();
        tokio::spawn(async move {
            let Some(begun) = begun else { return };
            // Another node compacts it.
            let Ok(Some(_lease)) = leases.take(&format!("compact/{}", database.number())).await else { return };
            if let Err(error) = begun.run(&|done, total| task.progress(done, total, now())).await {
                tracing::warn!(database = database.name(), %error, "compaction ended early");
            }
        })
    }

    /// As [`App::compact`], asked for by a client. On a full device, attachments are swept afterwards without
    /// delay.
    pub fn compact_asked(self: &Arc<Self>, database: Arc<Database>) {
        let (app, compaction) = (self.clone(), self.compact(database));
        tokio::spawn(async move {
            let _ = compaction.await;
            app.freed_some();
            app.disk_use.compaction_was_asked();
        });
    }

    /// Rewrites the store while it is in use, until the server shuts down. Shows it as an active task. Returns the bytes of
    /// the files before and after; `None` if the store has no files.
    ///
    /// # Errors
    /// See [`Store::rewrite`].
    pub async fn rewrite_store(self: &Arc<Self>) -> error::Result<Option<(u64, u64)>> {
        let _task = self.begin_task("store_rewrite");
        let app = self.clone();
        let sizes = blocking(move || Ok(app.store.rewrite(&|| app.shutdown.has_begun())?)).await?;
        if let Some((before, after)) = sizes {
            let (before, after) = (before / 1_000_000, after / 1_000_000);
            tracing::info!("the store was rewritten: its files took {before} MB, and take {after} MB now");
        }
        Ok(sizes)
    }

    pub(crate) fn freed_some(&self) {
        self.disk_use.some_was_freed();
        if self.store.is_short_of_room() {
            self.freed.notify_one();
        }
    }

    /// Adds background work without a progress to the active tasks.
    pub(crate) fn begin_task(&self, kind: &str) -> Task {
        self.tasks.begin(kind, serde_json::json!({}), self.clock.since_epoch().as_secs())
    }

    /// The background tasks of this node.
    pub fn own_tasks(&self) -> Vec<Value> {
        let mut tasks = self.tasks.list();
        tasks.extend(self.replications.scheduler.tasks());
        for task in &mut tasks {
            task["node"] = self.nodes.name().into();
        }
        tasks
    }

    /// The state that this node reports to the others of a shared store. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn node_state(&self) -> error::Result<State> {
        let seen = self.clock.since_epoch().as_millis() as u64;
        Ok(State { seen, updates: self.databases.last_event(), epoch: self.store.epoch()?, tasks: self.own_tasks() })
    }

    /// Whether `database` is the users' database.
    pub fn is_users_database(&self, database: &Database) -> bool {
        self.auth.settings().authentication_db == database.name()
    }

    /// This server's identity, `uuid` of `GET /`.
    pub fn uuid(&self) -> String {
        self.settings().get("couchdb", "uuid").unwrap_or_default().to_owned()
    }
}

/// The `_security` of a database that never had one written.
pub fn default_security(app: &App) -> Value {
    crate::auth::default_security(app.settings().get("couchdb", "default_security"))
}
