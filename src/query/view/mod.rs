//! JavaScript views: what a design document defines, its index in the store, and reading it.
//!
//! ```text
//! definition   a design document's views, and the signature that names their index
//! layout       keys and values of an index in the store
//! build        brings an index up to the database's sequence: changes > map functions > rows
//! ahead        what is mapped ahead of the writer      piece     what is written with one commit
//! blocks       rows in blocks of some hundred, counted and reduced: kept while rows change
//! reduce       the reduce functions, ours and JavaScript ones
//! params       what a query asks, checked whole before anything runs
//! read         rows of a map query         grouped   rows of a reduce query
//! skipped      documents whose map functions overran time or memory
//! cleanup      indexes that no design document defines any more
//! ```
//!
//! One index serves all views of a design document, and all design documents that define the same. It is named by
//! a signature of everything that decides its rows, so a changed definition is another index, built from the start
//! while the old one waits for `_view_cleanup`; changing it back finds the old one again.

mod ahead;
mod blocks;
mod build;
mod cleanup;
mod definition;
mod grouped;
mod layout;
mod number;
mod params;
mod piece;
#[cfg(test)]
mod random;
mod read;
mod reduce;
mod row;
mod skipped;
#[cfg(test)]
mod tests;

pub use build::{Progress, Views};
pub use cleanup::clean_up;
pub use definition::{Definition, View};
pub use grouped::{Grouped, ReducedRow};
pub use layout::{Meta, Spots, beginning, behind, spot_of_row};
pub use params::{Grouping, Kind, Params, Plan, Update};
pub use read::{MapRows, Reading};
pub use reduce::Outcome;
pub use row::Row;
pub use skipped::{Skipped, SkippedDocument};
