//! Conversion of sled's errors.

use crate::store::StoreError;
use crate::store::disk_space::io_error;

/// sled wraps the system's error in a text of its own, so only the text can be matched.
pub(super) fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

pub(super) fn failure(error: sled::Error) -> StoreError {
    match error {
        // sled reads a page beyond the end of its file: the file was truncated.
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged("a page of the sled log lies beyond the end of its file".into())
        }
        sled::Error::Io(error) => io_error("sled", &error),
        sled::Error::Corruption { at, .. } => StoreError::Damaged(format!("a page of the sled log (at {at:?})")),
        other => StoreError::Unavailable(other.to_string()),
    }
}
