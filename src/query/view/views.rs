//! The views of a server: cached definitions, the build lock of each index, and queries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::build::Build;
use super::definition::{Definition, View};
use super::grouped::Grouped;
use super::index::Index;
use super::mapping::Mapper;
use super::params::Plan;
use super::read::{MapRows, Reading};
use super::uses::Uses;
use super::writer::Progress;
use crate::blocking::blocking;
use crate::db::Database;
use crate::error::Result;
use crate::query::design;
use crate::query::index::snapshot::{Histories, Name};
use crate::query::script::{Scripts, check_language};

/// Maximum number of cached definitions.
const KEPT: usize = 512;

/// The build lock of one index, and the number of requests that wait for it.
#[derive(Default)]
struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    waiting: AtomicUsize,
}

/// A reference to the build lock of an index. The last holder removes the map entry.
struct Taken<'a> {
    turns: &'a Mutex<HashMap<Name, Arc<Turn>>>,
    name: Name,
    turn: Arc<Turn>,
}

impl std::ops::Deref for Taken<'_> {
    type Target = Arc<Turn>;

    fn deref(&self) -> &Arc<Turn> {
        &self.turn
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        // Two references: the map's and this one.
        if Arc::strong_count(&self.turn) == 2 && self.turn.lock.try_lock().is_ok() {
            turns.remove(&self.name);
        }
    }
}

/// The views of a server.
pub struct Views {
    scripts: Scripts,
    turns: Mutex<HashMap<Name, Arc<Turn>>>,
    definitions: Mutex<HashMap<(u64, String, String), Arc<Definition>>>,
    histories: Histories,
    uses: Uses,
}

impl Views {
    pub fn new(scripts: Scripts) -> Views {
        Views {
            scripts,
            turns: Mutex::default(),
            definitions: Mutex::default(),
            histories: Histories::default(),
            uses: Uses::default(),
        }
    }

    fn index(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Index {
        let history = self.histories.of(database, definition.signature);
        Index::new(database.clone(), definition.clone(), history)
    }

    /// Returns the views of the design document with this id (`_design/...`). Blocks on the store.
    ///
    /// # Errors
    /// `Missing`, `Deleted`; `Script` for an invalid reduce function.
    pub fn definition(&self, database: &Database, id: &str) -> Result<Arc<Definition>> {
        let design = design::load(database, id)?;
        let name = (database.number(), id.to_owned(), design.rev.clone());
        if let Some(definition) = self.definitions.lock().get(&name) {
            return Ok(definition.clone());
        }
        let definition = Arc::new(Definition::read(&design, database.is_partitioned())?);
        let mut kept = self.definitions.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(name, definition.clone());
        Ok(definition)
    }

    /// Brings an index up to the database's current sequence and opens it for reading.
    ///
    /// # Errors
    /// `Script` for an unsupported language, and for a map function that does not compile or exceeds its
    /// limits.
    pub async fn update(
        &self,
        database: &Arc<Database>,
        definition: &Arc<Definition>,
        progress: Progress,
    ) -> Result<Reading> {
        if definition.mango.is_none() {
            check_language(&definition.language)?;
        }
        let index = self.index(database, definition);
        {
            let index = index.clone();
            let current = blocking(move || {
                let target = index.database.info();
                let reading = Reading::begin(&index)?;
                let meta = &reading.meta;
                let current =
                    meta.settled && meta.sequence >= target.sequence && meta.purge_sequence >= target.purge_sequence;
                Ok(current.then_some(reading))
            });
            if let Some(reading) = current.await? {
                return Ok(reading);
            }
        }
        let name = (database.number(), definition.signature);
        let turn = self.turn(name);
        let waiting = Waiting::begin(&turn);
        let held = turn.lock.clone().lock_owned().await;
        let mapper = Mapper { index: index.clone(), scripts: self.scripts.clone() };
        let build = Build { mapper, progress };
        // The closure holds the lock until the build ends, even if the request is cancelled.
        let result = blocking(move || {
            let _held = held;
            build.run()?;
            Reading::begin(&build.mapper.index)
        })
        .await;
        drop(waiting);
        drop(turn);
        if index.history.entries().needs_tending() {
            // Runs in the background: the result does not depend on it.
            crate::blocking::spawn_blocking(move || {
                if let Err(error) = index.history.entries().tend() {
                    tracing::warn!("cannot merge the runs of an index, the next update will retry: {error}");
                }
            });
        }
        result
    }

    /// Compacts an index: joins small blocks and removes replaced entries.
    pub async fn compact(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<()> {
        let index = self.index(database, definition);
        let turn = self.turn((database.number(), definition.signature));
        let held = turn.lock.clone().lock_owned().await;
        let mapper = Mapper { index, scripts: self.scripts.clone() };
        let build = Build { mapper, progress: Arc::new(|_, _| {}) };
        blocking(move || {
            let _held = held;
            build.compact()
        })
        .await
    }

    fn turn(&self, name: Name) -> Taken<'_> {
        let turn = self.turns.lock().entry(name).or_default().clone();
        Taken { turns: &self.turns, name, turn }
    }

    /// Opens an index for reading without updating it.
    pub async fn as_it_stands(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<Reading> {
        let index = self.index(database, definition);
        blocking(move || Reading::begin(&index)).await
    }

    /// As [`Views::as_it_stands`]. Blocks on the store.
    pub fn read_as_it_stands(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<Reading> {
        Reading::begin(&self.index(database, definition))
    }

    /// Counts a query of an index at `now`, in milliseconds since 1970.
    pub fn count_use(&self, database: &Database, definition: &Definition, now: u64) {
        self.uses.count((database.number(), definition.signature), now);
    }

    /// How often an index was queried since the server started, and the time of the last query in milliseconds since
    /// 1970. `None` if its count was dropped.
    pub fn uses(&self, database: &Database, definition: &Definition) -> Option<(u64, u64)> {
        self.uses.of(&(database.number(), definition.signature))
    }

    /// The open indexes with their entries.
    pub(crate) fn histories(&self) -> &Histories {
        &self.histories
    }

    /// Returns how many requests wait for an update of an index, and whether an update is running.
    pub fn activity(&self, database: &Database, definition: &Definition) -> (usize, bool) {
        let turns = self.turns.lock();
        turns
            .get(&(database.number(), definition.signature))
            .map_or((0, false), |turn| (turn.waiting.load(Ordering::Relaxed), turn.lock.try_lock().is_err()))
    }

    /// Returns the rows of a map query.
    pub fn map_rows(&self, reading: Reading, view: View, plan: &Plan) -> MapRows {
        MapRows::new(reading, view, plan)
    }

    /// Returns the rows of a reduce query. `name` is the name of the view.
    pub fn grouped(&self, reading: Reading, view: View, plan: &Plan, name: &str) -> Grouped {
        let context = format!("{}/_view/{name}", reading.index.definition.id);
        Grouped::new(reading.index, self.scripts.clone(), view, plan, context)
    }
}

/// Counts a request that waits for the build lock.
struct Waiting(Arc<Turn>);

impl Waiting {
    fn begin(turn: &Arc<Turn>) -> Waiting {
        turn.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(turn.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
