//! Work on a whole data folder: check, backup, restore, salvage, and background cleanup.
//!
//! Uses `db` and reads its records. Does not depend on `query` and `auth`.

pub mod archive;
pub mod background;
mod backup;
pub mod backup_folder;
mod bulk_writes;
mod check;
pub mod control;
mod convert;
mod progress;
mod restore;
pub mod salvage;
pub(crate) mod survey;
mod sweep;
mod walk;

pub use self::backup::backup;
pub use self::check::{Checked, check, check_live};
pub use self::convert::{Converted, convert, renamed};
pub use self::progress::{Hear, Progress};
pub use self::restore::{Restored, restore};
pub use self::sweep::sweep;

#[cfg(test)]
mod tests;
