//! `_db_updates`: databases that were created, updated and deleted.
//!
//! This file reads pages of events and writes rows; [`crate::http::api::feed`] holds the loop.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::blocking::blocking;
use crate::db::{Databases, DbEvent};
use crate::http::api::feed::{Feed, Kind, Page, Source, Then, Waiting};
use crate::http::request::{Query, Request};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};

/// Rows read at once.
const PAGE: usize = 1000;

/// `GET /_db_updates`.
pub async fn db_updates(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let query = &request.query;
    let kind = match query.get("feed") {
        None | Some("normal") => Kind::Normal,
        Some("longpoll") => Kind::Longpoll,
        Some("continuous") => Kind::Continuous,
        Some("eventsource") => Kind::EventSource,
        Some(_) => {
            return Err(Failure::bad_request("Supported `feed` types: normal, continuous, longpoll, eventsource"));
        }
    };
    let waiting = waiting(query, Duration::from_millis(request.settings.changes_timeout))?;
    let limit = query.natural("limit")?.unwrap_or(u64::MAX);
    let descending = query.flag("descending", false)?;
    if app.store.is_shared() {
        let databases = app.databases.clone();
        blocking(move || databases.catch_up_events()).await?;
    }
    let moved = app.databases.watch_events();
    let since = match query.get("since").map(|since| since.trim_matches('"')) {
        None | Some("") => 0,
        Some("now") => app.databases.last_event(),
        Some(text) => match text.split('-').next().unwrap_or("").parse::<u64>() {
            Ok(number) => number.min(app.databases.last_event()),
            Err(_) => return Err(Failure::bad_request("Malformed sequence supplied in 'since' parameter.")),
        },
    };
    let updates = Updates { databases: app.databases.clone(), kind, limit, descending };
    let answer = Feed::new(app, request, (kind, waiting), moved, since, updates).answer(request).await?;
    Ok(answer.uncompressed())
}

/// Reads `heartbeat` and `timeout`, at most `most`.
fn waiting(query: &Query, most: Duration) -> Result<Waiting> {
    let heartbeat = match query.get("heartbeat") {
        Some("true") => Some(most),
        _ => {
            let beat = query.natural("heartbeat")?.map(|millis| most.min(Duration::from_millis(millis)));
            beat.filter(|beat| !beat.is_zero())
        }
    };
    // CouchDB counts this timeout in seconds up to 60, and in milliseconds for larger values.
    let timeout = match query.natural("timeout")? {
        Some(seconds) if seconds <= 60 => Duration::from_secs(seconds),
        Some(millis) => most.min(Duration::from_millis(millis)),
        None => most,
    };
    Ok(Waiting { heartbeat, timeout })
}

/// The events of all databases, with the parameters of one client.
struct Updates {
    databases: Arc<Databases>,
    kind: Kind,
    /// Rows that are still to be sent.
    limit: u64,
    /// Sends the rows of each page in reverse.
    descending: bool,
}

impl Source for Updates {
    type Row = DbEvent;
    type Batch = ();
    type Moved = u64;

    fn unchecked(&self) -> usize {
        PAGE
    }

    async fn page(&mut self, since: u64) -> Result<Page<DbEvent>> {
        let databases = self.databases.clone();
        let mut rows = blocking(move || databases.events_after(since, PAGE)).await?;
        let next = rows.last().map_or(since, |event| event.sequence);
        let mut then = if rows.len() < PAGE { Then::Wait } else { Then::More };
        if self.descending {
            rows.reverse();
        }
        // The first row beyond the limit ends the feed.
        if rows.len() as u64 > self.limit {
            rows.truncate(self.limit as usize);
            then = Then::End;
        }
        self.limit -= rows.len() as u64;
        Ok(Page { rows, next, then })
    }

    async fn begin(&mut self, _rows: &[DbEvent], _out: &mut Sender) {}

    fn position(event: &DbEvent) -> u64 {
        event.sequence
    }

    async fn write(&mut self, _batch: &mut (), event: DbEvent, written: u64, out: &mut Sender) -> Result<()> {
        let sequence = event.sequence.to_string();
        let row = json!({"db_name": event.name, "type": event.kind.word(), "seq": sequence});
        let mut text = format!("{}{row}", self.kind.row_start(written == 0));
        self.kind.end_row(&mut text, &sequence);
        out.text(text).await;
        Ok(())
    }

    fn wire(&self, position: u64) -> String {
        position.to_string()
    }

    async fn end(self, since: u64) -> String {
        match self.kind.is_object() {
            true => format!("\n],\"last_seq\":\"{since}\"}}\n"),
            false => format!("{{\"last_seq\":\"{since}\"}}\n"),
        }
    }
}
