use super::*;

fn blobs(dir: &Path) -> BlobFiles {
    BlobFiles::open(dir, Space::watch(dir.parent().unwrap()).unwrap()).unwrap()
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

/// Rows that hold for every kind of blob store.
fn conforms(blobs: &dyn Blobs) {
    for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17] {
        let bytes = content(length);
        let written = write(blobs, &[&bytes[..length / 3], &[], &bytes[length / 3..]]);
        assert_eq!(written.length, length as u64);
        assert_eq!(written.md5, <[u8; 16]>::from(Md5::digest(&bytes)));
        assert_eq!(written.id, <[u8; 32]>::from(Sha256::digest(&bytes)));
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
    conforms(&super::super::MemoryBlobs::new());
}

#[test]
fn files_conform_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("blobs");
    let blobs = blobs(&folder);
    conforms(&blobs);
    assert!(std::fs::read_dir(folder.join("tmp")).unwrap().next().is_none(), "unfinished writers leave nothing");
    let before = blobs.disk_bytes();
    let written = write(&blobs, &[&content(1 << 20)]);
    assert_eq!(blobs.disk_bytes(), before + std::fs::metadata(blobs.path(&written.id)).unwrap().len());
}

#[test]
fn what_a_killed_writer_left_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("blobs");
    let first = blobs(&folder);
    let mut writer = first.create().unwrap();
    writer.write(b"half").unwrap();
    std::mem::forget(writer);
    blobs(&folder);
    assert!(std::fs::read_dir(folder.join("tmp")).unwrap().next().is_none());
}

#[test]
fn damage_is_found_before_a_wrong_byte_goes_out_and_healed_by_writing_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(&dir.path().join("blobs"));
    let bytes = content(2 * BLOCK + 100);
    let id = write(&blobs, &[&bytes]).id;
    let path = blobs.path(&id);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(997).chain(good.len() - TAIL - 12..good.len()) {
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
    write(&blobs, &[&bytes]);
    assert_eq!(read(&blobs, &id, 0).unwrap(), bytes);
}
