//! `_list`: a function of a design document renders the rows of a view (CouchDB: `chttpd_show.erl`,
//! `couch_mrview_show.erl`).
//!
//! ```text
//! response of the view > rows, one per line > list function (getRow, send) > this response
//! ```
//! The function reads the same response that a client of the view would get, so parameters, errors and rows
//! are those of the view. Rows and output pass through bounded queues: neither a large view nor a slow client
//! fills the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;

use super::{functions, show_and_update};
use crate::app::App;
use crate::app::answer_budget::{Held, Line, WINDOW};
use crate::db::Database;
use crate::error::Error;
use crate::http::api::database::all_docs;
use crate::http::api::query::view;
use crate::http::request::Request;
use crate::http::request::body::RequestBody;
use crate::http::request::listing_path::{DocumentList, ListFunctionPath};
use crate::http::response::Answer;
use crate::http::response::body::Body;
use crate::http::response::error::{Failure, Result, wire};
use crate::query::script::{self, Response, Rows};

/// `/{db}/_design/{design}/_list/{function}/[{design of the view}/]{view}`, GET and POST.
pub async fn run(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    path: ListFunctionPath,
) -> Result<Answer> {
    let design = functions::open(&database, &path.design, ["lists", &path.function]).await?;
    let body = show_and_update::body(request).await?;
    let text = body.as_ref().and_then(|body| std::str::from_utf8(body).ok());
    let told = match text.filter(|text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()) {
        Some(json) => script::RequestBody::Json(json),
        None => show_and_update::told(&body),
    };
    let asked = functions::asked(app, request, &database, None, told)?;
    // The body is decompressed by now.
    Arc::make_mut(&mut request.headers).remove(http::header::CONTENT_ENCODING);
    request.body = RequestBody::given(body.clone().unwrap_or_default());
    let source = if path.view == "_all_docs" {
        all_docs::all_docs(request, database, DocumentList::AllDocs, None).await?
    } else {
        view::view(app, request, database, path.of.unwrap_or(path.design), path.view, None).await?
    };
    let broken = Arc::new(AtomicBool::new(false));
    let mut lines = Lines { body: source.body, buffer: BytesMut::new(), ended: false, broken: broken.clone() };
    let head = head(&mut lines).await?;
    let (rows, mut parts) = app.scripts.list(&design, &path.function, &head, &asked.request, &asked.user);
    tokio::spawn(feed(lines, rows, request.line.clone()));
    let (start, first) = first_chunk(&mut parts).await?;
    let response = Response::read(start.as_deref().unwrap_or("{}"))?;
    let mut answer = Answer::stream(&request.line, "application/json", move |mut out| async move {
        out.text(first).await;
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => out.text(part.chunk).await,
                // The status is sent already: the error replaces the rest of the body, as in CouchDB.
                Err(error) => {
                    let failure = Failure::from(error);
                    let (status, word, reason) = wire(&failure);
                    let told = serde_json::json!({"code": status.as_u16(), "error": word, "reason": reason});
                    out.write(format!("\n{told}\n")).await;
                }
            }
        }
        if broken.load(Ordering::Acquire) {
            // A truncated list must not look like a complete one.
            return Err(Error::Internal("the rows of a list are incomplete".into()).into());
        }
        Ok(())
    })
    .await?;
    answer.headers.remove(http::header::CACHE_CONTROL);
    answer.status = http::StatusCode::from_u16(response.code).unwrap_or(answer.status);
    show_and_update::set_headers(request, &mut answer, &response.headers, true);
    Ok(answer)
}

/// Waits for the first chunk of a list. Returns what the last `start` set, and the chunk. The status is sent with this
/// chunk; until then the function may call `start` again.
async fn first_chunk(parts: &mut script::Parts) -> Result<(Option<String>, String)> {
    let mut start = None;
    while let Some(part) = parts.next().await {
        let part = part?;
        start = part.response.or(start);
        if !part.chunk.is_empty() {
            return Ok((start, part.chunk));
        }
    }
    Ok((start, String::new()))
}

/// Reads a response body line by line.
struct Lines {
    body: Body,
    buffer: BytesMut,
    ended: bool,
    /// Set if the body ended early.
    broken: Arc<AtomicBool>,
}

impl Lines {
    /// Returns the next line without its line break, or `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(searched + end).freeze();
                self.buffer.advance(1);
                return Some(line);
            }
            searched = self.buffer.len();
            if self.ended {
                return (searched > 0).then(|| self.buffer.split().freeze());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(_)) => {
                    self.broken.store(true, Ordering::Release);
                    self.ended = true;
                }
                None => self.ended = true,
            }
        }
    }
}

/// Reads the members before `rows` and returns them as an object: `{"total_rows":..,"offset":..}`.
async fn head(lines: &mut Lines) -> Result<String> {
    let line = lines.next().await.unwrap_or_default();
    let text = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_suffix("\"rows\":["));
    match text {
        Some(members) => Ok(format!("{}}}", members.trim_end_matches(','))),
        None => Err(Error::Internal("unexpected first line in the response of a view".into()).into()),
    }
}

/// Sends the rows to the function until it stops reading.
async fn feed(mut lines: Lines, rows: Rows, line: Line) {
    // The memory reserved for a large row, in the queue and in the function.
    let mut held: Option<Held> = None;
    loop {
        let text = tokio::select! {
            text = lines.next() => text,
            () = rows.closed() => return,
        };
        let Some(text) = text else { return };
        let bytes = 2 * text.len() as u64;
        if bytes > WINDOW && held.as_ref().is_none_or(|held| held.bytes() < bytes) {
            drop(held.take());
            let taken = tokio::select! {
                taken = line.take(bytes) => taken,
                () = rows.closed() => return,
            };
            match taken {
                Ok(taken) => held = Some(taken),
                Err(_) => return lines.broken.store(true, Ordering::Release),
            }
        }
        let Ok(text) = std::str::from_utf8(&text) else { return };
        let row = text.trim_end().trim_end_matches(',');
        if row.starts_with('{') && script::send(&rows, row.to_owned()).await.is_err() {
            return;
        }
    }
}
