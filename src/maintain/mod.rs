//! Work on a whole data folder: checking it, backing it up, restoring it, and keeping it tidy in the background.
//!
//! Stands above `db`, whose records it reads, and beside `query` and `auth`, of which it knows nothing.

pub mod archive;
pub mod background;
mod backup;
mod bar;
mod bulk_writes;
mod check;
pub mod commands;
pub mod control;
mod restore;
pub mod salvage;
mod survey;
mod sweep;
mod walk;

#[cfg(test)]
mod tests;

pub use backup::backup;
pub use check::{Checked, check};
pub use restore::{Restored, restore};
pub use sweep::sweep;

/// How far a long work has come: the database at hand, and the documents that are done in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    pub what: &'a str,
    pub done: u64,
}

/// Hears of progress.
pub type Hear<'a> = &'a mut dyn FnMut(Progress<'_>);
