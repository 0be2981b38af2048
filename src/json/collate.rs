//! Encodes view keys as bytes: the memcmp order of the encoded keys is CouchDB's view collation.
//!
//! ```text
//! null < false < true < numbers < strings < arrays < objects
//! ```
//!
//! (<https://docs.couchdb.org/en/stable/ddocs/views/collation.html>, `couch_ejson_compare.erl`.) Numbers are
//! ordered by value, strings by Unicode's root collation, arrays by their elements, objects by their members
//! in the order in which they were written; a prefix comes before the longer value. No key is a prefix of
//! another, so whatever follows a key (such as the document id) only matters between equal keys. Values that
//! CouchDB considers equal, such as `1` and `1.0`, or `"a"` and `"a\u200b"`, have the same key.
//!
//! Only the encoding is written by hand, because no crate has CouchDB's order of JSON values; the sort keys of
//! strings are those of `icu_collator`.
//!
//! A key is written in one pass over the value's text, without recursion:
//!
//! ```text
//! null, false, true     a tag
//! number                a tag for the sign, exponent and digits in base 100; all inverted if negative
//! string                a tag, the collator's sort key (which contains no 0), 0
//! array                 a tag, the keys of the elements, 0
//! object                a tag, the keys of the names and values alternating, 0
//! ```

use std::cmp::Ordering;

use icu_collator::CollatorBorrowed;
use icu_collator::options::CollatorOptions;

use super::escape::unescape;

/// Version of the key encoding. Raise it whenever keys change, through the collator's data or algorithm or
/// through the encoding here: keys stored under another version cannot be compared with new ones.
pub const COLLATION_VERSION: u32 = 1;

/// The sort key of a compact JSON value in view order. Invalid JSON yields an unspecified key.
pub fn sort_key(value: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(value.len() * 2 + 8);
    write(value, &VIEW, &mut key);
    key
}

/// The sort key in the order of views with `"options": {"collation": "raw"}`, the order of Erlang terms:
/// numbers < false < null < true < objects < arrays < strings, and strings by their bytes.
pub fn raw_sort_key(value: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(value.len() + 8);
    write(value, &RAW, &mut key);
    key
}

/// Compares two compact JSON values in view order.
pub fn compare(a: &str, b: &str) -> Ordering {
    if a == b { Ordering::Equal } else { sort_key(a).cmp(&sort_key(b)) }
}

/// Compares two strings in view order.
pub fn compare_strings(a: &str, b: &str) -> Ordering {
    COLLATOR.compare(a, b)
}

/// The collator that CouchDB opens with `ucol_open("")`: root locale, tertiary strength, no character
/// ignored. `new_root` leaves the tables of all other locales (0.7 MB) out of the binary.
static COLLATOR: CollatorBorrowed<'static> = CollatorBorrowed::new_root(CollatorOptions::default());

/// The tag of each kind of value. None is 0, because 0 ends arrays and objects.
struct Tags {
    null: u8,
    no: u8,
    yes: u8,
    /// Negative numbers; the next two values are zero and positive numbers.
    negative: u8,
    string: u8,
    array: u8,
    object: u8,
    /// Whether strings are ordered by the collator instead of by bytes.
    collated: bool,
}

const VIEW: Tags =
    Tags { null: 0x10, no: 0x20, yes: 0x30, negative: 0x40, string: 0x50, array: 0x60, object: 0x70, collated: true };
const RAW: Tags =
    Tags { negative: 0x10, no: 0x20, null: 0x30, yes: 0x40, object: 0x50, array: 0x60, string: 0x70, collated: false };
const END: u8 = 0;

fn write(value: &str, tags: &Tags, key: &mut Vec<u8>) {
    let bytes = value.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'n' | b't' | b'f' => {
                key.push(match byte {
                    b'n' => tags.null,
                    b't' => tags.yes,
                    _ => tags.no,
                });
                while bytes.get(at).is_some_and(u8::is_ascii_lowercase) {
                    at += 1;
                }
            }
            b'"' => {
                while let Some(&byte) = bytes.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                key.push(tags.string);
                string(&unescape(value.get(start + 1..at).unwrap_or_default()), tags.collated, key);
                at += 1;
            }
            b'[' => key.push(tags.array),
            b'{' => key.push(tags.object),
            b']' | b'}' => key.push(END),
            b'-' | b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
                    at += 1;
                }
                number(&value[start..at], tags.negative, key);
            }
            _ => {}
        }
    }
}

fn string(text: &str, collated: bool, key: &mut Vec<u8>) {
    if collated {
        let Ok(()) = COLLATOR.write_sort_key_to(text, key);
        key.push(END);
        return;
    }
    for byte in text.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
    key.extend([0, 1]);
}

/// The key of a number.
///
/// Writes every number as `0.d1d2d3... * 100^exponent` with `d1` above 0. A number with a fraction or an
/// exponent is first converted to a double, as in Erlang, and then to the shortest digits that identify it,
/// or to all its digits from 2^53 on, where not every integer is a double. This keeps the order right between
/// integers and floats.
fn number(text: &str, negative_tag: u8, key: &mut Vec<u8>) {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, text),
    };
    let float;
    let magnitude = if magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
        magnitude
    } else {
        let value: f64 = magnitude.parse().unwrap_or_default();
        float = if value >= (1u64 << 53) as f64 { format!("{value:.0}") } else { format!("{value:e}") };
        &float
    };
    let (mantissa, ten) = match magnitude.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().unwrap_or(0i64)),
        None => (magnitude, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).map(|digit| digit.wrapping_sub(b'0') % 10).collect();
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    if zeros == digits.len() {
        key.push(negative_tag + 1);
        return;
    }
    // The number is 0.digits * 10^point. If `point` is odd, a leading zero completes the first pair.
    let mut point = whole.len() as i64 + ten - zeros as i64;
    digits.drain(..zeros);
    if point.rem_euclid(2) == 1 {
        digits.insert(0, 0);
        point += 1;
    }
    let used = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
    let start = key.len() + 1;
    key.push(if negative { negative_tag } else { negative_tag + 2 });
    exponent(point / 2, key);
    key.extend(digits[..used].chunks(2).map(|pair| pair[0] * 10 + pair.get(1).copied().unwrap_or(0) + 1));
    key.push(END);
    if negative {
        key[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Writes one byte for a small exponent; otherwise a byte below or above all of those, and then eight bytes.
fn exponent(value: i64, key: &mut Vec<u8>) {
    match value {
        -120..=120 => key.push((value + 128) as u8),
        _ => {
            key.push(if value < 0 { 1 } else { 0xfe });
            key.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
