//! Stored values: whole, or as a head with chunks.

use std::sync::Arc;

use sled::IVec;

use super::error::failure;
use super::files::Open;
use crate::store::embedded::frame;
use crate::store::reserved_keys::RESERVED;
use crate::store::{Result, StoreError};

/// The largest value handed to sled in one piece, in bytes. sled checks the size of its cache only after 64 accesses to
/// one of the cache's 256 parts, so that some 16,000 chunks too many may be in memory.
pub(super) const CHUNK: usize = 4 << 10;
/// The same in stores written before 29 November 2026.
const LARGE_CHUNK: usize = 64 << 10;
/// The first byte of a chunk's key.
pub(super) const CHUNKS: u8 = RESERVED;
/// The tag of the head of a value in chunks of [`CHUNK`] bytes (see `frame`).
const CHUNKED: u8 = 3;
/// The tag of the head of a value in chunks of [`LARGE_CHUNK`] bytes.
const LARGE_CHUNKED: u8 = 1;
const HEAD_LENGTH: usize = 1 + 8 + 8 + 4;
/// Memory reserved for a value before its chunks are read.
const MOST_RESERVED: usize = 16 << 20;

/// A framed value as it was read.
#[derive(Clone)]
pub(super) enum Value {
    Whole(IVec),
    Joined(Arc<[u8]>),
    Bad(StoreError),
}

impl Value {
    pub(super) fn bytes(&self) -> Result<&[u8]> {
        match self {
            Value::Whole(bytes) => Ok(bytes),
            Value::Joined(bytes) => Ok(bytes),
            Value::Bad(error) => Err(error.clone()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().map_or(0, frame::length)
    }
}

/// The value that sled holds now, joined if it is chunked.
pub(super) fn value(open: &Open, key: &[u8]) -> Result<Option<Value>> {
    match open.db.get(key).map_err(failure)? {
        Some(stored) => join(open, key, stored),
        None => Ok(None),
    }
}

/// Returns the value, given `stored`, which is either the whole value or its head. `None` if the key was
/// deleted while its chunks were read.
pub(super) fn join(open: &Open, key: &[u8], mut stored: IVec) -> Result<Option<Value>> {
    loop {
        if !Head::is_one(&stored) {
            return Ok(Some(Value::Whole(stored)));
        }
        let Some(head) = Head::read(key, &stored) else {
            return Ok(Some(Value::Bad(frame::damaged(key, "does not match its checksum"))));
        };
        if let Some(joined) = head.join(open)? {
            return Ok(Some(Value::Joined(joined)));
        }
        let Some(again) = open.db.get(key).map_err(failure)? else { return Ok(None) };
        if again == stored {
            return Ok(Some(Value::Bad(frame::damaged(key, "has lost a part of its value"))));
        }
        stored = again;
    }
}

pub(super) struct Head {
    set: u64,
    pub(super) length: u64,
    /// Bytes of a chunk.
    chunk: usize,
}

impl Head {
    /// The head of a value of `length` bytes that is written now.
    pub(super) fn new(set: u64, length: usize) -> Head {
        Head { set, length: length as u64, chunk: CHUNK }
    }

    /// The head of a value in larger chunks, as older stores have it.
    #[cfg(test)]
    pub(super) fn with_large_chunks(set: u64, length: usize) -> (Head, usize) {
        (Head { set, length: length as u64, chunk: LARGE_CHUNK }, LARGE_CHUNK)
    }

    fn is_one(stored: &[u8]) -> bool {
        matches!(stored.first(), Some(&(CHUNKED | LARGE_CHUNKED)))
    }

    /// `None` if `stored` is no head of this key.
    pub(super) fn read(key: &[u8], stored: &[u8]) -> Option<Head> {
        let stored: &[u8; HEAD_LENGTH] = stored.try_into().ok()?;
        let chunk = match stored[0] {
            CHUNKED => CHUNK,
            LARGE_CHUNKED => LARGE_CHUNK,
            _ => return None,
        };
        let (head, sum) = stored.split_at(HEAD_LENGTH - 4);
        let number = |at: usize| head[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        (checksum(key, head) == *sum).then_some(Head { set: number(1)?, length: number(9)?, chunk })
    }

    pub(super) fn write(&self, key: &[u8]) -> Vec<u8> {
        let mut head = vec![if self.chunk == CHUNK { CHUNKED } else { LARGE_CHUNKED }];
        head.extend_from_slice(&self.set.to_be_bytes());
        head.extend_from_slice(&self.length.to_be_bytes());
        head.extend_from_slice(&checksum(key, &head));
        head
    }

    pub(super) fn chunk_keys(&self) -> impl Iterator<Item = [u8; 13]> {
        let set = self.set;
        (0..self.length.div_ceil(self.chunk as u64) as u32).map(move |index| {
            let mut key = [CHUNKS; 13];
            key[1..9].copy_from_slice(&set.to_be_bytes());
            key[9..].copy_from_slice(&index.to_be_bytes());
            key
        })
    }

    /// Reads all chunks. `None` if one is missing.
    fn join(&self, open: &Open) -> Result<Option<Arc<[u8]>>> {
        let mut joined = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0).min(MOST_RESERVED));
        for key in self.chunk_keys() {
            match open.db.get(key).map_err(failure)? {
                Some(chunk) => joined.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        Ok(Some(joined.into()))
    }
}

fn checksum(key: &[u8], head: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(head);
    hasher.finalize().to_le_bytes()
}
