//! Encodes JSON text as an Erlang external term, byte for byte equal to the result of
//! `term_to_binary(jiffy:decode(Text), [{minor_version, 1}])`.
//!
//! Format: <https://www.erlang.org/doc/apps/erts/erl_ext_dist.html>. Objects become `{[{Key, Value}, ...]}`,
//! strings binaries, numbers with a fraction or an exponent floats, other numbers integers of any size. A
//! list of integers from 0 to 255 becomes a "string", because Erlang does not distinguish the two.
//!
//! Written by hand because revision ids are hashes of these bytes. The crates for Erlang terms build a tree
//! first, and do not promise to encode it as jiffy and `term_to_binary` do.

use crate::json::escape::unescape;

const NEW_FLOAT: u8 = 70;
const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const ATOM: u8 = 100;
const SMALL_TUPLE: u8 = 104;
const NIL: u8 = 106;
const STRING: u8 = 107;
const LIST: u8 = 108;
const BINARY: u8 = 109;
const SMALL_BIG: u8 = 110;
const LARGE_BIG: u8 = 111;
const VERSION: u8 = 131;

/// An integer with more digits than this enters the digest as its text, because converting decimal to binary
/// takes quadratic time. CouchDB converts integers of any length, so such an edit gets a different revision
/// id there.
const MAX_DIGITS: usize = 4096;

/// An external term under construction.
pub struct Term {
    out: Vec<u8>,
}

/// An object or array that is still open.
struct Open {
    /// Whether it is an array.
    array: bool,
    /// Position in the output of its length, which is written when it is closed.
    length_at: usize,
    /// Number of elements so far.
    count: u32,
    /// Whether all elements so far are integers from 0 to 255.
    bytes: bool,
}

impl Term {
    /// An empty term with this many bytes reserved.
    pub fn with_capacity(bytes: usize) -> Term {
        let mut out = Vec::with_capacity(bytes);
        out.push(VERSION);
        Term { out }
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Writes the empty list, or the end of a list.
    pub fn nil(&mut self) {
        self.out.push(NIL);
    }

    /// Writes the head of a list of `count` elements (at least one). The caller calls `nil` after the last
    /// element.
    pub fn list(&mut self, count: usize) {
        self.out.push(LIST);
        self.length(count);
    }

    /// Writes the head of a tuple of `count` elements.
    pub fn tuple(&mut self, count: u8) {
        self.out.extend([SMALL_TUPLE, count]);
    }

    /// Writes an atom of at most 255 bytes.
    pub fn atom(&mut self, name: &str) {
        self.out.extend([ATOM, 0, name.len() as u8]);
        self.out.extend_from_slice(name.as_bytes());
    }

    /// Writes a binary, the Erlang form of a JSON string.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.out.push(BINARY);
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn length(&mut self, count: usize) {
        self.out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// Writes an integer from its decimal digits. Returns the value if it is from 0 to 255.
    pub fn integer(&mut self, text: &str) -> Option<u8> {
        match text.parse::<i64>() {
            Ok(value) => {
                if let Ok(byte) = u8::try_from(value) {
                    self.out.extend([SMALL_INTEGER, byte]);
                    return Some(byte);
                }
                if let Ok(value) = i32::try_from(value) {
                    self.out.push(INTEGER);
                    self.out.extend_from_slice(&value.to_be_bytes());
                } else {
                    self.big(value < 0, &value.unsigned_abs().to_le_bytes());
                }
            }
            Err(_) if text.len() > MAX_DIGITS => self.binary(text.as_bytes()),
            Err(_) => {
                let (negative, digits) = match text.strip_prefix('-') {
                    Some(digits) => (true, digits),
                    None => (false, text),
                };
                self.big(negative, &magnitude(digits));
            }
        }
        None
    }

    /// `magnitude` is little-endian; trailing zero bytes are allowed.
    fn big(&mut self, negative: bool, magnitude: &[u8]) {
        let used = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match u8::try_from(used) {
            Ok(length) => self.out.extend([SMALL_BIG, length]),
            Err(_) => {
                self.out.push(LARGE_BIG);
                self.length(used);
            }
        }
        self.out.push(u8::from(negative));
        self.out.extend_from_slice(&magnitude[..used]);
    }

    fn float(&mut self, text: &str) {
        let value: f64 = text.parse().unwrap_or_default();
        self.out.push(NEW_FLOAT);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
    }

    /// Writes a JSON value from its text, which must be valid. Invalid text produces an unspecified term, but
    /// never panics.
    pub fn json(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut open: Vec<Open> = Vec::new();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'{' | b'[' => {
                    self.element(&mut open, None);
                    if byte == b'{' {
                        self.tuple(1);
                    }
                    self.out.push(LIST);
                    open.push(Open { array: byte == b'[', length_at: self.out.len(), count: 0, bytes: true });
                    self.length(0);
                }
                b'}' | b']' => {
                    if let Some(closed) = open.pop() {
                        self.close(&closed);
                    }
                }
                b'"' => {
                    at = end_of_string(bytes, at);
                    let raw = text.get(start + 1..at).unwrap_or_default();
                    at += 1;
                    if bytes.get(at) == Some(&b':') {
                        at += 1;
                        self.key(&mut open);
                    } else {
                        self.element(&mut open, None);
                    }
                    self.binary(unescape(raw).as_bytes());
                }
                b't' | b'f' | b'n' => {
                    self.element(&mut open, None);
                    let name = match byte {
                        b't' => "true",
                        b'f' => "false",
                        _ => "null",
                    };
                    self.atom(name);
                    at = start + name.len();
                }
                b'-' | b'0'..=b'9' => {
                    at = end_of_number(bytes, at);
                    let number = &text[start..at];
                    let before = self.out.len();
                    let small = if number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
                        self.float(number);
                        None
                    } else {
                        self.integer(number)
                    };
                    debug_assert!(before < self.out.len());
                    self.element(&mut open, small);
                }
                _ => {}
            }
        }
        while let Some(closed) = open.pop() {
            self.close(&closed);
        }
    }

    /// Counts a value in the innermost open array. `small` is its value if it is an integer from 0 to 255.
    fn element(&mut self, open: &mut [Open], small: Option<u8>) {
        if let Some(array) = open.last_mut().filter(|open| open.array) {
            array.count += 1;
            array.bytes &= small.is_some();
        }
    }

    fn key(&mut self, open: &mut [Open]) {
        self.tuple(2);
        if let Some(object) = open.last_mut() {
            object.count += 1;
        }
    }

    fn close(&mut self, closed: &Open) {
        let body = closed.length_at + 4;
        if closed.count == 0 {
            self.out.truncate(closed.length_at - 1);
            self.nil();
        } else if let (true, true, Ok(count)) = (closed.array, closed.bytes, u16::try_from(closed.count)) {
            // Every element is the pair [97, byte]; a string holds the bytes alone.
            let string: Vec<u8> = self.out[body..].chunks_exact(2).map(|pair| pair[1]).collect();
            self.out.truncate(closed.length_at - 1);
            self.out.push(STRING);
            self.out.extend_from_slice(&count.to_be_bytes());
            self.out.extend_from_slice(&string);
        } else {
            self.out[closed.length_at..body].copy_from_slice(&closed.count.to_be_bytes());
            self.nil();
        }
    }
}

/// The end of the string whose text starts at `at`: its closing quote, or the end of the text.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// The end of the number whose first byte is before `at`.
fn end_of_number(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    at + bytes[at..].iter().take_while(is_part).count()
}

/// Converts decimal digits to a little-endian binary number. Takes quadratic time, hence `MAX_DIGITS`.
fn magnitude(digits: &str) -> Vec<u8> {
    const GROUP: usize = 18;
    let mut limbs: Vec<u64> = Vec::with_capacity(digits.len() / 19 + 1);
    let digits = digits.as_bytes();
    let first = match digits.len() % GROUP {
        0 => GROUP.min(digits.len()),
        rest => rest,
    };
    let (head, tail) = digits.split_at(first);
    for group in std::iter::once(head).chain(tail.chunks(GROUP)) {
        let value = group.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit.wrapping_sub(b'0') % 10));
        let mut carry = u128::from(value);
        let scale = if limbs.is_empty() { 1 } else { 10u128.pow(group.len() as u32) };
        for limb in &mut limbs {
            let product = u128::from(*limb) * scale + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
        if carry > 0 {
            limbs.push(carry as u64);
        }
    }
    limbs.into_iter().flat_map(u64::to_le_bytes).collect()
}
