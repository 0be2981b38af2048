//! Upkeep of the indexes of a node on a shared store. The indexes are in a local store of the node, apart from the
//! databases, and may be removed at any time: the next query rebuilds what it needs.
//!
//! The local store belongs to one history of the shared store: one cluster and epoch ([`settle`]). Within a history,
//! the number of a database is never reused, so an index belongs to one instance of its database.

use std::collections::HashMap;

use super::lsm;
use super::snapshot::{Histories, Name};
use crate::db::Databases;
use crate::error::Result;
use crate::store::{Store, keyspace};

/// Number of database records that are read at once.
const AT_ONCE: usize = 500;

/// Key of the entry that names the history of the shared store from which the indexes were built.
fn history_key() -> Vec<u8> {
    keyspace::server("index_history")
}

/// Removes all indexes from `indexes` unless they were built from this history: cluster `uuid` in `epoch`. Blocks on
/// the disk.
pub fn settle(histories: &Histories, indexes: &dyn Store, uuid: &str, epoch: u64) -> Result<()> {
    let history = format!("{uuid} {epoch}").into_bytes();
    if indexes.get(&history_key())?.as_ref() != Some(&history) {
        histories.remove_all(indexes)?;
        let mut batch = crate::store::Batch::new();
        batch.put(history_key(), history);
        indexes.commit(batch)?;
    }
    Ok(())
}

/// Removes the indexes of deleted databases and, if the others take more than `most` bytes, the least recently
/// used ones. Returns the number of removed indexes. Blocks on both stores.
pub fn remove_surplus(histories: &Histories, databases: &Databases, most: u64) -> Result<usize> {
    let indexes = &**databases.index_store();
    let mut stored = stored(indexes)?;
    histories.retain_used(|name| stored.contains_key(name));
    let mut numbers: Vec<u64> = stored.keys().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut removed = 0;
    let mut remove = |(number, signature): &Name| {
        removed += 1;
        histories.remove(indexes, &keyspace::index_prefix(*number, signature))
    };
    for some in numbers.chunks(AT_ONCE) {
        let keys: Vec<_> = some.iter().map(|number| keyspace::info(*number)).collect();
        for (number, info) in some.iter().zip(databases.store().get_many(&keys)?) {
            if info.is_none() {
                let gone: Vec<Name> = stored.keys().filter(|(of, _)| of == number).copied().collect();
                for name in gone {
                    remove(&name)?;
                    stored.remove(&name);
                }
            }
        }
    }
    let mut bytes: u64 = stored.values().sum();
    if bytes > most {
        // An index that was not used since the server's start has no time and therefore sorts first.
        let mut oldest: Vec<_> = stored.into_iter().map(|(name, bytes)| (histories.used(&name), name, bytes)).collect();
        oldest.sort_unstable();
        for (_, name, size) in oldest {
            // Stops at nine tenths of the limit, so that the next index does not cause another removal at once.
            if bytes <= most - most / 10 {
                break;
            }
            remove(&name)?;
            bytes -= size;
        }
    }
    Ok(removed)
}

/// Total size of the stored indexes in bytes.
pub fn stored_bytes(indexes: &dyn Store) -> Result<u64> {
    Ok(stored(indexes)?.values().sum())
}

/// All stored indexes with their sizes in bytes.
fn stored(indexes: &dyn Store) -> Result<HashMap<Name, u64>> {
    let mut found = HashMap::new();
    let (mut low, high) = keyspace::all_indexes();
    while let Some(name) = indexes.keys(&(low, high.clone()), 1)?.first().and_then(|key| keyspace::index_of(key)) {
        let prefix = keyspace::index_prefix(name.0, &name.1);
        found.insert(name, lsm::stored_bytes(indexes, &prefix)?);
        low = match keyspace::after_prefix(&prefix) {
            std::ops::Bound::Excluded(end) => std::ops::Bound::Included(end),
            _ => break,
        };
    }
    Ok(found)
}
