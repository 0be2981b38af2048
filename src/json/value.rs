//! Documents as values, for readers that compare: `serde_json` takes no number beyond a double and does not nest deeper than
//! 128, both of which a document may (CouchDB takes integers of any size, and nests as deep as it has memory).

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::text::{string_end, value_end};

/// What stands below here is read as `null`: no field's name leads there.
const DEEPEST: usize = 120;
/// Shorter numbers are within a double's range, or no numbers of ours.
const LONG: usize = 300;

/// Reads text that was stored as a document, or made of one. An integer beyond a double is the largest double, which stands
/// where it does in the order of views but for others like it; what nests too deep is `null`.
///
/// # Errors
/// The text is no JSON, or not of this type.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(first) => match within_reach(text) {
            Cow::Borrowed(_) => Err(first),
            Cow::Owned(text) => serde_json::from_str(&text),
        },
    }
}

/// JSON text with what `serde_json` cannot read replaced; borrowed if there is nothing.
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
    fn what_serde_reads_is_left_alone() {
        for text in [r#"{"a":[1,-2.5e3,"[[[1e999\"",null,true]}"#, "[]", "0.1", r#""x""#, &"1".repeat(308)] {
            assert!(matches!(within_reach(text), Cow::Borrowed(_)), "{text}");
        }
        let long_and_small = format!("[{}e-290]", "1".repeat(305));
        assert!(matches!(within_reach(&long_and_small), Cow::Borrowed(_)));
    }

    #[test]
    fn large_integers_are_the_largest_doubles() {
        let digits = "9".repeat(400);
        let text = format!(r#"{{"a":{digits},"b":[-{digits}],"c":"{digits}"}}"#);
        assert_eq!(read::<Value>(&text).unwrap(), json!({"a": f64::MAX, "b": [f64::MIN], "c": digits}));
    }

    #[test]
    fn what_nests_too_deep_is_null() {
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
    fn what_is_no_json_stays_none() {
        for text in ["", "{", "[1,]", "1e", r#"{"a"}"#, "]]"] {
            assert!(read::<Value>(text).is_err(), "{text}");
        }
    }
}
