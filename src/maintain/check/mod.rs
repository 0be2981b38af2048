//! `settee check`: reads everything in a data folder and reports every inconsistency.
//!
//! Checks of each database:
//!
//! - every value matches its checksum and decodes, and every revision tree keeps its invariants;
//! - documents and sequence rows are one to one, each sequence row agrees with the document's record, and no
//!   sequence is above the database's last one;
//! - the stored counters equal the sums over the documents;
//! - every body that a revision tree refers to is stored and has the recorded length, and no other body is
//!   stored;
//! - every attachment is stored whole, matches its digest and has a reference, and every reference belongs to
//!   a body;
//! - purge requests and the index of their uuids agree.
//!
//! Checks of the whole folder: no database number is above the last assigned one, and entries belong only to
//! databases that have a name or are being removed. Nothing else may write to the folder during the check; [`check_live`]
//! checks a store that is in use.

mod database;
mod documents;
mod folder;
mod live;
mod state;

pub use self::folder::check;
pub use self::live::check_live;
pub use self::state::Checked;
