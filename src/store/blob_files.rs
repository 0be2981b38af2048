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
use super::space::{Space, folder_bytes, io_error, make_dir, sync_dir};
use super::{Result, StoreError};
use crate::json::hex;

const BLOCK: usize = 64 << 10;
const MAGIC: &[u8; 9] = b"settee b1";
/// Length, checksum and magic at a file's end.
const TAIL: usize = 8 + 4 + 9;
/// Bytes written between two looks at the room on the device.
const LOOK: u64 = 4 << 20;

/// Blobs in a folder.
#[derive(Clone)]
pub(super) struct BlobFiles(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    space: Space,
    pins: Pins,
    next_temporary: AtomicU64,
    /// Bytes on disk, counted when first asked for.
    bytes: Mutex<Option<u64>>,
}

impl BlobFiles {
    /// Opens the folder, making it if need be, and clears what unfinished writers left.
    pub fn open(folder: &Path, space: Space) -> io::Result<BlobFiles> {
        let temporary = folder.join("tmp");
        make_dir(&temporary)?;
        for entry in std::fs::read_dir(&temporary)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(BlobFiles(Arc::new(Inner {
            folder: folder.to_path_buf(),
            space,
            pins: Pins::default(),
            next_temporary: AtomicU64::new(0),
            bytes: Mutex::new(None),
        })))
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let name = hex(id);
        self.0.folder.join(&name[..2]).join(name)
    }

    fn count(&self, change: impl FnOnce(u64) -> u64) {
        if let Some(bytes) = &mut *self.0.bytes.lock() {
            *bytes = change(*bytes);
        }
    }
}

struct Writer {
    to: BlobFiles,
    temporary: PathBuf,
    file: io::BufWriter<File>,
    length: u64,
    sha: Sha256,
    md5: Md5,
    /// The checksums of the blocks that are complete, then that of the block that is being filled.
    sums: Vec<u8>,
    block: crc32fast::Hasher,
    finished: bool,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| io_error("writing an attachment", &error))
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.sums.extend_from_slice(&block.finalize().to_le_bytes());
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length / LOOK != (self.length + bytes.len() as u64) / LOOK {
            self.to.0.space.room_for(LOOK)?;
        }
        self.sha.update(bytes);
        self.md5.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = BLOCK - (self.length % BLOCK as u64) as usize;
            let (now, later) = rest.split_at(left.min(rest.len()));
            self.block.update(now);
            self.length += now.len() as u64;
            if now.len() == left {
                self.end_block();
            }
            rest = later;
        }
        self.put(bytes)
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        if !self.length.is_multiple_of(BLOCK as u64) {
            self.end_block();
        }
        let mut tail = std::mem::take(&mut self.sums);
        tail.extend_from_slice(&self.length.to_le_bytes());
        let sum = crc32fast::hash(&tail);
        tail.extend_from_slice(&sum.to_le_bytes());
        tail.extend_from_slice(MAGIC);
        self.put(&tail)?;
        let io = |error: io::Error| io_error("writing an attachment", &error);
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;

        let id: BlobId = std::mem::take(&mut self.sha).finalize().into();
        let md5 = std::mem::take(&mut self.md5).finalize().into();
        // Pinned before it can be seen: the collector must not come between.
        let pin = self.to.0.pins.pin(&id);
        let path = self.to.path(&id);
        let folder = path.parent().unwrap_or(&self.to.0.folder);
        make_dir(folder).map_err(io)?;
        let replaced = std::fs::metadata(&path).map_or(0, |found| found.len());
        std::fs::rename(&self.temporary, &path).map_err(io)?;
        self.finished = true;
        sync_dir(folder).map_err(io)?;
        let written = self.length + tail.len() as u64;
        self.to.count(|bytes| (bytes + written).saturating_sub(replaced));
        Ok(Written { id, length: self.length, md5, pin })
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
        self.0.space.room_for(0)?;
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.folder.join("tmp").join(number.to_string());
        let file = File::create_new(&temporary).map_err(|error| io_error("writing an attachment", &error))?;
        Ok(Box::new(Writer {
            to: self.clone(),
            temporary,
            file: io::BufWriter::with_capacity(BLOCK, file),
            length: 0,
            sha: Sha256::new(),
            md5: Md5::new(),
            sums: Vec::new(),
            block: crc32fast::Hasher::new(),
            finished: false,
        }))
    }

    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Reader::open(&self.path(id), id, offset)?))
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

/// Reads a blob block by block and hands out only blocks that match their checksum.
struct Reader {
    file: File,
    name: String,
    length: u64,
    sums: Vec<u8>,
    /// The block at hand; its bytes from `at` on are still to be handed out.
    block: Vec<u8>,
    at: usize,
    /// Index of the block to read next.
    next: u64,
}

impl Reader {
    fn open(path: &Path, id: &BlobId, offset: u64) -> Result<Reader> {
        let name = hex(id);
        let damaged = |how: &str| StoreError::Damaged(format!("attachment {name} {how}"));
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => damaged("is gone"),
            _ => io_error("reading an attachment", &error),
        };
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let tail_at = size.checked_sub(TAIL as u64).ok_or_else(|| damaged("is cut short"))?;
        file.seek(SeekFrom::Start(tail_at)).map_err(io)?;
        let mut tail = [0; TAIL];
        file.read_exact(&mut tail).map_err(io)?;
        let length = u64::from_le_bytes(*tail.first_chunk().unwrap_or(&[0; 8]));
        let sums_length = length.div_ceil(BLOCK as u64).saturating_mul(4);
        if &tail[12..] != MAGIC || length.checked_add(sums_length) != Some(tail_at) {
            return Err(damaged("is cut short"));
        }
        file.seek(SeekFrom::Start(length)).map_err(io)?;
        let mut sums = vec![0; sums_length as usize];
        file.read_exact(&mut sums).map_err(io)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&sums);
        sum.update(&tail[..8]);
        if sum.finalize().to_le_bytes() != tail[8..12] {
            return Err(damaged("does not match its checksum"));
        }
        let offset = offset.min(length);
        let next = offset / BLOCK as u64;
        file.seek(SeekFrom::Start(next * BLOCK as u64)).map_err(io)?;
        let mut reader = Reader { file, name, length, sums, block: Vec::new(), at: 0, next };
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
        self.block.resize(length, 0);
        self.at = 0;
        if length == 0 {
            return Ok(());
        }
        self.file.read_exact(&mut self.block)?;
        let sum_at = self.next as usize * 4;
        self.next += 1;
        if self.sums.get(sum_at..sum_at + 4) != Some(&crc32fast::hash(&self.block).to_le_bytes()[..]) {
            self.block.clear();
            let what = format!("attachment {} does not match its checksum", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
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
