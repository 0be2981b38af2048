//! Executes a query: reads rows of the index and their documents, and tests each against the selector
//! (CouchDB's `mango_cursor_view`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::all_docs::AllDocs;
use super::bookmark::Bookmark;
use super::fields::set;
use super::rows::{Row, Rows};
use super::stored::StoredRows;
use crate::blocking::blocking;
use crate::db::read::render;
use crate::db::record::{BodyRecord, LeafRow};
use crate::db::{Database, Wanted, Within};
use crate::error::{Error, Result};
use crate::query::mango::planner::{self, Plan};
use crate::query::mango::request::FindRequest;
use crate::query::view::{Definition, Progress, Reading, Views};
use crate::rev::{Body, Revision};

/// Maximum number of rows per step.
const PAGE: usize = 256;

/// The cost of a query, reported as `execution_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows of the index that were read.
    pub keys_examined: u64,
    /// Documents that were read.
    pub docs_examined: u64,
    /// Documents that were read by requests with `r` above 1.
    pub quorum_docs_examined: u64,
    /// Documents in the response.
    pub results_returned: u64,
}

/// One query. The caller calls [`Search::step`], which blocks on the store, until it returns `None`, and then
/// [`Search::finish`].
pub struct Search {
    database: Arc<Database>,
    request: FindRequest,
    plan: Plan,
    rows: Option<Box<dyn Rows>>,
    /// Rows that were read but not tested yet, with the winners of their documents.
    waiting: VecDeque<(Row, Option<LeafRow>)>,
    skip: u64,
    limit: u64,
    last: Option<Bookmark>,
    stats: Stats,
    started: Instant,
}

impl Search {
    /// Chooses the index for a request and brings it up to date, unless the request accepts the index as it
    /// is. `progress` creates the observer of that update's progress.
    pub async fn start(
        database: Arc<Database>,
        request: FindRequest,
        views: &Views,
        progress: impl FnOnce(&Definition) -> Progress,
    ) -> Result<Search> {
        let reader = database.clone();
        let (plan, request) = blocking(move || {
            let plan = planner::plan(&super::indexes(&reader)?, reader.is_partitioned(), &request)?;
            // CouchDB checks this during the scan. `_explain` does not scan, so it does not fail.
            if request.partition.is_some() && !reader.is_partitioned() {
                return Err(Error::QueryParse("`partition` parameter is not supported on this db".into()));
            }
            Ok((plan, request))
        })
        .await?;
        if plan.nothing || plan.index.is_all_docs() {
            return Search::new(database, plan, request, None);
        }
        let definition = Arc::new(Definition::of_index(database.number(), &plan.index));
        views.count_use(&database, &definition, database.clock().since_epoch().as_millis() as u64);
        let reading = if request.update && !request.stale {
            views.update(&database, &definition, progress(&definition)).await?
        } else {
            views.as_it_stands(&database, &definition).await?
        };
        Search::new(database, plan, request, Some(reading))
    }

    fn new(database: Arc<Database>, plan: Plan, request: FindRequest, index: Option<Reading>) -> Result<Search> {
        let columns = if plan.index.is_all_docs() { 0 } else { plan.index.columns().len() };
        let last = request.bookmark.as_deref().map(|text| Bookmark::decode(text, columns)).transpose()?;
        let rows: Option<Box<dyn Rows>> = match index {
            Some(index) => Some(Box::new(StoredRows::new(index, &plan, &request, last.as_ref()))),
            None if plan.nothing => None,
            None => Some(Box::new(AllDocs::new(database.clone(), &plan, &request, last.as_ref()))),
        };
        Ok(Search {
            database,
            rows,
            waiting: VecDeque::new(),
            skip: request.skip,
            limit: request.limit,
            last,
            stats: Stats::default(),
            started: Instant::now(),
            request,
            plan,
        })
    }

    /// The next documents of the response, each as JSON text; the list may be empty. Returns `None` when the
    /// response is complete. Loads as many documents as fit into `room` bytes.
    pub fn step(&mut self, room: u64) -> Result<Within<Option<Vec<String>>>> {
        if self.waiting.is_empty() {
            let Some(rows) = &mut self.rows else { return Ok(Within::Fits(None)) };
            let wanted = self.limit.saturating_add(self.skip).saturating_add(1);
            match rows.next(usize::try_from(wanted).unwrap_or(PAGE).clamp(16, PAGE))? {
                Some(page) => self.waiting = self.with_winners(page)?,
                None => {
                    self.rows = None;
                    return Ok(Within::Fits(None));
                }
            }
        }
        let page = match self.take_some(room) {
            Within::Fits(page) => page,
            Within::Large(bytes) => return Ok(Within::Large(bytes)),
        };
        let documents = if self.plan.covering { Vec::new() } else { self.read(&page)? };
        let mut documents = documents.into_iter();
        let mut found = Vec::new();
        for (row, _) in page {
            let document = documents.next().flatten();
            self.count(document.is_some());
            if self.limit == 0 {
                // CouchDB also examines the row after the last one.
                self.rows = None;
                self.waiting.clear();
                break;
            }
            if row.id.starts_with("_design/") && self.plan.index.is_all_docs() {
                continue;
            }
            let text = match document {
                Some(document) => self.test(document)?,
                None if self.plan.covering => self.test_covered(&row),
                None => None,
            };
            let Some(text) = text else { continue };
            self.last = Some(Bookmark { key: row.key, id: row.id });
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.limit -= 1;
            self.stats.results_returned += 1;
            found.push(text);
        }
        Ok(Within::Fits(Some(found)))
    }

    fn count(&mut self, read: bool) {
        self.stats.keys_examined += 1;
        if read && self.request.r > 1 {
            self.stats.quorum_docs_examined += 1;
        } else if read {
            self.stats.docs_examined += 1;
        }
    }

    /// Adds the documents' winners to the rows; `None` where a document no longer exists. A covering plan
    /// needs no winners.
    fn with_winners(&self, page: Vec<Row>) -> Result<VecDeque<(Row, Option<LeafRow>)>> {
        let unknown: Vec<&str> =
            page.iter().filter(|row| row.winner.is_none() && !self.plan.covering).map(|row| row.id.as_str()).collect();
        let mut looked_up = self.database.winners(&unknown)?.into_iter();
        let winner = |mut row: Row| {
            let winner = row.winner.take().or_else(|| looked_up.next().flatten()).filter(|winner| !winner.deleted);
            (row, winner)
        };
        Ok(page.into_iter().map(winner).collect())
    }

    /// Takes the next rows to test, as many as fit into the limit on body bytes.
    fn take_some(&mut self, room: u64) -> Within<Vec<(Row, Option<LeafRow>)>> {
        let bytes =
            |winner: &Option<LeafRow>| winner.as_ref().and_then(|winner| winner.body).map_or(0, |body| body.bytes);
        let (mut some, mut sum) = (Vec::new(), 0_u64);
        while let Some((_, winner)) = self.waiting.front() {
            // A covering plan reads no bodies.
            let bytes = if self.plan.covering { 0 } else { bytes(winner) };
            sum = sum.saturating_add(bytes);
            if sum > room {
                if some.is_empty() {
                    return Within::Large(bytes);
                }
                break;
            }
            some.extend(self.waiting.pop_front());
        }
        Within::Fits(some)
    }

    /// Reads the documents of rows; `None` where a document no longer exists.
    fn read(&self, page: &[(Row, Option<LeafRow>)]) -> Result<Vec<Option<Document>>> {
        let places: Vec<(&str, Body)> =
            page.iter().filter_map(|(row, winner)| Some((row.id.as_str(), winner.as_ref()?.body?))).collect();
        let mut bodies = self.database.bodies(&places)?.into_iter();
        page.iter()
            .map(|(row, winner)| {
                let Some(winner) = winner else { return Ok(None) };
                let body = winner.body.and_then(|_| bodies.next().flatten());
                if let Some(body) = body
                    && !self.request.conflicts
                {
                    let (id, revision) = (row.id.clone(), winner.revision.clone());
                    return Ok(Some(Document { id, revision, body, whole: None }));
                }
                // Either a compaction has freed the body meanwhile, or `_conflicts` needs the revision tree.
                match self.database.find(&row.id, Wanted::Winner) {
                    Ok(found) => {
                        let show = render::Show { conflicts: self.request.conflicts, ..Default::default() };
                        let whole = self.request.conflicts.then(|| render::text(&found, &show));
                        let (id, revision, body) = (found.id, found.revision, found.body);
                        Ok(Some(Document { id, revision, body, whole }))
                    }
                    Err(Error::Missing | Error::Deleted) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .collect()
    }

    /// The document in the form of the response, if it matches.
    fn test(&self, document: Document) -> Result<Option<String>> {
        let selector = &self.request.selector;
        let special = selector.wants_special_members();
        let Document { id, revision, body, whole } = document;
        if !special && !selector.matches_body(&id, &revision.to_string(), &body.json)? {
            return Ok(None);
        }
        let whole = whole.unwrap_or_else(|| render::plain(&id, &revision, false, &body));
        drop(body);
        if special {
            let matches = selector.matches_text(&whole);
            if !matches.map_err(|error| Error::Damaged(format!("the body of document {id}: {error}")))? {
                return Ok(None);
            }
        }
        Ok(Some(match &self.request.fields {
            None => whole,
            Some(fields) => fields.project(&whole),
        }))
    }

    /// Like [`Search::test`], for a document built from the index's key alone.
    fn test_covered(&self, row: &Row) -> Option<String> {
        let mut document = Value::Object(Map::from_iter([("_id".to_owned(), row.id.as_str().into())]));
        for (path, value) in self.plan.index.paths().iter().zip(&row.key) {
            set(&mut document, path.steps(), value.clone());
        }
        let fields = self.request.fields.as_ref()?;
        self.request.selector.matches(&document).then(|| fields.project(&document.to_string()))
    }

    /// The members after the documents: `bookmark`, `execution_stats` and `warning`, in CouchDB's order. Empty
    /// if nothing can match.
    pub fn finish(&self) -> Vec<(&'static str, Value)> {
        if self.plan.nothing {
            return Vec::new();
        }
        let bookmark = self.last.as_ref().map_or_else(|| "nil".to_owned(), Bookmark::encode);
        let mut members = vec![("bookmark", Value::from(bookmark))];
        if self.request.execution_stats {
            members.push((
                "execution_stats",
                json!({
                    "total_keys_examined": self.stats.keys_examined,
                    "total_docs_examined": self.stats.docs_examined,
                    "total_quorum_docs_examined": self.stats.quorum_docs_examined,
                    "results_returned": self.stats.results_returned,
                    "execution_time_ms": self.started.elapsed().as_micros() as f64 / 1000.0,
                }),
            ));
        }
        let examined = self.stats.docs_examined + self.stats.quorum_docs_examined;
        let warnings = planner::warnings(&self.plan, &self.request, examined, self.stats.results_returned);
        if !warnings.is_empty() {
            members.push(("warning", warnings.join("\n").into()));
        }
        members
    }

    /// The plan of the query.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The cost of the query so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// The document of a row.
struct Document {
    id: String,
    revision: Revision,
    body: BodyRecord,
    /// The document's full text, if it has more than the usual members.
    whole: Option<String>,
}
