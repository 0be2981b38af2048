//! `settee convert`: copies everything from one store into another, new one, perhaps of another engine.
//!
//! Unlike a backup that is restored, a converted database stays the same instance: clients go on where they were.

use std::collections::HashMap;

use super::bulk_writes::BulkWrites;
use super::progress::{Hear, Progress};
use crate::db::record::{BodyRecord, Info};
use crate::error::{Error, Result};
use crate::store::blob::blobs::{BlobId, Blobs};
use crate::store::{Direction, Entry, PageLimit, Store, keyspace, pages};

/// Attachments that are listed at a time.
const PAGE: usize = 1000;
/// The name that the progress shows while attachments are copied.
const ATTACHMENTS: &str = "attachments";

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Converted {
    pub entries: u64,
    pub attachments: u64,
}

/// Copies all entries but indexes, which are made again (that of conflicted documents, too), and all attachments. `hear` gets the number of attachments,
/// then, with the name of the store, the key of the last entry as the number of changes that `changes` makes of it.
///
/// # Errors
/// Errors of the stores. What has been written must then not be used.
pub fn convert(
    from: (&dyn Store, &dyn Blobs),
    to: (&dyn Store, &dyn Blobs),
    changes: &dyn Fn(&[u8]) -> Option<u64>,
    hear: Hear,
) -> Result<Converted> {
    let mut converted = Converted::default();
    let names = attachments(from.1, to.1, &mut converted, hear)?;
    let name = |blob: &BlobId| names.get(blob).copied().unwrap_or(*blob);
    let mut writes = BulkWrites::new(to.0);
    let everything = (std::ops::Bound::Excluded(keyspace::FORMAT.to_vec()), std::ops::Bound::Unbounded);
    for page in pages(from.0, everything, Direction::Forward, PageLimit::entries(PAGE)) {
        for entry in page? {
            if keyspace::is_index(&entry.0) || keyspace::is_of_conflicts(&entry.0) {
                continue;
            }
            if let Some(done) = changes(&entry.0) {
                hear(Progress { what: "", done });
            }
            let (key, value) = renamed(entry, &name)?;
            let value = match keyspace::number_of_info(&key).map(|_| Info::decode(&value)) {
                Some(Ok(info)) => info.without_conflict_index().encode(),
                _ => value,
            };
            writes.put(key, value)?;
            converted.entries += 1;
        }
    }
    writes.finish()?;
    Ok(converted)
}

/// Copies the attachments. Returns the new names of those whose names change: encrypted stores derive names with keys
/// of their own.
fn attachments(
    from: &dyn Blobs,
    to: &dyn Blobs,
    converted: &mut Converted,
    hear: Hear,
) -> Result<HashMap<BlobId, BlobId>> {
    let (mut names, mut after) = (HashMap::new(), None);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let page = from.list(after.as_ref(), PAGE)?;
        for id in &page {
            let mut content = from.open(id, 0)?;
            let mut writer = to.create()?;
            loop {
                match content.read(&mut buffer).map_err(|error| Error::Damaged(error.to_string()))? {
                    0 => break,
                    count => writer.write(&buffer[..count])?,
                }
            }
            let written = writer.finish()?;
            if written.id != *id {
                names.insert(*id, written.id);
            }
            converted.attachments += 1;
            hear(Progress { what: ATTACHMENTS, done: converted.attachments });
        }
        after = page.last().copied();
        if after.is_none() {
            return Ok(names);
        }
    }
}

/// The entry with new names of attachments, which stand in bodies and in references.
pub fn renamed((key, value): Entry, name: &dyn Fn(&BlobId) -> BlobId) -> Result<Entry> {
    if let Some(key) = keyspace::renamed_reference(&key, name) {
        return Ok((key, value));
    }
    if !keyspace::is_body(&key) {
        return Ok((key, value));
    }
    let cannot = |_| Error::Damaged(format!("{} cannot be read", keyspace::describe(&key)));
    let mut record = BodyRecord::decode("", value.clone()).map_err(cannot)?;
    let value = if record.rename(name) { record.encode() } else { value };
    Ok((key, value))
}
