//! The protocol between the server and a script worker: frames over one socket.
//!
//! ```text
//! frame      length (4 bytes, big-endian) kind (1 byte) payload
//!
//! server > worker   OPEN env memory limit entry source    creates an environment; reply: DONE or FAILED
//!                   RUN env memory limit flags entry text shared item*
//!                                                         reply: ANSWERS*, then DONE or FAILED
//!                   ROW text | END | GONE                 reply to PART
//!                   CLOSE env                             no reply
//! worker > server   READY note                            once, after the worker has confined itself
//!                   ANSWERS answer*                       answers of items, in order
//!                   DONE memory                           end of a request; bytes that all environments hold
//!                   FAILED cause word reason memory       the next unanswered item ended its environment
//!                   PART text                             from a list function, which now waits for a row
//!                   LOG text                              a message that a function passed to `log`
//! ```
//!
//! The server does not trust a worker: the reader limits the size of frames, memory grows with the bytes
//! received and not with the length that a frame claims, and everything is validated. The worker trusts the
//! server.

use std::io::{self, Read, Write};

use crate::db::codec::{Reader, Writer};

pub(super) const OPEN: u8 = b'o';
pub(super) const RUN: u8 = b'r';
pub(super) const ROW: u8 = b'w';
pub(super) const END: u8 = b'e';
pub(super) const GONE: u8 = b'g';
pub(super) const CLOSE: u8 = b'c';
pub(super) const READY: u8 = b'y';
pub(super) const ANSWERS: u8 = b'a';
pub(super) const DONE: u8 = b'd';
pub(super) const FAILED: u8 = b'f';
pub(super) const PART: u8 = b'p';
pub(super) const LOG: u8 = b'l';

/// Maximum size of any frame in bytes.
pub(super) const FRAME_LIMIT: usize = 1 << 30;
/// Maximum number of answers in a frame: a chunk of items has about a megabyte. Without this limit, empty
/// answers would take 24 times their size in memory.
const MOST_ANSWERS: usize = 1 << 20;

/// Why an item ended its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The function requested it, which CouchDB permits.
    Thrown,
    /// It exceeded its CPU time.
    Time,
    /// It exceeded its memory or stack, or its input cannot be parsed.
    Memory,
}

impl Cause {
    pub fn code(self) -> u8 {
        match self {
            Cause::Thrown => 0,
            Cause::Time => 1,
            Cause::Memory => 2,
        }
    }

    fn read(code: u8) -> Option<Cause> {
        [Cause::Thrown, Cause::Time, Cause::Memory].into_iter().find(|cause| cause.code() == code)
    }
}

/// Request to create an environment. `entry` is empty if nothing is loaded into it.
#[derive(Debug, PartialEq)]
pub(super) struct Open<'a> {
    pub env: u64,
    pub memory: u64,
    /// CPU time in microseconds.
    pub limit: u64,
    pub entry: &'a str,
    pub source: &'a str,
}

/// Request to run items one after the other, each with the same entry.
#[derive(Debug, PartialEq)]
pub(super) struct Run<'a> {
    pub env: u64,
    pub memory: u64,
    /// CPU time of one item, in microseconds.
    pub limit: u64,
    /// Whether each answer is sent at once, so that the death of the worker identifies the item.
    pub careful: bool,
    /// Whether items become frozen values.
    pub frozen: bool,
    pub entry: &'a str,
    pub text: &'a str,
    /// JSON that is parsed once and passed to each call, or empty.
    pub shared: &'a str,
    pub items: Vec<&'a str>,
}

impl Open<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = begin(OPEN, 64 + self.source.len());
        for number in [self.env, self.memory, self.limit] {
            frame.number(number);
        }
        frame.text(self.entry);
        frame.text(self.source);
        end(frame)
    }

    pub fn read(payload: &[u8]) -> Option<Open<'_>> {
        let mut reader = Reader(payload);
        let (env, memory, limit) = (reader.number()?, reader.number()?, reader.number()?);
        Some(Open { env, memory, limit, entry: reader.text()?, source: reader.text()? })
    }
}

impl Run<'_> {
    pub fn frame(&self) -> Vec<u8> {
        let texts = [self.entry, self.text, self.shared].into_iter().chain(self.items.iter().copied());
        let room = 64 + texts.map(|text| text.len() + 5).sum::<usize>();
        let mut frame = begin(RUN, room);
        for number in [self.env, self.memory, self.limit] {
            frame.number(number);
        }
        frame.byte(u8::from(self.careful) | u8::from(self.frozen) << 1);
        for part in [self.entry, self.text, self.shared] {
            frame.text(part);
        }
        for item in &self.items {
            frame.text(item);
        }
        end(frame)
    }

    pub fn read(payload: &[u8]) -> Option<Run<'_>> {
        let mut reader = Reader(payload);
        let (env, memory, limit) = (reader.number()?, reader.number()?, reader.number()?);
        let flags = reader.byte()?;
        let (entry, text, shared) = (reader.text()?, reader.text()?, reader.text()?);
        let mut items = Vec::new();
        while !reader.0.is_empty() {
            items.push(reader.text()?);
        }
        let (careful, frozen) = (flags & 1 != 0, flags & 2 != 0);
        Some(Run { env, memory, limit, careful, frozen, entry, text, shared, items })
    }
}

/// A frame of texts.
pub(super) fn texts(kind: u8, texts: &[&str]) -> Vec<u8> {
    let mut frame = begin(kind, texts.iter().map(|text| text.len() + 5).sum());
    texts.iter().for_each(|text| frame.text(text));
    end(frame)
}

/// A frame of one number: `CLOSE`, `DONE`.
pub(super) fn number(kind: u8, number: u64) -> Vec<u8> {
    let mut frame = begin(kind, 16);
    frame.number(number);
    end(frame)
}

pub(super) fn failed(cause: Cause, word: &str, reason: &str, memory: u64) -> Vec<u8> {
    let mut frame = begin(FAILED, 64 + word.len() + reason.len());
    frame.byte(cause.code());
    frame.text(word);
    frame.text(reason);
    frame.number(memory);
    end(frame)
}

/// A validated frame from a worker.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Ready(String),
    Answers(Vec<String>),
    Done { memory: u64 },
    Failed { cause: Cause, word: String, reason: String, memory: u64 },
    Part(String),
    Log(String),
}

impl Answer {
    pub fn read(kind: u8, payload: &[u8]) -> Option<Answer> {
        let mut reader = Reader(payload);
        let answer = match kind {
            READY => Answer::Ready(reader.text()?.to_owned()),
            ANSWERS => {
                let mut answers = Vec::new();
                while !reader.0.is_empty() {
                    if answers.len() == MOST_ANSWERS {
                        return None;
                    }
                    answers.push(reader.text()?.to_owned());
                }
                Answer::Answers(answers)
            }
            DONE => Answer::Done { memory: reader.number()? },
            FAILED => {
                let cause = Cause::read(reader.byte()?)?;
                let (word, reason) = (reader.text()?.to_owned(), reader.text()?.to_owned());
                Answer::Failed { cause, word, reason, memory: reader.number()? }
            }
            PART => Answer::Part(reader.text()?.to_owned()),
            LOG => Answer::Log(reader.text()?.to_owned()),
            _ => return None,
        };
        reader.0.is_empty().then_some(answer)
    }
}

/// Parses the payload of a frame with one text.
pub(super) fn only_text(payload: &[u8]) -> Option<&str> {
    Reader(payload).text()
}

/// Parses the payload of a frame with one number.
pub(super) fn only_number(payload: &[u8]) -> Option<u64> {
    Reader(payload).number()
}

/// Begins a frame whose payload has about `room` bytes.
fn begin(kind: u8, room: usize) -> Writer {
    let mut frame = Vec::with_capacity(5 + room);
    frame.extend_from_slice(&[0, 0, 0, 0, kind]);
    Writer(frame)
}

/// Fills in the length. A frame that is too long gets a length that every reader rejects.
fn end(frame: Writer) -> Vec<u8> {
    let mut bytes = frame.0;
    let length = u32::try_from(bytes.len() - 5).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Reads the next frame into `payload` and returns its kind. Returns `None` if the stream ends between two
/// frames.
///
/// # Errors
/// `InvalidData` if the frame is longer than `limit`; `UnexpectedEof` if the stream ends within a frame.
pub(super) fn receive(from: &mut impl Read, payload: &mut Vec<u8>, limit: usize) -> io::Result<Option<u8>> {
    let mut head = [0; 5];
    let mut had = 0;
    while had < head.len() {
        match from.read(&mut head[had..]) {
            Ok(0) if had == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => had += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [a, b, c, d, kind] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > limit.min(FRAME_LIMIT) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    payload.clear();
    from.take(length as u64).read_to_end(payload)?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(kind))
}

/// Writes a frame.
pub(super) fn send(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    if frame.len() - 5 > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"));
    }
    to.write_all(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn received(mut frame: &[u8], limit: usize) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut payload = Vec::new();
        Ok(receive(&mut frame, &mut payload, limit)?.map(|kind| (kind, payload)))
    }

    #[test]
    fn frames_round_trip() {
        let open = Open { env: 7, memory: 1 << 40, limit: 5, entry: "addMaps", source: "{\"é\":1}" };
        let (kind, payload) = received(&open.frame(), 1000).unwrap().unwrap();
        assert_eq!((kind, Open::read(&payload)), (OPEN, Some(open)));
        for items in [vec![], vec!["", "{}", "[1]"]] {
            let run = Run {
                env: 1,
                memory: 2,
                limit: 3,
                careful: true,
                frozen: false,
                entry: "e",
                text: "t",
                shared: "",
                items,
            };
            let (kind, payload) = received(&run.frame(), 1000).unwrap().unwrap();
            assert_eq!((kind, Run::read(&payload)), (RUN, Some(run)));
        }
        for (frame, answer) in [
            (texts(READY, &["x"]), Answer::Ready("x".into())),
            (texts(ANSWERS, &["1", "", "!"]), Answer::Answers(vec!["1".into(), "".into(), "!".into()])),
            (number(DONE, 300), Answer::Done { memory: 300 }),
            (
                failed(Cause::Memory, "w", "r", 9),
                Answer::Failed { cause: Cause::Memory, word: "w".into(), reason: "r".into(), memory: 9 },
            ),
        ] {
            let (kind, payload) = received(&frame, 1000).unwrap().unwrap();
            assert_eq!(Answer::read(kind, &payload), Some(answer));
        }
    }

    #[test]
    fn truncated_and_overlong_frames_are_errors() {
        let frame = texts(ANSWERS, &["answer"]);
        assert!(received(&[], 10).unwrap().is_none());
        for end in 1..frame.len() {
            assert_eq!(received(&frame[..end], 100).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        assert_eq!(received(&frame, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let claims = [0xFF, 0xFF, 0xFF, 0xFF, ANSWERS];
        assert_eq!(received(&claims, usize::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn more_answers_than_possible_items_are_rejected() {
        assert!(Answer::read(ANSWERS, &vec![0; MOST_ANSWERS]).is_some());
        assert!(Answer::read(ANSWERS, &vec![0; MOST_ANSWERS + 1]).is_none());
    }

    proptest! {
        /// A compromised worker may send anything: it parses as an answer or is rejected, without a panic.
        #[test]
        fn any_bytes_parse_as_an_answer_or_are_rejected(kind: u8, payload: Vec<u8>) {
            let _ = Answer::read(kind, &payload);
        }
    }
}
