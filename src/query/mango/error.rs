//! Mango errors.

use crate::error::Error;

/// A Mango error with CouchDB's error word.
pub(crate) fn mango(word: &'static str, reason: impl Into<String>) -> Error {
    Error::Mango { word, reason: reason.into() }
}
