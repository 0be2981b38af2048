//! Checks one database: its documents, counters, partitions, `_local` documents and purge requests.

use std::ops::Bound;

use super::documents::Sums;
use super::state::{Check, PAGE};
use crate::db::codec::decode_u64;
use crate::db::record::{Info, LocalRecord, PurgeRecord};
use crate::db::{AutoPurge, ConflictIndex, Conflicted, PartitionInfo, count_partition};
use crate::error::{Error, Result};
use crate::maintain::progress::Progress;
use crate::maintain::walk::Walk;
use crate::store::keyspace::{self, Kind};

impl Check<'_> {
    pub(super) fn database(&mut self, number: u64, name: &str) -> Result<()> {
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
        self.conflicts(number, name, &info, sums.conflicted)?;
        self.locals_and_purges(number, name, &info)?;
        self.partitions(number, name)?;
        self.found.documents += sums.documents;
        self.found.bodies += sums.bodies;
        Ok(())
    }

    /// Compares a complete index of conflicts, and its counts, with the documents. The server completes one that is
    /// not: in a store of an older settee, and after documents were written that have no conflict.
    fn conflicts(&mut self, number: u64, name: &str, info: &Info, counted: [u64; 2]) -> Result<()> {
        let index = match info.commits > 0 {
            true => info.conflicts,
            false => {
                match ConflictIndex::read(self.value(&keyspace::conflict_index(number))?.as_deref(), info.sequence) {
                    Ok(index) => index,
                    Err(error) => {
                        self.found.problem(format!("{name}: {error}"));
                        return Ok(());
                    }
                }
            }
        };
        for kind in Conflicted::ALL.into_iter().filter(|_| index.is_complete()) {
            let entries = self.count_keys(keyspace::conflicts(number, kind as u8))?;
            let (told, documents) = (index.count(kind), counted[kind as usize]);
            if entries != told || entries != documents {
                self.found.problem(format!(
                    "{name}: {entries} entries of documents in conflict, counted as {told}; there are {documents}"
                ));
            }
        }
        Ok(())
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
        let Some(sequence) = decode_u64(keyspace::rest_of(key)) else {
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
}
