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
mod tests;
