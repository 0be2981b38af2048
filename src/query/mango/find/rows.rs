//! Reads the rows of an index in pages.

use serde_json::Value;

use crate::db::record::LeafRow;
use crate::error::Result;

/// A row of an index.
#[derive(Debug, Clone)]
pub struct Row {
    /// The document's id.
    pub id: String,
    /// The values of the index's fields; empty for `_all_docs`.
    pub key: Vec<Value>,
    /// The document's winner, if the index stores it.
    pub winner: Option<LeafRow>,
}

/// A scan of an index in the order of a query. Calls block on the store.
pub trait Rows: Send {
    /// The next rows, about `most`. A page may be empty without being the last. Returns `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<Vec<Row>>>;
}
