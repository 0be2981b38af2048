//! Tests of the sled engine below its committer.

use std::fs::File;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{SEGMENT, segment_bytes};
use super::value::Head;
use super::*;
use crate::store::embedded::backend::{Backend, Writes};
use crate::store::embedded::committer::Committer;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::Mark;
use crate::store::embedded::tally::{Tally, Totals};
use crate::store::{Batch, Direction, Durability, PageLimit, Result, Store, StoreError};

#[test]
fn the_durable_position_is_the_one_from_before_the_last_sync() {
    let dir = tempfile::tempdir().unwrap();
    let backend = SledBackend::open(dir.path(), 16 << 20, Arc::default()).unwrap();
    let frames = Frames::default();
    let writes = Writes::from([(b"k".to_vec(), Some(vec![7; 1000]))]);
    backend.apply(&writes, true, &mut Tally::after(&Totals::default(), &frames)).unwrap();
    let synced = backend.position();
    assert!(synced.0 > 1000, "{synced:?}");
    // sled's own threads may write and flush in the same way at any time.
    backend
        .with(|open| {
            open.db.insert(b"l", vec![7; 1000]).unwrap();
            open.db.flush().unwrap();
            assert!(open.position().0 > synced.0 + 1000);
            Ok(())
        })
        .unwrap();
    assert_eq!(backend.position(), synced, "a power cut may lose what was written since");
    backend.apply(&writes, true, &mut Tally::after(&Totals::default(), &frames)).unwrap();
    assert!(backend.position().0 > synced.0 + 1000);
}

#[test]
fn inner_nodes_with_long_keys_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let backend = SledBackend::open(dir.path(), 16 << 20, Arc::default()).unwrap();
    let frames = Frames::default();
    let keys = 0..2000_u32;
    // All keys begin with the same 5,000 bytes, so that no shorter key can separate two leaves.
    let key = |number: u32| [&[b'k'; 5000][..], &number.to_be_bytes()].concat();
    for number in keys.clone() {
        let writes = Writes::from([(key(number), Some(vec![7; 10]))]);
        backend.apply(&writes, number == keys.end - 1, &mut Tally::after(&Totals::default(), &frames)).unwrap();
    }
    let large = std::fs::read_dir(dir.path().join("blobs")).unwrap().count();
    assert!(large > 0, "sled has written no file beside its log");
    assert_eq!(backend.with(|open| Ok(open.unsynced().unwrap())).unwrap(), 0);
    drop(backend);
    let backend = SledBackend::open(dir.path(), 16 << 20, Arc::default()).unwrap();
    assert_eq!(backend.with(|open| Ok(open.unsynced().unwrap())).unwrap(), 0);
    let all: Vec<_> = keys.map(key).collect();
    let mut found = 0;
    backend.get_many(&all, &mut |_, value| found += usize::from(value.unwrap().is_some())).unwrap();
    assert_eq!(found, all.len());
}

#[test]
fn a_log_keeps_the_size_of_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(sled::Config::new().path(&path).segment_size(8 << 20).open().unwrap());
    let store = open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(b"key".to_vec(), vec![7; 3_000_000]);
    store.commit(batch).unwrap();
    drop(store);
    assert_eq!(segment_bytes(&path).unwrap(), 8 << 20);
    assert_eq!(open(dir.path()).unwrap().get(b"key").unwrap(), Some(vec![7; 3_000_000]));
}

/// Opens the store with its mark.
fn open(dir: &Path) -> Result<Committer<SledBackend>> {
    let mark = Arc::new(Mark::open(dir, 1).unwrap());
    let backend = SledBackend::open(&dir.join("store"), 16 << 20, mark.clone())?;
    Committer::marked(backend, Frames::default(), None, mark)
}

#[test]
fn a_zeroed_segment_is_not_mistaken_for_a_free_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for number in 0..40u32 {
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        for part in 0..20u32 {
            let key = [&b"k"[..], &number.to_be_bytes(), &part.to_be_bytes()].concat();
            batch.put(key, (0..60_000).map(|at| (at * number + part) as u8).collect());
        }
        store.commit(batch).unwrap();
    }
    store.commit(Batch::new()).unwrap();
    drop(store);
    drop(open(dir.path()).unwrap());
    let path = dir.path().join("store/db");
    let whole = std::fs::read(&path).unwrap();
    let snapshots = |dir: &Path| {
        let files = std::fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
    };
    let before: Vec<(PathBuf, Vec<u8>)> = snapshots(dir.path());
    let mark = std::fs::read(dir.path().join("mark-1")).unwrap();
    let mut refused = 0;
    for slot in 0..whole.len() / SEGMENT {
        for (path, bytes) in &before {
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::write(dir.path().join("mark-1"), &mark).unwrap();
        let zeroed = whole[slot * SEGMENT..][..SEGMENT].iter().all(|byte| *byte == 0);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; SEGMENT], (slot * SEGMENT) as u64).unwrap();
        match open(dir.path()) {
            Ok(store) => assert!(zeroed || store.complete().is_ok(), "the loss of segment {slot} goes unnoticed"),
            Err(StoreError::Damaged(_)) => refused += 1,
            Err(error) => panic!("segment {slot}: {error}"),
        }
    }
    assert!(refused > 2, "{refused}");
}

#[test]
fn values_in_the_large_chunks_of_older_stores_are_read_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let value: Vec<u8> = (0..200_000_u32).map(|at| (at * 7 / 3) as u8).collect();
    let put = |store: &Committer<SledBackend>, value: &[u8]| {
        let mut batch = Batch::new();
        batch.put(b"key".to_vec(), value.to_vec());
        store.commit(batch).unwrap();
    };
    put(&open(dir.path()).unwrap(), &value);
    let backend = SledBackend::open(&dir.path().join("store"), 16 << 20, Arc::default()).unwrap();
    let chunks = |backend: &SledBackend| backend.with(|open| Ok(open.db.range(vec![0xFF, 0]..).count())).unwrap();
    assert_eq!(chunks(&backend), 200_005_usize.div_ceil(4096));
    backend
        .with(|open| {
            let stored = value::value(open, b"key")?.unwrap();
            let (head, size) = Head::with_large_chunks(1 << 40, stored.bytes()?.len());
            for old in open.db.range(vec![0xFF, 0]..).keys() {
                open.db.remove(old.unwrap()).unwrap();
            }
            for (key, chunk) in head.chunk_keys().zip(stored.bytes()?.chunks(size)) {
                open.db.insert(key, chunk).unwrap();
            }
            open.db.insert(b"key", head.write(b"key")).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(chunks(&backend), 4);
    drop(backend);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.get(b"key").unwrap().as_deref(), Some(&value[..]));
    store.complete().unwrap();
    put(&store, &value[1..]);
    assert_eq!(store.get(b"key").unwrap().as_deref(), Some(&value[1..]));
    store.complete().unwrap();
    put(&store, b"small");
    drop(store);
    let backend = SledBackend::open(&dir.path().join("store"), 16 << 20, Arc::default()).unwrap();
    assert_eq!(chunks(&backend), 0);
}

/// Measured in a process of its own: other tests take memory, too.
#[test]
fn a_scan_over_large_leaves_fills_no_more_than_the_cache() {
    const ALONE: &str = "SETTEE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name.as_str(), "--exact", "--nocapture"])
            .env(ALONE, "1")
            .status();
        return assert!(alone.unwrap().success());
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let (frames, value) = (Frames::default(), vec![7; 4000]);
    let mut writer = BulkWriter::create(&folder).unwrap();
    for number in 0..50_000_u32 {
        let key = number.to_be_bytes().to_vec();
        let framed = frames.seal(&key, &value);
        writer.put(key, framed).unwrap();
    }
    writer.finish(Totals::default().record(&frames)).unwrap();
    let backend = SledBackend::open(&folder, 1 << 20, Arc::default()).unwrap();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
    };
    let (before, mut most, mut found) = (resident(), 0, 0);
    let mut from = Bound::Unbounded;
    loop {
        let mut last = None;
        let limit = PageLimit { entries: 500, bytes: 1 << 20 };
        backend
            .scan(&(from, Bound::Unbounded), Direction::Forward, limit, &mut |key, _| {
                found += 1;
                last = Some(key.to_vec());
            })
            .unwrap();
        most = most.max(resident() - before);
        match last {
            Some(last) => from = Bound::Excluded(last),
            None => break,
        }
    }
    assert_eq!(found, 50_000);
    assert!(most < 120, "{most} MB of 200 MB");
}
