//! The backup format: one stream of frames, which can be written to and read from a pipe.
//!
//! ```text
//! backup := "settee backup 1\n" frame* End
//! frame  := kind(1) length(4, LE) payload CRC-32 of the preceding bytes of the frame (4, LE)
//! payload of a frame with a key := key length(4, LE) key value
//!
//! Setting    key, value       server-wide entries (settings, secrets), as stored
//! Database   name, record     starts a database, which includes all frames up to its Counters
//! Blob       id               followed by Content frames, the last one empty; before all bodies that name it
//! Local      id, record       _local documents; before the documents, so that no checkpoint is ahead of them
//! Security   object
//! AutoPurge  object
//! Body       sequence(8) index(4), record
//! Document   id, record
//! Changed    id, record       a document changed since its Document frame; an empty record: it was purged
//! Purge      sequence(8), record
//! Counters   record           ends the database
//! End        databases(8) documents(8)
//! ```
//!
//! The records have the format of the store (`docs/storage-format.md`).

use std::io::{self, Read, Write};

const MAGIC: &[u8] = b"settee backup 1\n";
/// Maximum length of a frame's payload: no value of the store with its key is longer.
const MAX_PAYLOAD: u32 = 1 << 30;

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Setting = b'S',
    Database = b'D',
    Blob = b'B',
    Content = b'c',
    Local = b'l',
    Security = b's',
    AutoPurge = b'a',
    Body = b'b',
    Document = b'd',
    Changed = b'u',
    Purge = b'p',
    Counters = b'i',
    End = b'Z',
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Setting, Database, Blob, Content, Local, Security, AutoPurge, Body, Document, Changed, Purge, Counters, End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Writes frames.
pub struct Writer<'a> {
    to: &'a mut dyn Write,
}

impl<'a> Writer<'a> {
    /// Starts a backup: writes the magic bytes.
    pub fn new(to: &'a mut dyn Write) -> io::Result<Writer<'a>> {
        to.write_all(MAGIC)?;
        Ok(Writer { to })
    }

    /// Writes a frame without a key.
    pub fn plain(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        self.frame(kind, &[payload])
    }

    /// Writes a frame with a key.
    pub fn keyed(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.frame(kind, &[&(key.len() as u32).to_le_bytes(), key, value])
    }

    fn frame(&mut self, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD);
        let length = length.ok_or_else(|| io::Error::other("a value is too long for a backup"))?;
        let mut head = [kind as u8; 5];
        head[1..].copy_from_slice(&length.to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head);
        self.to.write_all(&head)?;
        for part in parts {
            sum.update(part);
            self.to.write_all(part)?;
        }
        self.to.write_all(&sum.finalize().to_le_bytes())
    }
}

/// Reads frames.
pub struct Reader<'a> {
    from: &'a mut dyn Read,
}

/// One frame.
pub struct Frame {
    /// The kind of the frame.
    pub kind: Kind,
    /// The payload, whose checksum was verified.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the key and value of a frame with a key.
    pub fn keyed(&self) -> io::Result<(&[u8], &[u8])> {
        let split = || {
            let (length, rest) = self.payload.split_first_chunk()?;
            rest.split_at_checked(u32::from_le_bytes(*length) as usize)
        };
        split().ok_or_else(|| wrong("a frame has no key"))
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("this backup cannot be restored: {what}"))
}

impl<'a> Reader<'a> {
    /// Starts reading a backup: checks the magic bytes.
    pub fn new(from: &'a mut dyn Read) -> io::Result<Reader<'a>> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).map_err(|_| wrong("it was not made by settee"))?;
        if magic != MAGIC {
            return Err(wrong("it was not made by settee, or was made by a newer version"));
        }
        Ok(Reader { from })
    }

    /// Reads the next frame and verifies its checksum.
    pub fn frame(&mut self) -> io::Result<Frame> {
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => wrong("it is truncated"),
            _ => error,
        };
        let mut head = [0; 5];
        self.from.read_exact(&mut head).map_err(cut)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let kind = Kind::of(head[0]).filter(|_| length <= MAX_PAYLOAD).ok_or_else(|| wrong("it is damaged"))?;
        // The buffer grows as bytes arrive, so that a damaged length does not allocate a gigabyte.
        let mut payload = Vec::new();
        let read = (&mut *self.from).take(u64::from(length)).read_to_end(&mut payload)?;
        let mut told = [0; 4];
        if read < length as usize {
            return Err(wrong("it is truncated"));
        }
        self.from.read_exact(&mut told).map_err(cut)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head);
        sum.update(&payload);
        if sum.finalize().to_le_bytes() != told {
            return Err(wrong("it is damaged"));
        }
        Ok(Frame { kind, payload })
    }
}
