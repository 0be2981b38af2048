//! Records and bodies of documents that were read a moment ago, in memory.
//!
//! A read of the engine searches its pages, verifies a checksum and perhaps decrypts, and may wait for the disk, so that it
//! may take another thread. A value that is found here needs none of that.
//!
//! A kept value is always the one that the engine would return. The keys are spread over parts, and each part counts the
//! changes of its keys:
//!
//! ```text
//! reader   stamp of the key's part ──> read the engine ──> keep, only if the part has the same stamp
//! commit   begin: new stamps for the parts of its keys ──> the engine writes ──> forget its keys ──> end
//! ```
//!
//! While a commit is written, nothing is found in the parts of its keys, as only the engine knows when its writes become
//! visible.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use parking_lot::Mutex;

use crate::store::embedded::backend::Writes;
use crate::store::keyspace;

/// The most bytes of all kept values, with their keys and what the tables need for them.
const MOST: usize = 8 << 20;
/// The longest value that is kept, in bytes.
const LONGEST: usize = 4 << 10;
/// What a kept value takes beside its bytes and those of its key: about so many bytes.
const OVERHEAD: usize = 96;
/// Parts with a lock each. A set of parts is the bits of a `u64`.
const PARTS: usize = 64;
/// Bytes of the newer half of a part.
const HALF: usize = MOST / PARTS / 2;

/// A state of a part, in which nothing is changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64);

pub(super) struct RecentReads {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

/// A part of the values, in two halves. When the newer half is full, it becomes the older one, whose values are forgotten,
/// except those that were found again in the meantime.
#[derive(Default)]
struct Part {
    /// Odd while something changes.
    version: u64,
    newer: HashMap<Box<[u8]>, Box<[u8]>>,
    older: HashMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes of the newer half.
    bytes: usize,
}

/// What the engine returns is changing. Dropping this, also in a panic, forgets what may have changed.
pub(super) struct Changing<'a> {
    reads: &'a RecentReads,
    /// The set of parts that may change.
    set: u64,
    /// `None`: anything may change.
    writes: Option<&'a Writes>,
}

impl Default for RecentReads {
    fn default() -> RecentReads {
        RecentReads { hasher: RandomState::new(), parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl RecentReads {
    /// The present state of what is read with this key. `None`: it is changing, or is not kept.
    pub fn stamp(&self, key: &[u8]) -> Option<Stamp> {
        keyspace::is_document_or_body(key).then(|| self.part(key).lock().stamp()).flatten()
    }

    /// The value of a key, if it is kept.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut part = self.part(key).lock();
        part.stamp()?;
        part.get(key)
    }

    /// Keeps a value that was read after `stamp` was taken, unless something has changed since.
    pub fn keep(&self, stamp: Stamp, key: &[u8], value: &[u8]) {
        if value.len() <= LONGEST {
            let mut part = self.part(key).lock();
            if part.stamp() == Some(stamp) {
                part.insert(key.into(), value.into());
            }
        }
    }

    /// Begins to write a group of commits. No other change may be under way.
    pub fn writing<'a>(&'a self, writes: &'a Writes) -> Changing<'a> {
        let set = kept(writes).fold(0, |set, key| set | 1 << self.index(key));
        self.changing(set, Some(writes))
    }

    /// Begins a change after which the engine may have lost commits. No other change may be under way.
    pub fn losing(&self) -> Changing<'_> {
        self.changing(u64::MAX, None)
    }

    fn changing<'a>(&'a self, set: u64, writes: Option<&'a Writes>) -> Changing<'a> {
        let changing = Changing { reads: self, set, writes };
        changing.parts().for_each(|part| part.lock().version += 1);
        changing
    }

    fn index(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % PARTS
    }

    fn part(&self, key: &[u8]) -> &Mutex<Part> {
        &self.parts[self.index(key)]
    }
}

/// The keys whose values may be kept.
fn kept(writes: &Writes) -> impl Iterator<Item = &Vec<u8>> {
    writes.keys().filter(|key| keyspace::is_document_or_body(key))
}

impl<'a> Changing<'a> {
    fn parts(&self) -> impl Iterator<Item = &'a Mutex<Part>> {
        let set = self.set;
        self.reads.parts.iter().enumerate().filter(move |(index, _)| set >> index & 1 == 1).map(|(_, part)| part)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        match self.writes {
            None => self.parts().for_each(|part| part.lock().clear()),
            // Nothing is kept in them until this ends.
            Some(_) if self.parts().all(|part| part.lock().is_empty()) => {}
            Some(writes) => kept(writes).for_each(|key| self.reads.part(key).lock().remove(key)),
        }
        self.parts().for_each(|part| part.lock().version += 1);
    }
}

impl Part {
    fn stamp(&self) -> Option<Stamp> {
        self.version.is_multiple_of(2).then_some(Stamp(self.version))
    }

    fn is_empty(&self) -> bool {
        self.newer.is_empty() && self.older.is_empty()
    }

    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.newer.get(key) {
            return Some(value.to_vec());
        }
        let (key, value) = self.older.remove_entry(key)?;
        let found = value.to_vec();
        self.insert(key, value);
        Some(found)
    }

    fn insert(&mut self, key: Box<[u8]>, value: Box<[u8]>) {
        self.remove(&key);
        self.bytes += cost(&key, &value);
        self.newer.insert(key, value);
        if self.bytes > HALF {
            self.bytes = 0;
            self.older = std::mem::take(&mut self.newer);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        self.older.remove(key);
        if let Some(value) = self.newer.remove(key) {
            self.bytes -= cost(key, &value);
        }
    }

    fn clear(&mut self) {
        *self = Part { version: self.version, ..Part::default() };
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keyspace::document;

    fn writes(ids: &[&str]) -> Writes {
        ids.iter().map(|id| (document(1, id), None)).collect()
    }

    fn keep(reads: &RecentReads, id: &str) {
        let key = document(1, id);
        reads.keep(reads.stamp(&key).unwrap(), &key, b"value");
    }

    fn found<const COUNT: usize>(reads: &RecentReads, ids: [&str; COUNT]) -> [bool; COUNT] {
        ids.map(|id| reads.get(&document(1, id)).is_some())
    }

    #[test]
    fn a_value_is_kept_until_its_key_is_written_and_only_if_nothing_was_written_meanwhile() {
        let reads = RecentReads::default();
        // One that is in the same part as `a`, and one that is not.
        let others: Vec<String> = (0..1000).map(|number| format!("b{number}")).collect();
        let is_beside = |id: &&String| reads.index(&document(1, id)) == reads.index(&document(1, "a"));
        let beside = others.iter().find(is_beside).unwrap().as_str();
        let apart = others.iter().find(|id| !is_beside(id)).unwrap().as_str();
        ["a", beside, apart].iter().for_each(|id| keep(&reads, id));
        assert_eq!(found(&reads, ["a", beside, apart]), [true; 3]);
        let (a, next) = (document(1, "a"), document(1, beside));
        let early = reads.stamp(&a).unwrap();
        let batch = writes(&["a"]);
        let writing = reads.writing(&batch);
        assert_eq!((reads.stamp(&a), reads.stamp(&next)), (None, None));
        assert_eq!(found(&reads, ["a", beside, apart]), [false, false, true]);
        reads.keep(early, &a, b"value");
        keep(&reads, apart);
        drop(writing);
        reads.keep(early, &a, b"value");
        assert_eq!(found(&reads, ["a", beside, apart]), [false, true, true]);
        keep(&reads, "a");
        let early = reads.stamp(&a).unwrap();
        drop(reads.losing());
        reads.keep(early, &a, b"value");
        assert_eq!(found(&reads, ["a", beside, apart]), [false; 3]);
        keep(&reads, "a");
        assert_eq!(found(&reads, ["a"]), [true]);
        assert_eq!(reads.stamp(b"a key of another kind"), None);
    }

    #[test]
    fn a_write_that_panics_forgets_its_keys() {
        let reads = RecentReads::default();
        keep(&reads, "a");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let batch = writes(&["a"]);
            let _writing = reads.writing(&batch);
            panic!("expected in this test");
        }));
        assert!(panicked.is_err());
        assert_eq!(found(&reads, ["a"]), [false]);
        assert!(reads.stamp(&document(1, "a")).is_some());
    }

    #[test]
    fn memory_is_bounded_and_what_is_read_again_stays() {
        let reads = RecentReads::default();
        let keep = |id: &str, value: &[u8]| {
            let key = document(1, id);
            reads.keep(reads.stamp(&key).unwrap(), &key, value);
        };
        keep("long", &[0; LONGEST + 1]);
        assert_eq!(found(&reads, ["long"]), [false]);
        keep("often", &[0; LONGEST]);
        for number in 0..50_000 {
            // Twice: the second one replaces it.
            keep(&number.to_string(), &[0; 1000]);
            keep(&number.to_string(), &[0; 1000]);
            assert_eq!(found(&reads, ["often"]), [true], "{number}");
        }
        let (mut kept, mut bytes) = (0, 0);
        for part in &reads.parts {
            let part = part.lock();
            let newer = part.newer.iter().map(|(key, value)| cost(key, value)).sum::<usize>();
            assert_eq!(newer, part.bytes);
            kept += part.newer.len() + part.older.len();
            bytes += newer + part.older.iter().map(|(key, value)| cost(key, value)).sum::<usize>();
        }
        assert!(bytes <= MOST + PARTS * (LONGEST + OVERHEAD + 20), "{bytes}");
        assert!(kept > MOST / 2 / 1200, "{kept}");
        let all: Writes = (0..50_000).map(|number| (document(1, &number.to_string()), None)).collect();
        drop(reads.writing(&all));
        assert_eq!(found(&reads, ["often"]), [true]);
        let left = |part: &Mutex<Part>| {
            let part = part.lock();
            part.newer.len() + part.older.len()
        };
        assert_eq!(reads.parts.iter().map(left).sum::<usize>(), 1);
    }
}
