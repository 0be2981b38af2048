//! The permissions of a data folder. Only its owner may read it, because it holds password hashes and the documents
//! of all users.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::lock::LOCK;
use super::marker::{MARKER, Marker};
use super::unfinished::UNFINISHED;
use crate::store::disk_space::RESERVE;
use crate::store::embedded::mark;

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Removes the access of all users but the owner to a data folder and to what settee has written into it. New folders
/// are created with these permissions; a folder made by hand or by an older settee may be readable by everybody.
/// Does not change other files in the folder: they may belong to somebody else.
pub(super) fn tighten(dir: &Path, marker: &Marker) {
    match take_from_others(dir, marker) {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "other users of this machine could read {}: now only its owner may (mode 0700, files 0600)",
            dir.display()
        ),
        Err(error) => tracing::warn!(
            "other users of this machine can read {}, and its permissions cannot be changed: {error}. Run \
             `chmod go= {}` as its owner",
            dir.display(),
            dir.display()
        ),
    }
}

/// Returns whether something had to be changed. The folder itself is changed last, so that an interrupted change is
/// continued by the next one.
fn take_from_others(dir: &Path, marker: &Marker) -> io::Result<bool> {
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(false);
    }
    let files = [MARKER, LOCK, RESERVE, UNFINISHED, &mark::name(marker.life)].map(|name| dir.join(name));
    for path in files.into_iter().chain([marker.store_folder(dir), marker.blobs_folder(dir)]) {
        match with_contents(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            tightened => tightened?,
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
    Ok(true)
}

/// Removes others' access to a file, or to a folder and everything in it. Follows no links.
fn with_contents(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            with_contents(&entry?.path())?;
        }
    }
    let mode = found.permissions().mode();
    if mode & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_data_folder_is_its_owners_only() {
        let parent = tempfile::tempdir().unwrap();
        let (data, outside) = (parent.path().join("data"), parent.path().join("outside"));
        drop(store::open(&data, None).unwrap());
        assert_eq!(mode(&data), 0o700, "a new folder");
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
        let written: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in written.iter().chain([&data]).filter(|path| !path.is_symlink()) {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        drop(store::open(&data, None).unwrap());
        for path in written.iter().chain([&data]).filter(|path| !path.is_symlink()) {
            assert_eq!(mode(path), 0o700, "a folder that everybody could read: {}", path.display());
        }
        assert_eq!(mode(&outside), 0o644, "what a link leads to is not the folder's");
    }

    #[test]
    fn files_of_others_keep_their_permissions() {
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("home");
        fs::create_dir_all(home.join("photos")).unwrap();
        fs::write(home.join("photos/a"), "").unwrap();
        let theirs = [(home.join("photos"), 0o755), (home.join("photos/a"), 0o644)];
        for (path, mode) in [&(home.clone(), 0o755)].into_iter().chain(&theirs) {
            fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
        }
        for _ in 0..2 {
            // At the second start, the folder is a data folder, and still holds the files of others.
            drop(store::open(&home, None).unwrap());
            assert_eq!(theirs.each_ref().map(|(path, _)| mode(path)), [0o755, 0o644]);
        }
        assert_eq!(mode(&home.join("store-1")), 0o700);
    }
}
