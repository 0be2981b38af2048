//! The interface of every store: [`Store`], its batches, pages and errors.

use std::collections::HashSet;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Duration;

use super::keyspace;
use super::range::KeyRange;

/// The errors of a store call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// An expectation of the batch did not hold. Nothing was written.
    Conflict,
    /// The disk is full. Nothing was written, and reads go on.
    Full,
    /// The engine failed, for example with an I/O error. The store refuses writes until it has recovered.
    /// It is unknown whether a commit that failed with this error takes effect.
    Unavailable(String),
    /// A networked engine cannot be reached, or cannot work now: it fails over, its disk is full, or it is too
    /// slow. It is unknown whether a commit that failed with this error takes effect. The same call may succeed
    /// later.
    Down(String),
    /// The engine cannot index a key of this length. Nothing was written.
    KeyTooLong,
    /// Stored bytes are not what was written.
    Damaged(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Conflict => out.write_str("an expectation did not hold"),
            StoreError::Full => out.write_str("the disk is full"),
            StoreError::Unavailable(cause) => write!(out, "the store is unavailable: {cause}"),
            StoreError::Down(cause) => write!(out, "the store cannot be reached: {cause}"),
            StoreError::KeyTooLong => out.write_str("a key is too long for the store"),
            StoreError::Damaged(what) => write!(out, "stored data is damaged: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for crate::error::Error {
    fn from(error: StoreError) -> Self {
        use crate::error::Error;
        match error {
            StoreError::Conflict => Error::Again("The stored data has changed while the request was under way.".into()),
            StoreError::Full => Error::Full,
            StoreError::Unavailable(cause) => Error::Internal(cause),
            StoreError::Down(cause) => Error::Down(cause),
            StoreError::KeyTooLong => Error::IllegalDocId("Document id is too long".into()),
            StoreError::Damaged(what) => Error::Damaged(what),
        }
    }
}

/// The result of every store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The result of a call that runs while the caller goes on. Dropping it does not end the call.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The longest key, in bytes. An engine's index pages hold hundreds of keys each and must stay well below the
/// size of its segments. A key must not be empty and must not begin with 0xFF.
pub const MAX_KEY: usize = 6 << 10;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// The limits of one page of a scan. A page has at least one entry if the range has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// The most entries.
    pub entries: usize,
    /// Bytes of keys and values after which the page is full.
    pub bytes: usize,
}

impl PageLimit {
    /// At most `entries` entries, and about 1 MiB.
    pub fn entries(entries: usize) -> PageLimit {
        PageLimit { entries, bytes: 1 << 20 }
    }
}

/// The changes of one commit. The expectations are tested first, then `writes` are applied in order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `(key, value)`: the commit fails with `Conflict` unless each key holds exactly this value (`None`: is
    /// absent).
    pub expect: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Puts (`Some`) and deletes (`None`). The last write of a key wins.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Keys among `writes` that are absent if the expectations hold. Only a hint: a networked engine writes them with less
    /// work, and a key that is there all the same is overwritten.
    pub new: HashSet<Vec<u8>>,
    /// Whether the commit must be on disk when it returns.
    pub durability: Durability,
    /// Whether the batch frees space in the end. On a full disk such a batch may use space that is refused to
    /// others.
    pub frees: bool,
    /// The change of a database that the batch makes, if an event of `_db_updates` is to follow. A shared store keeps it
    /// with the commit until it is [announced](Store::announced).
    pub mark: Option<Mark>,
}

/// A change of a database for which `_db_updates` has no event yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The number of the database.
    pub database: u64,
    /// Its last sequence after the change.
    pub sequence: u64,
}

/// Marks that a node has left in a shared store, and that another node has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftMarks {
    /// The numbers of the databases; may contain duplicates.
    pub databases: Vec<u64>,
    /// The places that hold the marks, each with its state when it was taken: known only to the store.
    pub places: Vec<(i64, i64)>,
}

impl Batch {
    /// An empty batch, synced.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a write of `value` to `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push((key, Some(value)));
    }

    /// As [`Batch::put`], of a key that is absent if the expectations hold.
    pub fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.new.insert(key.clone());
        self.put(key, value);
    }

    /// Adds a delete of `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.push((key, None));
    }

    /// Adds the condition that `key` holds exactly `value` (`None`: is absent).
    pub fn expect(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.expect.push((key, value));
    }
}

/// Whether a commit is synced before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On disk when the call returns. Required for everything that is acknowledged to a client.
    #[default]
    Synced,
    /// Atomic and ordered, but synced only with a later commit: for data that can be rebuilt (view indexes).
    Relaxed,
}

/// What [`Store::listen`] calls: receives the numbers of databases that other nodes have changed.
pub type Hear = Box<dyn Fn(&[u64]) + Send + Sync>;

/// An ordered map of bytes. Many threads call it concurrently. Every call may block on the disk, so async
/// callers run it on a blocking thread.
pub trait Store: Send + Sync + 'static {
    /// Returns the values of `keys`, in their order. One call can read all keys of a request.
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>>;

    /// As [`Store::get_many`], but returns a damaged value as an error of its own, beside the other values.
    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        Ok(self.get_many(keys)?.into_iter().map(Ok).collect())
    }

    /// Returns a page of the entries of `range` in `direction`. A damaged entry ends the page before it. If
    /// the first entry is damaged, the call returns `Damaged` with a description of that entry. The caller
    /// continues after the last key; no iterator stays open.
    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>>;

    /// Returns at most `entries` keys in ascending order, including those whose values are damaged. A key that cannot be
    /// read ends the page before it; if it is the first one, the call returns `Damaged`.
    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let page = self.scan(range, Direction::Forward, PageLimit::entries(entries))?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// Applies all of `batch` or nothing. Durable on return, depending on [`Durability`]. The committer
    /// merges waiting batches into one write and one sync, in the order of their arrival (on PostgreSQL: those of
    /// one database in that order), and tests each batch's expectations against everything committed before it.
    fn commit(&self, batch: Batch) -> Result<()>;

    /// As [`Store::get_each`], without waiting for the result. Async callers on a shared store use it.
    fn begin_get_each(&self, keys: Vec<Vec<u8>>) -> Later<Vec<Result<Option<Vec<u8>>>>> {
        Box::pin(ready(self.get_each(&keys)))
    }

    /// As [`Store::commit`], without waiting for the result. Async callers on a shared store use it.
    fn begin_commit(&self, batch: Batch) -> Later<()> {
        Box::pin(ready(self.commit(batch)))
    }

    /// Returns the value of one key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.get_many(&[key.to_vec()])?.pop().flatten())
    }

    /// Returns the value of a key if it is in memory: the one that [`Store::get`] would return, if it can read. Never waits
    /// for the disk. `None` says nothing about the key.
    fn recent(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Checks that the store accepts writes and that no outcome is unknown: after a failed commit, only a
    /// reopened engine shows whether the commit took effect. A failed store tries to recover during this
    /// call, so a periodic health check also repairs it. `Full`: a write failed because the disk was full,
    /// while reads go on.
    fn ready(&self) -> Result<()> {
        self.get(keyspace::FORMAT).map(drop)
    }

    /// Counts all entries and compares the result with the totals from the commits. Reads the whole store;
    /// nobody may write meanwhile.
    ///
    /// # Errors
    /// `Damaged` if entries are missing, or older than their last commit.
    fn complete(&self) -> Result<()> {
        Ok(())
    }

    /// The number of entries without indexes, and a sum over their checksums. Two stores with the same entries have the same
    /// digest, unless they are encrypted. `None`: it is not known. No commit may run meanwhile.
    fn digest(&self) -> Option<(u64, u64)> {
        None
    }

    /// Changes when relaxed commits may have been lost, because the engine was reopened after a failure. A
    /// caller that caches what it has read compares the value before and after its reads.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether the store's disk is full: at the last check, writes that free no space were refused, or only
    /// fit into space that deletions had freed within the store. Freeing even a little space is then worth
    /// its cost.
    fn is_short_of_room(&self) -> bool {
        false
    }

    /// Whether other processes commit to the same store. Nothing that was read from a shared store may be
    /// cached as if this process were its only writer, and every call may wait for a network, so async
    /// callers must never call it on an async thread. Constant for the life of a store.
    fn is_shared(&self) -> bool {
        false
    }

    /// Tells the other nodes that commits of this node have changed these databases. Called after the commit,
    /// from any thread, for every commit: returns at once, and the store gathers what it sends. A notice may
    /// get lost, because every node also polls the records of the databases that it watches.
    fn tell(&self, _moved: &[u64]) {}

    /// Sets the function that receives what other nodes [`tell`](Store::tell), in place of an earlier one. Called
    /// before the caller reads what it watches. The function returns quickly and calls no store. An empty list says
    /// that notices may have been lost, for example because a connection broke: everything watched is then read again.
    fn listen(&self, _hear: Hear) {}

    /// Takes or renews the lease `name` for `owner` for the time `ttl`, by the clock of the store. Returns
    /// false if another owner holds it. A `ttl` of zero gives up the lease of this owner; the result then has no
    /// meaning. Leases only prevent double work in the background: correctness never rests on them, and all writes
    /// stay conditional.
    fn lease(&self, _name: &str, _owner: &str, _ttl: Duration) -> Result<bool> {
        Ok(true)
    }

    /// Waits until it is this node's turn to write the database `number`, and keeps the turn until the result
    /// is dropped. After a conflict, a writer calls it before it reads, for about a second. Best effort: `None`
    /// if no turn can be taken: a commit without its turn is only more likely to conflict.
    fn turn(&self, _number: u64) -> Option<Box<dyn Send>> {
        None
    }

    /// Says that `_db_updates` has events for these changes: the marks of the databases up to these sequences are no
    /// longer needed. Called after the events are committed, several times a second; returns at once.
    fn announced(&self, _marks: &[Mark]) {}

    /// Takes marks that no node has announced for a while, because their node has died, is frozen or is too slow. The
    /// caller writes the events, and calls [`Store::settle_marks`]. If it does not, a later call on some node takes
    /// them again. Nothing: there are none.
    fn left_marks(&self) -> Result<LeftMarks> {
        Ok(LeftMarks::default())
    }

    /// Removes marks that were taken, after the events are committed. Keeps what a node has written there since.
    fn settle_marks(&self, _left: LeftMarks) -> Result<()> {
        Ok(())
    }

    /// The number of the store's history: it grows when a failover may have lost acknowledged commits. Everything that
    /// was cached or derived from the store in an older epoch may be wrong. 0: an embedded store, or a server that
    /// reports none.
    fn epoch(&self) -> Result<u64> {
        Ok(0)
    }

    /// Rewrites the store's files without the space that deletions have left in them, while calls go on. Returns their
    /// bytes before and after. `None`: the store has no files of its own. Takes as long as reading the whole store twice, and
    /// space for a second store. Ends early, without an effect, when `stop` returns true.
    ///
    /// # Errors
    /// `Full` if there is not enough space, `Damaged` if an entry cannot be read, `Unavailable` if it was given up. The store
    /// is then what it was before.
    fn rewrite(&self, _stop: &dyn Fn() -> bool) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }

    /// The engine's name, as `--store` accepts it.
    fn engine(&self) -> &'static str;

    /// Bytes of the engine's files on disk.
    fn disk_bytes(&self) -> u64;
}
