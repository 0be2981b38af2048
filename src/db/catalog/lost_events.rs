//! Writes the `updated` events of `_db_updates` that a node of a shared store has left out, because it died between a
//! commit and its event. The store keeps a mark with each commit until the event is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Databases;
use crate::error::Result;
use crate::store::{self, Direction, PageLimit, keyspace};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);
/// Names that are read, and events that are written at once.
const PAGE: usize = 1000;

impl Databases {
    /// Looks for events that other nodes have left out, now and then. Returns at once on an embedded store; otherwise
    /// runs until the task is dropped.
    pub async fn recover_updates(self: Arc<Self>) {
        let mut is_failing = false;
        while self.store.is_shared() {
            let databases = self.clone();
            let written = crate::blocking::blocking(move || databases.write_left_updates()).await;
            match &written {
                Err(error) if !is_failing => {
                    tracing::warn!(%error, "events of _db_updates that a server left out cannot be written yet");
                }
                Ok(0) | Err(_) => {}
                Ok(events) => tracing::info!(events, "events of _db_updates that a server had left out were written"),
            }
            is_failing = written.is_err();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes the events that other nodes have left out. Returns their number.
    pub(in crate::db) fn write_left_updates(&self) -> Result<usize> {
        let mut events = 0;
        loop {
            let left = self.store.left_marks()?;
            if left.places.is_empty() {
                return Ok(events);
            }
            let names = self.names_of(left.databases.iter().copied().collect())?;
            for some in names.chunks(PAGE) {
                self.write_updates(some)?;
            }
            self.store.settle_marks(left)?;
            events += names.len();
        }
    }

    /// The names of the databases with these numbers, in order, each once. Skips those of deleted databases.
    fn names_of(&self, mut numbers: BTreeSet<u64>) -> Result<Vec<String>> {
        let open: BTreeMap<u64, String> =
            self.all_opened().iter().map(|database| (database.number(), database.name().to_owned())).collect();
        let mut names: Vec<String> =
            open.into_iter().filter(|(number, _)| numbers.remove(number)).map(|(_, name)| name).collect();
        for page in
            store::pages(&*self.store, keyspace::names(None, None), Direction::Forward, PageLimit::entries(PAGE))
        {
            if numbers.is_empty() {
                break;
            }
            for (key, value) in page? {
                names.extend(
                    keyspace::named(&key, &value)
                        .filter(|(number, _)| numbers.remove(number))
                        .map(|(_, name)| name.to_owned()),
                );
            }
        }
        names.sort_unstable();
        // A database that was deleted and made again has two numbers, as long as it is open here under the old one.
        names.dedup();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::db::CreateOptions;
    use crate::store::MemoryBlobs;
    use crate::store::shared_memory::Cluster;

    #[test]
    fn a_database_that_another_node_made_again_has_one_event() {
        let cluster = Cluster::new(Clock::system());
        let node = || Databases::open(cluster.node(), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap();
        let (one, two) = (node(), node());
        let create = || one.create("db", CreateOptions::default(), None).unwrap().number();
        let first = create();
        let _open = two.get("db").unwrap();
        one.delete("db").unwrap();
        let numbers = BTreeSet::from([first, create()]);
        assert_eq!(numbers.len(), 2);
        assert_eq!(two.names_of(numbers).unwrap(), ["db"]);
    }
}
