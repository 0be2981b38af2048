//! Halves of surrogate pairs in JSON. JavaScript cuts a string within a pair (`title.slice(0, 10)`), stores it, and sends the
//! half as an escape; no Rust string can hold it. No document with a half is ever written, as in CouchDB, but PouchDB asks for such
//! ids in `_revs_diff` before it sends the document, and an error there would stop the replication forever.
//!
//! A half is therefore replaced by a mark that stands for it, and the mark in the answer by the half.

use std::borrow::Cow;

/// The begin of a mark; the four digits of the half follow. No character of any language.
const MARK: char = '\u{10FFFF}';

/// Replaces the halves in JSON text by marks.
pub fn mark(text: &str) -> Cow<'_, str> {
    let mut marked = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &text.as_bytes()[at..]) {
        at += found;
        let end = match (unit(text, at), unit(text, at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => at + 12,
            (Some(0xd800..0xe000), _) => {
                marked.push_str(&text[copied..at]);
                marked.push(MARK);
                copied = at + 2;
                at + 6
            }
            _ => at + 2,
        };
        at = end.min(text.len());
    }
    match copied {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(marked + &text[copied..]),
    }
}

/// Replaces the marks in JSON text by the halves that they stand for.
pub fn unmark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(MARK);
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.as_bytes().first_chunk::<4>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            true => out.push_str("\\u"),
            false => out.push(MARK),
        }
        out.push_str(part);
    }
    out
}

/// The value of the escape `\uXXXX` at this place.
fn unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_survive_and_pairs_are_not_touched() {
        for text in [
            r#"{"a\ud83d":["1-a"]}"#,
            r#"{"\ude00":[],"\ud83d\ud83d\ude00":[]}"#,
            r#"{"\ude00\ud83d":1}"#,
            r#""\uD83D""#,
        ] {
            let marked = mark(text);
            assert!(serde_json::from_str::<serde_json::Value>(&marked).is_ok(), "{marked}");
            assert_eq!(unmark(&marked), text);
        }
        for text in ["{}", r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\"\u0041\n""#, "\"\\", "\"\\ud8", "\"\\ud8é", "é\\"]
        {
            assert_eq!(mark(text), text);
        }
    }
}
