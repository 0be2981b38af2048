//! Wakes waiting feeds whose authorization may have changed.
//!
//! ```text
//! account changed   _users moved ─> follow ─> names of the changed rows ─> wake(name)
//! device revoked    Devices ────────────────────────────────────────────> wake(name)
//! settings changed  App::reconfigure ───────────────────────────────────> wake_all
//! _security         the database's own watch, which its feeds wait for anyway
//! ```
//! A feed that wakes checks its authorization again (`policy::authorization`). A change of one account wakes
//! only the feeds of that user, so ten thousand feeds of others cost nothing. Waking makes a feed end early.
//! Correctness does not depend on it: each feed checks its authorization after it has read rows and before it
//! sends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::user_store::Accounts;
use crate::auth::users;
use crate::blocking::blocking;
use crate::db::{Database, Databases, Moved};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit};

/// Rows of the users' database read at once.
const PAGE: usize = 1000;
/// Pause after a failed read of the users' database.
const AGAIN: Duration = Duration::from_secs(1);

/// Checks that may wait for an issuer's keys at the same time: each holds a thread.
const WAITING: usize = 16;

/// The feeds that wait for a change of their authorization.
pub struct Wakes {
    /// One sender per user name (`None`: feeds without an account); removed with the user's last feed.
    feeds: Mutex<HashMap<Option<String>, watch::Sender<()>>>,
    /// Bounds the checks that may wait for an issuer's keys.
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

    /// Subscribes a feed to the changes of one user, or to those of the settings alone if `name` is `None`.
    pub fn wait(self: &Arc<Self>, name: Option<String>) -> Place {
        let mut all = self.feeds.lock();
        let sender = all.entry(name.clone()).or_insert_with(|| watch::Sender::new(()));
        Place { wakes: self.clone(), receiver: Some(sender.subscribe()), name }
    }
}

/// A subscription to the changes of one user; dropping it unsubscribes.
pub struct Place {
    wakes: Arc<Wakes>,
    name: Option<String>,
    /// `None` only during drop.
    receiver: Option<watch::Receiver<()>>,
}

impl Place {
    /// Returns when the feed was woken since the last call. Cancel safe.
    pub async fn woken(&mut self) {
        let alive = match &mut self.receiver {
            Some(receiver) => receiver.changed().await.is_ok(),
            None => false,
        };
        if !alive {
            std::future::pending().await
        }
    }
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

/// Follows the users' database for as long as the server runs, and wakes the feeds of users whose accounts
/// change.
pub async fn follow(wakes: Arc<Wakes>, databases: Arc<Databases>, accounts: Arc<Accounts>) {
    let mut settings = wakes.wait(None);
    loop {
        let mut created = databases.watch_events();
        let of = accounts.clone();
        let ended = match blocking(move || of.database()).await {
            Ok(Some(database)) => follow_one(&wakes, &accounts, &database, &mut settings).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // Another users' database, or none: every account may have changed.
        wakes.wake_all();
        let Err(error) = ended else {
            // Wait until a database is created or a setting changes.
            tokio::select! {
                _ = created.changed() => {}
                () = settings.woken() => {}
            }
            continue;
        };
        if error != Error::NoDatabase {
            tracing::warn!(%error, "the users' database cannot be followed; open feeds check their rights at their next row");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows one users' database until it is gone or the settings name another one.
async fn follow_one(
    wakes: &Wakes,
    accounts: &Arc<Accounts>,
    database: &Arc<Database>,
    settings: &mut Place,
) -> Result<()> {
    // Subscribe, then read, so that no change is missed.
    let mut moved = database.watch();
    // Changes from before this point are not followed one by one.
    let from_here = || {
        let from = (database.history(), database.info().sequence, database.info().purge_sequence);
        wakes.wake_all();
        from
    };
    let (mut history, mut done, mut purged) = from_here();
    loop {
        if *moved.borrow_and_update() == Moved::Gone {
            return Ok(());
        }
        // A failover that lost commits assigns their sequences again.
        if database.history() != history {
            (history, done, purged) = from_here();
        }
        loop {
            let of = database.clone();
            let page = blocking(move || of.changes(done, Direction::Forward, PageLimit::entries(PAGE))).await?;
            for (sequence, row) in &page.rows {
                if let Some(name) = users::name_of(&row.id) {
                    wakes.wake(name);
                }
                done = *sequence;
            }
            if page.done {
                break;
            }
        }
        // An account that another node has purged completely is no row of the changes.
        while database.store().is_shared() && database.info().purge_sequence > purged {
            let of = database.clone();
            let requests = blocking(move || of.purges(purged, PAGE)).await?;
            requests.iter().filter_map(|(_, purge)| users::name_of(&purge.id)).for_each(|name| wakes.wake(name));
            purged = requests.last().map_or(database.info().purge_sequence, |(sequence, _)| *sequence);
        }
        tokio::select! {
            ended = moved.changed() => if ended.is_err() { return Ok(()) },
            () = settings.woken() => {
                let of = accounts.clone();
                let now = blocking(move || of.database()).await?;
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
