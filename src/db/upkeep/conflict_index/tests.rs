//! Compares the index of conflicts with a scan of all documents: after random edits, after a restart, after an older
//! settee wrote to the store, and while the index is completed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::db::{AllowAll, ConflictQuery, CreateOptions, Databases, Incoming, Mode};
use crate::rev::{Revision, RevisionHash};
use crate::store::{Batch, MemoryBlobs, Store};

type Listed = BTreeSet<(u8, u64, String)>;

fn open(store: &Arc<dyn Store>) -> Arc<Databases> {
    Databases::open(store.clone(), Arc::new(MemoryBlobs::new()), Clock::fixed(Duration::from_secs(1))).unwrap()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(crate::store::memory::Memory::new())
}

/// A revision with its ancestors, the newest first: `edit("a", "3-c 2-b 1-a")`; with `!` in front it is a deletion.
fn edit(id: &str, path: &str) -> Incoming {
    let (deleted, path) = path.strip_prefix('!').map_or((false, path), |path| (true, path));
    let revisions: Vec<(u64, RevisionHash)> = path
        .split(' ')
        .map(|text| text.split_once('-').map(|(number, hash)| (number.parse().unwrap(), RevisionHash::parse(hash))))
        .map(Option::unwrap)
        .collect();
    let hashes = revisions.iter().map(|(_, hash)| hash.clone()).collect();
    let path = (revisions[0].0, hashes);
    Incoming { id: id.into(), parent: None, path, deleted, json: "{}".into(), attachments: Vec::new() }
}

async fn write(database: &Arc<Database>, edits: Vec<Incoming>) {
    for done in database.update(edits, Mode::Replicated, &AllowAll).await.unwrap() {
        done.unwrap();
    }
}

/// What the index lists, page by page.
fn listed(database: &Database) -> Listed {
    let mut found = Listed::new();
    for kind in Conflicted::ALL {
        for direction in [Direction::Forward, Direction::Backward] {
            let (mut after, mut count) = (None, 0);
            loop {
                let query = ConflictQuery { kind, since: 0, direction, after, limit: 3 };
                let (rows, next) = database.conflicts(query).unwrap();
                count += rows.len() as u64;
                found.extend(rows.into_iter().map(|(sequence, row)| (kind as u8, sequence, row.id)));
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!(count, database.conflict_index().count(kind), "the count of {kind:?}");
        }
    }
    found
}

/// What a scan of the documents finds.
fn scanned(database: &Database) -> Listed {
    let mut found = Listed::new();
    let page = database.changes(0, Direction::Forward, PageLimit::entries(100_000)).unwrap();
    for (sequence, row) in page.rows {
        let value = database.store.get(&keyspace::document(database.number, &row.id)).unwrap().unwrap();
        let tree = DocumentRecord::decode(&row.id, &value).unwrap().tree;
        let open = tree.leaves().iter().filter(|leaf| !leaf.deleted).count();
        if open > 1 {
            found.insert((0, sequence, row.id.clone()));
        }
        if open > 0 && tree.has_deletion_beside_edit() {
            found.insert((1, sequence, row.id));
        }
    }
    found
}

fn ids(listed: &Listed, kind: u8) -> Vec<&str> {
    listed.iter().filter(|(of, ..)| *of == kind).map(|(_, _, id)| id.as_str()).collect()
}

#[tokio::test]
async fn edits_and_deletions_beside_edits_are_listed_and_resolved_conflicts_are_not() {
    let database = open(&memory()).create("db", CreateOptions::default(), None).unwrap();
    let edits = vec![
        edit("both", "2-a 1-a"),
        edit("both", "2-b 1-a"),
        edit("roots", "1-a"),
        edit("roots", "1-b"),
        edit("resolved", "2-a 1-a"),
        edit("resolved", "2-b 1-a"),
        edit("resolved", "!3-x 2-a 1-a"),
        edit("deleted beside", "2-a 1-a"),
        edit("deleted beside", "!2-b 1-a"),
        edit("settled", "2-a 1-a"),
        edit("settled", "!2-b 1-a"),
        edit("settled", "!3-b 2-b 1-a"),
        edit("gone", "!2-a 1-a"),
        edit("gone", "!2-b 1-a"),
        edit("made again", "3-a 2-b 1-a"),
        edit("plain", "1-a"),
    ];
    write(&database, edits).await;
    let found = listed(&database);
    assert_eq!(found, scanned(&database));
    assert_eq!(ids(&found, 0), ["both", "roots"]);
    assert_eq!(ids(&found, 1), ["deleted beside"]);
    let since = database.info().sequence;
    write(&database, vec![edit("both", "!3-b 2-b 1-a"), edit("roots", "2-a 1-a")]).await;
    let found = listed(&database);
    assert_eq!((ids(&found, 0), found.clone()), (vec!["roots"], scanned(&database)));
    let query = ConflictQuery { kind: Conflicted::Edits, since, direction: Direction::Backward, after: None, limit: 9 };
    assert_eq!(database.conflicts(query).unwrap().0.len(), 1);
    let query = ConflictQuery { since: database.info().sequence, ..query };
    assert_eq!(database.conflicts(query).unwrap().0.len(), 0);
}

/// A generator of edits: small trees in few documents, so that they collide.
fn random_edits(state: &mut u64, count: usize) -> Vec<Incoming> {
    let mut next = |below: u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    };
    (0..count)
        .map(|_| {
            let (id, length) = (next(12), 1 + next(4));
            // The hash of a revision names its whole path, so that its ancestors agree.
            let mut names: Vec<String> = vec![String::new()];
            for _ in 0..length {
                names.push(format!("{}{}", names.last().unwrap(), ["a", "b", "c"][next(3) as usize]));
            }
            let path: Vec<String> = (1..names.len()).rev().map(|at| format!("{at}-{}", names[at])).collect();
            let deleted = if next(4) == 0 { "!" } else { "" };
            edit(&format!("doc{id}"), &format!("{deleted}{}", path.join(" ")))
        })
        .collect()
}

#[tokio::test]
async fn the_index_equals_a_scan_after_random_edits_purges_and_compactions() {
    for seed in 0..20 {
        let (store, mut state) = (memory(), seed);
        let database = open(&store).create("db", CreateOptions::default(), None).unwrap();
        for round in 0..15u64 {
            write(&database, random_edits(&mut state, 1 + (seed as usize * 7 + round as usize) % 9)).await;
            if round % 4 == 3 {
                let page = database.changes(0, Direction::Forward, PageLimit::entries(100)).unwrap();
                let row = &page.rows[state as usize % page.rows.len()].1;
                let leaves: Vec<Revision> = row.leaves.iter().map(|leaf| leaf.revision.clone()).take(1).collect();
                database.purge(vec![(row.id.clone(), leaves)]).await.unwrap();
            }
            if round % 5 == 4 {
                database.compact(&|_, _| ()).await.unwrap();
            }
            assert_eq!(listed(&database), scanned(&database), "seed {seed}, round {round}");
        }
        drop(database);
        let database = open(&store).get("db").unwrap();
        database.index_conflicts(&|_, _| ()).await.unwrap();
        assert_eq!(listed(&database), scanned(&database), "seed {seed}, after a restart");
    }
}

/// What an older settee, which knows no index, leaves behind: the documents of `after` with the index of `before`.
fn without_index(after: &Arc<dyn Store>, before: &[(Vec<u8>, Vec<u8>)], number: u64) {
    let mut batch = Batch::new();
    for kind in [keyspace::Kind::Conflict, keyspace::Kind::ConflictIndex] {
        for key in after.keys(&keyspace::kind(number, kind), 100_000).unwrap() {
            batch.delete(key);
        }
    }
    after.commit(batch).unwrap();
    let mut batch = Batch::new();
    before.iter().for_each(|(key, value)| batch.put(key.clone(), value.clone()));
    after.commit(batch).unwrap();
}

fn index_entries(store: &Arc<dyn Store>, number: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let scan =
        |kind| store.scan(&keyspace::kind(number, kind), Direction::Forward, PageLimit::entries(100_000)).unwrap();
    [scan(keyspace::Kind::Conflict), scan(keyspace::Kind::ConflictIndex)].concat()
}

#[tokio::test]
async fn a_store_that_an_older_settee_wrote_to_is_indexed_also_while_it_is_written_to() {
    for seed in 0..20 {
        // No index at all (odd seeds), or one that the older settee did not update.
        let (store, mut state) = (memory(), 1000 + seed);
        let database = open(&store).create("db", CreateOptions::default(), None).unwrap();
        write(&database, random_edits(&mut state, 40)).await;
        let before = if seed % 2 == 1 { Vec::new() } else { index_entries(&store, database.number()) };
        write(&database, random_edits(&mut state, 40)).await;
        without_index(&store, &before, database.number());
        drop(database);
        let database = open(&store).get("db").unwrap();
        assert!(!database.conflict_index().is_complete());
        let writing = async {
            for _ in 0..10 {
                write(&database, random_edits(&mut state, 3)).await;
            }
        };
        let (indexed, ()) = tokio::join!(database.index_conflicts(&|_, _| ()), writing);
        indexed.unwrap();
        assert!(database.conflict_index().is_complete());
        assert_eq!(listed(&database), scanned(&database), "seed {seed}");
        // The stored record is behind by the writes without a conflict; after a restart, they are indexed.
        drop(database);
        let database = open(&store).get("db").unwrap();
        database.index_conflicts(&|_, _| ()).await.unwrap();
        assert_eq!(listed(&database), scanned(&database), "seed {seed}, after a restart");
    }
}

#[tokio::test]
async fn a_lost_record_is_counted_again() {
    let store = memory();
    let database = open(&store).create("db", CreateOptions::default(), None).unwrap();
    write(&database, random_edits(&mut 7, 60)).await;
    let mut batch = Batch::new();
    batch.put(keyspace::conflict_index(database.number()), b"\x01\xff".to_vec());
    store.commit(batch).unwrap();
    drop(database);
    let database = open(&store).get("db").unwrap();
    write(&database, random_edits(&mut 8, 10)).await;
    database.index_conflicts(&|_, _| ()).await.unwrap();
    assert_eq!(listed(&database), scanned(&database));
}

#[tokio::test]
async fn documents_without_conflicts_write_nothing_of_the_index() {
    let store = memory();
    let database = open(&store).create("db", CreateOptions::default(), None).unwrap();
    for number in 0..300 {
        write(&database, vec![edit(&format!("doc{number}"), "1-a")]).await;
    }
    drop(database);
    let database = open(&store).get("db").unwrap();
    assert_eq!(index_entries(&store, database.number()), []);
    assert_eq!(database.conflict_index().progress(), (0, 300));
    database.index_conflicts(&|_, _| ()).await.unwrap();
    assert_eq!(index_entries(&store, database.number()).len(), 1);
    for number in 0..BEHIND {
        write(&database, vec![edit(&format!("more{number}"), "1-a")]).await;
    }
    database.store_conflict_index().await.unwrap();
    assert_eq!(index_entries(&store, database.number()).len(), 1);
    let database = open(&store).get("db").unwrap();
    assert!(database.conflict_index().is_complete(), "a restart has nothing to read");
}

/// Two nodes on one store.
fn nodes() -> [Arc<Databases>; 2] {
    let cluster = crate::store::shared_memory::Cluster::new(Clock::system());
    [open(&cluster.node()), open(&cluster.node())]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_write_at_once_keep_one_index() {
    for seed in 0..6 {
        let [one, two] = nodes();
        let here = one.create("db", CreateOptions::default(), None).unwrap();
        let there = two.get("db").unwrap();
        let writing = |database: Arc<Database>, mut state: u64| {
            tokio::spawn(async move {
                for _ in 0..10 {
                    write(&database, random_edits(&mut state, 4)).await;
                }
            })
        };
        let (first, second) = (writing(here.clone(), seed), writing(there.clone(), 77 + seed));
        first.await.unwrap();
        second.await.unwrap();
        for (databases, database) in [(&one, &here), (&two, &there)] {
            databases.catch_up(&["db"]).unwrap();
            assert!(database.conflict_index().is_complete());
            assert_eq!(listed(database), scanned(database), "seed {seed}");
            let all = databases.conflict_indexes(&["db".into()]).unwrap();
            assert_eq!(all, [("db".to_owned(), here.conflict_index())]);
        }
        // A node that starts now has nothing left to index.
        assert!(open(here.store()).get("db").unwrap().conflict_index().is_complete());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_index_a_converted_database_at_once_count_each_document_once() {
    for seed in 0..6 {
        let [one, two] = nodes();
        let here = one.create("db", CreateOptions::default(), None).unwrap();
        write(&here, random_edits(&mut (500 + seed), 60)).await;
        // The state that `settee convert` leaves.
        let store = here.store().clone();
        without_index(&store, &[], here.number());
        let mut batch = Batch::new();
        let info = match seed % 2 {
            0 => here.info().of_one_node(),
            _ => here.info().without_conflict_index(),
        };
        batch.put(keyspace::info(here.number()), info.encode());
        store.commit(batch).unwrap();
        let [one, two] = [&one, &two].map(|databases| open(databases.store()));
        let (here, there) = (one.get("db").unwrap(), two.get("db").unwrap());
        assert!(!here.conflict_index().is_complete());
        let mut state = 900 + seed;
        let writing = async {
            for _ in 0..5 {
                write(&there, random_edits(&mut state, 3)).await;
            }
        };
        let (first, second, ()) =
            tokio::join!(here.index_conflicts(&|_, _| ()), there.index_conflicts(&|_, _| ()), writing);
        first.unwrap();
        second.unwrap();
        for (databases, database) in [(&one, &here), (&two, &there)] {
            databases.catch_up(&["db"]).unwrap();
            assert!(database.conflict_index().is_complete());
            assert_eq!(listed(database), scanned(database), "seed {seed}");
        }
    }
}
