//! `_changes`: the changes of a database (CouchDB: `chttpd_db`, `fabric_view_changes`, `couch_changes`).
//!
//! This file reads pages of changes and writes rows; [`crate::http::api::feed`] holds the loop.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::changes_filter::{configure, fields};
use super::changes_params::Params;
use super::first_sync::FirstSync;
use crate::app::App;
use crate::app::answer_budget::WINDOW;
use crate::app::metrics::Counted;
use crate::app::sync::{OpenFeed, Syncing};
use crate::blocking::{beside, blocking, reading};
use crate::db::read::render::{self, Attachments};
use crate::db::record::SequenceRow;
use crate::db::{Database, Moved, Since};
use crate::http::api::document::body_writer;
use crate::http::api::document::include_docs::Docs;
use crate::http::api::feed::{Feed, Kind, Page, Source, Then};
use crate::http::request::{Request, Verb, etag_of};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::Result;
use crate::json::{push_quoted, quote};
use crate::query::changes_filter::{Filter, Judged};
use crate::query::mango::find::Projection;
use crate::store::{Direction, PageLimit};

/// Rows read at once; fewer if their documents are needed.
const PAGE: usize = 1000;
const PAGE_WITH_DOCS: usize = 64;
/// As above for a filter that reads documents, while it judges a page within [`QUICK`]. A client waits for all of the
/// first page.
const PAGE_TO_JUDGE: usize = 250;
const QUICK: Duration = Duration::from_millis(250);
/// Rows that are sent between two checks of the authorization, if they come without documents.
const UNCHECKED: usize = 64;
/// Finding a field in a document takes about as long as reading this many bytes.
const FIELD: usize = 64;
/// Bytes of rows read at once.
const PAGE_BYTES: usize = 256 << 10;
/// Sequences that are read at once without a thread hand-off: most feeds that wake find no more.
const FEW: u64 = 32;

/// `GET` and `POST /{db}/_changes`.
pub async fn changes(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let mut body = Map::new();
    if request.verb == Verb::Post {
        request.must_be_json()?;
        if !request.body.is_empty() {
            body = request.json_object().await?;
        }
    }
    let mut params = Params::parse(request)?;
    let filter = configure(app, request, &database, &params.filter, &body).await?;
    let fields = fields(&filter, &body)?.map(Box::new);
    if fields.is_some() {
        params.show.attachments = Attachments::Stubs;
    }
    let moved = database.watch();
    let history = database.history();
    let last = database.info().sequence;
    let since = sequence_of(&database, params.since.as_deref(), last)?;
    let tombstones_since = sequence_of(&database, params.tombstones_since.as_deref(), last)?;
    let (kind, waiting) = (params.kind, params.waiting);
    let etag = (kind == Kind::Normal && !filter.is_script()).then(|| tag(request, &database, (last, history), &body));
    if let Some(etag) = &etag
        && request.has_etag(etag)
    {
        return Ok(Answer::not_modified(etag));
    }
    let counted = (kind != Kind::Normal).then(|| app.metrics.clients_requesting_changes.count());
    let syncing = request.syncing.as_ref();
    syncing.inspect(|syncing| syncing.asked(since));
    let open = syncing.filter(|_| kind != Kind::Normal).map(Syncing::opened);
    let first_sync = FirstSync::of(request, &database, since, &mut params.limit).map(Box::new);
    let changes = Changes {
        database,
        params,
        filter,
        fields,
        tombstones_since,
        first_sync,
        before: u64::MAX,
        judged_at_once: PAGE_WITH_DOCS,
        listed: None,
        told: since,
        history,
        _counted: counted,
        open,
    };
    let answer = Feed::new(app, request, (kind, waiting), moved, since, changes).answer(request).await?;
    Ok(match (kind, etag) {
        (Kind::Normal, Some(etag)) => answer.etag(&etag),
        (Kind::Normal, None) => answer,
        (Kind::EventSource, _) => {
            let no_cache = http::HeaderValue::from_static("no-cache");
            answer.with(header::CACHE_CONTROL, no_cache).uncompressed()
        }
        _ => answer.uncompressed(),
    })
}

/// The sequence that a client names; 0 if it names none.
fn sequence_of(database: &Database, text: Option<&str>, last: u64) -> Result<u64> {
    Ok(match text {
        None | Some("") => 0,
        Some(text) => match database.parse_since(text)? {
            Since::Now => last,
            // A sequence that the database has never reached: the feed goes on from the last one.
            Since::Sequence(sequence) => sequence.min(last),
        },
    })
}

/// The `ETag` of a feed that ends: of this instance of the database, up to `last`, for this user. A feed with a
/// filter function has none, since the function reads the whole request.
fn tag(
    request: &Request,
    database: &Database,
    (last, history): (u64, Option<u64>),
    body: &Map<String, Value>,
) -> String {
    etag_of([
        database.wire_sequence(last, history).as_str(),
        &database.info().purge_sequence.to_string(),
        &request.target,
        &request.user.to_script_json(database.name()).to_string(),
        &serde_json::to_string(body).unwrap_or_default(),
    ])
}

/// The changes of one database, with the parameters of one client. What few feeds have is boxed: thousands wait.
struct Changes {
    database: Arc<Database>,
    params: Params,
    filter: Filter,
    /// What a selector's feed shows of its documents.
    fields: Option<Box<Projection>>,
    /// Deleted documents up to here are left out.
    tombstones_since: u64,
    /// Set for a page of more rows than PouchDB asked for.
    first_sync: Option<Box<FirstSync>>,
    /// Position of a descending feed: it has read everything from this sequence on.
    before: u64,
    /// Rows of the next page, for a filter that reads documents.
    judged_at_once: usize,
    /// For a feed of some documents.
    listed: Option<Box<Listed>>,
    /// The last sequence that the client knows.
    told: u64,
    /// The history in which everything up to the feed's position was read.
    history: Option<u64>,
    /// For a feed that waits.
    _counted: Option<Counted>,
    /// For a feed of a replicator that waits.
    open: Option<OpenFeed>,
}

/// Documents of a feed that were found to have changed.
struct Listed {
    /// The last sequence when they were found.
    last: u64,
    /// Those that have not been sent yet, in the order of their sequences.
    left: VecDeque<(u64, String)>,
}

impl Source for Changes {
    type Row = Judged;
    type Batch = Docs;
    type Moved = Moved;

    fn is_gone(moved: &Moved) -> bool {
        matches!(moved, Moved::Gone)
    }

    fn unchecked(&self) -> usize {
        if self.params.include_docs { 1 } else { UNCHECKED }
    }

    /// A filter function receives the user's roles.
    fn depends_on_roles(&self) -> bool {
        self.filter.is_script()
    }

    async fn page(&mut self, since: u64) -> Result<Page<Judged>> {
        if self.params.limit == 0 {
            return Ok(Page { rows: Vec::new(), next: since, then: Then::End });
        }
        let mut page = match self.params.descending {
            true => self.backward(since).await?,
            false => {
                let since = self.go_on(since);
                self.forward(since).await?
            }
        };
        let full = self.first_sync.as_mut().is_some_and(|first_sync| first_sync.fit(&mut page.rows));
        page.rows.truncate(usize::try_from(self.params.limit).unwrap_or(usize::MAX));
        self.params.limit -= page.rows.len() as u64;
        if self.params.limit == 0 || full {
            page.next = page.rows.last().map_or(since, |row| row.sequence);
            page.then = Then::End;
        }
        Ok(page)
    }

    async fn begin(&mut self, rows: &[Judged], out: &mut Sender) -> Docs {
        if let (Some(open), Some(last)) = (&self.open, rows.last()) {
            open.sent(last.sequence);
        }
        let include_docs = self.params.include_docs;
        if !include_docs {
            out.load(rows.iter().map(Judged::bytes).sum::<u64>().saturating_sub(WINDOW)).await;
        }
        let wanted = rows.iter().filter(|_| include_docs).map(|row| (row.row.id.clone(), row.row.winner().clone()));
        Docs::of(&self.database, &self.params.show, wanted)
    }

    fn position(row: &Judged) -> u64 {
        row.sequence
    }

    async fn write(&mut self, docs: &mut Docs, row: Judged, written: u64, out: &mut Sender) -> Result<()> {
        let kind = self.params.kind;
        let wire = self.wire(row.sequence);
        let interval = self.params.seq_interval.map_or(1, NonZeroU64::get);
        let sequence = if written.is_multiple_of(interval) { wire.as_str() } else { "null" };
        self.told = row.sequence;
        let mut text = String::with_capacity(192);
        text.extend([kind.row_start(written == 0), "{\"seq\":", sequence, ",\"id\":"]);
        push_quoted(&mut text, &row.row.id);
        text.push_str(",\"changes\":[");
        for (at, leaf) in row.leaves.iter().enumerate() {
            text.push_str(if at > 0 { ",{\"rev\":" } else { "{\"rev\":" });
            push_quoted(&mut text, &row.row.leaves[*leaf].revision.to_string());
            text.push('}');
        }
        text.push(']');
        if row.row.winner().deleted {
            text.push_str(",\"deleted\":true");
        }
        if self.params.include_docs {
            text.push_str(",\"doc\":");
            out.text(std::mem::take(&mut text)).await;
            match (docs.next(out).await?, &self.fields) {
                (Some(found), Some(fields)) => {
                    let work = found.body.json.len() + FIELD * fields.names().len();
                    let shown = beside(work, || {
                        let whole = render::text(&found, &self.params.show);
                        drop(found);
                        fields.project(&whole)
                    });
                    out.text(shown).await;
                }
                (Some(found), None) => {
                    let pieces = render::document(&found, &self.params.show);
                    body_writer::write(out, self.database.blobs(), pieces).await?;
                }
                (None, _) => out.write("null").await,
            }
        }
        text.push('}');
        kind.end_row(&mut text, &wire);
        out.text(text).await;
        Ok(())
    }

    fn wire(&self, position: u64) -> String {
        quote(&self.database.wire_sequence(position, self.history))
    }

    /// The line `{"last_seq":...,"pending":...}`, which otherwise ends a continuous feed: clients that do not ask with
    /// `seq_interval` take it for the end.
    async fn progress(&mut self, since: u64) -> Option<String> {
        let interval = self.params.seq_interval.filter(|_| self.params.kind == Kind::Continuous)?;
        if since.saturating_sub(self.told) < interval.get() {
            return None;
        }
        self.told = since;
        Some(format!("{{{}}}\n", self.position_members(since).await))
    }

    async fn end(self, since: u64) -> String {
        let members = self.position_members(since).await;
        match self.params.kind.is_object() {
            true => format!("\n],\n{members}}}\n"),
            false => format!("{{{members}}}\n"),
        }
    }
}

impl Changes {
    /// Where the feed goes on after the position `since`: earlier, if a failover has lost what was read there.
    fn go_on(&mut self, since: u64) -> u64 {
        let before = std::mem::replace(&mut self.history, self.database.history());
        if self.database.is_shared() { self.database.position(since, before) } else { since }
    }

    /// The members `last_seq` and `pending` of a position.
    async fn position_members(&self, since: u64) -> String {
        let last = self.wire(since);
        let database = self.database.clone();
        let pending = if self.params.descending && self.before != u64::MAX {
            blocking(move || database.pending_before(since)).await.unwrap_or(0)
        } else if self.database.info().sequence <= since {
            0
        } else {
            reading(move || database.pending(since)).await.unwrap_or(0)
        };
        format!("\"last_seq\":{last},\"pending\":{pending}")
    }

    fn page_limit(&self) -> PageLimit {
        let page = match (self.params.include_docs, self.filter.needs_documents()) {
            (_, true) => self.judged_at_once,
            (true, false) => PAGE_WITH_DOCS,
            (false, false) => PAGE,
        };
        let page = if self.filter.passes_all() && self.tombstones_since == 0 {
            page.min(self.params.limit.clamp(1, PAGE as u64) as usize)
        } else {
            page
        };
        PageLimit { entries: page, bytes: PAGE_BYTES }
    }

    /// A descending feed lists the existing changes from the last to the first, and ends.
    async fn backward(&mut self, since: u64) -> Result<Page<Judged>> {
        let (database, before, limit) = (self.database.clone(), self.before, self.page_limit());
        let page = blocking(move || database.changes(before, Direction::Backward, limit)).await?;
        self.before = page.rows.last().map_or(0, |(sequence, _)| *sequence);
        let rows = self.judge(page.rows).await?;
        let next = rows.last().map_or(since, |row| row.sequence);
        Ok(Page { rows, next, then: if page.done { Then::End } else { Then::More } })
    }

    /// The next rows after `since` that pass.
    async fn forward(&mut self, since: u64) -> Result<Page<Judged>> {
        let last = self.database.info().sequence;
        // Some documents of a long feed: read those documents. A short stretch of the feed: read the feed.
        if let Filter::DocIds(ids) = &self.filter
            && (self.listed.is_some() || last.saturating_sub(since) > ids.len() as u64)
        {
            return self.page_of(ids.clone(), since, last).await;
        }
        let (database, limit) = (self.database.clone(), self.page_limit());
        let page = match self.database.recent_changes(since, limit.entries) {
            Some(page) => page,
            None => {
                let read = move || database.changes(since, Direction::Forward, limit);
                if last.saturating_sub(since) <= FEW { reading(read).await? } else { blocking(read).await? }
            }
        };
        let rows = self.judge(page.rows).await?;
        Ok(Page { rows, next: page.through, then: if page.done { Then::Wait } else { Then::More } })
    }

    async fn page_of(&mut self, ids: Arc<HashSet<String>>, since: u64, last: u64) -> Result<Page<Judged>> {
        let mut listed = match self.listed.take() {
            Some(listed) => listed,
            None => {
                let database = self.database.clone();
                let changed = blocking(move || {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    database.changed_of(&ids, since)
                });
                let left = changed.await?.into_iter().filter(|(sequence, _)| *sequence <= last).collect();
                Box::new(Listed { last, left })
            }
        };
        let page = listed.left.len().min(self.page_limit().entries);
        let (sequences, ids): (Vec<u64>, Vec<String>) = listed.left.drain(..page).unzip();
        let last = listed.last;
        let done = listed.left.is_empty();
        let next = sequences.last().copied().filter(|_| !done).unwrap_or(last).max(since);
        self.listed = (!done).then_some(listed);
        let database = self.database.clone();
        let rows = blocking(move || database.changes_of(&ids, since)).await?;
        // What has changed again since it was listed comes later.
        let rows = rows.into_iter().filter(|(sequence, _)| *sequence <= last).collect();
        let rows = self.judge(rows).await?;
        Ok(Page { rows, next, then: if done { Then::Wait } else { Then::More } })
    }

    async fn judge(&mut self, mut rows: Vec<(u64, SequenceRow)>) -> Result<Vec<Judged>> {
        let began = Instant::now();
        if self.tombstones_since > 0 {
            rows.retain(|(sequence, row)| *sequence > self.tombstones_since || !row.winner().deleted);
        }
        let judged = self.filter.judge(&self.database, rows, self.params.all_leaves).await?;
        self.judged_at_once = rows_to_judge(self.judged_at_once, began.elapsed());
        Ok(judged)
    }
}

/// Rows of the page after one of `rows`, which a filter has judged in this time.
fn rows_to_judge(rows: usize, took: Duration) -> usize {
    if took < QUICK { PAGE_TO_JUDGE.min(2 * rows) } else { PAGE_WITH_DOCS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_filter_judges_small_pages_and_a_quick_one_larger_ones() {
        let (quick, slow) = (QUICK / 2, QUICK);
        assert_eq!(rows_to_judge(PAGE_WITH_DOCS, quick), 2 * PAGE_WITH_DOCS);
        assert_eq!(rows_to_judge(2 * PAGE_WITH_DOCS, quick), PAGE_TO_JUDGE);
        assert_eq!(rows_to_judge(PAGE_TO_JUDGE, quick), PAGE_TO_JUDGE);
        assert_eq!(rows_to_judge(PAGE_TO_JUDGE, slow), PAGE_WITH_DOCS);
    }
}
