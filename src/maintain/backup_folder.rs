//! Backups as files of one folder: their names, writing one, listing them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::progress::Hear;
use crate::db::Databases;
use crate::error::{Error, Result};
use crate::store::Key;
use crate::store::crypto::sealed_stream;

/// Backups that a list names at most: the newest ones.
const LISTED: usize = 1000;
/// Age of a file that a killed server has left behind, from which on it is removed.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// A backup in the folder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Backup {
    pub name: String,
    /// When it was completed, in milliseconds since 1970.
    pub at: u64,
    pub bytes: u64,
}

/// The name of a backup that is made at this time, in UTC: `settee-20260131-235959.backup`.
pub fn backup_name(since_epoch: Duration) -> String {
    let time = httpdate::HttpDate::from(UNIX_EPOCH + since_epoch).to_string();
    // `Sat, 31 Jan 2026 23:59:59 GMT`
    let parts: Vec<&str> = time.split([' ', ',', ':']).filter(|part| !part.is_empty()).collect();
    let [_, day, month, year, hour, minute, second, ..] = parts[..] else { return "settee.backup".into() };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|name| *name == month).unwrap_or(0);
    format!("settee-{year}{month:02}{day}-{hour}{minute}{second}.backup")
}

fn is_backup(name: &str) -> bool {
    name.starts_with("settee-") && name.ends_with(".backup")
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull => Error::Full,
        _ => Error::Internal(format!("{} cannot be {what}: {error}", path.display())),
    }
}

/// A free name for a backup in `folder` that is made at `now`, since 1970.
///
/// # Errors
/// The folder does not exist, or cannot be read. It is not created: it may be on a disk that is not mounted.
pub fn free_name(folder: &Path, now: Duration) -> Result<String> {
    if !folder.is_dir() {
        return Err(Error::Internal(format!("the folder for backups, {}, does not exist", folder.display())));
    }
    let names = (0..60).map(|later| backup_name(now + Duration::from_secs(later)));
    let free = names.into_iter().find(|name| !folder.join(name).exists());
    free.ok_or_else(|| Error::Internal("there are too many backups of this moment".into()))
}

/// Writes a backup of everything to the file `name` in `folder`, sealed under `key` if there is one. The file appears
/// when it is complete and on disk. Returns its size. Blocks: call it off the async threads, within a tokio runtime.
///
/// # Errors
/// The file cannot be written, or something cannot be read. Then no file is left.
pub fn write_backup(
    databases: &Arc<Databases>,
    folder: &Path,
    name: &str,
    key: Option<&Key>,
    hear: Hear,
) -> Result<u64> {
    remove_left_behind(folder);
    let (path, part) = (folder.join(name), folder.join(format!("{name}.part")));
    let wrong = |error: io::Error| failed("written", &path, &error);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&part).map_err(wrong)?;
    let mut write = || {
        match key {
            None => drop(super::backup(databases, &mut file, hear)?),
            Some(key) => {
                let mut sealed = sealed_stream::Writer::new(&mut file, key).map_err(wrong)?;
                super::backup(databases, &mut sealed, hear)?;
                sealed.finish().map_err(wrong)?;
            }
        }
        file.flush().and_then(|()| file.sync_all()).map_err(wrong)?;
        fs::rename(&part, &path).map_err(wrong)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(wrong)?;
        fs::metadata(&path).map(|found| found.len()).map_err(wrong)
    };
    write().inspect_err(|_| drop(fs::remove_file(&part)))
}

/// Removes unfinished files of servers that were killed.
fn remove_left_behind(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_part = name.to_str().and_then(|name| name.strip_suffix(".part")).is_some_and(is_backup);
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_part && age().is_some_and(|age| age > LEFT_BEHIND) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The backups in a folder, newest first. Blocks on the disk.
///
/// # Errors
/// The folder cannot be read.
pub fn list_backups(folder: &Path) -> Result<Vec<Backup>> {
    let wrong = |error: io::Error| failed("read", folder, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let Some(name) = entry.file_name().to_str().filter(|name| is_backup(name)).map(str::to_owned) else { continue };
        let Ok(about) = entry.metadata() else { continue };
        if about.is_file() {
            let at = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            found.push(Backup { name, at, bytes: about.len() });
        }
    }
    found.sort_by(|one, other| (other.at, &other.name).cmp(&(one.at, &one.name)));
    found.truncate(LISTED);
    Ok(found)
}

/// The folder's path, if the setting names one.
pub fn folder_of(setting: Option<&str>) -> Option<PathBuf> {
    setting.filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::MemoryBlobs;
    use crate::store::memory::Memory;

    #[test]
    fn names_are_times() {
        assert_eq!(backup_name(Duration::from_secs(1_769_903_999)), "settee-20260131-235959.backup");
    }

    #[test]
    fn a_backup_appears_when_it_is_complete() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let _entered = runtime.enter();
        let databases =
            Databases::open(Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap();
        databases.create("notes", crate::db::CreateOptions::default(), None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let now = Duration::from_secs(1_769_903_999);
        let name = free_name(folder, now).unwrap();
        let bytes = write_backup(&databases, folder, &name, None, &mut |_| {}).unwrap();
        let key = Key::generate();
        let second = free_name(folder, now).unwrap();
        assert_eq!(second, "settee-20260201-000000.backup", "the name is taken");
        write_backup(&databases, folder, &second, Some(&key), &mut |_| {}).unwrap();
        assert!(fs::read(folder.join(&second)).unwrap().starts_with(sealed_stream::SEALED));
        fs::write(folder.join("settee-1.backup.part"), "").unwrap();
        fs::write(folder.join("other.txt"), "").unwrap();
        fs::create_dir(folder.join("settee-folder.backup")).unwrap();
        let listed = list_backups(folder).unwrap();
        let mut names: Vec<_> = listed.iter().map(|backup| backup.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, [name.as_str(), second.as_str()]);
        assert_eq!(listed.iter().find(|backup| backup.name == name).unwrap().bytes, bytes);
        assert!(folder.join("settee-1.backup.part").exists(), "another process may be writing it");
    }

    #[test]
    fn a_failed_backup_leaves_nothing() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let _entered = runtime.enter();
        let databases =
            Databases::open(Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken.backup")).unwrap();
        fs::write(dir.path().join("taken.backup/file"), "").unwrap();
        assert!(write_backup(&databases, dir.path(), "taken.backup", None, &mut |_| {}).is_err());
        assert!(!dir.path().join("taken.backup.part").exists());
        let none = dir.path().join("none");
        assert!(free_name(&none, Duration::ZERO).unwrap_err().to_string().contains("does not exist"));
        assert!(!none.exists());
    }
}
