//! Background jobs of a running server.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::app::feed_wakes;
use crate::blocking::blocking;
use crate::db::TimeToLive;
use crate::maintain::background;
use crate::policy::per_user_database;
use crate::policy::replications::Replications;

/// The pause between two rounds of `_auto_purge` over all databases.
const AUTO_PURGE: Duration = Duration::from_secs(60);
/// The pause between two checks whether published keys are due.
const KEYS_ROUND: Duration = Duration::from_secs(15);
/// The pause before another attempt to remove the data of a deleted database: on a full disk sled frees space
/// with a delay.
const REMOVAL_PAUSE: Duration = Duration::from_secs(3);

/// Starts the jobs. They run until the server shuts down.
pub fn start_jobs(app: &Arc<App>) {
    run(app, app.databases.clone().record_updates());
    run(app, per_user_database::run(app.clone()));
    run(app, feed_wakes::follow(app.wakes.clone(), app.databases.clone(), app.accounts.clone()));
    run(app, compact_and_sweep(app.clone()));
    run(app, auto_purge(app.clone()));
    run(app, refresh_published_keys(app.clone()));
    run(app, remove_deleted_databases(app.clone()));
    start_replications(app);
}

/// Starts the scheduler of replications, and follows the `_replicator` databases.
fn start_replications(app: &Arc<App>) {
    let Some(reports) = app.replications.reports.lock().take() else { return };
    let replications = Replications::new(app);
    run(app, app.replications.scheduler.clone().drive(replications.clone()));
    run(app, app.replications.documents.clone().run(replications, reports));
}

/// Runs a job until shutdown. After a restart in the same process, the next server does its work.
fn run(app: &App, work: impl Future<Output = ()> + Send + 'static) {
    let shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = shutdown.begun() => {}
        }
    });
}

/// Compacts databases that need it, and removes attachments that no document has any more.
async fn compact_and_sweep(app: Arc<App>) {
    let (databases, freed) = (app.databases.clone(), app.freed.clone());
    let compacting = app.clone();
    let compact = move |database| {
        let compaction = compacting.compact(database);
        async { drop(compaction.await) }
    };
    let sweeping = move || app.begin_task("attachment_sweep");
    background::run(databases, background::ROUND, &freed, compact, sweeping).await
}

/// Purges deleted documents whose time to live is over (`[couch_auto_purge_plugin]`).
async fn auto_purge(app: Arc<App>) {
    loop {
        tokio::time::sleep(AUTO_PURGE).await;
        let settings = app.settings();
        let default = settings.get("couch_auto_purge_plugin", "deleted_document_ttl");
        let default = default.and_then(TimeToLive::parse);
        if let Err(error) = app.databases.auto_purge(default).await {
            tracing::warn!(%error, "deleted documents could not be purged and will be looked at again");
        }
    }
}

/// Fetches the keys that issuers of tokens publish, when they are due.
async fn refresh_published_keys(app: Arc<App>) {
    let mut before = app.auth.generation();
    loop {
        let shared = app.clone();
        let refresh = move || {
            shared.auth.refresh_published_keys();
            Ok(())
        };
        let _ = blocking(refresh).await;
        // A request may have fetched other keys, too: feeds by a key that was withdrawn end.
        let now = app.auth.generation();
        if std::mem::replace(&mut before, now) != now {
            app.wakes.wake_all();
        }
        tokio::time::sleep(KEYS_ROUND).await;
    }
}

/// Removes the data of deleted databases.
async fn remove_deleted_databases(app: Arc<App>) {
    let mut task = None;
    loop {
        let databases = app.databases.clone();
        match blocking(move || databases.remove_some()).await {
            Ok(true) => {
                task.get_or_insert_with(|| app.begin_task("database_removal"));
            }
            Ok(false) => {
                if task.take().is_some() {
                    app.freed_some();
                }
                app.removal.notified().await;
            }
            Err(error) => {
                task = None;
                tracing::warn!(%error, "the data of a deleted database could not be removed yet; retrying");
                tokio::time::sleep(REMOVAL_PAUSE).await;
            }
        }
    }
}
