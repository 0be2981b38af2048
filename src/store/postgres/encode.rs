//! A key of the store as two columns: the number of its database, and the rest.
//!
//! `10 db(8) rest` is stored as (db, rest); every other key as (0, key). All keys of a database are then next to each
//! other, in the same order as in the store, and no row repeats the nine bytes before `rest`.

use std::ops::Bound;

use crate::store::range::KeyRange;

/// The tag of a database's keys (see `keyspace`).
const DATABASE: u8 = 0x10;
/// The length of tag and number.
const HEAD: usize = 9;

/// The columns of a key.
pub(super) type Place = (i64, Vec<u8>);

/// The columns of `key`.
pub(super) fn place(key: &[u8]) -> Place {
    match split(key) {
        Some((number, rest)) => (number, rest.to_vec()),
        None => (0, key.to_vec()),
    }
}

fn split(key: &[u8]) -> Option<(i64, &[u8])> {
    let (head, rest) = key.split_at_checked(HEAD)?;
    let number = i64::try_from(u64::from_be_bytes(*head.strip_prefix(&[DATABASE])?.first_chunk()?)).ok()?;
    (number > 0 && number < i64::MAX && !rest.is_empty()).then_some((number, rest))
}

/// The key of these columns.
pub(super) fn key(number: i64, rest: Vec<u8>) -> Vec<u8> {
    if number == 0 {
        return rest;
    }
    let mut key = Vec::with_capacity(HEAD + rest.len());
    key.push(DATABASE);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&rest);
    key
}

/// Where the keys of a range are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// From the first key (inclusive) to the second (exclusive), all with this number.
    One(i64, Vec<u8>, Vec<u8>),
    /// Keys of several databases, or of databases and other keys.
    Mixed {
        /// From and to, among the rows with number 0.
        plain: (Vec<u8>, Vec<u8>),
        /// From and to, among the other rows, in the order of (number, rest).
        numbered: (Place, Place),
    },
}

/// Where the keys of `range` are; its high end must be bounded.
pub(super) fn rows((low, high): &KeyRange) -> Rows {
    let next = |key: &Vec<u8>| [key.as_slice(), &[0]].concat();
    let low = match low {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => next(key),
        Bound::Unbounded => Vec::new(),
    };
    let high = match high {
        Bound::Included(key) => next(key),
        Bound::Excluded(key) => key.clone(),
        Bound::Unbounded => vec![0xFF],
    };
    if high.as_slice() <= &[DATABASE][..] || low.as_slice() >= &[DATABASE + 1][..] {
        return Rows::One(0, low, high);
    }
    if let (Some((number, from)), Some((last, to))) = (split(&low), split(&high))
        && number == last
    {
        return Rows::One(number, from.to_vec(), to.to_vec());
    }
    Rows::Mixed { numbered: (numbered(&low), numbered(&high)), plain: (low, high) }
}

/// The first place among the numbered rows whose key is not below `key`.
fn numbered(key: &[u8]) -> Place {
    if key < &[DATABASE][..] {
        return (1, Vec::new());
    }
    let end = (i64::MAX, Vec::new());
    let Some(rest) = key.strip_prefix(&[DATABASE]) else { return end };
    let mut number = [0; 8];
    let length = rest.len().min(8);
    number[..length].copy_from_slice(&rest[..length]);
    match i64::try_from(u64::from_be_bytes(number)) {
        // Rows with the number 0 are not numbered.
        Ok(0) => (1, Vec::new()),
        Ok(number) if number < i64::MAX => (number, rest[length..].to_vec()),
        Ok(_) | Err(_) => end,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::keyspace;
    use crate::store::range::is_empty;

    /// Keys around the tag of databases, of all lengths.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        let byte = || prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()];
        let tag = prop_oneof![Just(0x0Fu8), Just(0x10), Just(0x11), 0u8..0xFF];
        let number = prop_oneof![Just(0u64), 1u64..4, Just(i64::MAX as u64), Just(1 << 63), any::<u64>()];
        let short = (tag, proptest::collection::vec(byte(), 0..12)).prop_map(|(tag, rest)| [vec![tag], rest].concat());
        let full = (number, proptest::collection::vec(byte(), 0..4))
            .prop_map(|(number, rest)| [&[DATABASE][..], &number.to_be_bytes(), &rest].concat());
        prop_oneof![short, full]
    }

    proptest! {
        #[test]
        fn columns_are_a_key_and_back(found in keys()) {
            let (number, rest) = place(&found);
            prop_assert_eq!(key(number, rest), found);
        }

        #[test]
        fn rows_hold_exactly_the_keys_of_the_range(low in keys(), high in keys(), inside in any::<[bool; 2]>(), found in keys()) {
            let bound = |key: Vec<u8>, is_in| if is_in { Bound::Included(key) } else { Bound::Excluded(key) };
            let range = (bound(low, inside[0]), bound(high, inside[1]));
            prop_assume!(!is_empty(&range));
            let (number, rest) = place(&found);
            let holds = match rows(&range) {
                Rows::One(one, from, to) => number == one && from <= rest && rest < to,
                Rows::Mixed { plain: (from, to), .. } if number == 0 => from <= rest && rest < to,
                Rows::Mixed { numbered: (from, to), .. } => from <= (number, rest.clone()) && (number, rest) < to,
            };
            prop_assert_eq!(holds, std::ops::RangeBounds::contains(&range, &found));
        }
    }

    #[test]
    fn the_range_of_a_kind_is_in_one_database() {
        let range = keyspace::kind(7, keyspace::Kind::Body);
        assert_eq!(rows(&range), Rows::One(7, b"b".to_vec(), b"c".to_vec()));
        assert!(matches!(rows(&keyspace::names(None, None)), Rows::One(0, ..)));
    }
}
