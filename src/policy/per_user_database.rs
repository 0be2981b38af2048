//! Maintains the per-user databases: watches the authentication database and performs the work that
//! `auth::peruser` derives from each change (`couch_peruser.erl`).
//!
//! The store keeps a checkpoint, from which the task continues after a restart. The work is idempotent, so
//! processing a change twice is harmless.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::app::App;
use crate::auth::peruser::{PerUser, Work, admit, dismiss, wanted};
use crate::blocking::blocking;
use crate::db::{CreateOptions, Database, Moved};
use crate::error::{Error, Result};
use crate::store::{Change, Direction, Durability, PageLimit, Store, keyspace, update};

/// Number of changes of the authentication database read at once.
const PAGE: usize = 100;
/// How often the settings, and an authentication database that is missing, are checked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs the task. Never returns.
pub async fn run(app: Arc<App>) {
    let mut settled = 0;
    loop {
        if let Err(error) = settle(&app, &mut settled).await {
            tracing::warn!(%error, "failed to write the design document of the authentication database");
        }
        if let Err(error) = follow(&app).await
            && error != Error::NoDatabase
        {
            tracing::warn!(%error, "failed to update the per-user databases");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Writes the design document into the authentication database if the setting now names a different one.
/// `settled` is the number of the last database that was handled.
async fn settle(app: &Arc<App>, settled: &mut u64) -> Result<()> {
    let (databases, name) = (app.databases.clone(), app.auth.settings().authentication_db.clone());
    match blocking(move || databases.get(&name)).await {
        Ok(database) if database.number() != *settled => {
            super::users_database::settle(app, &database).await?;
            *settled = database.number();
            Ok(())
        }
        Ok(_) | Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Follows the changes of the authentication database until it is deleted, the setting names a different one,
/// or the feature is disabled.
async fn follow(app: &Arc<App>) -> Result<()> {
    let settings = app.auth.settings();
    if !settings.peruser.enabled {
        return Ok(());
    }
    let (databases, name) = (app.databases.clone(), settings.authentication_db.clone());
    let database = blocking(move || databases.get(&name)).await?;
    // Subscribe before reading, so that no change in between is missed.
    let mut moved = database.watch();
    let mut done = position(app, &database).await?;
    loop {
        moved.borrow_and_update();
        loop {
            let settings = app.auth.settings();
            if !settings.peruser.enabled || settings.authentication_db != database.name() {
                return Ok(());
            }
            let of = database.clone();
            let page = blocking(move || of.changes(done, Direction::Forward, PageLimit::entries(PAGE))).await?;
            for (sequence, row) in &page.rows {
                if let Some(work) = wanted(&settings.peruser, &row.id, row.winner().deleted) {
                    perform(app, &settings.peruser, work).await?;
                }
                done = *sequence;
            }
            if !page.rows.is_empty() {
                keep(app, &database, done).await?;
            }
            if page.done {
                break;
            }
        }
        // A changed setting does not wake this task, so the settings are also checked periodically.
        let waited = tokio::time::timeout(AGAIN, moved.changed()).await;
        if matches!(waited, Ok(Err(_))) || *moved.borrow() == Moved::Gone {
            return Ok(());
        }
    }
}

/// Key of the checkpoint: the instance of the authentication database and the last processed sequence.
fn key() -> Vec<u8> {
    keyspace::server("couch_peruser")
}

async fn position(app: &Arc<App>, database: &Arc<Database>) -> Result<u64> {
    let (store, instance) = (app.store.clone(), database.instance());
    blocking(move || Ok(position_in(store.get(&key())?.as_deref(), &instance))).await
}

/// The position in a stored checkpoint; 0 if there is none for this instance.
fn position_in(stored: Option<&[u8]>, instance: &str) -> u64 {
    let text = std::str::from_utf8(stored.and_then(|value| value.get(1..)).unwrap_or(&[])).unwrap_or("");
    let mine = text.split_once(' ').filter(|(of, _)| *of == instance);
    mine.and_then(|(_, sequence)| sequence.parse().ok()).unwrap_or(0)
}

async fn keep(app: &Arc<App>, database: &Arc<Database>, done: u64) -> Result<()> {
    let (store, instance) = (app.store.clone(), database.instance());
    blocking(move || keep_position(&*store, &instance, done)).await
}

/// Stores the position, unless a later one of the same instance is stored.
fn keep_position(store: &dyn Store, instance: &str, done: u64) -> Result<()> {
    update(store, &key(), |stored| {
        if position_in(stored, instance) >= done {
            return Ok((Change::Keep, ()));
        }
        let value = [&[1], format!("{instance} {done}").as_bytes()].concat();
        Ok((Change::Write(Some(value), Durability::Relaxed), ()))
    })
}

async fn perform(app: &Arc<App>, settings: &PerUser, work: Work) -> Result<()> {
    let databases = app.databases.clone();
    match work {
        Work::Ensure { database, user } => {
            let options = CreateOptions { q: settings.q.clamp(1, 1024) as u32, ..CreateOptions::default() };
            let security = crate::app::default_security(app).to_string();
            let made = blocking(move || match databases.create(&database, options, Some(&security)) {
                Err(Error::DatabaseExists) => databases.get(&database),
                made => made,
            })
            .await;
            match made {
                Ok(database) => change_security(&database, move |security| admit(security, &user)).await,
                Err(Error::IllegalDatabaseName(reason)) => {
                    tracing::error!(user, reason, "couch_peruser/database_prefix does not form a valid database name");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
        Work::Dismiss { database, user } => match blocking(move || databases.get(&database)).await {
            Ok(database) => change_security(&database, move |security| dismiss(security, &user)).await,
            Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(()),
            Err(error) => Err(error),
        },
        Work::Delete { database } => match blocking(move || databases.delete(&database)).await {
            Ok(()) => {
                app.removal.notify_one();
                Ok(())
            }
            Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => Ok(()),
            Err(error) => Err(error),
        },
    }
}

async fn change_security(
    database: &Arc<Database>,
    mut change: impl FnMut(&mut serde_json::Map<String, Value>) -> bool + Send + 'static,
) -> Result<()> {
    let name = database.name().to_owned();
    database
        .change_security(move |text| {
            let Ok(Value::Object(mut security)) = serde_json::from_str(text) else {
                return Err(Error::Damaged(format!("_security of {name}")));
            };
            Ok(change(&mut security).then(|| Value::Object(security).to_string()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::db::Databases;
    use crate::store::MemoryBlobs;
    use crate::store::memory::Memory;
    use crate::store::rival::Rival;

    fn databases(store: Arc<dyn Store>) -> Arc<Databases> {
        Databases::open(store, Arc::new(MemoryBlobs::new()), Clock::system()).unwrap()
    }

    fn names(database: &Database, group: &str) -> Value {
        serde_json::from_str::<Value>(&database.security()).unwrap()[group]["names"].clone()
    }

    #[tokio::test]
    async fn adding_a_user_keeps_a_security_object_that_was_put_in_between() {
        let databases = databases(Arc::new(Memory::new()));
        let database = databases.create("userdb-6564", CreateOptions::default(), None).unwrap();
        let hold = database.hold().await.unwrap();
        let mut put = Box::pin(database.put_security(r#"{"members":{"names":["tom"]}}"#.into()));
        let mut admitted = Box::pin(change_security(&database, |security| admit(security, "ed")));
        assert!(futures_util::poll!(&mut put).is_pending() && futures_util::poll!(&mut admitted).is_pending());
        drop(hold);
        put.await.unwrap();
        admitted.await.unwrap();
        assert_eq!((names(&database, "members"), names(&database, "admins")), (json!(["ed", "tom"]), json!(["ed"])));
        change_security(&database, |security| dismiss(security, "ed")).await.unwrap();
        assert_eq!(names(&database, "members"), json!(["tom"]));
    }

    #[tokio::test]
    async fn adding_a_user_keeps_what_another_writer_of_the_store_commits_in_between() {
        let memory: Arc<dyn Store> = Arc::new(Memory::new());
        let store = Arc::new(Rival::new(memory, &keyspace::security(1)));
        let databases = databases(store.clone());
        let database = databases.create("userdb-6564", CreateOptions::default(), Some("{}")).unwrap();
        store.writes_next([r#"{"members":{"names":["tom"]}}"#]);
        change_security(&database, |security| admit(security, "ed")).await.unwrap();
        assert_eq!((names(&database, "members"), names(&database, "admins")), (json!(["ed", "tom"]), json!(["ed"])));
        let stored = store.get(&keyspace::security(1)).unwrap().unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), *database.security());
    }

    #[test]
    fn a_position_never_goes_back() {
        let store = Rival::new(Arc::new(Memory::new()), &key());
        let stored = |instance| position_in(store.get(&key()).unwrap().as_deref(), instance);
        keep_position(&store, "aa", 5).unwrap();
        keep_position(&store, "aa", 3).unwrap();
        assert_eq!((stored("aa"), stored("bb")), (5, 0));
        store.writes_next([b"\x01aa 9"]);
        keep_position(&store, "aa", 7).unwrap();
        assert_eq!(stored("aa"), 9, "another writer was further");
        keep_position(&store, "bb", 1).unwrap();
        assert_eq!((stored("aa"), stored("bb")), (0, 1), "the database was created again");
    }
}
