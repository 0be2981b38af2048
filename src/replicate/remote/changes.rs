//! The changes of another server's database, page by page.
//!
//! Each page is one request with a limit: `feed=normal` until nothing is left, and then `feed=longpoll`, which
//! waits. A stream of all changes would have to be read at the speed of the target, and servers close streams
//! that are read too slowly.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::requester::{Ask, Requester};
use super::rows::{Row, Rows};
use super::text::encode;
use crate::replicate::Pending;
use crate::replicate::failure::Failure;
use crate::replicate::parameters::Filter;
use crate::replicate::peer::{Change, Feed, Page};

/// Batches that one request asks for.
const BATCHES: usize = 4;
/// Bytes of one row: a document with fifty thousand conflicts.
const ROW: usize = 2 << 20;
/// Bytes of rows of one page.
const PAGE: usize = 4 << 20;

/// Reads the changes.
pub(super) struct RemoteFeed<'a> {
    requester: &'a Requester<'a>,
    since: Value,
    /// Rows that were read and not handed over.
    rows: VecDeque<(Change, Value)>,
    /// What the last answer said beside its rows.
    rest: Rest,
    /// Whether the last answer had all that there was.
    had_all: bool,
    /// The server takes no filter in the body of a POST.
    only_get: bool,
}

#[derive(Deserialize, Default)]
struct Rest {
    #[serde(default)]
    last_seq: Value,
    #[serde(default)]
    pending: Option<u64>,
}

#[derive(Deserialize)]
struct RowOfChanges {
    #[serde(default)]
    seq: Value,
    id: String,
    changes: Vec<Rev>,
}

#[derive(Deserialize)]
struct Rev {
    rev: String,
}

/// One answer.
struct Answered {
    rows: VecDeque<(Change, Value)>,
    rest: Rest,
    /// It was cut off, because it had more rows than were asked for.
    was_cut: bool,
}

impl<'a> RemoteFeed<'a> {
    /// The changes after a sequence.
    pub fn new(requester: &'a Requester<'a>, since: Value) -> RemoteFeed<'a> {
        RemoteFeed { requester, since, rows: VecDeque::new(), rest: Rest::default(), had_all: false, only_get: false }
    }

    fn ask(&self, limit: usize, wait: bool) -> Ask {
        let parameters = self.requester.parameters;
        let style = if parameters.winning_revs_only { "main_only" } else { "all_docs" };
        let feed = if wait { "longpoll" } else { "normal" };
        let beat = heartbeat(parameters.connection_timeout).as_millis();
        let since = match &self.since {
            Value::Null => "0".to_owned(),
            Value::String(text) => encode(text),
            other => encode(&other.to_string()),
        };
        let mut path = format!("/_changes?feed={feed}&style={style}&since={since}&limit={limit}&heartbeat={beat}");
        let mut body = None;
        match &parameters.filter {
            Filter::None => {}
            Filter::Named(name) => path.push_str(&format!("&filter={}", encode(name))),
            Filter::DocIds(ids) if self.only_get => {
                path.push_str(&format!("&filter=_doc_ids&doc_ids={}", encode(&json!(ids).to_string())));
            }
            Filter::DocIds(ids) => {
                path.push_str("&filter=_doc_ids");
                body = Some(json!({ "doc_ids": ids }));
            }
            Filter::Selector(selector) => {
                path.push_str("&filter=_selector");
                body = Some(json!({ "selector": selector }));
            }
        }
        for (name, value) in &parameters.query_params {
            path.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        let ask = match body {
            None => Ask::get(path),
            Some(body) => Ask::with(Method::POST, path, body.to_string()),
        };
        Ask { is_beside: wait, ..ask }
    }

    /// Asks for the next page.
    async fn page(&mut self, limit: usize, wait: bool) -> Result<(), Failure> {
        // Not kept while the next one is waited for, perhaps for days.
        self.rows = VecDeque::new();
        let mut failures = 0;
        let answered = loop {
            match self.once(limit, wait).await {
                Ok(answered) => break answered,
                Err(failure) => {
                    let most = self.requester.parameters.retries_per_request;
                    if !matches!(failure, Failure::Network(_)) || failures >= most {
                        return Err(failure);
                    }
                    failures += 1;
                    self.requester.pause(failures).await;
                }
            }
        };
        let Answered { rows, mut rest, was_cut } = answered;
        if was_cut {
            rest.last_seq = rows.back().map_or(self.since.clone(), |(_, seq)| seq.clone());
        }
        if !rows.is_empty() && rest.last_seq == self.since {
            return Err(Failure::Changes("the source lists changes without moving on".into()));
        }
        let stays = rest.last_seq == self.since;
        self.had_all = !was_cut && rows.len() < limit && (rest.pending.unwrap_or(0) == 0 || stays);
        if wait && rows.is_empty() {
            // A server that does not wait is not asked without end.
            self.requester.pause(1).await;
        }
        (self.rows, self.rest) = (rows, rest);
        Ok(())
    }

    async fn once(&mut self, limit: usize, wait: bool) -> Result<Answered, Failure> {
        let ask = self.ask(limit, wait);
        // Boxed: what a request needs until its answer begins is not kept while a feed waits.
        let mut answer = Box::pin(self.requester.send(&ask)).await?;
        if answer.status == StatusCode::METHOD_NOT_ALLOWED && ask.method == Method::POST && !self.only_get {
            self.only_get = true;
            answer = Box::pin(self.requester.send(&self.ask(limit, wait))).await?;
        }
        if answer.status != StatusCode::OK {
            let failure = self.requester.status(answer).await;
            return Err(match (failure, &self.requester.parameters.filter) {
                (Failure::Status { status: 404, text }, Filter::Named(_)) => Failure::FilterFetch(text),
                (Failure::Status { status: 404, .. }, _) => {
                    Failure::DbNotFound(format!("{}/", self.requester.endpoint.url))
                }
                (Failure::Status { status: 400, text }, _) => Failure::BadRequest(text),
                (failure, _) => failure,
            });
        }
        let mut reader = Rows::new("results", ROW);
        let (mut rows, mut bytes) = (VecDeque::new(), 0);
        while let Some(piece) = answer.next().await? {
            reader.push(&piece)?;
            while let Some(row) = reader.next() {
                let Row::Whole(row) = row else {
                    return Err(Failure::Changes("a row of the changes is too large".into()));
                };
                if rows.len() >= limit || bytes > PAGE {
                    return Ok(Answered { rows, rest: Rest::default(), was_cut: true });
                }
                bytes += row.len();
                rows.push_back(change(&row)?);
            }
        }
        let outside = reader.finish()?;
        let rest: Rest = serde_json::from_slice(&outside).unwrap_or_default();
        if !(rest.last_seq.is_string() || rest.last_seq.is_number()) {
            return Err(Failure::Network("the answer of _changes has ended early".into()));
        }
        Ok(Answered { rows, rest, was_cut: false })
    }

    fn take(&mut self, most: usize) -> Page {
        let count = most.min(self.rows.len());
        let (mut changes, mut through) = (Vec::with_capacity(count), Value::Null);
        for (change, seq) in self.rows.drain(..count) {
            changes.push(change);
            through = seq;
        }
        let is_end = self.rows.is_empty();
        if is_end {
            through = std::mem::take(&mut self.rest.last_seq);
        }
        self.since = through.clone();
        let pending = self.rest.pending.map(|pending| pending.saturating_add(self.rows.len() as u64));
        Page { changes, through, pending, is_last: is_end && self.had_all }
    }
}

/// How often the server is to say that it is still there.
fn heartbeat(timeout: Duration) -> Duration {
    (timeout / 3).max(Duration::from_millis(100))
}

fn change(row: &[u8]) -> Result<(Change, Value), Failure> {
    let wrong = || Failure::Changes("a row of the changes is malformed".into());
    let row: RowOfChanges = serde_json::from_slice(row).map_err(|_| wrong())?;
    if !(row.seq.is_string() || row.seq.is_number()) {
        return Err(wrong());
    }
    let revisions = row.changes.iter().map(|change| change.rev.parse().map_err(|_| wrong()));
    let revisions = revisions.collect::<Result<Vec<_>, Failure>>()?;
    Ok((Change { id: row.id, revisions }, row.seq))
}

impl Feed for RemoteFeed<'_> {
    fn next(&mut self, most: usize, wait: bool) -> Pending<'_, Result<Page, Failure>> {
        Box::pin(async move {
            if self.rows.is_empty() {
                self.page(most.saturating_mul(BATCHES), wait).await?;
            }
            Ok(self.take(most))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_with_sequences_of_all_servers() {
        for (row, wanted) in [
            (r#"{"seq":"5-x","id":"a","changes":[{"rev":"1-a"},{"rev":"1-b"}]}"#, Some((json!("5-x"), 2))),
            (r#"{"seq":5,"id":"a","changes":[{"rev":"1-a"}],"deleted":true}"#, Some((json!(5), 1))),
            (r#"{"seq":null,"id":"a","changes":[{"rev":"1-a"}]}"#, None),
            (r#"{"id":"a","changes":[{"rev":"1-a"}]}"#, None),
            (r#"{"seq":5,"id":7,"changes":[]}"#, None),
            (r#"{"seq":5,"id":"a","changes":[{"rev":"x"}]}"#, None),
            ("7", None),
        ] {
            let found = change(row.as_bytes()).ok().map(|(change, seq)| (seq, change.revisions.len()));
            assert_eq!(found, wanted, "{row}");
        }
    }
}
