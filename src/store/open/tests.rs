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
    let torn = dir.path().join("sled/snap.0000000000000000.generating");
    std::fs::write(&torn, b"torn").unwrap();
    drop(open(dir.path(), None).unwrap());
    assert!(!torn.exists());
}
