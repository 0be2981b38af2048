//! Resources of a database: itself, `_all_docs`, `_changes`.

pub(crate) mod all_docs;
pub(crate) mod changes;
pub mod changes_filter;
mod changes_params;
pub(crate) mod database;
