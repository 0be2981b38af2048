//! Background jobs of a running server.

use std::sync::Arc;
use std::time::Duration;

use crate::allocator;
use crate::app::App;
use crate::app::disk_use::Sizes;
use crate::app::history::HOUR_STEP;
use crate::app::{conflict_indexes, feed_wakes, nodes, process};
use crate::blocking::blocking;
use crate::db::TimeToLive;
use crate::maintain::background;
use crate::policy::per_user_database;
use crate::policy::replications::Replications;
use crate::query::index::upkeep;

/// The pause between two rounds of `_auto_purge` over all databases.
const AUTO_PURGE: Duration = Duration::from_secs(60);
/// The pause between two checks whether published keys are due.
const KEYS_ROUND: Duration = Duration::from_secs(15);
/// The pause before another attempt to remove the data of a deleted database: on a full disk sled frees space
/// with a delay.
const REMOVAL_PAUSE: Duration = Duration::from_secs(3);

/// The pause between two comparisons of the store's files with what they hold.
const DISK_USE_ROUND: Duration = Duration::from_secs(10 * 60);
/// The pause after a rewrite of the store that failed, doubled with each further failure, and the longest one: most of the
/// store may have been written in vain.
const REWRITE_PAUSE: Duration = Duration::from_secs(60 * 60);
const LONGEST_REWRITE_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// The pause between two looks at the indexes of this node.
const INDEX_ROUND: Duration = Duration::from_secs(30);
/// The pause between two looks for deleted databases of a shared store.
const REMOVAL_ROUND: Duration = Duration::from_secs(10);

/// Starts the jobs. They run until the server shuts down.
pub fn start_jobs(app: &Arc<App>) {
    run(app, app.databases.clone().follow_nodes());
    run(app, app.databases.clone().record_updates());
    run(app, app.databases.clone().recover_updates());
    tell_of_this_node(app);
    run_on_one_node(app, "per_user_databases", per_user_database::run);
    run(app, feed_wakes::follow(app.wakes.clone(), app.databases.clone(), app.accounts.clone()));
    run(app, compact_and_sweep(app.clone()));
    run_on_one_node(app, "auto_purge", auto_purge);
    run_on_one_node(app, "conflict_indexes", conflict_indexes::run);
    run(app, conflict_indexes::watch_growth(app.clone()));
    run(app, refresh_published_keys(app.clone()));
    run(app, tidy_indexes(app.clone()));
    run(app, record_history(app.clone()));
    run(app, allocator::return_memory());
    run(app, give_disk_space_back(app.clone()));
    run_on_one_node(app, "database_removal", remove_deleted_databases);
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

/// Tells the other nodes of a shared store of this one until shutdown.
fn tell_of_this_node(app: &Arc<App>) {
    if !app.store.is_shared() {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        loop {
            let shared = app.clone();
            if let Err(error) = blocking(move || shared.nodes.beat(&*shared.store, shared.node_state()?)).await {
                tracing::debug!(%error, "this node could not tell the others of itself");
            }
            tokio::select! {
                () = tokio::time::sleep(nodes::BEAT) => {}
                () = app.shutdown.begun() => {
                    let _ = blocking(move || app.nodes.leave(&*app.store)).await;
                    return;
                }
            }
        }
    });
}

/// Runs a job until shutdown, on one node of a shared store at a time.
fn run_on_one_node<F>(app: &Arc<App>, name: &'static str, work: impl Fn(Arc<App>) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let of = app.clone();
    run(app, async move { of.leases.while_held(name, || work(of.clone())).await });
}

/// Compacts databases that need it, and removes attachments that no document has any more.
async fn compact_and_sweep(app: Arc<App>) {
    let (databases, freed) = (app.databases.clone(), app.freed.clone());
    let compacting = app.clone();
    let compact = move |database| {
        let compaction = compacting.compact(database);
        async { drop(compaction.await) }
    };
    let sweeping = move || {
        let app = app.clone();
        async move {
            let lease = app.leases.take("attachment_sweep").await?;
            Ok(lease.map(|lease| (lease, app.begin_task("attachment_sweep"))))
        }
    };
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
            tracing::warn!(%error, "the automatic purge of deleted documents failed and will be tried again");
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

/// Keeps the indexes of this node within their limit, on a shared store.
async fn tidy_indexes(app: Arc<App>) {
    while app.store.is_shared() {
        tokio::time::sleep(INDEX_ROUND).await;
        let shared = app.clone();
        let most = app.settings().number("settee", "max_index_size");
        let tidied = blocking(move || upkeep::remove_surplus(shared.views.histories(), &shared.databases, most)).await;
        match tidied {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "indexes that are not needed here were removed"),
            Err(error) => tracing::warn!(%error, "indexes of this node could not be removed"),
        }
    }
}

/// Takes the samples of what the server does.
async fn record_history(app: Arc<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(HOUR_STEP)).await;
        let shared = app.clone();
        let record = move || {
            let now = shared.clock.since_epoch().as_millis() as u64;
            shared.history.record(now, &shared.metrics, process::memory().0, shared.store.disk_bytes());
            Ok(())
        };
        let _ = blocking(record).await;
    }
}

/// Rewrites an embedded store whose files are much larger than what they hold, or warns of it (`[settee] rewrite_store`).
async fn give_disk_space_back(app: Arc<App>) {
    let (mut last, mut pause) = (None, REWRITE_PAUSE);
    while !app.store.is_shared() {
        let percent = app.disk_use.wait(DISK_USE_ROUND).await;
        let shared = app.clone();
        let sizes = match blocking(move || Sizes::of(&*shared.store)).await {
            Ok(sizes) => sizes,
            Err(error) => {
                tracing::debug!(%error, "the sizes of the databases could not be read");
                continue;
            }
        };
        if !sizes.are_wasteful(percent, last) {
            continue;
        }
        if !app.settings().flag("settee", "rewrite_store") {
            tracing::warn!("{sizes}: `settee compact-store` gives the difference back to the disk");
            last = Some(sizes);
            continue;
        }
        match app.rewrite_store().await {
            Ok(rewritten) => {
                last = rewritten.map(|(_, after)| Sizes { disk: after, ..sizes });
                pause = REWRITE_PAUSE;
            }
            Err(error) => {
                tracing::warn!("{sizes}; giving the difference back to the disk failed: {error}");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_REWRITE_PAUSE);
            }
        }
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
                // Another node may have deleted one, or the time of one has not come.
                let look_again = tokio::time::timeout(REMOVAL_ROUND, app.removal.notified());
                match app.store.is_shared() {
                    true => drop(look_again.await),
                    false => app.removal.notified().await,
                }
            }
            Err(error) => {
                task = None;
                tracing::warn!(%error, "the data of a deleted database could not be removed yet; retrying");
                tokio::time::sleep(REMOVAL_PAUSE).await;
            }
        }
    }
}
