//! Copies bodies and attachments.

use std::io::Read;

use md5::{Digest, Md5};

use super::state::{Salvage, Target};
use crate::db::record::{Attachment, BodyRecord};
use crate::error::{Error, Result};
use crate::rev::{Body, Revision};
use crate::store::blob::blobs::{BlobId, Pin};
use crate::store::keyspace;

impl Salvage<'_> {
    /// Copies the body of a revision and its attachments. Returns the body's size, or `None` if it is lost.
    pub(super) fn body(&mut self, target: &Target, id: &str, revision: &Revision, body: Body) -> Result<Option<u64>> {
        let name = &target.name;
        let value = match self.from.store.get(&keyspace::body(target.old, body.sequence, body.index)) {
            Ok(Some(value)) => value,
            Ok(None) => {
                self.found.lost(format!("{name}: revision {revision} of document {id}: its body is missing"));
                return Ok(None);
            }
            Err(error) => {
                self.found.lost(format!("{name}: revision {revision} of document {id}: {}", Error::from(error)));
                return Ok(None);
            }
        };
        let mut record = match BodyRecord::decode(id, value) {
            Ok(record) => record,
            Err(error) => {
                self.found.lost(format!("{name}: revision {revision} of document {id}: {error}"));
                return Ok(None);
            }
        };
        let attachments = std::mem::take(&mut record.attachments);
        for mut attachment in attachments {
            match self.attachment(&attachment)? {
                Ok(named) => {
                    attachment.blob = named;
                    record.attachments.push(attachment);
                }
                Err(how) => {
                    let of = &attachment.name;
                    self.found.lost(format!("{name}: attachment {of} of revision {revision} of document {id}: {how}"));
                }
            }
        }
        for attachment in &record.attachments {
            let key = keyspace::blob_reference(&attachment.blob, target.number, body.sequence, body.index);
            self.writes.put(key, Vec::new())?;
        }
        let bytes = record.bytes();
        self.writes.put(keyspace::body(target.number, body.sequence, body.index), record.encode())?;
        Ok(Some(bytes))
    }

    /// Copies an attachment's content unless it was copied before, and verifies its length and digest.
    /// Returns its blob id in the new folder, or the reason why it is lost.
    fn attachment(&mut self, attachment: &Attachment) -> Result<std::result::Result<BlobId, String>> {
        if let Some(taken) = self.taken.get(&attachment.blob) {
            return Ok(taken.as_ref().map(|(named, _)| *named).ok_or_else(|| "it is lost, see above".to_owned()));
        }
        let copied = self.copy(attachment)?;
        let taken = copied.as_ref().ok().cloned();
        self.found.attachments += u64::from(taken.is_some());
        self.taken.insert(attachment.blob, taken);
        Ok(copied.map(|(named, _)| named))
    }

    fn copy(&mut self, attachment: &Attachment) -> Result<std::result::Result<(BlobId, Pin), String>> {
        let mut content = match self.from.blobs.open(&attachment.blob, 0) {
            Ok(content) => content,
            Err(error) => return Ok(Err(Error::from(error).to_string())),
        };
        let mut writer = self.blobs.create()?;
        let (mut digest, mut length) = (Md5::new(), 0);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Ok(Err(error.to_string())),
            };
            digest.update(&buffer[..count]);
            length += count as u64;
            writer.write(&buffer[..count])?;
        }
        if length != attachment.stored || digest.finalize()[..] != attachment.md5 {
            return Ok(Err("it does not match its length and digest".into()));
        }
        let written = writer.finish()?;
        Ok(Ok((written.id, written.pin)))
    }

    /// Removes a body that was copied, and its blob references.
    pub(super) fn forget(&mut self, target: &Target, (sequence, index): (u64, u32)) -> Result<()> {
        self.writes.flush()?;
        let key = keyspace::body(target.number, sequence, index);
        if let Some(value) = self.store.get(&key)? {
            for attachment in BodyRecord::decode("", value)?.attachments {
                self.writes.delete(keyspace::blob_reference(&attachment.blob, target.number, sequence, index));
            }
        }
        self.writes.delete(key);
        Ok(())
    }
}
