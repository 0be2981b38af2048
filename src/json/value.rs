//! Parses documents into values, for callers that compare them. `serde_json` rejects numbers beyond a double
//! and nesting deeper than 128; a document may have both (CouchDB accepts integers of any size and nests as
//! deep as memory allows).

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::text::{string_end, value_end};

/// Values nested deeper than this are read as `null`. No field path is this long.
const DEEPEST: usize = 120;
/// A number of at most this many bytes is in the range of a double, or was rejected on input.
const LONG: usize = 300;

/// Parses text that was stored as a document or derived from one. An integer beyond the range of a double
/// becomes the largest double, which keeps its place in view order except among other such integers. Values
/// nested too deeply become `null`.
///
/// # Errors
/// The text is not JSON, or not of this type.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(first) => match within_reach(text) {
            Cow::Borrowed(_) => Err(first),
            Cow::Owned(text) => serde_json::from_str(&text),
        },
    }
}

/// Replaces what `serde_json` cannot read; returns the text borrowed if there is nothing to replace.
pub fn within_reach(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let (mut at, mut run, mut depth) = (0, 0, 0);
    while let Some(byte) = bytes.get(at) {
        let start = at;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' => {
                depth += 1;
                at += 1;
                if depth > DEEPEST {
                    at = value_end(bytes, start);
                    depth -= 1;
                    out.push_str(&text[run..start]);
                    out.push_str("null");
                    run = at;
                }
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte)) {
                    at += 1;
                }
                if at - start > LONG && text[start..at].parse::<f64>().is_ok_and(f64::is_infinite) {
                    out.push_str(&text[run..start]);
                    out.push_str(if *byte == b'-' { "-1.7976931348623157e308" } else { "1.7976931348623157e308" });
                    run = at;
                }
            }
            _ => at += 1,
        }
    }
    if run == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[run.min(text.len())..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn text_that_serde_json_reads_is_unchanged() {
        for text in [r#"{"a":[1,-2.5e3,"[[[1e999\"",null,true]}"#, "[]", "0.1", r#""x""#, &"1".repeat(308)] {
            assert!(matches!(within_reach(text), Cow::Borrowed(_)), "{text}");
        }
        let long_and_small = format!("[{}e-290]", "1".repeat(305));
        assert!(matches!(within_reach(&long_and_small), Cow::Borrowed(_)));
    }

    #[test]
    fn huge_integers_become_the_largest_double() {
        let digits = "9".repeat(400);
        let text = format!(r#"{{"a":{digits},"b":[-{digits}],"c":"{digits}"}}"#);
        assert_eq!(read::<Value>(&text).unwrap(), json!({"a": f64::MAX, "b": [f64::MIN], "c": digits}));
    }

    #[test]
    fn values_nested_too_deep_become_null() {
        let text = format!(r#"{{"a":{}1{},"b":"x]"}}"#, r#"["]","#.repeat(400), "]".repeat(400));
        let value: Value = read(&text).unwrap();
        assert_eq!(value["b"], "x]");
        let mut inner = &value["a"];
        let mut depth = 0;
        while let Some(next) = inner.get(1) {
            (inner, depth) = (next, depth + 1);
        }
        assert_eq!((inner, depth), (&Value::Null, DEEPEST - 1));
    }

    #[test]
    fn invalid_json_is_still_rejected() {
        for text in ["", "{", "[1,]", "1e", r#"{"a"}"#, "]]"] {
            assert!(read::<Value>(text).is_err(), "{text}");
        }
    }
}
