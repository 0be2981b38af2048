//! Filters of the changes feed: `_doc_ids`, `_design`, `_selector`, and functions of design documents.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::App;
use crate::blocking::blocking;
use crate::db::read::render::{self, Show};
use crate::db::record::{LeafRow, SequenceRow};
use crate::db::{AT_ONCE, Database};
use crate::http::api::design::functions::Judge;
use crate::http::api::document::include_docs;
use crate::http::request::{Request, Verb, invalid_json};
use crate::http::response::error::{Failure, Result};
use crate::query::mango::selector::Selector;

/// A feed's filter.
pub enum Filter {
    All,
    DocIds(Arc<HashSet<String>>),
    Design,
    Selector(Arc<Selector>),
    Script(Box<dyn Judge>),
}

/// A row that passed, with the revisions of its leaves that passed.
pub struct Judged {
    pub sequence: u64,
    pub row: SequenceRow,
    pub revisions: Vec<String>,
}

impl Judged {
    /// Estimated size in memory in bytes, including the rendered row.
    pub fn bytes(&self) -> u64 {
        (2 * self.row.id.len() + 128 * self.row.leaves.len() + 96 * self.revisions.len()) as u64
    }
}

impl Filter {
    /// Creates the filter `name` from the parameters of the request (CouchDB:
    /// `couch_changes:configure_filter`).
    pub async fn configure(
        app: &Arc<App>,
        request: &Request,
        database: &Arc<Database>,
        name: &str,
        body: &Map<String, Value>,
    ) -> Result<Filter> {
        match name {
            "" => Ok(Filter::All),
            "_doc_ids" => doc_ids(request, body),
            "_design" => Ok(Filter::Design),
            "_selector" => selector(request, body),
            "_view" => {
                let view = request.query.get("view").unwrap_or("");
                if view.is_empty() {
                    return Err(Failure::bad_request("`view` filter parameter is not provided."));
                }
                let Some((design, view)) = view.split_once('/').filter(|(_, view)| !view.contains('/')) else {
                    return Err(Failure::bad_request("`view` must be of the form `designname/viewname`"));
                };
                crate::http::api::design::functions::view_filter(app, database, design, view).await.map(Filter::Script)
            }
            _ if name.starts_with('_') => Err(Failure::bad_request("unknown builtin filter name")),
            _ => {
                let Some((design, function)) = name.split_once('/').filter(|(_, function)| !function.contains('/'))
                else {
                    return Err(Failure::bad_request("`filter` must be of the form `designname/filtername`"));
                };
                crate::http::api::design::functions::filter(app, request, database, design, function)
                    .await
                    .map(Filter::Script)
            }
        }
    }

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
        let told = |row: &SequenceRow| -> Vec<String> {
            let shown = if all_leaves { row.leaves.as_slice() } else { &row.leaves[..1] };
            shown.iter().map(|leaf| leaf.revision.to_string()).collect()
        };
        let by_id = |passes: &dyn Fn(&str) -> bool, rows: Vec<(u64, SequenceRow)>| {
            rows.into_iter()
                .filter(|(_, row)| passes(&row.id))
                .map(|(sequence, row)| Judged { sequence, revisions: told(&row), row })
                .collect()
        };
        match self {
            Filter::All => Ok(by_id(&|_| true, rows)),
            Filter::DocIds(ids) => Ok(by_id(&|id| ids.contains(id), rows)),
            Filter::Design => Ok(by_id(&|id| id.starts_with("_design/"), rows)),
            Filter::Selector(selector) => {
                let (database, selector) = (database.clone(), selector.clone());
                Ok(blocking(move || {
                    let mut passes = Vec::with_capacity(rows.len());
                    for group in groups(&rows, all_leaves) {
                        passes.extend(plain(&database, &group)?.iter().map(|document| {
                            let value = document.as_deref().and_then(|text| crate::json::read::<Value>(text).ok());
                            value.is_some_and(|document| selector.matches(&document))
                        }));
                    }
                    Ok(merge(rows, passes, all_leaves))
                })
                .await?)
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
fn plain(database: &Database, group: &[(&str, &LeafRow)]) -> crate::error::Result<Vec<Option<String>>> {
    let found = include_docs::load(database, group, &Show::default())?;
    Ok(found
        .into_iter()
        .map(|found| found.map(|found| render::plain(&found.id, &found.revision, found.deleted, &found.body)))
        .collect())
}

/// Like [`plain`], with the history that functions read.
fn for_functions(database: &Database, group: &[(&str, &LeafRow)]) -> crate::error::Result<Vec<Option<String>>> {
    let found = include_docs::load(database, group, &Show { revs: true, ..Show::default() })?;
    Ok(found.into_iter().map(|found| found.map(|found| render::for_function(&found, false))).collect())
}

/// Assigns the verdicts, one per judged leaf in order, to their rows.
fn merge(rows: Vec<(u64, SequenceRow)>, passes: Vec<bool>, all_leaves: bool) -> Vec<Judged> {
    let mut passes = passes.into_iter();
    let mut judged = Vec::with_capacity(rows.len());
    for (sequence, row) in rows {
        let shown = if all_leaves { row.leaves.len() } else { 1 };
        let revisions: Vec<String> = row.leaves[..shown]
            .iter()
            .zip(passes.by_ref().take(shown))
            .filter(|(_, passes)| *passes)
            .map(|(leaf, _)| leaf.revision.to_string())
            .collect();
        if !revisions.is_empty() {
            judged.push(Judged { sequence, row, revisions });
        }
    }
    judged
}

fn doc_ids(request: &Request, body: &Map<String, Value>) -> Result<Filter> {
    let ids = if request.verb == Verb::Post {
        texts(body.get("doc_ids"))
    } else {
        let value: Value =
            serde_json::from_str(request.query.get("doc_ids").unwrap_or("null")).map_err(|_| invalid_json())?;
        texts(Some(&value))
    };
    match ids {
        Some(ids) => Ok(Filter::DocIds(Arc::new(ids.into_iter().collect()))),
        None => Err(Failure::bad_request("`doc_ids` filter parameter is not a list of doc ids.")),
    }
}

fn selector(request: &Request, body: &Map<String, Value>) -> Result<Filter> {
    if request.verb != Verb::Post {
        return Err(Failure::bad_request("Selector must be specified in POST payload"));
    }
    match body.get("selector") {
        Some(selector @ Value::Object(_)) => match Selector::parse(selector) {
            Ok(selector) => Ok(Filter::Selector(Arc::new(selector))),
            Err(error) => Err(Failure::bad_request(error.to_string())),
        },
        _ => Err(Failure::bad_request("Selector error: expected a JSON object")),
    }
}

/// A JSON value that is a list of texts.
pub(crate) fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}
