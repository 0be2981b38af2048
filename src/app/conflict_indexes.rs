//! Keeps the indexes of conflicted documents complete, in the background.

use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::blocking::blocking;
use crate::db::Database;
use crate::error::Result;

/// The pause between two rounds over the open databases.
const ROUND: Duration = Duration::from_secs(60);
/// The pause between two looks at the numbers of conflicts.
const GROWTH_ROUND: Duration = Duration::from_secs(600);
/// Databases that the first round looks at in one call.
const AT_ONCE: usize = 500;
/// Sequences from which on an index that is completed is shown in `_active_tasks`.
const SHOWN: u64 = 5000;

/// Completes the index of one database. Does nothing if it is complete or another caller completes it.
pub async fn complete(app: &App, database: &Arc<Database>) -> Result<()> {
    let (done, goal) = database.conflict_index().progress();
    let now = || app.clock.since_epoch().as_secs();
    let task = (goal - done > SHOWN).then(|| {
        let about = serde_json::json!({"database": database.name()});
        app.tasks.begin("conflict_index", about, now())
    });
    database
        .index_conflicts(&|done, goal| {
            if let Some(task) = &task {
                task.progress(done, goal, now());
            }
        })
        .await
}

/// Completes the indexes of all databases once, then those of open databases in each round. Runs until it is dropped.
pub async fn run(app: Arc<App>) {
    let mut has_seen_all = false;
    loop {
        if !has_seen_all {
            match first_round(&app).await {
                Ok(()) => has_seen_all = true,
                Err(error) => {
                    tracing::warn!(%error, "the indexes of conflicts could not be completed and will be tried again");
                }
            }
        }
        tokio::time::sleep(ROUND).await;
        for database in app.databases.all_opened() {
            if database.is_gone() {
                continue;
            }
            let result = match database.conflict_index().is_complete() {
                true => database.store_conflict_index().await,
                false => complete(&app, &database).await,
            };
            if let Err(error) = result {
                tracing::warn!(database = database.name(), %error, "the index of conflicts could not be written");
            }
        }
    }
}

async fn first_round(app: &Arc<App>) -> Result<()> {
    let mut start: Option<String> = None;
    loop {
        let (databases, from) = (app.databases.clone(), start.clone());
        let indexes = blocking(move || {
            let skip = usize::from(from.is_some());
            let names = databases.names(from.as_deref(), None, true, false, skip, AT_ONCE)?;
            let last = names.last().cloned();
            Ok((databases.conflict_indexes(&names)?, last))
        });
        let (indexes, last) = indexes.await?;
        for (name, _) in indexes.into_iter().filter(|(_, index)| !index.is_complete()) {
            let (databases, opened) = (app.databases.clone(), name.clone());
            let indexed = match blocking(move || databases.get(&opened)).await {
                Ok(database) => complete(app, &database).await,
                Err(error) => Err(error),
            };
            if let Err(error) = indexed {
                tracing::warn!(database = name, %error, "the index of conflicts could not be completed");
            }
        }
        if last.is_none() {
            return Ok(());
        }
        start = last;
    }
}

/// Watches how the numbers of conflicts of open databases grow. Runs until it is dropped.
pub async fn watch_growth(app: Arc<App>) {
    loop {
        app.conflict_growth.look(&app.databases, app.clock.since_epoch().as_millis() as u64);
        tokio::time::sleep(GROWTH_ROUND).await;
    }
}
