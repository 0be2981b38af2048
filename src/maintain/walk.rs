//! Walks over a range of a damaged store: reads what is readable, and reports and skips the rest.
//!
//! A damaged value does not end the walk, because the walk reads keys first. A damaged page of the engine
//! hides an unknown number of keys, and its end is unknown too. To find the next readable key, the walk tries
//! keys behind the page, at distances that double until one is readable, and then bisects.

use std::ops::{Bound, RangeBounds};

use crate::error::{Error, Result};
use crate::store::range::KeyRange;
use crate::store::{Store, StoreError, keyspace};

/// Keys per page.
const PAGE: usize = 500;
/// Bytes of a key, after the prefix that all keys of the range share, that the search for the end of a
/// damaged page varies.
const WIDTH: usize = 40;

/// A key and its value, or the reason why the value cannot be read. A gap has the key at which it begins.
pub(super) type Found = (Vec<u8>, std::result::Result<Vec<u8>, String>);

const DISORDER: &str = "the keys of a page are out of order";

pub(super) struct Walk {
    range: KeyRange,
    done: bool,
}

impl Walk {
    /// Starts a walk over `range`.
    pub fn over(range: KeyRange) -> Walk {
        Walk { range, done: false }
    }

    /// The next keys with their values; empty at the end of the range.
    pub fn next(&mut self, store: &dyn Store) -> Result<Vec<Found>> {
        while !self.done {
            let keys = match store.keys(&self.range, PAGE) {
                Ok(keys) => keys,
                Err(StoreError::Damaged(what)) => return Ok(vec![self.pass(store, &what)]),
                Err(error) => return Err(error.into()),
            };
            if keys.is_empty() {
                self.done = true;
                break;
            }
            let mut page = Vec::with_capacity(keys.len());
            let keys = match self.in_order(keys) {
                (keys, true) if keys.is_empty() => return Ok(vec![self.pass(store, DISORDER)]),
                (keys, disorder) => {
                    page.extend(disorder.then(|| gap(self.low(), DISORDER)));
                    keys
                }
            };
            if let Some(last) = keys.last() {
                self.range.0 = Bound::Excluded(last.clone());
            }
            let values = store.get_each(&keys)?;
            for (key, value) in keys.into_iter().zip(values) {
                match value {
                    Ok(Some(value)) => page.push((key, Ok(value))),
                    Ok(None) => {}
                    Err(error) => page.push((key, Err(Error::from(error).to_string()))),
                }
            }
            if !page.is_empty() {
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }

    /// The keys of a page with which the walk goes on. A damaged page of the engine may lead elsewhere, and back: these are
    /// all keys before the first that is not in the range, or not below all that follow it and are; or else the lowest that
    /// is in the range, if there is one. Returns also whether keys before the first of them may be missing.
    fn in_order(&self, mut keys: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, bool) {
        let mut lowest: Option<usize> = None;
        let mut fit = keys.len();
        for at in (0..keys.len()).rev() {
            let is_in_range = self.range.contains(&keys[at]);
            if !is_in_range || lowest.is_some_and(|lowest| keys[lowest] <= keys[at]) {
                fit = at;
            }
            if is_in_range && lowest.is_none_or(|lowest| keys[at] < keys[lowest]) {
                lowest = Some(at);
            }
        }
        match (fit, lowest) {
            (0, Some(lowest)) => (vec![keys.swap_remove(lowest)], true),
            (0, None) => (Vec::new(), true),
            (fit, _) => {
                keys.truncate(fit);
                (keys, false)
            }
        }
    }

    fn low(&self) -> &[u8] {
        match &self.range.0 {
            Bound::Included(low) | Bound::Excluded(low) => low,
            Bound::Unbounded => &[],
        }
    }

    /// Continues behind a part of the range that cannot be read. Returns that part as a gap.
    fn pass(&mut self, store: &dyn Store, what: &str) -> Found {
        let from = self.low().to_vec();
        let found = gap(&from, what);
        let reads = |key: &[u8]| {
            let rest = (Bound::Included(key.to_vec()), self.range.1.clone());
            match store.keys(&rest, 1) {
                Ok(keys) => keys.first().is_none_or(|found| rest.contains(found)),
                Err(_) => false,
            }
        };
        let high = match &self.range.1 {
            Bound::Included(high) | Bound::Excluded(high) => high.clone(),
            Bound::Unbounded => vec![0xFF],
        };
        let shared = from.iter().zip(&high).take_while(|(one, other)| one == other).count();
        let place = |number: &[u8; WIDTH]| [&from[..shared], &number[..]].concat();
        let mut low = [0; WIDTH];
        let tail = &from[shared..from.len().min(shared + WIDTH)];
        low[..tail.len()].copy_from_slice(tail);
        let readable = (0..WIDTH * 8).find_map(|bit| {
            let tried = plus(&low, bit).filter(|tried| place(tried) < high)?;
            reads(&place(&tried)).then_some((bit, tried))
        });
        match readable {
            None => self.done = true,
            Some((bit, mut readable)) => {
                for bit in (0..bit).rev() {
                    match plus(&low, bit) {
                        Some(tried) if reads(&place(&tried)) => readable = tried,
                        Some(tried) => low = tried,
                        None => {}
                    }
                }
                // Drop trailing zeros, which are padding, if the shorter key is readable too.
                let padded = place(&readable);
                let zeros = padded.iter().rev().take_while(|byte| **byte == 0).count();
                let trimmed = padded[..padded.len() - zeros].to_vec();
                self.range.0 = Bound::Included(if reads(&trimmed) { trimmed } else { padded });
            }
        }
        found
    }
}

/// A gap that begins at the key `from`.
fn gap(from: &[u8], what: &str) -> Found {
    (from.to_vec(), Err(format!("the entries from {} on cannot be read: {what}", keyspace::describe(from))))
}

/// Adds 2 to the power of `bit` to the big-endian `number`; `None` on overflow.
fn plus(number: &[u8; WIDTH], bit: usize) -> Option<[u8; WIDTH]> {
    let mut sum = *number;
    let mut carry = 1u16 << (bit % 8);
    for byte in sum[..WIDTH - bit / 8].iter_mut().rev() {
        carry += u16::from(*byte);
        *byte = carry as u8;
        carry >>= 8;
        if carry == 0 {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;
    use crate::store::{Batch, Direction, Entry, PageLimit};

    /// What a damaged store returns for the keys from a range's lower bound on.
    type Damage = dyn Fn(&[u8], Vec<Vec<u8>>) -> crate::store::Result<Vec<Vec<u8>>> + Send + Sync;

    /// A store with damaged pages.
    struct Damaged(Memory, Box<Damage>);

    impl Store for Damaged {
        fn get_many(&self, keys: &[Vec<u8>]) -> crate::store::Result<Vec<Option<Vec<u8>>>> {
            self.0.get_many(keys)
        }
        fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> crate::store::Result<Vec<Entry>> {
            self.0.scan(range, direction, limit)
        }
        fn keys(&self, range: &KeyRange, entries: usize) -> crate::store::Result<Vec<Vec<u8>>> {
            let low = match &range.0 {
                Bound::Included(low) => low.clone(),
                Bound::Excluded(low) => [low, &[0][..]].concat(),
                Bound::Unbounded => Vec::new(),
            };
            let mut keys = (self.1)(&low, self.0.keys(range, usize::MAX)?)?;
            keys.truncate(entries);
            Ok(keys)
        }
        fn commit(&self, batch: Batch) -> crate::store::Result<()> {
            self.0.commit(batch)
        }
        fn engine(&self) -> &'static str {
            "damaged"
        }
        fn disk_bytes(&self) -> u64 {
            0
        }
    }

    /// A store with these keys, all of one kind, of database 7.
    fn damaged(
        keys: impl IntoIterator<Item = Vec<u8>>,
        damage: impl Fn(&[u8], Vec<Vec<u8>>) -> crate::store::Result<Vec<Vec<u8>>> + Send + Sync + 'static,
    ) -> Damaged {
        let store = Damaged(Memory::new(), Box::new(damage));
        let mut batch = Batch::new();
        keys.into_iter().for_each(|key| batch.put(key, vec![1]));
        store.0.commit(batch).unwrap();
        store
    }

    /// Walks over the entries of a kind of database 7: the keys that were read, and the number of gaps.
    fn walked(store: &Damaged, kind: keyspace::Kind, what: &str) -> (Vec<Vec<u8>>, u32) {
        let mut walk = Walk::over(keyspace::kind(7, kind));
        let (mut read, mut gaps) = (Vec::new(), 0);
        for _ in 0..2000 {
            let page = walk.next(store).unwrap();
            if page.is_empty() {
                return (read, gaps);
            }
            for (key, value) in page {
                match value {
                    Ok(_) => read.push(key),
                    Err(_) => gaps += 1,
                }
            }
        }
        panic!("{what}: it does not end");
    }

    /// One damaged page holds the keys from the first up to the second number.
    #[test]
    fn a_damaged_page_hides_its_own_keys_and_no_others() {
        let key = |number: u32| keyspace::document(7, &format!("a-rather-long-common-prefix-{number:06}"));
        for (from, to) in [(0, 1), (100, 101), (700, 1400), (1990, 2000), (0, 2000), (5, 5)] {
            let hidden = key(from)..key(to);
            let store = damaged((0..2000).map(key), move |low, mut keys| {
                let end = match (hidden.start.as_slice()..hidden.end.as_slice()).contains(&low) {
                    true => Some(0),
                    false => keys.iter().position(|key| hidden.contains(key)),
                };
                keys.truncate(end.unwrap_or(keys.len()));
                if end == Some(0) { Err(StoreError::Damaged("a page".into())) } else { Ok(keys) }
            });
            let (read, gaps) = walked(&store, keyspace::Kind::Document, &format!("{from} to {to}"));
            let expected: Vec<_> = (0..from).chain(to..2000).map(key).collect();
            assert!(read == expected, "{from} to {to}: {} read", read.len());
            assert_eq!(gaps, u32::from(from != to), "{from} to {to}");
        }
    }

    /// A read that comes to the first number of a pair goes on with keys of another place, and then with what follows the
    /// second.
    #[test]
    fn a_page_that_leads_elsewhere_ends_no_walk_and_holds_up_none() {
        let key = |number: u64| keyspace::sequence(7, number);
        let rows = |numbers: std::ops::Range<u64>| numbers.map(key).collect::<Vec<_>>();
        let beyond = vec![keyspace::document(9, "x"), keyspace::info(9)];
        let before = vec![keyspace::name("db"), keyspace::info(7)];
        for elsewhere in [beyond, before, rows(900..950), rows(3..9), vec![key(700), key(650)]] {
            for (from, to) in [(0, 1), (0, 1000), (100, 101), (300, 800), (999, 1000)] {
                let what = format!("{from} to {to}, {:?}", elsewhere.first());
                let (hidden, elsewhere) = (key(from)..key(to), elsewhere.clone());
                let store = damaged(rows(0..1000), move |_, mut keys| {
                    if let Some(at) = keys.iter().position(|key| hidden.contains(key)) {
                        let end = keys.iter().filter(|key| **key < hidden.end).count();
                        keys.splice(at..end, elsewhere.clone());
                    }
                    Ok(keys)
                });
                let (read, gaps) = walked(&store, keyspace::Kind::Sequence, &what);
                let read: std::collections::BTreeSet<_> = read.into_iter().collect();
                assert!(gaps > 0, "{what}: nothing is reported");
                assert!(rows(0..from).iter().all(|key| read.contains(key)), "{what}: before");
                assert!(rows(to..1000).iter().all(|key| read.contains(key)), "{what}: after");
            }
        }
    }
}
