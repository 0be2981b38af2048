//! Creates and deletes databases.

use std::sync::Arc;

use super::{CreateOptions, Databases};
use crate::db::codec::decode_u64;
use crate::db::database::Database;
use crate::db::db_updates::{DbEvent, DbEventKind};
use crate::db::freshness::SERVER;
use crate::db::names::check_database_name;
use crate::db::record::{Info, NameRecord};
use crate::error::{Error, Result};
use crate::store::{self, Batch, StoreError, keyspace};

impl Databases {
    /// Creates a database. `security` is its initial `_security` object.
    ///
    /// # Errors
    /// `IllegalDatabaseName`, `DatabaseExists`.
    pub fn create(&self, name: &str, options: CreateOptions, security: Option<&str>) -> Result<Arc<Database>> {
        check_database_name(name)?;
        let _naming = self.naming.lock();
        for attempt in 1.. {
            let mut found = self.store.get_many(&[keyspace::name(name), keyspace::LAST_NUMBER.to_vec()])?.into_iter();
            if found.next().flatten().is_some() {
                return Err(Error::DatabaseExists);
            }
            let last = found.next().flatten();
            let number = match &last {
                None => 1,
                Some(value) => 1 + decode_u64(value).ok_or_else(|| Error::Damaged("the last number".into()))?,
            };
            let record = NameRecord {
                number,
                instance: self.clock.random_16(),
                created: self.clock.since_epoch().as_millis() as u64,
                partitioned: options.partitioned,
                q: options.q,
                n: options.n,
            };
            let mut batch = Batch::new();
            batch.expect(keyspace::name(name), None);
            batch.expect(keyspace::LAST_NUMBER.to_vec(), last);
            batch.put(keyspace::LAST_NUMBER.to_vec(), number.to_be_bytes().to_vec());
            batch.put(keyspace::name(name), record.encode());
            batch.put(keyspace::info(number), Info::default().encode());
            if let Some(security) = security {
                batch.put(keyspace::security(number), security.as_bytes().to_vec());
            }
            let event = self.events.stage(&*self.store, &mut batch, name, DbEventKind::Created)?;
            match self.store.commit(batch) {
                Ok(()) => {
                    self.told(vec![event]);
                    return self.enter(name, record);
                }
                Err(StoreError::Conflict) => store::pause_after_conflict(&*self.store, attempt),
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends with a result")
    }

    /// Publishes committed events to the feeds of this node, and notifies the other nodes.
    pub(super) fn told(&self, events: Vec<DbEvent>) {
        self.events.committed(events);
        if self.store.is_shared() {
            self.store.tell(&[SERVER]);
        }
    }

    /// Deletes a database. When this returns, all readers and writers get `NoDatabase`. A background task
    /// frees the space.
    pub fn delete(&self, name: &str) -> Result<()> {
        check_database_name(name)?;
        let _naming = self.naming.lock();
        for attempt in 1.. {
            let Some(value) = self.store.get(&keyspace::name(name))? else {
                // An earlier deletion may have failed with an unknown outcome and have been committed after all,
                // or another node has deleted it.
                self.leave(name);
                return Err(Error::NoDatabase);
            };
            let number = NameRecord::decode(&value)?.number;
            let mut batch = Batch { frees: true, ..Batch::new() };
            batch.expect(keyspace::name(name), Some(value));
            batch.delete(keyspace::name(name));
            batch.delete(keyspace::info(number));
            batch.put(keyspace::doomed(number), Vec::new());
            let event = self.events.stage(&*self.store, &mut batch, name, DbEventKind::Deleted)?;
            match self.store.commit(batch) {
                Ok(()) => {
                    // Remove the handle first: a listener of the deletion must not find the database any more.
                    self.leave(name);
                    self.told(vec![event]);
                    if self.store.is_shared() {
                        self.store.tell(&[number]);
                    }
                    return Ok(());
                }
                Err(StoreError::Conflict) if self.store.is_shared() => {
                    store::pause_after_conflict(&*self.store, attempt);
                }
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the loop ends with a result")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::MemoryBlobs;
    use crate::store::memory::Memory;

    /// If the listener of a deletion still found the database, the replications of the database's documents would
    /// never stop.
    #[test]
    fn a_deletion_is_told_when_the_database_is_no_longer_found() {
        let databases =
            Databases::open(Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap();
        databases.create("db", CreateOptions::default(), None).unwrap();
        let before = databases.last_event();
        std::thread::scope(|scope| {
            let handles = databases.open.read();
            scope.spawn(|| databases.delete("db").unwrap());
            // Wait until the deletion blocks on the lock that it needs to remove the handle.
            while databases.open.try_read().is_some() {
                std::thread::yield_now();
            }
            assert_eq!(databases.last_event(), before, "nobody has heard of it");
            assert!(handles.contains_key("db"));
        });
        assert!(databases.last_event() > before);
        assert_eq!(databases.get("db").err(), Some(Error::NoDatabase));
    }
}
