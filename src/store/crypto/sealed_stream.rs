//! The format of a backup of an encrypted folder: a stream encrypted with the owner's key. It can be written
//! to and read from a pipe.
//!
//! ```text
//! "settee sealed 1\n"  key id(16)  salt(32)  block*  last block    blocks of 64 KiB, each with a 16-byte tag
//! ```
//!
//! A [`Stream`] with the key HMAC(key, salt) seals the blocks. The last block (which may be empty) is marked
//! as the last in its nonce, so that the reader detects truncation at any point.

use std::io::{self, Read, Write};

use super::cipher::{BLOCK, Part, Stream, TAG};
use super::master_key::{Key, random};

/// The first bytes of a sealed stream.
pub const SEALED: &[u8; 16] = b"settee sealed 1\n";
const SALT: usize = 32;

fn stream(key: &Key, salt: &[u8; SALT]) -> Stream {
    Stream::under(&key.derive(&[&SEALED[..], salt].concat()))
}

/// Encrypts the bytes written to it. Without [`Writer::finish`] the stream is truncated.
pub struct Writer<'a> {
    to: &'a mut dyn Write,
    stream: Stream,
    /// The current block. A full block is kept until more bytes are written, because it may be the last.
    block: Vec<u8>,
    index: u32,
}

impl<'a> Writer<'a> {
    /// Writes the head of a stream with a random salt.
    pub fn new(to: &'a mut dyn Write, key: &Key) -> io::Result<Writer<'a>> {
        let salt = random();
        to.write_all(SEALED)?;
        to.write_all(key.id().as_bytes())?;
        to.write_all(&*salt)?;
        Ok(Writer { to, stream: stream(key, &salt), block: Vec::with_capacity(BLOCK + TAG), index: 0 })
    }

    fn put(&mut self, part: Part) -> io::Result<()> {
        self.stream.seal(self.index, part, &[], &mut self.block);
        self.to.write_all(&self.block)?;
        self.block.clear();
        self.index = self.index.checked_add(1).ok_or_else(|| io::Error::other("the stream is too long"))?;
        Ok(())
    }

    /// Writes the last block and flushes.
    pub fn finish(mut self) -> io::Result<()> {
        self.put(Part::Last)?;
        self.to.flush()
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK && !bytes.is_empty() {
            self.put(Part::Inner)?;
        }
        let now = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..now]);
        Ok(now)
    }

    /// Flushes the complete blocks. An incomplete block stays in the buffer.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Decrypts a stream. The caller has already read [`SEALED`] from it.
pub struct Reader<'a> {
    from: &'a mut dyn Read,
    stream: Stream,
    /// The sealed block after `block`, read ahead: if there is none, `block` is the last.
    next: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    index: u32,
    done: bool,
}

impl<'a> Reader<'a> {
    /// Reads the head of a stream and selects its key among `keys`.
    ///
    /// # Errors
    /// `PermissionDenied` with the id of the stream's key if `keys` does not contain it.
    pub fn new(from: &'a mut dyn Read, keys: &[&Key]) -> io::Result<Reader<'a>> {
        let (mut id, mut salt) = ([0; 16], [0; SALT]);
        from.read_exact(&mut id)?;
        from.read_exact(&mut salt)?;
        let id = String::from_utf8_lossy(&id);
        let key = keys.iter().find(|key| key.id() == id).ok_or_else(|| {
            let id: String = id.chars().filter(char::is_ascii_hexdigit).collect();
            io::Error::new(io::ErrorKind::PermissionDenied, format!("it is sealed under the key {id}"))
        })?;
        let stream = stream(key, &salt);
        let mut reader = Reader { from, stream, next: Vec::new(), block: Vec::new(), at: 0, index: 0, done: false };
        reader.fetch()?;
        Ok(reader)
    }

    fn fetch(&mut self) -> io::Result<()> {
        self.next.clear();
        (&mut *self.from).take((BLOCK + TAG) as u64).read_to_end(&mut self.next).map(drop)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.block.clear();
        self.at = 0;
        if self.done {
            return Ok(());
        }
        std::mem::swap(&mut self.block, &mut self.next);
        if self.block.len() == BLOCK + TAG {
            self.fetch()?;
        }
        self.done = self.next.is_empty();
        let part = if self.done { Part::Last } else { Part::Inner };
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is cut short or damaged");
        self.stream.open(self.index, part, &[], &mut self.block).ok_or_else(wrong)?;
        self.index = self.index.checked_add(1).ok_or_else(wrong)?;
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.advance()?;
        }
        let count = (&self.block[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sealed: &[u8], keys: &[&Key]) -> io::Result<Vec<u8>> {
        let mut rest = sealed.strip_prefix(SEALED).unwrap();
        let mut opened = Vec::new();
        Reader::new(&mut rest, keys)?.read_to_end(&mut opened)?;
        Ok(opened)
    }

    #[test]
    fn streams_of_every_length_round_trip_and_damage_is_detected() {
        let key = Key::generate();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5] {
            let content: Vec<u8> = (0..length).map(|at| (at * 7 / 3) as u8).collect();
            let mut sealed = Vec::new();
            let mut writer = Writer::new(&mut sealed, &key).unwrap();
            for piece in content.chunks(10_007) {
                writer.write_all(piece).unwrap();
            }
            writer.finish().unwrap();
            assert!(open(&sealed, &[&Key::generate(), &key]).unwrap() == content, "{length}");
            let denied = open(&sealed, &[&Key::generate()]).unwrap_err();
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
            assert!(denied.to_string().contains(&key.id()));
            for cut in (64..sealed.len()).step_by(9973).chain([sealed.len() - 1, sealed.len() - TAG]) {
                assert!(open(&sealed[..cut], &[&key]).is_err(), "{length} cut to {cut}");
            }
            for at in (32..sealed.len()).step_by(7919).chain([sealed.len() - 1]) {
                let mut turned = sealed.clone();
                turned[at] ^= 4;
                assert!(open(&turned, &[&key]).is_err(), "{length} turned at {at}");
            }
            if length > BLOCK {
                let cut = 64 + BLOCK + TAG;
                assert!(open(&sealed[..cut], &[&key]).is_err(), "cut between two blocks");
            }
        }
    }
}
