//! Terms and guards: the conditions that the writer checks at the commit.

use std::future::Future;
use std::pin::Pin;

use parking_lot::Mutex;

use super::*;
use crate::clock::Clock;
use crate::db::commit::draft::Draft;
use crate::db::{AllowAll, CreateOptions, Databases, Guard, Leaf, Proposal, Terms, Wanted, Within};
use crate::rev::RevisionHash;

/// A hook that allows every edit under the given terms, and writes an edit of its own during validation.
struct Meanwhile {
    terms: Terms,
    guard: Option<Error>,
    edit: Mutex<Option<(Incoming, Mode)>>,
    shown: Mutex<Vec<(Option<Revision>, Vec<Leaf>)>>,
}

impl Meanwhile {
    fn new(terms: Terms, edit: Option<(Incoming, Mode)>) -> Meanwhile {
        Meanwhile { terms, guard: None, edit: Mutex::new(edit), shown: Mutex::default() }
    }
}

impl Validate for Meanwhile {
    fn applies(&self, _: &Database) -> bool {
        true
    }

    fn terms(&self, _: &Database) -> Terms {
        self.terms
    }

    fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
        Some(Box::new(Says(self.guard.clone())))
    }

    fn validate<'a>(
        &'a self,
        database: &'a Arc<Database>,
        proposals: Vec<Proposal>,
    ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
        Box::pin(async move {
            let verdicts = proposals.iter().map(|_| Ok(())).collect();
            self.shown.lock().extend(proposals.into_iter().map(|proposal| (proposal.parent, proposal.leaves)));
            let edit = self.edit.lock().take();
            if let Some((edit, mode)) = edit {
                database.update(vec![edit], mode, &AllowAll).await.expect("written").remove(0).expect("written");
            }
            verdicts
        })
    }
}

/// A guard that always returns this result.
struct Says(Option<Error>);

impl Guard for Says {
    fn check(&self) -> Result<()> {
        self.0.clone().map_or(Ok(()), Err)
    }
}

fn database() -> Arc<Database> {
    let store = Arc::new(crate::store::memory::Memory::new());
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let databases = Databases::open(store, blobs, Clock::fixed(std::time::Duration::from_secs(1))).expect("opens");
    databases.create("db", CreateOptions::default(), None).expect("made")
}

fn edit(parent: Option<&Revision>, json: &str, deleted: bool) -> Incoming {
    let (path, attachments) = ((0, Vec::new()), Vec::new());
    Incoming { id: "a".into(), parent: parent.cloned(), path, deleted, json: json.into(), attachments }
}

fn brought(generation: u64, hashes: &[&RevisionHash]) -> Incoming {
    Incoming { path: (generation, hashes.iter().map(|hash| (*hash).clone()).collect()), ..edit(None, "{}", false) }
}

async fn write(database: &Arc<Database>, edit: Incoming, mode: Mode, validate: &dyn Validate) -> Result<Revision> {
    database.update(vec![edit], mode, validate).await.expect("asked").remove(0)
}

fn leaves(database: &Database) -> Vec<(String, bool)> {
    let mut opened = database.open_revisions("a", None, false).expect("opens");
    let Within::Fits(found) = opened.next(database, u64::MAX).expect("reads") else { panic!("any size fits") };
    let row = |one: std::result::Result<crate::db::Found, Revision>| {
        let found = one.expect("there");
        (found.revision.to_string(), found.deleted)
    };
    found.into_iter().map(row).collect()
}

const UNMOVED: Terms = Terms { unmoved: true, deletes_all: false };
const DELETES_ALL: Terms = Terms { unmoved: false, deletes_all: true };

#[tokio::test]
async fn a_refusing_guard_fails_its_whole_call_and_no_other() {
    let database = database();
    let refused = Error::Unauthorized("over".into());
    let guarded = Meanwhile { guard: Some(refused.clone()), ..Meanwhile::new(Terms::default(), None) };
    let of = |id: &str| Incoming { id: id.into(), ..edit(None, "{}", false) };
    let (late, other) = tokio::join!(
        database.update(vec![of("a"), of("b")], Mode::Interactive, &guarded),
        database.update(vec![of("c")], Mode::Interactive, &AllowAll),
    );
    assert_eq!(late, Err(refused));
    assert!(other.expect("asked").remove(0).is_ok(), "even in the same commit");
    assert!(["a", "b"].iter().all(|id| database.find(id, Wanted::Winner).is_err()));
    assert_eq!(database.info().sequence, 1);
}

#[tokio::test]
async fn an_edit_of_leaves_that_changed_during_validation_is_a_conflict() {
    let hash = |text: &str| RevisionHash::parse(text);
    let new = hash("ffffffffffffffffffffffffffffffff");
    for mode in [Mode::Interactive, Mode::Replicated] {
        for (what, meanwhile) in [("an edit", false), ("a deletion", true)] {
            let database = database();
            let first = write(&database, edit(None, "{}", false), Mode::Interactive, &AllowAll).await.expect("made");
            let second = edit(Some(&first), "{\"x\":1}", meanwhile);
            let rules = Meanwhile::new(UNMOVED, Some((second, Mode::Interactive)));
            let late = match mode {
                Mode::Interactive => edit(Some(&first), "{}", false),
                Mode::Replicated => brought(2, &[&new, &first.hash]),
            };
            assert_eq!(write(&database, late, mode, &rules).await, Err(Error::Conflict), "{mode:?} after {what}");
            assert_eq!(leaves(&database).len(), 1, "{mode:?} after {what}");
            let shown = rules.shown.lock();
            let (parent, shown) = &shown[0];
            assert_eq!((parent.as_ref(), shown.len()), (Some(&first), 1), "{mode:?} after {what}");
            assert_eq!((&shown[0].revision, shown[0].deleted), (&first, false));
        }
    }
    // A document that did not exist and is created during validation.
    let database = database();
    let rules = Meanwhile::new(UNMOVED, Some((edit(None, "{}", false), Mode::Interactive)));
    let late = write(&database, brought(1, &[&new]), Mode::Replicated, &rules).await;
    assert_eq!((late, leaves(&database).len()), (Err(Error::Conflict), 1));
}

#[tokio::test]
async fn an_unmoved_edit_keeps_only_its_parent_of_the_history() {
    let database = database();
    let first = write(&database, edit(None, "{}", false), Mode::Interactive, &AllowAll).await.expect("made");
    let [new, older] =
        ["ffffffffffffffffffffffffffffffff", "0123456789abcdef0123456789abcdef"].map(RevisionHash::parse);
    // With the whole path, the edit would put another parent under the first revision of a stemmed tree.
    let rules = Meanwhile::new(UNMOVED, None);
    let brought = brought(2, &[&new, &first.hash, &older]);
    assert!(write(&database, brought, Mode::Replicated, &rules).await.is_ok());
    assert_eq!(leaves(&database), [(format!("2-{new}"), false)]);
}

#[tokio::test]
async fn deleting_the_winner_deletes_all_leaves_if_the_terms_say_so() {
    for terms in [Terms::default(), DELETES_ALL] {
        let database = database();
        let first = write(&database, edit(None, "{}", false), Mode::Interactive, &AllowAll).await.expect("made");
        for hash in ["0", "f"] {
            let hash = RevisionHash::parse(&hash.repeat(32));
            write(&database, brought(1, &[&hash]), Mode::Replicated, &AllowAll).await.expect("brought");
        }
        let rules = Meanwhile::new(terms, None);
        let losing = Revision { generation: 1, hash: RevisionHash::parse(&"0".repeat(32)) };
        write(&database, edit(Some(&losing), "{}", true), Mode::Interactive, &rules).await.expect("resolved");
        let winner = database.find("a", Wanted::Winner).expect("a losing leaf is not the document").revision;
        assert_ne!(winner, first);
        write(&database, edit(Some(&winner), "{}", true), Mode::Interactive, &rules).await.expect("deleted");
        let living = leaves(&database).iter().filter(|(_, deleted)| !deleted).count();
        assert_eq!((leaves(&database).len(), living), (3, usize::from(terms == Terms::default())), "{terms:?}");
        let info = database.info();
        assert_eq!((info.documents, info.deleted), if living == 0 { (0, 1) } else { (1, 0) });
    }
}

/// Documents whose records together are larger than what a draft loads.
const LARGE: usize = 1100;

fn large(n: usize, generation: u64) -> Incoming {
    let root = RevisionHash::parse(&format!("{n:040000}"));
    let hashes = [RevisionHash::parse("ffffffffffffffffffffffffffffffff"), root];
    let path = (generation, hashes[2 - generation as usize..].to_vec());
    Incoming { id: format!("large-{n}"), path, ..edit(None, "{}", false) }
}

#[tokio::test]
async fn a_call_on_many_large_trees_is_written_in_parts() {
    let database = database();
    for generation in [1, 2] {
        // Every document twice: the second edit finds the first one, in whichever part it is.
        let edits = || (0..LARGE).map(|n| large(n, generation));
        let written = database.update(edits().chain(edits()).collect(), Mode::Replicated, &AllowAll).await;
        let written = written.expect("asked");
        assert_eq!(written.len(), 2 * LARGE);
        assert!(written.iter().all(|result| result.as_ref().is_ok_and(|made| made.generation == generation)));
        assert_eq!(database.info().sequence, generation * LARGE as u64);
    }
    let ids: Vec<String> = (0..LARGE).rev().map(|n| format!("large-{n}")).collect();
    let draft = Draft::load(&*database.store, database.number, &database.info(), ids.clone(), Default::default())
        .expect("loads");
    assert!(draft.holds(&ids[0]) && !draft.holds(&ids[LARGE - 1]), "the first in the order of the call");
    database.compact(&|_, _| ()).await.expect("compacts");
    assert_eq!(database.info().old, 0);
    let leaf = Revision { generation: 2, hash: RevisionHash::parse("ffffffffffffffffffffffffffffffff") };
    let purged = database.purge(ids.iter().map(|id| (id.clone(), vec![leaf.clone()])).collect()).await.expect("purges");
    assert!(purged.iter().map(|(id, _)| id).eq(&ids) && purged.iter().all(|(_, removed)| removed.len() == 1));
    assert_eq!((database.info().documents, database.info().purge_sequence), (0, LARGE as u64));
}

#[tokio::test]
async fn a_refusal_between_two_parts_leaves_the_first_one_written() {
    struct Once(std::sync::atomic::AtomicUsize);
    impl Guard for Once {
        fn check(&self) -> Result<()> {
            match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(Error::Unauthorized("over".into())),
            }
        }
    }
    struct Guarded;
    impl Validate for Guarded {
        fn applies(&self, _: &Database) -> bool {
            false
        }
        fn terms(&self, _: &Database) -> Terms {
            Terms::default()
        }
        fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
            Some(Box::new(Once(Default::default())))
        }
        fn validate<'a>(
            &'a self,
            _: &'a Arc<Database>,
            _: Vec<Proposal>,
        ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
            unreachable!("nothing is validated")
        }
    }
    let database = database();
    database.update((0..LARGE).map(|n| large(n, 1)).collect(), Mode::Replicated, &AllowAll).await.expect("asked");
    let edits = (0..LARGE).map(|n| large(n, 2)).collect();
    let written = database.update(edits, Mode::Replicated, &Guarded).await.expect("the first part is written");
    let count = written.iter().filter(|result| result.is_ok()).count();
    assert!(0 < count && count < LARGE && written.len() == LARGE);
    assert!(written[count..].iter().all(|result| *result == Err(Error::Unauthorized("over".into()))));
    assert_eq!(database.info().sequence, (LARGE + count) as u64);
}

#[tokio::test]
async fn validation_receives_a_bounded_amount_at_a_time() {
    struct Largest(Mutex<(usize, usize)>);
    impl Validate for Largest {
        fn applies(&self, _: &Database) -> bool {
            true
        }
        fn terms(&self, _: &Database) -> Terms {
            Terms::default()
        }
        fn guard(&self, _: &Arc<Database>) -> Option<Box<dyn Guard>> {
            None
        }
        fn validate<'a>(
            &'a self,
            _: &'a Arc<Database>,
            proposals: Vec<Proposal>,
        ) -> Pin<Box<dyn Future<Output = Vec<Result<()>>> + Send + 'a>> {
            let mut seen = self.0.lock();
            seen.0 += proposals.len();
            seen.1 = seen.1.max(proposals.iter().map(|proposal| proposal.old.as_ref().map_or(0, String::len)).sum());
            let verdict = |proposal: &Proposal| match proposal.id.as_str() {
                "a-7" => Err(Error::Forbidden("seven".into())),
                _ => Ok(()),
            };
            Box::pin(std::future::ready(proposals.iter().map(verdict).collect()))
        }
    }
    let database = database();
    let json = format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20));
    let of = |n: usize, parent: Option<&Revision>, json: &str| Incoming {
        id: format!("a-{n}"),
        ..edit(parent, json, false)
    };
    let mut made = Vec::new();
    for n in 0..24 {
        made.push(write(&database, of(n, None, &json), Mode::Interactive, &AllowAll).await.expect("made"));
    }
    let largest = Largest(Mutex::default());
    let edits = (0..24).map(|n| of(n, Some(&made[n]), "{}")).collect();
    let written = database.update(edits, Mode::Interactive, &largest).await.expect("asked");
    let refused: Vec<usize> = (0..24).filter(|n| written[*n].is_err()).collect();
    assert_eq!(refused, [7]);
    let (count, bytes) = *largest.0.lock();
    assert!(count == 24 && bytes < 20 << 20, "{bytes} bytes at once");
}
