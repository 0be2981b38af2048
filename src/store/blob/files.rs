//! Blobs as files: `blobs/ab/<64 hex digits>`, named by the SHA-256 of their content.
//!
//! `file_format` describes the content of a file.
//!
//! A blob is written to a file in `blobs/tmp`, which is synced and renamed; then the blob's folder is synced.
//! If the blob already has a file, the new one replaces it: both have the same content, unless the old file
//! was damaged, and then this repairs it. Only a small blob that was written a moment ago, and has been pinned
//! since, is not written again, because a document may have thousands of equal attachments.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use sha2::Sha256;

use super::blobs::{BlobId, BlobWriter, Blobs, Pin, Pins, Written};
use super::file_format::{Blocks, Form, read_sealed_tail, read_tail};
use crate::hex::hex;
use crate::store::crypto::cipher::{BLOCK, BlobKeys};
use crate::store::disk_space::{Space, folder_bytes, io_error, make_dir, sync_dir};
use crate::store::{Result, StoreError};

/// Bytes written between two checks of the free space on the device.
const LOOK: u64 = 4 << 20;

/// Blobs in a folder.
#[derive(Clone)]
pub(crate) struct BlobFiles(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    space: Space,
    /// `None` if the folder is not encrypted.
    keys: Option<BlobKeys>,
    pins: Pins,
    /// Which of the 256 folders are known to have their names on disk.
    named: Mutex<[bool; 256]>,
    next_temporary: AtomicU64,
    /// Bytes on disk, counted on first use.
    bytes: Mutex<Option<u64>>,
}

impl BlobFiles {
    /// Opens the folder, or creates it, and removes the files of unfinished writers.
    pub fn open(folder: &Path, space: Space, keys: Option<BlobKeys>) -> io::Result<BlobFiles> {
        let temporary = folder.join("tmp");
        make_dir(&temporary)?;
        for entry in std::fs::read_dir(&temporary)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(BlobFiles::as_it_is(folder, space, keys))
    }

    /// Opens the folder for reading. Creates and removes nothing.
    pub fn as_it_is(folder: &Path, space: Space, keys: Option<BlobKeys>) -> BlobFiles {
        BlobFiles(Arc::new(Inner {
            folder: folder.to_path_buf(),
            space,
            keys,
            pins: Pins::default(),
            named: Mutex::new([false; 256]),
            next_temporary: AtomicU64::new(0),
            bytes: Mutex::new(None),
        }))
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let name = hex(id);
        self.0.folder.join(&name[..2]).join(name)
    }

    /// The folder of a blob. It is not enough that the folder exists: its creator may not have synced its name
    /// yet, or may have been killed before.
    fn folder_of(&self, id: &BlobId) -> io::Result<PathBuf> {
        let folder = self.0.folder.join(hex(&id[..1]));
        let mut named = self.0.named.lock();
        if !named[usize::from(id[0])] || !folder.is_dir() {
            make_dir(&folder)?;
            sync_dir(&self.0.folder)?;
            named[usize::from(id[0])] = true;
        }
        Ok(folder)
    }

    fn writer(&self) -> Result<Writer> {
        self.0.space.room_for(0)?;
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.folder.join("tmp").join(number.to_string());
        Ok(Writer {
            to: self.clone(),
            file: Temporary { path: temporary, file: None, buffer: Vec::new(), bytes: 0 },
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

pub(crate) struct Writer {
    to: BlobFiles,
    file: Temporary,
    length: u64,
    sha: Sha256,
    md5: Md5,
    form: Form,
    finished: bool,
}

/// A file that is created only when there is a block to write, or when [`Temporary::sync`] is called.
struct Temporary {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    /// Bytes written so far, including those in the buffer.
    bytes: u64,
}

impl Temporary {
    fn write_out(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(File::create_new(&self.path)?);
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(file)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.write_out()?.sync_all()
    }

    fn remove(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.buffer.len() >= BLOCK {
            self.write_out()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out().map(drop)
    }
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
        // Pinned before the blob becomes visible, so that the sweep cannot remove it in between.
        let pin = self.to.0.pins.pin(&id);
        let is_small = self.file.file.is_none();
        if is_small && self.to.0.pins.is_written(&id) && self.to.contains(&id)? {
            return Ok(Written { id, length: self.length, md5, pin });
        }
        self.file.sync().map_err(io)?;
        let stored = self.file.bytes;
        let path = self.to.path(&id);
        let folder = self.to.folder_of(&id).map_err(io)?;
        let replaced = std::fs::metadata(&path).map_or(0, |found| found.len());
        std::fs::rename(&self.file.path, &path).map_err(io)?;
        self.finished = true;
        sync_dir(&folder).map_err(io)?;
        self.to.0.pins.written(&id);
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
            self.file.remove();
        }
    }
}

impl Blobs for BlobFiles {
    fn create(&self) -> Result<Box<dyn BlobWriter>> {
        Ok(Box::new(self.writer()?))
    }

    fn open(&self, id: &BlobId, offset: u64) -> Result<Box<dyn Read + Send>> {
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Damaged(format!("attachment {} is gone", hex(id))),
            _ => io_error("reading an attachment", &error),
        };
        let file = File::open(self.path(id)).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        Ok(Box::new(Reader::new(file, size, id, offset, self.0.keys.as_ref())?))
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
    HEXLOWER.decode(name.as_bytes()).ok()?.try_into().ok()
}

/// Reads a blob block by block. Returns only blocks that pass their checksum or authentication.
pub(crate) struct Reader<F> {
    file: F,
    name: String,
    length: u64,
    blocks: Blocks,
    /// The current block. Its bytes from `at` on have not been returned yet.
    block: Vec<u8>,
    at: usize,
    /// Index of the block to read next.
    next: u64,
}

impl<F: Read + Seek> Reader<F> {
    /// Reads the content of a blob file of `size` bytes from `offset` on.
    pub fn new(mut file: F, size: u64, id: &BlobId, offset: u64, keys: Option<&BlobKeys>) -> Result<Reader<F>> {
        let name = hex(id);
        let damaged = |how: &str| StoreError::Damaged(format!("attachment {name} {how}"));
        let io = |error: io::Error| io_error("reading an attachment", &error);
        let (length, blocks) = match keys {
            None => read_tail(&mut file, size, id).map_err(io)?.map_err(damaged)?,
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

impl<F: Read + Seek> Read for Reader<F> {
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
