//! The nodes of a shared store: each writes a record about itself every few seconds and reads those of the others, so
//! that each node can list all of them. On an embedded store there is only one node.
//!
//! A node counts up its `beat`. The others treat it as gone if they have seen no new beat for a while. They do not
//! compare clocks of different machines.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::node::NODE;
use crate::error::{Error, Result};
use crate::store::{Batch, Direction, PageLimit, Store, keyspace, pages};

/// The time between two beats.
pub const BEAT: Duration = Duration::from_secs(5);
/// A node without a new beat for so long is gone.
const GONE: Duration = Duration::from_secs(20);
/// The time after which the record of a node that is gone is removed.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Maximum number of background tasks in the record of a node.
const TASKS: usize = 100;
/// Maximum number of nodes that are read: more than anybody runs.
const MOST: usize = 1000;

/// The version of the record.
const VERSION: u8 = 1;

/// The record of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    address: String,
    version: String,
    /// Milliseconds since 1970, by the node's clock.
    started: u64,
    beat: u64,
    #[serde(flatten)]
    state: State,
}

/// What changes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Milliseconds since 1970, by the node's clock.
    pub seen: u64,
    /// The last sequence of `_db_updates` that the node knows.
    pub updates: u64,
    /// The epoch of the store that the node knows.
    pub epoch: u64,
    /// Its background tasks.
    pub tasks: Vec<Value>,
}

/// Another node.
struct Known {
    record: Record,
    /// When this node has first seen that beat.
    heard: Instant,
    /// It was gone already when this node has first seen it.
    was_gone: bool,
}

/// This node and the others that it knows of.
pub struct Nodes {
    id: String,
    started: u64,
    /// Name and address; not set before it listens.
    own: OnceLock<(String, String)>,
    beat: Mutex<u64>,
    others: Mutex<BTreeMap<String, Known>>,
}

impl Nodes {
    /// `id`: unique to this process. `started`: milliseconds since 1970.
    pub fn new(id: String, started: u64) -> Nodes {
        Nodes { id, started, own: OnceLock::new(), beat: Mutex::default(), others: Mutex::default() }
    }

    /// Records the address of this node. A node of a shared store is named after its machine and port.
    pub fn listens(&self, address: std::net::SocketAddr, is_shared: bool) {
        let system = rustix::system::uname();
        let host = system.nodename().to_str().ok().filter(|host| !host.is_empty()).unwrap_or("localhost");
        let name = if is_shared { format!("settee@{host}:{}", address.port()) } else { NODE.to_owned() };
        let _ = self.own.set((name, address.to_string()));
    }

    /// The name of this node: CouchDB's for a node without a cluster, or one of its own on a shared store.
    pub fn name(&self) -> &str {
        self.own.get().map_or(NODE, |(name, _)| name)
    }

    /// The names of the live nodes, and of all nodes of the last hour. This node comes first.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let others = self.others.lock();
        let named = |only_alive: bool| {
            let others = others.values().filter(|known| !only_alive || known.is_alive());
            let mut names: Vec<String> = others.map(|known| known.record.name.clone()).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| name != self.name());
            names.insert(0, self.name().to_owned());
            names
        };
        (named(true), named(false))
    }

    /// What is known of all nodes, this one first.
    pub fn list(&self, state: State) -> Vec<Value> {
        let mut list = vec![entry(&self.record(state), true, true)];
        let others = self.others.lock();
        let mut known: Vec<&Known> = others.values().collect();
        known.sort_by(|left, right| left.record.name.cmp(&right.record.name));
        list.extend(known.into_iter().map(|known| entry(&known.record, known.is_alive(), false)));
        list
    }

    /// The background tasks of the other nodes, by their last records.
    pub fn tasks_of_others(&self) -> Vec<Value> {
        let others = self.others.lock();
        others.values().filter(|known| known.is_alive()).flat_map(|known| known.record.state.tasks.clone()).collect()
    }

    fn record(&self, mut state: State) -> Record {
        state.tasks.truncate(TASKS);
        let address = self.own.get().map(|(_, address)| address.clone()).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Record { name: self.name().to_owned(), address, version, started: self.started, beat: *self.beat.lock(), state }
    }

    /// Writes the record of this node, and reads those of the others. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn beat(&self, store: &dyn Store, state: State) -> Result<()> {
        *self.beat.lock() += 1;
        let record = self.record(state);
        let mut value = vec![VERSION];
        serde_json::to_writer(&mut value, &record).map_err(|error| Error::Internal(error.to_string()))?;
        let mut batch = Batch::new();
        batch.put(keyspace::node(&self.id), value);
        for id in self.hear(store, &record)? {
            batch.delete(keyspace::node(&id));
        }
        Ok(store.commit(batch)?)
    }

    /// Reads the records of the other nodes. Returns the ids of those that are to be removed.
    fn hear(&self, store: &dyn Store, own: &Record) -> Result<Vec<String>> {
        let mut read = Vec::new();
        for page in pages(store, keyspace::nodes(), Direction::Forward, PageLimit::entries(MOST)) {
            for (key, value) in page? {
                let id = keyspace::node_of(&key).to_owned();
                // A newer version may tell in another form.
                if let Some((&VERSION, text)) = value.split_first()
                    && let Ok(record) = serde_json::from_slice::<Record>(text)
                    && id != self.id
                    && read.len() < MOST
                {
                    read.push((id, record));
                }
            }
        }
        let mut others = self.others.lock();
        let mut before = std::mem::take(&mut *others);
        let mut surplus = Vec::new();
        for (id, record) in read {
            let age = Duration::from_millis(own.state.seen.saturating_sub(record.state.seen));
            let known = match before.remove(&id) {
                Some(known) if known.record.beat == record.beat => known,
                Some(_) => Known { record, heard: Instant::now(), was_gone: false },
                None => Known { record, heard: Instant::now(), was_gone: age > 3 * GONE },
            };
            // A node that starts again has a new id and the old name.
            let is_replaced = !known.is_alive() && known.record.name == own.name;
            if is_replaced || known.heard.elapsed() > FORGOTTEN || known.was_gone && age > FORGOTTEN {
                surplus.push(id);
            } else {
                others.insert(id, known);
            }
        }
        Ok(surplus)
    }

    /// Removes the record of this node, which stops. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn leave(&self, store: &dyn Store) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(keyspace::node(&self.id));
        Ok(store.commit(batch)?)
    }
}

impl Known {
    fn is_alive(&self) -> bool {
        !self.was_gone && self.heard.elapsed() < GONE
    }
}

fn entry(record: &Record, is_alive: bool, is_this: bool) -> Value {
    json!({
        "name": record.name,
        "this": is_this,
        "alive": is_alive,
        "address": record.address,
        "version": record.version,
        "started": record.started,
        "last_seen": record.state.seen,
        "updates_seq": record.state.updates,
        "epoch": record.state.epoch,
        "tasks": record.state.tasks.len(),
    })
}
