//! An append-only file with rotation by size: `audit.log` > `audit.log.1` > `audit.log.2` ...

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// Where the audit file is and how it is rotated, from the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the current file.
    pub file: PathBuf,
    /// Size in bytes after which the file is rotated.
    pub bytes: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u64,
}

/// The open file. A cheap handle: clones write to the same file.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    place: Place,
    current: Mutex<Current>,
}

struct Current {
    file: File,
    bytes: u64,
}

impl Trail {
    /// Opens the file, or creates it readable and writable by its owner only.
    pub fn open(place: Place) -> io::Result<Trail> {
        let current = Mutex::new(open(&place.file)?);
        Ok(Trail(Arc::new(Inner { place, current })))
    }
}

fn open(path: &Path) -> io::Result<Current> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Current { file, bytes })
}

/// The name of a rotated file: `file.N`.
pub(super) fn aside(file: &Path, number: u64) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

impl Inner {
    /// Renames the current file to `file.1`, shifts the older ones, drops the oldest and opens a new file.
    fn rotate(&self) -> io::Result<Current> {
        let Place { file, keep, .. } = &self.place;
        for number in (1..*keep).rev() {
            match std::fs::rename(aside(file, number), aside(file, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if *keep == 0 {
            std::fs::remove_file(file)?
        } else {
            std::fs::rename(file, aside(file, 1))?
        }
        open(file)
    }
}

/// Each call writes one whole line: `tracing`'s formatter passes one event per call.
impl Write for Trail {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut current = self.0.current.lock();
        if current.bytes > 0 && current.bytes + line.len() as u64 > self.0.place.bytes {
            // If the rotation fails, the line still goes to the file, which then exceeds its size: better
            // than to lose it.
            match self.0.rotate() {
                Ok(fresh) => *current = fresh,
                // Unlike `eprintln`, this does not panic if the standard error is closed.
                Err(error) => drop(writeln!(io::stderr(), "settee: cannot rotate the audit file: {error}")),
            }
        }
        current.file.write_all(line)?;
        current.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.current.lock().file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_large_file_is_rotated_and_the_oldest_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.log");
        let place = Place { file: file.clone(), bytes: 20, keep: 2 };
        let mut trail = Trail::open(place.clone()).unwrap();
        for number in 0..7 {
            trail.write_all(format!("line {number}!!\n").as_bytes()).unwrap();
        }
        assert_eq!(read(&file), "line 6!!\n");
        assert_eq!(read(&aside(&file, 1)), "line 4!!\nline 5!!\n");
        assert_eq!(read(&aside(&file, 2)), "line 2!!\nline 3!!\n");
        assert!(!aside(&file, 3).exists());
        drop(trail);
        let mut again = Trail::open(place).unwrap();
        again.write_all(b"line 7!!\n").unwrap();
        assert_eq!(read(&file), "line 6!!\nline 7!!\n", "appended to after a restart");
        again.write_all(b"a line longer than any file may be\n").unwrap();
        assert_eq!(read(&file), "a line longer than any file may be\n");
    }

    #[test]
    fn only_the_owner_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.log");
        Trail::open(Place { file: file.clone(), bytes: 1, keep: 0 }).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0);
        let mut trail = Trail::open(Place { file: file.clone(), bytes: 1, keep: 0 }).unwrap();
        trail.write_all(b"a\n").unwrap();
        trail.write_all(b"b\n").unwrap();
        assert_eq!(read(&file), "b\n");
        assert!(Trail::open(Place { file: folder.path().to_owned(), bytes: 1, keep: 0 }).is_err());
    }
}
