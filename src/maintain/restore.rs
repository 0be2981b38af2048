//! `settee restore`: restores a backup into a new data folder.
//!
//! A restored database gets a new instance id. A client that has seen later sequences than the backup holds
//! therefore reads the changes from the start, instead of missing the next writes.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use super::archive::{Frame, Kind, Reader};
use super::bulk_writes::BulkWrites;
use super::progress::{Hear, Progress};
use crate::clock::Clock;
use crate::db::record::{BodyRecord, DocumentRecord, NameRecord, PurgeRecord};
use crate::error::{Error, Result};
use crate::rev::Body;
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::{PageLimit, Store, keyspace};

/// What a restore has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    pub databases: u64,
    pub documents: u64,
    pub attachments: u64,
}

/// Restores a backup into a store that has no databases.
///
/// # Errors
/// `BadRequest` if the store has databases, or if the backup is truncated or damaged. After an error, the
/// data that has been restored must not be used.
pub fn restore(
    store: &dyn Store,
    blobs: &dyn Blobs,
    clock: &Clock,
    from: &mut dyn Read,
    hear: Hear,
) -> Result<Restored> {
    use crate::store::Direction;
    if !store.scan(&keyspace::names(None, None), Direction::Forward, PageLimit::entries(1))?.is_empty() {
        return Err(Error::BadRequest("this data folder has databases: restore needs a new folder".into()));
    }
    let mut buffered = io::BufReader::with_capacity(1 << 20, from);
    let mut restore = Restore {
        store,
        blobs,
        clock,
        hear,
        number: 0,
        open: None,
        renamed: HashMap::new(),
        writes: BulkWrites::new(store),
        restored: Restored { databases: 0, documents: 0, attachments: 0 },
    };
    restore.everything(&mut Reader::new(&mut buffered).map_err(reading)?)?;
    Ok(restore.restored)
}

fn reading(error: io::Error) -> Error {
    Error::BadRequest(error.to_string())
}

fn damaged() -> Error {
    Error::BadRequest("this backup cannot be restored: its frames are inconsistent".into())
}

struct Restore<'a> {
    store: &'a dyn Store,
    blobs: &'a dyn Blobs,
    clock: &'a Clock,
    hear: Hear<'a>,
    /// The last database number assigned.
    number: u64,
    /// The database to which the current frames belong.
    open: Option<(String, NameRecord)>,
    /// Blob id in the backup → blob id here, where they differ: an encrypted folder derives ids with its own
    /// key.
    renamed: HashMap<BlobId, BlobId>,
    writes: BulkWrites<'a>,
    restored: Restored,
}

impl Restore<'_> {
    fn everything(&mut self, frames: &mut Reader) -> Result<()> {
        loop {
            let frame = frames.frame().map_err(reading)?;
            match frame.kind {
                Kind::Setting => {
                    let (key, value) = frame.keyed().map_err(reading)?;
                    self.writes.put(key.to_vec(), value.to_vec())?;
                }
                Kind::Database => self.begin(&frame)?,
                Kind::Blob => self.blob(&frame, frames)?,
                Kind::Content => return Err(damaged()),
                Kind::End => {
                    self.writes.finish()?;
                    let told = frame.payload.first_chunk().map(|count| u64::from_be_bytes(*count));
                    return if told == Some(self.restored.databases) { Ok(()) } else { Err(damaged()) };
                }
                _ => self.of_database(&frame)?,
            }
        }
    }

    fn begin(&mut self, frame: &Frame) -> Result<()> {
        let (name, record) = frame.keyed().map_err(reading)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged())?.to_owned();
        if let Some((_, record)) = self.open.take() {
            // The previous database was deleted during its backup. Mark it for removal in the background.
            self.writes.put(keyspace::doomed(record.number), vec![1])?;
        }
        self.number += 1;
        let record =
            NameRecord { number: self.number, instance: self.clock.random_16(), ..NameRecord::decode(record)? };
        self.writes.put(keyspace::LAST_NUMBER.to_vec(), self.number.to_be_bytes().to_vec())?;
        (self.hear)(Progress { what: &name, done: self.restored.documents });
        self.open = Some((name, record));
        Ok(())
    }

    fn blob(&mut self, frame: &Frame, frames: &mut Reader) -> Result<()> {
        let id: BlobId = frame.payload.as_slice().try_into().map_err(|_| damaged())?;
        let mut writer = self.blobs.create()?;
        loop {
            let content = frames.frame().map_err(reading)?;
            if content.kind != Kind::Content {
                return Err(damaged());
            }
            if content.payload.is_empty() {
                break;
            }
            writer.write(&content.payload)?;
        }
        let written = writer.finish()?;
        if written.id != id {
            self.renamed.insert(id, written.id);
        }
        self.restored.attachments += 1;
        Ok(())
    }

    fn of_database(&mut self, frame: &Frame) -> Result<()> {
        let Some((name, record)) = self.open.clone() else { return Err(damaged()) };
        let number = record.number;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| damaged());
        match frame.kind {
            Kind::Security => self.writes.put(keyspace::security(number), frame.payload.clone()),
            Kind::AutoPurge => self.writes.put(keyspace::auto_purge(number), frame.payload.clone()),
            Kind::Counters => {
                self.writes.put(keyspace::info(number), frame.payload.clone())?;
                self.writes.put(keyspace::name(&name), record.encode())?;
                self.restored.databases += 1;
                self.open = None;
                Ok(())
            }
            _ => {
                let (key, value) = frame.keyed().map_err(reading)?;
                match frame.kind {
                    Kind::Local => self.writes.put(keyspace::local(number, &text(key)?), value.to_vec()),
                    Kind::Body => self.body(number, key, value),
                    Kind::Document => self.document(number, &text(key)?, value),
                    Kind::Changed => {
                        self.forget(number, &text(key)?, value)?;
                        self.document(number, &text(key)?, value)
                    }
                    Kind::Purge => {
                        let purge = PurgeRecord::decode(value)?;
                        let sequence = key.try_into().map(u64::from_be_bytes).map_err(|_| damaged())?;
                        self.writes.put(keyspace::purge_uuid(number, &purge.uuid), sequence.to_be_bytes().to_vec())?;
                        self.writes.put(keyspace::purge(number, sequence), value.to_vec())
                    }
                    _ => Err(damaged()),
                }
            }
        }
    }

    fn body(&mut self, number: u64, key: &[u8], value: &[u8]) -> Result<()> {
        let (sequence, index) = key.split_first_chunk().ok_or_else(damaged)?;
        let sequence = u64::from_be_bytes(*sequence);
        let index = index.try_into().map(u32::from_be_bytes).map_err(|_| damaged())?;
        let mut record = BodyRecord::decode("", value.to_vec())?;
        let mut value = value.to_vec();
        if record.rename(&|blob| self.renamed.get(blob).copied().unwrap_or(*blob)) {
            value = record.encode();
        }
        for attachment in record.attachments {
            self.writes.put(keyspace::blob_reference(&attachment.blob, number, sequence, index), Vec::new())?;
        }
        self.writes.put(keyspace::body(number, sequence, index), value)
    }

    fn document(&mut self, number: u64, id: &str, value: &[u8]) -> Result<()> {
        if value.is_empty() {
            return Ok(());
        }
        let record = DocumentRecord::decode(id, value)?;
        self.writes.put(keyspace::sequence(number, record.sequence), record.sequence_row(id).encode())?;
        self.writes.put(keyspace::document(number, id), value.to_vec())?;
        self.restored.documents += 1;
        if self.restored.documents.is_multiple_of(1000)
            && let Some((name, _)) = &self.open
        {
            (self.hear)(Progress { what: name, done: self.restored.documents });
        }
        Ok(())
    }

    /// Removes the entries of a document's earlier state that its new record `value` does not refer to.
    fn forget(&mut self, number: u64, id: &str, value: &[u8]) -> Result<()> {
        self.writes.flush()?;
        let Some(old) = self.store.get(&keyspace::document(number, id))? else { return Ok(()) };
        let old = DocumentRecord::decode(id, &old)?;
        let place = |body: Body| (body.sequence, body.index);
        let kept: HashSet<(u64, u32)> = match value {
            [] => HashSet::new(),
            value => {
                let new = DocumentRecord::decode(id, value)?;
                new.tree.nodes().iter().filter_map(|node| node.body.map(place)).collect()
            }
        };
        self.writes.delete(keyspace::document(number, id));
        self.writes.delete(keyspace::sequence(number, old.sequence));
        for body in old.tree.nodes().iter().filter_map(|node| node.body) {
            if kept.contains(&place(body)) {
                continue;
            }
            let key = keyspace::body(number, body.sequence, body.index);
            if let Some(value) = self.store.get(&key)? {
                for attachment in BodyRecord::decode(id, value)?.attachments {
                    self.writes.delete(keyspace::blob_reference(&attachment.blob, number, body.sequence, body.index));
                }
            }
            self.writes.delete(key);
        }
        self.restored.documents -= 1;
        Ok(())
    }
}
