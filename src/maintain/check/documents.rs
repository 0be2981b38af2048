//! Checks documents: their records, rows, bodies and attachments.

use std::collections::HashSet;
use std::io::Read;

use md5::{Digest, Md5};

use super::state::Check;
use crate::db::record::{Attachment, BodyRecord, DocumentRecord, Info, SequenceRow};
use crate::db::{Conflicted, Tally};
use crate::error::{Error, Result};
use crate::maintain::walk::Found;
use crate::store::blob::blobs::BlobId;
use crate::store::keyspace;

/// Sums over the documents of one database, which the stored counters must equal.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) documents: u64,
    pub(super) live: u64,
    pub(super) rows: u64,
    pub(super) bodies: u64,
    pub(super) leaf_bytes: u64,
    pub(super) all_bytes: u64,
    pub(super) record_bytes: u64,
    /// Documents with each kind of conflict.
    pub(super) conflicted: [u64; 2],
}

impl Check<'_> {
    pub(super) fn documents(
        &mut self,
        number: u64,
        name: &str,
        info: &Info,
        page: Vec<Found>,
        sums: &mut Sums,
    ) -> Result<()> {
        let mut records = Vec::with_capacity(page.len());
        for (key, value) in page {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
            let length = value.as_ref().map_or(0, Vec::len);
            match value.and_then(|value| DocumentRecord::decode(&id, &value).map_err(|error| error.to_string())) {
                Ok(record) => records.push((id, record, length)),
                Err(error) => {
                    sums.documents += 1;
                    self.found.problem(format!("{name}: {error}"));
                }
            }
        }
        let row_keys: Vec<_> =
            records.iter().map(|(_, record, _)| keyspace::sequence(number, record.sequence)).collect();
        let rows = self.store.get_each(&row_keys)?;
        for ((id, record, length), row) in records.iter().zip(rows) {
            sums.documents += 1;
            sums.record_bytes += *length as u64;
            let tally = Tally::of(&record.tree);
            for kind in Conflicted::ALL {
                sums.conflicted[kind as usize] += u64::from(tally.is(kind));
            }
            sums.live += u64::from(record.tree.winner().is_some_and(|winner| !winner.deleted));
            if record.sequence > info.sequence {
                self.found.problem(format!("{name}: document {id} is at {}, above update_seq", record.sequence));
            }
            match row.map_err(Error::from).and_then(|row| row.map(|row| SequenceRow::decode(&row)).transpose()) {
                Err(error) => {
                    sums.rows += 1;
                    self.found.problem(format!("{name}: {error}"));
                }
                Ok(None) => self.found.problem(format!("{name}: document {id} is missing in the changes order")),
                Ok(Some(row)) => {
                    sums.rows += 1;
                    if row != record.sequence_row(id) {
                        self.found.problem(format!("{name}: the changes row of document {id} differs from its record"));
                    }
                }
            }
            self.tree(number, name, id, record, sums)?;
        }
        Ok(())
    }

    fn tree(&mut self, number: u64, name: &str, id: &str, record: &DocumentRecord, sums: &mut Sums) -> Result<()> {
        let nodes: Vec<_> = record.tree.nodes().iter().filter_map(|node| node.body.map(|body| (node, body))).collect();
        let body_keys: Vec<_> =
            nodes.iter().map(|(_, body)| keyspace::body(number, body.sequence, body.index)).collect();
        for chunk in nodes.chunks(64).zip(body_keys.chunks(64)) {
            for ((node, body), value) in chunk.0.iter().zip(self.store.get_each(chunk.1)?) {
                sums.all_bytes += body.bytes;
                if node.is_leaf() {
                    sums.leaf_bytes += body.bytes;
                }
                let revision = &node.revision;
                let value = match value {
                    Ok(Some(value)) => value,
                    Ok(None) => {
                        self.found
                            .problem(format!("{name}: the body of revision {revision} of document {id} is missing"));
                        continue;
                    }
                    Err(error) => {
                        sums.bodies += 1;
                        let error = Error::from(error);
                        self.found.problem(format!("{name}: revision {revision} of document {id}: {error}"));
                        continue;
                    }
                };
                sums.bodies += 1;
                match BodyRecord::decode(id, value) {
                    Err(error) => self.found.problem(format!("{name}: {error}")),
                    Ok(found) => {
                        if found.bytes() != body.bytes {
                            let what = format!("{name}: revision {revision} of document {id} has a wrong length");
                            self.found.problem(what);
                        }
                        self.attachments(number, name, id, (body.sequence, body.index), &found.attachments)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn attachments(
        &mut self,
        number: u64,
        name: &str,
        id: &str,
        at: (u64, u32),
        attachments: &[Attachment],
    ) -> Result<()> {
        let distinct: HashSet<&BlobId> = attachments.iter().map(|attachment| &attachment.blob).collect();
        let wanted: Vec<_> = distinct.iter().map(|blob| keyspace::blob_reference(blob, number, at.0, at.1)).collect();
        for reference in self.store.get_each(&wanted)? {
            match reference {
                Ok(Some(_)) => self.references += 1,
                Ok(None) => self.found.problem(format!("{name}: an attachment of document {id} has no reference")),
                Err(error) => {
                    self.references += 1;
                    self.found.problem(Error::from(error).to_string());
                }
            }
        }
        for attachment in attachments {
            if !self.seen.insert(attachment.blob) {
                continue;
            }
            self.found.attachments += 1;
            self.found.attachment_bytes += attachment.stored;
            if let Err(how) = self.read_blob(attachment) {
                self.broken.push(attachment.blob);
                self.found.problem(format!("{name}: attachment {} of document {id}: {how}", attachment.name));
            }
        }
        Ok(())
    }

    fn read_blob(&self, attachment: &Attachment) -> std::result::Result<(), String> {
        let mut content = self.blobs.open(&attachment.blob, 0).map_err(|error| error.to_string())?;
        let mut digest = Md5::new();
        let mut length = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = content.read(&mut buffer).map_err(|error| error.to_string())?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            length += count as u64;
        }
        if length != attachment.stored {
            return Err(format!("has {length} bytes instead of {}", attachment.stored));
        }
        if digest.finalize()[..] != attachment.md5 {
            return Err("does not match its digest".into());
        }
        Ok(())
    }
}
