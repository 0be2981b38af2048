//! Resources of a database: itself, `_all_docs`, `_changes`, `_purge`, `_partition`.

pub(crate) mod all_docs;
mod all_docs_by_key;
mod all_docs_params;
mod all_docs_rows;
pub(crate) mod changes;
pub mod changes_filter;
mod changes_params;
pub(crate) mod database;
mod first_sync;
mod local_docs;
pub(crate) mod partition;
pub(crate) mod purge;
