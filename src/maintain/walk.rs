//! Following a range through damage: what can be read is read, and what cannot is named and passed by.
//!
//! A damaged value ends nothing, because the walk goes by keys. A damaged page of an engine hides an unknown number of keys, and
//! where they end is not known either: keys behind it are tried, in steps that double until one can be read, and then halved.

use std::ops::Bound;

use crate::error::{Error, Result};
use crate::store::{KeyRange, Store, StoreError, keys};

/// Keys read at once.
const PAGE: usize = 500;
/// Bytes of a key, behind what all keys of the range begin with, that tell keys apart when a damaged page is passed by.
const WIDTH: usize = 40;

/// A key and what stands there, or why it cannot be read. A gap has the key at which it begins.
pub(super) type Found = (Vec<u8>, std::result::Result<Vec<u8>, String>);

pub(super) struct Walk {
    range: KeyRange,
    done: bool,
}

impl Walk {
    pub fn over(range: KeyRange) -> Walk {
        Walk { range, done: false }
    }

    /// The next keys and what stands at them; empty at the end.
    pub fn next(&mut self, store: &dyn Store) -> Result<Vec<Found>> {
        while !self.done {
            let keys = match store.keys(&self.range, PAGE) {
                Ok(keys) => keys,
                Err(StoreError::Damaged(what)) => return Ok(vec![self.pass(store, &what)]),
                Err(error) => return Err(error.into()),
            };
            let low = self.low().to_vec();
            let Some(last) = keys.last().cloned() else {
                self.done = true;
                break;
            };
            // A page with a damaged key may lead back.
            if !keys.is_sorted() || last <= low && !matches!(self.range.0, Bound::Included(_) | Bound::Unbounded) {
                return Ok(vec![self.pass(store, "the keys of a page are out of order")]);
            }
            self.range.0 = Bound::Excluded(last);
            let values = store.get_each(&keys)?;
            let mut page = Vec::with_capacity(keys.len());
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

    fn low(&self) -> &[u8] {
        match &self.range.0 {
            Bound::Included(low) | Bound::Excluded(low) => low,
            Bound::Unbounded => &[],
        }
    }

    /// Goes on behind a part of the range that cannot be read.
    fn pass(&mut self, store: &dyn Store, what: &str) -> Found {
        let from = self.low().to_vec();
        let gap = format!("what stands from {} on cannot be read: {what}", keys::describe(&from));
        let reads = |key: &[u8]| {
            let rest = (Bound::Included(key.to_vec()), self.range.1.clone());
            match store.keys(&rest, 1) {
                Ok(keys) => keys.first().is_none_or(|found| found.as_slice() >= key),
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
        let found = (0..WIDTH * 8).find_map(|bit| {
            let tried = plus(&low, bit).filter(|tried| place(tried) < high)?;
            reads(&place(&tried)).then_some((bit, tried))
        });
        match found {
            None => self.done = true,
            Some((bit, mut readable)) => {
                for bit in (0..bit).rev() {
                    match plus(&low, bit) {
                        Some(tried) if reads(&place(&tried)) => readable = tried,
                        Some(tried) => low = tried,
                        None => {}
                    }
                }
                // Zeros at the end are none of the key's, if it can do without them.
                let padded = place(&readable);
                let zeros = padded.iter().rev().take_while(|byte| **byte == 0).count();
                let trimmed = padded[..padded.len() - zeros].to_vec();
                self.range.0 = Bound::Included(if reads(&trimmed) { trimmed } else { padded });
            }
        }
        (from, Err(gap))
    }
}

/// `number` and 2 to the power of `bit`; `None` if that has no room.
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

    /// A store with a damaged page, from one key up to another.
    struct Torn(Memory, Vec<u8>, Vec<u8>);

    impl Torn {
        fn meets(&self, keys: &[Vec<u8>], low: &[u8]) -> Option<usize> {
            if (self.1.as_slice()..self.2.as_slice()).contains(&low) {
                return Some(0);
            }
            keys.iter().position(|key| (&self.1..&self.2).contains(&key))
        }
    }

    impl Store for Torn {
        fn get_many(&self, keys: &[Vec<u8>]) -> crate::store::Result<Vec<Option<Vec<u8>>>> {
            self.0.get_many(keys)
        }
        fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> crate::store::Result<Vec<Entry>> {
            self.0.scan(range, direction, limit)
        }
        fn keys(&self, range: &KeyRange, entries: usize) -> crate::store::Result<Vec<Vec<u8>>> {
            let mut keys = self.0.keys(range, entries)?;
            let low = match &range.0 {
                Bound::Included(low) => low.clone(),
                Bound::Excluded(low) => [low, &[0][..]].concat(),
                Bound::Unbounded => Vec::new(),
            };
            match self.meets(&keys, &low) {
                Some(0) => return Err(StoreError::Damaged("a page".into())),
                Some(end) => keys.truncate(end),
                None => {}
            }
            Ok(keys)
        }
        fn commit(&self, batch: Batch) -> crate::store::Result<()> {
            self.0.commit(batch)
        }
        fn engine(&self) -> &'static str {
            "torn"
        }
        fn disk_bytes(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_damaged_page_costs_what_is_in_it_and_no_more() {
        let id = |number: u32| format!("a-rather-long-common-prefix-{number:06}");
        let key = |number: u32| keys::document(7, &id(number));
        for (from, to) in [(0, 1), (100, 101), (700, 1400), (1990, 2000), (0, 2000), (5, 5)] {
            let store = Torn(Memory::new(), key(from), key(to));
            let mut batch = Batch::new();
            (0..2000).for_each(|number| batch.put(key(number), vec![1]));
            store.0.commit(batch).unwrap();
            let mut walk = Walk::over(keys::kind(7, keys::Kind::Document));
            let (mut read, mut gaps) = (Vec::new(), 0);
            loop {
                let page = walk.next(&store).unwrap();
                if page.is_empty() {
                    break;
                }
                for (key, value) in page {
                    match value {
                        Ok(_) => read.push(key),
                        Err(_) => gaps += 1,
                    }
                }
            }
            let expected: Vec<_> = (0..from).chain(to..2000).map(key).collect();
            assert!(read == expected, "{from} to {to}: {} read", read.len());
            assert_eq!(gaps, u32::from(from != to), "{from} to {to}");
        }
    }
}
