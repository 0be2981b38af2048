//! One open database.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{RwLock as FairLock, RwLockReadGuard, RwLockWriteGuard, watch};

use super::commit::queue::Queue;
use super::conflicted::ConflictIndex;
use super::counts::Shared;
use super::prefetched::Prefetched;
use super::recent_changes::RecentChanges;
use super::record::{Info, NO_SECURITY, NameRecord};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::store::blob::blobs::Blobs;
use crate::store::{Entry, Mark, Store, keyspace};

/// What watchers of a database receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The new last sequence.
    To(u64),
    /// The database was deleted.
    Gone,
}

/// One open database: a handle that costs about a kilobyte while nobody uses it.
pub struct Database {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) record: NameRecord,
    pub(super) store: Arc<dyn Store>,
    indexes: Arc<dyn Store>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) clock: Clock,
    info: RwLock<Counters>,
    security: RwLock<Security>,
    moved: watch::Sender<Moved>,
    pub(super) queue: Mutex<Queue>,
    /// Notified when a writer that waits for more works should look at the queue.
    pub(super) arrived: Condvar,
    pub(super) shared: Arc<Shared>,
    gone: AtomicBool,
    /// Shared by the requests that write, and taken alone by a deletion.
    writing: FairLock<()>,
    pub(super) compacting: AtomicBool,
    /// The index of conflicts is being completed.
    pub(super) indexing: AtomicBool,
    /// On a shared store: when the counters were read last, and whether other nodes write this database, too.
    pub(super) heard: Mutex<Heard>,
    /// On a shared store: records that were read together with the counters.
    pub(super) prefetched: Arc<Prefetched>,
    designs: Mutex<Designs>,
    pub(super) recent: RecentChanges,
    /// Called after every commit that takes a sequence: the catalog collects the names for `_db_updates`.
    on_commit: OnCommit,
}

/// Gets the name of a database, and what a commit has changed.
pub(super) type OnCommit = Box<dyn Fn(&str, Mark) + Send + Sync>;

/// The counters in memory.
struct Counters {
    info: Info,
    /// The store's epoch, read before the counters, which are therefore of this epoch or a later one.
    epoch: u64,
}

/// The `_security` object in memory.
struct Security {
    text: Arc<str>,
    /// On a shared store: epoch and [`Info::security_at`] of the counters that were read before the text.
    at: (u64, u64),
}

/// What derives from reads of a shared store: see `db::nodes`.
pub(super) struct Heard {
    /// The counters in memory are those of this moment, or newer.
    pub at: Instant,
    /// Until when this node writes in turns, after a conflict with another node.
    pub contended_until: Option<Instant>,
}

/// What is derived from design documents, and how often they changed.
#[derive(Default)]
struct Designs {
    generation: u64,
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl Database {
    pub(super) fn open(
        name: &str,
        record: NameRecord,
        (store, indexes): (Arc<dyn Store>, Arc<dyn Store>),
        blobs: Arc<dyn Blobs>,
        clock: Clock,
        shared: Arc<Shared>,
        on_commit: OnCommit,
    ) -> Result<Database> {
        let number = record.number;
        let heard = Mutex::new(Heard { at: Instant::now(), contended_until: None });
        let keys = [keyspace::info(number), keyspace::security(number), keyspace::conflict_index(number)];
        let epoch = store.epoch()?;
        let mut values = store.get_each(&keys)?.into_iter();
        let mut info = match values.next().transpose()?.flatten() {
            Some(value) => Info::decode(&value)?,
            None => return Err(Error::NoDatabase),
        };
        let security = match values.next().transpose()?.flatten() {
            Some(value) => String::from_utf8(value).map_err(|_| Error::Damaged(format!("_security of {name}")))?,
            None => NO_SECURITY.to_owned(),
        };
        if info.commits == 0 {
            info.conflicts = ConflictIndex::recover(values.next().unwrap_or(Ok(None)), info.sequence)?;
        }
        let moved = watch::Sender::new(Moved::To(info.sequence));
        let security = Security { text: security.into(), at: (epoch, info.security_at) };
        Ok(Database {
            name: name.to_owned(),
            number,
            record,
            store,
            indexes,
            blobs,
            clock,
            info: RwLock::new(Counters { info, epoch }),
            security: RwLock::new(security),
            moved,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            shared,
            gone: AtomicBool::new(false),
            writing: FairLock::default(),
            compacting: AtomicBool::new(false),
            indexing: AtomicBool::new(false),
            heard,
            prefetched: Arc::default(),
            designs: Mutex::default(),
            recent: RecentChanges::default(),
            on_commit,
        })
    }

    /// The entry that every commit to an index must expect: it maps the database's name to its number. The entry
    /// never changes and is deleted with the database, so that such a commit fails once the database is deleted.
    /// `None` on a shared store, which does not hold the indexes: there, a job removes the indexes of deleted
    /// databases.
    pub(crate) fn index_owner(&self) -> Option<Entry> {
        (!self.store.is_shared()).then(|| (keyspace::name(&self.name), self.record.encode()))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The internal number: never used twice.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn is_partitioned(&self) -> bool {
        self.record.partitioned
    }

    /// The `q` and `n` of the request that created the database.
    pub fn shape(&self) -> (u32, u32) {
        (self.record.q, self.record.n)
    }

    /// Creation time of the database in milliseconds since 1970.
    pub fn created(&self) -> u64 {
        self.record.created
    }

    /// The counters as of the last commit.
    pub fn info(&self) -> Info {
        self.info.read().info.clone()
    }

    /// 32 hex digits that distinguish this database from earlier ones of the same name; the second part of every
    /// sequence on the wire.
    pub fn instance(&self) -> String {
        hex(&self.record.instance)
    }

    /// A sequence as clients see it: `N-<instance>`, or `N-<instance>.<epoch>` after a failover of a shared store.
    /// `history` is what [`Database::history`] returned before the sequence was read.
    pub fn wire_sequence(&self, sequence: u64, history: Option<u64>) -> String {
        match history {
            None => format!("{sequence}-{}", self.instance()),
            Some(epoch) => format!("{sequence}-{}.{epoch}", self.instance()),
        }
    }

    /// The last sequence as clients see it.
    pub fn last_sequence(&self) -> String {
        let info = self.info();
        self.wire_sequence(info.sequence, info.histories.mark())
    }

    /// The last change: the epoch of its history, and its sequence. Unlike the sequence alone it never comes twice: a failover
    /// that loses commits assigns their sequences again.
    pub fn last_change(&self) -> (u64, u64) {
        let info = &self.info.read().info;
        (info.histories.last(), info.sequence)
    }

    /// The epoch of the store's current history; `None` without a failover, and always on an embedded store.
    pub fn history(&self) -> Option<u64> {
        self.info.read().info.histories.mark()
    }

    /// The sequence after which a reader continues that has read up to `sequence` in `history`.
    pub fn position(&self, sequence: u64, history: Option<u64>) -> u64 {
        let info = &self.info.read().info;
        info.histories.position(sequence, history).min(info.sequence)
    }

    /// The store that holds the database.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether other nodes may write to this database, too.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// The store of the database's indexes: the database's own store or, if that is shared, a store of this node.
    pub fn index_store(&self) -> &Arc<dyn Store> {
        &self.indexes
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the database has been deleted.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Returns what a request that writes holds until it is answered: a deletion waits for it.
    pub async fn begin_writing(&self) -> RwLockReadGuard<'_, ()> {
        self.writing.read().await
    }

    /// Waits until the requests that write are answered, for at most `most`. Later ones wait until the result is dropped.
    pub async fn end_of_writing(&self, most: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(most, self.writing.write()).await.ok()
    }

    /// Whether a compaction is under way.
    pub fn is_compacting(&self) -> bool {
        self.compacting.load(Ordering::Acquire)
    }

    /// Subscribes to all further commits. Subscribe before reading: no change is then missed in between.
    pub fn watch(&self) -> watch::Receiver<Moved> {
        self.moved.subscribe()
    }

    /// Whether the database has watchers.
    pub fn is_watched(&self) -> bool {
        self.moved.receiver_count() > 0
    }

    /// Counts the commits that wrote a design document since the database was opened.
    pub fn design_generation(&self) -> u64 {
        self.designs.lock().generation
    }

    /// The object that the layer above derived from the design documents, unless one was written since.
    pub fn kept_designs(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.designs.lock().kept.clone()
    }

    /// Keeps an object that the layer above derived from the design documents, until one is written. `generation`
    /// is the [`Database::design_generation`] before they were read: if it has changed, nothing is kept.
    pub fn keep_designs(&self, generation: u64, made: Arc<dyn Any + Send + Sync>) {
        let mut designs = self.designs.lock();
        if designs.generation == generation {
            designs.kept = Some(made);
        }
    }

    pub(super) fn designs_changed(&self) {
        let mut designs = self.designs.lock();
        designs.generation += 1;
        designs.kept = None;
    }

    /// The `_security` object as JSON text.
    pub fn security(&self) -> Arc<str> {
        self.security.read().text.clone()
    }

    /// The epoch and the value of [`Info::security_at`] that the `_security` object in memory belongs to.
    pub(super) fn security_at(&self) -> (u64, u64) {
        self.security.read().at
    }

    /// Takes over a `_security` object unless a later one is known. `at`: the epoch and [`Info::security_at`] that
    /// were read before the object; zeros on an embedded store, where the calls come in the order of the commits.
    pub(super) fn set_security(&self, security: &str, at: (u64, u64)) {
        let mut current = self.security.write();
        if at < current.at {
            return;
        }
        let is_new = at == (0, 0) || *current.text != *security;
        let text = if is_new { security.into() } else { current.text.clone() };
        *current = Security { text, at };
        drop(current);
        if is_new {
            // Wakes feeds, which check that their clients are still authorized.
            self.moved.send_modify(|_| ());
        }
    }

    /// Takes over the counters of a commit of this node. `before`: the last sequence before the commit. `epoch`:
    /// [`Database::epoch`] before it started.
    pub(super) fn committed(&self, info: Info, before: u64, epoch: u64) {
        let sequence = info.sequence;
        // On a shared store, a request may have learned these counters already, or later ones.
        self.publish(info, epoch);
        if sequence != before {
            (self.on_commit)(&self.name, Mark { database: self.number, sequence });
        }
        if self.store.is_shared() {
            self.store.tell(&[self.number]);
        }
    }

    /// The epoch of the counters in memory.
    pub(super) fn epoch(&self) -> u64 {
        self.info.read().epoch
    }

    /// Takes over counters, and wakes the watchers if the last sequence or the history has changed. On a shared store,
    /// ignores counters older than those in memory. Counters of a later epoch always win, even if they are lower: a
    /// failover may have lost commits. `epoch`: the store's epoch, read before the counters; read afterwards, it could
    /// be later than the epoch of the server that returned them.
    pub(super) fn publish(&self, info: Info, epoch: u64) {
        let sequence = info.sequence;
        let moved = {
            let mut current = self.info.write();
            if (epoch, info.commits) < (current.epoch, current.info.commits) {
                return;
            }
            let is_other_history = epoch > current.epoch && info != current.info;
            if info.designs_at != current.info.designs_at || is_other_history {
                self.designs_changed();
            }
            let moved = current.info.sequence != sequence || is_other_history;
            *current = Counters { info, epoch };
            moved
        };
        if moved {
            self.moved.send_replace(Moved::To(sequence));
            if self.is_gone() {
                // The counters were read before the deletion, but arrived after it.
                self.moved.send_replace(Moved::Gone);
            }
        }
    }

    pub(super) fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.moved.send_replace(Moved::Gone);
    }
}
