//! Keeps the state that this node caches from a shared store fresh: the counters, `_security` and design documents
//! of open databases, the events of `_db_updates`, and the records that the layers above register (settings,
//! revocations). On an embedded store this node is the only writer, and none of this runs.
//!
//! ```text
//! request ─> catch_up: one get_many of [registered records, counters of its databases] ─> learn what differs
//!            (one for all requests that wait, see `nodes::together`)
//! commit  ─> tell the other nodes ─> hear ─┐
//! every second ───────────────────────────┴> follow: the same reads for all watched databases ─> wakes feeds
//! commit that conflicts ─> refresh ─> the writer continues with the current counters
//! ```
//!
//! Every commit to a database on a shared store increments [`Info::commits`] in the counters record, and expects
//! the counters that it started from. So one key shows whether anything in a database has changed, and which of
//! two records is newer. After a failover that lost commits, the stored counters may be lower than those in
//! memory: counters that were read in a later epoch of the store win. The next request on any node sees a write
//! that another node has acknowledged, because the request reads the counters first. A feed sees the write within
//! a second: a notice may be lost, but the node also polls.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};

use super::database::Database;
use super::record::{Info, NO_SECURITY};
use crate::error::{Error, Result};
use crate::store::{Store, keyspace};

/// After a read, a reader checks again that its database exists if the last check is older than this. Much
/// shorter than [`REMOVAL_DELAY`].
const CONFIRMED: Duration = Duration::from_secs(10);
/// How long the data of a deleted database stays, so that every node has learned of the deletion before the
/// first entry is removed.
pub(super) const REMOVAL_DELAY: Duration = Duration::from_secs(30);

/// Called with the new value of a record that has changed, and the store's epoch from before it was read.
pub(super) type Changed = Box<dyn Fn(Option<&[u8]>, u64) -> Result<()> + Send + Sync>;

/// Called with the new epoch of the store.
pub(super) type OnNewHistory = Arc<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// A record of the store whose content the layers above remember.
pub(super) struct Remembered {
    pub key: Vec<u8>,
    /// The value that was read last. Locked while `changed` runs, so that when a request finds the value
    /// unchanged, `changed` has returned for it.
    pub seen: Mutex<Option<Vec<u8>>>,
    pub changed: Changed,
}

/// The state of the catalog that only a shared store needs.
#[derive(Default)]
pub(super) struct Freshness {
    pub remembered: RwLock<Vec<Arc<Remembered>>>,
    pub heard: Arc<Notices>,
    pub epoch: Mutex<Option<u64>>,
    /// Called after a new history of the store was found.
    pub on_new_history: RwLock<Vec<OnNewHistory>>,
    /// Requests that wait for a read of the store.
    pub looks: Mutex<Looks>,
    /// When this node first saw that a database is deleted, by the number of the database.
    pub doomed: Mutex<HashMap<u64, Instant>>,
}

/// The requests that wait to learn what other nodes have written. `nodes::together` answers them.
#[derive(Default)]
pub(super) struct Looks {
    pub waiting: Vec<Look>,
    /// Number of tasks that read for requests, or are about to.
    pub running: usize,
    /// A task is about to take the waiting requests.
    pub starts: bool,
    /// Number of requests that are read for.
    pub under_way: usize,
}

/// A request's databases, whose state it needs, and the sender of the answer.
pub(super) struct Look {
    pub databases: Vec<Arc<Database>>,
    /// The document that the request reads or writes: its database and the key of its record.
    pub record: Option<Wanted>,
    pub answer: oneshot::Sender<Result<()>>,
}

/// A record that is read with the counters of its database.
pub(super) type Wanted = (Arc<Database>, Vec<u8>);

/// Time and epoch from before a read of the store: the result of the read is at least as new.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub at: Instant,
    pub epoch: u64,
}

impl Asked {
    pub fn now(store: &dyn Store) -> Result<Asked> {
        Ok(Asked { at: Instant::now(), epoch: store.epoch()? })
    }
}

/// The notices that other nodes have sent since the last read.
#[derive(Default)]
pub(super) struct Notices {
    numbers: Mutex<BTreeSet<u64>>,
    /// Notices may have been lost: everything must be read.
    everything: AtomicBool,
    pub wake: Notify,
}

/// In a notice between nodes: the number for records that belong to no database.
pub const SERVER: u64 = 0;

impl Database {
    /// Whether the state in memory was read from the store at `moment` or later. Always true on an embedded store.
    pub fn is_as_of(&self, moment: Instant) -> bool {
        !self.store.is_shared() || self.heard.lock().at >= moment
    }

    /// Reads the counters again, and what has changed with them. Returns false if the database is no longer
    /// there. Blocks on the store.
    pub(super) fn refresh(&self) -> Result<bool> {
        let asked = Asked::now(&*self.store)?;
        let stored = self.store.get(&keyspace::info(self.number))?;
        self.learn(stored.as_deref(), asked)
    }

    /// The current counters: on a shared store, reads them. Blocks on the store.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] if the database was deleted, and those of the store.
    pub fn info_now(&self) -> Result<Info> {
        match self.is_gone() || self.store.is_shared() && !self.refresh()? {
            true => Err(Error::NoDatabase),
            false => Ok(self.info()),
        }
    }

    /// Takes over the stored counters, which were read after `asked`, and reads what has changed with them. `None`: the
    /// database is deleted. Returns whether the database exists.
    pub(super) fn learn(&self, stored: Option<&[u8]>, asked: Asked) -> Result<bool> {
        let Some(stored) = stored else {
            self.mark_gone();
            return Ok(false);
        };
        let mut info = Info::decode(stored)?;
        if !self.store.is_shared() {
            info.conflicts = self.info().conflicts;
        }
        self.learn_security((asked.epoch, info.security_at))?;
        self.publish(info, asked.epoch);
        let mut heard = self.heard.lock();
        heard.at = heard.at.max(asked.at);
        Ok(true)
    }

    fn security_text(&self, stored: Option<Vec<u8>>) -> Result<String> {
        let stored = stored.unwrap_or_else(|| NO_SECURITY.as_bytes().to_vec());
        String::from_utf8(stored).map_err(|_| Error::Damaged(format!("_security of {}", self.name)))
    }

    /// Whether the `_security` in memory is at least as new as the counter `at`.
    pub(super) fn has_security(&self, at: (u64, u64)) -> bool {
        self.security_at() >= at
    }

    /// Reads `_security` if the one in memory is older than the counter `at`.
    fn learn_security(&self, at: (u64, u64)) -> Result<()> {
        if !self.has_security(at) {
            let stored = self.store.get(&keyspace::security(self.number))?;
            self.set_security(&self.security_text(stored)?, at);
        }
        Ok(())
    }

    /// Takes over the `_security` that the writer has just committed. On a shared store, another node may have
    /// written it since, so it is read.
    pub(super) fn security_written(&self, security: &str) {
        if !self.store.is_shared() {
            self.set_security(security, (0, 0));
        } else if let Err(error) = self.learn_security((self.epoch(), self.info().security_at)) {
            // The next request tries again: the counter in memory stays behind.
            tracing::warn!(database = %self.name, %error, "_security was written and could not be read again");
        }
    }

    /// Checks that the database was there while the last page was read. A page may be incomplete once the
    /// removal of a deleted database has begun.
    pub(super) fn check_there(&self) -> Result<()> {
        if self.store.is_shared() && self.heard.lock().at.elapsed() > CONFIRMED {
            self.refresh()?;
        }
        if self.is_gone() { Err(Error::NoDatabase) } else { Ok(()) }
    }
}

impl Notices {
    pub fn note(&self, moved: &[u64]) {
        if moved.is_empty() {
            self.everything.store(true, Ordering::Release);
        }
        self.numbers.lock().extend(moved);
        self.wake.notify_one();
    }

    pub fn take(&self) -> (BTreeSet<u64>, bool) {
        let everything = self.everything.swap(false, Ordering::AcqRel);
        (std::mem::take(&mut *self.numbers.lock()), everything)
    }
}
