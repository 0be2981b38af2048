//! Filters of the changes feed: `_doc_ids`, `_design`, `_selector`, and functions of design documents.
//!
//! Clients name a filter in the request; replications from a local database name it in their parameters.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::mango::selector::Selector;
use super::script::{Design, Scripts};
use crate::blocking::{PARSED_FREELY, blocking, parsing};
use crate::db::read::render::{self, Show};
use crate::db::record::{LeafRow, SequenceRow};
use crate::db::{AT_ONCE, Database, Found};
use crate::error::Result;

/// A feed's filter.
pub enum Filter {
    All,
    DocIds(Arc<HashSet<String>>),
    Design,
    Selector(Arc<Selector>),
    Script(Box<dyn Judge>),
}

/// Decides which documents pass. Receives whole documents as JSON text, and returns one verdict for each, in
/// order.
pub trait Judge: Send + Sync {
    fn judge<'a>(&'a self, documents: Vec<String>) -> Pin<Box<dyn Future<Output = Result<Vec<bool>>> + Send + 'a>>;
}

/// A row that passed, with the revisions of its leaves that passed.
pub struct Judged {
    pub sequence: u64,
    pub row: SequenceRow,
    /// Places of these leaves in `row.leaves`, in order.
    pub leaves: Vec<usize>,
}

impl Judged {
    /// Estimated size in memory in bytes, including the rendered row.
    pub fn bytes(&self) -> u64 {
        (2 * self.row.id.len() + 128 * self.row.leaves.len() + 96 * self.leaves.len()) as u64
    }
}

impl Filter {
    /// Whether every row passes.
    pub fn passes_all(&self) -> bool {
        matches!(self, Filter::All)
    }

    /// Whether a function of a design document decides.
    pub fn is_script(&self) -> bool {
        matches!(self, Filter::Script(_))
    }

    /// Whether the filter reads document bodies.
    pub fn needs_documents(&self) -> bool {
        matches!(self, Filter::Selector(_) | Filter::Script(_))
    }

    /// Returns the rows that pass, in order. With `all_leaves` (`style=all_docs`) each leaf is judged and
    /// reported separately, otherwise only the winner.
    pub async fn judge(
        &self,
        database: &Arc<Database>,
        rows: Vec<(u64, SequenceRow)>,
        all_leaves: bool,
    ) -> Result<Vec<Judged>> {
        let all = |row: &SequenceRow| (0..if all_leaves { row.leaves.len() } else { 1 }).collect();
        let by_id = |passes: &dyn Fn(&str) -> bool, rows: Vec<(u64, SequenceRow)>| {
            rows.into_iter()
                .filter(|(_, row)| passes(&row.id))
                .map(|(sequence, row)| Judged { sequence, leaves: all(&row), row })
                .collect()
        };
        match self {
            Filter::All => Ok(by_id(&|_| true, rows)),
            Filter::DocIds(ids) => Ok(by_id(&|id| ids.contains(id), rows)),
            Filter::Design => Ok(by_id(&|id| id.starts_with("_design/"), rows)),
            Filter::Selector(selector) => {
                let mut passes = Vec::with_capacity(rows.len());
                for group in groups(&rows, all_leaves) {
                    let (database, selector) = (database.clone(), selector.clone());
                    passes.extend(parsing(group.largest, move || select(&database, &selector, &group)).await?);
                }
                Ok(merge(rows, passes, all_leaves))
            }
            Filter::Script(judge) => {
                let mut passes = Vec::with_capacity(rows.len());
                for group in groups(&rows, all_leaves) {
                    let database = database.clone();
                    let documents = blocking(move || for_functions(&database, &group)).await?;
                    let there: Vec<bool> = documents.iter().map(Option::is_some).collect();
                    let mut verdicts = judge.judge(documents.into_iter().flatten().collect()).await?.into_iter();
                    passes.extend(there.into_iter().map(|there| there && verdicts.next().unwrap_or(false)));
                }
                Ok(merge(rows, passes, all_leaves))
            }
        }
    }
}

/// Leaves that are read and judged together: documents of at most [`PARSED_FREELY`] bytes, until they have [`AT_ONCE`]
/// bytes, or one larger document.
#[derive(Default)]
struct Group {
    leaves: Vec<(String, LeafRow)>,
    /// Bytes of all documents.
    bytes: u64,
    /// Bytes of the largest document.
    largest: u64,
}

impl Group {
    fn load(&self, database: &Database, show: &Show) -> Result<Vec<Option<Found>>> {
        let leaves: Vec<(&str, &LeafRow)> = self.leaves.iter().map(|(id, leaf)| (id.as_str(), leaf)).collect();
        database.leaves(&leaves, show)
    }
}

/// The groups of the leaves to judge: of each row the winner, or all leaves.
fn groups(rows: &[(u64, SequenceRow)], all_leaves: bool) -> Vec<Group> {
    let (mut groups, mut group) = (Vec::new(), Group::default());
    for (_, row) in rows {
        let shown = if all_leaves { row.leaves.as_slice() } else { &row.leaves[..1] };
        for leaf in shown {
            let bytes = leaf.body.map_or(0, |body| body.bytes);
            let ends = group.bytes >= AT_ONCE || group.largest.max(bytes) > PARSED_FREELY;
            if ends && !group.leaves.is_empty() {
                groups.push(std::mem::take(&mut group));
            }
            group.leaves.push((row.id.clone(), leaf.clone()));
            group.bytes += bytes;
            group.largest = group.largest.max(bytes);
        }
    }
    groups.push(group);
    groups
}

/// Which documents of a group a selector matches. Of each, only the members that the selector reads are parsed.
fn select(database: &Database, selector: &Selector, group: &Group) -> Result<Vec<bool>> {
    let special = selector.wants_special_members();
    let matches = |found: Found| {
        let Found { id, revision, deleted, body, .. } = found;
        if special {
            let whole = render::plain(&id, &revision, deleted, &body);
            drop(body);
            return selector.matches_text(&whole).unwrap_or(false);
        }
        selector.matches_body(&id, &revision.to_string(), &body.json).unwrap_or(false)
    };
    let found = group.load(database, &Show::default())?;
    Ok(found.into_iter().map(|found| found.is_some_and(matches)).collect())
}

/// Loads the documents of a group as JSON text, with the history that functions read; `None` if a document no longer
/// exists.
fn for_functions(database: &Database, group: &Group) -> Result<Vec<Option<String>>> {
    let found = group.load(database, &Show { revs: true, ..Show::default() })?;
    Ok(found.into_iter().map(|found| found.map(|found| render::for_function(&found, false))).collect())
}

/// Assigns the verdicts, one per judged leaf in order, to their rows.
fn merge(rows: Vec<(u64, SequenceRow)>, passes: Vec<bool>, all_leaves: bool) -> Vec<Judged> {
    let mut passes = passes.into_iter();
    let mut judged = Vec::with_capacity(rows.len());
    for (sequence, row) in rows {
        let shown = if all_leaves { row.leaves.len() } else { 1 };
        let passed = (0..shown).zip(passes.by_ref().take(shown)).filter(|(_, passes)| *passes);
        let leaves: Vec<usize> = passed.map(|(at, _)| at).collect();
        if !leaves.is_empty() {
            judged.push(Judged { sequence, row, leaves });
        }
    }
    judged
}

/// A filter function, with the request object that it receives.
pub struct FilterFunction {
    pub scripts: Scripts,
    pub design: Arc<Design>,
    /// The function's name in `filters` of the design document.
    pub name: String,
    /// The request object as JSON.
    pub request: String,
    /// The request's `userCtx` as JSON.
    pub user: String,
}

impl Judge for FilterFunction {
    fn judge<'a>(&'a self, documents: Vec<String>) -> Pin<Box<dyn Future<Output = Result<Vec<bool>>> + Send + 'a>> {
        Box::pin(self.scripts.filter(&self.design, &self.name, documents, &self.request, &self.user))
    }
}

/// A view's map function as a filter: a document passes if the function emits a row for it.
pub struct ViewFunction {
    pub scripts: Scripts,
    pub design: Arc<Design>,
    /// The view's name.
    pub name: String,
}

impl Judge for ViewFunction {
    fn judge<'a>(&'a self, documents: Vec<String>) -> Pin<Box<dyn Future<Output = Result<Vec<bool>>> + Send + 'a>> {
        Box::pin(self.scripts.filter_view(&self.design, &self.name, documents))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Clock;
    use crate::db::{AllowAll, CreateOptions, Databases, Incoming, Mode};
    use crate::rev::{Body, Revision};
    use crate::store::memory::Memory;
    use crate::store::{Direction, MemoryBlobs, PageLimit};

    #[test]
    fn a_large_document_is_judged_alone() {
        let revision: Revision = "1-a".parse().unwrap();
        let leaf = |bytes| LeafRow {
            revision: revision.clone(),
            deleted: false,
            body: Some(Body { sequence: 1, index: 0, bytes }),
        };
        let (some, large) = (PARSED_FREELY, PARSED_FREELY + 1);
        let sizes = [1, large, large, 2, some, some, some, some, 3, large];
        let row = |bytes: &u64| (1, SequenceRow { id: bytes.to_string(), leaves: vec![leaf(*bytes)] });
        let rows: Vec<(u64, SequenceRow)> = sizes.iter().map(row).collect();
        let found: Vec<(Vec<u64>, u64)> = groups(&rows, false)
            .iter()
            .map(|group| (group.leaves.iter().map(|(_, leaf)| leaf.body.unwrap().bytes).collect(), group.largest))
            .collect();
        let wanted = [
            (vec![1], 1),
            (vec![large], large),
            (vec![large], large),
            (vec![2, some, some, some, some], some),
            (vec![3], 3),
            (vec![large], large),
        ];
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn a_selector_reads_all_members_of_documents() {
        let clock = Clock::fixed(Duration::from_secs(1));
        let databases = Databases::open(Arc::new(Memory::new()), Arc::new(MemoryBlobs::new()), clock).unwrap();
        let database = databases.create("db", CreateOptions::default(), None).unwrap();
        let long = "9".repeat(400);
        let bodies = [
            ("a", r#"{"n":1.10,"t":{"u":[1,{"v":2}]}}"#.to_owned(), false),
            ("b", format!(r#"{{"big":{long},"n":2}}"#), false),
            ("c", r#"{"n":3}"#.to_owned(), true),
            ("d", format!(r#"{{"t":"{}","n":4}}"#, "x".repeat(300 << 10)), false),
        ];
        let edit = |(id, json, deleted): (&str, String, bool)| {
            let mut edit = Incoming::created(id, json);
            edit.deleted = deleted;
            edit
        };
        for written in database.update(bodies.map(edit).into(), Mode::Interactive, &AllowAll).await.unwrap() {
            written.unwrap();
        }
        let rows = database.changes(0, Direction::Forward, PageLimit::entries(100)).unwrap().rows;
        for (selector, wanted) in [
            (json!({}), "a b c d"),
            (json!({"_id": {"$gt": "a"}}), "b c d"),
            (json!({"n": 1.1}), "a"),
            (json!({"n": {"$gt": 1.5}}), "b c d"),
            (json!({"t.u.1.v": 2}), "a"),
            (json!({"t": {"$type": "string"}}), "d"),
            (json!({"big": {"$gt": 1e300}}), "b"),
            (json!({"_deleted": true}), "c"),
            (json!({"_deleted": {"$exists": false}, "n": {"$gt": 1.5}}), "b d"),
            (json!({"_attachments": {"$exists": true}}), ""),
            (json!({"_rev": {"$beginsWith": "1-"}, "n": 3}), "c"),
        ] {
            let filter = Filter::Selector(Arc::new(Selector::parse(&selector).unwrap()));
            let judged = filter.judge(&database, rows.clone(), false).await.unwrap();
            let found: Vec<&str> = judged.iter().map(|judged| judged.row.id.as_str()).collect();
            assert_eq!(found.join(" "), wanted, "{selector}");
            // The same as of the whole documents.
            let whole = |row: &SequenceRow| -> Value {
                let found = database.leaves(&[(&row.id, row.winner())], &Show::default()).unwrap().remove(0).unwrap();
                crate::json::read(&render::plain(&found.id, &found.revision, found.deleted, &found.body)).unwrap()
            };
            let selector = Selector::parse(&selector).unwrap();
            let matches = rows.iter().filter(|(_, row)| selector.matches(&whole(row)));
            assert_eq!(found, matches.map(|(_, row)| row.id.as_str()).collect::<Vec<_>>());
        }
    }
}
