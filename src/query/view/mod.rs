//! JavaScript views: the definitions in design documents, their indexes in the store, and queries.
//!
//! ```text
//! definition   a design document's views, and the signature that names their index
//! layout       keys and values of an index in the store
//! views        the views of a server: cached definitions, build locks, queries
//! build        brings an index up to the database's sequence: changes > map functions > rows
//! reader       reads changes in steps      mapping   maps their documents
//! ahead        the steps that are mapped ahead of the writer
//! writer       writes mapped documents     piece     the part of a build that one commit writes
//! blocks       blocks of some hundred rows with their counts and reductions, kept while other rows change
//! reduce       the built-in and the JavaScript reduce functions      reducer   which of them a view names
//! params       query parameters, validated before anything runs
//! read         rows of a map query         grouped   rows of a reduce query
//! skipped      documents whose map functions exceeded their time or memory limit
//! ```
//!
//! One index serves all views of a design document, and all design documents with the same definition. A
//! signature of everything that determines the rows names the index. A changed definition is therefore built
//! as another index, while the old one stays until `_view_cleanup`; changing the definition back uses the old
//! index again.

mod ahead;
mod blocks;
mod build;
mod definition;
mod grouped;
pub mod index;
mod layout;
pub mod map_function;
mod mapping;
mod number;
mod params;
mod piece;
mod read;
mod reader;
mod reduce;
mod reducer;
mod row;
mod skipped;
mod uses;
mod views;
mod writer;

pub use self::definition::{Definition, View};
pub use self::grouped::{Grouped, ReducedRow};
pub use self::layout::{Meta, Spots, beginning, behind, spot_of_row};
pub use self::params::{Grouping, Kind, Params, Plan, Update};
pub use self::read::{MapRows, Reading};
pub use self::reduce::{Outcome, try_built_in};
pub use self::row::Row;
pub use self::skipped::{Skipped, SkippedDocument};
pub use self::views::Views;
pub use self::writer::Progress;

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
