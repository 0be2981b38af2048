use super::*;

fn refusal(dir: &Path, engine: Option<Engine>) -> OpenError {
    match open(dir, engine) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error,
    }
}

#[test]
fn a_folder_is_one_process_s_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/data");
    let opened = open(&folder, None).unwrap();
    assert!(matches!(refusal(&folder, None), OpenError::Locked(_)));
    drop(opened);
    let opened = open(&folder, Some(Engine::Sled)).unwrap();
    assert_eq!(opened.store.engine(), "sled");
}

#[test]
fn the_engine_is_chosen_once() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), Some(Engine::Redb)).unwrap());
    assert_eq!(open(dir.path(), None).unwrap().store.engine(), "redb");
    let refusal = refusal(dir.path(), Some(Engine::Sled)).to_string();
    assert!(refusal.contains("made with the engine redb, not sled"), "{refusal}");
    assert!("paper".parse::<Engine>().unwrap_err().contains("sled, redb"));
}

#[test]
fn wrong_folders_are_refused_with_words_that_help() {
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
    assert!(matches!(refusal(dir.path(), None), OpenError::NotOurs { .. }));
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(refusal(&dir.path().join("file"), None), OpenError::Io { .. }));
}

#[test]
fn a_newer_format_inside_the_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), None).unwrap();
    let mut batch = Batch::new();
    batch.put(keys::FORMAT.to_vec(), 7u32.to_be_bytes().to_vec());
    opened.store.commit(batch).unwrap();
    drop(opened);
    assert!(matches!(refusal(dir.path(), None), OpenError::NewerFormat { has: 7, .. }));
}

#[test]
fn a_torn_snapshot_does_not_hinder() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), None).unwrap());
    let torn = dir.path().join("store-1/snap.0000000000000000.generating");
    std::fs::write(&torn, b"torn").unwrap();
    drop(open(dir.path(), None).unwrap());
    assert!(!torn.exists());
}

#[test]
fn compacting_keeps_everything_and_converts() {
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
        compact(dir.path(), Some(engine), &mut |entries| copied = entries).unwrap();
        assert_eq!(copied, 301);
        let opened = open(dir.path(), None).unwrap();
        assert_eq!(opened.engine, engine);
        for number in 0..300u32 {
            assert!(opened.store.get(format!("key{number}").as_bytes()).unwrap() == Some(value(number)));
        }
    }
    assert!(!dir.path().join("store-4").exists() && dir.path().join("store-5").exists());
}
