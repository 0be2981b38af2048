//! Blobs as files: `blobs/ab/<64 hex digits>`, named by the SHA-256 of their content.
//!
//! ```text
//! ┌─────────────────────┬───────────────────────────┬────────────┬───────────────────┬──────────────┐
//! │ content             │ CRC-32 of each 64 KiB, LE │ length, LE │ CRC-32 of the two │ "settee b1"  │
//! └─────────────────────┴───────────────────────────┴────────────┴───────────────────┴──────────────┘
//!   length bytes          4 bytes a block             8            fields before, 4    9 bytes
//! ```
//!
//! The checksums stand block by block so that a range is read without the rest, and so that no byte goes out before its
//! block was tested. They stand behind the content because its length is not known when the first byte is written.
//!
//! In an encrypted folder the content is sealed in blocks (see `cipher::Stream`), and a blob's name is a keyed hash:
//!
//! ```text
//! ┌──────────────────────────────────┬────────┬────────────┬──────────────────────────┬─────────────┐
//! │ each 64 KiB sealed, with its tag │ prefix │ length, LE │ tag over name and length │ "settee e1" │
//! └──────────────────────────────────┴────────┴────────────┴──────────────────────────┴─────────────┘
//!   length bytes, 16 bytes a block     19       8            16                         9 bytes
//! ```
//!
//! The prefix begins the nonces of all blocks and of the last tag: none of them opens in another file or under another name.
//!
//! A blob is written to `blobs/tmp`, synced, renamed, and its folder synced. It always replaces one that is there: the
//! content is the same, unless the old file was damaged, and then it is healed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use md5::{Digest, Md5};
use parking_lot::Mutex;
use sha2::Sha256;

use super::blobs::{BlobId, BlobWriter, Blobs, Pin, Pins, Written};
use super::cipher::{BLOCK, BlobKeys, PREFIX, Part, Stream, TAG};
use super::space::{Space, folder_bytes, io_error, make_dir, sync_dir};
use super::{Result, StoreError};
use crate::json::hex;

const MAGIC: &[u8; 9] = b"settee b1";
const SEALED_MAGIC: &[u8; 9] = b"settee e1";
/// Length, checksum and magic at a file's end.
const TAIL: usize = 8 + 4 + 9;
/// Prefix, length, tag and magic at a sealed file's end.
const SEALED_TAIL: usize = PREFIX + 8 + TAG + 9;
/// Bytes written between two looks at the room on the device.
const LOOK: u64 = 4 << 20;

/// Blobs in a folder.
#[derive(Clone)]
pub(super) struct BlobFiles(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    space: Space,
    /// The folder is encrypted.
    keys: Option<BlobKeys>,
    pins: Pins,
    next_temporary: AtomicU64,
    /// Bytes on disk, counted when first asked for.
    bytes: Mutex<Option<u64>>,
}

impl BlobFiles {
    /// Opens the folder, making it if need be, and clears what unfinished writers left.
    pub fn open(folder: &Path, space: Space, keys: Option<BlobKeys>) -> io::Result<BlobFiles> {
        let temporary = folder.join("tmp");
        make_dir(&temporary)?;
        for entry in std::fs::read_dir(&temporary)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(BlobFiles(Arc::new(Inner {
            folder: folder.to_path_buf(),
            space,
            keys,
            pins: Pins::default(),
            next_temporary: AtomicU64::new(0),
            bytes: Mutex::new(None),
        })))
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let name = hex(id);
        self.0.folder.join(&name[..2]).join(name)
    }

    fn writer(&self) -> Result<Writer> {
        self.0.space.room_for(0)?;
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.folder.join("tmp").join(number.to_string());
        let file = File::create_new(&temporary).map_err(|error| io_error("writing an attachment", &error))?;
        Ok(Writer {
            to: self.clone(),
            temporary,
            file: io::BufWriter::with_capacity(BLOCK, file),
            length: 0,
            sha: Sha256::new(),
            md5: Md5::new(),
            form: Form::new(self.0.keys.as_ref()),
            finished: false,
        })
    }

    /// Writes a blob of `from` into this folder, in this folder's form, under the name `named`.
    pub fn take_over(&self, from: &BlobFiles, id: &BlobId, named: BlobId) -> Result<()> {
        let mut content = from.open(id, 0)?;
        let mut writer = self.writer()?;
        let mut piece = vec![0; BLOCK];
        loop {
            match content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => writer.write(&piece[..count])?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(StoreError::Damaged(error.to_string()));
                }
                Err(error) => return Err(io_error("reading an attachment", &error)),
            }
        }
        writer.finish_as(Some(named)).map(drop)
    }

    fn count(&self, change: impl FnOnce(u64) -> u64) {
        if let Some(bytes) = &mut *self.0.bytes.lock() {
            *bytes = change(*bytes);
        }
    }
}

/// What is written beside the content, or instead of it.
enum Form {
    Plain {
        /// The checksums of the blocks that are complete, then that of the block that is being filled.
        sums: Vec<u8>,
        block: crc32fast::Hasher,
    },
    Sealed {
        keys: BlobKeys,
        stream: Stream,
        /// The block that is being filled. A full one stays until more comes: it may be the last.
        block: Vec<u8>,
        index: u32,
    },
}

impl Form {
    fn new(keys: Option<&BlobKeys>) -> Form {
        match keys {
            None => Form::Plain { sums: Vec::new(), block: crc32fast::Hasher::new() },
            Some(keys) => {
                let block = Vec::with_capacity(BLOCK + TAG);
                Form::Sealed { keys: keys.clone(), stream: keys.stream(), block, index: 0 }
            }
        }
    }

    /// Takes bytes of the content; `length` came before. Writes what can be written.
    fn take(&mut self, length: u64, bytes: &[u8], file: &mut dyn Write) -> io::Result<()> {
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

    /// The bytes after those that have been written, and the name.
    fn end(self, length: u64, digest: &BlobId, named: Option<BlobId>) -> (Vec<u8>, BlobId) {
        match self {
            Form::Plain { mut sums, block } => {
                if !length.is_multiple_of(BLOCK as u64) {
                    sums.extend_from_slice(&block.finalize().to_le_bytes());
                }
                let mut tail = sums;
                tail.extend_from_slice(&length.to_le_bytes());
                let sum = crc32fast::hash(&tail);
                tail.extend_from_slice(&sum.to_le_bytes());
                tail.extend_from_slice(MAGIC);
                (tail, named.unwrap_or(*digest))
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

/// What the last tag of a sealed file says.
fn about(id: &BlobId, length: u64) -> [u8; 40] {
    let mut about = [0; 40];
    about[..32].copy_from_slice(id);
    about[32..].copy_from_slice(&length.to_le_bytes());
    about
}

/// Bytes of a sealed file's blocks.
fn sealed_length(length: u64) -> Option<u64> {
    length.checked_add(length.div_ceil(BLOCK as u64).checked_mul(TAG as u64)?)
}

pub(super) struct Writer {
    to: BlobFiles,
    temporary: PathBuf,
    file: io::BufWriter<File>,
    length: u64,
    sha: Sha256,
    md5: Md5,
    form: Form,
    finished: bool,
}

impl Writer {
    /// As [`BlobWriter::finish`], under a name that the blob has already.
    pub fn finish_as(mut self, named: Option<BlobId>) -> Result<Written> {
        let io = |error: io::Error| io_error("writing an attachment", &error);
        let digest: BlobId = std::mem::take(&mut self.sha).finalize().into();
        let md5 = std::mem::take(&mut self.md5).finalize().into();
        let form = std::mem::replace(&mut self.form, Form::new(None));
        let (tail, id) = form.end(self.length, &digest, named);
        self.file.write_all(&tail).map_err(io)?;
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;
        let stored = self.file.get_ref().metadata().map_err(io)?.len();

        // Pinned before it can be seen: the collector must not come between.
        let pin = self.to.0.pins.pin(&id);
        let path = self.to.path(&id);
        let folder = path.parent().unwrap_or(&self.to.0.folder);
        make_dir(folder).map_err(io)?;
        let replaced = std::fs::metadata(&path).map_or(0, |found| found.len());
        std::fs::rename(&self.temporary, &path).map_err(io)?;
        self.finished = true;
        sync_dir(folder).map_err(io)?;
        self.to.count(|bytes| (bytes + stored).saturating_sub(replaced));
        Ok(Written { id, length: self.length, md5, pin })
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length / LOOK != (self.length + bytes.len() as u64) / LOOK {
            self.to.0.space.room_for(LOOK)?;
        }
        self.sha.update(bytes);
        self.md5.update(bytes);
        let taken = self.form.take(self.length, bytes, &mut self.file);
        taken.map_err(|error| io_error("writing an attachment", &error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        self.finish_as(None)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl Blobs for BlobFiles {
    fn create(&self) -> Result<Box<dyn BlobWriter>> {
        Ok(Box::new(self.writer()?))
    }

    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Reader::open(&self.path(id), id, offset, self.0.keys.as_ref())?))
    }

    fn contains(&self, id: &BlobId) -> Result<bool> {
        self.path(id).try_exists().map_err(|error| io_error("looking for an attachment", &error))
    }

    fn pin(&self, id: &BlobId) -> Pin {
        self.0.pins.pin(id)
    }

    fn remove_unless(&self, id: &BlobId, referenced: &dyn Fn() -> Result<bool>) -> Result<bool> {
        self.0.pins.unless_pinned(id, || {
            if referenced()? {
                return Ok(false);
            }
            let path = self.path(id);
            let length = std::fs::metadata(&path).map_or(0, |found| found.len());
            match std::fs::remove_file(&path) {
                Ok(()) => {
                    self.count(|bytes| bytes.saturating_sub(length));
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(io_error("removing an attachment", &error)),
            }
        })
    }

    fn list(&self, after: Option<&BlobId>, limit: usize) -> Result<Vec<BlobId>> {
        let io = |error: io::Error| io_error("listing the attachments", &error);
        let mut found = Vec::new();
        for first in after.map_or(0, |after| after[0])..=0xFF {
            let folder = self.0.folder.join(hex(&[first]));
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io(error)),
            };
            let start = found.len();
            for entry in entries {
                found.extend(parse_id(&entry.map_err(io)?.file_name().to_string_lossy()));
            }
            found[start..].sort_unstable();
            if let (0, Some(after)) = (start, after) {
                found.retain(|id| id > after);
            }
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    fn disk_bytes(&self) -> u64 {
        *self.0.bytes.lock().get_or_insert_with(|| folder_bytes(&self.0.folder))
    }
}

fn parse_id(name: &str) -> Option<BlobId> {
    let mut id = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(name.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(id)
}

/// Reads a blob block by block and hands out only blocks that match their checksum, or open.
struct Reader {
    file: File,
    name: String,
    length: u64,
    blocks: Blocks,
    /// The block at hand; its bytes from `at` on are still to be handed out.
    block: Vec<u8>,
    at: usize,
    /// Index of the block to read next.
    next: u64,
}

/// What blocks are tested with.
enum Blocks {
    /// Their checksums.
    Plain(Vec<u8>),
    Sealed(Stream),
}

impl Blocks {
    /// Bytes of a stored block beyond its content.
    fn overhead(&self) -> usize {
        match self {
            Blocks::Plain(_) => 0,
            Blocks::Sealed(_) => TAG,
        }
    }

    /// Whether `block` is right; it is content afterwards.
    fn test(&self, index: u64, last: bool, block: &mut Vec<u8>) -> bool {
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

impl Reader {
    fn open(path: &Path, id: &BlobId, offset: u64, keys: Option<&BlobKeys>) -> Result<Reader> {
        let name = hex(id);
        let damaged = |how: &str| StoreError::Damaged(format!("attachment {name} {how}"));
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => damaged("is gone"),
            _ => io_error("reading an attachment", &error),
        };
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let (length, blocks) = match keys {
            None => read_tail(&mut file, size).map_err(io)?.map_err(damaged)?,
            Some(keys) => read_sealed_tail(&mut file, size, id, keys).map_err(io)?.map_err(damaged)?,
        };
        let offset = offset.min(length);
        let next = offset / BLOCK as u64;
        file.seek(SeekFrom::Start(next * (BLOCK + blocks.overhead()) as u64)).map_err(io)?;
        let mut reader = Reader { file, name, length, blocks, block: Vec::new(), at: 0, next };
        let skip = (offset % BLOCK as u64) as usize;
        if skip > 0 {
            reader.read_block().map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => StoreError::Damaged(error.to_string()),
                _ => io_error("reading an attachment", &error),
            })?;
            reader.at = skip;
        }
        Ok(reader)
    }

    fn read_block(&mut self) -> io::Result<()> {
        let start = self.next * BLOCK as u64;
        let length = self.length.saturating_sub(start).min(BLOCK as u64) as usize;
        self.block.clear();
        self.at = 0;
        if length == 0 {
            return Ok(());
        }
        self.block.resize(length + self.blocks.overhead(), 0);
        if let Err(error) = self.file.read_exact(&mut self.block) {
            self.block.clear();
            return Err(error);
        }
        let last = start + length as u64 == self.length;
        if !self.blocks.test(self.next, last, &mut self.block) {
            self.block.clear();
            let what = format!("attachment {} does not match its checksum", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.next += 1;
        Ok(())
    }
}

/// Length and checksums of a file of `size` bytes, or what is wrong with it.
fn read_tail(file: &mut File, size: u64) -> io::Result<std::result::Result<(u64, Blocks), &'static str>> {
    let Some(tail_at) = size.checked_sub(TAIL as u64) else { return Ok(Err("is cut short")) };
    file.seek(SeekFrom::Start(tail_at))?;
    let mut tail = [0; TAIL];
    file.read_exact(&mut tail)?;
    let length = u64::from_le_bytes(*tail.first_chunk().unwrap_or(&[0; 8]));
    let sums_length = length.div_ceil(BLOCK as u64).saturating_mul(4);
    if &tail[12..] == SEALED_MAGIC {
        return Ok(Err("is sealed, and this folder is not encrypted"));
    }
    if &tail[12..] != MAGIC || length.checked_add(sums_length) != Some(tail_at) {
        return Ok(Err("is cut short"));
    }
    file.seek(SeekFrom::Start(length))?;
    let mut sums = vec![0; sums_length as usize];
    file.read_exact(&mut sums)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&sums);
    sum.update(&tail[..8]);
    if sum.finalize().to_le_bytes() != tail[8..12] {
        return Ok(Err("does not match its checksum"));
    }
    Ok(Ok((length, Blocks::Plain(sums))))
}

/// Length and stream of a sealed file, or what is wrong with it.
fn read_sealed_tail(
    file: &mut File,
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
    if &magic == MAGIC {
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

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.read_block()?;
        }
        let count = (&self.block[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
