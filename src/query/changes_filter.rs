//! Filters of the changes feed: `_doc_ids`, `_design`, `_selector`, and functions of design documents.
//!
//! Clients name a filter in the request; replications from a local database name it in their parameters.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::mango::selector::Selector;
use super::script::{Design, Scripts};
use crate::blocking::blocking;
use crate::db::read::render::{self, Show};
use crate::db::record::{LeafRow, SequenceRow};
use crate::db::{AT_ONCE, Database};
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
                let (database, selector) = (database.clone(), selector.clone());
                blocking(move || {
                    let mut passes = Vec::with_capacity(rows.len());
                    for group in groups(&rows, all_leaves) {
                        passes.extend(plain(&database, &group)?.iter().map(|document| {
                            let value = document.as_deref().and_then(|text| crate::json::read::<Value>(text).ok());
                            value.is_some_and(|document| selector.matches(&document))
                        }));
                    }
                    Ok(merge(rows, passes, all_leaves))
                })
                .await
            }
            Filter::Script(judge) => {
                let mut passes = Vec::with_capacity(rows.len());
                for group in groups(&rows, all_leaves) {
                    let group: Vec<(String, LeafRow)> =
                        group.into_iter().map(|(id, leaf)| (id.to_owned(), leaf.clone())).collect();
                    let database = database.clone();
                    let documents = blocking(move || {
                        let group: Vec<(&str, &LeafRow)> = group.iter().map(|(id, leaf)| (id.as_str(), leaf)).collect();
                        for_functions(&database, &group)
                    });
                    let documents = documents.await?;
                    let there: Vec<bool> = documents.iter().map(Option::is_some).collect();
                    let mut verdicts = judge.judge(documents.into_iter().flatten().collect()).await?.into_iter();
                    passes.extend(there.into_iter().map(|there| there && verdicts.next().unwrap_or(false)));
                }
                Ok(merge(rows, passes, all_leaves))
            }
        }
    }
}

/// Splits the leaves to judge (of each row the winner, or all leaves) into groups. A group ends with the leaf
/// that brings it to at least [`AT_ONCE`] bytes.
fn groups(rows: &[(u64, SequenceRow)], all_leaves: bool) -> Vec<Vec<(&str, &LeafRow)>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (_, row) in rows {
        let shown = if all_leaves { row.leaves.as_slice() } else { &row.leaves[..1] };
        for leaf in shown {
            group.push((row.id.as_str(), leaf));
            bytes += leaf.body.map_or(0, |body| body.bytes);
            if bytes >= AT_ONCE {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
        }
    }
    groups.push(group);
    groups
}

/// Loads the documents of a group as JSON text; `None` if a document no longer exists.
fn plain(database: &Database, group: &[(&str, &LeafRow)]) -> Result<Vec<Option<String>>> {
    let found = database.leaves(group, &Show::default())?;
    Ok(found
        .into_iter()
        .map(|found| found.map(|found| render::plain(&found.id, &found.revision, found.deleted, &found.body)))
        .collect())
}

/// Like [`plain`], with the history that functions read.
fn for_functions(database: &Database, group: &[(&str, &LeafRow)]) -> Result<Vec<Option<String>>> {
    let found = database.leaves(group, &Show { revs: true, ..Show::default() })?;
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
