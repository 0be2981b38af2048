//! Removes old bodies in a draft, with their references to attachments.

use super::draft::Draft;
use crate::db::record::BodyRecord;
use crate::error::{Error, Result};
use crate::rev::Body;
use crate::store::{Store, keyspace};

/// Bytes of old bodies that are in memory at a time while they are removed.
const OLD_BODIES: u64 = 8 << 20;

impl Draft<'_> {
    /// Removes the bodies of a document, and their references to attachments.
    pub(super) fn drop_bodies(&mut self, id: &str, mut bodies: &[Body]) -> Result<()> {
        while !bodies.is_empty() {
            let mut bytes = 0;
            let fits = |body: &&Body| {
                bytes += body.bytes;
                bytes <= OLD_BODIES
            };
            let (some, rest) = bodies.split_at(bodies.iter().take_while(fits).count().max(1));
            self.drop_some_bodies(id, some)?;
            bodies = rest;
        }
        Ok(())
    }

    fn drop_some_bodies(&mut self, id: &str, bodies: &[Body]) -> Result<()> {
        let wanted: Vec<Vec<u8>> =
            bodies.iter().map(|body| keyspace::body(self.number, body.sequence, body.index)).collect();
        let values = self.store.get_each(&wanted)?;
        for ((body, key), value) in bodies.iter().zip(wanted).zip(values) {
            // A body that this draft has put is not stored yet. It is taken from the batch, and its
            // references are deleted there.
            let value = value.map(|value| {
                value.or_else(|| {
                    let mut writes = self.batch.writes.iter().rev();
                    writes.find(|(put, _)| *put == key).and_then(|(_, value)| value.clone())
                })
            });
            let record =
                value.map_err(Error::from).and_then(|value| value.map(|it| BodyRecord::decode(id, it)).transpose());
            match record {
                Ok(record) => {
                    for attachment in record.map(|record| record.attachments).unwrap_or_default() {
                        let reference =
                            keyspace::blob_reference(&attachment.blob, self.number, body.sequence, body.index);
                        self.batch.delete(reference);
                    }
                }
                // A damaged body is removed without being read, so that it does not block writes of the whole
                // document.
                Err(Error::Damaged(what)) => {
                    tracing::warn!("removing a damaged old body without reading it: {what}");
                    let references = references_of(self.store, self.number, body.sequence, body.index)?;
                    references.into_iter().for_each(|reference| self.batch.delete(reference));
                }
                Err(error) => return Err(error),
            }
            self.batch.delete(key);
        }
        Ok(())
    }
}

/// The blob references of a body that cannot be read, found by a scan of all references. Slow: used only for
/// damaged bodies.
pub(crate) fn references_of(store: &dyn Store, number: u64, sequence: u64, index: u32) -> Result<Vec<Vec<u8>>> {
    let mine = keyspace::blob_reference(&[0; 32], number, sequence, index);
    let mut range = keyspace::all_blob_references();
    let mut found = Vec::new();
    loop {
        let page = store.keys(&range, 4096)?;
        let Some(last) = page.last() else { return Ok(found) };
        range.0 = std::ops::Bound::Excluded(last.clone());
        found.extend(page.into_iter().filter(|key| key.get(33..) == mine.get(33..)));
    }
}
