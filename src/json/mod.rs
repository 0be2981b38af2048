//! JSON input and output: splits documents into `_` members and body, and collates view keys.

#![warn(missing_docs)]

mod collate;
pub mod escape;
pub(crate) mod scan;
pub(crate) mod text;
mod value;

pub use self::collate::{COLLATION_VERSION, compare, compare_strings, raw_sort_key, sort_key};
pub use self::text::{Elements, Members, elements, member, members, push_quoted, quote, string};
pub use self::value::{read, within_reach};
pub use crate::db::write::parse::{Limits, Split, Stub, StubFields, check_id, compact, split};
pub use crate::rev::unescape;

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[(byte >> 4) as usize] as char, DIGITS[(byte & 15) as usize] as char]).collect()
}
