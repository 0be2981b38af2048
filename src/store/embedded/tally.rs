//! Totals of the store, written with every commit: the number of commits, and a digest of all entries.
//!
//! An engine does not always notice that it has lost something: sled takes a truncated log for the whole log,
//! and skips the rest of a damaged segment as if it had been freed. The record of the totals is part of every
//! atomic write. Whatever state an engine recovers to, the record describes the state that it should be in:
//!
//! ```text
//! record     1(1) commits(8) entries(8) sum(8) unknown(1) store(8)
//! sum        over all entries: mix(checksum of key and value, length)     updated as entries come and go
//! ```
//!
//! - `commits` is behind the mark outside the store (see `mark`): the last commits are lost.
//! - `entries` or `sum` differ from the stored entries: an entry is lost, or an old one has come back.
//!
//! The sum uses wrapping addition, so it does not depend on the order of commits. To subtract an overwritten
//! entry, only its checksum is needed, which is in its frame. The sum detects damage; it does not protect
//! against forgery.
//!
//! Indexes (tag 0x20) are not counted: they can be rebuilt at any time, and counting them would cost a read
//! of every overwritten entry. `unknown` is set when an overwritten entry could not be read: from then on the
//! digest says nothing. `store` is a random number that the mark holds too. It reveals a store that was put
//! beside the mark of another folder.

use super::frame::{self, Frames};
use crate::store::reserved_keys::{RESERVED, TOTALS};
use crate::store::{Result, StoreError, keyspace};

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 8 + 8 + 8 + 1 + 8;

/// The content of the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Commits since the store was created.
    pub commits: u64,
    entries: u64,
    sum: u64,
    unknown: bool,
    /// The random number that identifies the store.
    pub store: u64,
}

impl Totals {
    pub fn decode(value: &[u8]) -> Result<Totals> {
        let number = |at: usize| value.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let read = || {
            let (commits, entries, sum, store) = (number(1)?, number(9)?, number(17)?, number(26)?);
            Some(Totals { commits, entries, sum, unknown: value[25] != 0, store })
        };
        let known = value.len() == LENGTH && value[0] == VERSION;
        known.then(read).flatten().ok_or_else(|| StoreError::Damaged("the record of the store's totals".into()))
    }

    /// The record, framed.
    pub fn record(&self, frames: &Frames) -> Vec<u8> {
        frames.seal(TOTALS, &self.encode())
    }

    fn encode(&self) -> [u8; LENGTH] {
        let mut value = [0; LENGTH];
        value[0] = VERSION;
        value[1..9].copy_from_slice(&self.commits.to_be_bytes());
        value[9..17].copy_from_slice(&self.entries.to_be_bytes());
        value[17..25].copy_from_slice(&self.sum.to_be_bytes());
        value[25] = u8::from(self.unknown);
        value[26..].copy_from_slice(&self.store.to_be_bytes());
        value
    }

    /// Counts an entry that was found in the store. `framed`: `None` if it could not be read.
    pub fn count(&mut self, key: &[u8], framed: Option<&[u8]>) {
        if !is_counted(key) {
            return;
        }
        self.entries = self.entries.wrapping_add(1);
        match framed.and_then(|framed| term(framed, framed.len())) {
            Some(term) => self.sum = self.sum.wrapping_add(term),
            None => self.unknown = true,
        }
    }

    /// Whether `found`, counted from the entries, equals this record.
    pub fn matches(&self, found: &Totals) -> bool {
        !self.unknown && !found.unknown && self.entries == found.entries && self.sum == found.sum
    }

    /// The number of entries and their sum. `None` if they are unknown.
    pub fn digest(&self) -> Option<(u64, u64)> {
        (!self.unknown).then_some((self.entries, self.sum))
    }

    /// How many entries `found` has fewer than this record.
    pub fn missing(&self, found: &Totals) -> u64 {
        self.entries.saturating_sub(found.entries)
    }

    /// Turns counted totals into the totals of this store after this many commits.
    pub fn of(self, store: u64, commits: u64) -> Totals {
        Totals { store, commits, ..self }
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn is_unknown(&self) -> bool {
        self.unknown
    }
}

/// Whether an entry counts towards the digest.
pub(crate) fn is_counted(key: &[u8]) -> bool {
    key.first() != Some(&RESERVED) && !keyspace::is_index(key)
}

/// What an entry adds to the sum, from the start of its frame and the frame's length.
fn term(framed: &[u8], length: usize) -> Option<u64> {
    let sum: [u8; 4] = framed.get(1..frame::HEAD)?.try_into().ok()?;
    Some(mix(u64::from(u32::from_le_bytes(sum)) | (length as u64) << 32))
}

/// The finalizer of SplitMix64. Without it, two checksums that change by opposite amounts would cancel each
/// other out.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Updates the totals while an engine writes one commit. The engine reports the old value of each key, and
/// writes the record last.
pub(crate) struct Tally<'a> {
    frames: &'a Frames,
    pub totals: Totals,
}

impl<'a> Tally<'a> {
    /// Starts the totals of the commit after `before`.
    pub fn after(before: &Totals, frames: &'a Frames) -> Tally<'a> {
        Tally { frames, totals: Totals { commits: before.commits + 1, ..*before } }
    }

    /// Whether [`Tally::replaces`] needs the old value of the key.
    pub fn needs(&self, key: &[u8]) -> bool {
        is_counted(key) && !self.totals.unknown
    }

    /// Records that the value of `key` changes from `old` to `new`, both framed.
    pub fn replaces(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        self.replaces_part(key, old.map(|old| (old, old.len())), new);
    }

    /// As [`Tally::replaces`], given only the first bytes and the length of the old value.
    pub fn replaces_part(&mut self, key: &[u8], old: Option<(&[u8], usize)>, new: Option<&[u8]>) {
        if !is_counted(key) {
            return;
        }
        let totals = &mut self.totals;
        if let Some((head, length)) = old {
            totals.entries = totals.entries.wrapping_sub(1);
            match term(head, length) {
                Some(term) => totals.sum = totals.sum.wrapping_sub(term),
                None => totals.unknown = true,
            }
        }
        if new.is_some() {
            totals.count(key, new);
        }
    }

    /// Records that an old value cannot be read: from here on the digest says nothing.
    pub fn loses_track(&mut self) {
        self.totals.unknown = true;
    }

    /// The record, framed.
    pub fn record(&self) -> Vec<u8> {
        self.totals.record(self.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(key: &[u8], value: &[u8]) -> Vec<u8> {
        frame::seal(key, value)
    }

    #[test]
    fn the_sum_depends_on_each_entry_and_not_on_the_order_of_commits() {
        let frames = Frames::default();
        let (one, two, other) = (framed(b"a", b"1"), framed(b"b", b"2"), framed(b"a", b"3"));
        let mut tally = Tally::after(&Totals::default(), &frames);
        tally.replaces(b"a", None, Some(&one));
        tally.replaces(b"b", None, Some(&two));
        tally.replaces(b"a", Some(&one), Some(&other));
        tally.replaces(b"c", None, None);
        tally.replaces(&[0x20, 1], None, Some(&two));
        let mut found = Totals::default();
        found.count(b"b", Some(&two));
        assert!(!tally.totals.matches(&found));
        assert_eq!(tally.totals.missing(&found), 1);
        found.count(b"a", Some(&other));
        found.count(&[0x20, 1], Some(&two));
        assert!(tally.totals.matches(&found));
        let mut old = Totals::default();
        old.count(b"b", Some(&two));
        old.count(b"a", Some(&one));
        assert!(!tally.totals.matches(&old), "an old value has come back");
        let record = tally.record();
        let read = Totals::decode(&frames.unseal(TOTALS, &record).unwrap()).unwrap();
        assert_eq!((read, read.commits), (tally.totals, 1));
        assert!(Totals::decode(b"").is_err() && Totals::decode(&[2; LENGTH]).is_err());
        tally.loses_track();
        assert!(!tally.totals.matches(&found), "unknown totals match nothing");
    }
}
