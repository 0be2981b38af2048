//! A block: about a hundred entries in key order, stored as one value of the store.
//!
//! ```text
//! version, then for each entry
//!   shared:number    length of the prefix that its key shares with the preceding key
//!   rest:bytes       the rest of its key
//!   value:number     0 for a tombstone; otherwise the value's length + 1, followed by the value
//! ```

use crate::db::codec::{Reader, Writer};

const VERSION: u8 = 1;

/// The value of an entry; `None` is a tombstone, which hides the key in older runs.
pub(crate) type Held<'a> = Option<&'a [u8]>;

/// Builds a block from entries in ascending key order.
pub(crate) struct Packing {
    out: Writer,
    last: Vec<u8>,
}

impl Packing {
    pub fn new() -> Packing {
        Packing { out: Writer::version(VERSION), last: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.out.0.len() == 1
    }

    /// Size in bytes so far.
    pub fn len(&self) -> usize {
        self.out.0.len()
    }

    /// Appends an entry; keys must be ascending.
    pub fn push(&mut self, key: &[u8], value: Held<'_>) {
        let shared = self.last.iter().zip(key).take_while(|(one, two)| one == two).count();
        self.out.number(shared as u64);
        self.out.bytes(&key[shared..]);
        match value {
            None => self.out.number(0),
            Some(value) => {
                self.out.number(value.len() as u64 + 1);
                self.out.0.extend_from_slice(value);
            }
        }
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
    }

    /// The encoded block.
    pub fn finish(self) -> Vec<u8> {
        self.out.0
    }
}

/// A decoded block.
pub(crate) struct Block {
    bytes: Vec<u8>,
    /// The keys, concatenated.
    keys: Vec<u8>,
    entries: Vec<Place>,
}

/// The end of an entry's key in `keys`, and the range of its value in `bytes`.
#[derive(Clone, Copy)]
struct Place {
    key_end: usize,
    value: Option<(usize, usize)>,
}

impl Block {
    /// Decodes a block. Returns `None` if the bytes are not a valid block.
    pub fn read(bytes: Vec<u8>) -> Option<Block> {
        let mut keys: Vec<u8> = Vec::with_capacity(bytes.len());
        // A row takes about 80 bytes.
        let mut entries = Vec::with_capacity(bytes.len() / 64);
        let mut reader = Reader::version(&bytes, VERSION)?;
        let mut last = 0;
        while !reader.0.is_empty() {
            let begin = keys.len();
            let shared = usize::try_from(reader.number()?).ok().filter(|shared| *shared <= begin - last)?;
            keys.extend_from_within(last..last + shared);
            keys.extend_from_slice(reader.bytes()?);
            last = begin;
            let value = match usize::try_from(reader.number()?).ok()?.checked_sub(1) {
                None => None,
                Some(length) => {
                    let from = bytes.len() - reader.0.len();
                    reader.0 = reader.0.get(length..)?;
                    Some((from, from + length))
                }
            };
            entries.push(Place { key_end: keys.len(), value });
        }
        Some(Block { bytes, keys, entries })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn key(&self, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { self.entries[at - 1].key_end };
        &self.keys[begin..self.entries[at].key_end]
    }

    pub fn value(&self, at: usize) -> Held<'_> {
        self.entries[at].value.map(|(from, to)| &self.bytes[from..to])
    }

    /// The number of leading keys for which `is_before` is true; `is_before` must be false for all later keys.
    pub fn count(&self, is_before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let entries: [(&[u8], Held); 5] =
            [(b"", Some(b"empty")), (b"a", None), (b"ab", Some(b"")), (b"abc", Some(b"three")), (b"b", None)];
        let mut packing = Packing::new();
        assert!(packing.is_empty());
        entries.iter().for_each(|(key, value)| packing.push(key, *value));
        let bytes = packing.finish();
        let block = Block::read(bytes.clone()).unwrap();
        let read: Vec<(&[u8], Held)> = (0..block.len()).map(|at| (block.key(at), block.value(at))).collect();
        assert_eq!(read, entries);
        assert_eq!(block.count(|key| key < &b"ab"[..]), 2);
        assert_eq!(block.count(|_| true), 5);
        for length in 0..bytes.len() {
            if let Some(cut) = Block::read(bytes[..length].to_vec()) {
                assert!(cut.len() < block.len());
            }
        }
    }

    #[test]
    fn invalid_blocks_are_rejected() {
        assert!(Block::read(vec![]).is_none());
        assert!(Block::read(vec![2]).is_none());
        // Shares more bytes than the preceding key has.
        assert!(Block::read(vec![1, 3, 1, b'a', 0]).is_none());
        // The value ends beyond the block.
        assert!(Block::read(vec![1, 0, 1, b'a', 9, 1]).is_none());
    }
}
