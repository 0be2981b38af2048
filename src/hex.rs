//! Hexadecimal digits.

#![warn(missing_docs)]

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Decodes hex digits of either case. Returns `None` if `text` is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}
