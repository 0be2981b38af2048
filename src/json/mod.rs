//! JSON text: scans and compacts it, walks its members, and collates view keys.

#![warn(missing_docs)]

mod collate;
pub mod escape;
pub(crate) mod scan;
pub(crate) mod text;
mod value;

pub use self::collate::{COLLATION_VERSION, compare, compare_strings, raw_sort_key, sort_key};
pub use self::text::{Elements, Members, elements, member, members, push_quoted, quote, string};
pub use self::value::{read, within_reach};
