//! The parts of a multipart body.
//!
//! Written by hand because the multipart crates read forms (`multipart/form-data`). A related body has no names:
//! its parts belong to the attachments in the order of the JSON, and are nested in `open_revs` and `_bulk_get`.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::clock::Clock;

/// Why a body is not multipart: one line, with what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// A random boundary, which no content can be expected to contain.
pub fn boundary(clock: &Clock) -> String {
    clock.uuid()
}

/// Makes untrusted text safe in a quoted value of a part's header: percent-encodes quotes and control characters
/// other than the tab.
pub(crate) fn header_safe(text: &str) -> Cow<'_, str> {
    escaped(text, |byte| byte == b'"' || is_control(byte))
}

/// Makes untrusted text safe as the whole value of a part's header, such as a content type: as [`header_safe`], and
/// keeps quotes.
pub(crate) fn value_safe(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// The bytes that no header may have (RFC 9110, 5.5). Readers refuse them, or end a line there.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn escaped(text: &str, is_escaped: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if !text.bytes().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match u8::try_from(character) {
            Ok(byte) if byte.is_ascii() && is_escaped(byte) => safe.push_str(&format!("%{byte:02X}")),
            _ => safe.push(character),
        }
    }
    Cow::Owned(safe)
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
    pub async fn next(&mut self) -> Result<Option<Head>, B::Error> {
        match self.begin().await? {
            true => Ok(Some(self.head(MOST_HEADER_BYTES).await?)),
            false => Ok(None),
        }
    }

    /// As [`Parts::next`], when the part of the attachment `name` is the one that should come. CouchDB writes the name
    /// and the type unescaped into the headers. If they have line breaks, they end a header or all of them, so they are
    /// recognized as a whole.
    pub async fn next_attachment(&mut self, name: &str, content_type: &str) -> Result<Option<Head>, B::Error> {
        if !self.begin().await? {
            return Ok(None);
        }
        let is_expected = (name.contains("\r\n") || content_type.contains("\r\n"))
            && self.skip(&format!("\r\nContent-Disposition: attachment; filename=\"{name}\"")).await?;
        if is_expected {
            self.skip(&format!("\r\nContent-Type: {content_type}")).await?;
        }
        // Percent-encoded, they are up to three times as long.
        let long = (3 * (name.len() + content_type.len())).min(MOST_NAME_BYTES);
        let head = self.head(MOST_HEADER_BYTES + long).await?;
        Ok(Some(Head { is_expected, ..head }))
    }

    /// Moves to the next part; `false` after the last.
    async fn begin(&mut self) -> Result<bool, B::Error> {
        while matches!(self.state, At::Preamble | At::Content) {
            self.content().await?;
        }
        if self.state == At::End {
            return Ok(false);
        }
        while self.buffer.len() < 2 {
            self.more().await?;
        }
        if self.buffer.starts_with(b"--") {
            self.state = At::End;
            return Ok(false);
        }
        Ok(true)
    }

    /// Skips `text` if the body goes on with it, and it is not too long.
    async fn skip(&mut self, text: &str) -> Result<bool, B::Error> {
        let text = text.as_bytes();
        if text.len() > MOST_NAME_BYTES {
            return Ok(false);
        }
        while self.buffer.len() < text.len() && text.starts_with(&self.buffer) {
            self.more().await?;
        }
        let is_next = self.buffer.starts_with(text);
        if is_next {
            self.buffer.advance(text.len());
        }
        Ok(is_next)
    }

    /// Reads the headers of a part, of at most about `most` bytes.
    async fn head(&mut self, most: usize) -> Result<Head, B::Error> {
        let mut searched = 0;
        let end = loop {
            match memchr::memmem::find(&self.buffer[searched..], b"\r\n\r\n") {
                Some(end) => break searched + end,
                None if self.buffer.len() > most => {
                    return Err(malformed("a part's headers are too long").into());
                }
                None => {
                    searched = self.buffer.len().saturating_sub(3);
                    self.more().await?;
                }
            }
        };
        let lines = self.buffer.split_to(end).freeze();
        self.buffer.advance(4);
        self.state = At::Content;
        Ok(Head { lines, is_expected: false })
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

/// The headers of a part, as they were sent. Names and types of attachments come unescaped from CouchDB, so a line may
/// have any bytes, and one that is no header is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Begins with the rest of the delimiter line.
    lines: Bytes,
    /// Whether the name of the expected attachment was recognized as a whole.
    is_expected: bool,
}

impl Head {
    /// The value of a header, and of several the last. Bytes that are not UTF-8 are Latin-1. It may have control
    /// characters.
    pub fn get(&self, name: http::HeaderName) -> Option<Cow<'_, str>> {
        let values = self.lines().skip(1).filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let is_named = line[..colon].trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes());
            is_named.then(|| line[colon + 1..].trim_ascii())
        });
        let value = values.last()?;
        Some(match std::str::from_utf8(value) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
        })
    }

    /// Lines end with CR LF only, as in CouchDB: a name may have one of them.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(&self.lines[..]);
        std::iter::from_fn(move || {
            let all = rest?;
            let end = memchr::memmem::find(all, b"\r\n");
            rest = end.map(|end| &all[end + 2..]);
            Some(&all[..end.unwrap_or(all.len())])
        })
    }

    /// Whether the part is that of the attachment `name`, which is the one that should come.
    fn is_of(&self, name: &str) -> bool {
        if self.is_expected {
            return true;
        }
        let Some(value) = self.get(http::header::CONTENT_DISPOSITION) else { return false };
        let Some((_, file)) = value.split_once("filename=\"") else { return false };
        let is_whole = |name: &str| {
            let after = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('"'));
            after.is_some_and(|after| after.is_empty() || after.starts_with(';'))
        };
        is_whole(name) || is_whole(&header_safe(name))
    }
}

/// The attachments of a document whose parts are still to come, in the order of its JSON.
pub struct Following {
    names: Vec<String>,
    /// By name, and by name as [`header_safe`] writes it.
    places: HashMap<String, usize>,
    is_missing: Vec<bool>,
    first: usize,
}

impl Following {
    /// All of them are still to come. No name occurs twice.
    pub fn new(names: Vec<String>) -> Following {
        let mut places: HashMap<String, usize> = names.iter().cloned().zip(0..).collect();
        for (at, name) in names.iter().enumerate() {
            if let Cow::Owned(safe) = header_safe(name) {
                places.entry(safe).or_insert(at);
            }
        }
        Following { is_missing: vec![true; names.len()], names, places, first: 0 }
    }

    /// The one whose part should come next, as an index into the names; `None` after the last.
    pub fn expected(&mut self) -> Option<usize> {
        while self.is_missing.get(self.first) == Some(&false) {
            self.first += 1;
        }
        Some(self.first).filter(|first| *first < self.names.len())
    }

    /// Takes the one whose part has come: by its file name, or else the expected one. Clients leave file names out, or
    /// write them in ways of their own.
    pub fn take(&mut self, head: &Head) -> Option<usize> {
        let expected = self.expected()?;
        let named = || {
            let file = parameter(&head.get(http::header::CONTENT_DISPOSITION)?, "filename")?;
            self.places.get(&file).copied().filter(|at| self.is_missing[*at])
        };
        let at = match head.is_of(&self.names[expected]) {
            true => expected,
            false => named().unwrap_or(expected),
        };
        self.is_missing[at] = false;
        Some(at)
    }
}

/// Maximum size of the headers of a part in bytes, without a long name or type of an attachment.
const MOST_HEADER_BYTES: usize = 16 << 10;
/// Maximum size of the name and the type that a document says already.
const MOST_NAME_BYTES: usize = 128 << 10;

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

    fn head(lines: &[u8]) -> Head {
        Head { lines: Bytes::copy_from_slice(lines), is_expected: false }
    }

    #[test]
    fn headers_of_a_part() {
        use http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE};
        let headers = head(b"\r\nContent-Type: text/plain\r\ncontent-encoding:y");
        assert_eq!(headers.get(CONTENT_TYPE).unwrap(), "text/plain");
        assert_eq!(headers.get(CONTENT_ENCODING).unwrap(), "y");
        let headers = head(b"\r\nContent-Disposition: attachment; filename=\"\xe9.txt\"");
        assert_eq!(headers.get(CONTENT_DISPOSITION).unwrap(), "attachment; filename=\"é.txt\"");
        assert_eq!(head(b"").get(CONTENT_TYPE), None);
        assert_eq!(head(b"Content-Type: x").get(CONTENT_TYPE), None, "the rest of the delimiter line");
        let headers = head(b"\r\nnonsense\r\n: x\r\n\x01: y\r\nContent-Type: a\nContent-Encoding: gzip\x7f\x00");
        assert_eq!(headers.get(CONTENT_TYPE).unwrap(), "a\nContent-Encoding: gzip\u{7f}\0");
        assert_eq!(headers.get(CONTENT_ENCODING), None, "not in a line of its own");
    }

    #[test]
    fn no_text_ends_a_header() {
        for (text, name, value) in [
            ("a b.txt", "a b.txt", "a b.txt"),
            ("a\"é😀\t\u{85}", "a%22é😀\t\u{85}", "a\"é😀\t\u{85}"),
            ("\0\u{1}\r\n\u{1b}\u{7f}", "%00%01%0D%0A%1B%7F", "%00%01%0D%0A%1B%7F"),
        ] {
            assert_eq!(header_safe(text), name);
            assert_eq!(value_safe(text), value);
        }
        let all: String = (0..=0x9f).filter_map(char::from_u32).collect();
        assert!(http::HeaderValue::from_str(&header_safe(&all)).is_ok());
        assert!(http::HeaderValue::from_str(&value_safe(&all)).is_ok());
    }

    /// A body in pieces of one size.
    struct Pieces(Vec<u8>, usize);

    impl Chunks for Pieces {
        type Error = Malformed;

        async fn chunk(&mut self) -> Result<Option<Bytes>, Malformed> {
            let piece: Vec<u8> = self.0.drain(..self.1.min(self.0.len())).collect();
            Ok((!piece.is_empty()).then(|| piece.into()))
        }
    }

    /// Reads the parts of attachments as the readers do: the name that each content belongs to.
    async fn read(body: &[u8], size: usize, attachments: &[(&str, &str)]) -> Result<Vec<(String, String)>, Malformed> {
        let mut body = Pieces(body.to_vec(), size);
        let mut parts = Parts::new(&mut body, "b");
        let mut missing = Following::new(attachments.iter().map(|(name, _)| (*name).to_owned()).collect());
        let mut found = Vec::new();
        while let Some(expected) = missing.expected() {
            let (name, content_type) = attachments[expected];
            let head = parts.next_attachment(name, content_type).await?.expect("a part");
            let at = missing.take(&head).expect("one is missing");
            assert_eq!(head.get(http::header::CONTENT_ENCODING), None, "no header comes from a name");
            let mut content = Vec::new();
            while let Some(piece) = parts.content().await? {
                content.extend_from_slice(&piece);
            }
            found.push((attachments[at].0.to_owned(), String::from_utf8(content).unwrap()));
        }
        parts.finish().await?;
        Ok(found)
    }

    /// The parts as CouchDB writes them, and as settee does.
    fn written(attachments: &[(&str, &str)], is_safe: bool) -> Vec<u8> {
        let mut body = "--b".to_owned();
        for (at, (name, content_type)) in attachments.iter().enumerate() {
            let (name, content_type) = match is_safe {
                true => (header_safe(name), value_safe(content_type)),
                false => (Cow::Borrowed(*name), Cow::Borrowed(*content_type)),
            };
            body.push_str(&format!(
                "\r\nContent-Disposition: attachment; filename=\"{name}\"\r\nContent-Type: {content_type}\r\nContent-Length: 2\r\n\r\n#{at}\r\n--b"
            ));
        }
        body.push_str("--");
        body.into_bytes()
    }

    #[tokio::test]
    async fn attachments_have_any_names_and_types() {
        let controls: Vec<String> = (0..=0x9f).filter_map(char::from_u32).map(|one| format!("f{one}g")).collect();
        let odd = [
            "a%00b",
            "a\0b",
            "f\"g",
            "f",
            "f%22g",
            "f\\g",
            "f\\",
            "a; filename=b",
            "b",
            " ",
            "x\r\n",
            "\r\ny\r\n\r\n",
            "f\r\ng",
            "f\r\nContent-Encoding: gzip\r\ng: x",
            "f\r\n\r\ng",
            "f\r",
            "f\n",
            "é😀",
            "#3\r\n--c\r\n",
            "\"\r\n\r\n#",
        ];
        let names: Vec<&str> = controls.iter().map(String::as_str).chain(odd).collect();
        let long = "x\u{1}".repeat(20_000);
        let types: Vec<&str> = names.iter().copied().chain(["", ";", "text/plain; charset=\"utf-8\"", &long]).collect();
        let attachments: Vec<(&str, &str)> = (0..types.len())
            .map(|at| (names.get(at).copied().unwrap_or(["w", "x", "y", "z"][at % 4]), types[at]))
            .collect();
        let wanted: Vec<(String, String)> =
            attachments.iter().enumerate().map(|(at, (name, _))| ((*name).to_owned(), format!("#{at}"))).collect();
        for is_safe in [true, false] {
            for size in [1, 7, 1 << 20] {
                let found = read(&written(&attachments, is_safe), size, &attachments).await.unwrap();
                assert_eq!(found, wanted, "safe: {is_safe}, in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn parts_in_another_order_are_matched_by_name() {
        let (sent, wanted) = ([("c\u{1}", ""), ("b", ""), ("a", "")], [("a", ""), ("b", ""), ("c\u{1}", "")]);
        for is_safe in [true, false] {
            let found = read(&written(&sent, is_safe), 5, &wanted).await.unwrap();
            let of = |name: &str, content: &str| (name.to_owned(), content.to_owned());
            assert_eq!(found, [of("c\u{1}", "#0"), of("b", "#1"), of("a", "#2")]);
        }
        let bare = b"--b\r\n\r\none\r\n--b\r\nnonsense\r\n\r\ntwo\r\n--b--";
        let found = read(bare, 5, &[("a", ""), ("b", "")]).await.unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[tokio::test]
    async fn the_headers_of_a_part_are_bounded() {
        let body = [&b"--b\r\nX: "[..], &vec![b'x'; MOST_HEADER_BYTES + 2000], b"\r\n\r\n\r\n--b--"].concat();
        for size in [1000, 1] {
            let mut body = Pieces(body.clone(), size);
            let read = Parts::new(&mut body, "b").next().await;
            assert_eq!(read, Err(malformed("a part's headers are too long")));
        }
        let body = [&b"--b\r\nX: "[..], &vec![b'x'; MOST_HEADER_BYTES + MOST_NAME_BYTES + 2000], b"\r\n\r\n\r\n--b--"]
            .concat();
        for content_type in ["x", "\r\n"] {
            let mut body = Pieces(body.clone(), 1000);
            let read = Parts::new(&mut body, "b").next_attachment("n", &content_type.repeat(1 << 20)).await;
            assert_eq!(read, Err(malformed("a part's headers are too long")));
        }
        let name = "\r\n".repeat(100);
        for body in [&b"--b\r\nContent-Disposition: attachment; filename=\"\r\n\r\n"[..], b"--b\r"] {
            let mut body = Pieces(body.to_vec(), 3);
            let read = Parts::new(&mut body, "b").next_attachment(&name, "").await;
            assert_eq!(read, Err(malformed("it ends before its last boundary")));
        }
    }
}
