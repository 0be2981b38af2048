//! The command line: arguments, settings sources, offline commands, commands of an admin.

pub mod admin_api;
pub mod administer;
pub mod args;
pub mod health;
pub mod ini;
pub mod livesync;
pub mod offline;
mod other_server;
pub(crate) mod progress_bar;
pub mod replicate;
mod secret_text;
mod serve_flags;
pub mod sources;
pub mod stores;
