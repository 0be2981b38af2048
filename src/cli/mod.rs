//! The command line: arguments, settings sources and offline commands.

pub mod args;
pub mod health;
pub mod offline;
pub(crate) mod progress_bar;
pub mod sources;
