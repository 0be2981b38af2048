use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::store::crypto::master_key::Key;
use crate::store::embedded::committer::Committer;
use crate::store::embedded::data_folder::{Engine, Opened, Options, open, open_with};
use crate::store::embedded::faults::{Faults, WriteFault};
use crate::store::embedded::frame::Frames;
use crate::store::memory::Memory;

fn key(number: u32) -> Vec<u8> {
    format!("key{number:06}").into_bytes()
}

/// Some values are large enough for chunks and for files of their own.
fn value(number: u32, edit: u32) -> Vec<u8> {
    let length = if number.is_multiple_of(97) { 70_000 } else { 20 + (number % 50) as usize };
    let mut value = vec![number as u8; length];
    value[..8].copy_from_slice(&[number.to_be_bytes(), edit.to_be_bytes()].concat());
    value
}

fn put(store: &dyn Store, entries: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
    store.commit(Batch { writes: entries.into_iter().collect(), ..Batch::new() }).unwrap();
}

/// A folder with so many entries.
fn filled(dir: &Path, engine: Engine, key_of_folder: Option<&Key>, entries: u32) -> Opened {
    let options = Options { engine: Some(engine), key: key_of_folder.cloned(), ..Options::default() };
    let opened = open_with(dir, options).unwrap();
    put(&*opened.store, (0..entries).map(|number| (key(number), Some(value(number, 0)))));
    opened
}

fn entries(store: &dyn Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = (std::ops::Bound::Included(b"key".to_vec()), std::ops::Bound::Excluded(b"kez".to_vec()));
    pages(store, all, Direction::Forward, PAGE).flat_map(|page| page.unwrap()).collect()
}

/// The files of a store other than the given one, and the announcement of one.
fn left(dir: &Path, life: u32) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let own = [format!("store-{life}"), format!("mark-{life}")];
    let of_stores = ["store-", "mark-", "format.tmp"];
    names.filter(|name| of_stores.iter().any(|start| name.starts_with(start)) && !own.contains(name)).collect()
}

#[test]
fn commits_of_every_moment_are_in_the_new_store() {
    for (engine, encrypted) in
        [(Engine::Sled, false), (Engine::Sled, true), (Engine::Redb, false), (Engine::Redb, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let folder_key = encrypted.then(Key::generate);
        let opened = filled(dir.path(), engine, folder_key.as_ref(), 6000);
        let store = &*opened.store;
        let calls = Cell::new(0);
        let edit = || {
            // Before the last calls, which run while commits wait: below and above what is copied so far.
            let call = calls.replace(calls.get() + 1);
            if call < 10 {
                let number = call * 600;
                let large = (key(number + 7), Some(vec![call as u8; 90_000]));
                let changed = (0..5).map(|next| (key(number + 20 + next), Some(value(number, call + 1))));
                let removed = [(key(5999 - number), None), (key(number / 2), None)];
                let new = (format!("key9{call}").into_bytes(), Some(vec![1]));
                put(store, changed.chain(removed).chain([large, new]));
            }
            false
        };
        let before = store.disk_bytes();
        let (told_before, after) = store.rewrite(&edit).unwrap().unwrap();
        assert!(calls.get() > 12);
        assert!(told_before >= before && after == store.disk_bytes());
        let mut expected: BTreeMap<_, _> = (0..6000).map(|number| (key(number), value(number, 0))).collect();
        for call in 0..10 {
            let number = call * 600;
            for next in 0..5 {
                expected.insert(key(number + 20 + next), value(number, call + 1));
            }
            expected.remove(&key(5999 - number));
            expected.remove(&key(number / 2));
            expected.insert(key(number + 7), vec![call as u8; 90_000]);
            expected.insert(format!("key9{call}").into_bytes(), vec![1]);
        }
        assert!(entries(store) == expected, "{engine} {encrypted}");
        put(store, [(key(1), Some(b"later".to_vec()))]);
        expected.insert(key(1), b"later".to_vec());
        assert_eq!(store.complete(), Ok(()));
        assert_eq!(left(dir.path(), 2), [""; 0]);
        drop(opened);
        let opened = open_with(dir.path(), Options { key: folder_key, ..Options::default() }).unwrap();
        assert!(entries(&*opened.store) == expected);
        assert_eq!(opened.store.complete(), Ok(()));
        assert!(opened.store.rewrite(&|| false).unwrap().is_some(), "and once more");
        assert!(entries(&*opened.store) == expected);
    }
}

#[test]
fn readers_and_writers_go_on_during_rewrites() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let opened = filled(dir.path(), *engine, None, 3000);
        let store = &opened.store;
        let done = AtomicBool::new(false);
        let written: Vec<BTreeMap<_, _>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3_u32)
                .map(|writer| {
                    let (store, done) = (store.clone(), &done);
                    scope.spawn(move || {
                        let mut written = BTreeMap::new();
                        let mut edit = 0;
                        while !done.load(Ordering::Relaxed) {
                            edit += 1;
                            let number = (edit * 7919 % 1000) * 3 + writer;
                            let new = (edit % 5 > 0).then(|| value(number, edit));
                            let mut batch = Batch::new();
                            // Relaxed commits, too.
                            batch.durability =
                                if edit.is_multiple_of(3) { Durability::Relaxed } else { Durability::Synced };
                            batch.expect(key(number), written.get(&number).cloned().unwrap_or(Some(value(number, 0))));
                            batch.writes.push((key(number), new.clone()));
                            store.commit(batch).unwrap();
                            assert!(store.get(&key(number)).unwrap() == new);
                            written.insert(number, new);
                        }
                        written
                    })
                })
                .collect();
            let stop = scopeguard::guard((), |()| done.store(true, Ordering::Relaxed));
            for _ in 0..5 {
                // Given up if too much is written meanwhile; that must not disturb the writers either.
                let _ = store.rewrite(&|| false);
            }
            drop(stop);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let mut expected: BTreeMap<_, _> = (0..3000).map(|number| (number, Some(value(number, 0)))).collect();
        written.into_iter().for_each(|own| expected.extend(own));
        let expected: BTreeMap<_, _> =
            expected.into_iter().filter_map(|(number, value)| Some((key(number), value?))).collect();
        assert!(entries(&**store) == expected, "{engine}");
        assert_eq!(store.complete(), Ok(()));
        assert!(store.rewrite(&|| false).unwrap().is_some());
        assert!(entries(&**store) == expected);
        drop(opened);
        let opened = open(dir.path(), None).unwrap();
        assert!(entries(&*opened.store) == expected);
        assert_eq!(opened.store.complete(), Ok(()));
    }
}

#[test]
fn a_rewrite_that_is_stopped_leaves_nothing_behind_and_the_next_one_succeeds() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let opened = filled(dir.path(), *engine, None, 3000);
        let expected = entries(&*opened.store);
        let all = Cell::new(0);
        for stopped_at in [0, 3, 8, u32::MAX] {
            let calls = Cell::new(0);
            let rewritten = opened.store.rewrite(&|| calls.replace(calls.get() + 1) == stopped_at);
            all.set(calls.get());
            let life = match stopped_at {
                u32::MAX => 2,
                _ => 1,
            };
            assert_eq!(rewritten.is_ok(), life == 2, "{rewritten:?}");
            assert_eq!(left(dir.path(), life), [""; 0], "{engine} {stopped_at}");
            assert!(entries(&*opened.store) == expected);
        }
        assert!(all.get() > 9);
    }
}

#[test]
fn what_an_interrupted_rewrite_has_left_is_removed_at_the_next_start() {
    for engine in Engine::ALL {
        for interrupted_at in [3, 9] {
            let dir = tempfile::tempdir().unwrap();
            let opened = filled(dir.path(), *engine, None, 3000);
            let expected = entries(&*opened.store);
            let calls = Cell::new(0);
            let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                opened.store.rewrite(&|| {
                    assert!(calls.replace(calls.get() + 1) < interrupted_at, "interrupted");
                    false
                })
            }));
            assert!(interrupted.is_err());
            assert!(left(dir.path(), 1).contains(&"store-2".to_owned()));
            put(&*opened.store, [(key(0), Some(b"later".to_vec()))]);
            drop(opened);
            let opened = open(dir.path(), None).unwrap();
            assert_eq!(left(dir.path(), 1), [""; 0]);
            let mut expected = expected.clone();
            expected.insert(key(0), b"later".to_vec());
            assert!(entries(&*opened.store) == expected);
            assert!(opened.store.rewrite(&|| false).unwrap().is_some());
        }
    }
}

#[test]
fn without_format_toml_the_store_that_was_being_written_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Sled, None, 3000);
    let calls = Cell::new(0);
    let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        opened.store.rewrite(&|| {
            assert!(calls.replace(calls.get() + 1) < 9, "interrupted");
            false
        })
    }));
    assert!(interrupted.is_err());
    drop(opened);
    std::fs::remove_file(dir.path().join("format.toml")).unwrap();
    let guessed = || crate::store::embedded::data_folder::guess_marker(dir.path()).unwrap().life;
    assert_eq!(guessed(), 1);
    std::fs::remove_dir_all(dir.path().join("store-1")).unwrap();
    assert_eq!(guessed(), 2, "if there is no other");
}

#[test]
fn a_rewrite_needs_free_space_and_takes_none_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Sled, None, 100);
    drop(opened);
    let marker = read_marker(dir.path()).unwrap().unwrap();
    let space = crate::store::disk_space::Space::full(dir.path(), 0);
    let inner = crate::store::embedded::data_folder::open_engine(dir.path(), &marker, None, None, &space).unwrap();
    let home = Home { dir: dir.path().to_path_buf(), marker, keys: None, cache_bytes: None, space };
    let lock = crate::store::embedded::data_folder::lock(dir.path()).unwrap();
    let store = OpenStore::new(inner, home, lock);
    assert_eq!(store.rewrite(&|| false), Err(StoreError::Full));
    assert_eq!(left(dir.path(), 1), [""; 0]);
    assert_eq!(store.get(&key(1)).unwrap(), Some(value(1, 0)));
}

#[test]
fn a_new_store_that_cannot_be_put_in_force_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Sled, None, 100);
    let announcement = dir.path().join("format.tmp");
    let remove = || {
        let _ = std::fs::remove_file(&announcement);
        false
    };
    assert!(matches!(opened.store.rewrite(&remove), Err(StoreError::Unavailable(_))));
    assert_eq!(left(dir.path(), 1), [""; 0]);
    put(&*opened.store, [(key(1), None)]);
    assert_eq!(opened.store.ready(), Ok(()));
    assert!(opened.store.rewrite(&|| false).is_ok());
}

#[test]
fn if_it_is_unknown_which_store_is_in_force_commits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Sled, None, 100);
    let format = dir.path().join("format.toml");
    let kept = std::fs::read(&format).unwrap();
    let lose = || {
        let _ = std::fs::remove_file(dir.path().join("format.tmp"));
        std::fs::write(&format, "torn").unwrap();
        false
    };
    assert!(opened.store.rewrite(&lose).is_err());
    assert!(opened.store.commit(Batch::new()).is_err() && opened.store.ready().is_err());
    assert!(opened.store.rewrite(&|| false).is_err());
    assert_eq!(opened.store.get(&key(1)).unwrap(), Some(value(1, 0)), "reads go on");
    assert_eq!(left(dir.path(), 1).len(), 2, "both stores are kept");
    drop(opened);
    for life in ["1", "2"] {
        let text = String::from_utf8(kept.clone()).unwrap().replace("life = 1", &format!("life = {life}"));
        std::fs::write(&format, text).unwrap();
        let other = tempfile::tempdir().unwrap();
        crate::store::disk_space::copy_folder(dir.path(), other.path()).unwrap();
        let opened = open(other.path(), None).unwrap();
        assert_eq!(entries(&*opened.store).len(), 100, "each is complete");
    }
}

#[test]
fn an_announcement_that_is_too_long_is_removed_unread() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), Engine::Sled, None, 100));
    let announcement = dir.path().join("format.tmp");
    let long = "format = 1\nengine = \"sled\"\nlife = 2\n".to_owned() + &"#".repeat(1 << 20);
    std::fs::write(&announcement, long).unwrap();
    std::fs::create_dir(dir.path().join("store-2")).unwrap();
    let opened = open(dir.path(), None).unwrap();
    assert!(!announcement.exists() && dir.path().join("store-2").exists());
    assert!(opened.store.rewrite(&|| false).is_ok());
    assert_eq!(left(dir.path(), 2), [""; 0]);
}

#[test]
fn a_second_rewrite_is_refused_while_one_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Redb, None, 100);
    let second = || {
        assert!(matches!(opened.store.rewrite(&|| false), Err(StoreError::Unavailable(_))));
        false
    };
    assert!(opened.store.rewrite(&second).is_ok());
    assert_eq!(Memory::new().rewrite(&|| false), Ok(None));
}

#[test]
fn stores_with_other_digests_are_not_taken_for_equal() {
    struct Digest(Option<(u64, u64)>);
    impl Store for Digest {
        fn get_many(&self, _: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
            Ok(Vec::new())
        }
        fn scan(
            &self,
            _: &crate::store::range::KeyRange,
            _: Direction,
            _: PageLimit,
        ) -> Result<Vec<crate::store::Entry>> {
            Ok(Vec::new())
        }
        fn commit(&self, _: Batch) -> Result<()> {
            Ok(())
        }
        fn digest(&self) -> Option<(u64, u64)> {
            self.0
        }
        fn engine(&self) -> &'static str {
            "digest"
        }
        fn disk_bytes(&self) -> u64 {
            0
        }
    }
    let equal = |one, other, encrypted| must_be_equal(&Digest(one), &Digest(other), encrypted).is_ok();
    assert!(equal(Some((3, 4)), Some((3, 4)), false));
    assert!(!equal(Some((3, 4)), Some((3, 5)), false) && equal(Some((3, 4)), Some((3, 5)), true));
    assert!(!equal(Some((3, 4)), Some((2, 4)), false) && !equal(Some((3, 4)), Some((2, 4)), true));
    assert!(equal(None, Some((2, 4)), false), "after an entry that could not be read");
}

#[test]
fn the_memory_for_noted_keys_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let opened = filled(dir.path(), Engine::Redb, None, 2000);
    let store: &Arc<dyn Store> = &opened.store;
    let calls = Cell::new(0_u32);
    let flood = || {
        let call = calls.replace(calls.get() + 1);
        if call == 1 {
            for batch in 0..4_u32 {
                let long =
                    |number: u32| [&b"flood"[..], &batch.to_be_bytes(), &number.to_be_bytes(), &[7; 5000]].concat();
                let mut writes = Batch { durability: Durability::Relaxed, ..Batch::new() };
                (0..2000).for_each(|number| writes.put(long(number), vec![1]));
                store.commit(writes).unwrap();
            }
        }
        false
    };
    let given_up = store.rewrite(&flood).unwrap_err();
    assert!(given_up.to_string().contains("too much is being written"), "{given_up}");
    assert!(store.get(&key(1)).unwrap().is_some());
    assert!(store.rewrite(&|| false).is_ok());
}

#[test]
fn keys_that_are_still_to_be_read_need_no_memory() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let opened = filled(dir.path(), *engine, None, 2000);
        let store: &Arc<dyn Store> = &opened.store;
        let calls = Cell::new(0_u32);
        let later = |number: u32| [&b"later"[..], &number.to_be_bytes(), &[7; 5000]].concat();
        let append = || {
            let call = calls.replace(calls.get() + 1);
            // More than 32 MB of keys in all, behind what is read so far.
            if (1..=20).contains(&call) {
                let mut writes = Batch { durability: Durability::Relaxed, ..Batch::new() };
                (0..400).for_each(|number| writes.put(later(call * 400 + number), vec![1]));
                store.commit(writes).unwrap();
            }
            false
        };
        assert!(store.rewrite(&append).unwrap().is_some(), "{engine}");
        assert!((400..8400).all(|number| store.get(&later(number)).unwrap() == Some(vec![1])), "{engine}");
        assert_eq!(store.complete(), Ok(()));
    }
}

#[test]
fn a_rewrite_is_given_up_when_a_commit_fails() {
    for fault in [WriteFault::Io, WriteFault::Unknown, WriteFault::Panic] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path(), Engine::Redb, None, 1));
        let marker = read_marker(dir.path()).unwrap().unwrap();
        let space = crate::store::disk_space::Space::watch(dir.path()).unwrap();
        let home = Home { dir: dir.path().to_path_buf(), marker, keys: None, cache_bytes: None, space };
        let lock = crate::store::embedded::data_folder::lock(dir.path()).unwrap();
        let faults = Faults::default();
        let inner = Box::new(Committer::eager(faults.clone(), Frames::default()));
        let store = OpenStore::new(inner, home, lock);
        put(&store, (0..2000).map(|number| (key(number), Some(value(number, 0)))));
        let calls = Cell::new(0);
        let fail = || {
            if calls.replace(calls.get() + 1) == 3 {
                faults.fail_write(0, fault);
                let mut batch = Batch::new();
                batch.put(key(1), b"failed".to_vec());
                assert!(store.commit(batch).is_err());
            }
            false
        };
        assert!(matches!(store.rewrite(&fail), Err(StoreError::Unavailable(_))), "{fault:?}");
        assert_eq!(left(dir.path(), 1), [""; 0]);
        put(&store, [(key(2), None)]);
        assert!(store.rewrite(&|| false).unwrap().is_some());
        assert_eq!(entries(&store).len(), 1999);
        assert_eq!(store.complete(), Ok(()));
    }
}
