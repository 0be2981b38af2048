use std::path::Path;

use super::marker::{CIPHER, MARKER};
use super::open_store::{Home, OpenStore};
use super::unfinished::UNFINISHED;
use super::*;
use crate::store::crypto::master_key::Key;
use crate::store::disk_space::Space;
use crate::store::embedded::committer::Committer;
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::Mark;
use crate::store::embedded::rewrite::{Rewrite, Sealing, Step, compact, rewrite};
use crate::store::{Batch, Durability, Entry, Store, keyspace};

fn refusal(dir: &Path, engine: Option<Engine>) -> OpenError {
    match open(dir, engine) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error,
    }
}

#[test]
fn a_folder_is_locked_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/data");
    let opened = open(&folder, None).unwrap();
    assert!(matches!(refusal(&folder, None), OpenError::Locked(_)));
    drop(opened);
    let opened = open(&folder, Some(Engine::Sled)).unwrap();
    assert_eq!(opened.store.engine(), "sled");
}

#[test]
fn an_existing_folder_keeps_its_engine() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), Some(Engine::Redb)).unwrap());
    assert_eq!(open(dir.path(), None).unwrap().store.engine(), "redb");
    let refusal = refusal(dir.path(), Some(Engine::Sled)).to_string();
    assert!(refusal.contains("made with the engine redb, not sled"), "{refusal}");
    assert!("paper".parse::<Engine>().unwrap_err().contains("sled, redb"));
}

#[test]
fn the_refusal_of_a_wrong_folder_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), None).unwrap());
    let marker = dir.path().join(MARKER);
    for (text, word) in [
        ("format = 2\nengine = \"sled\"", "format 2"),
        ("format = 1\nengine = \"paper\"", "\"paper\""),
        ("format = 1", "names no engine"),
        ("engine = \"sled\"", "names no format"),
        ("format", "cannot be read"),
    ] {
        std::fs::write(&marker, text).unwrap();
        let refusal = refusal(dir.path(), None).to_string();
        assert!(refusal.contains(word), "{refusal}");
    }
    std::fs::remove_file(&marker).unwrap();
    assert!(matches!(refusal(dir.path(), None), OpenError::Damaged { .. }));
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(refusal(&dir.path().join("file"), None), OpenError::Io { .. }));
}

#[test]
fn a_newer_format_inside_the_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), None).unwrap();
    let mut batch = Batch::new();
    batch.put(keyspace::FORMAT.to_vec(), 7u32.to_be_bytes().to_vec());
    opened.store.commit(batch).unwrap();
    drop(opened);
    assert!(matches!(refusal(dir.path(), None), OpenError::NewerFormat { has: 7, .. }));
}

#[test]
fn a_torn_snapshot_is_removed_on_open() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), None).unwrap());
    let torn = dir.path().join("store-1/snap.0000000000000000.generating");
    std::fs::write(&torn, b"torn").unwrap();
    drop(open(dir.path(), None).unwrap());
    assert!(!torn.exists());
}

#[test]
fn compacting_keeps_all_entries_and_can_change_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), None).unwrap();
    let value = |number: u32| vec![number as u8; 1 + 3_000 * number as usize % 200_000];
    for number in 0..300u32 {
        let mut batch = Batch { durability: Durability::Relaxed, ..Batch::new() };
        batch.put(format!("key{number}").into_bytes(), value(number));
        opened.store.commit(batch).unwrap();
    }
    assert!(matches!(compact(dir.path(), None, &mut |_| {}), Err(OpenError::Locked(_))));
    drop(opened);
    for engine in [Engine::Redb, Engine::Redb, Engine::Sled, Engine::Sled] {
        let mut copied = 0;
        compact(dir.path(), Some(engine), &mut |step| {
            if let Step::Entries { done, .. } = step {
                copied = done;
            }
        })
        .unwrap();
        assert_eq!(copied, 301);
        let opened = open(dir.path(), None).unwrap();
        assert_eq!(opened.engine, engine);
        for number in 0..300u32 {
            assert!(opened.store.get(format!("key{number}").as_bytes()).unwrap() == Some(value(number)));
        }
    }
    assert!(!dir.path().join("store-4").exists() && dir.path().join("store-5").exists());
}

#[test]
fn an_interrupted_rewrite_leaves_the_old_store_in_force() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path(), Some(*engine)).unwrap();
        let key = |number: u32| [&b"key"[..], &number.to_be_bytes()].concat();
        let mut batch = Batch::new();
        (0..10_000).for_each(|number| batch.put(key(number), vec![number as u8; 5000 * usize::from(number % 50 == 0)]));
        opened.store.commit(batch).unwrap();
        drop(opened);
        for interrupted_at in [4096, 8192, 10_001] {
            let rewritten = std::panic::catch_unwind(|| {
                compact(dir.path(), None, &mut |step| {
                    if let Step::Entries { done, .. } = step {
                        assert!(done < interrupted_at, "interrupted");
                    }
                })
            });
            assert!(rewritten.is_err(), "{engine} {interrupted_at}");
            assert!(dir.path().join("store-2").exists());
            let opened = open(dir.path(), None).unwrap();
            assert_eq!(read_marker(dir.path()).unwrap().unwrap().life, 1);
            assert_eq!(opened.store.complete(), Ok(()));
        }
        compact(dir.path(), None, &mut |_| {}).unwrap();
        assert!(!dir.path().join("store-1").exists());
        let opened = open(dir.path(), None).unwrap();
        assert_eq!(opened.store.complete(), Ok(()));
        for number in 0..10_000 {
            let value = vec![number as u8; 5000 * usize::from(number % 50 == 0)];
            assert!(opened.store.get(&key(number)).unwrap() == Some(value));
        }
    }
}

#[test]
fn a_rewrite_without_room_for_its_marker_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), None).unwrap();
    let mut batch = Batch::new();
    batch.put(b"key".to_vec(), b"value".to_vec());
    opened.store.commit(batch).unwrap();
    drop(opened);
    std::os::unix::fs::symlink("/dev/full", dir.path().join("format.tmp")).unwrap();
    assert!(matches!(compact(dir.path(), None, &mut |_| {}), Err(OpenError::Full(_))));
    assert!(!dir.path().join("store-2").exists() && !dir.path().join("mark-2").exists());
    assert_eq!(open(dir.path(), None).unwrap().store.get(b"key").unwrap(), Some(b"value".to_vec()));
}

fn with_key(dir: &Path, key: Option<&Key>) -> std::result::Result<Opened, OpenError> {
    open_with(dir, Options { key: key.cloned(), ..Options::default() })
}

fn refused(dir: &Path, key: Option<&Key>) -> String {
    with_key(dir, key).err().expect("it is refused").to_string()
}

#[test]
fn an_encrypted_folder_opens_only_with_its_key() {
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (key, other) = (Key::generate(), Key::generate());
    let opened = with_key(dir.path(), Some(&key)).unwrap();
    let mut batch = Batch::new();
    batch.put(b"k".to_vec(), b"value".to_vec());
    opened.store.commit(batch).unwrap();
    drop(opened);
    assert_eq!(encrypted_under(dir.path()).unwrap(), Some(key.id()));
    let text = refused(dir.path(), None);
    assert!(text.contains("--encryption-key-file") && text.contains(&key.id()), "{text}");
    let text = refused(dir.path(), Some(&other));
    assert!(text.contains(&key.id()) && text.contains(&other.id()), "{text}");
    assert_eq!(with_key(dir.path(), Some(&key)).unwrap().store.get(b"k").unwrap(), Some(b"value".to_vec()));

    drop(open(plain.path(), None).unwrap());
    let text = refused(plain.path(), Some(&key));
    assert!(text.contains("is not encrypted") && text.contains("compact-store"), "{text}");

    let marker = dir.path().join(MARKER);
    let whole = std::fs::read_to_string(&marker).unwrap();
    // Without the section, a server would continue unencrypted.
    std::fs::write(&marker, whole.split("\n\n").next().unwrap()).unwrap();
    assert!(refused(dir.path(), None).contains("another encryption"));
    std::fs::write(&marker, whole.replace("keys = \"", "keys = \"AAAA")).unwrap();
    assert!(refused(dir.path(), Some(&key)).contains("the sealed keys"));
    std::fs::write(&marker, whole.replace(CIPHER, "rot13")).unwrap();
    assert!(refused(dir.path(), Some(&key)).contains("[encryption]"));
    std::fs::write(&marker, whole).unwrap();
    with_key(dir.path(), Some(&key)).unwrap();
}

#[test]
fn a_rewrite_can_begin_renew_and_end_encryption() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Key::generate(), Key::generate());
    let known = b"known to everybody";
    let opened = open(dir.path(), None).unwrap();
    let mut writer = opened.blobs.create().unwrap();
    writer.write(known).unwrap();
    let blob = writer.finish().unwrap().id;
    let mut batch = Batch::new();
    batch.put(keyspace::blob_reference(&blob, 1, 2, 3), Vec::new());
    batch.put(b"k".to_vec(), known.to_vec());
    batch.put(b"large".to_vec(), known.repeat(10_000));
    opened.store.commit(batch).unwrap();
    drop(opened);

    // (the current key, the requested change, the key afterwards)
    let under = |key: &Key| Sealing::Under(key.clone());
    let steps = [
        (None, under(&first), Some(&first)),
        (Some(&first), Sealing::Keep, Some(&first)),
        (Some(&first), under(&second), Some(&second)),
        (Some(&second), under(&second), Some(&second)),
        (Some(&second), Sealing::Plain, None),
        // The settings already name a key, but the folder has none yet.
        (Some(&first), under(&first), Some(&first)),
    ];
    for (round, (key, sealing, after)) in steps.into_iter().enumerate() {
        let how = Rewrite { engine: None, key: key.cloned(), sealing, to: None };
        let renamed = |(key, value): Entry, name: &dyn Fn(&[u8; 32]) -> [u8; 32]| {
            Ok((keyspace::renamed_reference(&key, name).unwrap_or(key), value))
        };
        rewrite(dir.path(), &how, renamed, &mut |_| {}).unwrap();
        for wrong in [None, Some(&first), Some(&second)].into_iter().filter(|wrong| *wrong != after) {
            assert!(with_key(dir.path(), wrong).is_err(), "{round} {wrong:?}");
        }
        assert_eq!(holds(dir.path(), known), after.is_none(), "{round}");
        let opened = with_key(dir.path(), after).unwrap();
        assert_eq!(opened.store.get(b"k").unwrap().unwrap(), known);
        assert_eq!(opened.store.get(b"large").unwrap().unwrap(), known.repeat(10_000));
        let references = opened.store.keys(&keyspace::all_blob_references(), 9).unwrap();
        let blobs = opened.blobs.list(None, 9).unwrap();
        assert_eq!(references, [keyspace::blob_reference(&blobs[0], 1, 2, 3)], "{round}");
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut opened.blobs.open(&blobs[0], 6).unwrap(), &mut content).unwrap();
        assert_eq!(content, known[6..]);
        assert_ne!(blobs[0], blob, "{round}: a keyed hash never becomes a digest again");
        let folders = std::fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_dir());
        assert_eq!(folders.count(), 2, "{round}: the previous folders are gone");
    }
    let wrong = Rewrite { key: Some(second), ..Rewrite::default() };
    let refused = rewrite(dir.path(), &wrong, |entry, _| Ok(entry), &mut |_| {}).unwrap_err();
    assert!(matches!(refused, OpenError::WrongKey { .. }));
}

#[test]
fn opening_removes_leftovers_of_an_interrupted_rewrite() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::generate();
    drop(open(dir.path(), None).unwrap());
    let how = Rewrite { sealing: Sealing::Under(key.clone()), ..Rewrite::default() };
    rewrite(dir.path(), &how, |entry, _| Ok(entry), &mut |_| {}).unwrap();
    for former in ["store-1", "blobs", "store-9", "blobs-9"] {
        std::fs::create_dir_all(dir.path().join(former)).unwrap();
        std::fs::write(dir.path().join(former).join("file"), "in the clear").unwrap();
    }
    drop(with_key(dir.path(), Some(&key)).unwrap());
    let there = |name: &str| dir.path().join(name).exists();
    assert!(!there("store-1") && !there("blobs"), "older than the marker");
    assert!(there("store-9") && there("blobs-9"), "newer than the marker, perhaps somebody else's");
    assert!(there("store-2") && there("blobs-2"));
}

#[test]
fn a_rewritten_store_gets_a_new_mark() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let opened = open(dir.path(), None).unwrap();
    for number in 0..9u8 {
        let mut batch = Batch::new();
        batch.put(keyspace::sequence(1, u64::from(number)), vec![number]);
        opened.store.commit(batch).unwrap();
    }
    drop(opened);
    // An interrupted rewrite has left a store, and a mark that is ahead of the next store.
    std::fs::create_dir(path("store-2")).unwrap();
    std::fs::copy(path("mark-1"), path("mark-2")).unwrap();
    for (engine, life) in [(Engine::Redb, 2), (Engine::Sled, 3)] {
        compact(dir.path(), Some(engine), &mut |_| {}).unwrap();
        assert!(!path(&format!("mark-{}", life - 1)).exists());
        let mark = Mark::open(dir.path(), life).unwrap();
        assert!(mark.reached().commits > 0 && mark.databases().unwrap()[&1].sequence == 8, "{engine}");
        let opened = open(dir.path(), None).unwrap();
        assert_eq!(opened.store.complete(), Ok(()));
        assert_eq!(opened.store.get(&keyspace::sequence(1, 8)).unwrap(), Some(vec![8]));
    }
    // What an interrupted first start has left is cleared away; what an interrupted restore has left is
    // refused.
    for (how, refused) in [("new", false), ("restore", true), ("newt", true)] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store-1")).unwrap();
        std::fs::write(dir.path().join("store-1/db"), "half").unwrap();
        std::fs::write(dir.path().join(UNFINISHED), how).unwrap();
        assert_eq!(open(dir.path(), None).is_err(), refused, "{how}");
        assert_eq!(dir.path().join(UNFINISHED).exists(), refused, "{how}");
    }
}

#[test]
fn reopening_after_a_failure_changes_the_generation() {
    use crate::store::embedded::faults::{Faults, WriteFault};
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let inner = Box::new(Committer::eager(faults.clone(), Frames::default()));
    let home = Home {
        dir: dir.path().to_path_buf(),
        marker: Marker { engine: Engine::Sled, life: 1, blobs: 1, envelope: None },
        keys: None,
        cache_bytes: None,
        space: Space::watch(dir.path()).unwrap(),
    };
    let store = OpenStore::new(inner, home, lock(dir.path()).unwrap());
    let put = || {
        let mut batch = Batch::new();
        batch.put(b"k".to_vec(), b"v".to_vec());
        store.commit(batch)
    };
    put().unwrap();
    let before = store.generation();
    faults.fail_write(0, WriteFault::Io);
    assert!(put().is_err());
    put().unwrap();
    assert_ne!(store.generation(), before);
}

/// Whether any file in the folder, recursively, contains these bytes.
fn holds(dir: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(&path).is_ok_and(|bytes| memchr::memmem::find(&bytes, text).is_some())
    })
}

/// Writes one sequence of a database as the layer above does, and closes the folder.
fn write_sequence(dir: &Path, engine: Engine, sequence: u64) {
    let opened = open(dir, Some(engine)).unwrap();
    let mut batch = Batch::new();
    if sequence == 1 {
        batch.put(keyspace::name("one"), vec![1, 9, 0]);
    }
    batch.put(keyspace::sequence(9, sequence), vec![1; sequence as usize]);
    batch.put(keyspace::body(9, sequence, 0), vec![2; 100 * sequence as usize]);
    opened.store.commit(batch).unwrap();
}

#[test]
fn writes_of_a_version_without_mark_and_record_are_counted_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store-1/settee.redb");
    let record = |put: Option<Vec<u8>>| {
        use ::redb::{Database, ReadableDatabase, TableDefinition};
        const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
        let database = Database::open(&file).unwrap();
        if let Some(record) = put {
            let write = database.begin_write().unwrap();
            write.open_table(ENTRIES).unwrap().insert(&[0xFF][..], record.as_slice()).unwrap();
            write.commit().unwrap();
        }
        let read = database.begin_read().unwrap().open_table(ENTRIES).unwrap();
        read.get(&[0xFF][..]).unwrap().unwrap().value().to_vec()
    };
    write_sequence(dir.path(), Engine::Redb, 1);
    let (then, mark) = (record(None), std::fs::read(dir.path().join("mark-1")).unwrap());
    write_sequence(dir.path(), Engine::Redb, 2);
    record(Some(then));
    std::fs::write(dir.path().join("mark-1"), mark).unwrap();
    for _ in 0..2 {
        let opened = open(dir.path(), None).unwrap();
        assert_eq!(opened.store.complete(), Ok(()));
    }
    write_sequence(dir.path(), Engine::Redb, 3);
    assert_eq!(open(dir.path(), None).unwrap().store.complete(), Ok(()));
}

#[test]
fn the_store_of_another_folder_is_refused() {
    for engine in Engine::ALL {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for sequence in 1..4 {
            write_sequence(one.path(), *engine, sequence.min(2));
            write_sequence(other.path(), *engine, sequence);
        }
        std::fs::remove_dir_all(one.path().join("store-1")).unwrap();
        std::fs::rename(other.path().join("store-1"), one.path().join("store-1")).unwrap();
        let refused = refusal(one.path(), None).to_string();
        assert!(refused.contains("not the store that the mark beside it"), "{engine}: {refused}");
        // With its own mark the store is accepted.
        std::fs::copy(other.path().join("mark-1"), one.path().join("mark-1")).unwrap();
        assert_eq!(open(one.path(), None).unwrap().store.complete(), Ok(()));
    }
}

#[test]
fn a_refused_copy_does_not_change_the_target_folder() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opened = open(dir.path(), None).unwrap();
    let others = ["lock", "unfinished", "reserve", "file"];
    others.iter().for_each(|name| std::fs::write(to.path().join(name), "restore").unwrap());
    let copied = |to: &Path| {
        let how = Rewrite { to: Some(to.to_owned()), ..Rewrite::default() };
        rewrite(dir.path(), &how, |entry, _| Ok(entry), &mut |_| {})
    };
    assert!(matches!(copied(to.path()).unwrap_err(), OpenError::Locked(_)), "the source is in use");
    assert!(matches!(copied(dir.path()).unwrap_err(), OpenError::Locked(_)), "into itself");
    assert!(matches!(refusal(dir.path(), None), OpenError::Locked(_)), "its lock is still there");
    drop(opened);
    assert!(matches!(copied(to.path()).unwrap_err(), OpenError::NotEmpty(_)));
    for name in others {
        assert!(to.path().join(name).exists(), "{name}");
    }
}
