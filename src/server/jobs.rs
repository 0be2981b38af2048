//! Background jobs of a running server.

use std::sync::Arc;

use crate::app::state::{AUTO_PURGE, App, KEYS_ROUND, REMOVAL_PAUSE};
use crate::blocking::blocking;
use crate::db::TimeToLive;

impl App {
    /// The work that goes on for as long as the server runs.
    pub fn run_background(self: &Arc<Self>) {
        self.spawn_until_shutdown(self.databases.clone().record_updates());
        self.spawn_until_shutdown(crate::policy::per_user_database::run(self.clone()));
        self.spawn_until_shutdown(crate::app::feed_wakes::follow(
            self.wakes.clone(),
            self.databases.clone(),
            self.accounts.clone(),
        ));
        let app = self.clone();
        use crate::maintain::background;
        let compact = move |database| {
            let compaction = app.compact(database);
            async { drop(compaction.await) }
        };
        let app = self.clone();
        let sweeping = move || app.begin_task("attachment_sweep");
        let (databases, freed) = (self.databases.clone(), self.freed.clone());
        self.spawn_until_shutdown(async move {
            background::run(databases, background::ROUND, &freed, compact, sweeping).await
        });
        let app = self.clone();
        self.spawn_until_shutdown(async move {
            loop {
                tokio::time::sleep(AUTO_PURGE).await;
                let settings = app.settings();
                let default = settings.get("couch_auto_purge_plugin", "deleted_document_ttl");
                let default = default.and_then(TimeToLive::parse);
                if let Err(error) = app.databases.auto_purge(default).await {
                    tracing::warn!(%error, "deleted documents could not be purged and will be looked at again");
                }
            }
        });
        let app = self.clone();
        self.spawn_until_shutdown(async move {
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
        });
        let app = self.clone();
        self.spawn_until_shutdown(async move {
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
                        tracing::warn!(%error, "a deleted database's range could not be removed yet");
                        tokio::time::sleep(REMOVAL_PAUSE).await;
                    }
                }
            }
        });
    }

    /// After a restart in the same process, the next server does this work.
    fn spawn_until_shutdown(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.begun() => {}
            }
        });
    }
}
