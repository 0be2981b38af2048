//! High-water mark of a store, kept outside it: `mark-N` beside `store-N`.
//!
//! An engine that has lost its last commits opens without an error, because nothing in it says that there was
//! more. After every durable flush, the committer therefore notes here what has become durable: the number of
//! the commit, the engine's position in its log, and for every database its name and its highest sequence. On
//! open, a store behind its mark is damaged and is refused.
//!
//! ```text
//! at 0, at 512              two slots, written in turn: generation(8) commits(8) position(8) length(8)
//!                           flags(1) store(8) unused(8) ... CRC-32(4)
//! at 4096 + number * 512    a database: number(8) sequence(8) CRC-32(4)
//!      and 32 bytes later   its name: number(8) length(2) name CRC-32(4)
//! ```
//!
//! The mark is written without a sync of its own, so it costs next to nothing. These invariants hold
//! nevertheless:
//!
//! - **It can lag, but never lead.** It is written after the flush that it describes, so everything in it is
//!   durable in the store. It never raises a false alarm. After a power cut it may miss the loss of the last
//!   moments.
//! - A slot torn by a power cut does not verify; the other, older one is then valid. If neither verifies,
//!   there is no mark.
//! - It belongs to one life of the store. A rewrite creates a new mark with the new store, and syncs both
//!   before `format.toml` names them.
//!
//! A clean stop updates the mark to include relaxed commits, and syncs it. Numbers are big-endian.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;

use crate::store::disk_space::{next_data, sync_dir};
use crate::store::{Batch, keyspace};

const SLOT: usize = 64;
const DATABASES: u64 = 4096;
const DATABASE: u64 = 512;
const NAME: u64 = 32;
const LONGEST_NAME: usize = 400;
/// Databases with a number from this on are not noted: the file would become huge, and nobody has so many.
const MOST: u64 = 1 << 32;
const SUSPECT: u8 = 1;

/// What has become durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Number of the last commit.
    pub commits: u64,
    /// End of the engine's log; 0 for an engine without one.
    pub position: u64,
    /// Length of the engine's file; 0 for an engine without a log.
    pub length: u64,
    /// The engine skips a part of its log: the store cannot be trusted until every entry has been counted.
    pub suspect: bool,
    /// The store's random number; 0 if unknown.
    pub store: u64,
    /// After a clean stop: the number of unused parts of the engine's file plus 1. 0 while the store is open,
    /// and for engines without such parts.
    pub unused: u64,
}

/// What the mark holds of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Empty if unknown.
    pub name: String,
    /// The highest durable sequence.
    pub sequence: u64,
}

/// What a group of commits changes about databases in the mark.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<u64, Note>);

#[derive(Debug, Default)]
struct Note {
    sequence: Option<u64>,
    name: Option<String>,
    gone: bool,
}

impl Notes {
    /// Collects changes from a batch: rows of the changes order, new names, deleted info records.
    pub fn take(&mut self, batch: &Batch) {
        for (key, value) in &batch.writes {
            match value {
                Some(value) => self.take_entry(key, value),
                None => {
                    if let Some(number) = keyspace::number_of_info(key) {
                        self.0.insert(number, Note { gone: true, ..Note::default() });
                    }
                }
            }
        }
    }

    /// As [`Notes::take`], from an entry that was written.
    pub fn take_entry(&mut self, key: &[u8], value: &[u8]) {
        if let Some((number, sequence)) = keyspace::place_of_sequence(key) {
            self.reached(number, sequence);
        } else if let Some((number, name)) = keyspace::named(key, value) {
            self.named(number, name);
        }
    }

    pub fn reached(&mut self, number: u64, sequence: u64) {
        let note = self.0.entry(number).or_default();
        note.sequence = note.sequence.max(Some(sequence));
    }

    pub fn named(&mut self, number: u64, name: &str) {
        self.0.entry(number).or_default().name = Some(name.to_owned());
    }
}

/// The mark of one store. Without a file, for in-memory engines, it lives only in memory.
#[derive(Default)]
pub(crate) struct Mark {
    file: Option<File>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generation: u64,
    reached: Reached,
    /// The file was just created, so databases that already exist still have to be noted.
    new: bool,
    warned: bool,
}

impl Mark {
    /// Opens the mark of this life of the store, or creates it.
    pub fn open(dir: &Path, life: u32) -> io::Result<Mark> {
        let path = dir.join(name(life));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let found = read_slots(&file)?;
        let mark = Mark { file: Some(file), state: Mutex::default() };
        match found {
            Some((generation, reached)) => {
                *mark.state.lock() = State { generation, reached, ..State::default() };
            }
            None => {
                if mark.file.as_ref().is_some_and(|file| file.metadata().is_ok_and(|found| found.len() > 0)) {
                    tracing::warn!("the mark of the store is damaged and is replaced by a new one: run `settee check`");
                }
                mark.state.lock().new = true;
                mark.note(Reached::default(), &Notes::default());
                mark.sync()?;
                sync_dir(dir)?;
            }
        }
        Ok(mark)
    }

    /// Opens the mark of a damaged folder without changing it.
    pub fn read(dir: &Path, life: u32) -> io::Result<Mark> {
        let file = File::open(dir.join(name(life)))?;
        let (generation, reached) = read_slots(&file)?.unwrap_or_default();
        let state = State { generation, reached, ..State::default() };
        Ok(Mark { file: Some(file), state: Mutex::new(state) })
    }

    pub fn reached(&self) -> Reached {
        self.state.lock().reached
    }

    pub fn is_new(&self) -> bool {
        self.state.lock().new
    }

    /// Notes what has become durable. A write error only causes a warning: the mark then lags.
    pub fn note(&self, reached: Reached, notes: &Notes) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.reached = reached;
        let Some(file) = &self.file else { return };
        let written = write_slot(file, state.generation, &reached).and_then(|()| {
            notes
                .0
                .iter()
                .filter(|(number, _)| **number < MOST)
                .try_for_each(|(number, note)| write_note(file, *number, note))
        });
        if let Err(error) = written
            && !std::mem::replace(&mut state.warned, true)
        {
            tracing::warn!("the mark of the store cannot be written: {error}. Damage to the store may go unnoticed");
        }
    }

    /// Notes durably whether the engine skips a part of its log.
    pub fn suspect(&self, suspect: bool) -> io::Result<()> {
        if self.note_suspect(suspect) { self.sync() } else { Ok(()) }
    }

    /// Returns true if this was not noted yet.
    fn note_suspect(&self, suspect: bool) -> bool {
        let reached = self.reached();
        let is_new = reached.suspect != suspect;
        if is_new {
            self.note(Reached { suspect, ..reached }, &Notes::default());
        }
        is_new
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }

    /// Notes durably that the mark holds all databases and that the store is no longer suspect.
    pub fn caught_up(&self) -> io::Result<()> {
        self.note_suspect(false);
        self.sync()?;
        self.state.lock().new = false;
        Ok(())
    }

    /// The databases by number.
    pub fn databases(&self) -> io::Result<BTreeMap<u64, Noted>> {
        let mut found = BTreeMap::new();
        let Some(file) = &self.file else { return Ok(found) };
        let count = file.metadata()?.len().saturating_sub(DATABASES).div_ceil(DATABASE);
        let mut slots = vec![0; 2048 * DATABASE as usize];
        let mut first = 0;
        while first < count {
            // Numbers are never reused, so most of an old mark may be a hole.
            let data = next_data(file, DATABASES + first * DATABASE)?;
            first = first.max(data.saturating_sub(DATABASES) / DATABASE);
            let read = read_at_most(file, &mut slots, DATABASES + first * DATABASE)?;
            for (index, slot) in slots[..read].chunks(DATABASE as usize).enumerate() {
                let number = first + index as u64;
                let Some(sequence) = unsum(slot.get(..20).unwrap_or(&[])).filter(|of| of[..8] == number.to_be_bytes())
                else {
                    continue;
                };
                let name = slot.get(NAME as usize..).and_then(|slot| {
                    let length = usize::from(u16::from_be_bytes(*slot.get(8..)?.first_chunk()?));
                    let name = unsum(slot.get(..10 + length + 4)?).filter(|of| of[..8] == number.to_be_bytes())?;
                    Some(String::from_utf8_lossy(&name[10..]).into_owned())
                });
                found.insert(number, Noted { name: name.unwrap_or_default(), sequence: be(sequence, 8) });
            }
            first += 2048;
        }
        Ok(found)
    }
}

/// File name of the mark.
pub(crate) fn name(life: u32) -> String {
    format!("mark-{life}")
}

fn be(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Strips the checksum at the end of `bytes`. `None` if it does not match, or in a hole of zeros.
fn unsum(bytes: &[u8]) -> Option<&[u8]> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    (crc32fast::hash(content) == u32::from_be_bytes(*sum)).then_some(content)
}

fn sum(mut content: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&content);
    content.extend_from_slice(&sum.to_be_bytes());
    content
}

fn read_slots(file: &File) -> io::Result<Option<(u64, Reached)>> {
    let mut best: Option<(u64, Reached)> = None;
    for at in [0, 512] {
        let mut slot = [0; SLOT];
        let read = read_at_most(file, &mut slot, at)?;
        let Some(slot) = unsum(&slot[..read]).filter(|slot| slot.len() == SLOT - 4 && be(slot, 0) > 0) else {
            continue;
        };
        if best.as_ref().is_none_or(|(generation, _)| be(slot, 0) > *generation) {
            let reached = Reached {
                commits: be(slot, 8),
                position: be(slot, 16),
                length: be(slot, 24),
                suspect: slot[32] & SUSPECT != 0,
                store: be(slot, 33),
                unused: be(slot, 41),
            };
            best = Some((be(slot, 0), reached));
        }
    }
    Ok(best)
}

fn write_slot(file: &File, generation: u64, reached: &Reached) -> io::Result<()> {
    let mut slot = Vec::with_capacity(SLOT);
    for number in [generation, reached.commits, reached.position, reached.length] {
        slot.extend_from_slice(&number.to_be_bytes());
    }
    slot.push(if reached.suspect { SUSPECT } else { 0 });
    slot.extend_from_slice(&reached.store.to_be_bytes());
    slot.extend_from_slice(&reached.unused.to_be_bytes());
    slot.resize(SLOT - 4, 0);
    file.write_all_at(&sum(slot), generation % 2 * 512)
}

fn write_note(file: &File, number: u64, note: &Note) -> io::Result<()> {
    let at = DATABASES + number * DATABASE;
    if note.gone {
        return file.write_all_at(&[0; NAME as usize], at);
    }
    // A database that only has a name so far is at sequence 0.
    if let Some(sequence) = note.sequence.or(note.name.as_ref().map(|_| 0)) {
        let content = [number.to_be_bytes(), sequence.to_be_bytes()].concat();
        file.write_all_at(&sum(content), at)?;
    }
    if let Some(name) = &note.name {
        let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
        let content = [&number.to_be_bytes()[..], &(name.len() as u16).to_be_bytes(), name].concat();
        file.write_all_at(&sum(content), at + NAME)?;
    }
    Ok(())
}

fn read_at_most(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], at + read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(name: &str, sequence: u64) -> Noted {
        Noted { name: name.into(), sequence }
    }

    #[test]
    fn a_reopened_mark_holds_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::open(dir.path(), 3).unwrap();
        assert!(mark.is_new());
        let mut notes = Notes::default();
        notes.named(1, "first");
        notes.reached(1, 7);
        notes.reached(1, 6);
        notes.reached(900, 2);
        notes.named(900, "far");
        let reached = Reached { commits: 5, position: 1 << 40, length: 9, suspect: false, store: 1 << 63, unused: 7 };
        mark.note(reached, &notes);
        mark.suspect(true).unwrap();
        drop(mark);
        let mark = Mark::open(dir.path(), 3).unwrap();
        assert_eq!(mark.reached(), Reached { suspect: true, ..reached });
        let found = mark.databases().unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(1, noted("first", 7)), (900, noted("far", 2))]);
        let mut batch = Batch::new();
        batch.delete(keyspace::info(1));
        batch.put(keyspace::sequence(900, 4), vec![1]);
        let mut notes = Notes::default();
        notes.take(&batch);
        mark.note(reached, &notes);
        assert_eq!(mark.databases().unwrap().into_iter().collect::<Vec<_>>(), [(900, noted("far", 4))]);
    }

    #[test]
    fn reading_skips_a_hole_of_terabytes() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::open(dir.path(), 1).unwrap();
        let mut notes = Notes::default();
        for number in [1, 5000, 40_000_000, MOST - 1] {
            notes.named(number, "some");
            notes.reached(number, number);
        }
        mark.note(Reached::default(), &notes);
        let found = mark.databases().unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [1, 5000, 40_000_000, MOST - 1]);
        let file = File::options().write(true).open(dir.path().join(name(1))).unwrap();
        file.set_len(DATABASES + (MOST + 4000) * DATABASE).unwrap();
        assert_eq!(mark.databases().unwrap().len(), 4);
    }

    #[test]
    fn a_flipped_bit_yields_the_previous_slot_or_drops_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::open(dir.path(), 1).unwrap();
        let mut notes = Notes::default();
        notes.named(1, "first");
        for commits in 1..=4 {
            notes.reached(1, commits);
            mark.note(Reached { commits, ..Reached::default() }, &notes);
        }
        drop(mark);
        let path = dir.path().join(name(1));
        let whole = std::fs::read(&path).unwrap();
        for bit in (0..SLOT * 8).chain(512 * 8..(512 + SLOT) * 8).chain(4608 * 8..4700 * 8) {
            let mut turned = whole.clone();
            if bit / 8 >= turned.len() {
                break;
            }
            turned[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &turned).unwrap();
            let mark = Mark::open(dir.path(), 1).unwrap();
            let commits = mark.reached().commits;
            assert!(commits == 4 || commits == 3, "bit {bit}: {commits}");
            let named = mark.databases().unwrap();
            assert!(named.values().all(|noted| noted.sequence == 4 && ["first", ""].contains(&noted.name.as_str())));
        }
        for length in 0..600 {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Mark::open(dir.path(), 1).unwrap().reached().commits <= 4);
        }
    }
}
