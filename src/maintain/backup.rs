//! `settee backup`: a copy of everything, taken from a running server; each database as of one moment.
//!
//! The engines have no snapshots, so a database is read in passes along its changes order. A document that
//! changes behind a pass gets a higher sequence, and the next pass reads it again. When few changes are left,
//! the last pass runs while the database's writer is blocked:
//!
//! ```text
//! _local documents > changes 0..a > changes a..b > ... > writer held: changes z..end, purges, counters
//! ```

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::sync::Arc;

use super::archive::{Kind, Writer};
use super::progress::{Hear, Progress};
use crate::db::record::{BodyRecord, DocumentRecord, Info, NameRecord, SequenceRow};
use crate::db::{Database, Databases};
use crate::error::{Error, Result};
use crate::store::blob::blobs::BlobId;
use crate::store::range::KeyRange;
use crate::store::{Direction, PageLimit, Store, keyspace, pages};

/// Documents per page.
const PAGE: usize = 200;
/// The writer is blocked for the last pass when at most this many changes are left.
const FEW: u64 = 500;
/// How often the last pass is tried on a shared store, where its time is limited.
const HOLDS: usize = 5;
/// Passes after which the writer is blocked, however many changes are left.
const PASSES: usize = 8;

/// Writes a backup of all databases and settings to `to`. Returns the number of databases and documents.
/// Blocks: call it off the async threads, within a tokio runtime.
///
/// # Errors
/// Any entry that cannot be read fails the backup, because an incomplete backup is worthless. `check` reports
/// what is damaged.
pub fn backup(databases: &Arc<Databases>, to: &mut dyn Write, hear: Hear) -> Result<(u64, u64)> {
    let mut buffered = io::BufWriter::with_capacity(1 << 20, to);
    let mut backup = Backup {
        store: databases.store().clone(),
        databases,
        out: Writer::new(&mut buffered).map_err(writing)?,
        blobs: HashSet::new(),
        hear,
        documents: 0,
        met: 0,
    };
    let count = backup.everything()?;
    let documents = backup.documents;
    buffered.flush().map_err(writing)?;
    Ok((count, documents))
}

fn writing(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull => Error::Full,
        _ => Error::Internal(format!("the backup could not be written: {error}")),
    }
}

/// A frame with a small record: its kind, its name if it has one, and its value.
type Small = (Kind, Option<Vec<u8>>, Vec<u8>);

struct Backup<'a> {
    store: Arc<dyn Store>,
    databases: &'a Arc<Databases>,
    out: Writer<'a>,
    /// Blobs that the backup contains already.
    blobs: HashSet<BlobId>,
    hear: Hear<'a>,
    documents: u64,
    /// Documents that the first passes have read.
    met: u64,
}

impl Backup<'_> {
    fn everything(&mut self) -> Result<u64> {
        for range in [keyspace::configs(), keyspace::servers()] {
            self.each(range, Kind::Setting, |key| key.to_vec())?;
        }
        let mut count = 0u64;
        let store = self.store.clone();
        for page in pages(&*store, keyspace::names(None, None), Direction::Forward, PageLimit::entries(100)) {
            for (key, _) in page? {
                match self.databases.get(keyspace::name_of(&key)) {
                    Ok(database) => match self.database(&database) {
                        // The database was deleted during the backup. Restore drops a database without
                        // counters.
                        Err(Error::NoDatabase) => {}
                        other => {
                            other?;
                            count += 1;
                        }
                    },
                    Err(Error::NoDatabase) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut end = count.to_be_bytes().to_vec();
        end.extend_from_slice(&self.documents.to_be_bytes());
        self.out.plain(Kind::End, &end).map_err(writing)?;
        Ok(count)
    }

    /// Writes all entries of a range, each under the name that `name` derives from its key.
    fn each(&mut self, range: KeyRange, kind: Kind, name: impl Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        for page in pages(&*self.store, range, Direction::Forward, PageLimit::entries(1000)) {
            for (key, value) in page? {
                self.out.keyed(kind, &name(&key), &value).map_err(writing)?;
            }
        }
        Ok(())
    }

    fn database(&mut self, database: &Arc<Database>) -> Result<()> {
        let number = database.number();
        let record = self.store.get(&keyspace::name(database.name()))?.ok_or(Error::NoDatabase)?;
        if NameRecord::decode(&record)?.number != number {
            // Another node has deleted it and created it again.
            return Err(Error::NoDatabase);
        }
        self.out.keyed(Kind::Database, database.name().as_bytes(), &record).map_err(writing)?;
        self.each(keyspace::kind(number, keyspace::Kind::Local), Kind::Local, |key| keyspace::rest_of(key).to_vec())?;
        let mut purged_before = database.info_now()?.purge_sequence;
        let mut done = 0;
        let mut first = true;
        for _ in 0..PASSES {
            let goal = database.info_now()?.sequence;
            done = self.pass(database, done, goal, first)?;
            first = false;
            // A commit may be visible before the counters include it.
            if database.info_now()?.sequence.saturating_sub(done) <= FEW {
                break;
            }
        }
        for _ in 0..HOLDS {
            // The writer runs on its own blocking thread, where it waits until `hold` is dropped.
            let held = database.clone();
            let hold = crate::blocking::wait(async move { held.hold().await })?;
            let info = self.last_changes(database, done, purged_before)?;
            let small = self.small_records(number)?;
            if !hold.has_lasted()? {
                // On a shared store, a hold has an end. What has changed since is read by the next one.
                (done, purged_before) = (info.sequence, info.purge_sequence);
                continue;
            }
            drop(hold);
            for (kind, name, value) in small {
                match name {
                    Some(name) => self.out.keyed(kind, &name, &value).map_err(writing)?,
                    None => self.out.plain(kind, &value).map_err(writing)?,
                }
            }
            self.documents += info.documents + info.deleted;
            return self.out.plain(Kind::Counters, &info.of_one_node().encode()).map_err(writing);
        }
        Err(Error::Internal(format!("the last changes of {} cannot be copied in time", database.name())))
    }

    /// Writes what has changed since the passes before. Returns the counters, which belong to what is written unless
    /// there were writes meanwhile.
    fn last_changes(&mut self, database: &Arc<Database>, done: u64, purged_before: u64) -> Result<Info> {
        let number = database.number();
        let value = self.store.get(&keyspace::info(number))?.ok_or(Error::NoDatabase)?;
        let info = Info::decode(&value)?;
        self.pass(database, done, info.sequence, false)?;
        // A document that was purged completely has no sequence any more, so its purge request leads to it.
        let mut after = purged_before;
        loop {
            let page = database.purges(after, 1000)?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            let ids: Vec<String> = page.into_iter().map(|(_, purge)| purge.id).collect();
            self.documents(database, &ids, Kind::Changed)?;
        }
        Ok(info)
    }

    /// Reads `_security`, `_auto_purge` and the purge requests of a database: frames with or without a name.
    fn small_records(&self, number: u64) -> Result<Vec<Small>> {
        let mut found = Vec::new();
        for (kind, key) in
            [(Kind::Security, keyspace::security(number)), (Kind::AutoPurge, keyspace::auto_purge(number))]
        {
            found.extend(self.store.get(&key)?.map(|value| (kind, None, value)));
        }
        let range = keyspace::kind(number, keyspace::Kind::Purge);
        for page in pages(&*self.store, range, Direction::Forward, PageLimit::entries(1000)) {
            let frame = |(key, value): (Vec<u8>, _)| (Kind::Purge, Some(keyspace::rest_of(&key).to_vec()), value);
            found.extend(page?.into_iter().map(frame));
        }
        Ok(found)
    }

    /// Writes the documents that changed after `done`, up to the sequence `goal`. Returns the sequence that
    /// it reached.
    fn pass(&mut self, database: &Arc<Database>, mut done: u64, goal: u64, first: bool) -> Result<u64> {
        let number = database.number();
        // Stop at `goal`: a document that changes behind the first pass must be written by a later pass, as
        // `Changed`.
        let high = Bound::Included(keyspace::sequence(number, goal));
        while done < goal {
            let low = Bound::Excluded(keyspace::sequence(number, done));
            let page = self.store.scan(&(low, high.clone()), Direction::Forward, PageLimit::entries(PAGE))?;
            let Some((last, _)) = page.last() else { return Ok(done.max(goal)) };
            done = keyspace::sequence_of(last);
            let mut ids = Vec::with_capacity(page.len());
            for (_, row) in &page {
                ids.push(SequenceRow::decode(row)?.id);
            }
            self.documents(database, &ids, if first { Kind::Document } else { Kind::Changed })?;
            self.met += if first { ids.len() as u64 } else { 0 };
            (self.hear)(Progress { what: database.name(), done: self.met });
        }
        Ok(done)
    }

    /// Writes documents with everything that they refer to: attachments first, then bodies, then the record.
    fn documents(&mut self, database: &Arc<Database>, ids: &[String], kind: Kind) -> Result<()> {
        let number = database.number();
        let wanted: Vec<_> = ids.iter().map(|id| keyspace::document(number, id)).collect();
        let records = self.store.get_many(&wanted)?;
        for ((id, key), mut record) in ids.iter().zip(&wanted).zip(records) {
            // A compaction may remove old bodies after the record was read. Then the record has changed too.
            for attempt in 0.. {
                let Some(value) = &record else {
                    self.out.keyed(kind, id.as_bytes(), &[]).map_err(writing)?;
                    break;
                };
                if self.bodies(database, id, value)? {
                    self.out.keyed(kind, id.as_bytes(), value).map_err(writing)?;
                    break;
                }
                // The database was deleted during the backup, and its removal has begun with the bodies.
                if self.store.get(&keyspace::info(number))?.is_none() {
                    return Err(Error::NoDatabase);
                }
                let again = self.store.get(key)?;
                if attempt > 100 || again == record {
                    return Err(Error::Damaged(format!("a body of document {id} of {} is missing", database.name())));
                }
                record = again;
            }
        }
        Ok(())
    }

    /// Writes the bodies that a record refers to, with their attachments. Returns false if one is not stored
    /// any more.
    fn bodies(&mut self, database: &Arc<Database>, id: &str, record: &[u8]) -> Result<bool> {
        let number = database.number();
        let record = DocumentRecord::decode(id, record)?;
        let bodies: Vec<_> = record.tree.nodes().iter().filter_map(|node| node.body).collect();
        for some in bodies.chunks(64) {
            let wanted: Vec<_> = some.iter().map(|body| keyspace::body(number, body.sequence, body.index)).collect();
            for (key, value) in wanted.iter().zip(self.store.get_many(&wanted)?) {
                let Some(value) = value else { return Ok(false) };
                for attachment in BodyRecord::decode(id, value.clone())?.attachments {
                    if !self.blob(&attachment.blob)? {
                        return Ok(false);
                    }
                }
                self.out.keyed(Kind::Body, keyspace::rest_of(key), &value).map_err(writing)?;
            }
        }
        Ok(true)
    }

    /// Writes a blob unless the backup contains it already. Returns false if it is not stored any more.
    fn blob(&mut self, id: &BlobId) -> Result<bool> {
        if self.blobs.contains(id) {
            return Ok(true);
        }
        let blobs = self.databases.blobs();
        let _pin = blobs.pin(id);
        if !blobs.contains(id)? {
            return Ok(false);
        }
        let mut content = blobs.open(id, 0)?;
        self.out.plain(Kind::Blob, id).map_err(writing)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = content.read(&mut buffer).map_err(|error| Error::Damaged(error.to_string()))?;
            self.out.plain(Kind::Content, &buffer[..count]).map_err(writing)?;
            if count == 0 {
                self.blobs.insert(*id);
                return Ok(true);
            }
        }
    }
}
