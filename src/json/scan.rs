//! The one pass over JSON text from clients: validates it, removes whitespace, and removes repeated members.
//!
//! It accepts what CouchDB's parser (jiffy) accepts: RFC 8259 and UTF-8, no lone surrogates even as escapes,
//! integers of any size, but no float beyond the range of a double. Of several members with the same name the
//! last one stays, in its position (`dedupe_keys`). If they were all kept, two readers could see two
//! different documents (CVE-2017-12635).
//!
//! The text is copied in the longest runs that need no change; compact text is a single run. The scan only
//! records a repeated member as a dead range of the output, and one sweep at the end removes all dead ranges.
//! Rewriting each object when it closes would take time quadratic in the depth.
//!
//! Written by hand because no JSON crate does this in one pass: serde_json keeps the exact digits of numbers
//! only in raw text, from which it removes neither whitespace nor repeated members.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::escape::unescape;
use crate::error::{Error, Result};

/// From this many members on, an object's names are found through a hash table.
const MANY: usize = 16;

/// Validated, compact JSON text.
pub(crate) struct Scanned {
    pub text: String,
    /// The members of the outermost value, if it is an object and no repeated member was removed at any
    /// depth.
    pub members: Option<Vec<Place>>,
}

/// The position of a member in the compact text of its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name, without its quotes.
    pub name: Range<usize>,
    /// The value.
    pub value: Range<usize>,
}

/// Validates and compacts one JSON value, surrounded only by whitespace. `depth` limits how deeply arrays and
/// objects nest.
pub(crate) fn scan(text: &[u8], depth: usize) -> Result<Scanned> {
    let text = std::str::from_utf8(text).map_err(|_| invalid())?;
    let mut scanner = Scanner {
        text,
        bytes: text.as_bytes(),
        at: 0,
        run: 0,
        out: String::with_capacity(text.len()),
        frames: Vec::new(),
        members: Vec::new(),
        dead: Vec::new(),
        depth,
    };
    scanner.value()?;
    Ok(scanner.finish())
}

fn invalid() -> Error {
    Error::BadRequest("invalid UTF-8 JSON".into())
}

/// What may come next.
#[derive(Copy, Clone)]
enum Expect {
    Value,
    ValueOrEnd,
    Name,
    NameOrEnd,
    CommaOrEnd,
    Nothing,
}

/// An array or object that is still open.
struct Frame<'a> {
    /// Whether it is an object.
    object: bool,
    /// Index of its first member in `Scanner::members`.
    first: usize,
    /// From name to index in `Scanner::members`; only once there are `MANY` members.
    names: Option<HashMap<Cow<'a, str>, usize>>,
}

struct Member<'a> {
    name: Cow<'a, str>,
    /// Length in bytes of the name as written.
    written: usize,
    /// Its position in the output.
    start: usize,
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// The text between here and `at` is not copied yet.
    run: usize,
    out: String,
    frames: Vec<Frame<'a>>,
    /// The members of all open objects, outermost object first. Those of a closed object are removed, except
    /// those of the outermost value.
    members: Vec<Member<'a>>,
    /// Ranges of the output that hold overwritten members.
    dead: Vec<Range<usize>>,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn value(&mut self) -> Result<()> {
        let mut expect = Expect::Value;
        loop {
            self.skip_whitespace();
            let Some(&byte) = self.bytes.get(self.at) else {
                return if matches!(expect, Expect::Nothing) { Ok(()) } else { Err(invalid()) };
            };
            expect = match (expect, byte) {
                (Expect::ValueOrEnd, b']') | (Expect::NameOrEnd, b'}') => self.close(),
                (Expect::CommaOrEnd, b'}' | b']') => {
                    if self.frames.last().is_none_or(|frame| frame.object != (byte == b'}')) {
                        return Err(invalid());
                    }
                    self.close()
                }
                (Expect::CommaOrEnd, b',') => {
                    self.at += 1;
                    if self.frames.last().is_some_and(|frame| frame.object) { Expect::Name } else { Expect::Value }
                }
                (Expect::Name | Expect::NameOrEnd, b'"') => {
                    self.name()?;
                    Expect::Value
                }
                (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                    if self.frames.len() >= self.depth {
                        return Err(Error::BadRequest(format!("JSON is nested deeper than {} levels", self.depth)));
                    }
                    self.frames.push(Frame { object: byte == b'{', first: self.members.len(), names: None });
                    self.at += 1;
                    if byte == b'{' { Expect::NameOrEnd } else { Expect::ValueOrEnd }
                }
                (Expect::Value | Expect::ValueOrEnd, _) => {
                    match byte {
                        b'"' => {
                            self.string()?;
                        }
                        b't' => self.literal("true")?,
                        b'f' => self.literal("false")?,
                        b'n' => self.literal("null")?,
                        _ => self.number()?,
                    }
                    self.after_value()
                }
                _ => return Err(invalid()),
            };
        }
    }

    fn after_value(&self) -> Expect {
        if self.frames.is_empty() { Expect::Nothing } else { Expect::CommaOrEnd }
    }

    fn close(&mut self) -> Expect {
        self.at += 1;
        if let Some(frame) = self.frames.pop()
            && !(self.frames.is_empty() && frame.object)
        {
            self.members.truncate(frame.first);
        }
        self.after_value()
    }

    /// Skips whitespace at the cursor and leaves it out of the output.
    fn skip_whitespace(&mut self) {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        if self.at > start {
            self.out.push_str(&self.text[self.run..start]);
            self.run = self.at;
        }
    }

    /// The cursor's position in the output.
    fn out_at(&self) -> usize {
        self.out.len() + (self.at - self.run)
    }

    /// Reads a member's name and colon. If the object already has a member with this name, marks that one as
    /// dead.
    fn name(&mut self) -> Result<()> {
        let start = self.out_at();
        let (raw, escaped) = self.string()?;
        let raw = &self.text[raw];
        let name = if escaped { unescape(raw) } else { Cow::Borrowed(raw) };
        self.skip_whitespace();
        if self.bytes.get(self.at) != Some(&b':') {
            return Err(invalid());
        }
        self.at += 1;
        let position = self.members.len();
        let Some(frame) = self.frames.last_mut() else { return Err(invalid()) };
        let before = match &mut frame.names {
            Some(names) => names.insert(name.clone(), position),
            None => {
                let members = &self.members[frame.first..];
                // Search backwards: only the last member with this name is still alive.
                let before = members.iter().rposition(|member| member.name == name).map(|index| frame.first + index);
                if members.len() == MANY {
                    let known =
                        members.iter().enumerate().map(|(index, member)| (member.name.clone(), frame.first + index));
                    frame.names = Some(known.chain([(name.clone(), position)]).collect());
                }
                before
            }
        };
        self.members.push(Member { name, written: raw.len(), start });
        if let Some(before) = before {
            self.dead.push(self.members[before].start..self.members[before + 1].start);
        }
        Ok(())
    }

    /// Reads a string literal at the cursor. Returns the range of its content and whether it has escapes.
    fn string(&mut self) -> Result<(Range<usize>, bool)> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            at = plain_end(self.bytes, at);
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok((start..at, escaped));
                }
                Some(b'\\') => {
                    at = self.escape(at + 1).ok_or_else(invalid)?;
                    escaped = true;
                }
                _ => return Err(invalid()),
            }
        }
    }

    /// The end of the escape whose backslash precedes `at`; `None` if the escape is invalid.
    fn escape(&self, at: usize) -> Option<usize> {
        match self.bytes.get(at)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
            b'u' => match self.code_unit(at + 1)? {
                0xd800..0xdc00 => {
                    let low = self.bytes.get(at + 5..at + 7)? == b"\\u"
                        && (0xdc00..0xe000).contains(&self.code_unit(at + 7)?);
                    low.then_some(at + 11)
                }
                0xdc00..0xe000 => None,
                _ => Some(at + 5),
            },
            _ => None,
        }
    }

    fn code_unit(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..at + 4)?.iter().try_fold(0, |unit, byte| Some(unit << 4 | (*byte as char).to_digit(16)?))
    }

    fn literal(&mut self, literal: &str) -> Result<()> {
        if !self.bytes[self.at..].starts_with(literal.as_bytes()) {
            return Err(invalid());
        }
        self.at += literal.len();
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let start = self.at;
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let integer_digits = self.at - start;
        let mut may_overflow = false;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
            may_overflow = integer_digits > 300;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
            may_overflow = true;
        }
        if may_overflow && !self.text[start..self.at].parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(invalid());
        }
        Ok(())
    }

    /// Skips at least one digit.
    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(invalid()) } else { Ok(()) }
    }

    fn finish(mut self) -> Scanned {
        self.out.push_str(&self.text[self.run..]);
        if !self.dead.is_empty() {
            return Scanned { text: without(&self.out, self.dead), members: None };
        }
        if !self.out.starts_with('{') {
            return Scanned { text: self.out, members: None };
        }
        let ends = self.members.iter().skip(1).map(|next| next.start).chain([self.out.len()]);
        let members = self
            .members
            .iter()
            .zip(ends)
            .map(|(member, end)| {
                let name = member.start + 1..member.start + 1 + member.written;
                // After `":` and before the `,` or `}`.
                let value = name.end + 2..end - 1;
                Place { name, value }
            })
            .collect();
        Scanned { text: self.out, members: Some(members) }
    }
}

/// `text` without the `dead` ranges, which may be nested but do not overlap otherwise.
fn without(text: &str, mut dead: Vec<Range<usize>>) -> String {
    dead.sort_unstable_by_key(|range| range.start);
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    for range in dead {
        if range.start >= at {
            kept.push_str(&text[at..range.start]);
        }
        at = at.max(range.end);
    }
    kept.push_str(&text[at..]);
    kept
}

/// The first byte at or after `at` that ends a plain part of a string: a quote, a backslash or a control
/// character. Reads eight bytes at a time.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Sets the high bit of every byte that is 0; above the first such byte it may set others too.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = control | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests;
