//! Tests of the sled engine below its committer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::SEGMENT;
use super::*;
use crate::store::embedded::backend::{Backend, Writes};
use crate::store::embedded::committer::Committer;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::Mark;
use crate::store::embedded::tally::{Tally, Totals};
use crate::store::{Batch, Durability, Result, Store, StoreError};

#[test]
fn the_durable_position_is_the_one_from_before_the_last_sync() {
    let dir = tempfile::tempdir().unwrap();
    let backend = SledBackend::open(dir.path(), 16 << 20, Arc::default()).unwrap();
    let frames = Frames::default();
    let writes = Writes::from([(b"k".to_vec(), Some(vec![7; 1000]))]);
    backend.apply(&writes, true, &mut Tally::after(&Totals::default(), &frames)).unwrap();
    let synced = backend.position();
    assert!(synced.0 > 1000, "{synced:?}");
    // sled's own threads may do the same at any time.
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
