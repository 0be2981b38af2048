//! A row of a view and its stored form.

use std::ops::Range;

use super::layout::{FORMAT, MAX_ID};
use crate::db::codec::{Reader, Writer};
use crate::error::{Error, Result};

/// A row of a view. Keeps the two stored byte strings and borrows its parts from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub(super) spot: Vec<u8>,
    id: Id,
    /// The key, followed by the value.
    text: String,
    key_length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    /// Range of the id in the spot.
    In(Range<usize>),
    /// The id itself, if it is too long for the spot.
    Whole(String),
}

/// Encodes a row: version, length of the place, id (if the spot has only a digest of it), key, value.
pub(super) fn encode(place: &[u8], id: &str, key: &str, value: &str) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(16 + key.len() + value.len()));
    out.byte(FORMAT);
    out.number(place.len() as u64);
    out.bytes(if id.len() > MAX_ID { id.as_bytes() } else { &[] });
    out.bytes(key.as_bytes());
    out.0.extend_from_slice(value.as_bytes());
    out.0
}

impl Row {
    /// Decodes the row at a spot.
    pub(super) fn decode(spot: Vec<u8>, mut stored: Vec<u8>) -> Result<Row> {
        let read = || {
            let mut reader = Reader::version(&stored, FORMAT)?;
            let place = usize::try_from(reader.number()?).ok()?;
            let id = match reader.bytes()? {
                [] => {
                    let range = place..spot.len().checked_sub(4)?;
                    std::str::from_utf8(spot.get(range.clone())?).ok()?;
                    Id::In(range)
                }
                whole => Id::Whole(std::str::from_utf8(whole).ok()?.to_owned()),
            };
            let key_length = usize::try_from(reader.number()?).ok()?;
            Some((id, key_length, stored.len() - reader.0.len()))
        };
        let damaged = || Error::Damaged("a row of a view index".into());
        let (id, key_length, begin) = read().ok_or_else(damaged)?;
        stored.drain(..begin);
        let text = String::from_utf8(stored).map_err(|_| damaged())?;
        text.is_char_boundary(key_length).then_some(Row { spot, id, text, key_length }).ok_or_else(damaged)
    }

    /// The id of the document that emitted the row.
    pub fn id(&self) -> &str {
        match &self.id {
            Id::In(range) => std::str::from_utf8(&self.spot[range.clone()]).unwrap_or_default(),
            Id::Whole(id) => id,
        }
    }

    /// The key as JSON text.
    pub fn key(&self) -> &str {
        &self.text[..self.key_length]
    }

    /// The value as JSON text.
    pub fn value(&self) -> &str {
        &self.text[self.key_length..]
    }

    /// Approximate size of the row's id, key and value in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.spot.len() + self.text.len()
    }
}

impl Row {
    /// A row without a position.
    pub fn loose(id: &str, key: &str, value: &str) -> Row {
        Row { spot: Vec::new(), id: Id::Whole(id.into()), text: [key, value].concat(), key_length: key.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::view::layout::spot;

    #[test]
    fn rows_round_trip() {
        for id in ["a".to_owned(), "ü".repeat(9), "x".repeat(MAX_ID), "x".repeat(MAX_ID + 1)] {
            for (key, value) in [("null", "1"), ("[\"ä\"]", ""), ("", "")] {
                let stored = encode(b"place", &id, key, value);
                let row = Row::decode(spot(b"place", &id, 7), stored.clone()).unwrap();
                assert_eq!((row.id(), row.key(), row.value()), (&id[..], key, value));
                for length in 0..stored.len() - value.len() {
                    assert!(Row::decode(spot(b"place", &id, 7), stored[..length].to_vec()).is_err());
                }
            }
        }
    }

    #[test]
    fn invalid_rows_are_reported_as_damaged() {
        for stored in [&[][..], &[9, 0, 0, 0], &[FORMAT, 99, 0, 0], &[FORMAT, 0, 0, 9], &[FORMAT, 0, 0, 0, 0xFF]] {
            assert!(matches!(Row::decode(b"abcdef".to_vec(), stored.to_vec()), Err(Error::Damaged(_))));
        }
        // The key's length splits a character.
        assert!(Row::decode(b"abcdef".to_vec(), [&[FORMAT, 0, 0, 1][..], "ä".as_bytes()].concat()).is_err());
    }
}
