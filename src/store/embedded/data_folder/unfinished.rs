//! The file `unfinished`, which exists while a folder is being created or filled.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::marker::{MARKER, has_store};
use super::open_error::OpenError;
use crate::store::disk_space::sync_dir;

pub(crate) const UNFINISHED: &str = "unfinished";
/// The possible contents of `unfinished`: a first start, or a folder that is filled by a restore or salvage.
pub(super) const NEW: &str = "new";
pub(super) const FILLED: &str = "restore";

/// Ends the filling of a new folder (see [`Options::filling`](super::open::Options::filling)). Everything in
/// it must be durable and closed.
pub fn finish(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    std::fs::remove_file(dir.join(UNFINISHED)).and_then(|()| sync_dir(dir)).map_err(io)
}

/// Whether the creation or filling of the folder was interrupted.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Marks the folder as being created.
pub(super) fn begin(dir: &Path, how: &str) -> io::Result<()> {
    let mut file = File::create(dir.join(UNFINISHED))?;
    file.write_all(how.as_bytes())?;
    file.sync_all()?;
    sync_dir(dir)
}

/// Refuses a folder whose filling was interrupted. Clears away what an interrupted first start has left:
/// nothing was ever acknowledged there.
pub(crate) fn refuse_unfinished(dir: &Path) -> std::result::Result<(), OpenError> {
    let io = |error: io::Error| OpenError::Io { folder: dir.to_path_buf(), error };
    let how = match std::fs::read(dir.join(UNFINISHED)) {
        Ok(how) => how,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let has_marker = dir.join(MARKER).exists();
    // If the file is empty, the start was interrupted before it had written anything.
    if how != NEW.as_bytes() && !(how.is_empty() && !has_marker && has_store(dir).is_none()) {
        return Err(OpenError::Unfinished(dir.to_path_buf()));
    }
    if !has_marker {
        for entry in std::fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.as_str() {
                "store-1" | "blobs" => std::fs::remove_dir_all(entry.path()).map_err(io)?,
                "mark-1" => std::fs::remove_file(entry.path()).map_err(io)?,
                _ => {}
            }
        }
    }
    finish(dir)
}
