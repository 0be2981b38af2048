//! Samples of the number of conflicted documents within a day, for the databases that have any.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;

use crate::db::{Conflicted, Database, Databases};

/// Milliseconds between two samples that are kept.
const STEP: u64 = 3_600_000;
/// Samples of a database: a day.
const SAMPLES: usize = 24;
/// Maximum number of databases whose samples are kept.
const DATABASES: usize = 1000;
/// Growth below this is no news.
const NEWS: u64 = 10;

/// A time in milliseconds since 1970, and a number of documents.
type Sample = (u64, u64);

/// The samples.
#[derive(Default)]
pub struct ConflictGrowth {
    /// By the number of the database: its name, and its samples, the oldest first.
    samples: Mutex<HashMap<u64, (String, VecDeque<Sample>)>>,
    /// The open databases that had no conflicts in the last round.
    quiet: Mutex<HashSet<u64>>,
}

/// A database whose conflicts grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    pub database: String,
    /// When there were `before` conflicts.
    pub at: u64,
    pub before: u64,
    pub now: u64,
}

impl ConflictGrowth {
    /// Takes samples of the open databases at `now`, in milliseconds since 1970. Call it every ten minutes or so.
    pub fn look(&self, databases: &Databases, now: u64) {
        let mut quiet = HashSet::new();
        for database in databases.all_opened() {
            // While an index is made, its counts grow without a new conflict.
            if database.is_gone() || !database.conflict_index().is_complete() {
                continue;
            }
            let count = count(&database);
            self.note(now, database.number(), database.name(), count);
            if count == 0 {
                quiet.insert(database.number());
            }
        }
        *self.quiet.lock() = quiet;
    }

    /// The open databases whose conflicts grow. Closed ones do not change.
    pub fn of_open(&self, databases: &Databases) -> Vec<Growth> {
        self.growing(|number, name| {
            let open = databases.opened(name)?;
            (open.number() == number).then(|| count(&open))
        })
    }

    fn note(&self, now: u64, number: u64, name: &str, count: u64) {
        let mut all = self.samples.lock();
        if !all.contains_key(&number) && (count == 0 || all.len() >= DATABASES) {
            return;
        }
        let was_quiet = self.quiet.lock().contains(&number);
        let begin = || {
            (name.to_owned(), if was_quiet { VecDeque::from([(now.saturating_sub(STEP), 0)]) } else { VecDeque::new() })
        };
        let (_, samples) = all.entry(number).or_insert_with(begin);
        if samples.back().is_some_and(|(at, _)| now.saturating_sub(*at) < STEP) {
            return;
        }
        samples.push_back((now, count));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
        if samples.iter().all(|(_, count)| *count == 0) {
            all.remove(&number);
        }
    }

    /// The databases that have more conflicts than some time within the last day: at least ten more, and half as many
    /// again. `count` is the number of now; `None`: the database is gone.
    fn growing(&self, count: impl Fn(u64, &str) -> Option<u64>) -> Vec<Growth> {
        let mut all = self.samples.lock();
        let mut growing = Vec::new();
        all.retain(|number, (name, samples)| {
            let Some(now) = count(*number, name) else { return false };
            let least = samples.iter().min_by_key(|(at, count)| (*count, std::cmp::Reverse(*at)));
            if let Some((at, before)) = least.copied().filter(|(_, before)| now >= before + NEWS.max(before / 2)) {
                growing.push(Growth { database: name.clone(), at, before, now });
            }
            true
        });
        growing.sort_by(|a, b| (b.now - b.before, &a.database).cmp(&(a.now - a.before, &b.database)));
        growing
    }
}

/// The number of conflicted documents of both kinds.
fn count(database: &Database) -> u64 {
    let index = database.conflict_index();
    Conflicted::ALL.into_iter().map(|kind| index.count(kind)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_the_lowest_number_of_a_day() {
        let growth = ConflictGrowth::default();
        let names =
            |now: u64| growth.growing(|_, _| Some(now)).into_iter().map(|of| (of.before, of.now)).collect::<Vec<_>>();
        growth.note(0, 1, "db", 0);
        assert_eq!(names(100), [], "a database without conflicts has no samples");
        for hour in 0..30 {
            growth.note(hour * STEP, 1, "db", 20 + hour);
            growth.note(hour * STEP + STEP / 2, 1, "db", 5);
        }
        // The first six hours are forgotten.
        assert_eq!(names(49), [(26, 49)]);
        assert_eq!(names(38), [], "less than half as many again");
        assert_eq!(growth.growing(|_, _| None), []);
        assert!(growth.samples.lock().is_empty());
        for number in 0..3 * DATABASES as u64 {
            growth.note(0, number, "db", 1);
        }
        assert_eq!(growth.samples.lock().len(), DATABASES);
    }
    #[tokio::test]
    async fn a_database_that_had_no_conflicts_grows_from_none() {
        use crate::clock::Clock;
        use crate::db::{AllowAll, CreateOptions, Incoming, Mode};
        use crate::rev::RevisionHash;
        let store: std::sync::Arc<dyn crate::store::Store> = std::sync::Arc::new(crate::store::memory::Memory::new());
        let blobs = std::sync::Arc::new(crate::store::MemoryBlobs::new());
        let databases = Databases::open(store, blobs, Clock::system()).unwrap();
        let database = databases.create("db", CreateOptions::default(), None).unwrap();
        let growth = ConflictGrowth::default();
        growth.look(&databases, 0);
        let edit = |id: usize, hash: &str| Incoming {
            id: format!("doc{id}"),
            parent: None,
            path: (1, vec![RevisionHash::parse(hash)]),
            deleted: false,
            json: "{}".into(),
            attachments: Vec::new(),
        };
        let edits = (0..12).flat_map(|id| [edit(id, "a"), edit(id, "b")]).collect();
        database.update(edits, Mode::Replicated, &AllowAll).await.unwrap();
        growth.look(&databases, 600_000);
        let found = growth.of_open(&databases);
        assert_eq!(found.iter().map(|of| (of.before, of.now)).collect::<Vec<_>>(), [(0, 12)]);
        databases.delete("db").unwrap();
        assert_eq!(growth.of_open(&databases), []);
    }
}
