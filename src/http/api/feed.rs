//! The loop of every feed (`_changes`, `_db_updates`): normal, longpoll, continuous and eventsource.
//!
//! ```text
//! mark as seen ─> read pages ─> check the authorization ─> write rows ─> wait ─┐
//!      ^                                                                       │
//!      └──── moved ── heartbeat, timeout, shutdown, end of the authorization <─┘
//! ```
//! The loop marks the state as seen before it reads, so that a change that comes while it reads wakes it. A
//! waiting feed holds a watch, a timer and its source, and no thread: it is a future that its connection polls.
//! What reads and writes rows is boxed, so that a waiting feed has no room for it.
//!
//! A feed checks its authorization after it has read rows and before it sends them, so that it sends no row
//! that was written after the authorization was withdrawn. A waiting feed wakes and ends at once when that
//! happens.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::App;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::policy::authorization::{Authorization, Waiter};

/// The `feed` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lists the rows that there are, and ends.
    Normal,
    /// As [`Kind::Normal`], but waits for the first row.
    Longpoll,
    /// One row per line, without end.
    Continuous,
    /// Server-sent events, without end.
    EventSource,
}

impl Kind {
    /// Whether the response is one JSON object with the rows in `results`.
    pub fn is_object(self) -> bool {
        matches!(self, Kind::Normal | Kind::Longpoll)
    }

    /// The text before a row.
    pub fn row_start(self, is_first: bool) -> &'static str {
        match self {
            Kind::EventSource => "data: ",
            Kind::Normal | Kind::Longpoll if !is_first => ",\n",
            Kind::Normal | Kind::Longpoll | Kind::Continuous => "",
        }
    }

    /// Appends the text after a row; `sequence` is the position that a client may continue from.
    pub fn end_row(self, row: &mut String, sequence: &str) {
        match self {
            Kind::EventSource => row.extend(["\nid: ", sequence, "\n\n"]),
            Kind::Continuous => row.push('\n'),
            Kind::Normal | Kind::Longpoll => {}
        }
    }

    /// The text of a heartbeat. An event stream's has the position `sequence`: an event source that connects again then
    /// goes on from there, and not from the last row that passed its filter.
    fn heartbeat(self, sequence: &str) -> String {
        match self {
            Kind::EventSource => format!("event: heartbeat\ndata: \nid: {sequence}\n\n"),
            Kind::Normal | Kind::Longpoll | Kind::Continuous => "\n".to_owned(),
        }
    }
}

/// The pause between two attempts to read from a database server that cannot be reached.
const REST: Duration = Duration::from_millis(500);

/// How long a feed waits.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Send a heartbeat this often, and never time out.
    pub heartbeat: Option<Duration>,
    /// End after this long without a row.
    pub timeout: Duration,
}

/// A page of rows.
pub struct Page<Row> {
    pub rows: Vec<Row>,
    /// The position after the page, where the feed goes on.
    pub next: u64,
    pub then: Then,
}

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another page.
    More,
    /// Nothing for now.
    Wait,
    /// The feed ends.
    End,
}

/// What a feed lists: reads pages of rows, and writes rows.
pub trait Source: Send + Sync + 'static {
    type Row: Send;
    /// What the rows of one page need while they are written.
    type Batch: Send;
    /// What a change tells the watchers.
    type Moved: Send + Sync + 'static;
    /// Rows that are sent between two checks of the authorization.
    fn unchecked(&self) -> usize;

    /// Whether a change says that what the feed lists no longer exists.
    fn is_gone(_moved: &Self::Moved) -> bool {
        false
    }

    /// Whether the user's roles decide which rows the feed lists. If they change, such a feed ends and the
    /// client opens another one.
    fn depends_on_roles(&self) -> bool {
        false
    }

    /// Reads the next rows after the position `since`.
    fn page(&mut self, since: u64) -> impl Future<Output = Result<Page<Self::Row>>> + Send;

    /// Prepares a page to be written, and takes the memory for it.
    fn begin(&mut self, rows: &[Self::Row], out: &mut Sender) -> impl Future<Output = Self::Batch> + Send;

    /// The position of a row.
    fn position(row: &Self::Row) -> u64;

    /// Writes a row, with [`Kind::row_start`] before it and [`Kind::end_row`] after it. `written`: the number
    /// of rows before it.
    fn write(
        &mut self,
        batch: &mut Self::Batch,
        row: Self::Row,
        written: u64,
        out: &mut Sender,
    ) -> impl Future<Output = Result<()>> + Send;

    /// A position as [`Source::write`] passes it to [`Kind::end_row`].
    fn wire(&self, position: u64) -> String;

    /// Text that tells a client, if it asked for that, that nothing up to the position `since` passes the filter.
    fn progress(&mut self, _since: u64) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }

    /// The text that ends the response at the position `since`. An event stream has none.
    fn end(self, since: u64) -> impl Future<Output = String> + Send;
}

/// A feed at work.
pub struct Feed<S: Source> {
    kind: Kind,
    waiting: Waiting,
    source: S,
    moved: watch::Receiver<S::Moved>,
    /// Everything up to here has been looked at.
    since: u64,
    /// The number of rows written.
    written: u64,
    /// When the client last got anything.
    quiet_since: Instant,
    shutdown: crate::app::shutdown::Shutdown,
    authorization: Arc<Authorization>,
    /// `None` for a feed that does not wait.
    waiter: Option<Waiter>,
}

enum Woken {
    Moved,
    /// The authorization may have changed.
    Doubted,
    Beat,
    Ended,
}

impl<S: Source> Feed<S> {
    /// Creates a feed of the rows after `since`. Subscribe (`moved`) before `since` is determined.
    pub fn new(
        app: &App,
        request: &Request,
        (kind, waiting): (Kind, Waiting),
        moved: watch::Receiver<S::Moved>,
        since: u64,
        source: S,
    ) -> Feed<S> {
        let authorization = request.authorization.clone();
        let waiter = (kind != Kind::Normal).then(|| authorization.watch());
        let (shutdown, quiet_since) = (app.shutdown.clone(), Instant::now());
        Feed { kind, waiting, source, moved, since, written: 0, quiet_since, shutdown, authorization, waiter }
    }

    /// Starts the response. A failure before its first byte is the answer instead.
    pub async fn answer(self, request: &Request) -> Result<Answer> {
        let content_type = match self.kind {
            Kind::EventSource => "text/event-stream",
            Kind::Normal | Kind::Longpoll | Kind::Continuous => "application/json",
        };
        let waits = self.kind != Kind::Normal;
        // Boxed: a future has room for its arguments twice.
        let feed = Box::new(self);
        let mut answer = Answer::stream(&request.line, content_type, move |out| feed.run(out)).await?;
        answer.body.checks_itself();
        if waits {
            // nginx collects the parts of an answer until its buffer is full, and a feed's client gets nothing,
            // unless this header tells it not to.
            answer.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        }
        Ok(answer)
    }

    async fn run(mut self: Box<Self>, mut out: Sender) -> Result<()> {
        let mut is_gone = self.mark_seen();
        // Read before the first byte is sent, so that a failure becomes a proper error response.
        let mut first = Some(Box::pin(self.source.page(self.since)).await?);
        self.authorization.check().await?;
        if self.kind.is_object() {
            out.write("{\"results\":[\n").await;
        }
        self.quiet_since = Instant::now();
        let mut has_head = self.kind.is_object();
        loop {
            let before = self.written;
            let goes_on = Box::pin(self.catch_up(&mut out, first.take())).await?;
            if self.written > before {
                self.quiet_since = Instant::now();
                has_head = true;
            }
            if !goes_on || is_gone || self.is_complete() || self.shutdown.has_begun() {
                return Box::pin(self.end(out)).await;
            }
            if !has_head {
                // The headers are sent with the first byte: they tell the client that the feed has begun.
                out.write("\n").await;
                has_head = true;
            }
            out.rests();
            if !self.wait_for_rows(&mut out).await {
                return Box::pin(self.end(out)).await;
            }
            is_gone = self.mark_seen();
        }
    }

    /// Marks the current state as seen, and returns whether what the feed lists no longer exists.
    fn mark_seen(&mut self) -> bool {
        S::is_gone(&self.moved.borrow_and_update())
    }

    /// Whether the feed has listed all that it is to list.
    fn is_complete(&self) -> bool {
        match self.kind {
            Kind::Normal => true,
            Kind::Longpoll => self.written > 0,
            Kind::Continuous | Kind::EventSource => false,
        }
    }

    /// Sends all rows that there are, beginning with the page that was read already. Returns whether the feed
    /// goes on.
    async fn catch_up(&mut self, out: &mut Sender, mut first: Option<Page<S::Row>>) -> Result<bool> {
        loop {
            let page = match first.take() {
                Some(page) => page,
                None => match self.source.page(self.since).await {
                    Err(Failure::Domain(error @ Error::NoDatabase)) => return self.stop(error),
                    // The client still gets heartbeats, and misses no change.
                    Err(Failure::Domain(Error::Down(_))) if self.kind != Kind::Normal => {
                        if !self.rest(out).await {
                            return Ok(false);
                        }
                        continue;
                    }
                    page => page?,
                },
            };
            if !self.write(out, page.rows).await? {
                return self.stop(Error::Forbidden("The user may no longer read this.".into()));
            }
            self.since = page.next;
            if page.then != Then::End && !self.tell_progress(out).await? {
                return self.stop(Error::Forbidden("The user may no longer read this.".into()));
            }
            match page.then {
                Then::More => {}
                Then::Wait => return Ok(true),
                Then::End => return Ok(false),
            }
        }
    }

    /// Ends the feed before it has listed all: `false`, after which the client asks again from the last sequence. A
    /// list (`feed=normal`) would then claim to be complete; its error cuts the response off.
    fn stop(&self, why: Error) -> Result<bool> {
        match self.kind {
            Kind::Normal => Err(why.into()),
            Kind::Longpoll | Kind::Continuous | Kind::EventSource => Ok(false),
        }
    }

    /// Sends rows. Returns `false` if the client is no longer authorized.
    async fn write(&mut self, out: &mut Sender, rows: Vec<S::Row>) -> Result<bool> {
        let mut batch = self.source.begin(&rows, out).await;
        let unchecked = self.source.unchecked();
        for (at, row) in rows.into_iter().enumerate() {
            if at.is_multiple_of(unchecked) && !self.is_allowed().await? {
                return Ok(false);
            }
            self.since = S::position(&row);
            self.source.write(&mut batch, row, self.written, out).await?;
            self.written += 1;
        }
        Ok(true)
    }

    /// Sends the source's progress, if there is any. Returns `false` if the client is no longer authorized.
    async fn tell_progress(&mut self, out: &mut Sender) -> Result<bool> {
        let Some(text) = self.source.progress(self.since).await else { return Ok(true) };
        if !self.is_allowed().await? {
            return Ok(false);
        }
        out.text(text).await;
        self.quiet_since = Instant::now();
        Ok(true)
    }

    /// Sends heartbeats until something happens. Returns `false` if the feed ends.
    async fn wait_for_rows(&mut self, out: &mut Sender) -> bool {
        loop {
            let woken = self.wait().await;
            // A failing store does not end a waiting feed; rows are sent only after a check that succeeds.
            if matches!(self.is_allowed().await, Ok(false)) {
                return false;
            }
            match woken {
                Woken::Moved => return true,
                Woken::Doubted => {}
                Woken::Beat => {
                    out.text(self.kind.heartbeat(&self.source.wire(self.since))).await;
                    self.quiet_since = Instant::now();
                }
                Woken::Ended => return false,
            }
        }
    }

    /// Waits a moment for a database server that cannot be reached, and sends a heartbeat that is due. Returns
    /// `false` if the feed ends.
    async fn rest(&mut self, out: &mut Sender) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.begun() => return false,
            () = tokio::time::sleep(REST) => {}
        }
        match self.waiting.heartbeat {
            Some(beat) if self.quiet_since.elapsed() >= beat => {
                out.text(self.kind.heartbeat(&self.source.wire(self.since))).await;
                self.quiet_since = Instant::now();
                true
            }
            Some(_) => true,
            None => self.quiet_since.elapsed() < self.waiting.timeout,
        }
    }

    async fn wait(&mut self) -> Woken {
        let (after, then) = match self.waiting.heartbeat {
            Some(beat) => (beat, Woken::Beat),
            None => (self.waiting.timeout, Woken::Ended),
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
            () = tokio::time::sleep_until(self.quiet_since + after) => then,
        }
    }

    /// Whether the client may still have this feed.
    async fn is_allowed(&self) -> Result<bool> {
        let holds = self.authorization.holds().await?;
        Ok(holds && !(self.source.depends_on_roles() && self.authorization.renewed().is_some()))
    }

    async fn end(self, mut out: Sender) -> Result<()> {
        if self.kind != Kind::EventSource {
            out.write(self.source.end(self.since).await).await;
        }
        Ok(())
    }
}
