//! List functions: rows go in as the view returns them, the response comes out as the function sends it.
//!
//! Both directions are bounded channels, so that neither a large view nor a slow client fills memory: in
//! `getRow`, the function waits for its client and for the view.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::call::{Call, Exchange};
use super::design::Design;
use super::failure::mend;
use super::pending::Pending;
use super::scripts::{Scripts, one, size};
use super::turns::Size;
use crate::error::{Error, Result};

/// Capacity of each channel: rows for the function, parts of the response for the client.
const WAITING: usize = 64;

/// A piece of the response.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Part {
    /// The argument of `start` (`{code, headers, ...}` as JSON): always present in the first part, and in
    /// later parts if `start` was called again.
    #[serde(default, deserialize_with = "as_text")]
    pub response: Option<String>,
    /// The text that the function sent.
    pub chunk: String,
}

fn as_text<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    let raw: Box<serde_json::value::RawValue> = serde::Deserialize::deserialize(from)?;
    Ok(Some(raw.get().to_owned()))
}

/// Channel for the view's rows: each `{"id":..,"key":..,"value":..,"doc":..}`. Dropping it ends the list. A
/// failed send means that the function needs no more rows.
pub type Rows = mpsc::Sender<String>;

/// A row or part takes one place of a channel per this many bytes.
const PLACE: usize = 4 << 10;

/// Sends a row or a part. A large text takes several places, at most all, so it waits until the channel has
/// that much room.
///
/// # Errors
/// The receiver is gone.
pub async fn send(channel: &mpsc::Sender<String>, text: String) -> std::result::Result<(), ()> {
    let places = text.len().div_ceil(PLACE).clamp(1, WAITING);
    let mut places = channel.reserve_many(places).await.map_err(drop)?;
    if let Some(place) = places.next() {
        place.send(text);
    }
    Ok(())
}

/// The response of a list function, part by part. Dropping it stops the function.
pub struct Parts {
    parts: mpsc::Receiver<String>,
    done: Option<Pending<String>>,
}

impl Parts {
    /// Returns the next part, or `None` after the last one. Nothing follows an error.
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
    /// Runs the list function `name`. `head` is `{"total_rows":..,"offset":..}`, `request` the request object
    /// and `user` its `userCtx`, all as JSON.
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
            // Waits until the client takes the part, then for the next row; fails when the client is gone.
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
