use super::*;
use crate::store::blob::file_format::{SEALED_TAIL, TAIL};
use crate::store::crypto::cipher::{FolderKeys, TAG};

fn blobs(dir: &Path) -> BlobFiles {
    under(dir, None)
}

fn under(dir: &Path, keys: Option<&FolderKeys>) -> BlobFiles {
    let space = Space::watch(dir.parent().unwrap()).unwrap();
    BlobFiles::open(dir, space, keys.map(FolderKeys::attachments)).unwrap()
}

fn write(blobs: &dyn Blobs, pieces: &[&[u8]]) -> Written {
    let mut writer = blobs.create().unwrap();
    for piece in pieces {
        writer.write(piece).unwrap();
    }
    writer.finish().unwrap()
}

fn read(blobs: &dyn Blobs, id: &BlobId, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    blobs.open(id, offset).map_err(|error| io::Error::other(error.to_string()))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at) as u8).collect()
}

/// Checks that every blob store must pass. `name` returns the id of a blob whose content has this SHA-256.
fn conforms(blobs: &dyn Blobs, name: &dyn Fn(BlobId) -> BlobId) {
    for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17] {
        let bytes = content(length);
        let written = write(blobs, &[&bytes[..length / 3], &[], &bytes[length / 3..]]);
        assert_eq!(written.length, length as u64);
        assert_eq!(written.md5, <[u8; 16]>::from(Md5::digest(&bytes)));
        assert_eq!(written.id, name(Sha256::digest(&bytes).into()));
        for offset in [0, 1, length / 2, BLOCK, 2 * BLOCK + 1, length, length + 1] {
            assert_eq!(
                read(blobs, &written.id, offset as u64).unwrap(),
                bytes[offset.min(length)..],
                "{length} {offset}"
            );
        }
        assert_eq!(write(blobs, &[&bytes]).id, written.id);
    }
    let all = blobs.list(None, 99).unwrap();
    assert_eq!(all.len(), 7, "the same content is kept once");
    assert!(all.is_sorted());
    let mut paged = Vec::new();
    while let Some(next) = blobs.list(paged.last(), 2).unwrap().first() {
        paged.push(*next);
    }
    assert_eq!(paged, all);

    let id = all[3];
    let pins = (blobs.pin(&id), blobs.pin(&id));
    let unreferenced = || Ok(false);
    assert_eq!(blobs.remove_unless(&id, &unreferenced), Ok(false), "pinned twice");
    drop(pins.0);
    assert_eq!(blobs.remove_unless(&id, &unreferenced), Ok(false), "pinned once");
    drop(pins.1);
    assert_eq!(blobs.remove_unless(&id, &|| Ok(true)), Ok(false), "referenced");
    assert_eq!(blobs.remove_unless(&id, &|| Err(StoreError::Full)), Err(StoreError::Full));
    assert_eq!(blobs.remove_unless(&id, &unreferenced), Ok(true));
    assert_eq!(blobs.remove_unless(&id, &unreferenced), Ok(false));
    assert!(matches!(blobs.open(&id, 0).err(), Some(StoreError::Damaged(_))));
    drop(blobs.create().unwrap());
    assert_eq!(blobs.list(None, 99).unwrap().len(), 6);
}

#[test]
fn memory_conforms() {
    conforms(&crate::store::MemoryBlobs::new(), &|digest| digest);
}

#[test]
fn files_conform_and_disk_bytes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("blobs");
    let blobs = blobs(&folder);
    conforms(&blobs, &|digest| digest);
    assert!(std::fs::read_dir(folder.join("tmp")).unwrap().next().is_none(), "unfinished writers leave nothing");
    let before = blobs.disk_bytes();
    let written = write(&blobs, &[&content(1 << 20)]);
    assert_eq!(blobs.disk_bytes(), before + std::fs::metadata(blobs.path(&written.id)).unwrap().len());
}

#[test]
fn temporary_files_of_a_killed_writer_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("blobs");
    let first = blobs(&folder);
    let mut writer = first.create().unwrap();
    writer.write(b"half").unwrap();
    #[expect(clippy::mem_forget, reason = "a process that is killed does not remove its files")]
    std::mem::forget(writer);
    blobs(&folder);
    assert!(std::fs::read_dir(folder.join("tmp")).unwrap().next().is_none());
}

#[test]
fn sealed_files_conform_and_reveal_no_content() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("blobs");
    let keys = FolderKeys::generate();
    let blobs = under(&folder, Some(&keys));
    conforms(&blobs, &|digest| keys.attachments().name(&digest));
    assert!(std::fs::read_dir(folder.join("tmp")).unwrap().next().is_none(), "unfinished writers leave nothing");
    let text = b"known to everybody ".repeat(10_000);
    let written = write(&blobs, &[&text]);
    let path = blobs.path(&written.id);
    assert!(!path.ends_with(hex(&Sha256::digest(&text))));
    let stored = std::fs::read(&path).unwrap();
    assert_eq!(stored.len(), text.len() + text.len().div_ceil(BLOCK) * TAG + SEALED_TAIL);
    assert!(!stored.windows(5).any(|window| window == b"known"));
    let first = stored.clone();
    write(&blobs, &[&text]);
    assert_ne!(std::fs::read(&path).unwrap()[..100], first[..100], "the same content is never sealed alike");

    let damaged = |blobs: &BlobFiles, id| blobs.open(id, 0).err().unwrap().to_string();
    let other = write(&blobs, &[b"other"]).id;
    std::fs::copy(&path, blobs.path(&other)).unwrap();
    assert!(damaged(&blobs, &other).contains("is not what was sealed under its name"));
    let plain = self::blobs(&folder);
    assert!(damaged(&plain, &written.id).contains("is sealed"));
    let id = write(&plain, &[b"plain"]).id;
    assert!(damaged(&blobs, &id).contains("is not sealed") || damaged(&blobs, &id).contains("is cut short"));
    let stranger = under(&folder, Some(&FolderKeys::generate()));
    assert!(damaged(&stranger, &written.id).contains("is not what was sealed"));
}

#[test]
fn swapped_blocks_of_a_sealed_file_are_detected() {
    let dir = tempfile::tempdir().unwrap();
    let keys = FolderKeys::generate();
    let blobs = under(&dir.path().join("blobs"), Some(&keys));
    let bytes = content(3 * BLOCK);
    let id = write(&blobs, &[&bytes]).id;
    let path = blobs.path(&id);
    let good = std::fs::read(&path).unwrap();
    const STRIDE: usize = BLOCK + TAG;
    let mut swapped = good.clone();
    swapped[..STRIDE].copy_from_slice(&good[STRIDE..2 * STRIDE]);
    swapped[STRIDE..2 * STRIDE].copy_from_slice(&good[..STRIDE]);
    std::fs::write(&path, &swapped).unwrap();
    assert!(read(&blobs, &id, 0).is_err());
    assert_eq!(read(&blobs, &id, 2 * BLOCK as u64).unwrap(), bytes[2 * BLOCK..]);
}

#[test]
fn blobs_can_be_converted_between_plain_and_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, bytes) = (FolderKeys::generate(), content(2 * BLOCK + 9));
    let plain = blobs(&dir.path().join("plain"));
    let id = write(&plain, &[&bytes]).id;
    let sealed = under(&dir.path().join("sealed"), Some(&keys));
    let name = keys.attachments().name(&id);
    sealed.take_over(&plain, &id, name).unwrap();
    assert_eq!(write(&sealed, &[&bytes]).id, name, "what is written later finds it");
    let renewed = under(&dir.path().join("renewed"), Some(&keys.renewed()));
    renewed.take_over(&sealed, &name, name).unwrap();
    assert_eq!(read(&renewed, &name, 70_000).unwrap(), bytes[70_000..]);
    assert_eq!(write(&renewed, &[&bytes]).id, name);
    let back = blobs(&dir.path().join("back"));
    back.take_over(&renewed, &name, name).unwrap();
    assert_eq!(read(&back, &name, 0).unwrap(), bytes);
    std::fs::write(plain.path(&id), b"damaged").unwrap();
    assert!(matches!(sealed.take_over(&plain, &id, name), Err(StoreError::Damaged(_))));
}

#[test]
fn damage_is_detected_before_a_wrong_byte_is_returned_and_repaired_by_rewriting() {
    let dir = tempfile::tempdir().unwrap();
    finds_damage(&blobs(&dir.path().join("blobs")), TAIL);
    let keys = FolderKeys::generate();
    finds_damage(&under(&dir.path().join("sealed"), Some(&keys)), SEALED_TAIL);
}

fn finds_damage(blobs: &BlobFiles, tail: usize) {
    let bytes = content(2 * BLOCK + 100);
    let id = write(blobs, &[&bytes]).id;
    let path = blobs.path(&id);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(997).chain(good.len() - tail - 12..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let mut got = Vec::new();
        if let Ok(mut reader) = blobs.open(&id, 0) {
            assert_eq!(reader.read_to_end(&mut got).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        assert!(bytes.starts_with(&got), "byte {at}");
    }
    for length in [0, 1, BLOCK, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(blobs.open(&id, 0).err(), Some(StoreError::Damaged(_))), "cut to {length}");
    }
    write(blobs, &[&bytes]);
    assert_eq!(read(blobs, &id, 0).unwrap(), bytes);
}

#[test]
fn a_small_blob_is_written_once_while_it_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir.path().join("blobs"));
    let modified = |id: &BlobId| std::fs::metadata(blobs.path(id)).unwrap().modified().unwrap();
    let first = write(&blobs, &[b"", b""]);
    let then = modified(&first.id);
    let second = write(&blobs, &[]);
    assert_eq!((second.id, modified(&first.id)), (first.id, then));
    drop(first);
    assert!(!blobs.remove_unless(&second.id, &|| Ok(false)).unwrap(), "the second pins it too");
    std::fs::remove_file(blobs.path(&second.id)).unwrap();
    write(&blobs, &[]);
    assert_eq!(read(&blobs, &second.id, 0).unwrap(), b"", "it was gone");
    let id = second.id;
    drop(second);
    std::fs::write(blobs.path(&id), b"damaged").unwrap();
    write(&blobs, &[]);
    assert_eq!(read(&blobs, &id, 0).unwrap(), b"", "nobody has pinned it since: it is written again");
    assert!(std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().next().is_none());
}

#[test]
fn exchanged_files_are_damaged_both_and_those_of_an_older_settee_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let (one, other) = (write(&blobs, &[b"one and"]).id, write(&blobs, &[b"another"]).id);
    let files = [&one, &other].map(|id| std::fs::read(blobs.path(id)).unwrap());
    std::fs::write(blobs.path(&one), &files[1]).unwrap();
    std::fs::write(blobs.path(&other), &files[0]).unwrap();
    for id in [one, other] {
        assert!(matches!(blobs.open(&id, 0).err(), Some(StoreError::Damaged(_))));
        assert!(matches!(blobs.open(&id, 3).err(), Some(StoreError::Damaged(_))));
    }
    let mut older = b"one and".to_vec();
    older.extend_from_slice(&crc32fast::hash(b"one and").to_le_bytes());
    older.extend_from_slice(&7u64.to_le_bytes());
    older.extend_from_slice(&crc32fast::hash(&older[7..]).to_le_bytes());
    older.extend_from_slice(b"settee b1");
    std::fs::write(blobs.path(&one), &older).unwrap();
    assert_eq!(read(&blobs, &one, 0).unwrap(), b"one and");
}
