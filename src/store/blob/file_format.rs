//! The format of a blob file.
//!
//! ```text
//! ┌─────────────────────┬───────────────────────────┬────────────┬───────────────────┬──────────────┐
//! │ content             │ CRC-32 of each 64 KiB, LE │ length, LE │ CRC-32 of the two │ "settee b2"  │
//! └─────────────────────┴───────────────────────────┴────────────┴───────────────────┴──────────────┘
//!   length bytes          4 bytes a block             8            fields before and   9 bytes
//!                                                                  the name, 4
//! ```
//!
//! The last checksum covers the blob's name, so that two exchanged files are both detected as damaged. Older
//! versions of settee wrote files that end with `settee b1`; their last checksum does not cover the name.
//!
//! There is one checksum per block, so that a range can be read without the rest and every block is verified
//! before any of its bytes is returned. The checksums follow the content because its length is not known when
//! the first byte is written.
//!
//! In an encrypted folder the content is sealed in blocks (see `cipher::Stream`), and the name of a blob is a
//! keyed hash:
//!
//! ```text
//! ┌──────────────────────────────────┬────────┬────────────┬──────────────────────────┬─────────────┐
//! │ each 64 KiB sealed, with its tag │ prefix │ length, LE │ tag over name and length │ "settee e1" │
//! └──────────────────────────────────┴────────┴────────────┴──────────────────────────┴─────────────┘
//!   length bytes, 16 bytes a block     19       8            16                         9 bytes
//! ```
//!
//! All nonces of a file, those of the blocks and that of the final tag, begin with the prefix. A block
//! therefore cannot be opened in another file, nor a file under another name.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::blobs::BlobId;
use crate::store::crypto::cipher::{BLOCK, BlobKeys, PREFIX, Part, Stream, TAG};

pub(crate) const MAGIC: &[u8; 9] = b"settee b2";
/// The magic of files of older versions, whose last checksum does not cover the name.
const NAMELESS_MAGIC: &[u8; 9] = b"settee b1";
pub(crate) const SEALED_MAGIC: &[u8; 9] = b"settee e1";
/// Size of the fields at the end of a plain file: length, checksum and magic.
pub(crate) const TAIL: usize = 8 + 4 + 9;
/// Size of the fields at the end of a sealed file: prefix, length, tag and magic.
pub(crate) const SEALED_TAIL: usize = PREFIX + 8 + TAG + 9;

/// The encoder of a blob file.
pub(crate) enum Form {
    Plain {
        /// The checksums of the complete blocks.
        sums: Vec<u8>,
        /// The checksum of the current block.
        block: crc32fast::Hasher,
    },
    Sealed {
        keys: BlobKeys,
        stream: Stream,
        /// The current block. A full block is kept until more bytes come, because it may be the last.
        block: Vec<u8>,
        index: u32,
    },
}

impl Form {
    pub fn new(keys: Option<&BlobKeys>) -> Form {
        match keys {
            None => Form::Plain { sums: Vec::new(), block: crc32fast::Hasher::new() },
            Some(keys) => {
                let block = Vec::with_capacity(BLOCK + TAG);
                Form::Sealed { keys: keys.clone(), stream: keys.stream(), block, index: 0 }
            }
        }
    }

    /// Appends bytes of the content, of which `length` bytes were appended before, and writes complete blocks
    /// to the file.
    pub fn take(&mut self, length: u64, bytes: &[u8], file: &mut dyn Write) -> io::Result<()> {
        let mut rest = bytes;
        match self {
            Form::Plain { sums, block } => {
                let mut length = length;
                while !rest.is_empty() {
                    let left = BLOCK - (length % BLOCK as u64) as usize;
                    let (now, later) = rest.split_at(left.min(rest.len()));
                    block.update(now);
                    length += now.len() as u64;
                    if now.len() == left {
                        sums.extend_from_slice(&std::mem::take(block).finalize().to_le_bytes());
                    }
                    rest = later;
                }
                file.write_all(bytes)
            }
            Form::Sealed { stream, block, index, .. } => {
                while !rest.is_empty() {
                    if block.len() == BLOCK {
                        stream.seal(*index, Part::Inner, &[], block);
                        file.write_all(block)?;
                        block.clear();
                        *index = index.checked_add(1).ok_or_else(|| io::Error::other("an attachment is too long"))?;
                    }
                    let (now, later) = rest.split_at((BLOCK - block.len()).min(rest.len()));
                    block.extend_from_slice(now);
                    rest = later;
                }
                Ok(())
            }
        }
    }

    /// Ends the content. Returns the rest of the file and the blob's name: `named`, or the one that follows
    /// from the content's `digest`.
    pub fn end(self, length: u64, digest: &BlobId, named: Option<BlobId>) -> (Vec<u8>, BlobId) {
        match self {
            Form::Plain { mut sums, block } => {
                if !length.is_multiple_of(BLOCK as u64) {
                    sums.extend_from_slice(&block.finalize().to_le_bytes());
                }
                let mut tail = sums;
                tail.extend_from_slice(&length.to_le_bytes());
                let id = named.unwrap_or(*digest);
                let mut sum = crc32fast::Hasher::new();
                sum.update(&tail);
                sum.update(&id);
                tail.extend_from_slice(&sum.finalize().to_le_bytes());
                tail.extend_from_slice(MAGIC);
                (tail, id)
            }
            Form::Sealed { keys, stream, block: mut tail, index } => {
                let id = named.unwrap_or_else(|| keys.name(digest));
                if length > 0 {
                    stream.seal(index, Part::Last, &[], &mut tail);
                }
                let mut tag = Vec::new();
                stream.seal(0, Part::About, &about(&id, length), &mut tag);
                tail.extend_from_slice(&stream.prefix);
                tail.extend_from_slice(&length.to_le_bytes());
                tail.extend_from_slice(&tag);
                tail.extend_from_slice(SEALED_MAGIC);
                (tail, id)
            }
        }
    }
}

/// The data that the final tag of a sealed file authenticates.
pub(crate) fn about(id: &BlobId, length: u64) -> [u8; 40] {
    let mut about = [0; 40];
    about[..32].copy_from_slice(id);
    about[32..].copy_from_slice(&length.to_le_bytes());
    about
}

/// Size of the sealed blocks for this length of content; `None` on overflow.
pub(crate) fn sealed_length(length: u64) -> Option<u64> {
    length.checked_add(length.div_ceil(BLOCK as u64).checked_mul(TAG as u64)?)
}

/// How the blocks of a file are verified.
pub(crate) enum Blocks {
    /// By these checksums.
    Plain(Vec<u8>),
    Sealed(Stream),
}

impl Blocks {
    /// Size of a stored block in addition to its content.
    pub fn overhead(&self) -> usize {
        match self {
            Blocks::Plain(_) => 0,
            Blocks::Sealed(_) => TAG,
        }
    }

    /// Verifies a stored block and replaces it by its content. Returns false if the block is damaged.
    pub fn test(&self, index: u64, last: bool, block: &mut Vec<u8>) -> bool {
        match self {
            Blocks::Plain(sums) => {
                let at = index as usize * 4;
                sums.get(at..at + 4) == Some(&crc32fast::hash(block).to_le_bytes()[..])
            }
            Blocks::Sealed(stream) => {
                let part = if last { Part::Last } else { Part::Inner };
                u32::try_from(index).is_ok_and(|index| stream.open(index, part, &[], block).is_some())
            }
        }
    }
}

/// Reads the length and checksums of a plain file of `size` bytes. The inner error says what is wrong with
/// the file.
pub(crate) fn read_tail(
    file: &mut (impl Read + Seek),
    size: u64,
    id: &BlobId,
) -> io::Result<std::result::Result<(u64, Blocks), &'static str>> {
    let Some(tail_at) = size.checked_sub(TAIL as u64) else { return Ok(Err("is cut short")) };
    file.seek(SeekFrom::Start(tail_at))?;
    let mut tail = [0; TAIL];
    file.read_exact(&mut tail)?;
    let length = u64::from_le_bytes(*tail.first_chunk().unwrap_or(&[0; 8]));
    let sums_length = length.div_ceil(BLOCK as u64).saturating_mul(4);
    if &tail[12..] == SEALED_MAGIC {
        return Ok(Err("is sealed, and this folder is not encrypted"));
    }
    let nameless = &tail[12..] == NAMELESS_MAGIC;
    if !(nameless || &tail[12..] == MAGIC) || length.checked_add(sums_length) != Some(tail_at) {
        return Ok(Err("is cut short"));
    }
    file.seek(SeekFrom::Start(length))?;
    let mut sums = vec![0; sums_length as usize];
    file.read_exact(&mut sums)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&sums);
    sum.update(&tail[..8]);
    if !nameless {
        sum.update(id);
    }
    if sum.finalize().to_le_bytes() != tail[8..12] {
        return Ok(Err("does not match its checksum"));
    }
    Ok(Ok((length, Blocks::Plain(sums))))
}

/// Reads the length of a sealed file of `size` bytes, and returns the stream that opens its blocks. The inner
/// error says what is wrong with the file.
pub(crate) fn read_sealed_tail(
    file: &mut (impl Read + Seek),
    size: u64,
    id: &BlobId,
    keys: &BlobKeys,
) -> io::Result<std::result::Result<(u64, Blocks), &'static str>> {
    let Some(tail_at) = size.checked_sub(SEALED_TAIL as u64) else { return Ok(Err("is cut short")) };
    file.seek(SeekFrom::Start(tail_at))?;
    let (mut prefix, mut length, mut tag, mut magic) = ([0; PREFIX], [0; 8], vec![0; TAG], [0; 9]);
    for field in [&mut prefix[..], &mut length[..], &mut tag[..], &mut magic[..]] {
        file.read_exact(field)?;
    }
    let length = u64::from_le_bytes(length);
    if [MAGIC, NAMELESS_MAGIC].contains(&&magic) {
        return Ok(Err("is not sealed, as everything in an encrypted folder is"));
    }
    if &magic != SEALED_MAGIC || sealed_length(length) != Some(tail_at) {
        return Ok(Err("is cut short"));
    }
    let stream = keys.resume(prefix);
    match stream.open(0, Part::About, &about(id, length), &mut tag) {
        Some(()) => Ok(Ok((length, Blocks::Sealed(stream)))),
        None => Ok(Err("is not what was sealed under its name")),
    }
}
