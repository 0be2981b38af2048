//! Collects the changes that documents make to an index, until they are worth a commit or fill the memory
//! limit.
//!
//! All changes of a document are in one piece: its rows, its reference and the progress become visible
//! together.

use std::collections::{HashMap, HashSet};

use super::blocks::{Blocks, Change};
use super::index::Index;
use super::layout::{self, Reference};
use super::map_function::MapFunction;
use super::row;
use super::skipped::Skipped;
use crate::db::partition_of;
use crate::error::Result;
use crate::json::raw_sort_key;
use crate::query::script::{DOCUMENT_LIMIT, Mapped};
use crate::store::Batch;

/// Maximum number of documents in a piece, and the approximate maximum memory of its rows while they are
/// written, in bytes.
const DOCUMENTS: usize = 1000;
const BYTES: usize = 8 << 20;
/// Maximum memory of the rows of one document, which cannot be split. A document that exceeds it has no rows.
const MOST_OF_A_DOCUMENT: usize = 64 << 20;
/// Memory of a row while it is written, in addition to key, value and position, in bytes.
const ROW: usize = 256;

/// Changes of rows, and the resulting counts of rows.
pub(super) struct Piece {
    batch: Batch,
    /// For each map function.
    changes: Vec<Vec<Change>>,
    /// For each map function: number of rows and their size in bytes, after the commit.
    pub rows: Vec<(u64, u64)>,
    documents: usize,
    /// Ids of the documents in the piece whose old rows were looked up.
    ids: HashSet<String>,
    /// Skipped documents and the reasons.
    skipped: Vec<(String, String)>,
    bytes: usize,
}

/// The rows of a document: the answer for its batch, and the document's index in that answer.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub mapped: &'a Mapped,
    pub at: usize,
}

impl Piece {
    pub fn new(rows: Vec<(u64, u64)>) -> Piece {
        let changes = rows.iter().map(|_| Vec::new()).collect();
        Piece { batch: Batch::new(), changes, rows, documents: 0, ids: HashSet::new(), skipped: Vec::new(), bytes: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.documents >= DOCUMENTS || self.bytes >= BYTES
    }

    /// Whether the piece must be committed before a document of this many bytes is added.
    pub fn goes_before(&self, bytes: usize) -> bool {
        self.documents > 0 && self.bytes + bytes > BYTES
    }

    /// Notes that the old rows of a document in the piece were looked up.
    pub fn looked_up(&mut self, id: &str) {
        self.ids.insert(id.to_owned());
    }

    /// Whether the piece contains this document and its old rows were looked up.
    pub fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Notes that a document in the piece is skipped.
    pub fn skip(&mut self, id: &str, reason: &str) {
        self.skipped.push((id.to_owned(), reason.to_owned()));
    }

    /// Replaces the rows of a document. `old` is the document's reference in the index, which is stored under
    /// `key`.
    pub fn add(
        &mut self,
        index: &Index,
        id: &str,
        key: Vec<u8>,
        old: Option<Vec<u8>>,
        emitted: Option<Rows>,
        bytes: usize,
    ) -> Result<()> {
        self.documents += 1;
        self.bytes += bytes + old.as_ref().map_or(0, Vec::len);
        let was = old.as_deref().map(layout::decode_references).transpose()?.unwrap_or_default();
        let mut gone: HashMap<(usize, Vec<u8>), u64> =
            was.into_iter().map(|old| ((old.map, old.spot), old.bytes)).collect();
        let mut references = layout::References::new();
        if let Some(Rows { mapped, at }) = emitted {
            let partition = if index.definition.partitioned { partition_of(id) } else { None };
            for (map, function) in index.definition.maps.iter().enumerate() {
                let rows = mapped.rows(at, map).into_iter().flatten();
                for Emitted { place, key, value, emit } in in_order(function, partition, rows) {
                    let spot = layout::spot(&place, id, emit);
                    let bytes = (key.len() + value.len()) as u64;
                    let was = if gone.is_empty() { None } else { gone.remove(&(map, spot.clone())) };
                    let rows = &mut self.rows[map];
                    rows.0 += u64::from(was.is_none());
                    rows.1 = (rows.1 + bytes).saturating_sub(was.unwrap_or(0));
                    let reference = Reference { map, spot, bytes };
                    references.push(&reference);
                    let stored = row::encode(&place, id, key, value);
                    let change = Change { spot: reference.spot, row: Some(stored), is_new: was.is_none() };
                    self.changes[map].push(change);
                }
            }
        }
        for ((map, spot), bytes) in gone {
            let Some(rows) = self.rows.get_mut(map) else { continue };
            *rows = (rows.0.saturating_sub(1), rows.1.saturating_sub(bytes));
            self.changes[map].push(Change { spot, row: None, is_new: false });
        }
        match references.finish() {
            Some(references) => self.batch.put(key, references),
            None if old.is_some() => self.batch.delete(key),
            None => {}
        }
        Ok(())
    }

    /// Returns the batch with the changes of the blocks, and whether any block has to be reduced again.
    pub fn finish(mut self, blocks: &Blocks) -> Result<(Batch, bool)> {
        let mapped = self.ids.iter().map(|id| (id.as_str(), None));
        let skipped = self.skipped.iter().map(|(id, reason)| (id.as_str(), Some(reason.as_str())));
        Skipped::note(blocks.index, &mut self.batch, mapped.chain(skipped), !self.ids.is_empty())?;
        let mut changed = false;
        for (map, changes) in self.changes.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
            changed = true;
            blocks.apply(&mut self.batch, map, changes)?;
        }
        Ok((self.batch, changed))
    }
}

/// Returns the memory of a document's rows while they are written, in bytes, and, if that is too much, the
/// reason to skip the document.
pub(super) fn bytes_of(index: &Index, id: &str, rows: Rows) -> (usize, Option<String>) {
    let beside = ROW + 3 * id.len().min(layout::MAX_ID);
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for map in 0..index.definition.maps.len() {
        for (key, value) in rows.mapped.rows(rows.at, map).into_iter().flatten() {
            count += 1;
            bytes += beside + 2 * (key.len() + value.len()) + 3 * key.len().min(layout::MAX_SORT_KEY);
        }
    }
    let too_many = || {
        format!("it emits {count} rows, which take {} MB; the limit is {} MB", bytes >> 20, MOST_OF_A_DOCUMENT >> 20)
    };
    (bytes, (bytes > MOST_OF_A_DOCUMENT).then(too_many))
}

/// The reason for a document whose rows exceed the limit of the script engine.
pub(super) fn too_large() -> String {
    format!("it emits more than {} MB", DOCUMENT_LIMIT >> 20)
}

/// A row that a function emitted for a document.
struct Emitted<'a> {
    place: Vec<u8>,
    key: &'a str,
    value: &'a str,
    /// The row's number among the document's rows with the same place.
    emit: u32,
}

/// Returns the rows of a document in order: by key, and rows with equal keys by the raw order of their
/// values.
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
