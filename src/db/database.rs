//! One open database.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use super::commit::queue::Queue;
use super::counts::Shared;
use super::recent_changes::RecentChanges;
use super::record::{Info, NO_SECURITY, NameRecord};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::store::blob::blobs::Blobs;
use crate::store::{Entry, Store, keyspace};

/// What watchers of a database hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The last sequence now.
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
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) clock: Clock,
    info: RwLock<Info>,
    security: RwLock<Arc<str>>,
    moved: watch::Sender<Moved>,
    pub(super) queue: Mutex<Queue>,
    /// Notified when a writer that waits for more works should look at the queue.
    pub(super) arrived: Condvar,
    pub(super) shared: Arc<Shared>,
    gone: AtomicBool,
    pub(super) compacting: AtomicBool,
    designs: Mutex<Designs>,
    pub(super) recent: RecentChanges,
    /// Called after every commit: the catalog collects them for `_db_updates`.
    on_commit: Box<dyn Fn(&str) + Send + Sync>,
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
        store: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        clock: Clock,
        shared: Arc<Shared>,
        on_commit: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Database> {
        let number = record.number;
        let mut values = store.get_many(&[keyspace::info(number), keyspace::security(number)])?.into_iter();
        let info = match values.next().flatten() {
            Some(value) => Info::decode(&value)?,
            None => return Err(Error::NoDatabase),
        };
        let security = match values.next().flatten() {
            Some(value) => String::from_utf8(value).map_err(|_| Error::Damaged(format!("_security of {name}")))?,
            None => NO_SECURITY.to_owned(),
        };
        let moved = watch::Sender::new(Moved::To(info.sequence));
        Ok(Database {
            name: name.to_owned(),
            number,
            record,
            store,
            blobs,
            clock,
            info: RwLock::new(info),
            security: RwLock::new(security.into()),
            moved,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            shared,
            gone: AtomicBool::new(false),
            compacting: AtomicBool::new(false),
            designs: Mutex::default(),
            recent: RecentChanges::default(),
            on_commit,
        })
    }

    /// The stored entry that maps the database's name to its number. It is never changed, and deleted with the
    /// database: a commit that expects it fails once the database is deleted.
    pub(crate) fn name_entry(&self) -> Entry {
        (keyspace::name(&self.name), self.record.encode())
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

    /// The `q` and `n` it was created with.
    pub fn shape(&self) -> (u32, u32) {
        (self.record.q, self.record.n)
    }

    /// Milliseconds since the epoch at which it was created.
    pub fn created(&self) -> u64 {
        self.record.created
    }

    /// The counters as of the last commit.
    pub fn info(&self) -> Info {
        self.info.read().clone()
    }

    /// 32 hex digits that distinguish this database from earlier ones of the same name; the second part of every
    /// sequence on the wire.
    pub fn instance(&self) -> String {
        hex(&self.record.instance)
    }

    /// `N-<instance>`: a sequence as clients see it.
    pub fn wire_sequence(&self, sequence: u64) -> String {
        format!("{sequence}-{}", self.instance())
    }

    /// The ordered map below, for indexes kept beside the database.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether it has been deleted.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether a compaction is under way.
    pub fn is_compacting(&self) -> bool {
        self.compacting.load(Ordering::Acquire)
    }

    /// Hears of every commit from now on. Subscribe, then read: a change can then not fall between.
    pub fn watch(&self) -> watch::Receiver<Moved> {
        self.moved.subscribe()
    }

    /// Counts the commits that wrote a design document since the database was opened.
    pub fn design_generation(&self) -> u64 {
        self.designs.lock().generation
    }

    /// What the layer above made of the design documents, if none was written since.
    pub fn kept_designs(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.designs.lock().kept.clone()
    }

    /// Keeps what the layer above made of the design documents until one is written. `generation` is the value
    /// from before they were read: if one was written meanwhile, nothing is kept.
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
        self.security.read().clone()
    }

    pub(super) fn set_security(&self, security: &str) {
        *self.security.write() = security.into();
        // Wakes feeds, which check whether they may go on.
        self.moved.send_modify(|_| ());
    }

    pub(super) fn publish(&self, info: Info) {
        let sequence = info.sequence;
        let changed = {
            let mut current = self.info.write();
            let changed = current.sequence != sequence;
            *current = info;
            changed
        };
        if changed {
            self.moved.send_replace(Moved::To(sequence));
            (self.on_commit)(&self.name);
        }
    }

    /// Reads the counters from the store again; false if the database is no longer there.
    pub(super) fn reload(&self) -> Result<bool> {
        match self.store.get(&keyspace::info(self.number))? {
            Some(value) => {
                self.publish(Info::decode(&value)?);
                Ok(true)
            }
            None => {
                self.mark_gone();
                Ok(false)
            }
        }
    }

    pub(super) fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.moved.send_replace(Moved::Gone);
    }
}
