//! A store in memory that several nodes share, for tests. Each [`Node`] stands for the store of one process:
//! what one commits, the others read at once, and they are notified unless the test drops the notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::memory::Memory;
use super::range::KeyRange;
use super::{Batch, Direction, Entry, Hear, Later, LeftMarks, Mark, PageLimit, Result, Store, StoreError};
use crate::clock::Clock;

/// What the nodes share.
pub struct Cluster {
    entries: Memory,
    nodes: RwLock<Vec<Arc<Listener>>>,
    /// Owner and end of each lease.
    leases: Mutex<HashMap<String, (String, Duration)>>,
    clock: Clock,
    epoch: AtomicU64,
    loses_notices: AtomicBool,
    refuses_async_threads: AtomicBool,
    reads: Gate,
    lease_calls: Gate,
    /// The marks of each node, by its number.
    marks: Mutex<Vec<Left>>,
}

/// The marks of a node.
#[derive(Default)]
struct Left {
    /// Databases and their last sequences.
    marks: HashMap<u64, u64>,
    /// When the node has committed last, or they were taken, by the clock of the store.
    used: Duration,
    /// How many marks the node has made.
    number: i64,
}

/// Marks that are not announced for so long are left.
const LEFT: Duration = Duration::from_secs(20);

/// What happens to the calls of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Calls {
    #[default]
    Answered,
    /// They wait for a change of this setting.
    Held,
    /// They fail, as if the store could not be reached.
    Refused,
}

/// Holds or refuses the calls of one function.
#[derive(Default)]
struct Gate {
    calls: Mutex<Calls>,
    changed: Condvar,
    /// How many calls have begun.
    begun: AtomicUsize,
}

impl Gate {
    fn set(&self, calls: Calls) {
        *self.calls.lock() = calls;
        self.changed.notify_all();
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn pass(&self) -> Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut calls = self.calls.lock();
        self.changed.wait_while(&mut calls, |calls| *calls == Calls::Held);
        match *calls {
            Calls::Refused => Err(StoreError::Down("a test".to_owned())),
            Calls::Answered | Calls::Held => Ok(()),
        }
    }
}

#[derive(Default)]
struct Listener(RwLock<Option<Hear>>);

/// The store of one node.
pub struct Node {
    cluster: Arc<Cluster>,
    own: Arc<Listener>,
    number: usize,
}

impl Cluster {
    /// An empty store without nodes. Leases end by `clock`.
    pub fn new(clock: Clock) -> Arc<Cluster> {
        Arc::new(Cluster {
            entries: Memory::new(),
            nodes: RwLock::default(),
            leases: Mutex::default(),
            clock,
            epoch: AtomicU64::new(1),
            loses_notices: AtomicBool::new(false),
            refuses_async_threads: AtomicBool::new(false),
            reads: Gate::default(),
            lease_calls: Gate::default(),
            marks: Mutex::default(),
        })
    }

    /// Adds a node.
    pub fn node(self: &Arc<Self>) -> Arc<dyn Store> {
        let own = Arc::new(Listener::default());
        self.nodes.write().push(own.clone());
        let mut marks = self.marks.lock();
        marks.push(Left::default());
        Arc::new(Node { cluster: self.clone(), own, number: marks.len() - 1 })
    }

    /// Adds two nodes.
    pub fn two(self: &Arc<Self>) -> (Arc<dyn Store>, Arc<dyn Store>) {
        (self.node(), self.node())
    }

    /// Sets whether notices between nodes get lost from now on.
    pub fn lose_notices(&self, lost: bool) {
        self.loses_notices.store(lost, Ordering::Relaxed);
    }

    /// Sets whether a call on an async thread panics: over a network, such a call would hold up other requests.
    pub fn refuse_async_threads(&self, refused: bool) {
        self.refuses_async_threads.store(refused, Ordering::Relaxed);
    }

    /// Sets what happens to the calls of `get_many` from now on.
    pub fn set_reads(&self, reads: Calls) {
        self.reads.set(reads);
    }

    /// How many calls of `get_many` have begun.
    pub fn asked(&self) -> usize {
        self.reads.begun()
    }

    /// Sets what happens to the calls of `lease` from now on.
    pub fn set_lease_calls(&self, calls: Calls) {
        self.lease_calls.set(calls);
    }

    /// How many calls of `lease` have begun.
    pub fn lease_calls(&self) -> usize {
        self.lease_calls.begun()
    }

    fn check_thread(&self) {
        if self.refuses_async_threads.load(Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Panics on an async thread, and on no other.
            runtime.block_on(async {});
        }
    }

    /// When a lease ends, if somebody has taken it.
    pub fn lease_end(&self, name: &str) -> Option<Duration> {
        self.leases.lock().get(name).map(|(_, end)| *end)
    }

    /// Begins a new epoch.
    pub fn fail_over(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// What is stored now.
    pub fn entries(&self) -> Vec<Entry> {
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let limit = PageLimit { entries: usize::MAX, bytes: usize::MAX };
        self.entries.scan(&all, Direction::Forward, limit).expect("memory can be read")
    }

    /// A failover to an earlier state: loses everything but `entries`.
    pub fn fail_over_to(&self, entries: Vec<Entry>) {
        let mut batch = Batch::new();
        for (key, _) in self.entries() {
            batch.delete(key);
        }
        for (key, value) in entries {
            batch.put(key, value);
        }
        self.entries.commit(batch).expect("nothing is expected");
        self.fail_over();
    }
}

impl Node {
    /// Begins a call, as a store over a network does.
    fn on_a_thread<T: Send + 'static>(&self, call: impl FnOnce(&Node) -> Result<T> + Send + 'static) -> Later<T> {
        let node = Node { cluster: self.cluster.clone(), own: self.own.clone(), number: self.number };
        let called = tokio::task::spawn_blocking(move || call(&node));
        Box::pin(
            async move { called.await.unwrap_or_else(|_| Err(StoreError::Down("a call has panicked".to_owned()))) },
        )
    }
}

impl Store for Node {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.cluster.check_thread();
        self.cluster.reads.pass()?;
        self.cluster.entries.get_many(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.cluster.check_thread();
        self.cluster.entries.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.cluster.check_thread();
        let mark = batch.mark;
        let mut all = self.cluster.marks.lock();
        self.cluster.entries.commit(batch)?;
        if let Some(mark) = mark {
            let own = &mut all[self.number];
            own.marks.insert(mark.database, mark.sequence);
            own.used = self.cluster.clock.since_epoch();
            own.number += 1;
        }
        Ok(())
    }

    fn begin_get_each(&self, keys: Vec<Vec<u8>>) -> Later<Vec<Result<Option<Vec<u8>>>>> {
        self.on_a_thread(move |node| node.get_each(&keys))
    }

    fn begin_commit(&self, batch: Batch) -> Later<()> {
        self.on_a_thread(move |node| node.commit(batch))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn tell(&self, moved: &[u64]) {
        if self.cluster.loses_notices.load(Ordering::Relaxed) {
            return;
        }
        let nodes = self.cluster.nodes.read().clone();
        for node in nodes.iter().filter(|node| !Arc::ptr_eq(node, &self.own)) {
            if let Some(hear) = &*node.0.read() {
                hear(moved);
            }
        }
    }

    fn listen(&self, hear: Hear) {
        *self.own.0.write() = Some(hear);
    }

    fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.cluster.check_thread();
        self.cluster.lease_calls.pass()?;
        let now = self.cluster.clock.since_epoch();
        let mut leases = self.cluster.leases.lock();
        if leases.get(name).is_some_and(|(holder, end)| holder != owner && *end > now) {
            return Ok(false);
        }
        leases.insert(name.to_owned(), (owner.to_owned(), now + ttl));
        Ok(true)
    }

    fn announced(&self, marks: &[Mark]) {
        let own = &mut self.cluster.marks.lock()[self.number].marks;
        own.retain(|database, sequence| {
            !marks.iter().any(|mark| mark.database == *database && mark.sequence >= *sequence)
        });
    }

    fn left_marks(&self) -> Result<LeftMarks> {
        self.cluster.check_thread();
        let now = self.cluster.clock.since_epoch();
        let mut left = LeftMarks::default();
        for (node, marks) in self.cluster.marks.lock().iter_mut().enumerate() {
            if !marks.marks.is_empty() && marks.used + LEFT < now {
                marks.used = now;
                left.databases.extend(marks.marks.keys());
                left.places.push((node as i64, marks.number));
            }
        }
        Ok(left)
    }

    fn settle_marks(&self, left: LeftMarks) -> Result<()> {
        self.cluster.check_thread();
        let mut all = self.cluster.marks.lock();
        for (node, number) in left.places {
            let marks = &mut all[node as usize];
            if marks.number == number {
                marks.marks.clear();
            }
        }
        Ok(())
    }

    fn epoch(&self) -> Result<u64> {
        Ok(self.cluster.epoch.load(Ordering::Relaxed))
    }

    fn engine(&self) -> &'static str {
        "memory"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_one_owner_until_it_ends_or_is_given_up() {
        let clock = Clock::fixed(Duration::from_secs(100));
        let (one, two) = Cluster::new(clock.clone()).two();
        let minute = Duration::from_secs(60);
        assert!(one.lease("sweep", "one", minute).unwrap());
        assert!(one.lease("sweep", "one", minute).unwrap(), "the owner renews it");
        assert!(!two.lease("sweep", "two", minute).unwrap());
        assert!(!two.lease("sweep", "two", Duration::ZERO).unwrap(), "only the owner gives it up");
        assert!(two.lease("compaction", "two", minute).unwrap(), "another lease");
        clock.advance(minute);
        assert!(two.lease("sweep", "two", minute).unwrap());
        assert!(two.lease("sweep", "two", Duration::ZERO).unwrap());
        assert!(one.lease("sweep", "one", minute).unwrap());
    }

    #[test]
    fn the_other_nodes_hear_of_what_one_tells() {
        let cluster = Cluster::new(Clock::system());
        let (one, two) = cluster.two();
        let heard = Arc::new(Mutex::new(Vec::new()));
        for (name, store) in [("one", &one), ("two", &two)] {
            let heard = heard.clone();
            store.listen(Box::new(move |moved| heard.lock().push((name, moved.to_vec()))));
        }
        one.tell(&[1, 2]);
        cluster.lose_notices(true);
        two.tell(&[3]);
        assert_eq!(*heard.lock(), [("two", vec![1, 2])]);
    }
}
