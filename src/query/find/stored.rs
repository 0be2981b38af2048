//! Mango indexes in the store: rows in the order of their keys, brought up to the database's sequence before a query reads
//! them. Evaluated here, never in JavaScript.
//!
//! Everything of one index begins with the database's number and the index's signature, which is made of its definition:
//! the same definition in two design documents is one index, and a changed definition is another.
//!
//! ```text
//! m                                   how far: version, collation, sequence, purge sequence
//! r <partition 0> sort key, id        version, id, the key as JSON         a row
//! d id                                <partition 0> sort key               where a document's row is
//! ```
//!
//! A step of an update reads a page of the changes, makes their keys on all cores, and commits rows and progress in one
//! batch that expects the progress it began from: two updates at once do work twice, never wrongly. The next step is read
//! while this one is written. The batch is not
//! synced by itself: what is lost with a crash is made again.
//!
//! Sort keys are cut at [`MAX_SORT_KEY`] bytes. Ranges are then too wide, never too narrow, and the selector decides; only
//! the order among values that agree that far is by id.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bookmark::Bookmark;
use super::rows::{Row, Rows};
use super::{Direction, FindRequest};
use crate::db::record::{BodyRecord, Info, LeafRow};
use crate::db::{Database, Wanted, partition_of, render};
use crate::error::{Error, Result};
use crate::json::{COLLATION_VERSION, sort_key};
use crate::query::history::{Histories, History, Name, Snapshot};
use crate::query::planner::{Index, Plan, end_key, start_key};
use crate::rev::Body;
use crate::store::{self, Batch, KeyRange, PageLimit, StoreError, keys};

const VERSION: u8 = 2;
const PROGRESS: u8 = b'm';
const ROW: u8 = b'r';
const DOCUMENT: u8 = b'd';

/// How much of a sort key is kept.
const MAX_SORT_KEY: usize = 2 << 10;
/// Ids longer than this stand in keys as their beginning and a digest.
const MAX_ID: usize = 3 << 10;
/// How many changes one step of an update takes.
const STEP: usize = 1000;
/// How many bytes of bodies are in memory at once, but for a single body that is larger.
const BODIES: u64 = 32 << 20;

/// The Mango indexes of a server. Keeps updates of one index one after the other.
#[derive(Debug, Default)]
pub struct StoredIndexes {
    turns: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    histories: Histories,
}

impl StoredIndexes {
    pub fn new(histories: Histories) -> StoredIndexes {
        StoredIndexes { turns: Mutex::default(), histories }
    }

    fn stored(&self, database: Arc<Database>, index: &Index) -> Stored {
        let signature = signature(index);
        let history = self.histories.of((database.number(), signature), database.store());
        let prefix = keys::index_prefix(database.number(), &signature);
        Stored { database, index: index.clone(), prefix, history }
    }

    /// Brings an index up to the database's sequence of this moment.
    pub async fn update(&self, database: &Arc<Database>, index: &Index) -> Result<()> {
        let name = (database.number(), signature(index));
        let turn = self.turns.lock().entry(name).or_default().clone();
        let result = {
            let _held = turn.lock().await;
            let stored = self.stored(database.clone(), index);
            crate::db::blocking(move || stored.update()).await
        };
        // Whoever waits for this turn holds it too, so one that nobody else holds can go.
        let mut turns = self.turns.lock();
        drop(turn);
        if turns.get(&name).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&name);
        }
        result
    }

    /// The rows that a plan leaves of its index, from a bookmark on, as they stand when the first is read: see
    /// [`StoredIndexes::update`].
    pub fn rows(
        &self,
        database: Arc<Database>,
        plan: &Plan,
        request: &FindRequest,
        bookmark: Option<&Bookmark>,
    ) -> Box<dyn Rows> {
        rows(self.stored(database, &plan.index), plan, request, bookmark)
    }
}

fn rows(stored: Stored, plan: &Plan, request: &FindRequest, bookmark: Option<&Bookmark>) -> Box<dyn Rows> {
    let partition = request.partition.as_deref();
    let (mut low, mut high) = stored.range(&start_key(&plan.ranges), &end_key(&plan.ranges), partition);
    let direction = match plan.direction {
        Direction::Ascending => store::Direction::Forward,
        Direction::Descending => store::Direction::Backward,
    };
    if let Some(bookmark) = bookmark {
        let place = stored.place(&bookmark.key, partition);
        let after = Bound::Excluded(stored.row_key(&place, &bookmark.id));
        match direction {
            store::Direction::Forward => low = after,
            store::Direction::Backward => high = after,
        }
    }
    Box::new(StoredRows { history: stored.history, snapshot: None, range: Some((low, high)), direction })
}

/// The first bytes of everything that the store holds of an index: what a clean-up has to keep.
pub fn prefix(database: &Database, index: &Index) -> Vec<u8> {
    keys::index_prefix(database.number(), &signature(index))
}

fn signature(index: &Index) -> [u8; 16] {
    let filter = index.partial_filter.as_ref().map(|filter| filter.to_json());
    let definition = serde_json::json!(["mango", VERSION, index.columns(), filter, index.partitioned]);
    let digest = Sha256::digest(definition.to_string());
    let mut signature = [0; 16];
    signature.copy_from_slice(&digest[..16]);
    signature
}

struct StoredRows {
    history: Arc<History>,
    /// From the first page on.
    snapshot: Option<Snapshot>,
    /// What is left to read; `None` at the end.
    range: Option<KeyRange>,
    direction: store::Direction,
}

impl Rows for StoredRows {
    fn next(&mut self, most: usize) -> Result<Option<Vec<Row>>> {
        let Some((low, high)) = &mut self.range else { return Ok(None) };
        if is_void(low, high) {
            return Ok(None);
        }
        let snapshot = self.snapshot.get_or_insert_with(|| self.history.begin());
        let range = (low.clone(), high.clone());
        let page = snapshot.scan(&range, self.direction, PageLimit::entries(most))?;
        let Some((last, _)) = page.last() else {
            self.range = None;
            return Ok(None);
        };
        match self.direction {
            store::Direction::Forward => *low = Bound::Excluded(last.clone()),
            store::Direction::Backward => *high = Bound::Excluded(last.clone()),
        }
        page.iter().map(|(_, value)| decode_row(value)).collect::<Result<Vec<Row>>>().map(Some)
    }
}

fn is_void(low: &Bound<Vec<u8>>, high: &Bound<Vec<u8>>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// version, length of the id (4 bytes), id, key as JSON.
fn encode_row(id: &str, key: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(5 + id.len() + key.len());
    value.push(VERSION);
    value.extend_from_slice(&(id.len() as u32).to_be_bytes());
    value.extend_from_slice(id.as_bytes());
    value.extend_from_slice(key.as_bytes());
    value
}

fn decode_row(value: &[u8]) -> Result<Row> {
    let read = || {
        let (head, rest) = value.split_first_chunk::<5>()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (id, key) = rest.split_at_checked(length)?;
        let id = std::str::from_utf8(id).ok().filter(|_| head[0] == VERSION)?;
        Some(Row { id: id.to_owned(), key: serde_json::from_slice(key).ok()?, winner: None })
    };
    read().ok_or_else(|| Error::Damaged("a row of a Mango index".into()))
}

/// How far an index has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    sequence: u64,
    purge_sequence: u64,
}

impl Progress {
    fn encode(self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend_from_slice(&COLLATION_VERSION.to_be_bytes());
        value.extend_from_slice(&self.sequence.to_be_bytes());
        value.extend_from_slice(&self.purge_sequence.to_be_bytes());
        value
    }

    /// `None`: of another version, so that the index has to be made again.
    fn decode(value: &[u8]) -> Option<Progress> {
        let (head, numbers) = value.split_at_checked(5)?;
        let (sequence, purge_sequence) = numbers.split_at_checked(8)?;
        let same = head[0] == VERSION && head[1..] == COLLATION_VERSION.to_be_bytes();
        same.then_some(Progress {
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
            purge_sequence: u64::from_be_bytes(purge_sequence.try_into().ok()?),
        })
    }
}

/// One index of one database.
struct Stored {
    database: Arc<Database>,
    index: Index,
    prefix: Vec<u8>,
    history: Arc<History>,
}

/// Where a row stands, without its id, and its key as JSON.
type Placed = (Vec<u8>, String);

/// A document to be indexed: its winner, or `None` if its row has to go.
type Change = (String, Option<LeafRow>);

/// Changes that bring an index from one progress to the next.
struct Step {
    after: Progress,
    next: Progress,
    changes: Vec<Change>,
    rows: HashMap<String, Placed>,
}

impl Stored {
    fn key(&self, kind: u8, rest: &[u8], id: &str) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + 1 + rest.len() + id.len());
        key.extend_from_slice(&self.prefix);
        key.push(kind);
        key.extend_from_slice(rest);
        if id.len() <= MAX_ID {
            key.extend_from_slice(id.as_bytes());
        } else {
            let digest = Sha256::digest(id);
            key.extend_from_slice(&id.as_bytes()[..MAX_ID - 32]);
            key.extend_from_slice(&digest);
        }
        key
    }

    fn row_key(&self, place: &[u8], id: &str) -> Vec<u8> {
        self.key(ROW, place, id)
    }

    /// Where a row with this key stands, without the id.
    fn place(&self, key: &[Value], partition: Option<&str>) -> Vec<u8> {
        let mut place = partition_prefix(partition);
        place.extend(cut(sort_key(&Value::from(key).to_string())));
        place
    }

    /// The rows whose keys are from `low` to `high`, with all that begin with them.
    fn range(&self, low: &[Value], high: &[Value], partition: Option<&str>) -> KeyRange {
        let begin = |key: &[Value]| {
            let mut place = partition_prefix(partition);
            if !key.is_empty() {
                // Without the end of the array, so that longer ones follow.
                let mut bytes = sort_key(&Value::from(key).to_string());
                bytes.pop();
                place.extend(cut(bytes));
            }
            self.key(ROW, &place, "")
        };
        (Bound::Included(begin(low)), keys::after_prefix(&begin(high)))
    }

    fn progress(&self) -> Result<(Option<Vec<u8>>, Option<Progress>)> {
        let stored = self.history.entries().get(&self.key(PROGRESS, &[], ""))?;
        let progress = stored.as_deref().and_then(Progress::decode);
        Ok((stored, progress))
    }

    fn update(&self) -> Result<()> {
        let target = self.database.info();
        // Up to here the index that this update has begun holds nothing that would have to go.
        let mut begun_at = 0;
        let mut ahead: Option<Step> = None;
        loop {
            if self.database.is_gone() {
                return Err(Error::NoDatabase);
            }
            let (stored, progress) = self.progress()?;
            let progress = match progress {
                Some(progress) if progress.purge_sequence >= target.forgotten_purges => progress,
                // New, of an older version, or it has missed purges that are forgotten by now: begin anew.
                _ => {
                    self.clear()?;
                    begun_at = target.sequence;
                    let fresh = Progress { sequence: 0, purge_sequence: target.purge_sequence };
                    self.commit(None, fresh, Batch::new())?;
                    continue;
                }
            };
            self.history.entries().relieve()?;
            let step = match ahead.take().filter(|step| step.after == progress) {
                Some(step) => Some(step),
                None => self.read(progress, &target)?,
            };
            let Some(step) = step else { return Ok(self.history.entries().rest()?) };
            let is_fresh = step.next.sequence <= begun_at && step.next.purge_sequence == progress.purge_sequence;
            let next = step.next;
            let batch = self.batch(step, !is_fresh)?;
            if next.sequence >= target.sequence {
                self.commit(stored, next, batch)?;
                continue;
            }
            // The next step is read while this one is written.
            ahead = std::thread::scope(|scope| {
                let writing = scope.spawn(|| self.commit(stored, next, batch));
                let read = self.read(next, &target);
                writing.join().unwrap_or_else(|_| Err(Error::Internal("a thread that writes an index died".into())))?;
                read
            })?;
        }
    }

    /// The next step on the way to `target`, with the rows of its documents; `None` at the end.
    fn read(&self, after: Progress, target: &Info) -> Result<Option<Step>> {
        let (changes, next) = if after.purge_sequence < target.purge_sequence {
            self.purged(after, target.purge_sequence)?
        } else if after.sequence < target.sequence {
            self.changed(after, target.sequence)?
        } else {
            return Ok(None);
        };
        let rows = self.rows_of(&changes)?;
        Ok(Some(Step { after, next, changes, rows }))
    }

    fn changed(&self, progress: Progress, target: u64) -> Result<(Vec<Change>, Progress)> {
        let page = self.database.changes(progress.sequence, store::Direction::Forward, PageLimit::entries(STEP))?;
        // No rows up to the target: those documents have changed since, and come with later sequences.
        let sequence = page.rows.last().map_or(target, |(sequence, _)| *sequence);
        let changes = page
            .rows
            .into_iter()
            .filter(|(_, row)| !row.id.starts_with("_design/"))
            .map(|(_, mut row)| (row.id, (!row.leaves.is_empty()).then(|| row.leaves.swap_remove(0))))
            .collect();
        Ok((changes, Progress { sequence, ..progress }))
    }

    /// Purged documents are gone from the changes: their rows are found by id.
    fn purged(&self, progress: Progress, target: u64) -> Result<(Vec<Change>, Progress)> {
        let requests = self.database.purges(progress.purge_sequence, STEP)?;
        let purge_sequence = requests.last().map_or(target, |(sequence, _)| *sequence);
        let mut ids: Vec<String> = requests.into_iter().map(|(_, request)| request.id).collect();
        ids.retain(|id| !id.starts_with("_design/"));
        ids.sort_unstable();
        ids.dedup();
        let winners = self.database.winners(&ids)?;
        Ok((ids.into_iter().zip(winners).collect(), Progress { purge_sequence, ..progress }))
    }

    /// The rows of the changed documents, by their ids.
    fn rows_of(&self, changes: &[Change]) -> Result<HashMap<String, Placed>> {
        let living = |(id, winner): &Change| -> Option<(String, LeafRow, Body)> {
            let winner = winner.as_ref().filter(|winner| !winner.deleted)?;
            Some((id.clone(), winner.clone(), winner.body?))
        };
        let living: Vec<(String, LeafRow, Body)> = changes.iter().filter_map(living).collect();
        let mut rows: HashMap<String, Placed> = HashMap::with_capacity(living.len());
        for some in by_bytes(&living, BODIES, |(_, _, body)| body.bytes) {
            let places: Vec<(&str, Body)> = some.iter().map(|(id, _, body)| (id.as_str(), *body)).collect();
            let bodies = self.database.bodies(&places)?;
            // A body that is gone was of an edit that has been followed by another, which is a later change.
            let documents: Vec<(&str, &LeafRow, BodyRecord)> = some
                .iter()
                .zip(bodies)
                .filter_map(|((id, winner, _), body)| Some((id.as_str(), winner, body?)))
                .collect();
            let made = self.map(&documents)?;
            rows.extend(documents.iter().zip(made).filter_map(|((id, _, _), row)| Some(((*id).to_owned(), row?))));
        }
        Ok(rows)
    }

    /// What a step does to the index; `look_up`: its documents may have rows there.
    fn batch(&self, step: Step, look_up: bool) -> Result<Batch> {
        let Step { changes, mut rows, .. } = step;
        let places: Vec<Vec<u8>> = changes.iter().map(|(id, _)| self.key(DOCUMENT, &[], id)).collect();
        let before = match look_up {
            true => self.history.entries().get_many(&places)?,
            false => vec![None; places.len()],
        };
        let mut batch = Batch::new();
        for (((id, _), document_key), before) in changes.iter().zip(places).zip(before) {
            let row = rows.remove(id.as_str());
            let moved = before.as_ref() != row.as_ref().map(|(place, _)| place);
            if let Some(before) = before.filter(|_| moved) {
                batch.delete(self.row_key(&before, id));
                if row.is_none() {
                    batch.delete(document_key.clone());
                }
            }
            if let Some((place, key)) = row {
                // The key is written even where its place is the same: 1 and 1.0 stand at one place.
                batch.put(self.row_key(&place, id), encode_row(id, &key));
                if moved {
                    batch.put(document_key, place);
                }
            }
        }
        Ok(batch)
    }

    /// Place and key of each document, or nothing if it is not in the index; on all cores.
    fn map(&self, documents: &[(&str, &LeafRow, BodyRecord)]) -> Result<Vec<Option<Placed>>> {
        /// A thread is not worth its start for fewer documents.
        const AT_LEAST: usize = 64;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = documents.len().div_ceil(cores).max(AT_LEAST);
        if documents.len() <= share {
            return documents.iter().map(|document| self.map_one(document)).collect();
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = documents
                .chunks(share)
                .map(|chunk| {
                    scope.spawn(|| chunk.iter().map(|document| self.map_one(document)).collect::<Result<Vec<_>>>())
                })
                .collect();
            let mut all = Vec::with_capacity(documents.len());
            for worker in workers {
                let rows = worker.join().map_err(|_| Error::Internal("a thread that makes index keys died".into()))?;
                all.extend(rows?);
            }
            Ok(all)
        })
    }

    fn map_one(&self, (id, winner, body): &(&str, &LeafRow, BodyRecord)) -> Result<Option<Placed>> {
        let key = if self.index.needs_special_members() {
            // As CouchDB's views see it: with its conflicts.
            let show = render::Show { conflicts: true, deleted_conflicts: true, ..Default::default() };
            let found = match self.database.find(id, Wanted::Winner) {
                Ok(found) => found,
                Err(Error::Missing | Error::Deleted) => return Ok(None),
                Err(error) => return Err(error),
            };
            let document = serde_json::from_str(&render::text(&found, &show))
                .map_err(|error| Error::Damaged(format!("the body of document {id}: {error}")))?;
            self.index.key_of(&document)
        } else {
            self.index.key_of_body(id, &winner.revision.to_string(), &body.json)?
        };
        Ok(key.map(|key| {
            let partition = if self.index.partitioned { partition_of(id) } else { None };
            (self.place(&key, partition), Value::from(key).to_string())
        }))
    }

    /// Commits a step, or nothing if another update was faster.
    fn commit(&self, before: Option<Vec<u8>>, progress: Progress, mut batch: Batch) -> Result<()> {
        let key = self.key(PROGRESS, &[], "");
        batch.expect(key.clone(), before);
        batch.put(key, progress.encode());
        let kind = self.prefix.len();
        match self.history.commit(batch, |key| key.get(kind) == Some(&ROW)) {
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all of the index.
    fn clear(&self) -> Result<()> {
        Ok(self.history.clear()?)
    }
}

/// `items` in stretches of at most `most` bytes in sum, or of a single item.
pub(super) fn by_bytes<T>(items: &[T], most: u64, bytes: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let (mut stretches, mut start, mut sum) = (Vec::new(), 0, 0_u64);
    for (at, item) in items.iter().enumerate() {
        let more = bytes(item);
        if at > start && sum.saturating_add(more) > most {
            stretches.push(&items[start..at]);
            (start, sum) = (at, 0);
        }
        sum = sum.saturating_add(more);
    }
    if start < items.len() {
        stretches.push(&items[start..]);
    }
    stretches
}

fn partition_prefix(partition: Option<&str>) -> Vec<u8> {
    partition.map_or_else(Vec::new, |partition| [partition.as_bytes(), &[0]].concat())
}

fn cut(mut sort_key: Vec<u8>) -> Vec<u8> {
    sort_key.truncate(MAX_SORT_KEY);
    sort_key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_by_bytes() {
        let split =
            |items: &[u64]| -> Vec<usize> { by_bytes(items, 10, |item| *item).iter().map(|part| part.len()).collect() };
        assert_eq!(split(&[]), Vec::<usize>::new());
        assert_eq!(split(&[1, 2, 3]), [3]);
        assert_eq!(split(&[6, 5, 5, 1]), [1, 2, 1]);
        assert_eq!(split(&[100, 100]), [1, 1]);
        assert_eq!(split(&[1, 100, 1]), [1, 1, 1]);
    }
}
