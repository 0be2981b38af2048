//! Reads JSON text that is already valid, such as all text this server stores, without building a tree.
//!
//! Nothing here validates. Invalid JSON yields an unspecified result, but never a panic.
//!
//! Written by hand because serde_json validates again and allocates: queries read a few members of each of
//! many documents.

use std::borrow::Cow;
use std::ops::Range;

use super::escape::unescape;
use super::scan::Place;

/// A JSON string literal with its quotes. Escapes only what must be escaped, as CouchDB does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Appends the JSON string literal of `text` to `out`.
pub fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    let mut run = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[run..at]);
        run = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push_str("\\u00");
                out.push(DIGITS[(byte >> 4) as usize] as char);
                out.push(DIGITS[(byte & 15) as usize] as char);
            }
        }
    }
    out.push_str(&text[run..]);
    out.push('"');
}

/// The decoded text of a JSON string literal; `None` if the value is not a string.
pub fn string(value: &str) -> Option<Cow<'_, str>> {
    Some(unescape(value.strip_prefix('"')?.strip_suffix('"')?))
}

/// The members of an object, in order: decoded name and value text. Empty if the value is not an object.
pub fn members(object: &str) -> Members<'_> {
    Members { text: object, at: usize::from(object.starts_with('{')) }
}

/// The elements of an array, in order, as text. Empty if the value is not an array.
pub fn elements(array: &str) -> Elements<'_> {
    Elements { text: array, at: usize::from(array.starts_with('[')) }
}

/// The value text of the member `name` of an object.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    members(object).find(|(found, _)| found == name).map(|(_, value)| value)
}

/// Iterator of [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    text: &'a str,
    /// Position of the next member; 0 if the value is not an object.
    at: usize,
}

impl Members<'_> {
    /// The next member as positions in the text.
    pub(crate) fn next_place(&mut self) -> Option<Place> {
        let bytes = self.text.as_bytes();
        if self.at == 0 {
            return None;
        }
        let start = skip_separators(bytes, self.at);
        if bytes.get(start) != Some(&b'"') {
            return None;
        }
        let end = string_end(bytes, start);
        let value = skip_separators(bytes, end);
        self.at = value_end(bytes, value);
        let place = Place { name: start + 1..end - 1, value: value..self.at };
        (place.name.start <= place.name.end && !place.value.is_empty()).then_some(place)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.next_place()?;
        Some((unescape(slice(self.text, place.name)), slice(self.text, place.value)))
    }
}

/// Iterator of [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    text: &'a str,
    /// Position of the next element; 0 if the value is not an array.
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.at == 0 {
            return None;
        }
        let bytes = self.text.as_bytes();
        let start = skip_separators(bytes, self.at);
        self.at = value_end(bytes, start);
        (start < self.at).then(|| slice(self.text, start..self.at))
    }
}

fn slice(text: &str, range: Range<usize>) -> &str {
    text.get(range).unwrap_or_default()
}

/// The position of the next byte that is neither white space nor between values.
pub(crate) fn skip_separators(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b',' | b':' | b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The position after the closing quote of the string that opens at `at`, or the end of the text.
pub(crate) fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of the value that starts at `at`; `at` itself if there is no value.
pub(crate) fn value_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at;
    let mut depth = 0usize;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => end = string_end(bytes, end),
            b'{' | b'[' => {
                depth += 1;
                end += 1;
                continue;
            }
            b'}' | b']' if depth == 0 => return end,
            b'}' | b']' => {
                depth -= 1;
                end += 1;
            }
            _ if depth > 0 => {
                end += 1;
                continue;
            }
            _ => {
                while bytes
                    .get(end)
                    .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                {
                    end += 1;
                }
            }
        }
        if depth == 0 {
            return end;
        }
    }
    end
}

#[cfg(test)]
mod tests;
