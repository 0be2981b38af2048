//! Work on a whole data folder: check, backup, restore, salvage, and background cleanup.
//!
//! Uses `db` and reads its records. Does not depend on `query` and `auth`.

pub mod archive;
pub mod background;
mod backup;
mod bulk_writes;
mod check;
pub mod control;
mod restore;
pub mod salvage;
pub(crate) mod survey;
mod sweep;
mod walk;

pub use self::backup::backup;
pub use self::check::{Checked, check};
pub use self::restore::{Restored, restore};
pub use self::sweep::sweep;

/// Progress of a long task: the database being processed, and the number of documents processed in all
/// databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    pub what: &'a str,
    pub done: u64,
}

/// Callback that receives the progress.
pub type Hear<'a> = &'a mut dyn FnMut(Progress<'_>);

#[cfg(test)]
mod tests;
