//! Cuts the rows out of a JSON object that arrives in pieces: the elements of one array among its members.
//!
//! `_changes` and `_bulk_get` answer with an object that may be larger than memory, but whose rows are small.
//! No JSON crate yields the elements of an array while it arrives. This reader only finds where each row begins
//! and ends; each row is parsed by its reader, and what is outside of the array is returned as an object of its
//! own, with the array empty.

use crate::replicate::failure::Failure;

/// The most bytes outside of the array.
const MOST_OUTSIDE: usize = 64 << 10;
/// Bytes that are kept of a row that is too large.
const KEPT: usize = 4 << 10;

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    Whole(Vec<u8>),
    /// The row has more bytes than the limit.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Outside of the array.
    Outside,
    /// In the array, between rows.
    Between,
    /// In a row.
    Row,
}

/// Finds the rows in the pieces of an answer.
pub(super) struct Rows {
    /// `"name"`
    name: Vec<u8>,
    limit: usize,
    at: At,
    /// Arrays and objects that are open: of the whole object outside, of the row in a row.
    depth: usize,
    in_string: bool,
    escaped: bool,
    outside: Vec<u8>,
    row: Vec<u8>,
    is_too_large: bool,
    found: std::collections::VecDeque<Row>,
}

impl Rows {
    /// A reader of the array `name`, whose rows have at most `limit` bytes.
    pub fn new(name: &str, limit: usize) -> Rows {
        Rows {
            name: format!("\"{name}\"").into_bytes(),
            limit,
            at: At::Outside,
            depth: 0,
            in_string: false,
            escaped: false,
            outside: Vec::new(),
            row: Vec::new(),
            is_too_large: false,
            found: Default::default(),
        }
    }

    /// The next complete row.
    pub fn next(&mut self) -> Option<Row> {
        self.found.pop_front()
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Failure> {
        while !piece.is_empty() {
            let taken = match self.at {
                At::Outside => self.outside(piece)?,
                At::Between => self.between(piece),
                At::Row => self.in_row(piece),
            };
            piece = &piece[taken..];
        }
        Ok(())
    }

    /// The object without the rows.
    ///
    /// # Errors
    /// The answer has ended early.
    pub fn finish(self) -> Result<Vec<u8>, Failure> {
        match self.at == At::Outside && self.depth == 0 && !self.in_string {
            true => Ok(self.outside),
            false => Err(Failure::Network("the answer has ended early".into())),
        }
    }

    /// The end of the part of `piece` that continues a string: after its closing quote, or all of it.
    fn string_end(&mut self, piece: &[u8]) -> usize {
        let mut at = 0;
        while at < piece.len() {
            if std::mem::take(&mut self.escaped) {
                at += 1;
                continue;
            }
            match memchr::memchr2(b'"', b'\\', &piece[at..]) {
                None => return piece.len(),
                Some(found) => {
                    at += found + 1;
                    match piece[at - 1] {
                        b'"' => {
                            self.in_string = false;
                            return at;
                        }
                        _ => self.escaped = true,
                    }
                }
            }
        }
        at
    }

    fn outside(&mut self, piece: &[u8]) -> Result<usize, Failure> {
        let mut at = 0;
        while at < piece.len() {
            if self.in_string {
                let end = at + self.string_end(&piece[at..]);
                self.keep_outside(&piece[at..end])?;
                at = end;
                continue;
            }
            let byte = piece[at];
            at += 1;
            let enters = byte == b'[' && self.depth == 1 && self.is_named();
            self.keep_outside(&[byte])?;
            match byte {
                b'"' => self.in_string = true,
                _ if enters => {
                    self.at = At::Between;
                    return Ok(at);
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        Ok(at)
    }

    fn keep_outside(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        // Heartbeats come before and between.
        if bytes.iter().all(u8::is_ascii_whitespace) && !self.in_string {
            return Ok(());
        }
        if self.outside.len() + bytes.len() > MOST_OUTSIDE {
            return Err(Failure::Protocol("the answer has too much beside its rows".into()));
        }
        self.outside.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether the value that begins here is the array: a member of this name.
    fn is_named(&self) -> bool {
        let before = self.outside.strip_suffix(b":").and_then(|before| before.strip_suffix(self.name.as_slice()));
        before.is_some_and(|before| matches!(before.last(), Some(b'{' | b',')))
    }

    fn between(&mut self, piece: &[u8]) -> usize {
        for (at, byte) in piece.iter().enumerate() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' | b',' => {}
                b']' => {
                    self.outside.push(b']');
                    self.at = At::Outside;
                    return at + 1;
                }
                _ => {
                    (self.at, self.depth) = (At::Row, 0);
                    return at;
                }
            }
        }
        piece.len()
    }

    fn in_row(&mut self, piece: &[u8]) -> usize {
        let mut at = 0;
        let mut ends = false;
        while at < piece.len() && !ends {
            if self.in_string {
                at += self.string_end(&piece[at..]);
                ends = self.depth == 0 && !self.in_string;
                continue;
            }
            match piece[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // Of the array around a number or a word.
                b']' | b',' | b' ' | b'\n' | b'\r' | b'\t' if self.depth == 0 => {
                    self.keep(&piece[..at]);
                    self.end_row();
                    return at;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    ends = self.depth == 0;
                }
                _ => {}
            }
            at += 1;
        }
        self.keep(&piece[..at]);
        if ends {
            self.end_row();
        }
        at
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_too_large {
            return;
        }
        if self.row.len() + bytes.len() > self.limit {
            self.is_too_large = true;
            self.row = Vec::with_capacity(KEPT);
            return;
        }
        self.row.extend_from_slice(bytes);
    }

    fn end_row(&mut self) {
        (self.at, self.depth) = (At::Between, 1);
        let row = std::mem::take(&mut self.row);
        let row = if std::mem::take(&mut self.is_too_large) { Row::TooLarge } else { Row::Whole(row) };
        self.found.push_back(row);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn cut(text: &str, size: usize, limit: usize) -> Result<(Vec<Row>, Value), Failure> {
        let mut rows = Rows::new("results", limit);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(size.max(1)) {
            rows.push(piece)?;
            found.extend(std::iter::from_fn(|| rows.next()));
        }
        let outside = rows.finish()?;
        Ok((found, serde_json::from_slice(&outside).unwrap_or(Value::Null)))
    }

    #[test]
    fn rows_and_the_rest_come_apart_wherever_the_pieces_end() {
        let text = "\n\n{\"a\":{\"results\":[7]}, \"b\\\"results\":[8], \"results\" :\n[\n{\"id\":\"]},\\\"[\"},\n\n 5,\"x\\\\\",[1,[2]],null] , \"last_seq\":\"9\",\"pending\":0}\n";
        for size in 1..text.len() {
            let (rows, rest) = cut(text, size, 1000).unwrap();
            let rows: Vec<Value> = rows
                .iter()
                .map(|row| match row {
                    Row::Whole(row) => serde_json::from_slice(row).unwrap(),
                    Row::TooLarge => panic!("none is too large"),
                })
                .collect();
            assert_eq!(rows, [json!({"id": "]},\"["}), json!(5), json!("x\\"), json!([1, [2]]), Value::Null], "{size}");
            let rest_wanted =
                json!({"a": {"results": [7]}, "b\"results": [8], "results": [], "last_seq": "9", "pending": 0});
            assert_eq!(rest, rest_wanted, "{size}");
        }
    }

    #[test]
    fn a_row_that_is_too_large_is_skipped_and_the_next_ones_are_found() {
        let text = format!("{{\"results\":[{{\"a\":\"{}\"}},{{\"b\":1}}]}}", "[".repeat(500));
        for size in [1, 7, 100, 10_000] {
            let (rows, _) = cut(&text, size, 100).unwrap();
            assert_eq!(rows, [Row::TooLarge, Row::Whole(b"{\"b\":1}".to_vec())], "{size}");
        }
    }

    #[test]
    fn an_early_end_is_an_error() {
        let text = "{\"results\":[{\"id\":\"a\"}],\"last_seq\":\"9\"}";
        for end in 0..text.len() {
            let ended = cut(&text[..end], 5, 100);
            assert!(ended.is_err() || end == 0, "{end}");
        }
        assert!(cut(text, 5, 100).is_ok());
    }

    #[test]
    fn what_is_beside_the_rows_is_bounded() {
        let text = format!("{{\"x\":\"{}\"}}", "x".repeat(MOST_OUTSIDE));
        assert!(matches!(cut(&text, 1000, 100), Err(Failure::Protocol(_))));
    }

    proptest! {
        /// Any bytes in any pieces: no panic, and no more memory than the limits.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            let mut rows = Rows::new("r", 50);
            for piece in bytes.chunks(size) {
                if rows.push(piece).is_err() {
                    return Ok(());
                }
                prop_assert!(rows.row.len() <= 50);
            }
            let _ = rows.finish();
        }
    }
}
