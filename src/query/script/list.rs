//! List functions: rows go in as the view gives them, the response comes out as the function makes it.
//!
//! Both ways are short channels, so that neither a large view nor a slow client fills memory: the function waits in
//! `getRow` for the view, and in the same place for its client.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::call::{Call, Exchange};
use super::design::Design;
use super::failure::mend;
use super::pending::Pending;
use super::scripts::{Scripts, one, size};
use super::turns::Size;
use crate::error::{Error, Result};

/// Rows that may wait for the function, and parts of the response for the client.
const WAITING: usize = 64;

/// A piece of the response.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Part {
    /// What was given to `start` (`{code, headers, ...}` as JSON): always with the first part, later when `start` was
    /// called again.
    #[serde(default, deserialize_with = "as_text")]
    pub response: Option<String>,
    /// What was sent.
    pub chunk: String,
}

fn as_text<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    let raw: Box<serde_json::value::RawValue> = serde::Deserialize::deserialize(from)?;
    Ok(Some(raw.get().to_owned()))
}

/// Where the view's rows go: each `{"id":..,"key":..,"value":..,"doc":..}`. Dropping it ends the list. A send that fails
/// says that the function wants no more.
pub type Rows = mpsc::Sender<String>;

/// Bytes that take the place of one row or part.
const PLACE: usize = 4 << 10;

/// Sends a row or a part when as much has been taken as it is large: a large one only when nothing else waits.
///
/// # Errors
/// The other end wants no more.
pub async fn send(channel: &mpsc::Sender<String>, text: String) -> std::result::Result<(), ()> {
    let places = text.len().div_ceil(PLACE).clamp(1, WAITING);
    let mut places = channel.reserve_many(places).await.map_err(drop)?;
    if let Some(place) = places.next() {
        place.send(text);
    }
    Ok(())
}

/// What the function makes. Dropping it stops the function.
pub struct Parts {
    parts: mpsc::Receiver<String>,
    done: Option<Pending<String>>,
}

impl Parts {
    /// The next part; None after the last. An error is the last.
    pub async fn next(&mut self) -> Option<Result<Part>> {
        let done = self.done.as_mut()?;
        let (text, last) = tokio::select! {
            biased;
            Some(part) = self.parts.recv() => (Ok(part), false),
            answer = done => (answer, true),
        };
        if last {
            self.done = None;
        }
        Some(text.and_then(|text| {
            serde_json::from_str(&mend(&text)).map_err(|error| Error::Internal(format!("part of a list: {error}")))
        }))
    }
}

impl Scripts {
    /// Runs the list function `name`. `head` is `{"total_rows":..,"offset":..}`, `request` the request object and `user`
    /// its `userCtx`, all as JSON.
    pub fn list(&self, design: &Arc<Design>, name: &str, head: &str, request: &str, user: &str) -> (Rows, Parts) {
        let (rows, mut row) = mpsc::channel::<String>(WAITING);
        let (part, parts) = mpsc::channel(WAITING);
        let (design, name, user) = (design.clone(), name.to_owned(), user.to_owned());
        let args = format!("[{head},{request}]");
        let size = Size { list: true, ..size(design.database, [args.len()]) };
        let done = self.threads.submit(size, move |seat| {
            let key = design.key(&user)?;
            let waiting = tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(|error| Error::Internal(format!("a list cannot wait: {error}")))?;
            // Waits for its client to take the part, then for the view to give a row; ends when the client is gone.
            let exchange: Exchange = Box::new(move |sent| {
                waiting.block_on(async {
                    send(&part, sent).await?;
                    tokio::select! {
                        next = row.recv() => Ok(next),
                        () = part.closed() => Err(()),
                    }
                })
            });
            let items = [args];
            one(seat.call(Call {
                fill: Some(("addDesign", &design.source)),
                text: &name,
                exchange: Some(exchange),
                ..Call::new(&key, "list", &items)
            })?)
        });
        (rows, Parts { parts, done: Some(done) })
    }
}
