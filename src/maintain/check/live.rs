//! The check of a store that is in use.
//!
//! The engines have no snapshot across pages, so a write during a pass over a database can look like damage: a document
//! is read before the write, its changes row after it. Every commit that changes a database's documents changes its
//! counters. A pass at whose end the counters are as at its beginning therefore saw one state, and counts. Otherwise the
//! pass is repeated. If the database is written to during each pass, only problems that every pass found are reported:
//! damage is found by each pass, while a write looks like damage to one pass only, because a problem's text names the
//! document and its revision.
//!
//! What is compared between databases (references to attachments, entries that belong to no database) counts only if no
//! database has changed from the beginning to the end.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::state::{Check, Checked};
use crate::db::record::NameRecord;
use crate::error::Result;
use crate::maintain::progress::Hear;
use crate::store::blob::blobs::Blobs;
use crate::store::{Direction, PageLimit, Store, keyspace, pages};

/// Passes over a database that is written to all the time.
const PASSES: usize = 3;

/// Checks a store while others write to it. Blocks. Does not look for entries that the whole store lacks, which opening
/// it does.
///
/// # Errors
/// An I/O error that ended the check itself.
pub fn check_live(store: &dyn Store, blobs: &dyn Blobs, hear: Hear) -> Result<Checked> {
    let mut check = Check::new(store, blobs, hear);
    let before = state_of_all(store)?;
    let numbers = check.numbers()?;
    for (number, name) in &numbers {
        database(&mut check, *number, name)?;
    }
    let found = std::mem::take(&mut check.found);
    check.orphans(&numbers)?;
    check.references(&numbers)?;
    let between = std::mem::replace(&mut check.found, found);
    if state_of_all(store)? == before {
        check.found.problem_count += between.problem_count;
        check.found.problems.extend(between.problems);
    } else {
        check.found.notes.push(
            "there were writes during the check, so the references between databases and attachments were not compared"
                .into(),
        );
    }
    check.found.notes.extend(between.notes);
    check.loose_blobs()?;
    check.server_wide()?;
    Ok(check.found)
}

/// Checks one database in one or several passes.
fn database(check: &mut Check<'_>, number: u64, name: &str) -> Result<()> {
    let key = keyspace::info(number);
    let mut told: Option<Checked> = None;
    for pass in 1..=PASSES {
        let counters = check.store.get_each(std::slice::from_ref(&key))?.pop().map(|value| value.ok().flatten());
        let (found, references) = (std::mem::take(&mut check.found), check.references);
        // For the progress, which counts the documents of all databases.
        check.found.documents = found.documents;
        let ended = check.database(number, name);
        let mut own = std::mem::replace(&mut check.found, found);
        own.documents -= check.found.documents;
        ended?;
        if is_gone(check.store, number, name)? {
            // Deleted meanwhile.
            check.references = references;
            return Ok(());
        }
        let after = check.store.get_each(std::slice::from_ref(&key))?.pop().map(|value| value.ok().flatten());
        let rests = counters == after;
        if let (Some(told), false) = (&told, rests) {
            own.problems.retain(|problem| told.problems.contains(problem));
            own.problem_count = own.problems.len() as u64;
        }
        if rests || pass == PASSES || own.problem_count == 0 {
            if !rests {
                own.notes.push(format!("{name} was written to all the time, so its counters were not compared"));
            }
            check.broken.clear();
            add(&mut check.found, own);
            return Ok(());
        }
        // The next pass reads again what this one found broken.
        for blob in check.broken.drain(..) {
            check.seen.remove(&blob);
        }
        check.references = references;
        told = Some(own);
    }
    Ok(())
}

fn add(to: &mut Checked, own: Checked) {
    to.databases += 1;
    to.documents += own.documents;
    to.bodies += own.bodies;
    to.attachments += own.attachments;
    to.attachment_bytes += own.attachment_bytes;
    to.notes.extend(own.notes);
    let told = own.problems.len() as u64;
    for problem in own.problems {
        to.problem(problem);
    }
    to.problem_count += own.problem_count - told;
}

/// Whether the name is no longer that of the database with this number. A record that cannot be read counts as there.
fn is_gone(store: &dyn Store, number: u64, name: &str) -> Result<bool> {
    let record = store.get_each(&[keyspace::name(name)])?.pop();
    Ok(match record {
        Some(Ok(Some(record))) => NameRecord::decode(&record).is_ok_and(|record| record.number != number),
        Some(Err(_)) => false,
        Some(Ok(None)) | None => true,
    })
}

/// A hash of the names and counters of all databases: differs if one was written to, created or deleted.
fn state_of_all(store: &dyn Store) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for page in pages(store, keyspace::names(None, None), Direction::Forward, PageLimit::entries(500)) {
        // A damaged name is a problem that the check itself reports.
        let Ok(page) = page else { break };
        let numbers: BTreeMap<u64, &Vec<u8>> =
            page.iter().filter_map(|(key, record)| Some((NameRecord::decode(record).ok()?.number, key))).collect();
        let wanted: Vec<_> = numbers.keys().map(|number| keyspace::info(*number)).collect();
        for ((number, name), info) in numbers.iter().zip(store.get_each(&wanted)?) {
            (number, name, info.ok().flatten()).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::db::{CreateOptions, Databases};
    use crate::store::memory::Memory;
    use crate::store::{Batch, MemoryBlobs};

    fn databases(store: &Arc<dyn Store>) -> Arc<Databases> {
        Databases::open(store.clone(), Arc::new(MemoryBlobs::new()), Clock::system()).unwrap()
    }

    /// Changes the counters of a database, as a write does.
    fn touch(store: &dyn Store, number: u64, sequence: u64) {
        let value = store.get(&keyspace::info(number)).unwrap().unwrap();
        let mut info = crate::db::record::Info::decode(&value).unwrap();
        info.sequence = sequence;
        let mut batch = Batch::new();
        batch.put(keyspace::info(number), info.encode());
        store.commit(batch).unwrap();
    }

    fn checked(store: &Arc<dyn Store>, databases: &Databases, hear: Hear) -> Checked {
        check_live(&**store, &**databases.blobs(), hear).unwrap()
    }

    #[tokio::test]
    async fn a_store_that_rests_is_checked_as_by_the_command() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let databases = databases(&store);
        for name in ["one", "two"] {
            databases.create(name, CreateOptions::default(), None).unwrap();
        }
        let found = checked(&store, &databases, &mut |_| {});
        assert_eq!(found, crate::maintain::check(&*store, &**databases.blobs(), &mut |_| {}).unwrap());
        assert_eq!((found.databases, found.problem_count), (2, 0));
        let number = databases.get("two").unwrap().number();
        let mut batch = Batch::new();
        batch.put(keyspace::sequence(number, 7), b"no row".to_vec());
        store.commit(batch).unwrap();
        let found = checked(&store, &databases, &mut |_| {});
        assert!(
            found.problem_count > 0 && found.problems.iter().all(|problem| problem.starts_with("two")),
            "{found:?}"
        );
        assert_eq!(found, crate::maintain::check(&*store, &**databases.blobs(), &mut |_| {}).unwrap());
    }

    #[test]
    fn writes_during_the_check_are_no_problems_and_damage_is_one() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let databases = databases(&store);
        databases.create("busy", CreateOptions::default(), None).unwrap();
        let number = databases.get("busy").unwrap().number();
        // Two documents whose records cannot be read.
        let mut batch = Batch::new();
        for id in ["a", "b"] {
            batch.put(keyspace::document(number, id), b"damaged".to_vec());
        }
        store.commit(batch).unwrap();
        let mut passes = 0;
        let found = checked(&store, &databases, &mut |_| {
            passes += 1;
            touch(&*store, number, 100 + passes);
            // One of them is written in the first pass, and with that mended.
            if passes == 1 {
                let mut batch = Batch::new();
                batch.delete(keyspace::document(number, "b"));
                store.commit(batch).unwrap();
            }
        });
        assert_eq!(passes, PASSES as u64, "the database is written to in each pass");
        assert!(found.problems.iter().any(|problem| problem.contains("document a")), "{found:?}");
        assert!(!found.problems.iter().any(|problem| problem.contains("document b")), "{found:?}");
        assert!(found.notes.iter().any(|note| note.starts_with("busy was written to")), "{found:?}");
    }

    #[test]
    fn a_database_that_is_deleted_during_the_check_is_no_problem() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let databases = databases(&store);
        databases.create("gone", CreateOptions::default(), None).unwrap();
        let number = databases.get("gone").unwrap().number();
        let mut batch = Batch::new();
        batch.put(keyspace::document(number, "a"), b"damaged".to_vec());
        store.commit(batch).unwrap();
        let mut done = false;
        let found = checked(&store, &databases, &mut |_| {
            if !std::mem::replace(&mut done, true) {
                let mut batch = Batch::new();
                batch.delete(keyspace::name("gone"));
                store.commit(batch).unwrap();
            }
        });
        assert!(done && found.databases == 0 && found.problem_count == 0, "{found:?}");
    }
}
