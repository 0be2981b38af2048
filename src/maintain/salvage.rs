//! `settee check --salvage`: copies what a damaged data folder still holds into a new folder, and lists what
//! is lost.
//!
//! The damaged folder is read through a copy of its store (`store::salvage`) and is never modified. Salvage
//! copies:
//!
//! - settings, accounts, and every database whose name or number is known, with its `_security`, `_local`
//!   documents and purge requests;
//! - every revision of a document whose body verifies. A leaf without a readable body is replaced by its
//!   nearest ancestor that has one. A document without a readable record is rebuilt from its row in the
//!   changes order, without its history;
//! - every attachment that matches its length and digest. A revision that has lost an attachment is kept
//!   without it.
//!
//! The counters are computed from the copied documents, so that the new folder passes `settee check`. As
//! after a restore, each database gets a new instance id, so that clients read its changes from the start. A
//! lost `_security` is replaced by one that admits only admins.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use md5::{Digest, Md5};

use super::bulk_writes::BulkWrites;
use super::walk::{Found, Walk};
use super::{Hear, Progress};
use crate::clock::Clock;
use crate::db::AutoPurge;
use crate::db::record::{
    Attachment, BodyRecord, DocumentRecord, Info, LocalRecord, NameRecord, PurgeRecord, SequenceRow,
};
use crate::error::{Error, Result};
use crate::rev::{Body, Revision, Tree};
use crate::store::Store;
use crate::store::blob::blobs::{BlobId, Blobs, Pin};
use crate::store::embedded::salvage::{Source, database, last_sequence};
use crate::store::keyspace::{self, Kind};
use crate::store::range::KeyRange;

/// Losses that are listed; the rest are only counted.
const TOLD: usize = 1000;
const ADMINS_ONLY: &str = r#"{"members":{"roles":["_admin"]},"admins":{"roles":["_admin"]}}"#;

/// What a salvage copied and what it lost.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Salvaged {
    pub databases: u64,
    pub documents: u64,
    pub attachments: u64,
    /// Descriptions of the first thousand losses.
    pub lost: Vec<String>,
    /// Number of losses, including those that are not in `lost`.
    pub lost_count: u64,
}

impl Salvaged {
    fn lost(&mut self, what: String) {
        self.lost_count += 1;
        if self.lost.len() < TOLD {
            self.lost.push(what);
        }
    }
}

/// Copies what `from` holds into `store` and `blobs`, which hold no databases yet.
///
/// # Errors
/// Errors of the new folder. Damage to the old folder is reported in [`Salvaged`].
pub fn salvage(from: &Source, store: &dyn Store, blobs: &dyn Blobs, clock: &Clock, hear: Hear) -> Result<Salvaged> {
    let mut salvage = Salvage {
        from,
        store,
        blobs,
        clock,
        hear,
        number: 0,
        taken: HashMap::new(),
        writes: BulkWrites::new(store),
        found: Salvaged::default(),
    };
    from.lost.iter().for_each(|lost| salvage.found.lost(lost.clone()));
    salvage.everything()?;
    Ok(salvage.found)
}

struct Salvage<'a> {
    from: &'a Source,
    store: &'a dyn Store,
    blobs: &'a dyn Blobs,
    clock: &'a Clock,
    hear: Hear<'a>,
    /// The last database number assigned in the new folder.
    number: u64,
    /// Outcome of each attachment: its blob id in the new folder, or `None` if it is lost.
    taken: HashMap<BlobId, Option<(BlobId, Pin)>>,
    writes: BulkWrites<'a>,
    found: Salvaged,
}

/// The database that is being copied, with its number in the old and in the new folder.
struct Target {
    name: String,
    old: u64,
    number: u64,
    info: Info,
}

impl Salvage<'_> {
    fn everything(&mut self) -> Result<()> {
        for (what, range) in [("setting", keyspace::configs()), ("server state", keyspace::servers())] {
            self.each(range, &mut |salvage, (key, value)| match value {
                Ok(value) => salvage.writes.put(key, value),
                Err(error) => {
                    salvage.found.lost(format!("a {what}: {error}"));
                    Ok(())
                }
            })?;
        }
        for (old, (name, record)) in self.names()? {
            self.database(old, name, record)?;
        }
        self.writes.put(keyspace::LAST_NUMBER.to_vec(), self.number.to_be_bytes().to_vec())?;
        self.writes.finish()?;
        Ok(())
    }

    /// Calls `each` for every entry in a range of the damaged store, including unreadable ones.
    fn each(&mut self, range: KeyRange, each: &mut dyn FnMut(&mut Self, Found) -> Result<()>) -> Result<()> {
        let source = self.from;
        let mut walk = Walk::over(range);
        loop {
            let page = walk.next(source.store.as_ref())?;
            if page.is_empty() {
                return Ok(());
            }
            page.into_iter().try_for_each(|found| each(self, found))?;
        }
    }

    /// The databases of the damaged folder, by number: those with a readable name record, and those that only
    /// the mark names, if any of their documents is readable.
    fn names(&mut self) -> Result<BTreeMap<u64, (String, NameRecord)>> {
        let mut names: BTreeMap<u64, (String, NameRecord)> = BTreeMap::new();
        let mut nameless = Vec::new();
        self.each(keyspace::names(None, None), &mut |salvage, (key, value)| {
            let name = keyspace::name_of(&key).to_owned();
            match value.and_then(|value| NameRecord::decode(&value).map_err(|error| error.to_string())) {
                Ok(record) => drop(names.insert(record.number, (name, record))),
                Err(error) => {
                    nameless.push(name);
                    salvage.found.lost(format!("a database name: {error}"));
                }
            }
            Ok(())
        })?;
        let noted = self.from.noted.clone();
        for (number, (name, sequence)) in noted {
            let doomed = matches!(self.from.store.get(&keyspace::doomed(number)), Ok(Some(_)));
            if names.contains_key(&number) || doomed {
                continue;
            }
            let mut rows = Walk::over(keyspace::kind(number, Kind::Document));
            let left = rows.next(self.from.store.as_ref())?.iter().any(|(_, value)| value.is_ok());
            let known = database(number, &name);
            let name = match name.is_empty() {
                true => format!("salvaged-{number}"),
                false => name,
            };
            if !left {
                self.found.lost(format!("database {known}: all of it, up to sequence {sequence}"));
            } else if !names.values().any(|(taken, _)| *taken == name) {
                let (partitioned, q, n) = (false, 1, 1);
                let created = self.clock.since_epoch().as_millis() as u64;
                let record = NameRecord { number, instance: [0; 16], created, partitioned, q, n };
                self.found.lost(format!("database {known}: its name record, which said whether it was partitioned"));
                names.insert(number, (name, record));
            }
        }
        for name in nameless {
            if !names.values().any(|(known, _)| *known == name) {
                self.found.lost(format!("database {name}: its number, and therefore all its documents"));
            }
        }
        Ok(names)
    }

    fn database(&mut self, old: u64, name: String, record: NameRecord) -> Result<()> {
        self.number += 1;
        let number = self.number;
        let stored = self.value(&keyspace::info(old)).and_then(|value| Info::decode(&value?).ok());
        if stored.is_none() {
            self.found.lost(format!("{name}: its counters (recounted) and its limits"));
        }
        let before = stored.unwrap_or_default();
        if let Some((_, noted)) = self.from.noted.get(&old)
            && let Some(has) = last_sequence(self.from.store.as_ref(), old).map(|last| last.max(before.sequence))
            && has < *noted
        {
            self.found.lost(format!("{name}: sequences {} to {noted}", has + 1));
        }
        let noted = self.from.noted.get(&old).map_or(0, |(_, sequence)| *sequence);
        let info = Info {
            sequence: before.sequence.max(noted),
            documents: 0,
            deleted: 0,
            external: 0,
            records: 0,
            old: 0,
            ..before
        };
        let mut target = Target { name, old, number, info };
        self.documents(&mut target)?;
        self.rows(&mut target)?;
        self.beside(&mut target)?;
        let record = NameRecord { number, instance: self.clock.random_16(), ..record };
        self.writes.put(keyspace::info(number), target.info.encode())?;
        self.writes.put(keyspace::name(&target.name), record.encode())?;
        self.found.databases += 1;
        Ok(())
    }

    fn value(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.from.store.get(key).ok()
    }

    fn documents(&mut self, target: &mut Target) -> Result<()> {
        self.each(keyspace::kind(target.old, Kind::Document), &mut |salvage, (key, value)| {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
            let decoded =
                value.and_then(|value| DocumentRecord::decode(&id, &value).map_err(|error| error.to_string()));
            match decoded {
                Ok(record) => salvage.document(target, &id, record)?,
                Err(error) => salvage.found.lost(format!("{}: {error}", target.name)),
            }
            (salvage.hear)(Progress { what: &target.name, done: salvage.found.documents });
            Ok(())
        })
    }

    /// Rebuilds documents whose records are lost from their rows in the changes order.
    fn rows(&mut self, target: &mut Target) -> Result<()> {
        self.writes.flush()?;
        self.each(keyspace::kind(target.old, Kind::Sequence), &mut |salvage, (key, value)| {
            let decoded = value.and_then(|value| SequenceRow::decode(&value).map_err(|error| error.to_string()));
            let row = match decoded {
                Ok(row) => row,
                Err(error) => {
                    salvage.found.lost(format!("{}: a row of the changes order ({error})", target.name));
                    return Ok(());
                }
            };
            if salvage.store.get(&keyspace::document(target.number, &row.id))?.is_some() {
                return Ok(());
            }
            let mut tree = Tree::new();
            for leaf in &row.leaves {
                tree.merge(
                    leaf.revision.generation,
                    std::slice::from_ref(&leaf.revision.hash),
                    leaf.deleted,
                    leaf.body,
                );
            }
            if !tree.is_empty() {
                salvage
                    .found
                    .lost(format!("{}: the history of document {}, whose leaves are kept", target.name, row.id));
                let record = DocumentRecord { sequence: keyspace::sequence_of(&key), tree };
                salvage.document(target, &row.id, record)?;
                salvage.writes.flush()?;
            }
            Ok(())
        })
    }

    /// Copies a document with every revision, body and attachment that can be read.
    fn document(&mut self, target: &mut Target, id: &str, record: DocumentRecord) -> Result<()> {
        let mut sizes: HashMap<(u64, u32), Option<u64>> = HashMap::new();
        for node in record.tree.nodes() {
            if let Some(body) = node.body {
                let size = self.body(target, id, &node.revision, body)?;
                sizes.insert((body.sequence, body.index), size);
            }
        }
        let kept = |body: Body| {
            let bytes = *sizes.get(&(body.sequence, body.index))?;
            Some(Body { bytes: bytes?, ..body })
        };
        let lost: Vec<Revision> = record
            .tree
            .leaves()
            .into_iter()
            .filter(|leaf| leaf.body.is_some_and(|body| kept(body).is_none()))
            .map(|leaf| leaf.revision.clone())
            .collect();
        let mut tree = record.tree.clone();
        tree.remove_leaves(&lost);
        for revision in &lost {
            let path: Vec<_> = record.tree.ancestry(revision).collect();
            if let Some(at) = path.iter().position(|node| node.body.and_then(kept).is_some()) {
                let hashes: Vec<_> = path[at..].iter().map(|node| node.revision.hash.clone()).collect();
                tree.merge(path[at].revision.generation, &hashes, path[at].deleted, path[at].body);
            }
        }
        tree.change_bodies(&mut |body| kept(body));
        let Some(winner) = tree.winner() else {
            self.found.lost(format!("{}: all of document {id}", target.name));
            return Ok(());
        };
        let info = &mut target.info;
        match winner.deleted {
            true => info.deleted += 1,
            false => info.documents += 1,
        }
        for node in tree.nodes() {
            let bytes = node.body.map_or(0, |body| body.bytes);
            match node.is_leaf() {
                true => info.external += bytes,
                false => info.old += bytes,
            }
        }
        // Removes the copied bodies that the rebuilt tree no longer refers to.
        let named: Vec<_> =
            tree.nodes().iter().filter_map(|node| node.body).map(|body| (body.sequence, body.index)).collect();
        for place in
            sizes.into_iter().filter(|(place, size)| size.is_some() && !named.contains(place)).map(|(place, _)| place)
        {
            self.forget(target, place)?;
        }
        let record = DocumentRecord { tree, ..record };
        target.info.sequence = target.info.sequence.max(record.sequence);
        let value = record.encode();
        target.info.records += value.len() as u64;
        self.writes.put(keyspace::sequence(target.number, record.sequence), record.sequence_row(id).encode())?;
        self.writes.put(keyspace::document(target.number, id), value)?;
        self.found.documents += 1;
        Ok(())
    }

    /// Copies the body of a revision and its attachments. Returns the body's size, or `None` if it is lost.
    fn body(&mut self, target: &Target, id: &str, revision: &Revision, body: Body) -> Result<Option<u64>> {
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
    fn forget(&mut self, target: &Target, (sequence, index): (u64, u32)) -> Result<()> {
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

    /// Copies `_local` documents, purge requests, `_security` and `_auto_purge`.
    fn beside(&mut self, target: &mut Target) -> Result<()> {
        let (old, number) = (target.old, target.number);
        self.each(keyspace::kind(old, Kind::Local), &mut |salvage, (key, value)| {
            let id = String::from_utf8_lossy(keyspace::rest_of(&key)).into_owned();
            let decoded = value.and_then(|value| match LocalRecord::decode(&id, &value) {
                Ok(_) => Ok(value),
                Err(error) => Err(error.to_string()),
            });
            match decoded {
                Ok(value) => salvage.writes.put(keyspace::local(number, &id), value),
                Err(error) => {
                    salvage.found.lost(format!("{}: a local document: {error}", target.name));
                    Ok(())
                }
            }
        })?;
        self.each(keyspace::kind(old, Kind::Purge), &mut |salvage, (key, value)| {
            let sequence = keyspace::rest_of(&key).try_into().ok().map(u64::from_be_bytes);
            let decoded = value.ok().and_then(|value| Some((PurgeRecord::decode(&value).ok()?, value)));
            match (sequence, decoded) {
                (Some(sequence), Some((record, value))) if sequence > target.info.forgotten_purges => {
                    target.info.purge_sequence = target.info.purge_sequence.max(sequence);
                    salvage.writes.put(keyspace::purge_uuid(number, &record.uuid), sequence.to_be_bytes().to_vec())?;
                    salvage.writes.put(keyspace::purge(number, sequence), value)
                }
                _ => {
                    salvage.found.lost(format!("{}: a purge request", target.name));
                    Ok(())
                }
            }
        })?;
        let security =
            self.value(&keyspace::security(old)).flatten().filter(|value| std::str::from_utf8(value).is_ok());
        if security.is_none() {
            self.found.lost(format!("{}: its _security; only admins have access until it is set again", target.name));
        }
        self.writes.put(keyspace::security(number), security.unwrap_or_else(|| ADMINS_ONLY.as_bytes().to_vec()))?;
        if let Some(Some(value)) = self.value(&keyspace::auto_purge(old))
            && AutoPurge::of(Some(&value)).is_ok()
        {
            self.writes.put(keyspace::auto_purge(number), value)?;
        }
        Ok(())
    }
}
