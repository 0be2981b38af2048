//! Brings an index up to the database's sequence.
//!
//! ```text
//! page of changes > bodies > map functions on all threads ┐   maps the next batches ahead (`ahead`)
//!                                                          └> rows > commits, in order of changes (`piece`)
//! finally: counts and reduces the blocks whose rows changed (`blocks`)
//! ```
//!
//! Memory is bounded even if documents emit much: `ahead` limits what waits for the writer, `piece` what one
//! commit holds. A document that emits more than the limit has no rows, and the log names it.
//!
//! Only one update of an index runs at a time; queries that arrive meanwhile wait for it. Each commit
//! contains rows, references and progress, and requires that the stored progress is the one it started from,
//! so that no other change can come in between. Commits are not synced individually (see
//! `query::index::lsm`): an update after a crash repeats what was lost.
//!
//! The reference of a document leads to its old rows. A new index has no references, so documents up to the
//! sequence at which its build began are not looked up.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use serde_json::Value;

use super::ahead::{Ahead, Answer, BATCH_BYTES};
use super::blocks::Blocks;
use super::definition::{Definition, View};
use super::grouped::Grouped;
use super::index::{Index, commit};
use super::layout::Meta;
use super::params::Plan;
use super::piece::{self, Piece, Rows};
use super::read::{MapRows, Reading};
use crate::blocking::blocking;
use crate::db::Database;
use crate::db::read::render;
use crate::db::record::{BodyRecord, Info, LeafRow};
use crate::error::{Error, Result};
use crate::query::design;
use crate::query::index::snapshot::{Histories, Name};
use crate::query::mango::planner;
use crate::query::script::{Mapped, Pending, Scripts, TOO_LARGE, check_language};
use crate::rev::Body;
use crate::store::{Batch, Direction, PageLimit};

/// Callback with the progress of an update: changes done, changes in total.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Maximum number of changes in a page, and the approximate maximum size of their documents in bytes.
const STEP: usize = 1000;
const STEP_BYTES: u64 = 4 << 20;
/// Maximum number of steps between the reader and the writer.
const AHEAD: usize = 64;
/// Up to this many changes, the update uses no separate reader thread.
const FEW: u64 = 64;
/// Maximum number of cached definitions.
const KEPT: usize = 512;
/// Maximum number of conflicting commits in an update.
const MOST_CONFLICTS: usize = 10;

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
}

impl Views {
    pub fn new(scripts: Scripts) -> Views {
        Views { scripts, turns: Mutex::default(), definitions: Mutex::default(), histories: Histories::default() }
    }

    fn index(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Index {
        let history = self.histories.of((database.number(), definition.signature), database.store());
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
        let build = Build { index: index.clone(), scripts: self.scripts.clone(), progress };
        // The closure holds the lock until the build ends, even if the request is cancelled.
        let result = blocking(move || {
            let _held = held;
            build.run()?;
            Reading::begin(&build.index)
        })
        .await;
        drop(waiting);
        drop(turn);
        if index.history.entries().needs_tending() {
            // Runs in the background: the result does not depend on it.
            tokio::task::spawn_blocking(move || {
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

    /// Opens an index for reading without updating it.
    pub async fn as_it_stands(&self, database: &Arc<Database>, definition: &Arc<Definition>) -> Result<Reading> {
        let index = self.index(database, definition);
        blocking(move || Reading::begin(&index)).await
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

/// A page of changes.
struct Page {
    /// The sequence of the index after this page.
    sequence: u64,
    /// Number of documents in the whole page that are mapped.
    living: usize,
    /// Changes that have not been taken yet.
    left: VecDeque<Changed>,
}

impl Page {
    fn new(sequence: u64, left: VecDeque<Changed>) -> Page {
        let living = left.iter().filter(|change| change.body().is_some()).count();
        Page { sequence, living, left }
    }
}

/// Consecutive changes, and the batch in which their documents are mapped.
struct Step {
    /// The sequence of the index after this step.
    sequence: u64,
    documents: Vec<Changed>,
    /// For each document its index in the answer, or `None` if it is not mapped.
    places: Vec<Option<usize>>,
    answer: Option<Arc<Answer>>,
}

/// A changed document: its sequence, its id, and its leaves with the winner first.
struct Changed {
    sequence: u64,
    id: String,
    leaves: Vec<LeafRow>,
}

impl Changed {
    /// The winner's body, unless the document is deleted.
    fn body(&self) -> Option<Body> {
        self.leaves.first().filter(|leaf| !leaf.deleted).and_then(|leaf| leaf.body)
    }
}

/// A document to map: its id, its leaves with the winner first, and the winner's body.
struct Living<'a> {
    id: &'a str,
    leaves: &'a [LeafRow],
    body: BodyRecord,
}

/// The result of mapping a document alone.
enum Alone {
    Mapped(Mapped),
    Gone,
    /// It exceeds the limit even alone.
    TooLarge,
}

struct Build {
    index: Index,
    scripts: Scripts,
    progress: Progress,
}

impl Build {
    /// Joins small blocks, without updating the index, and merges its entries into one run.
    fn compact(&self) -> Result<()> {
        let (stored, Some(meta)) = self.index.meta()? else { return Ok(()) };
        let blocks = Blocks { index: &self.index, scripts: &self.scripts };
        blocks.join_small(stored, meta)?;
        let (stored, Some(meta)) = self.index.meta()? else { return Ok(()) };
        // If another change comes first, the next update settles the index.
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
                // The index is new, has an older format, or missed purges that the database no longer knows:
                // rebuild it.
                _ => {
                    // A reader may have opened an empty index without updating it: it keeps reading nothing.
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
                    return Err(Error::Internal("something else keeps changing a view index during its update".into()));
                }
            }
        }
    }

    /// Applies all changes up to `target`. Returns `false` if something else has changed the index.
    fn changed(&self, stored: Option<Vec<u8>>, meta: Meta, target: u64) -> Result<bool> {
        let begin = meta.sequence;
        let mut ahead =
            Ahead::new(self.scripts.limits().threads, bytes_of_a_document(&meta, &self.index.database.info()));
        let next = meta.clone();
        let mut writer = Writer::new(self, stored, meta, next, begin, target);
        if target - begin <= FEW {
            let mut steps = VecDeque::new();
            for page in self.pages(begin, target) {
                let mut page = page?;
                while !page.left.is_empty() {
                    if ahead.wait(true) && !writer.write_all(steps.drain(..).map(Ok))? {
                        return Ok(false);
                    }
                    steps.push_back(self.map_some(&mut ahead, &mut page)?);
                }
            }
            return Ok(writer.write_all(steps.into_iter().map(Ok))? && writer.end(target)?);
        }
        // A separate thread reads ahead. It ends when the writer no longer receives its steps.
        std::thread::scope(|scope| {
            let (sender, steps) = mpsc::sync_channel(AHEAD);
            let reader = std::thread::Builder::new().name("index reader".into());
            let read_all = move || {
                let mut read = || {
                    for page in self.pages(begin, target) {
                        let mut page = page?;
                        while !page.left.is_empty() {
                            ahead.wait(false);
                            let step = self.map_some(&mut ahead, &mut page)?;
                            if sender.send(Ok(step)).is_err() {
                                return Ok(());
                            }
                        }
                    }
                    Ok(())
                };
                if let Err(error) = read() {
                    let _ = sender.send(Err(error));
                }
            };
            let reader = reader.spawn_scoped(scope, read_all).map_err(|error| Error::Internal(error.to_string()))?;
            let written = writer.write_all(steps.into_iter());
            if reader.join().is_err() {
                // The steps ended early, and the changes that were not read must not count as done.
                return Err(Error::Internal("the reader thread of an index update panicked".into()));
            }
            Ok(written? && writer.end(target)?)
        })
    }

    /// Applies purges. Purged documents are not among the changes, so their rows are looked up by id. Returns
    /// `false` if something else has changed the index.
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
        let sequence = meta.sequence;
        let changed = |(id, leaves)| Changed { sequence, id, leaves };
        let mut left: VecDeque<Changed> = ids.into_iter().zip(leaves).take(taken).map(changed).collect();
        left.make_contiguous().sort_unstable_by(|one, two| one.id.cmp(&two.id));
        let mut seen = None;
        left.retain(|change| seen.replace(change.id.clone()).as_ref() != Some(&change.id));
        let mut ahead = Ahead::new(self.scripts.limits().threads, bytes_of_a_document(&meta, &database.info()));
        // `begun_at: 0` makes the writer look up all old rows. If this is interrupted, the next update repeats the
        // purges, and the references lead to what was committed before.
        let next = Meta { begun_at: 0, ..meta.clone() };
        let mut writer = Writer::new(self, stored, meta, next, sequence, sequence);
        let mut steps = VecDeque::new();
        let mut page = Page::new(sequence, left);
        while !page.left.is_empty() {
            if ahead.wait(true) && !writer.write_all(steps.drain(..).map(Ok))? {
                return Ok(false);
            }
            steps.push_back(self.map_some(&mut ahead, &mut page)?);
        }
        if !writer.write_all(steps.into_iter().map(Ok))? {
            return Ok(false);
        }
        writer.next.purge_sequence = purge_sequence;
        writer.end(sequence)
    }

    /// Returns the pages of changes up to `target`.
    fn pages(&self, begin: u64, target: u64) -> impl Iterator<Item = Result<Page>> {
        let mut after = begin;
        std::iter::from_fn(move || {
            if after >= target {
                return None;
            }
            let page = self.page(after, target);
            after = page.as_ref().map_or(target, |page| page.sequence);
            Some(page)
        })
    }

    fn page(&self, after: u64, target: u64) -> Result<Page> {
        let database = &self.index.database;
        let info = database.info();
        let average = info.external / (info.documents + 1) + 1;
        let step = usize::try_from(STEP_BYTES / average).unwrap_or(STEP).clamp(8, STEP);
        let mut page = database.changes(after, Direction::Forward, PageLimit::entries(step))?;
        // The average may be small although many large documents follow each other here.
        let sizes = page.rows.iter().map(|(_, row)| row.winner().body.map_or(0, |body| body.bytes));
        page.rows.truncate(fitting(sizes));
        // No changes up to the target: those documents have changed since and have later sequences.
        let sequence = page.rows.last().map_or(target, |(sequence, _)| *sequence);
        let include_design = self.index.definition.include_design;
        let rows = page.rows.into_iter().map(|(sequence, row)| Changed { sequence, id: row.id, leaves: row.leaves });
        let rows = rows.filter(|change| include_design || !change.id.starts_with("_design/"));
        Ok(Page::new(sequence, rows.collect()))
    }

    /// Takes the next documents of a page as a step and starts to map them.
    fn map_some(&self, ahead: &mut Ahead, page: &mut Page) -> Result<Step> {
        let (sequence, left) = (page.sequence, &mut page.left);
        let maps = !self.index.definition.maps.is_empty();
        let most = ahead.batch(page.living);
        let (mut documents, mut living, mut bytes) = (Vec::new(), 0, 0);
        while let Some(change) = left.pop_front() {
            if let Some(body) = change.body() {
                if maps && living > 0 && (living >= most || bytes + body.bytes > BATCH_BYTES) {
                    left.push_front(change);
                    break;
                }
                (living, bytes) = (living + 1, bytes + body.bytes);
            }
            documents.push(change);
        }
        let sequence = if left.is_empty() { sequence } else { documents.last().map_or(sequence, |last| last.sequence) };
        let mut step = Step { sequence, places: vec![None; documents.len()], documents, answer: None };
        if maps && living > 0 {
            let living = self.living(&step.documents, &mut step.places)?;
            step.answer = Some(match &self.index.definition.mango {
                None => ahead.add(living.len(), self.map(&living)),
                Some(indexes) => ahead.add_made(living.len(), self.indexed(indexes, &living)),
            });
        }
        Ok(step)
    }

    /// Returns the documents to map. Sets the place of each in `places`.
    fn living<'a>(&self, documents: &'a [Changed], places: &mut [Option<usize>]) -> Result<Vec<Living<'a>>> {
        let wanted: Vec<(usize, &Changed, Body)> =
            documents.iter().enumerate().filter_map(|(at, change)| Some((at, change, change.body()?))).collect();
        let named: Vec<(&str, Body)> = wanted.iter().map(|(_, change, body)| (change.id.as_str(), *body)).collect();
        let mut living = Vec::with_capacity(wanted.len());
        for ((at, change, _), body) in wanted.iter().zip(self.index.database.bodies(&named)?) {
            // The body of an edit is gone if a later edit has replaced it. That edit is a later change.
            let Some(body) = body else { continue };
            places[*at] = Some(living.len());
            living.push(Living { id: &change.id, leaves: &change.leaves, body });
        }
        Ok(living)
    }

    fn map(&self, living: &[Living]) -> Pending<Mapped> {
        let seen = living.iter().map(|document| self.seen(document)).collect();
        self.scripts.map_batch(&self.index.definition.set, seen)
    }

    /// Maps a document of a batch that emitted too much.
    fn map_alone(&self, change: &Changed) -> Result<Alone> {
        let mut places = [None];
        let living = self.living(std::slice::from_ref(change), &mut places)?;
        if living.is_empty() {
            return Ok(Alone::Gone);
        }
        let mapped = match &self.index.definition.mango {
            None => self.map(&living).wait(),
            Some(indexes) => self.indexed(indexes, &living),
        };
        match mapped {
            Err(error) if is_too_large(&error) => Ok(Alone::TooLarge),
            mapped => mapped.map(Alone::Mapped),
        }
    }

    /// Returns the rows of documents in Mango indexes: a key without a value (CouchDB:
    /// `mango_native_proc:map_doc`).
    fn indexed(&self, indexes: &[Option<planner::Index>], documents: &[Living]) -> Result<Mapped> {
        let mut mapped = Mapped::new(indexes.len());
        for document in documents {
            let mut rows = String::from("[");
            for index in indexes {
                let reason = "a view of this design document does not define an index";
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
                return Err(Error::Script { word: "InternalError".into(), reason: TOO_LARGE.into() });
            }
        }
        Ok(mapped)
    }

    /// Returns a document as map functions see it: with its conflicts, and with its sequence if the
    /// definition asks for it.
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

    /// Removes the whole index, its progress first.
    fn clear(&self) -> Result<()> {
        Ok(self.index.history.clear()?)
    }
}

/// Writes steps to the index, piece by piece.
struct Writer<'a> {
    build: &'a Build,
    /// The stored progress, encoded and decoded.
    stored: Option<Vec<u8>>,
    meta: Meta,
    /// The progress after the commit of the piece.
    next: Meta,
    piece: Piece,
    begin: u64,
    target: u64,
    /// Whether the old rows of the documents in the piece were looked up.
    looks_up: bool,
}

impl<'a> Writer<'a> {
    fn new(build: &'a Build, stored: Option<Vec<u8>>, meta: Meta, next: Meta, begin: u64, target: u64) -> Writer<'a> {
        (build.progress)(0, target.saturating_sub(begin));
        let piece = Piece::new(meta.rows.clone());
        Writer { build, stored, meta, next, piece, begin, target, looks_up: false }
    }

    /// Writes all steps. Returns `false` if something else has changed the index.
    fn write_all(&mut self, steps: impl Iterator<Item = Result<Step>>) -> Result<bool> {
        for step in steps {
            if !self.write(step?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, step: Step) -> Result<bool> {
        let index = &self.build.index;
        // A new index has no rows of documents that changed before its build began.
        let looks_up = self.next.begun_at == 0 || step.sequence > self.next.begun_at;
        // A lookup does not see uncommitted rows, so the document must not be in the piece.
        let is_twice = looks_up && (!self.looks_up || step.documents.iter().any(|change| self.piece.has(&change.id)));
        self.looks_up = looks_up;
        if is_twice && !self.commit()? {
            return Ok(false);
        }
        let mapped = match step.answer.as_ref().map(|answer| answer.take()).transpose() {
            Err(error) if is_too_large(&error) => None,
            mapped => Some(mapped?),
        };
        let keys: Vec<Vec<u8>> = step.documents.iter().map(|change| index.layout.document(&change.id)).collect();
        let old = match looks_up {
            true => index.get_many(&keys)?,
            false => vec![None; keys.len()],
        };
        for (((change, place), key), old) in step.documents.iter().zip(&step.places).zip(keys).zip(old) {
            let alone = match (&mapped, place) {
                (None, Some(_)) => self.build.map_alone(change)?,
                _ => Alone::Gone,
            };
            let rows = match (&mapped, place, &alone) {
                (Some(Some(mapped)), Some(at), _) => Some(Rows { mapped, at: *at }),
                (_, _, Alone::Mapped(mapped)) => Some(Rows { mapped, at: 0 }),
                _ => None,
            };
            let refused = matches!(alone, Alone::TooLarge).then(piece::too_large);
            if !self.add(change, key, old, rows, refused)? {
                return Ok(false);
            }
        }
        self.next.sequence = step.sequence;
        Ok(true)
    }

    /// Adds a document to the piece. `refused`: the reason if it is skipped.
    fn add(
        &mut self,
        change: &Changed,
        key: Vec<u8>,
        old: Option<Vec<u8>>,
        rows: Option<Rows>,
        mut refused: Option<String>,
    ) -> Result<bool> {
        let index = &self.build.index;
        let (mut bytes, mut rows) = (0, rows);
        if let Some(Rows { mapped, at }) = rows {
            let (size, too_many) = piece::bytes_of(index, &change.id, Rows { mapped, at });
            if let Some(reason) = mapped.skipped(at) {
                (rows, refused) = (None, Some(reason.to_owned()));
            } else if too_many.is_some() {
                (rows, refused) = (None, too_many);
                self.build.scripts.count_skipped();
            } else {
                bytes = size;
            }
        } else if refused.is_some() {
            self.build.scripts.count_skipped();
        }
        if self.piece.goes_before(bytes) && !self.commit()? {
            return Ok(false);
        }
        self.piece.add(index, &change.id, key, old, rows, bytes)?;
        if self.looks_up {
            self.piece.looked_up(&change.id);
        }
        if let Some(reason) = &refused {
            self.piece.skip(&change.id, reason);
        }
        self.next.sequence = change.sequence;
        Ok(!self.piece.is_full() || self.commit()?)
    }

    /// Commits the piece and the progress.
    fn commit(&mut self) -> Result<bool> {
        let (build, index) = (self.build, &self.build.index);
        self.next.rows.clone_from(&self.piece.rows);
        let piece = std::mem::replace(&mut self.piece, Piece::new(self.next.rows.clone()));
        let (batch, changed) = piece.finish(&Blocks { index, scripts: &build.scripts })?;
        self.next.settled &= !changed;
        if self.next != self.meta {
            if !commit(index, self.stored.take(), &self.next, batch)? {
                return Ok(false);
            }
            self.stored = Some(self.next.encode());
            self.meta.clone_from(&self.next);
            index.history.entries().relieve()?;
        }
        let done = self.next.sequence.saturating_sub(self.begin);
        let all = self.target.saturating_sub(self.begin);
        (build.progress)(done.min(all), all);
        if index.database.is_gone() { Err(Error::NoDatabase) } else { Ok(true) }
    }

    /// Commits the rest. The index has then reached `target`, or a later sequence.
    fn end(&mut self, target: u64) -> Result<bool> {
        self.next.sequence = self.next.sequence.max(target);
        self.commit()
    }
}

/// Whether the documents of a batch together emitted too much.
fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::Script { reason, .. } if reason == TOO_LARGE)
}

/// Returns the average size of a document's rows in the index, in bytes.
fn bytes_of_a_document(meta: &Meta, info: &Info) -> usize {
    let bytes: u64 = meta.rows.iter().map(|(rows, bytes)| 16 * rows + bytes).sum();
    usize::try_from(bytes / (info.documents + 1)).unwrap_or(usize::MAX)
}

/// Returns how many documents of these sizes make a page: about [`STEP_BYTES`], but at least one.
fn fitting(sizes: impl Iterator<Item = u64>) -> usize {
    let before = |sum: &mut u64, size: u64| {
        let before = *sum;
        *sum = sum.saturating_add(size);
        Some(before)
    };
    sizes.scan(0, before).take_while(|before| *before < STEP_BYTES).count()
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
