//! The embedded stores: sled and redb behind one committer, in one data folder.

pub(crate) mod backend;
pub(crate) mod committer;
pub(crate) mod data_folder;
#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod fill;
pub(crate) mod frame;
pub(crate) mod mark;
pub(crate) mod redb;
pub(crate) mod rewrite;
mod rewrite_in_use;
pub(crate) mod sled;
pub(crate) mod tally;

pub use self::data_folder::salvage;
