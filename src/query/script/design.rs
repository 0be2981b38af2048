//! The callable parts of design documents: the map functions of a view index, and whole design documents.

use super::environments::Key;
use crate::error::{Error, Result};

/// The map functions of one view signature.
#[derive(Debug)]
pub struct MapSet {
    /// The database's internal number.
    pub database: u64,
    /// Changes whenever `functions` or `lib` change.
    pub signature: String,
    /// Sources of the map functions.
    pub functions: Vec<String>,
    /// `views.lib`, as JSON, for `require('views/lib/...')`.
    pub lib: Option<String>,
}

/// A design document whose functions can be called.
#[derive(Debug)]
pub struct Design {
    /// The database's internal number.
    pub database: u64,
    /// `_design/...`
    pub id: String,
    pub rev: String,
    /// The document as JSON, with `_id` and `_rev`.
    pub source: String,
    pub(super) language: String,
}

impl Design {
    /// Reads the language from `source`.
    ///
    /// # Errors
    /// `Damaged` if `source` is not the JSON of an object.
    pub fn new(database: u64, id: String, rev: String, source: String) -> Result<Design> {
        #[derive(serde::Deserialize)]
        struct Members {
            language: Option<serde_json::Value>,
        }
        let members: Members =
            serde_json::from_str(&source).map_err(|error| Error::Damaged(format!("design document {id}: {error}")))?;
        let language = match members.language {
            None | Some(serde_json::Value::Null) => "javascript".into(),
            Some(serde_json::Value::String(language)) => language,
            Some(other) => other.to_string(),
        };
        Ok(Design { database, id, rev, source, language })
    }

    pub fn language(&self) -> &str {
        &self.language
    }

    pub(super) fn key(&self, user: &str) -> Result<Key> {
        check_language(&self.language)?;
        Ok(Key::Design { id: self.id.clone(), rev: self.rev.clone(), user: user.into() })
    }
}

/// Rejects a design document language without a query server, as CouchDB does. (Views of the language
/// `query` need none.)
pub fn check_language(language: &str) -> Result<()> {
    if language == "javascript" {
        return Ok(());
    }
    Err(Error::Script { word: "unknown_query_language".into(), reason: language.into() })
}
