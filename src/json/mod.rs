//! JSON input and output: splits documents into `_` members and body, and collates view keys.

#![warn(missing_docs)]

mod collate;
pub mod escape;
pub(crate) mod scan;
pub(crate) mod text;
mod value;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

pub use self::collate::{COLLATION_VERSION, compare, compare_strings, raw_sort_key, sort_key};
pub use self::text::{Elements, Members, elements, member, members, push_quoted, quote, string};
pub use self::value::{read, within_reach};
pub use crate::db::write::parse::{Limits, Split, Stub, StubFields, check_id, compact, split};
pub use crate::rev::unescape;

/// Decodes hex digits of either case. Returns `None` if `text` is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
