//! Brings an index up to the database's sequence.
//!
//! ```text
//! page of changes > bodies > map functions on all threads ┐   the next pages are being mapped
//!                                                          └> rows > one commit, in the order of the pages
//! then: blocks whose rows changed are counted and reduced (`blocks`)
//! ```
//!
//! One update of an index runs at a time; queries that come meanwhile wait for it. Each commit holds rows, references and
//! progress and expects the progress it began from, so that nothing else can come between. Commits are not synced by
//! themselves (see `packed`): what is lost with a crash is made again.
//!
//! A document's old rows are found by its reference. An index that is begun has none: documents up to the sequence
//! at which it was begun are then not looked up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use serde_json::Value;

use super::blocks::{Blocks, Change};
use super::definition::{Definition, MapFunction, View};
use super::grouped::Grouped;
use super::layout::{self, Meta, Reference};
use super::params::Plan;
use super::read::{Index, MapRows, Reading};
use super::row;
use super::skipped::Skipped;
use crate::db::record::{BodyRecord, LeafRow};
use crate::db::{Database, blocking, partition_of, render};
use crate::error::{Error, Result};
use crate::json::raw_sort_key;
use crate::query::design;
use crate::query::history::{Histories, Name};
use crate::query::planner;
use crate::query::script::{Mapped, Pending, Scripts, check_language};
use crate::rev::Body;
use crate::store::{Batch, Direction, PageLimit, StoreError};

/// Told how far an update is: changes done, changes in all.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Changes of one commit at most, and about how many bytes of documents they may be.
const STEP: usize = 1000;
const STEP_BYTES: u64 = 4 << 20;
/// Steps that are read and being mapped beside the one being committed.
const AHEAD: usize = 4;
/// Documents of one call of the map functions at most.
const MAPPED_AT_ONCE: usize = 100;
/// Definitions kept; beyond this they are read again.
const KEPT: usize = 512;
/// Commits that may find that another came first.
const MOST_CONFLICTS: usize = 10;

/// Updates of one index, one after the other.
#[derive(Default)]
struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    waiting: AtomicUsize,
}

/// A turn that is waited for or had; forgotten with the last one who does.
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
        // The map has it, and this.
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
}

impl Views {
    pub fn new(scripts: Scripts) -> Views {
        Views { scripts, turns: Mutex::default(), definitions: Mutex::default(), histories: Histories::default() }
    }

    fn index(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Index {
        let history = self.histories.of((database.number(), definition.signature), database.store());
        Index::new(database.clone(), definition.clone(), history)
    }

    /// The views of a design document, by its id, `_design/...`. Blocks on the store.
    ///
    /// # Errors
    /// `Missing`, `Deleted`; `Script`: a reduce function that is none.
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

    /// Brings an index up to the database's sequence of this moment, and begins to read it.
    ///
    /// # Errors
    /// `Script`: a language that has no query server here, or a map function that does not compile, or does not end.
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
        let build = Build { index: index.clone(), scripts: self.scripts.clone(), progress };
        // The turn goes into the work itself: it ends with it, also when nobody waits for it any more.
        let result = blocking(move || {
            let _held = held;
            build.run()?;
            Reading::begin(&build.index)
        })
        .await;
        drop(waiting);
        drop(turn);
        if index.history.entries().needs_tending() {
            // Nobody waits for this.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = index.history.entries().tend() {
                    tracing::warn!("an index was not merged, which the next update tries again: {error}");
                }
            });
        }
        result
    }

    /// Compacts an index: joins blocks that have become small, and lets go of what was replaced.
    pub async fn compact(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<()> {
        let index = self.index(database, definition);
        let turn = self.turn((database.number(), definition.signature));
        let held = turn.lock.clone().lock_owned().await;
        let build = Build { index, scripts: self.scripts.clone(), progress: Arc::new(|_, _| {}) };
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

    /// Begins to read an index as it stands.
    pub async fn as_it_stands(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<Reading> {
        let index = self.index(database, definition);
        blocking(move || Reading::begin(&index)).await
    }

    /// The entries of all indexes.
    pub(super) fn histories(&self) -> &Histories {
        &self.histories
    }

    /// How many requests wait for an update of an index, and whether one runs.
    pub fn activity(&self, database: &Database, definition: &Definition) -> (usize, bool) {
        let turns = self.turns.lock();
        turns
            .get(&(database.number(), definition.signature))
            .map_or((0, false), |turn| (turn.waiting.load(Ordering::Relaxed), turn.lock.try_lock().is_err()))
    }

    /// The rows of a map query.
    pub fn map_rows(&self, reading: Reading, view: View, plan: &Plan) -> MapRows {
        MapRows::new(reading, view, plan)
    }

    /// The rows of a reduce query. `name` is that of the view.
    pub fn grouped(&self, reading: Reading, view: View, plan: &Plan, name: &str) -> Grouped {
        let context = format!("{}/_view/{name}", reading.index.definition.id);
        Grouped::new(reading.index, self.scripts.clone(), view, plan, context)
    }
}

/// One request that waits for a turn.
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

/// A page of changes whose documents are being mapped.
struct Step {
    /// The sequence that the index is at afterwards.
    sequence: u64,
    ids: Vec<String>,
    /// For each id which batch has its rows, and where in it.
    places: Vec<Option<(usize, usize)>>,
    batches: Vec<Batched>,
}

/// What is emitted for a batch of documents.
enum Batched {
    Script(Pending<Mapped>),
    Mango(Mapped),
}

impl Batched {
    fn wait(self) -> Result<Mapped> {
        match self {
            Batched::Script(pending) => pending.wait(),
            Batched::Mango(mapped) => Ok(mapped),
        }
    }
}

/// A living document: its id, its leaves, the winner's first, and that one's body.
struct Living<'a> {
    id: &'a str,
    leaves: &'a [LeafRow],
    body: BodyRecord,
}

struct Build {
    index: Index,
    scripts: Scripts,
    progress: Progress,
}

impl Build {
    /// Joins blocks that have become small, as the index stands, and makes one run of its entries.
    fn compact(&self) -> Result<()> {
        let (stored, Some(meta)) = self.index.meta()? else { return Ok(()) };
        let blocks = Blocks { index: &self.index, scripts: &self.scripts };
        blocks.join_small(stored, meta)?;
        let (stored, Some(meta)) = self.index.meta()? else { return Ok(()) };
        // If something else comes first, the next update settles.
        blocks.settle(stored, meta)?;
        Ok(self.index.history.entries().compact()?)
    }
}

impl Build {
    fn run(&self) -> Result<()> {
        let database = &self.index.database;
        let target = database.info();
        let mut conflicts = 0;
        loop {
            if database.is_gone() {
                return Err(Error::NoDatabase);
            }
            let (stored, meta) = self.index.meta()?;
            let done = match meta {
                Some(meta) if meta.purge_sequence >= target.forgotten_purges => {
                    if meta.purge_sequence < target.purge_sequence {
                        self.purged(stored, meta, target.purge_sequence)?
                    } else if meta.sequence < target.sequence {
                        self.changed(stored, meta, target.sequence)?
                    } else if !meta.settled {
                        let blocks = Blocks { index: &self.index, scripts: &self.scripts };
                        blocks.settle(stored, meta)?
                    } else {
                        return Ok(self.index.history.entries().rest()?);
                    }
                }
                // New, of an older version, or it has missed purges that are forgotten by now: begin anew.
                _ => {
                    // Whoever reads a new index, as it stands, goes on reading nothing.
                    if stored.is_some() {
                        self.clear()?;
                    }
                    let meta = Meta {
                        sequence: 0,
                        purge_sequence: target.purge_sequence,
                        begun_at: target.sequence,
                        settled: true,
                        rows: vec![(0, 0); self.index.definition.maps.len()],
                    };
                    commit(&self.index, None, &meta, Batch::new())?
                }
            };
            if !done {
                conflicts += 1;
                if conflicts > MOST_CONFLICTS {
                    return Err(Error::Internal("a view index is changed by something else at the same time".into()));
                }
            }
        }
    }

    /// All changes up to `target`. False: something else has changed the index.
    fn changed(&self, stored: Option<Vec<u8>>, meta: Meta, target: u64) -> Result<bool> {
        let begin = meta.sequence;
        let read = |after: &mut u64| {
            if *after >= target {
                return None;
            }
            let step = self.read(*after, target);
            *after = step.as_ref().map_or(target, |step| step.sequence);
            Some(step)
        };
        if target - begin <= STEP as u64 {
            let mut after = begin;
            return self.write_all(stored, meta, target, std::iter::from_fn(|| read(&mut after)));
        }
        // A thread of its own reads ahead. It ends when nobody takes its steps any more.
        std::thread::scope(|scope| {
            let (sender, steps) = mpsc::sync_channel(AHEAD);
            let reader = std::thread::Builder::new().name("index reader".into());
            let read_all = move || {
                let mut after = begin;
                while let Some(step) = read(&mut after) {
                    if sender.send(step).is_err() {
                        return;
                    }
                }
            };
            reader.spawn_scoped(scope, read_all).map_err(|error| Error::Internal(error.to_string()))?;
            self.write_all(stored, meta, target, steps.into_iter())
        })
    }

    /// Writes the steps up to `target`. False: something else has changed the index.
    fn write_all(
        &self,
        mut stored: Option<Vec<u8>>,
        mut meta: Meta,
        target: u64,
        steps: impl Iterator<Item = Result<Step>>,
    ) -> Result<bool> {
        let begin = meta.sequence;
        (self.progress)(0, target.saturating_sub(begin));
        for step in steps {
            let step = step?;
            let sequence = step.sequence;
            // Nothing was there before the index was begun.
            let look_up = sequence > meta.begun_at;
            let next = Meta { sequence, ..meta.clone() };
            match self.write(stored, &meta, next, step, look_up)? {
                Some((now, next)) => (stored, meta) = (Some(now), next),
                None => return Ok(false),
            }
            self.index.history.entries().relieve()?;
            (self.progress)(sequence.saturating_sub(begin).min(target - begin), target - begin);
            if self.index.database.is_gone() {
                return Err(Error::NoDatabase);
            }
        }
        Ok(true)
    }

    /// Purged documents are gone from the changes: their rows are found by id.
    fn purged(&self, stored: Option<Vec<u8>>, meta: Meta, target: u64) -> Result<bool> {
        let database = &self.index.database;
        let requests = database.purges(meta.purge_sequence, STEP / 10)?;
        let (sequences, ids): (Vec<u64>, Vec<String>) =
            requests.into_iter().map(|(sequence, request)| (sequence, request.id)).unzip();
        let leaves: Vec<Vec<LeafRow>> = ids
            .iter()
            .zip(database.records(&ids)?)
            .map(|(id, record)| record.map(|record| record.sequence_row(id).leaves).unwrap_or_default())
            .collect();
        let size = |leaves: &Vec<LeafRow>| leaves.first().and_then(|leaf| leaf.body).map_or(0, |body| body.bytes);
        let taken = fitting(leaves.iter().map(size));
        let purge_sequence = taken.checked_sub(1).map_or(target, |last| sequences[last]);
        let mut changes: Vec<(String, Vec<LeafRow>)> = ids.into_iter().zip(leaves).take(taken).collect();
        changes.sort_unstable_by(|one, two| one.0.cmp(&two.0));
        changes.dedup_by(|one, two| one.0 == two.0);
        let step = self.map(meta.sequence, changes)?;
        let next = Meta { purge_sequence, begun_at: 0, ..meta.clone() };
        Ok(self.write(stored, &meta, next, step, true)?.is_some())
    }

    /// Reads the next page of changes and has its documents mapped.
    fn read(&self, after: u64, target: u64) -> Result<Step> {
        let database = &self.index.database;
        let info = database.info();
        let average = info.external / (info.documents + 1) + 1;
        let step = usize::try_from(STEP_BYTES / average).unwrap_or(STEP).clamp(8, STEP);
        let mut page = database.changes(after, Direction::Forward, PageLimit::entries(step))?;
        // Many large ones may follow each other in a database of small ones.
        let sizes = page.rows.iter().map(|(_, row)| row.winner().body.map_or(0, |body| body.bytes));
        page.rows.truncate(fitting(sizes));
        // No rows up to the target: those documents have changed since, and come with later sequences.
        let sequence = page.rows.last().map_or(target, |(sequence, _)| *sequence);
        self.map(sequence, page.rows.into_iter().map(|(_, row)| (row.id, row.leaves)).collect())
    }

    fn map(&self, sequence: u64, mut changes: Vec<(String, Vec<LeafRow>)>) -> Result<Step> {
        let definition = &self.index.definition;
        changes.retain(|(id, _)| definition.include_design || !id.starts_with("_design/"));
        let living: Vec<usize> = (0..changes.len())
            .filter(|at| changes[*at].1.first().is_some_and(|leaf| !leaf.deleted && leaf.body.is_some()))
            .collect();
        let mut places = vec![None; changes.len()];
        let mut batches = Vec::new();
        if !definition.maps.is_empty() {
            let share = living.len().div_ceil(2 * self.scripts.limits().threads).clamp(8, MAPPED_AT_ONCE);
            for some in living.chunks(share) {
                let wanted: Vec<(&str, Body)> =
                    some.iter().filter_map(|at| Some((changes[*at].0.as_str(), changes[*at].1[0].body?))).collect();
                let bodies = self.index.database.bodies(&wanted)?;
                let mut documents = Vec::with_capacity(some.len());
                for (at, body) in some.iter().zip(bodies) {
                    // A body that is gone was of an edit that has been followed by another, which is a later change.
                    let Some(body) = body else { continue };
                    places[*at] = Some((batches.len(), documents.len()));
                    let (id, leaves) = &changes[*at];
                    documents.push(Living { id, leaves, body });
                }
                batches.push(match &definition.mango {
                    None => {
                        let seen = documents.iter().map(|document| self.seen(document)).collect();
                        Batched::Script(self.scripts.map_batch(&definition.set, seen))
                    }
                    Some(indexes) => Batched::Mango(self.indexed(indexes, &documents)?),
                });
            }
        }
        Ok(Step { sequence, ids: changes.into_iter().map(|(id, _)| id).collect(), places, batches })
    }

    /// The rows that Mango indexes have of documents: the key, and no value (CouchDB: `mango_native_proc:map_doc`).
    fn indexed(&self, indexes: &[Option<planner::Index>], documents: &[Living]) -> Result<Mapped> {
        let mut mapped = Mapped::new(indexes.len());
        for document in documents {
            let mut rows = String::from("[");
            for index in indexes {
                let reason = "a view of this design document is no definition of an index";
                let wrong = || Error::Script { word: "invalid_index".into(), reason: reason.into() };
                let index = index.as_ref().ok_or_else(wrong)?;
                let key = if index.needs_special_members() {
                    let text = self.seen(document);
                    let whole = crate::json::read(&text)
                        .map_err(|error| Error::Damaged(format!("the body of document {}: {error}", document.id)))?;
                    index.key_of(&whole)
                } else {
                    let revision = document.leaves[0].revision.to_string();
                    index.key_of_body(document.id, &revision, &document.body.json)?
                };
                if rows.len() > 1 {
                    rows.push(',');
                }
                match key {
                    Some(key) => rows.push_str(&format!("[{},null]", Value::Array(key))),
                    None => rows.push_str("[]"),
                }
            }
            rows.push(']');
            if !mapped.push(&rows) {
                return Err(Error::Internal("the keys of one batch of documents are too large".into()));
            }
        }
        Ok(mapped)
    }

    /// A document as map functions see it: with the other leaves, and its sequence if that is wanted.
    fn seen(&self, document: &Living) -> String {
        let leaves = document.leaves;
        let mut text = render::plain(document.id, &leaves[0].revision, false, &document.body);
        let local_seq = leaves[0].body.filter(|_| self.index.definition.local_seq).map(|body| body.sequence);
        if leaves.len() == 1 && local_seq.is_none() {
            return text;
        }
        text.pop();
        if let Some(sequence) = local_seq {
            text.push_str(&format!(",\"_local_seq\":{sequence}"));
        }
        for (member, deleted) in [("_conflicts", false), ("_deleted_conflicts", true)] {
            let others: Vec<String> = leaves[1..]
                .iter()
                .filter(|leaf| leaf.deleted == deleted)
                .map(|leaf| crate::json::quote(&leaf.revision.to_string()))
                .collect();
            if !others.is_empty() {
                text.push_str(&format!(",\"{member}\":[{}]", others.join(",")));
            }
        }
        text.push('}');
        text
    }

    /// Commits what a step does to the index; what is stored of its progress then. `None`: something else came first.
    fn write(
        &self,
        stored: Option<Vec<u8>>,
        before: &Meta,
        mut next: Meta,
        step: Step,
        look_up: bool,
    ) -> Result<Option<(Vec<u8>, Meta)>> {
        let index = &self.index;
        let mapped = step.batches.into_iter().map(Batched::wait).collect::<Result<Vec<Mapped>>>()?;
        let documents: Vec<Vec<u8>> = step.ids.iter().map(|id| index.layout.document(id)).collect();
        let old = match look_up {
            true => index.get_many(&documents)?,
            false => vec![None; documents.len()],
        };
        let mut batch = Batch::new();
        let reason = |place: &Option<(usize, usize)>| place.and_then(|(batch, at)| mapped[batch].skipped(at));
        let reasons = step.ids.iter().map(String::as_str).zip(step.places.iter().map(reason));
        Skipped::note(index, &mut batch, reasons, look_up)?;
        let mut changes: Vec<Vec<Change>> = index.definition.maps.iter().map(|_| Vec::new()).collect();
        for (((id, place), key), old) in step.ids.iter().zip(step.places).zip(documents).zip(old) {
            let old_value = old;
            let old = old_value.as_deref().map(layout::decode_references).transpose()?.unwrap_or_default();
            let mut gone: HashMap<(usize, Vec<u8>), u64> =
                old.into_iter().map(|old| ((old.map, old.spot), old.bytes)).collect();
            let mut references = Vec::new();
            if let Some((batch, document)) = place {
                let partition = if index.definition.partitioned { partition_of(id) } else { None };
                for (map, function) in index.definition.maps.iter().enumerate() {
                    let rows = mapped[batch].rows(document, map).into_iter().flatten();
                    for Emitted { place, key, value, emit } in in_order(function, partition, rows) {
                        let spot = layout::spot(&place, id, emit);
                        let bytes = (key.len() + value.len()) as u64;
                        let was = if gone.is_empty() { None } else { gone.remove(&(map, spot.clone())) };
                        next.rows[map].0 += u64::from(was.is_none());
                        next.rows[map].1 = (next.rows[map].1 + bytes).saturating_sub(was.unwrap_or(0));
                        let stored = row::encode(&place, id, key, value);
                        changes[map].push(Change { spot: spot.clone(), row: Some(stored), is_new: was.is_none() });
                        references.push(Reference { map, spot, bytes });
                    }
                }
            }
            for ((map, spot), bytes) in gone {
                let Some(rows) = next.rows.get_mut(map) else { continue };
                *rows = (rows.0.saturating_sub(1), rows.1.saturating_sub(bytes));
                changes[map].push(Change { spot, row: None, is_new: false });
            }
            if !references.is_empty() {
                batch.put(key, layout::encode_references(&references));
            } else if old_value.is_some() {
                batch.delete(key);
            }
        }
        let blocks = Blocks { index, scripts: &self.scripts };
        for (map, changes) in changes.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
            next.settled = false;
            blocks.apply(&mut batch, map, changes)?;
        }
        if next == *before {
            return Ok(stored.map(|stored| (stored, next)));
        }
        Ok(commit(index, stored, &next, batch)?.then(|| (next.encode(), next)))
    }

    /// Removes all of the index, its progress first.
    fn clear(&self) -> Result<()> {
        Ok(self.index.history.clear()?)
    }
}

/// How many documents of these sizes make a step: about [`STEP_BYTES`], and one at least.
fn fitting(sizes: impl Iterator<Item = u64>) -> usize {
    let before = |sum: &mut u64, size: u64| {
        let before = *sum;
        *sum = sum.saturating_add(size);
        Some(before)
    };
    sizes.scan(0, before).take_while(|before| *before < STEP_BYTES).count()
}

/// What a function emitted for a document.
struct Emitted<'a> {
    place: Vec<u8>,
    key: &'a str,
    value: &'a str,
    /// Its number among those of the same place.
    emit: u32,
}

/// The rows of a document in their order: by key, and where keys are equal by value, in the raw order.
fn in_order<'a>(
    function: &MapFunction,
    partition: Option<&str>,
    rows: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<Emitted<'a>> {
    let place = |(key, value)| Emitted { place: layout::place(function, partition, key), key, value, emit: 0 };
    let mut all: Vec<Emitted> = rows.map(place).collect();
    all.sort_by(|one, two| {
        let by_value = || raw_sort_key(one.value).cmp(&raw_sort_key(two.value));
        one.place.cmp(&two.place).then_with(by_value)
    });
    for at in 1..all.len() {
        if all[at].place == all[at - 1].place {
            all[at].emit = all[at - 1].emit + 1;
        }
    }
    all
}

/// Commits a batch together with the progress that it makes. False: the progress was not `before` any more.
pub(super) fn commit(index: &Index, before: Option<Vec<u8>>, meta: &Meta, mut batch: Batch) -> Result<bool> {
    let key = index.layout.meta();
    batch.expect(key.clone(), before);
    batch.put(key, meta.encode());
    match index.commit(batch) {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_large_documents_is_short() {
        assert_eq!(fitting([].into_iter()), 0);
        assert_eq!(fitting([1000; 900].into_iter()), 900);
        assert_eq!(fitting([10, 900 << 20, 10].into_iter()), 2);
        assert_eq!(fitting([900 << 20, 10].into_iter()), 1);
        assert_eq!(fitting([1 << 20; 1000].into_iter()), 4);
    }
}
