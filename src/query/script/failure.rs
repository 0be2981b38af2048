//! Converts failures of scripts to the server's errors.

use std::borrow::Cow;

use crate::error::Error;

/// CouchDB's error for a script that exceeds its time.
pub(super) fn timed_out() -> Error {
    Error::Script { word: "os_process_error".into(), reason: "OS process timed out.".into() }
}

/// CouchDB's error if no script process becomes free in time.
pub(super) fn no_room() -> Error {
    let reason = "The request could not be processed in a reasonable amount of time.";
    Error::Script { word: "timeout".into(), reason: reason.into() }
}

/// Converts the sandbox's `[word, reason, fatal]`, as JSON, to an error.
pub(super) fn failure(told: &str) -> Error {
    let (word, reason, _): (String, serde_json::Value, bool) = serde_json::from_str(&mend(told))
        .unwrap_or_else(|_| ("internal_error".into(), serde_json::Value::String("error cannot be shown".into()), true));
    thrown(word, reason)
}

/// Converts an error word and its reason, which a script may choose. As in CouchDB, the reason of `forbidden` and
/// `unauthorized` stays the value that was thrown.
fn thrown(word: String, reason: serde_json::Value) -> Error {
    match (word.as_str(), reason) {
        (_, serde_json::Value::String(text)) => worded(word, text),
        ("forbidden", reason) => Error::Thrown { word: "forbidden", reason },
        ("unauthorized", reason) => Error::Thrown { word: "unauthorized", reason },
        (_, other) => worded(word, other.to_string()),
    }
}

/// Converts an error word, which a script may choose, as CouchDB does.
pub(super) fn worded(word: String, reason: String) -> Error {
    match word.as_str() {
        "not_found" => Error::NotFound(reason),
        "forbidden" => Error::Forbidden(reason),
        "unauthorized" => Error::Unauthorized(reason),
        "bad_request" => Error::BadRequest(reason),
        "query_parse_error" => Error::QueryParse(reason),
        "conflict" => Error::Conflict,
        _ => Error::Script { word, reason },
    }
}

/// Replaces unpaired surrogates in the engine's JSON text by U+FFFD: JavaScript strings may contain them,
/// UTF-8 may not. `JSON.stringify` writes `\ud8..` to `\udf..` only for unpaired surrogates. (CouchDB:
/// `couch_query_servers:force_utf8`.)
pub(super) fn mend(json: &str) -> Cow<'_, str> {
    if !json.contains("\\ud") {
        return Cow::Borrowed(json);
    }
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len());
    let (mut from, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        let start = at + found;
        let half = matches!(bytes.get(start + 1..start + 6), Some([b'u', b'd', b'8'..=b'9' | b'a'..=b'f', one, two])
            if one.is_ascii_hexdigit() && two.is_ascii_hexdigit());
        if half {
            out.push_str(&json[from..start]);
            out.push('\u{FFFD}');
            from = start + 6;
            at = from;
        } else {
            at = start + 2;
        }
    }
    out.push_str(&json[from..]);
    Cow::Owned(out)
}

/// Converts what `validate_doc_update` threw, `{"thrown": ...}`, to an error as CouchDB does
/// (`couch_query_servers:validate_doc_update`).
pub(super) fn rejected(answer: &str) -> Error {
    #[derive(serde::Deserialize)]
    struct Thrown {
        #[serde(default)]
        thrown: serde_json::Value,
    }
    let value = serde_json::from_str::<Thrown>(&mend(answer)).map(|answer| answer.thrown).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let serde_json::Value::Object(members) = &value {
        for word in ["forbidden", "unauthorized"] {
            if let Some(reason) = members.get(word) {
                return thrown(word.into(), reason.clone());
            }
        }
        if let (Some(word), Some(reason)) = (members.get("error"), members.get("reason")) {
            return thrown(text(word), reason.clone());
        }
        if let Some((_, reason)) = members.iter().next().filter(|_| members.len() == 1) {
            return Error::Script { word: "unknown_error".into(), reason: text(reason) };
        }
    }
    Error::Script { word: "unknown_error".into(), reason: text(&value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpaired_surrogates_are_replaced() {
        assert_eq!(mend(r#""a\ud83d-\\ud83d\udca5\u0001""#), "\"a\u{FFFD}-\\\\ud83d\u{FFFD}\\u0001\"");
        assert_eq!(mend(r#""plain""#), r#""plain""#);
        // A compromised worker may send text that no engine writes.
        for odd in ["\\ud8", "\\ud8é", "\\", "\\ud", "\\ud81g\\ud8"] {
            assert_eq!(mend(odd), odd);
        }
    }
}
