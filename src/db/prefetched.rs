//! Document records that were read together with a database's counters, for a request that is about to need them.
//!
//! On a shared store each request reads the counters of its database first, in a statement that it shares with others
//! (`nodes::together`). For a request that reads or writes one document, that statement also reads the document's record, so
//! that the request does not wait for another round trip.
//!
//! ```text
//! request ─> counters and record, in one state of the store ─> put ─┐
//! reader  ─> take: only with exactly these counters <───────────────┤
//! writer  ─> take: the same <───────────────────────────────────────┘
//!         ─> commit, which expects these counters ─> committed: forgets what it has written
//! ```
//!
//! Every commit to the database counts up [`Info::commits`](super::record::Info), so a record that was read with the
//! counters that a commit expects is the stored one. A commit of this node's own writer moves the records that it has not
//! written on to the new counters. A record may arrive here after such a commit, although it was read before: then the last
//! commits tell whether it has been written since. After a commit of another node, nothing is kept, and nothing while no
//! request needs it: an idle database has an empty map.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::record::Info;

/// The most records of one database. Each belongs to a request that is being answered.
const RECORDS: usize = 256;
/// The longest record that is kept.
const LONGEST: usize = 4 << 10;
/// How many commits of this node are remembered...
const COMMITS: usize = 32;
/// ...and the most bytes of the keys that such a commit has written.
const BYTES: usize = 16 << 10;

/// A state of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct At {
    /// The last of its histories, and the number of commits.
    order: (u64, u64),
    /// The stored counters. After a failover that lost commits, there may be two states with the same order.
    counters: Vec<u8>,
}

impl At {
    /// The state with these counters.
    pub fn of(info: &Info) -> At {
        At { order: (info.histories.last(), info.commits), counters: info.encode() }
    }
}

/// Values by key; `None`: the key does not exist.
pub(super) type Values = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// The records of one database.
#[derive(Default)]
pub(super) struct Prefetched(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Requests whose records may be kept. Without any, the rest is empty.
    requests: usize,
    /// The state of which `values` are.
    at: At,
    values: Values,
    /// The last commits of this node: the state before each, and the keys that it has written. The state after the last one
    /// is `at`.
    own: VecDeque<(At, HashSet<Vec<u8>>)>,
}

impl Prefetched {
    /// Keeps a record that was read in the state `at`, unless it may have changed since.
    pub fn put(&self, at: &At, key: &[u8], value: Option<Vec<u8>>) {
        let mut inner = self.0.lock();
        if inner.requests == 0 {
            return;
        }
        if inner.at.order < at.order {
            inner.reset(at.clone());
        }
        let is_long = value.as_ref().is_some_and(|value| value.len() > LONGEST);
        if !is_long && inner.values.len() < RECORDS && inner.is_current(at, key) {
            inner.values.insert(key.to_vec(), value);
        }
    }

    /// Removes the records of `keys` and returns them, if they are those of the state `at`.
    pub fn take(&self, at: &At, keys: impl Iterator<Item = Vec<u8>>) -> Values {
        let mut inner = self.0.lock();
        if inner.at != *at || inner.values.is_empty() {
            return Values::new();
        }
        keys.filter_map(|key| inner.values.remove_entry(&key)).collect()
    }

    /// Notes a commit of this node, which has written `keys`.
    pub fn committed(&self, before: At, after: At, keys: HashSet<Vec<u8>>) {
        let mut inner = self.0.lock();
        if inner.requests == 0 {
            return;
        }
        if inner.at == before && keys.iter().map(Vec::len).sum::<usize>() <= BYTES {
            keys.iter().for_each(|key| drop(inner.values.remove(key)));
            inner.own.push_back((before, keys));
            if inner.own.len() > COMMITS {
                inner.own.pop_front();
            }
            inner.at = after;
        } else if inner.at.order < after.order {
            inner.reset(after);
        }
    }
}

impl Inner {
    fn reset(&mut self, at: At) {
        self.values.clear();
        self.own.clear();
        self.at = at;
    }

    /// Whether a record that was read in the state `at` is the same now.
    fn is_current(&self, at: &At, key: &[u8]) -> bool {
        if self.at == *at {
            return true;
        }
        let first = self.own.iter().position(|(before, _)| before == at);
        first.is_some_and(|first| !self.own.iter().skip(first).any(|(_, keys)| keys.contains(key)))
    }
}

/// A record that is kept for a request; dropping this forgets it, if nobody has taken it.
pub struct Kept {
    records: Arc<Prefetched>,
    key: Vec<u8>,
}

impl Kept {
    /// Lets `records`, those of the document's database, keep the record of this key.
    pub(super) fn new(records: Arc<Prefetched>, key: Vec<u8>) -> Kept {
        records.0.lock().requests += 1;
        Kept { records, key }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut inner = self.records.0.lock();
        inner.requests -= 1;
        match inner.requests {
            0 => *inner = Inner::default(),
            _ => drop(inner.values.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(history: u64, commits: u64) -> At {
        At { order: (history, commits), counters: Vec::new() }
    }

    /// Records, and a request that keeps them.
    fn records() -> (Arc<Prefetched>, Kept) {
        let records = Arc::<Prefetched>::default();
        (records.clone(), Kept::new(records, Vec::new()))
    }

    fn committed(records: &Prefetched, before: At, keys: HashSet<Vec<u8>>) {
        let after = at(before.order.0, before.order.1 + 1);
        records.committed(before, after, keys);
    }

    fn keys(keys: &[&str]) -> HashSet<Vec<u8>> {
        keys.iter().map(|key| key.as_bytes().to_vec()).collect()
    }

    fn put(records: &Prefetched, at: At, key: &str) {
        records.put(&at, key.as_bytes(), Some(vec![at.order.1 as u8]));
    }

    /// The keys of `asked` of which a record is known, with the commits at which it was read.
    fn taken(records: &Prefetched, at: At, asked: &[&str]) -> Vec<(String, u8)> {
        let values = records.take(&at, asked.iter().map(|key| key.as_bytes().to_vec()));
        let mut found: Vec<_> =
            values.into_iter().map(|(key, value)| (String::from_utf8(key).unwrap(), value.unwrap()[0])).collect();
        found.sort();
        found
    }

    #[test]
    fn a_record_is_taken_once_and_only_with_its_counters() {
        let (records, _kept) = records();
        put(&records, at(1, 5), "a");
        put(&records, at(1, 5), "b");
        let twin = At { counters: vec![1], ..at(1, 5) };
        for other in [at(1, 4), at(1, 6), at(2, 5), at(0, 5), twin.clone()] {
            assert_eq!(taken(&records, other.clone(), &["a"]), [], "{other:?}");
        }
        put(&records, twin, "a");
        assert_eq!(taken(&records, at(1, 5), &["a", "c"]), [("a".to_owned(), 5)]);
        assert_eq!(taken(&records, at(1, 5), &["a", "b"]), [("b".to_owned(), 5)]);
        records.put(&at(1, 5), b"long", Some(vec![0; LONGEST + 1]));
        records.put(&at(1, 5), b"absent", None);
        let found = records.take(&at(1, 5), [b"long".to_vec(), b"absent".to_vec()].into_iter());
        assert_eq!(found, Values::from([(b"absent".to_vec(), None)]));
        (0..=RECORDS).for_each(|number| put(&records, at(1, 5), &number.to_string()));
        assert_eq!(records.0.lock().values.len(), RECORDS);
    }

    #[test]
    fn newer_counters_of_another_node_end_what_was_known() {
        let (records, _kept) = records();
        put(&records, at(1, 5), "a");
        put(&records, at(1, 7), "b");
        put(&records, at(1, 6), "late");
        assert_eq!(taken(&records, at(1, 7), &["a", "b", "late"]), [("b".to_owned(), 7)]);
        // A failover to a server that has fewer commits.
        put(&records, at(2, 3), "c");
        put(&records, at(1, 9), "of the old server");
        assert_eq!(taken(&records, at(2, 3), &["c", "of the old server"]), [("c".to_owned(), 3)]);
        assert_eq!(taken(&records, at(1, 9), &["of the old server"]), []);
    }

    #[test]
    fn without_a_request_nothing_is_kept() {
        let (records, kept) = records();
        let other = Kept::new(records.clone(), b"a".to_vec());
        put(&records, at(1, 5), "a");
        put(&records, at(1, 5), "b");
        committed(&records, at(1, 5), keys(&["c"]));
        drop(other);
        assert_eq!(records.0.lock().values.len(), 1, "only b");
        drop(kept);
        put(&records, at(1, 6), "late");
        committed(&records, at(1, 6), keys(&["c"]));
        let inner = records.0.lock();
        assert_eq!((inner.values.capacity(), inner.own.capacity(), &inner.at), (0, 0, &At::default()));
    }

    #[test]
    fn commits_of_this_node_leave_what_they_have_not_written() {
        let (records, _kept) = records();
        put(&records, at(1, 5), "a");
        put(&records, at(1, 5), "b");
        committed(&records, at(1, 5), keys(&["a", "c"]));
        assert_eq!(taken(&records, at(1, 6), &["a"]), []);
        // They were read before the commit.
        put(&records, at(1, 5), "a");
        put(&records, at(1, 5), "d");
        assert_eq!(taken(&records, at(1, 6), &["a", "b", "d"]), [("b".to_owned(), 5), ("d".to_owned(), 5)]);
        committed(&records, at(1, 6), keys(&["d"]));
        for (read, key, expected) in [(5, "c", false), (6, "c", true), (6, "d", false), (5, "e", true), (4, "e", false)]
        {
            put(&records, at(1, read), key);
            let found = taken(&records, at(1, 7), &[key]);
            assert_eq!(!found.is_empty(), expected, "{key} as of {read}");
        }
        // The counters after the commit have been read before the writer notes it.
        put(&records, at(1, 8), "f");
        committed(&records, at(1, 7), keys(&["f"]));
        assert_eq!(taken(&records, at(1, 8), &["f"]), [("f".to_owned(), 8)]);
        // Nothing is known of the commits between 8 and 11.
        put(&records, at(1, 8), "g");
        committed(&records, at(1, 10), keys(&[]));
        put(&records, at(1, 10), "h");
        assert_eq!(taken(&records, at(1, 11), &["g", "h"]), []);
        put(&records, at(1, 11), "i");
        committed(&records, at(1, 11), HashSet::from([vec![0; BYTES + 1]]));
        assert_eq!(taken(&records, at(1, 12), &["i"]), [], "too large to be remembered");
        for commits in 12..12 + COMMITS as u64 + 5 {
            committed(&records, at(1, commits), keys(&[&commits.to_string()]));
        }
        assert_eq!(records.0.lock().own.len(), COMMITS);
    }
}
