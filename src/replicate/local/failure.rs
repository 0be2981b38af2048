//! Errors of a database of this server as failures of a replication.

use crate::error::Error;
use crate::replicate::failure::Failure;

/// An error of the database `name`.
pub(super) fn failure(name: &str, error: Error) -> Failure {
    match error {
        Error::NoDatabase => Failure::DbNotFound(name.to_owned()),
        other => other.into(),
    }
}
