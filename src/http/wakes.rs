//! Wakes feeds whose rights may have changed.
//!
//! ```text
//! account changed   _users moved ─> follow ─> names of the changed rows ─> wake(name)
//! device revoked    Devices ────────────────────────────────────────────> wake(name)
//! settings changed  App::reconfigure ───────────────────────────────────> wake_all
//! _security         the database's own watch, which its feeds wait for anyway
//! ```
//! A feed that is woken checks its rights again ([`super::standing`]). Only the feeds of the user in question wake, so that a
//! change of one account costs the feeds of all others nothing. Waking makes a feed end early; that it tells nothing more
//! does not depend on it, because each feed checks its rights again before it tells a row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::app::App;
use super::standing::Standing;
use crate::auth::users;
use crate::db::{Database, Moved, blocking};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit};

/// Rows of the users' database read at once.
const PAGE: usize = 1000;
/// How long a failed look at the users' database is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// Checks at once that may wait for an issuer's keys: each holds a thread.
const WAITING: usize = 16;

/// Feeds that wait for a change of their rights.
pub struct Wakes {
    /// By their user's name; `None`: no account. A name is here while one of its feeds waits.
    feeds: Mutex<HashMap<Option<String>, watch::Sender<()>>>,
    /// Turns of checks that may wait for an issuer's keys.
    pub issuers: Semaphore,
}

impl Default for Wakes {
    fn default() -> Wakes {
        Wakes { feeds: Mutex::default(), issuers: Semaphore::new(WAITING) }
    }
}

impl Wakes {
    /// Wakes the feeds of one user.
    pub fn wake(&self, name: &str) {
        if let Some(sender) = self.feeds.lock().get(&Some(name.to_owned())) {
            sender.send_replace(());
        }
    }

    /// Wakes all feeds.
    pub fn wake_all(&self) {
        for sender in self.feeds.lock().values() {
            sender.send_replace(());
        }
    }

    fn wait(self: &Arc<Self>, name: Option<String>) -> Place {
        let mut all = self.feeds.lock();
        let sender = all.entry(name.clone()).or_insert_with(|| watch::Sender::new(()));
        Place { wakes: self.clone(), receiver: Some(sender.subscribe()), name }
    }
}

/// A place among those that wait.
struct Place {
    wakes: Arc<Wakes>,
    name: Option<String>,
    /// `None` only while it is dropped.
    receiver: Option<watch::Receiver<()>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.wakes.feeds.lock();
        self.receiver = None;
        if all.get(&self.name).is_some_and(|sender| sender.receiver_count() == 0) {
            all.remove(&self.name);
        }
    }
}

/// Waits until the rights of one feed must be checked again.
pub struct Waiter {
    standing: Arc<Standing>,
    place: Place,
}

impl Waiter {
    /// Begins to listen. Check the rights after that, or a change in between is missed.
    pub fn new(wakes: &Arc<Wakes>, standing: Arc<Standing>) -> Waiter {
        let place = wakes.wait(standing.account());
        Waiter { standing, place }
    }

    /// Returns when the user's account, devices or the settings have changed, or when the sign-in ends by itself. Dropping
    /// the future loses nothing.
    pub async fn woken(&mut self) {
        let over = async {
            match self.standing.time_left() {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            let alive = match &mut self.place.receiver {
                Some(receiver) => receiver.changed().await.is_ok(),
                None => false,
            };
            if !alive {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = changed => {}
            () = over => {}
        }
    }
}

/// Follows the users' database for as long as the server runs, and wakes the feeds of users whose accounts change.
pub async fn follow(app: Arc<App>) {
    let mut settings = app.wakes.wait(None);
    loop {
        let mut databases = app.databases.watch_events();
        let accounts = app.accounts.clone();
        let ended = match blocking(move || accounts.database()).await {
            Ok(Some(database)) => of_one(&app, &database, &mut settings).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // Another users' database, or none: all accounts are others.
        app.wakes.wake_all();
        let Err(error) = ended else {
            // Until there is one.
            tokio::select! {
                _ = databases.changed() => {}
                () = changed(&mut settings) => {}
            }
            continue;
        };
        if error != Error::NoDatabase {
            tracing::warn!(%error, "open feeds do not hear of changed accounts for now");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn changed(place: &mut Place) {
    if let Some(receiver) = &mut place.receiver {
        let _ = receiver.changed().await;
    }
}

/// Follows one users' database until it is gone or the settings name another one.
async fn of_one(app: &Arc<App>, database: &Arc<Database>, settings: &mut Place) -> Result<()> {
    // Subscribe, then read: a change can then not fall between.
    let mut moved = database.watch();
    let mut done = database.info().sequence;
    // What changed before this began is not known.
    app.wakes.wake_all();
    loop {
        if *moved.borrow_and_update() == Moved::Gone {
            return Ok(());
        }
        loop {
            let of = database.clone();
            let page = blocking(move || of.changes(done, Direction::Forward, PageLimit::entries(PAGE))).await?;
            for (sequence, row) in &page.rows {
                if let Some(name) = users::name_of(&row.id) {
                    app.wakes.wake(name);
                }
                done = *sequence;
            }
            if page.done {
                break;
            }
        }
        tokio::select! {
            ended = moved.changed() => if ended.is_err() { return Ok(()) },
            () = changed(settings) => {
                let accounts = app.accounts.clone();
                let now = blocking(move || accounts.database()).await?;
                if now.is_none_or(|now| now.number() != database.number()) {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_feeds_of_the_user_wake_and_nothing_is_kept_of_those_that_ended() {
        let wakes = Arc::new(Wakes::default());
        let woken = |place: &mut Place| {
            let receiver = place.receiver.as_mut().expect("it waits");
            let changed = receiver.has_changed().expect("the sender is there");
            receiver.mark_unchanged();
            changed
        };
        let [mut ann, mut twin, mut bob, mut nobody] =
            ["ann", "ann", "bob", ""].map(|name| wakes.wait(Some(name.to_owned()).filter(|name| !name.is_empty())));
        wakes.wake("ann");
        wakes.wake("eve");
        assert_eq!([&mut ann, &mut twin, &mut bob, &mut nobody].map(&woken), [true, true, false, false]);
        wakes.wake_all();
        assert_eq!([&mut ann, &mut twin, &mut bob, &mut nobody].map(&woken), [true; 4]);
        drop(twin);
        wakes.wake("ann");
        assert!(woken(&mut ann), "one of the two is left");
        drop((ann, bob, nobody));
        assert!(wakes.feeds.lock().is_empty());
    }
}
