//! Rules that reads and writes must satisfy beyond those of the database itself.

pub mod access;
pub(crate) mod account_rules;
pub mod authorization;
pub(crate) mod change_counters;
pub mod confirmed;
pub mod database_security;
pub mod document_write;
pub mod password_upgrade;
pub mod per_user_database;
pub mod replication_access;
pub mod replications;
pub(crate) mod replicator_rules;
pub mod users_database;
pub mod visibility;
pub mod write_error;
