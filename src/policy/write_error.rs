//! Why a request's edits are refused as a whole.

use crate::app::rate_limits::TooMany;
use crate::error::Error;

/// The refusal of all edits of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// The client exceeds a rate limit.
    TooMany(TooMany),
    Failed(Error),
}

/// The result of writing the edits of a request.
pub type Result<T> = std::result::Result<T, WriteError>;

impl From<TooMany> for WriteError {
    fn from(refused: TooMany) -> WriteError {
        WriteError::TooMany(refused)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> WriteError {
        WriteError::Failed(error)
    }
}
