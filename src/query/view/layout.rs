//! Keys and values of a view index in the store.
//!
//! ```text
//! m                          how far it is, and how many rows each map function has
//! d id                       the rows of a document: where they stand
//! r map place id emit        a row: its key and value as JSON
//! b map bound                a block of rows: how many, from `bound` up to the next block's
//! c map bound                what the reducers make of those rows
//! x map bound                the block's rows have changed: it is to be reduced again
//! s                          documents that could not be mapped
//! ```
//!
//! All keys begin with the database's number and the index's signature (`store::keys::index_prefix`). `map` is the number
//! of the map function (2 bytes), `place` is `partition 0` in partitioned indexes, then the sort key of the row's key,
//! `emit` counts what the function emitted for the document (4 bytes). What follows `map` in a row's key is its *spot*;
//! bounds of blocks are spots, and the first block's bound is empty.
//!
//! A sort key is cut where it is longer than [`MAX_SORT_KEY`], and a digest of the whole stands in for the rest: equal
//! keys are then still equal and different ones different, only the order among those that agree that far is arbitrary.

use std::ops::Bound;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::definition::MapFunction;
use crate::db::bytes::{Reader, Writer};
use crate::error::{Error, Result};
use crate::json::{COLLATION_VERSION, sort_key};
use crate::store::{KeyRange, keys};

/// The format of everything here; a part of every signature.
pub(super) const FORMAT: u8 = 2;

pub(super) const META: u8 = b'm';
pub(super) const DOCUMENT: u8 = b'd';
pub(super) const ROW: u8 = b'r';
pub(super) const BLOCK: u8 = b'b';
pub(super) const REDUCED: u8 = b'c';
pub(super) const CHANGED: u8 = b'x';
const SKIPPED: u8 = b's';

/// How much of a sort key is kept as it is.
const MAX_SORT_KEY: usize = 2 << 10;
/// Ids longer than this stand in keys as their beginning and a digest.
pub(super) const MAX_ID: usize = 2 << 10;
/// The same for names of partitions.
const MAX_PARTITION: usize = 512;

/// The keys of one index.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: Vec<u8>,
}

/// Rows between two spots: from the first, up to and without the second (`None`: to the end).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spots {
    pub low: Vec<u8>,
    pub high: Option<Vec<u8>>,
}

impl Spots {
    pub fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }
}

impl Layout {
    pub fn new(database: u64, signature: &[u8; 16]) -> Layout {
        Layout { prefix: keys::index_prefix(database, signature) }
    }

    pub fn meta(&self) -> Vec<u8> {
        [&self.prefix[..], &[META]].concat()
    }

    pub fn skipped(&self) -> Vec<u8> {
        [&self.prefix[..], &[SKIPPED]].concat()
    }

    pub fn document(&self, id: &str) -> Vec<u8> {
        let mut key = [&self.prefix[..], &[DOCUMENT]].concat();
        push_id(&mut key, id);
        key
    }

    /// All keys of a kind that has no map number.
    pub fn kind(&self, kind: u8) -> KeyRange {
        keys::prefix(&[&self.prefix[..], &[kind]].concat())
    }

    /// A key of a kind that goes on with a map number and a spot.
    pub fn at(&self, kind: u8, map: usize, spot: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + 3 + spot.len());
        key.extend_from_slice(&self.prefix);
        key.push(kind);
        key.extend_from_slice(&(map as u16).to_be_bytes());
        key.extend_from_slice(spot);
        key
    }

    /// Entries of a kind and map from one spot up to another.
    pub fn between(&self, kind: u8, map: usize, spots: &Spots) -> KeyRange {
        let high = match &spots.high {
            Some(high) => Bound::Excluded(self.at(kind, map, high)),
            None => keys::after_prefix(&self.at(kind, map, &[])),
        };
        (Bound::Included(self.at(kind, map, &spots.low)), high)
    }

    /// The spot of a key made by [`Layout::at`].
    pub(super) fn spot_from(&self, mut key: Vec<u8>) -> Vec<u8> {
        key.drain(..key.len().min(self.prefix.len() + 3));
        key
    }

    /// Map number and spot of a key made by [`Layout::at`].
    pub fn spot_of<'a>(&self, key: &'a [u8]) -> (usize, &'a [u8]) {
        let rest = key.get(self.prefix.len() + 1..).unwrap_or_default();
        match rest.split_first_chunk::<2>() {
            Some((map, spot)) => (usize::from(u16::from_be_bytes(*map)), spot),
            None => (0, &[]),
        }
    }
}

/// Where a key stands, in a partition or not: what a row's spot begins with.
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

/// What the spots begin with of all keys, in a partition or not, that are arrays which begin with these elements; of more
/// keys if that is too long.
pub fn beginning(partition: Option<&str>, elements: &[Value]) -> Vec<u8> {
    let mut beginning = partition.map(partition_prefix).unwrap_or_default();
    if !elements.is_empty() {
        // Without the end of the array, so that longer ones follow.
        let mut sort_key = sort_key(&Value::from(elements).to_string());
        sort_key.pop();
        sort_key.truncate(MAX_SORT_KEY);
        beginning.append(&mut sort_key);
    }
    beginning
}

/// The spot of a document's first row with this key, which is an array of these elements.
pub fn spot_of_row(partition: Option<&str>, key: &[Value], id: &str) -> Vec<u8> {
    spot(&placed(partition, sort_key(&Value::from(key).to_string())), id, 0)
}

/// What the spots of a partition begin with. Names hold no 0, so none is the beginning of another.
pub(super) fn partition_prefix(partition: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(partition.len() + 1);
    if partition.len() <= MAX_PARTITION {
        prefix.extend_from_slice(partition.as_bytes());
    } else {
        prefix.extend_from_slice(&partition.as_bytes()[..MAX_PARTITION - 64]);
        prefix.extend_from_slice(crate::json::hex(&Sha256::digest(partition)).as_bytes());
    }
    prefix.push(0);
    prefix
}

/// The place of the keys that begin with the same elements as `key`, and how far it reaches: grouping by `level`.
pub(super) fn group_place(map: &MapFunction, partition: Option<&str>, key: &str, level: Option<u64>) -> Vec<u8> {
    let Some(level) = level.filter(|_| key.starts_with('[')) else { return place(map, partition, key) };
    let mut elements = crate::json::elements(key);
    let taken: Vec<&str> = elements.by_ref().take(usize::try_from(level).unwrap_or(usize::MAX)).collect();
    let whole = elements.next().is_none() && (taken.len() as u64) < level;
    if whole {
        return place(map, partition, key);
    }
    let mut sort_key = map.sort_key(&format!("[{}]", taken.join(",")));
    // Without its end, so that everything that begins so begins with these bytes.
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

/// A row's spot.
pub(super) fn spot(place: &[u8], id: &str, emit: u32) -> Vec<u8> {
    let mut spot = Vec::with_capacity(place.len() + id.len().min(MAX_ID) + 4);
    spot.extend_from_slice(place);
    push_id(&mut spot, id);
    spot.extend_from_slice(&emit.to_be_bytes());
    spot
}

/// The spot just behind everything that begins with `place`; `None` if that is the end of all.
pub fn behind(place: &[u8]) -> Option<Vec<u8>> {
    match keys::after_prefix(place) {
        Bound::Excluded(spot) => Some(spot),
        Bound::Included(_) | Bound::Unbounded => None,
    }
}

/// Where a document's rows stand, and what each takes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub map: usize,
    pub spot: Vec<u8>,
    pub bytes: u64,
}

pub(super) fn encode_references(references: &[Reference]) -> Vec<u8> {
    let mut out = Writer::version(FORMAT);
    for reference in references {
        out.number(reference.map as u64);
        out.number(reference.bytes);
        out.bytes(&reference.spot);
    }
    out.0
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

/// A block's rows.
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

/// The reductions of a block, one per reducer.
pub(super) fn encode_reductions(reductions: &[String]) -> Vec<u8> {
    let mut out = Writer::version(FORMAT);
    for reduction in reductions {
        out.bytes(reduction.as_bytes());
    }
    out.0
}

/// The reduction of one reducer.
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

/// How far an index is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The database's sequence up to which it is built.
    pub sequence: u64,
    /// Purges up to here are in it.
    pub purge_sequence: u64,
    /// The database's sequence when the index was begun: what comes up to there has no rows yet.
    pub(super) begun_at: u64,
    /// No block waits to be reduced.
    pub(super) settled: bool,
    /// Rows, and their bytes, of each map function.
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

    /// `None`: of another version, so that the index has to be made again.
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
