//! The rows of an index, page by page.

use serde_json::Value;

use crate::db::record::LeafRow;
use crate::error::Result;

/// A row of an index.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    /// The values of the index's fields; empty for `_all_docs`.
    pub key: Vec<Value>,
    /// The document's winner, where the index has it.
    pub winner: Option<LeafRow>,
}

/// An index being read in the order of a query. Calls block on the store.
pub trait Rows: Send {
    /// The next rows, about `most`; a page may be empty and not the last. `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<Vec<Row>>>;
}
