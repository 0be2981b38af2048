//! Paths, and texts of other servers in errors.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What stays as it is in a path segment and in the value of a parameter.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The most characters of another server's text in an error.
const MOST: usize = 200;

/// The path of a document below its database.
pub(super) fn document_path(id: &str) -> String {
    match id {
        // Proxies resolve these segments.
        "." => "/%2E".into(),
        ".." => "/%2E%2E".into(),
        _ => match id.strip_prefix("_design/") {
            Some(rest) => format!("/_design/{}", encode(rest)),
            None => format!("/{}", encode(id)),
        },
    }
}

/// Percent-encodes a path segment or a parameter.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Another server's text for an error: short and on one line.
pub(super) fn shown(text: &str) -> String {
    let one_line = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut shown: String = one_line.take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The error that an answer's body names: `error: reason`.
pub(super) fn reason_of(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(body) => {
            let of = |name: &str| text_of(body.get(name));
            shown(&format!("{}: {}", of("error"), of("reason")))
        }
        Err(_) => "no JSON".into(),
    }
}

/// A member of an error as text. The reason is any value that a validation function has thrown.
pub(super) fn text_of(member: Option<&Value>) -> String {
    match member {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// Whether a body is an error of a database server: a JSON object with `error`. A proxy or firewall before it answers
/// with statuses of its own, and says nothing of the document.
pub(super) fn is_error(body: &[u8]) -> bool {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    body.is_some_and(|body| body.get("error").and_then(Value::as_str).is_some_and(|error| !error.is_empty()))
}

/// Whether a body says that a write is done: `{"ok": true, ...}`, or `[]` of a PouchDB Server. A sign-in page with
/// status 200 is none.
pub(super) fn is_done(body: &[u8]) -> bool {
    match serde_json::from_slice(body) {
        Ok(Value::Object(body)) => body.get("ok") == Some(&Value::Bool(true)),
        Ok(Value::Array(rows)) => rows.is_empty(),
        Ok(_) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_one_path_segment() {
        for (id, path) in [
            ("a", "/a"),
            ("a/b?c#d%", "/a%2Fb%3Fc%23d%25"),
            ("_design/a/b", "/_design/a%2Fb"),
            ("ä b", "/%C3%A4%20b"),
            (".", "/%2E"),
            ("..", "/%2E%2E"),
            ("..a", "/..a"),
        ] {
            assert_eq!(document_path(id), path);
        }
    }

    #[test]
    fn texts_of_others_are_short_and_on_one_line() {
        assert_eq!(shown("a\r\nb\u{1b}[31m"), "a  b [31m");
        assert_eq!(shown(&"x".repeat(300)).len(), MOST + 3);
        assert_eq!(reason_of(br#"{"error":"not_found","reason":"missing"}"#), "not_found: missing");
        assert_eq!(reason_of(br#"{"error":"forbidden","reason":{"code":7}}"#), r#"forbidden: {"code":7}"#);
        assert_eq!(reason_of(br#"{"error":"bad_request"}"#), "bad_request: ");
        assert_eq!(reason_of(b"<html>"), "no JSON");
    }

    #[test]
    fn a_write_is_done_if_a_database_server_says_so() {
        for done in [r#"{"ok":true,"id":"a","rev":"1-b"}"#, "[]"] {
            assert!(is_done(done.as_bytes()), "{done}");
        }
        for other in ["", "<html>Sign in</html>", "{}", r#"{"ok":false}"#, r#"[{"error":"x"}]"#, "true", "null"] {
            assert!(!is_done(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn an_error_of_a_database_server_is_json_with_its_word() {
        assert!(is_error(br#"{"error":"forbidden","reason":"no"}"#));
        assert!(is_error(br#"{"error":"bad_request"}"#));
        for other in
            ["", "<html>400 Bad Request</html>", "{}", "[]", r#""error""#, r#"{"error":""}"#, r#"{"error":400}"#]
        {
            assert!(!is_error(other.as_bytes()), "{other}");
        }
    }
}
