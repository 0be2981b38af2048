//! The parts of a multipart body.
//!
//! Written by hand because the multipart crates read forms (`multipart/form-data`). A related body has no names:
//! its parts belong to the attachments in the order of the JSON, and are nested in `open_revs` and `_bulk_get`.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::header_text::decode_latin_1;
use crate::clock::Clock;

/// Why a body is not multipart: one line, with what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// A random boundary, which no content can be expected to contain.
pub fn boundary(clock: &Clock) -> String {
    clock.uuid()
}

/// Makes untrusted text safe in a quoted value of a part's header: percent-encodes quotes, line breaks and
/// NUL.
pub(crate) fn header_safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\r' | '\n' | '\0' => safe.push_str(&format!("%{:02X}", character as u32)),
            other => safe.push(other),
        }
    }
    safe
}

/// The `boundary` parameter of a multipart `Content-Type`; an error if it is missing, empty or longer than 200
/// bytes.
pub fn boundary_of(content_type: &str) -> Result<String, Malformed> {
    parameter(content_type, "boundary")
        .filter(|boundary| !boundary.is_empty() && boundary.len() <= 200)
        .ok_or_else(|| Malformed("Missing boundary in multipart Content-Type".into()))
}

pub(crate) fn malformed(what: &str) -> Malformed {
    Malformed(format!("Malformed multipart body: {what}"))
}

/// Returns a parameter of a header value such as `multipart/related; boundary="x"`. Does not support escaped
/// quotes.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (key, after) = rest.split_once('=')?;
        let (text, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text.to_owned());
        }
        rest = next;
    }
}

/// A streaming parser for a multipart body: part by part, and the content of each part in chunks.
pub struct Parts<'a, B> {
    pub(crate) body: &'a mut B,
    /// `\r\n--boundary`
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: At,
}

#[derive(PartialEq, Clone, Copy)]
enum At {
    /// Before the first delimiter. The buffer initially holds a line break, so that the first delimiter
    /// matches like the others.
    Preamble,
    /// Inside a part's content.
    Content,
    /// Directly after a delimiter.
    Delimiter,
    End,
}

impl<'a, B: Chunks + Send> Parts<'a, B> {
    /// Creates a parser for a body with the given boundary.
    pub fn new(body: &'a mut B, boundary: &str) -> Parts<'a, B> {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Parts { body, delimiter, buffer: BytesMut::from(&b"\r\n"[..]), state: At::Preamble }
    }

    async fn more(&mut self) -> Result<(), B::Error> {
        match self.body.chunk().await? {
            Some(chunk) => {
                self.buffer.extend_from_slice(&chunk);
                Ok(())
            }
            None => Err(malformed("it ends before its last boundary").into()),
        }
    }

    /// Returns the headers of the next part, or `None` after the last part. Skips the unread rest of the
    /// current part.
    pub async fn next(&mut self) -> Result<Option<HeaderMap>, B::Error> {
        while matches!(self.state, At::Preamble | At::Content) {
            self.content().await?;
        }
        if self.state == At::End {
            return Ok(None);
        }
        while self.buffer.len() < 2 {
            self.more().await?;
        }
        if self.buffer.starts_with(b"--") {
            self.state = At::End;
            return Ok(None);
        }
        let end = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end,
                None if self.buffer.len() > MOST_HEADER_BYTES => {
                    return Err(malformed("a part's headers are too long").into());
                }
                None => self.more().await?,
            }
        };
        let head = self.buffer.split_to(end);
        self.buffer.advance(4);
        self.state = At::Content;
        Ok(Some(parse_headers(&head)?))
    }

    /// Returns the next chunk of the part's content, or `None` at its end.
    pub async fn content(&mut self) -> Result<Option<Bytes>, B::Error> {
        loop {
            if !matches!(self.state, At::Preamble | At::Content) {
                return Ok(None);
            }
            if let Some(at) = memchr::memmem::find(&self.buffer, &self.delimiter) {
                let content = self.buffer.split_to(at).freeze();
                self.buffer.advance(self.delimiter.len());
                self.state = At::Delimiter;
                return Ok(Some(content).filter(|content| !content.is_empty()));
            }
            // The last bytes may be the beginning of a delimiter; all before them is content.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.more().await?;
        }
    }

    /// Reads the body to its end, so that the connection can be reused.
    pub async fn finish(&mut self) -> Result<(), B::Error> {
        while self.next().await?.is_some() {}
        while self.body.chunk().await?.is_some() {}
        Ok(())
    }
}

impl<B: Chunks + Send> Chunks for Parts<'_, B> {
    type Error = B::Error;

    async fn chunk(&mut self) -> Result<Option<Bytes>, B::Error> {
        self.content().await
    }
}

/// Parses the headers of a part. Skips the first line, which is the rest of the delimiter line.
pub(crate) fn parse_headers(head: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let colon = memchr::memchr(b':', line).ok_or_else(|| malformed("a header without a colon"))?;
        let name = http::HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        match (name, value) {
            (Ok(name), Ok(value)) => headers.insert(name, value),
            _ => return Err(malformed("a part's header")),
        };
    }
    decode_latin_1(&mut headers);
    Ok(headers)
}

/// Maximum size of the headers of a part in bytes.
const MOST_HEADER_BYTES: usize = 16 << 10;

/// A source of an attachment's bytes: the body of a request or of an answer, or a part of a multipart body.
pub trait Chunks {
    /// Why there are no more bytes.
    type Error: From<Malformed> + Send;

    /// Returns the next bytes, or `None` at the end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<bytes::Bytes>, Self::Error>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (value, name, wanted) in [
            ("multipart/related; boundary=abc", "boundary", Some("abc")),
            ("multipart/related;boundary=\"a;b c\"; x=y", "boundary", Some("a;b c")),
            ("multipart/related; x=\"1\"; Boundary=abc", "boundary", Some("abc")),
            ("attachment; filename=\"f.txt\"", "filename", Some("f.txt")),
            ("multipart/related", "boundary", None),
            ("multipart/related; boundary=\"abc", "boundary", None),
            ("a; b", "c", None),
        ] {
            assert_eq!(parameter(value, name).as_deref(), wanted, "{value}");
        }
    }

    #[test]
    fn headers_of_a_part() {
        let headers = parse_headers(b"\r\nContent-Type: text/plain\r\nX: y").unwrap();
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["x"], "y");
        let headers = parse_headers(b"\r\nContent-Disposition: attachment; filename=\"\xe9.txt\"").unwrap();
        assert_eq!(headers["content-disposition"].as_bytes(), "attachment; filename=\"é.txt\"".as_bytes());
        assert!(parse_headers(b"").unwrap().is_empty());
        assert!(parse_headers(b"\r\nnonsense").is_err());
    }
}
