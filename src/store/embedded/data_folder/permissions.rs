//! The permissions of a data folder: it holds the hashes of passwords and everybody's documents, so that only its
//! owner may read it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What group and others may do with a file.
const OTHERS: u32 = 0o077;

/// Takes the folder, and everything in it, from all users but its owner. New folders are created with these
/// permissions; older versions of settee, and people, created folders that everybody may read.
pub(super) fn tighten(dir: &Path) {
    match take_from_others(dir) {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "other users of this machine could read {}: now only its owner may (mode 0700, files 0600)",
            dir.display()
        ),
        Err(error) => tracing::warn!(
            "other users of this machine can read {}, and its permissions cannot be changed: {error}. Run \
             `chmod -R go= {}` as its owner",
            dir.display(),
            dir.display()
        ),
    }
}

/// Returns whether something had to be changed. The folder itself is changed last, so that an interrupted change is
/// continued by the next one.
fn take_from_others(dir: &Path) -> io::Result<bool> {
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(false);
    }
    inside(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
    Ok(true)
}

fn inside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.is_symlink() {
            continue;
        }
        if found.is_dir() {
            inside(&path)?;
        }
        let mode = found.permissions().mode();
        if mode & OTHERS != 0 {
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
        }
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
        let open = [(data.clone(), 0o755), (data.join("format.toml"), 0o644), (data.join("store-1"), 0o755)];
        for (path, mode) in &open {
            fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
        }
        drop(store::open(&data, None).unwrap());
        assert_eq!(open.map(|(path, _)| mode(&path)), [0o700, 0o600, 0o700], "a folder that everybody could read");
        assert_eq!(mode(&outside), 0o644, "what a link leads to is not the folder's");
    }
}
