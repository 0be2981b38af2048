//! `_changes`: normal, longpoll, continuous, eventsource (CouchDB: `chttpd_db`, `fabric_view_changes`, `couch_changes`).
//!
//! Subscribe first, then read: a change that comes between is heard of. A waiting feed holds a watch, a timer and its
//! parameters, and no thread: it is a future that its connection polls.
//!
//! A feed checks its authorization after it has read rows and before it sends them, so that it sends no row that was
//! written after the authorization was withdrawn. A waiting feed wakes and ends at once when that happens.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::header;
use serde_json::Map;
use tokio::sync::watch;
use tokio::time::Instant;

use super::changes_filter::{Filter, Judged};
use crate::app::App;
use crate::app::answer_budget::WINDOW;
use crate::app::metrics::Counted;
use crate::blocking::{blocking, reading};
use crate::db::read::render::{self, Attachments, Show};
use crate::db::record::SequenceRow;
use crate::db::{Database, Moved, Since};
use crate::error::Error;
use crate::http::api::document::body_writer;
use crate::http::api::document::include_docs::Docs;
use crate::http::request::{Request, Verb};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::policy::authorization::{Standing, Waiter};
use crate::store::{Direction, PageLimit};

/// Rows read at once; fewer where their documents are needed.
const PAGE: usize = 1000;
const PAGE_WITH_DOCS: usize = 64;
/// As above for a filter that reads documents: one call of its function judges a page, if the documents are small.
const PAGE_TO_JUDGE: usize = 250;
/// Rows that are sent between two checks of the authorization, if they come without documents.
const UNCHECKED: usize = 64;
/// Bytes of rows read at once.
const PAGE_BYTES: usize = 256 << 10;
/// Sequences that are read at once without a hand-over: what most feeds that wake up find.
const FEW: u64 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Longpoll,
    Continuous,
    EventSource,
}

/// A feed's parameters.
struct Params {
    kind: Kind,
    since: Option<String>,
    limit: u64,
    descending: bool,
    all_leaves: bool,
    include_docs: bool,
    show: Show,
    /// Beat this often, and never time out.
    heartbeat: Option<Duration>,
    /// End after this long without a change.
    timeout: Duration,
    seq_interval: u64,
    filter: String,
}

impl Params {
    fn parse(request: &Request) -> Result<Params> {
        let most = Duration::from_millis(request.settings.changes_timeout);
        let mut params = Params {
            kind: Kind::Normal,
            since: None,
            limit: u64::MAX,
            descending: false,
            all_leaves: false,
            include_docs: false,
            show: Show::default(),
            heartbeat: None,
            timeout: most,
            seq_interval: 1,
            filter: String::new(),
        };
        for (name, value) in request.query.iter() {
            let yes = value == "true";
            match name.to_ascii_lowercase().as_str() {
                "feed" => {
                    params.kind = match value {
                        "normal" => Kind::Normal,
                        "longpoll" => Kind::Longpoll,
                        "continuous" | "live" => Kind::Continuous,
                        "eventsource" => Kind::EventSource,
                        _ => {
                            return Err(Failure::bad_request(
                                "Supported `feed` types: normal, continuous, live, longpoll, eventsource",
                            ));
                        }
                    }
                }
                "descending" if yes => params.descending = true,
                "since" | "last-event-id" => params.since = Some(value.to_owned()),
                "limit" => params.limit = natural(value, "limit")?,
                "style" => match value {
                    "main_only" => params.all_leaves = false,
                    "all_docs" => params.all_leaves = true,
                    _ => return Err(Failure::bad_request("Supported `style` values: main_only, all_docs")),
                },
                "heartbeat" if yes => params.heartbeat = Some(most),
                "heartbeat" => match value.parse::<i64>() {
                    Ok(beat) if beat > 0 => {
                        params.heartbeat = Some(most.min(Duration::from_millis(beat.unsigned_abs())));
                    }
                    Ok(_) => {
                        return Err(Failure::bad_request(
                            "The heartbeat value should be a positive integer (in milliseconds).",
                        ));
                    }
                    Err(_) => {
                        return Err(Failure::bad_request(
                            "Invalid heartbeat value. Expecting a positive integer value (in milliseconds).",
                        ));
                    }
                },
                "timeout" => params.timeout = most.min(Duration::from_millis(natural(value, "timeout")?)),
                "include_docs" if yes => params.include_docs = true,
                "conflicts" if yes => params.show.conflicts = true,
                "attachments" if yes => params.show.attachments = Attachments::Inline,
                "att_encoding_info" if yes => params.show.encoding_info = true,
                "filter" => params.filter = value.to_owned(),
                "seq_interval" => match value.parse::<u64>() {
                    Ok(every) if every > 0 => params.seq_interval = every,
                    _ => return Err(Failure::bad_request("invalid_seq_interval")),
                },
                _ => {}
            }
        }
        if params.kind == Kind::EventSource
            && let Some(last) = request.header("last-event-id")
        {
            params.since = Some(last.to_owned());
        }
        Ok(params)
    }
}

fn natural(value: &str, name: &str) -> Result<u64> {
    match value.parse::<i128>() {
        Ok(number) if number >= 0 => Ok(u64::try_from(number).unwrap_or(u64::MAX)),
        Ok(_) => Err(Failure::bad_request(format!("The {name} value should be a non-negative integer"))),
        Err(_) => Err(Failure::bad_request(format!("The {name} parameter should be a non-negative integer"))),
    }
}

/// `GET` and `POST /{db}/_changes`.
pub async fn changes(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let mut body = Map::new();
    if request.verb == Verb::Post {
        request.must_be_json()?;
        if !request.body.is_empty() {
            body = request.json_object().await?;
        }
    }
    let params = Params::parse(request)?;
    let filter = Filter::configure(app, request, &database, &params.filter, &body).await?;
    let moved = database.watch();
    let since = match params.since.as_deref() {
        None | Some("") => Since::Sequence(0),
        Some(text) => database.parse_since(text)?,
    };
    let last = database.info().sequence;
    let since = match since {
        Since::Now => last,
        // What was never given out lies behind everything: the feed goes on from here.
        Since::Sequence(sequence) => sequence.min(last),
    };
    let kind = params.kind;
    let etag = (kind == Kind::Normal).then(|| format!("{last}-{}", database.info().purge_sequence));
    let etag =
        etag.map(|tag| crate::hex::hex(&crc32fast::hash(format!("{tag}{}", request.target).as_bytes()).to_be_bytes()));
    if let Some(etag) = &etag
        && request.has_etag(etag)
    {
        return Ok(Answer::not_modified(etag));
    }
    let standing = request.standing.clone();
    let waiter = (kind != Kind::Normal).then(|| standing.watch());
    let counted = (kind != Kind::Normal).then(|| app.metrics.clients_requesting_changes.count());
    let (shutdown, listed) = (app.shutdown.clone(), None);
    let feed = Feed {
        database,
        params,
        filter,
        moved,
        since,
        written: 0,
        shutdown,
        standing,
        waiter,
        _counted: counted,
        listed,
    };
    let content_type = match kind {
        Kind::EventSource => "text/event-stream",
        _ => "application/json",
    };
    let mut answer = Answer::stream(&request.line, content_type, move |out| feed.run(out)).await?;
    answer.body.checks_itself();
    Ok(match (kind, etag) {
        (Kind::Normal, Some(etag)) => answer.etag(&etag),
        (Kind::EventSource, _) => {
            let no_cache = http::HeaderValue::from_static("no-cache");
            answer.with(header::CACHE_CONTROL, no_cache).uncompressed()
        }
        _ => answer.uncompressed(),
    })
}

/// A feed at work.
struct Feed {
    database: Arc<Database>,
    params: Params,
    filter: Filter,
    moved: watch::Receiver<Moved>,
    /// Everything up to here has been looked at.
    since: u64,
    written: u64,
    shutdown: crate::app::shutdown::Shutdown,
    standing: Arc<Standing>,
    /// `None` for a feed that does not wait.
    waiter: Option<Waiter>,
    /// Of a feed that waits.
    _counted: Option<Counted>,
    /// Of a feed of some documents.
    listed: Option<Listed>,
}

/// Documents of a feed that were found to have changed.
struct Listed {
    /// Up to here the feed was looked at when they were found.
    last: u64,
    /// Those that are still to be told of, in the order of their sequences.
    left: VecDeque<(u64, String)>,
}

/// A page of rows on its way out.
struct Page {
    rows: Vec<Judged>,
    /// Where to go on.
    next: u64,
    /// Nothing comes after it for now.
    done: bool,
}

enum Woken {
    Moved,
    /// The authorization may have changed.
    Doubted,
    Beat,
    TimedOut,
    Ended,
}

impl Feed {
    async fn run(mut self, mut out: Sender) -> Result<()> {
        let listed = matches!(self.params.kind, Kind::Normal | Kind::Longpoll);
        if self.params.descending {
            return self.backward(out, listed).await;
        }
        // Read before the first byte goes out, so that what fails then is a proper error.
        let mut first = Some(self.page(self.since).await?);
        self.standing.check().await?;
        if listed {
            out.write("{\"results\":[\n").await;
        }
        let mut quiet_since = Instant::now();
        let mut greeted = false;
        loop {
            // Marked as seen before reading: a change that comes while we read wakes us.
            let mut gone = matches!(*self.moved.borrow_and_update(), Moved::Gone);
            let before = self.written;
            loop {
                let page = match first.take() {
                    Some(page) => page,
                    None => match self.page(self.since).await {
                        Err(Failure::Domain(Error::NoDatabase)) => {
                            gone = true;
                            break;
                        }
                        page => page?,
                    },
                };
                if !self.write(&mut out, page.rows).await? || self.params.limit == 0 {
                    return self.end(out, listed).await;
                }
                self.since = self.since.max(page.next);
                if page.done {
                    break;
                }
            }
            if self.written > before {
                quiet_since = Instant::now();
            }
            let over = match self.params.kind {
                Kind::Normal => true,
                Kind::Longpoll => self.written > 0,
                Kind::Continuous | Kind::EventSource => false,
            };
            if over || gone || self.shutdown.has_begun() {
                return self.end(out, listed).await;
            }
            if !listed && self.written == 0 && !greeted {
                // The head goes out with the first byte: a client must not wait for a change to learn that it waits.
                out.write("\n").await;
                greeted = true;
            }
            out.rests();
            loop {
                let woken = self.wait(quiet_since).await;
                // A failing store does not end a waiting feed; rows are sent only after a check that succeeds.
                if matches!(self.is_allowed().await, Ok(false)) {
                    return self.end(out, listed).await;
                }
                match woken {
                    Woken::Moved => break,
                    Woken::Doubted => {}
                    Woken::Beat => {
                        let beat = match self.params.kind {
                            Kind::EventSource => "event: heartbeat\ndata: \n\n",
                            _ => "\n",
                        };
                        out.write(beat).await;
                        quiet_since = Instant::now();
                    }
                    Woken::TimedOut | Woken::Ended => return self.end(out, listed).await,
                }
            }
        }
    }

    async fn wait(&mut self, quiet_since: Instant) -> Woken {
        let (after, beats) = match self.params.heartbeat {
            Some(beat) => (beat, true),
            None => (self.params.timeout, false),
        };
        let doubted = async {
            match &mut self.waiter {
                Some(waiter) => waiter.woken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.begun() => Woken::Ended,
            () = doubted => Woken::Doubted,
            moved = self.moved.changed() => match moved {
                Ok(()) => Woken::Moved,
                Err(_) => Woken::Ended,
            },
            () = tokio::time::sleep_until(quiet_since + after) => if beats { Woken::Beat } else { Woken::TimedOut },
        }
    }

    /// Whether the client may still have this feed. A filter function has been given the user's roles: if they change, the
    /// feed ends and the client opens another one.
    async fn is_allowed(&self) -> Result<bool> {
        let holds = self.standing.holds().await?;
        Ok(holds && !(matches!(self.filter, Filter::Script(_)) && self.standing.renewed().is_some()))
    }

    async fn end(self, mut out: Sender, listed: bool) -> Result<()> {
        if self.params.kind == Kind::EventSource {
            return Ok(());
        }
        let last = quote(&self.database.wire_sequence(self.since));
        let (database, since) = (self.database.clone(), self.since);
        let pending = reading(move || database.pending(since)).await.unwrap_or(0);
        let text = match listed {
            true => format!("\n],\n\"last_seq\":{last},\"pending\":{pending}}}\n"),
            false => format!("{{\"last_seq\":{last},\"pending\":{pending}}}\n"),
        };
        out.write(text).await;
        Ok(())
    }

    /// A descending feed shows what is there, from the last change to the first, and ends.
    async fn backward(mut self, mut out: Sender, listed: bool) -> Result<()> {
        let mut before = u64::MAX;
        let mut begun = false;
        loop {
            let limit = self.page_limit();
            let database = self.database.clone();
            let page = blocking(move || database.changes(before, Direction::Backward, limit)).await?;
            let rows = self.judge(page.rows).await?;
            if listed && !begun {
                out.write("{\"results\":[\n").await;
            }
            begun = true;
            before = rows.next.unwrap_or(0);
            let goes_on = self.write(&mut out, rows.rows).await?;
            if !goes_on || page.done || self.params.limit == 0 {
                return self.end(out, listed).await;
            }
        }
    }

    fn page_limit(&self) -> PageLimit {
        let page = match (self.params.include_docs, self.filter.needs_documents()) {
            (_, true) => PAGE_TO_JUDGE,
            (true, false) => PAGE_WITH_DOCS,
            (false, false) => PAGE,
        };
        let page =
            if self.filter.passes_all() { page.min(self.params.limit.clamp(1, PAGE as u64) as usize) } else { page };
        PageLimit { entries: page, bytes: PAGE_BYTES }
    }

    /// The next rows after `since` that pass.
    async fn page(&mut self, since: u64) -> Result<Page> {
        let last = self.database.info().sequence;
        if self.params.limit == 0 {
            return Ok(Page { rows: Vec::new(), next: since, done: true });
        }
        // Some documents of a long feed: read those documents. A short stretch of the feed: read the feed.
        if let Filter::DocIds(ids) = &self.filter
            && (self.listed.is_some() || last.saturating_sub(since) > ids.len() as u64)
        {
            return self.page_of(ids.clone(), since, last).await;
        }
        let (database, limit) = (self.database.clone(), self.page_limit());
        let read = move || database.changes(since, Direction::Forward, limit);
        let page = if last.saturating_sub(since) <= FEW { reading(read).await? } else { blocking(read).await? };
        let judged = self.judge(page.rows).await?;
        let next = judged.next.unwrap_or(since);
        let next = if page.done { next.max(last) } else { next };
        Ok(Page { rows: judged.rows, next, done: page.done })
    }

    async fn page_of(&mut self, ids: Arc<HashSet<String>>, since: u64, last: u64) -> Result<Page> {
        let mut listed = match self.listed.take() {
            Some(listed) => listed,
            None => {
                let database = self.database.clone();
                let changed = blocking(move || {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    database.changed_of(&ids, since)
                });
                let left = changed.await?.into_iter().filter(|(sequence, _)| *sequence <= last).collect();
                Listed { last, left }
            }
        };
        let page = listed.left.len().min(self.page_limit().entries);
        let (sequences, ids): (Vec<u64>, Vec<String>) = listed.left.drain(..page).unzip();
        let last = listed.last;
        let done = listed.left.is_empty();
        let next = sequences.last().copied().filter(|_| !done).unwrap_or(last);
        self.listed = (!done).then_some(listed);
        let database = self.database.clone();
        let rows = blocking(move || database.changes_of(&ids, since)).await?;
        // What has changed again since it was listed comes later.
        let rows = rows.into_iter().filter(|(sequence, _)| *sequence <= last).collect();
        let judged = self.judge(rows).await?;
        Ok(Page { rows: judged.rows, next, done })
    }

    /// Filters rows and loads the documents they show.
    async fn judge(&mut self, rows: Vec<(u64, SequenceRow)>) -> Result<Passed> {
        let next = rows.last().map(|(sequence, _)| *sequence);
        let judged = self.filter.judge(&self.database, rows, self.params.all_leaves).await?;
        Ok(Passed { rows: judged, next })
    }

    /// Sends rows. `false`: the client is no longer authorized.
    async fn write(&mut self, out: &mut Sender, rows: Vec<Judged>) -> Result<bool> {
        let include_docs = self.params.include_docs;
        let wanted = rows.iter().filter(|_| include_docs).map(|row| (row.row.id.clone(), row.row.winner().clone()));
        let mut docs = Docs::of(&self.database, &self.params.show, wanted);
        if !include_docs {
            out.load(rows.iter().map(Judged::bytes).sum::<u64>().saturating_sub(WINDOW)).await;
        }
        for (at, row) in rows.into_iter().enumerate() {
            if self.params.limit == 0 {
                break;
            }
            if (include_docs || at.is_multiple_of(UNCHECKED)) && !self.is_allowed().await? {
                return Ok(false);
            }
            self.params.limit -= 1;
            self.written += 1;
            self.since = row.sequence;
            let wire = quote(&self.database.wire_sequence(row.sequence));
            let told = (self.written - 1).is_multiple_of(self.params.seq_interval);
            let sequence = if told { wire.as_str() } else { "null" };
            let mut text = String::with_capacity(160);
            match self.params.kind {
                Kind::EventSource => text.push_str("data: "),
                Kind::Continuous => {}
                Kind::Normal | Kind::Longpoll => text.push_str(if self.written > 1 { ",\n" } else { "" }),
            }
            text.push_str(&format!("{{\"seq\":{sequence},\"id\":{},\"changes\":[", quote(&row.row.id)));
            for (at, revision) in row.revisions.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                text.push_str(&format!("{comma}{{\"rev\":{}}}", quote(revision)));
            }
            text.push(']');
            if row.row.winner().deleted {
                text.push_str(",\"deleted\":true");
            }
            out.text(text).await;
            if include_docs {
                out.write(",\"doc\":").await;
                match docs.next(out).await? {
                    Some(found) => {
                        let pieces = render::document(&found, &self.params.show);
                        body_writer::write(out, self.database.blobs(), pieces).await?;
                    }
                    None => out.write("null").await,
                }
            }
            out.write(match self.params.kind {
                Kind::EventSource => format!("}}\nid: {wire}\n\n"),
                Kind::Continuous => "}\n".to_owned(),
                Kind::Normal | Kind::Longpoll => "}".to_owned(),
            })
            .await;
        }
        Ok(true)
    }
}

struct Passed {
    rows: Vec<Judged>,
    /// The last sequence looked at.
    next: Option<u64>,
}
