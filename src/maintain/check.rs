//! `settee check`: reads everything in a data folder and reports every inconsistency.
//!
//! Checks of each database:
//!
//! - every value matches its checksum and decodes, and every revision tree keeps its invariants;
//! - documents and sequence rows are one to one, each sequence row agrees with the document's record, and no
//!   sequence is above the database's last one;
//! - the stored counters equal the sums over the documents;
//! - every body that a revision tree refers to is stored and has the recorded length, and no other body is
//!   stored;
//! - every attachment is stored whole, matches its digest and has a reference, and every reference belongs to
//!   a body;
//! - purge requests and the index of their uuids agree.
//!
//! Checks of the whole folder: no database number is above the last assigned one, and entries belong only to
//! databases that have a name or are being removed. Nothing else may write to the folder during the check.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::ops::Bound;

use md5::{Digest, Md5};

use super::walk::{Found, Walk};
use super::{Hear, Progress, sweep};
use crate::db::record::{
    Attachment, BodyRecord, DocumentRecord, Info, LocalRecord, NameRecord, PurgeRecord, SequenceRow,
};
use crate::db::{AutoPurge, PartitionInfo, count_partition};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::keyspace::{self, Kind};
use crate::store::range::KeyRange;

/// Keys per page.
const PAGE: usize = 500;
/// Problems that are listed; the rest are only counted.
const TOLD: usize = 1000;

/// What a check found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checked {
    pub databases: u64,
    /// Number of documents, including deleted ones.
    pub documents: u64,
    /// Number of bodies that revision trees refer to and that are stored.
    pub bodies: u64,
    /// Number of distinct attachments that were read.
    pub attachments: u64,
    /// Stored bytes of these attachments.
    pub attachment_bytes: u64,
    /// Descriptions of the first thousand problems. Each names the database and the document.
    pub problems: Vec<String>,
    /// Number of problems, including those that are not in `problems`.
    pub problem_count: u64,
    /// Harmless leftovers that background work removes.
    pub notes: Vec<String>,
}

impl Checked {
    fn problem(&mut self, what: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(what);
        }
    }
}

/// Checks the whole folder. Returns damage in [`Checked`]; an `Err` means that an I/O error ended the check
/// itself.
pub fn check(store: &dyn Store, blobs: &dyn Blobs, hear: Hear) -> Result<Checked> {
    let mut check = Check { store, blobs, hear, found: Checked::default(), seen: HashSet::new(), references: 0 };
    check.everything()?;
    Ok(check.found)
}

struct Check<'a> {
    store: &'a dyn Store,
    blobs: &'a dyn Blobs,
    hear: Hear<'a>,
    found: Checked,
    /// Blobs that have been read and verified.
    seen: HashSet<BlobId>,
    /// Number of references from blobs to bodies that the bodies need.
    references: u64,
}

impl Check<'_> {
    fn everything(&mut self) -> Result<()> {
        if let Err(error) = self.store.complete() {
            self.found.problem(format!("the store is incomplete: {}", Error::from(error)));
        }
        let last_number = match self.value(keyspace::LAST_NUMBER)? {
            Some(value) => value.try_into().map(u64::from_be_bytes).unwrap_or_else(|_| {
                self.found.problem("the last database number cannot be read".into());
                u64::MAX
            }),
            None => 0,
        };
        let mut numbers = BTreeMap::new();
        let mut names = Walk::over(keyspace::names(None, None));
        loop {
            let page = names.next(self.store)?;
            if page.is_empty() {
                break;
            }
            for (key, value) in page {
                let name = keyspace::name_of(&key).to_owned();
                match value.and_then(|value| NameRecord::decode(&value).map_err(|error| error.to_string())) {
                    Err(error) => self.found.problem(error),
                    Ok(record) if record.number > last_number => {
                        self.found.problem(format!("{name}: its number {} was never assigned", record.number));
                    }
                    Ok(record) => {
                        if let Some(other) = numbers.insert(record.number, name.clone()) {
                            self.found.problem(format!("{name} and {other} have the same number {}", record.number));
                        }
                    }
                }
            }
        }
        for (number, name) in &numbers {
            self.database(*number, name)?;
            self.found.databases += 1;
        }
        self.orphans(&numbers)?;
        self.references(&numbers)?;
        self.loose_blobs()?;
        self.server_wide()
    }

    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.store.get_each(&[key.to_vec()])?.pop();
        match found {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => {
                self.found.problem(Error::from(error).to_string());
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn database(&mut self, number: u64, name: &str) -> Result<()> {
        let info = match self.value(&keyspace::info(number))?.map(|value| Info::decode(&value)) {
            Some(Ok(info)) => info,
            Some(Err(error)) => {
                self.found.problem(format!("{name}: {error}"));
                Info::default()
            }
            None => {
                self.found.problem(format!("{name}: its counters are missing"));
                Info::default()
            }
        };
        let mut sums = Sums::default();
        let mut documents = Walk::over(keyspace::kind(number, Kind::Document));
        loop {
            let page = documents.next(self.store)?;
            if page.is_empty() {
                break;
            }
            self.documents(number, name, &info, page, &mut sums)?;
            (self.hear)(Progress { what: name, done: self.found.documents + sums.documents });
        }
        for (what, counted, told) in [
            ("doc_count", sums.live, info.documents),
            ("doc_del_count", sums.documents - sums.live, info.deleted),
            ("the external size", sums.leaf_bytes, info.external),
            ("the size of old bodies", sums.all_bytes - sums.leaf_bytes, info.old),
            ("the size of the records", sums.record_bytes, info.records),
        ] {
            if counted != told {
                self.found.problem(format!("{name}: {what} is {told}, but the documents add up to {counted}"));
            }
        }
        let rows = self.count_keys(keyspace::kind(number, Kind::Sequence))?;
        if rows != sums.rows {
            self.found.problem(format!("{name}: {rows} rows in the changes order for {} documents", sums.documents));
        }
        let bodies = self.count_keys(keyspace::kind(number, Kind::Body))?;
        if bodies != sums.bodies {
            self.found.problem(format!("{name}: {bodies} bodies are stored, but documents refer to {}", sums.bodies));
        }
        self.locals_and_purges(number, name, &info)?;
        self.partitions(number, name)?;
        self.found.documents += sums.documents;
        self.found.bodies += sums.bodies;
        Ok(())
    }

    fn documents(&mut self, number: u64, name: &str, info: &Info, page: Vec<Found>, sums: &mut Sums) -> Result<()> {
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

    fn count_keys(&self, mut range: KeyRange) -> Result<u64> {
        let mut count = 0;
        loop {
            let page = self.store.keys(&range, 4 * PAGE)?;
            let Some(last) = page.last() else { return Ok(count) };
            range.0 = Bound::Excluded(last.clone());
            count += page.len() as u64;
        }
    }

    fn partitions(&mut self, number: u64, name: &str) -> Result<()> {
        let mut range = keyspace::kind(number, Kind::Partition);
        loop {
            let page = self.store.keys(&range, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            range.0 = Bound::Excluded(last.clone());
            for key in page {
                let partition = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
                let stored = PartitionInfo::of(self.store, number, &partition);
                match (stored, count_partition(self.store, number, &partition)) {
                    (Ok(stored), Ok(counted)) if stored == counted => {}
                    // A damaged document, which `documents` has reported already.
                    (Ok(_), Err(_)) => {}
                    (Ok(stored), Ok(counted)) => {
                        self.found
                            .problem(format!("{name}: partition {partition} has counters {stored:?} for {counted:?}"));
                    }
                    (Err(error), _) => self.found.problem(format!("{name}: {error}")),
                }
            }
        }
    }

    fn locals_and_purges(&mut self, number: u64, name: &str, info: &Info) -> Result<()> {
        for kind in [Kind::Local, Kind::Purge, Kind::Security, Kind::AutoPurge] {
            let mut walk = Walk::over(keyspace::kind(number, kind));
            loop {
                let page = walk.next(self.store)?;
                if page.is_empty() {
                    break;
                }
                for (key, value) in page {
                    let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
                    let wrong = match (kind, value) {
                        (_, Err(error)) => Some(error),
                        (Kind::Local, Ok(value)) => {
                            LocalRecord::decode(&id, &value).err().map(|error| error.to_string())
                        }
                        (Kind::Purge, Ok(value)) => self.purge(number, info, &key, &value)?,
                        (Kind::AutoPurge, Ok(value)) => {
                            AutoPurge::of(Some(&value)).err().map(|error| error.to_string())
                        }
                        (_, Ok(value)) => String::from_utf8(value).err().map(|_| "_security cannot be read".into()),
                    };
                    if let Some(wrong) = wrong {
                        self.found.problem(format!("{name}: {wrong}"));
                    }
                }
            }
        }
        let purges = self.count_keys(keyspace::kind(number, Kind::Purge))?;
        let uuids = self.count_keys(keyspace::kind(number, Kind::PurgeUuid))?;
        if purges != uuids {
            self.found.problem(format!("{name}: {purges} purge requests, but {uuids} purge uuids"));
        }
        Ok(())
    }

    fn purge(&self, number: u64, info: &Info, key: &[u8], value: &[u8]) -> Result<Option<String>> {
        let Some(sequence) = keyspace::rest_of(key).try_into().ok().map(u64::from_be_bytes) else {
            return Ok(Some("a purge request has an invalid key".into()));
        };
        let record = match PurgeRecord::decode(value) {
            Ok(record) => record,
            Err(error) => return Ok(Some(error.to_string())),
        };
        if sequence > info.purge_sequence || sequence <= info.forgotten_purges {
            return Ok(Some(format!("purge request {sequence} is out of range")));
        }
        let uuid = self.store.get(&keyspace::purge_uuid(number, &record.uuid)).map_err(Error::from);
        Ok(match uuid {
            Ok(Some(value)) if value == sequence.to_be_bytes() => None,
            Ok(_) => Some(format!("purge request {sequence} is not found by its uuid")),
            Err(error) => Some(error.to_string()),
        })
    }

    /// Finds entries whose database number belongs to no database name.
    fn orphans(&mut self, numbers: &BTreeMap<u64, String>) -> Result<()> {
        let mut next = 0;
        loop {
            let (low, _) = keyspace::database(next);
            let (_, high) = keyspace::database(u64::MAX);
            let Some(key) = self.store.keys(&(low, high), 1)?.pop() else { return Ok(()) };
            let Some(number) = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes) else {
                return Ok(());
            };
            if !numbers.contains_key(&number) {
                if self.value(&keyspace::doomed(number))?.is_some() {
                    self.found.notes.push(format!("deleted database number {number} is still to be removed"));
                } else {
                    self.found.problem(format!("entries of database number {number}, which has no name"));
                }
            }
            match number.checked_add(1) {
                Some(following) => next = following,
                None => return Ok(()),
            }
        }
    }

    /// Checks that every blob reference belongs to a body of an existing database. The walk over the bodies
    /// has found every reference that bodies need, so comparing the counts is enough.
    fn references(&mut self, numbers: &BTreeMap<u64, String>) -> Result<()> {
        let mut range = keyspace::all_blob_references();
        let mut living = 0;
        let mut doomed = 0;
        loop {
            let page = self.store.keys(&range, 4 * PAGE)?;
            let Some(last) = page.last() else { break };
            range.0 = Bound::Excluded(last.clone());
            for key in page {
                let number = key.get(33..41).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                match number {
                    Some(number) if numbers.contains_key(&number) => living += 1,
                    _ => doomed += 1,
                }
            }
        }
        if living != self.references {
            let needed = self.references;
            self.found.problem(format!("{living} references to attachments, but the bodies need {needed}"));
        }
        if doomed > 0 {
            self.found.notes.push(format!("{doomed} references to attachments of deleted databases"));
        }
        Ok(())
    }

    fn loose_blobs(&mut self) -> Result<()> {
        let mut after = None;
        let mut loose = 0;
        loop {
            let page = self.blobs.list(after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for id in &page {
                loose += u64::from(!self.seen.contains(id) && !sweep::is_referenced(self.store, id)?);
            }
        }
        if loose > 0 {
            self.found.notes.push(format!("{loose} unreferenced attachments are still to be removed"));
        }
        Ok(())
    }

    /// Checks the checksums of settings and of other server-wide entries.
    fn server_wide(&mut self) -> Result<()> {
        let mut walk = Walk::over((Bound::Unbounded, keyspace::database(0).0));
        loop {
            let page = walk.next(self.store)?;
            if page.is_empty() {
                return Ok(());
            }
            for (_, value) in page {
                if let Err(error) = value {
                    self.found.problem(error);
                }
            }
        }
    }
}

/// Sums over the documents of one database, which the stored counters must equal.
#[derive(Default)]
struct Sums {
    documents: u64,
    live: u64,
    rows: u64,
    bodies: u64,
    leaf_bytes: u64,
    all_bytes: u64,
    record_bytes: u64,
}
