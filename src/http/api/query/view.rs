//! Views: `_view`, `_info`, `_view_cleanup`, `_compact/{design}` (CouchDB: `chttpd_view`,
//! `couch_mrview_http`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::blocking::blocking;
use crate::db::read::render::{self, Attachments, Piece, Show};
use crate::db::{AT_ONCE, Database, Found, Within};
use crate::error::Error;
use crate::http::api::document::body_writer;
use crate::http::api::document::include_docs::Beside;
use crate::http::request::{Query, Request, Verb};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::query::cleanup::clean_up;
use crate::query::view::{Definition, Grouped, Kind, MapRows, Params, Plan, Progress, Row, Update, View};

/// Maximum number of rows in a page, without and with their documents.
const PAGE: usize = 500;
const PAGE_WITH_DOCS: usize = 64;
/// Maximum number of queries in a request.
pub(crate) const MOST_QUERIES: usize = 10_000;

/// `/{db}[/_partition/{partition}]/_design/{design}/_view/{view}`, GET and POST.
pub async fn view(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    design: String,
    view: String,
    partition: Option<String>,
) -> Result<Answer> {
    let mut params = Params::default();
    if request.verb == Verb::Post {
        request.must_be_json()?;
        let body = request.json_object().await?;
        if body.contains_key("queries") {
            return Err(Failure::bad_request("The `queries` parameter is no longer supported at this endpoint"));
        }
        if body.get("keys").is_some_and(|keys| !keys.is_array()) {
            return Err(Failure::bad_request("`keys` member must be an array."));
        }
        params.set_all(&body)?;
    }
    read_query(&mut params, &request.query, &database, partition.as_deref())?;
    let mut asked = Asked::start(app, &database, &design, &view, params).await?;
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        asked.write(&mut out).await?;
        out.write("\n").await;
        Ok(())
    })
    .await
}

/// POST `.../_view/{view}/queries`.
pub async fn queries(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    design: String,
    view: String,
    partition: Option<String>,
) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let queries = match body.get("queries") {
        None => return Err(Failure::bad_request("POST body must include `queries` parameter.")),
        Some(Value::Array(queries)) if queries.len() <= MOST_QUERIES => queries,
        Some(Value::Array(_)) => {
            return Err(Failure::bad_request(format!("More than {MOST_QUERIES} queries at once.")));
        }
        Some(_) => return Err(Failure::bad_request("`queries` member must be an array.")),
    };
    let mut base = Params::default();
    read_query(&mut base, &request.query, &database, partition.as_deref())?;
    let none = Map::new();
    let mut all = VecDeque::with_capacity(queries.len());
    // All queries are checked before the first one runs.
    let definition = definition(app, &database, &design).await?;
    for query in queries {
        let mut params = base.clone();
        params.set_all(query.as_object().unwrap_or(&none))?;
        plan(app, &definition, &view, &params)?;
        all.push_back(params);
    }
    let app = app.clone();
    let mut next = match all.pop_front() {
        Some(params) => Some(Asked::start(&app, &database, &design, &view, params).await?),
        None => None,
    };
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        let mut lead = "{\"results\":[\r\n";
        while let Some(mut asked) = next {
            out.write(lead).await;
            asked.write(&mut out).await?;
            lead = ",\r\n";
            next = match all.pop_front() {
                Some(params) => Some(Asked::start(&app, &database, &design, &view, params).await?),
                None => None,
            };
        }
        out.write(if lead == ",\r\n" { "\r\n]}\n" } else { "{\"results\":[\r\n]}\n" }).await;
        Ok(())
    })
    .await
}

/// Maximum number of skipped documents that `_info` names.
const SHOWN_SKIPPED: usize = 20;

/// GET `_design/{design}/_info`.
pub async fn info(app: &Arc<App>, database: Arc<Database>, design: String) -> Result<Answer> {
    let definition = definition(app, &database, &design).await?;
    let reading = app.views.as_it_stands(&database, &definition).await?;
    let (file, meta, skipped) =
        blocking(move || Ok((reading.bytes()?, reading.meta.clone(), reading.skipped()?))).await?;
    let (waiting, running) = app.views.activity(&database, &definition);
    let bytes: u64 = meta.rows.iter().map(|(_, bytes)| bytes).sum();
    let pending = database.info().sequence.saturating_sub(meta.sequence);
    let mut info = json!({
        "name": design,
        "view_index": {
            "updates_pending": {"minimum": pending, "preferred": pending, "total": pending},
            "waiting_commit": false,
            "waiting_clients": waiting,
            "updater_running": running,
            "update_seq": meta.sequence,
            "purge_seq": meta.purge_sequence,
            // The file may be smaller than the sum of the rows: it stores key prefixes that rows share only
            // once.
            "sizes": {"file": file, "external": bytes, "active": bytes.min(file)},
            "signature": crate::hex::hex(&definition.signature),
            "language": definition.language,
            "compact_running": false,
            "collator_versions": [crate::json::COLLATION_VERSION.to_string()],
        },
    });
    if skipped.count > 0 {
        // Documents on which a map function exceeded its time or memory limit.
        let last = &skipped.last[skipped.last.len().saturating_sub(SHOWN_SKIPPED)..];
        info["view_index"]["skipped_documents"] = json!({"count": skipped.count, "last": last});
    }
    Ok(Answer::ok(&info))
}

/// POST `_view_cleanup`.
pub async fn cleanup(app: &Arc<App>, request: &Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let app = app.clone();
    blocking(move || clean_up(&app.views, &database)).await?;
    Ok(Answer::json_text(StatusCode::ACCEPTED, r#"{"ok":true}"#))
}

/// POST `_compact/{design}`.
pub async fn compact(app: &Arc<App>, request: &Request, database: Arc<Database>, design: String) -> Result<Answer> {
    request.must_be_json()?;
    let definition = definition(app, &database, &design).await?;
    app.views.compact(&database, &definition).await?;
    Ok(Answer::json_text(StatusCode::ACCEPTED, r#"{"ok":true}"#))
}

async fn definition(app: &Arc<App>, database: &Arc<Database>, design: &str) -> Result<Arc<Definition>> {
    let (app, database, id) = (app.clone(), database.clone(), format!("_design/{design}"));
    Ok(blocking(move || app.views.definition(&database, &id)).await?)
}

fn read_query(params: &mut Params, query: &Query, database: &Database, partition: Option<&str>) -> Result<()> {
    if let Some(partition) = partition {
        crate::http::api::database::partition::check_partition(database, partition)?;
        if query.get("partition").is_some_and(|other| other != partition) {
            return Err(Failure::bad_request("Conflicting value for `partition` in query string"));
        }
        params.set_text("partition", partition)?;
    }
    Ok(query.iter().try_for_each(|(name, value)| params.set_text(name, value))?)
}

/// Checks the parameters against the view and the configured query limit.
fn plan(app: &App, definition: &Definition, view: &str, params: &Params) -> Result<(View, Plan)> {
    let place = definition.view(view)?;
    let name = if definition.partitioned { "partition_query_limit" } else { "query_limit" };
    let settings = app.settings();
    let most = settings.get("query_server_config", name).and_then(|most| most.parse().ok());
    Ok((place, params.plan(definition, place, most)?))
}

/// A running query.
pub struct Asked {
    database: Arc<Database>,
    /// `None` only while a step runs on a blocking thread, or after that step was cancelled or failed.
    source: Option<Source>,
    update_seq: bool,
    /// With `include_docs`: how documents are rendered.
    docs: Option<Show>,
    /// Rows that are read, but whose documents are not.
    waiting: Beside,
    /// The database sequence that the index has reached.
    sequence: u64,
    /// The database's history from before the index was brought up to that sequence.
    history: Option<u64>,
    /// Estimated size of a page of rows in bytes.
    row_bytes: u64,
}

enum Source {
    Map(Box<MapRows>),
    Reduce(Box<Grouped>),
}

/// A row as JSON without its closing brace, and the document that follows.
pub struct RowText {
    head: String,
    doc: Option<Vec<Piece>>,
}

impl Asked {
    /// Checks a query, updates the index as the query requests, and opens a reader.
    pub async fn start(
        app: &Arc<App>,
        database: &Arc<Database>,
        design: &str,
        view: &str,
        params: Params,
    ) -> Result<Asked> {
        app.metrics.view_reads.fetch_add(1, Ordering::Relaxed);
        let history = database.history();
        let definition = definition(app, database, design).await?;
        let (place, plan) = plan(app, &definition, view, &params)?;
        app.views.count_use(database, &definition, app.clock.since_epoch().as_millis() as u64);
        let progress = task(app, database, &definition);
        let reading = match plan.update {
            Update::Wait => app.views.update(database, &definition, progress).await?,
            Update::No | Update::Later => app.views.as_it_stands(database, &definition).await?,
        };
        if plan.update == Update::Later {
            let (app, database, definition) = (app.clone(), database.clone(), definition.clone());
            tokio::spawn(async move {
                let progress = task(&app, &database, &definition);
                if let Err(error) = app.views.update(&database, &definition, progress).await {
                    tracing::warn!(database = database.name(), design = definition.id, %error, "a view update failed");
                }
            });
        }
        let sequence = reading.meta.sequence;
        let means = reading.meta.rows.iter().map(|(rows, bytes)| bytes / (*rows).max(1));
        let row_bytes = means.max().unwrap_or(0).min(body_writer::UNKNOWN);
        let (source, docs) = match plan.kind {
            Kind::Map { include_docs, conflicts } => {
                let attachments = if params.attachments { Attachments::Inline } else { Attachments::Stubs };
                let show = Show { conflicts, attachments, encoding_info: params.encoding_info, ..Show::default() };
                let rows = app.views.map_rows(reading, place, &plan);
                (Source::Map(Box::new(rows)), include_docs.then_some(show))
            }
            Kind::Reduce { .. } => (Source::Reduce(Box::new(app.views.grouped(reading, place, &plan, view))), None),
        };
        let (database, update_seq, waiting) = (database.clone(), params.update_seq, Beside::default());
        Ok(Asked { database, source: Some(source), update_seq, docs, waiting, sequence, history, row_bytes })
    }

    /// Runs one step of reading on a blocking thread.
    async fn read<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&Database, &mut Source) -> crate::error::Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(mut source) = self.source.take() else {
            return Err(Error::Internal("a query was cancelled while it was read".into()).into());
        };
        let database = self.database.clone();
        let (source, answer) = blocking(move || {
            let answer = step(&database, &mut source)?;
            Ok((source, answer))
        })
        .await?;
        self.source = Some(source);
        Ok(answer)
    }

    /// The members of the response before `rows`, each with a trailing comma.
    pub async fn head(&mut self) -> Result<String> {
        let counts = self.read(|_, source| match source {
            Source::Map(rows) => rows.total_and_offset().map(Some),
            Source::Reduce(_) => Ok(None),
        });
        let mut head = match counts.await? {
            Some((total, offset)) => format!("\"total_rows\":{total},\"offset\":{offset},"),
            None => String::new(),
        };
        if self.update_seq {
            let sequence = self.database.wire_sequence(self.sequence, self.history);
            head.push_str(&format!("\"update_seq\":{},", quote(&sequence)));
        }
        Ok(head)
    }

    /// Returns the next page of rows, empty at the end. Reserves memory for it from the budget of `out`.
    pub async fn next(&mut self, out: &mut Sender) -> Result<Vec<RowText>> {
        let mut room = AT_ONCE;
        let rows = loop {
            out.load(body_writer::cost(room) + self.row_bytes).await;
            match self.load(room).await? {
                Within::Fits(rows) => break rows,
                Within::Large(bytes) => room = bytes,
            }
        };
        let (heads, docs) = rows.iter().fold((0, 0), |(heads, docs), row| {
            let doc: usize = row.doc.iter().flatten().map(Piece::bytes).sum();
            (heads + row.head.len() as u64, docs + doc as u64)
        });
        self.row_bytes = self.row_bytes.max(heads).min(body_writer::UNKNOWN);
        out.loaded(heads + docs);
        Ok(rows)
    }

    /// Reads the next page of rows, with at most `room` bytes of documents.
    async fn load(&mut self, room: u64) -> Result<Within<Vec<RowText>>> {
        let docs = self.docs.clone();
        let mut waiting = std::mem::take(&mut self.waiting);
        let (rows, waiting) = self
            .read(move |database, source| {
                let rows = match (source, &docs) {
                    (Source::Map(rows), Some(show)) => {
                        if waiting.is_empty() {
                            waiting = Beside::of(database, rows.next(PAGE_WITH_DOCS)?)?;
                        }
                        let text = |(row, found): (Row, Option<Found>)| {
                            let doc = match found {
                                Some(found) => render::document(&found, show),
                                None => vec![Piece::Text("null".into())],
                            };
                            RowText { head: mapped(&row), doc: Some(doc) }
                        };
                        match waiting.load(database, show, room)? {
                            Within::Fits(rows) => rows.into_iter().map(text).collect(),
                            Within::Large(bytes) => return Ok((Within::Large(bytes), waiting)),
                        }
                    }
                    (Source::Map(rows), None) => {
                        rows.next(PAGE)?.into_iter().map(|row| RowText { head: mapped(&row), doc: None }).collect()
                    }
                    (Source::Reduce(rows), _) => {
                        rows.next(PAGE)?.into_iter().map(|row| RowText { head: reduced(row), doc: None }).collect()
                    }
                };
                Ok((Within::Fits(rows), waiting))
            })
            .await?;
        self.waiting = waiting;
        Ok(rows)
    }

    /// Writes the whole response, without a newline at the end.
    async fn write(&mut self, out: &mut Sender) -> Result<()> {
        let head = self.head().await?;
        let mut page = self.next(out).await?;
        out.write(format!("{{{head}\"rows\":[")).await;
        let mut lead = "\r\n";
        while !page.is_empty() {
            for row in page {
                out.write(lead).await;
                out.text(row.head).await;
                if let Some(doc) = row.doc {
                    out.write(",\"doc\":").await;
                    body_writer::write(out, self.database.blobs(), doc).await?;
                }
                out.write("}").await;
                lead = ",\r\n";
            }
            page = self.next(out).await?;
        }
        out.write("\r\n]}").await;
        Ok(())
    }
}

/// Formats a map row without its closing brace.
fn mapped(row: &Row) -> String {
    format!("{{\"id\":{},\"key\":{},\"value\":{}", quote(row.id()), row.key(), row.value())
}

/// Formats a reduce row without its closing brace.
fn reduced(row: crate::query::view::ReducedRow) -> String {
    use crate::query::view::Outcome;
    match row.outcome {
        Outcome::Value(value) => format!("{{\"key\":{},\"value\":{value}", row.key.as_deref().unwrap_or("null")),
        Outcome::Overflow(reason) => {
            format!("{{\"key\":null,\"error\":\"reduce_overflow_error\",\"reason\":{}", quote(&reason))
        }
    }
}

/// Returns a progress callback that shows the update in `_active_tasks` from its first step on.
pub(crate) fn task(app: &Arc<App>, database: &Database, definition: &Definition) -> Progress {
    let task = Mutex::new(None);
    let (app, database, design) = (app.clone(), database.name().to_owned(), definition.id.clone());
    Arc::new(move |done, total| {
        let now = app.clock.since_epoch().as_secs();
        let mut task = task.lock();
        let task = task.get_or_insert_with(|| {
            app.tasks.begin("indexer", json!({"database": database, "design_document": design}), now)
        });
        task.progress(done, total, now);
    })
}
