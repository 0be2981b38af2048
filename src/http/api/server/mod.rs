//! Resources of the server: root, `_node`, `_config`, `_db_updates`, `_cluster_setup`.

pub mod cluster_setup;
pub mod config;
pub(crate) mod db_updates;
pub mod node;
pub mod root;
