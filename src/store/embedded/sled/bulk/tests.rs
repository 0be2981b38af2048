//! Tests of stores that were filled without sled.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::store::crypto::cipher::FolderKeys;
use crate::store::disk_space::{Space, copy_folder};
use crate::store::embedded::data_folder::{Engine, Marker, open_engine};
use crate::store::embedded::fill::{EVERYTHING, Filling};
use crate::store::embedded::frame::Frames;
use crate::store::embedded::rewrite::Live;
use crate::store::embedded::tally::Totals;
use crate::store::{Batch, Direction, Durability, MAX_KEY, PageLimit, Store, pages};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const MARKER: Marker = Marker { engine: Engine::Sled, life: 1, blobs: 1, envelope: None };

/// The generator xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// Keys that are prefixes of each other and end in zeros, keys with long common parts, and numbers.
    fn key(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => (0..=self.below(9)).map(|_| self.below(2) as u8).collect(),
            1 => [&[b'k'; 300][..], &self.below(5000).to_be_bytes()].concat(),
            2 => [&[0xFE; 3][..], &self.below(1 << 40).to_be_bytes()].concat(),
            _ => {
                let length = 1 + self.below(40);
                let mut key = self.bytes(length);
                key[0] &= 0x7F;
                key
            }
        }
    }

    /// Values that are empty, small, or of several chunks.
    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(30) {
            0 => 0,
            1 => self.below(30_000),
            2 => 4080 + self.below(20),
            _ => self.below(300),
        };
        self.bytes(length)
    }
}

fn fill<'a>(dir: &Path, keys: Option<&FolderKeys>, entries: impl IntoIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) {
    let space = Space::watch(dir).unwrap();
    let mut filling = Filling::begin(dir, &MARKER, keys, None, &space).unwrap();
    for (key, value) in entries {
        filling.put(vec![(key.clone(), value.clone())]).unwrap();
    }
    filling.open().unwrap().verify(&mut || Ok(())).unwrap();
}

fn open(dir: &Path, keys: Option<&FolderKeys>) -> Result<Box<dyn Store>> {
    open_engine(dir, &MARKER, keys, None, &Space::watch(dir).unwrap())
}

/// Compares all entries in both directions, and some reads by key.
fn same(store: &dyn Store, map: &Map) {
    for direction in [Direction::Forward, Direction::Backward] {
        let mut found: Vec<_> =
            pages(store, EVERYTHING, direction, PageLimit::entries(700)).flat_map(Result::unwrap).collect();
        if direction == Direction::Backward {
            found.reverse();
        }
        assert!(found.iter().map(|(key, value)| (key, value)).eq(map));
    }
    let keys: Vec<_> = map.keys().cloned().collect();
    for keys in keys.chunks(100) {
        let found = store.get_many(keys).unwrap();
        assert!(keys.iter().zip(found).all(|(key, value)| value.as_ref() == map.get(key)));
    }
    store.complete().unwrap();
}

#[test]
fn a_filled_store_has_its_entries_and_can_be_written_to() {
    for (round, entries) in [0, 1, 3, 4, 9, 12, 13, 14, 22, 200, 3000, 12_000].into_iter().enumerate() {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (round as u64) << 32);
        let dir = tempfile::tempdir().unwrap();
        let keys = (round % 2 == 1).then(FolderKeys::generate);
        let mut map: Map = (0..entries).map(|_| (random.key(), random.value())).collect();
        fill(dir.path(), keys.as_ref(), &map);
        let store = open(dir.path(), keys.as_ref()).unwrap();
        same(store.as_ref(), &map);
        // Splits and merges of the nodes, new large values, and the removal of old ones.
        for step in 0..40 {
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
            for _ in 0..1 + random.below(entries / 20 + 20) {
                let key = random.key();
                let key = map
                    .range(key.clone()..)
                    .next()
                    .map(|(key, _)| key.clone())
                    .filter(|_| step % 2 == 0)
                    .unwrap_or(key);
                if random.below(5) < 3 - u64::from(step > 20) {
                    let value = random.value();
                    map.insert(key.clone(), value.clone());
                    batch.put(key, value);
                } else {
                    map.remove(&key);
                    batch.delete(key);
                }
            }
            store.commit(batch).unwrap();
        }
        store.commit(Batch::new()).unwrap();
        same(store.as_ref(), &map);
        drop(store);
        same(open(dir.path(), keys.as_ref()).unwrap().as_ref(), &map);
    }
}

#[test]
fn inner_nodes_with_long_keys_fit_into_segments() {
    let dir = tempfile::tempdir().unwrap();
    let key = |number: u32| [&[b'k'; 6000][..], &number.to_be_bytes()].concat();
    let mut map: Map = (0..4000).map(|number| (key(number * 2), number.to_be_bytes().to_vec())).collect();
    fill(dir.path(), None, &map);
    let store = open(dir.path(), None).unwrap();
    same(store.as_ref(), &map);
    for number in 0..300 {
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        batch.put(key(number * 3), vec![7]);
        map.insert(key(number * 3), vec![7]);
        store.commit(batch).unwrap();
    }
    drop(store);
    same(open(dir.path(), None).unwrap().as_ref(), &map);
}

/// Bytes of the files of the store, and of its keys and values.
fn sizes(dir: &Path, map: &Map) -> (u64, u64) {
    let files = std::fs::read_dir(dir.join("store-1")).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let bytes = files.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum();
    (bytes, map.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
}

#[test]
fn a_filled_store_is_little_larger_than_its_entries() {
    let mut random = Random(1);
    // (number of documents, bytes of a body): the chunks of LiveSync's notes, small documents, large documents
    for (documents, body) in [(2_500, 2_700), (12_000, 500), (300, 20_000)] {
        let mut map = Map::new();
        for number in 0..documents {
            let id = random.below(1 << 60).to_be_bytes();
            map.insert([b"d-database-", &id[..]].concat(), random.bytes(60));
            map.insert([b"q-database-", &u64::to_be_bytes(number)[..]].concat(), random.bytes(60));
            map.insert([b"b-database-", &u64::to_be_bytes(number)[..]].concat(), random.bytes(body));
        }
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), None, &map);
        drop(open(dir.path(), None).unwrap());
        let (bytes, live) = sizes(dir.path(), &map);
        let most = live + live / 10 + 2 * SEGMENT as u64;
        assert!(bytes <= most, "{documents} documents of {body} bytes: {bytes} bytes on disk for {live}");
    }
}

#[test]
fn a_damaged_segment_of_a_filled_store_is_noticed() {
    let mut random = Random(2);
    let map: Map = (0..4000_u32).map(|number| (number.to_be_bytes().to_vec(), random.bytes(2700))).collect();
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), None, &map);
    let files = |dir: &Path| -> Vec<_> {
        let store = std::fs::read_dir(dir.join("store-1")).unwrap().map(|entry| entry.unwrap().path());
        let files = store.chain([dir.join("mark-1")]).filter(|path| path.is_file());
        files.map(|path| (std::fs::read(&path).unwrap(), path)).collect()
    };
    let whole = files(dir.path());
    let log = dir.path().join("store-1/db");
    let bytes = std::fs::read(&log).unwrap();
    let segments = bytes.len() / SEGMENT;
    assert!(segments > 4);
    for at in 0..segments * 4 {
        for (bytes, path) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
        let mut damaged = bytes.clone();
        let segment = &mut damaged[at / 4 * SEGMENT..][..SEGMENT];
        let used = segment.iter().rposition(|byte| *byte != 0).unwrap();
        match at % 4 {
            0 => segment.fill(0),
            1 => segment[random.below(SEGMENT_HEADER as u64) as usize] ^= 4,
            _ => segment[random.below(used as u64) as usize] ^= 1,
        }
        std::fs::write(&log, damaged).unwrap();
        let noticed = open(dir.path(), None).is_err_and(|error| matches!(error, StoreError::Damaged(_)));
        let read = || {
            let store = open(dir.path(), None)?;
            let read = pages(store.as_ref(), EVERYTHING, Direction::Forward, PageLimit::entries(700));
            let read: Map = read.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
            Ok::<_, StoreError>(read == map)
        };
        // A turned bit in a cap or in a page that sled has read before it harms nothing.
        assert!(noticed || read() != Ok(false), "at {at}");
        assert!(noticed || at % 4 > 0 || read().is_err(), "a zeroed segment: {}", at / 4);
    }
}

/// A copy of the folder, as a crash leaves it.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_folder(&from.join("store-1"), &to.path().join("store-1")).unwrap();
    std::fs::copy(from.join("mark-1"), to.path().join("mark-1")).unwrap();
    to
}

/// Adds entries to a filled store of `entries` small ones, removes ranges until it is nearly empty, and adds entries
/// again. Reopens it, and copies of it that were made while it was open.
fn shrink_and_grow(entries: u64) {
    let mut random = Random(0x2545_F491_4F6C_DD1D ^ entries);
    let dir = tempfile::tempdir().unwrap();
    let key = |number: u64| [&b"key"[..], &(number << 20).to_be_bytes()[2..]].concat();
    let mut map: Map = (0..entries).map(|number| (key(number), vec![number as u8; number as usize % 4])).collect();
    (0..entries / 20).for_each(|_| drop(map.insert(random.key(), random.value())));
    fill(dir.path(), None, &map);
    let mut store = open(dir.path(), None).unwrap();
    same(store.as_ref(), &map);
    for round in 0..24 {
        let mut batch = Batch::new();
        if (6..18).contains(&round) {
            // Ranges from the end, the beginning and the middle, until few entries are left.
            let keys: Vec<_> = map.keys().cloned().collect();
            let share = if round < 16 { keys.len() / 3 } else { keys.len() - keys.len().min(7) };
            let from = match round % 3 {
                0 => keys.len() - share,
                1 => 0,
                _ => random.below((keys.len() - share + 1) as u64) as usize,
            };
            for key in &keys[from..from + share] {
                map.remove(key);
                batch.delete(key.clone());
            }
        } else {
            for _ in 0..entries / 10 + 20 {
                let key = if random.below(2) == 0 { random.key() } else { key(random.below(entries * 2)) };
                let value = random.value();
                map.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        store.commit(batch).unwrap();
        if round % 5 == 4 {
            let copied = copy(dir.path());
            same(open(copied.path(), None).unwrap().as_ref(), &map);
            drop(store);
            store = open(dir.path(), None).unwrap();
        }
        if round % 3 == 2 {
            same(store.as_ref(), &map);
        }
    }
    drop(store);
    same(open(dir.path(), None).unwrap().as_ref(), &map);
}

#[test]
fn a_filled_store_shrinks_to_nothing_and_grows_again() {
    shrink_and_grow(300);
    shrink_and_grow(6000);
}

#[test]
fn a_log_may_end_at_any_byte_near_the_end_of_a_segment() {
    let entries = |last: usize| -> Map {
        // 549 entries of 3,800 bytes, and one that moves the end of the log byte by byte.
        let mut map: Map = (0..549_u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; 3800])).collect();
        map.insert(b"last".to_vec(), vec![8; last]);
        map
    };
    let least = 500;
    let dir = tempfile::tempdir().unwrap();
    let frames = Frames::default();
    let mut writer = BulkWriter::create(&dir.path().join("store-1")).unwrap();
    entries(least).iter().for_each(|(key, value)| writer.put(key.clone(), frames.seal(key, value)).unwrap());
    writer.finish(Totals::default().record(&frames)).unwrap();
    let ends = std::fs::metadata(dir.path().join("store-1/db")).unwrap().len() as usize;
    assert!(ends < SEGMENT - 50 && ends > SEGMENT - 3000, "{ends}");
    for at in SEGMENT - 45..SEGMENT + 45 {
        let mut map = entries(least + at - ends);
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), None, &map);
        let store = open(dir.path(), None).unwrap();
        same(store.as_ref(), &map);
        let mut batch = Batch::new();
        batch.put(b"later".to_vec(), vec![9; 100]);
        map.insert(b"later".to_vec(), vec![9; 100]);
        store.commit(batch).unwrap();
        let copied = copy(dir.path());
        let reopened = open(copied.path(), None).unwrap();
        same(reopened.as_ref(), &map);
        drop((store, reopened));
        same(open(dir.path(), None).unwrap().as_ref(), &map);
    }
}

#[test]
fn keys_of_all_lengths_with_long_common_parts() {
    let mut random = Random(77);
    for length in [250, 254, 255, 256, 257, 300, 2000, MAX_KEY] {
        let dir = tempfile::tempdir().unwrap();
        let key = |number: u32| {
            let common = vec![b'k'; length - 4];
            [&common[..], &number.to_be_bytes()].concat()
        };
        let mut map: Map = (0..2600).map(|number| (key(number * 3), vec![1; number as usize % 5])).collect();
        fill(dir.path(), None, &map);
        let store = open(dir.path(), None).unwrap();
        same(store.as_ref(), &map);
        for _ in 0..10 {
            let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
            let from = random.below(7000) as u32;
            for number in from..from + 700 {
                map.remove(&key(number));
                batch.delete(key(number));
            }
            for _ in 0..60 {
                let key = key(random.below(7800) as u32);
                map.insert(key.clone(), vec![2]);
                batch.put(key, vec![2]);
            }
            store.commit(batch).unwrap();
        }
        same(store.as_ref(), &map);
        drop(store);
        same(open(dir.path(), None).unwrap().as_ref(), &map);
    }
}

#[test]
fn a_filled_store_takes_no_more_room_than_was_asked_for() {
    // (number of entries, bytes of a key, bytes of a value)
    let sizes_of = [
        (100_000, 9, 0),
        (20_000, 40, 15),
        (5000, 1500, 5),
        (4000, MAX_KEY, 0),
        (2000, MAX_KEY, 3000),
        (5000, 20, 3000),
    ];
    for (round, (entries, key, value)) in sizes_of.into_iter().enumerate() {
        let keys = (round % 2 == 0).then(FolderKeys::generate);
        let key = |number: u64| [&vec![b'k'; key - 8][..], &number.to_be_bytes()].concat();
        let map: Map = (0..entries).map(|number| (key(number), vec![7; value])).collect();
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), keys.as_ref(), &map);
        let (bytes, all) = sizes(dir.path(), &map);
        let values = value as u64 * entries;
        let live = Live { entries, keys: all - values, values };
        // The constant part is for the segment that is begun, and for the mark.
        let room = live.room(Engine::Sled) - (16 << 20) + 2 * SEGMENT as u64;
        assert!(bytes <= room, "{live:?}: {bytes} bytes on disk, {room} expected");
    }
}
