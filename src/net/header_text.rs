//! The text of header values. Clients send bytes beyond ASCII: UTF-8, as browsers and node do, or Latin-1, in which HTTP
//! was once defined. `HeaderValue::to_str` refuses both, so that one such byte would hide a whole header.

use http::header::{self, HeaderMap, HeaderValue};

/// The text of a value; `None` if it is not UTF-8.
pub fn header_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// Converts the values that are not UTF-8 from Latin-1, in which every byte is a character, so that
/// [`header_text`] reads all of them. `Destination` stays as it is: it is percent-encoded, and becomes the id
/// of a document.
pub fn decode_latin_1(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if name != header::HeaderName::from_static("destination") && header_text(value).is_none() {
            let text: String = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
            if let Ok(decoded) = HeaderValue::from_str(&text) {
                *value = decoded;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_text() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", &b"plain"[..]), ("b", b"caf\xc3\xa9"), ("c", b"caf\xe9"), ("destination", b"\xfc")]
        {
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        }
        decode_latin_1(&mut headers);
        let text = |name: &str| header_text(&headers[name]);
        assert_eq!([text("a"), text("b"), text("c")], [Some("plain"), Some("café"), Some("café")]);
        assert_eq!(text("destination"), None);
    }
}
