//! Recognizes an address at which no settee or CouchDB answers, and says so: an HTTP server of another kind, a proxy
//! without a server behind it, or nothing at all.

use std::fmt;

use http::StatusCode;
use serde_json::Value;

use crate::net::http_client::HttpError;

/// The most characters of another server's text in a message.
const MOST: usize = 80;

/// A request, and what a server has answered.
pub struct Heard<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub status: u16,
    /// Its header `Server`.
    pub server: Option<&'a str>,
    /// Where a redirect leads.
    pub location: Option<&'a str>,
    pub body: &'a [u8],
}

/// Another server's text for a message: on one line, without the control characters that a terminal obeys.
pub fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The beginning of such a text.
pub fn shown(text: &str) -> String {
    let text = plain(text);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Whether a body is an error of settee or CouchDB: an object with the texts `error` and `reason`.
pub fn is_error(body: &Value) -> bool {
    body["error"].is_string() && body["reason"].is_string()
}

/// Says that a server is neither settee nor CouchDB, what it has answered, and what to check. `place`: `at http://host`,
/// or `there` in a sentence that names the address before.
pub fn another_answers(place: &str, heard: &Heard<'_>) -> String {
    format!("what answers {place} is neither settee nor CouchDB.\nIt answers {heard}.\n{}", advice(heard))
}

/// Says that something else has answered a request to the server at `url`, which has answered others.
pub fn proxy_answers(url: &str, heard: &Heard<'_>) -> String {
    format!("not the server at {url}, but a proxy before it answers {heard}")
}

/// The request and the answer, as `GET / with 404 Not Found, Server: nginx, and the body ...`.
impl fmt::Display for Heard<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} with {}", self.method, self.path, self.status)?;
        if let Some(reason) = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason()) {
            write!(out, " {reason}")?;
        }
        match self.server {
            Some(name) => write!(out, ", Server: {}", shown(name))?,
            None => write!(out, ", no header Server")?,
        }
        match shown(&String::from_utf8_lossy(&self.body[..self.body.len().min(4 * MOST)])) {
            empty if empty.is_empty() => write!(out, ", and an empty body"),
            text => write!(out, ", and the body `{text}`"),
        }
    }
}

/// What to check.
fn advice(heard: &Heard<'_>) -> String {
    match (heard.status, heard.location) {
        (300..=399, Some(location)) => {
            format!("It redirects to {}, which is not followed: give the address where the server is.", shown(location))
        }
        (502..=504, _) => "That is how a proxy answers that does not reach its server: check that settee runs, and \
                           where the proxy passes requests to."
            .into(),
        _ => {
            "Check the address: its host, its port and its path. By default, settee listens on port 5984. Behind a proxy, \
             check that it passes every path to settee."
                .into()
        }
    }
}

/// Says that there is no answer from `address`, and what to check.
pub fn nothing_answers(address: &str, error: &HttpError) -> String {
    match error {
        HttpError::Connect(cause) if cause.contains("Connection refused") => nothing_listens(&format!("at {address}")),
        HttpError::Connect(cause) => format!(
            "there is no connection to {address}: {}. Check that the server runs, and the address: https or http, host \
             and port",
            plain(cause)
        ),
        HttpError::Broken(cause) => format!(
            "what answers at {address} does not answer as an HTTP server does: {}. Check the address: https or http, host \
             and port",
            plain(cause)
        ),
        HttpError::Url(_)
        | HttpError::Refused(_)
        | HttpError::TimedOut(_)
        | HttpError::TooLarge(_)
        | HttpError::Status(_) => format!("{address}: {error}"),
    }
}

/// Says that nobody listens. `place`: as for [`another_answers`].
pub fn nothing_listens(place: &str) -> String {
    format!("nothing listens {place} (connection refused). Check that the server runs, and the address: host and port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_another_server_is_shown_short_and_without_control_characters() {
        assert_eq!(shown("a\u{1b}[2J b\r\n\tc"), "a [2J b c");
        assert_eq!(shown(&"ä".repeat(MOST)), "ä".repeat(MOST));
        assert_eq!(shown(&"ä".repeat(MOST + 1)), format!("{}...", "ä".repeat(MOST)));
    }

    #[test]
    fn only_an_object_with_error_and_reason_is_an_error_of_couchdb() {
        for (body, wanted) in [
            (r#"{"error":"not_found","reason":"missing"}"#, true),
            (r#"{"error":"Not Found","status":404}"#, false),
            (r#"{"error":{"reason":"x"},"reason":"y"}"#, false),
            (r#""error""#, false),
            ("null", false),
        ] {
            assert_eq!(is_error(&serde_json::from_str(body).unwrap()), wanted, "{body}");
        }
    }

    #[test]
    fn the_advice_is_that_of_the_answer() {
        let heard =
            |status, location| Heard { method: "GET", path: "/", status, server: Some("x"), location, body: b"" };
        for (status, location, says) in [
            (404, None, "404 Not Found, Server: x, and an empty body.\nCheck the address"),
            (302, Some("https://a/"), "It redirects to https://a/"),
            (502, None, "how a proxy answers"),
            (599, None, "with 599, Server: x"),
        ] {
            let said = another_answers("there", &heard(status, location));
            assert!(said.contains(says), "{said}");
        }
    }
}
