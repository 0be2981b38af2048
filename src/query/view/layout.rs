//! Keys and values of a view index in its ordered map.
//!
//! ```text
//! m                          progress: how far the index is built, and the rows of each map function
//! d id                       the rows of a document: their positions
//! r map place id emit        a row: its key and value as JSON
//! b map bound                a block of rows, from `bound` up to the next block's bound: their number
//! c map bound                the reductions of those rows
//! x map bound                a mark: the block's rows have changed, so it has to be reduced again
//! s                          the documents that could not be mapped
//! ```
//!
//! All keys begin with the database's number and the index's signature (`store::keyspace::index_prefix`).
//! `map` is the number of the map function (2 bytes). `place` is the sort key of the row's key; in
//! partitioned indexes, the partition's name and a zero byte precede it. `emit` numbers the rows of a
//! document that have the same place (4 bytes). The part of a row's key after `map` is its *spot*. Bounds of
//! blocks are spots; the first block's bound is empty.
//!
//! A sort key longer than [`MAX_SORT_KEY`] is truncated, and a digest of the whole key is appended. Equal
//! keys are then still equal and different keys different; only the order among keys with the same truncated
//! part is arbitrary.

use std::ops::Bound;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::map_function::MapFunction;
use crate::db::codec::{Reader, Writer};
use crate::error::{Error, Result};
use crate::json::{COLLATION_VERSION, sort_key};
use crate::store::keyspace;
use crate::store::range::KeyRange;

/// Version of the formats in this file; part of every signature.
pub(super) const FORMAT: u8 = 2;

pub(super) const META: u8 = b'm';
pub(super) const DOCUMENT: u8 = b'd';
pub(super) const ROW: u8 = b'r';
pub(super) const BLOCK: u8 = b'b';
pub(super) const REDUCED: u8 = b'c';
pub(super) const CHANGED: u8 = b'x';
const SKIPPED: u8 = b's';

/// Length in bytes to which a sort key is truncated.
pub(super) const MAX_SORT_KEY: usize = 2 << 10;
/// Ids longer than this are stored in keys as a prefix and a digest.
pub(super) const MAX_ID: usize = 2 << 10;
/// The same limit for partition names.
const MAX_PARTITION: usize = 512;

/// The keys of one index.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    prefix: Vec<u8>,
}

/// A range of spots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spots {
    /// Inclusive.
    pub low: Vec<u8>,
    /// Exclusive; `None` if the range has no upper end.
    pub high: Option<Vec<u8>>,
}

impl Spots {
    /// Whether the end is at or before the start.
    pub fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }
}

impl Layout {
    pub fn new(database: u64, signature: &[u8; 16]) -> Layout {
        Layout { prefix: keyspace::index_prefix(database, signature) }
    }

    /// The key of the progress.
    pub fn meta(&self) -> Vec<u8> {
        [&self.prefix[..], &[META]].concat()
    }

    /// The key of the documents that could not be mapped.
    pub fn skipped(&self) -> Vec<u8> {
        [&self.prefix[..], &[SKIPPED]].concat()
    }

    /// The key of a document's rows.
    pub fn document(&self, id: &str) -> Vec<u8> {
        let mut key = [&self.prefix[..], &[DOCUMENT]].concat();
        push_id(&mut key, id);
        key
    }

    /// The range of all keys of a kind.
    pub fn kind(&self, kind: u8) -> KeyRange {
        keyspace::prefix(&[&self.prefix[..], &[kind]].concat())
    }

    /// The key of an entry whose kind is followed by a map number and a spot.
    pub fn at(&self, kind: u8, map: usize, spot: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + 3 + spot.len());
        key.extend_from_slice(&self.prefix);
        key.push(kind);
        key.extend_from_slice(&(map as u16).to_be_bytes());
        key.extend_from_slice(spot);
        key
    }

    /// The range of the entries of a kind and map whose spots are within `spots`.
    pub fn between(&self, kind: u8, map: usize, spots: &Spots) -> KeyRange {
        let high = match &spots.high {
            Some(high) => Bound::Excluded(self.at(kind, map, high)),
            None => keyspace::after_prefix(&self.at(kind, map, &[])),
        };
        (Bound::Included(self.at(kind, map, &spots.low)), high)
    }

    /// The spot in a key that [`Layout::at`] returned.
    pub(super) fn spot_from(&self, mut key: Vec<u8>) -> Vec<u8> {
        key.drain(..key.len().min(self.prefix.len() + 3));
        key
    }

    /// The map number and spot in a key that [`Layout::at`] returned.
    pub fn spot_of<'a>(&self, key: &'a [u8]) -> (usize, &'a [u8]) {
        let rest = key.get(self.prefix.len() + 1..).unwrap_or_default();
        match rest.split_first_chunk::<2>() {
            Some((map, spot)) => (usize::from(u16::from_be_bytes(*map)), spot),
            None => (0, &[]),
        }
    }
}

/// The place of a key, optionally in a partition: the start of a row's spot.
pub(super) fn place(map: &MapFunction, partition: Option<&str>, key: &str) -> Vec<u8> {
    placed(partition, map.sort_key(key))
}

fn placed(partition: Option<&str>, mut sort_key: Vec<u8>) -> Vec<u8> {
    let mut place = partition.map(partition_prefix).unwrap_or_default();
    if sort_key.len() > MAX_SORT_KEY {
        let digest = Sha256::digest(&sort_key);
        sort_key.truncate(MAX_SORT_KEY);
        sort_key.extend_from_slice(&digest[..16]);
    }
    place.append(&mut sort_key);
    place
}

/// The common prefix of the spots of all keys that are arrays beginning with these elements, optionally in a
/// partition. If the prefix is too long, it is truncated and matches more keys.
pub fn beginning(partition: Option<&str>, elements: &[Value]) -> Vec<u8> {
    let mut beginning = partition.map(partition_prefix).unwrap_or_default();
    if !elements.is_empty() {
        // Remove the end of the array, so that longer arrays match too.
        let mut sort_key = sort_key(&Value::from(elements).to_string());
        sort_key.pop();
        sort_key.truncate(MAX_SORT_KEY);
        beginning.append(&mut sort_key);
    }
    beginning
}

/// The spot of a document's first row whose key is the array of these elements.
pub fn spot_of_row(partition: Option<&str>, key: &[Value], id: &str) -> Vec<u8> {
    spot(&placed(partition, sort_key(&Value::from(key).to_string())), id, 0)
}

/// The prefix of the spots of a partition. Names contain no zero byte, so no prefix is a prefix of another.
pub(super) fn partition_prefix(partition: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(partition.len() + 1);
    if partition.len() <= MAX_PARTITION {
        prefix.extend_from_slice(partition.as_bytes());
    } else {
        prefix.extend_from_slice(&partition.as_bytes()[..MAX_PARTITION - 64]);
        prefix.extend_from_slice(crate::hex::hex(&Sha256::digest(partition)).as_bytes());
    }
    prefix.push(0);
    prefix
}

/// The common prefix of the spots of all rows in the same group as `key`, when grouping by `level`.
pub(super) fn group_place(map: &MapFunction, partition: Option<&str>, key: &str, level: Option<u64>) -> Vec<u8> {
    let Some(level) = level.filter(|_| key.starts_with('[')) else { return place(map, partition, key) };
    let mut elements = crate::json::elements(key);
    let taken: Vec<&str> = elements.by_ref().take(usize::try_from(level).unwrap_or(usize::MAX)).collect();
    let whole = elements.next().is_none() && (taken.len() as u64) < level;
    if whole {
        return place(map, partition, key);
    }
    let mut sort_key = map.sort_key(&format!("[{}]", taken.join(",")));
    // Remove the end of the array, so that every key of the group begins with these bytes.
    sort_key.pop();
    if sort_key.len() > MAX_SORT_KEY {
        return place(map, partition, key);
    }
    let mut place = partition.map(partition_prefix).unwrap_or_default();
    place.append(&mut sort_key);
    place
}

pub(super) fn push_id(key: &mut Vec<u8>, id: &str) {
    if id.len() <= MAX_ID {
        key.extend_from_slice(id.as_bytes());
    } else {
        key.extend_from_slice(&id.as_bytes()[..MAX_ID - 32]);
        key.extend_from_slice(&Sha256::digest(id));
    }
}

/// The spot of a row.
pub(super) fn spot(place: &[u8], id: &str, emit: u32) -> Vec<u8> {
    let mut spot = Vec::with_capacity(place.len() + id.len().min(MAX_ID) + 4);
    spot.extend_from_slice(place);
    push_id(&mut spot, id);
    spot.extend_from_slice(&emit.to_be_bytes());
    spot
}

/// The first spot after all that begin with `place`; `None` if there is none.
pub fn behind(place: &[u8]) -> Option<Vec<u8>> {
    match keyspace::after_prefix(place) {
        Bound::Excluded(spot) => Some(spot),
        Bound::Included(_) | Bound::Unbounded => None,
    }
}

/// The position of one of a document's rows, and its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Number of the map function.
    pub map: usize,
    /// The row's spot.
    pub spot: Vec<u8>,
    /// Size of the row in bytes.
    pub bytes: u64,
}

/// The references of a document, written one by one.
pub(super) struct References(Writer, bool);

impl References {
    pub fn new() -> References {
        References(Writer::version(FORMAT), false)
    }

    pub fn push(&mut self, reference: &Reference) {
        self.1 = true;
        self.0.number(reference.map as u64);
        self.0.number(reference.bytes);
        self.0.bytes(&reference.spot);
    }

    /// `None`: there are none.
    pub fn finish(self) -> Option<Vec<u8>> {
        self.1.then_some(self.0.0)
    }
}

pub(super) fn decode_references(value: &[u8]) -> Result<Vec<Reference>> {
    let read = || {
        let mut reader = Reader::version(value, FORMAT)?;
        let mut references = Vec::new();
        while !reader.0.is_empty() {
            let (map, bytes) = (usize::try_from(reader.number()?).ok()?, reader.number()?);
            references.push(Reference { map, bytes, spot: reader.bytes()?.to_vec() });
        }
        Some(references)
    };
    read().ok_or_else(|| Error::Damaged("the rows of a document in a view index".into()))
}

/// Encodes a block: the number of its rows.
pub(super) fn encode_block(rows: u64) -> Vec<u8> {
    let mut out = Writer::version(FORMAT);
    out.number(rows);
    out.0
}

pub(super) fn decode_block(value: &[u8]) -> Result<u64> {
    let read = || {
        let mut reader = Reader::version(value, FORMAT)?;
        reader.number()
    };
    read().ok_or_else(|| Error::Damaged("a block of a view index".into()))
}

/// Encodes the reductions of a block, one per reducer.
pub(super) fn encode_reductions(reductions: &[String]) -> Vec<u8> {
    let mut out = Writer::version(FORMAT);
    for reduction in reductions {
        out.bytes(reduction.as_bytes());
    }
    out.0
}

/// Decodes the reduction of one reducer.
pub(super) fn decode_reduction(value: &[u8], reducer: usize) -> Result<String> {
    let read = || {
        let mut reader = Reader::version(value, FORMAT)?;
        for _ in 0..reducer {
            reader.bytes()?;
        }
        String::from_utf8(reader.bytes()?.to_vec()).ok()
    };
    read().ok_or_else(|| Error::Damaged("a reduction of a view index".into()))
}

/// The progress of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Sequence of the database up to which the index is built.
    pub sequence: u64,
    /// Purge sequence up to which purges are applied.
    pub purge_sequence: u64,
    /// Sequence of the database when the build of the index began: until the index reaches it, no changed
    /// document can have rows yet.
    pub(super) begun_at: u64,
    /// Whether no block is marked as changed.
    pub(super) settled: bool,
    /// For each map function, the number of its rows and their size in bytes.
    pub rows: Vec<(u64, u64)>,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(FORMAT);
        out.0.extend_from_slice(&COLLATION_VERSION.to_be_bytes());
        for number in [self.sequence, self.purge_sequence, self.begun_at, u64::from(self.settled)] {
            out.number(number);
        }
        for (rows, bytes) in &self.rows {
            out.number(*rows);
            out.number(*bytes);
        }
        out.0
    }

    /// Returns `None` if the version differs, so that the index has to be rebuilt.
    pub(super) fn decode(value: &[u8], maps: usize) -> Option<Meta> {
        let mut reader = Reader::version(value, FORMAT)?;
        let (collation, rest) = reader.0.split_first_chunk()?;
        if *collation != COLLATION_VERSION.to_be_bytes() {
            return None;
        }
        reader.0 = rest;
        let (sequence, purge_sequence, begun_at) = (reader.number()?, reader.number()?, reader.number()?);
        let settled = reader.number()? == 1;
        let mut rows = Vec::with_capacity(maps);
        for _ in 0..maps {
            rows.push((reader.number()?, reader.number()?));
        }
        Some(Meta { sequence, purge_sequence, begun_at, settled, rows })
    }
}
