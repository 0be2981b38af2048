//! Resources of the server: root, `_all_dbs`, `_node`, `_config`, `_db_updates`, `_cluster_setup`, `_replicate`, `_scheduler`.

pub(crate) mod all_dbs;
pub mod cluster_setup;
pub mod config;
mod counter;
pub(crate) mod db_updates;
pub mod node;
pub mod replicate;
mod replication_counters;
pub mod root;
pub mod scheduler;
