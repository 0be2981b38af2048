//! Checks of JSON text before it is parsed: its depth, and how many values it has.

use crate::http::response::error::Failure;

/// CouchDB's answer to a body that is no JSON.
pub fn invalid_json() -> Failure {
    Failure::bad_request("invalid UTF-8 JSON")
}

/// Whether arrays and objects nest deeper than `most`. Strings are skipped; the text need not be valid.
pub fn too_deep(text: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Approximate memory of a value in addition to its text: its name, and the parsed value.
pub const VALUE: usize = 160;

/// How many values JSON text has, about.
pub fn values(text: &[u8]) -> usize {
    let (mut count, mut at) = (1, 0);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b',' | b'[' | b'{' => count += 1,
            b'"' => {
                while let Some(end) = memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
                    at += end + 1;
                    if text[at - 1] == b'"' {
                        break;
                    }
                    at += 1;
                }
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_strings() {
        for (text, count) in [("1", 1), ("[]", 2), ("[1,2,3]", 4), (r#"{"a,[":",\",[","b":[{}]}"#, 5), (r#"["\"#, 2)] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn depth_counts_outside_strings() {
        assert!(!too_deep(br#"{"a":"[[[[[[","b":[1]}"#, 2));
        assert!(!too_deep(br#"["\"[[[["]"#, 1));
        assert!(too_deep(b"[[[", 2));
        assert!(!too_deep(b"[][][][]", 1));
    }
}
