//! `_db_updates`: which databases came, changed and went. Feeds as those of `_changes`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::app::App;
use crate::blocking::blocking;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// Rows read at once.
const PAGE: usize = 1000;

/// `GET /_db_updates`.
pub async fn db_updates(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let query = &request.query;
    let feed = query.get("feed").unwrap_or("normal").to_owned();
    if !matches!(feed.as_str(), "normal" | "longpoll" | "continuous" | "eventsource") {
        return Err(Failure::bad_request("Supported `feed` types: normal, continuous, longpoll, eventsource"));
    }
    let most = Duration::from_millis(request.settings.changes_timeout);
    let millis = |name: &str| -> Result<Option<Duration>> {
        Ok(query.natural(name)?.map(|millis| most.min(Duration::from_millis(millis))))
    };
    let heartbeat = match query.get("heartbeat") {
        Some("true") => Some(most),
        _ => millis("heartbeat")?.filter(|beat| !beat.is_zero()),
    };
    // CouchDB counts this timeout in seconds up to 60, and in milliseconds for larger values.
    let timeout = match query.natural("timeout")? {
        Some(seconds) if seconds <= 60 => Duration::from_secs(seconds),
        Some(millis) => most.min(Duration::from_millis(millis)),
        None => most,
    };
    let mut limit = query.natural("limit")?.unwrap_or(u64::MAX);
    let descending = query.flag("descending", false)?;
    let mut since = match query.get("since").map(|since| since.trim_matches('"')) {
        None | Some("") => 0,
        Some("now") => app.databases.last_event(),
        Some(text) => match text.split('-').next().unwrap_or("").parse::<u64>() {
            Ok(number) => number.min(app.databases.last_event()),
            Err(_) => return Err(Failure::bad_request("Malformed sequence supplied in 'since' parameter.")),
        },
    };
    let databases = app.databases.clone();
    let shutdown = app.shutdown.clone();
    let standing = request.standing.clone();
    let mut waiter = standing.watch();
    let mut moved = databases.watch_events();
    let content_type = if feed == "eventsource" { "text/event-stream" } else { "application/json" };
    let mut answer = Answer::stream(&request.line, content_type, move |mut out| async move {
        let listed = matches!(feed.as_str(), "normal" | "longpoll");
        if listed {
            out.write("{\"results\":[\n").await;
        }
        let (mut any, mut greeted) = (false, false);
        let mut quiet_since = Instant::now();
        'feed: loop {
            moved.borrow_and_update();
            loop {
                let (databases, from) = (databases.clone(), since);
                let mut page = blocking(move || databases.events_after(from, PAGE)).await?;
                // After reading: rows from after the authorization was withdrawn are not sent.
                if !standing.holds().await? {
                    break 'feed;
                }
                let done = page.len() < PAGE;
                if let Some(last) = page.last() {
                    since = last.sequence;
                }
                if descending {
                    page.reverse();
                }
                for event in page {
                    if limit == 0 {
                        break 'feed;
                    }
                    limit -= 1;
                    let comma = if listed && any { ",\n" } else { "" };
                    any = true;
                    quiet_since = Instant::now();
                    let sequence = event.sequence.to_string();
                    let row = json!({"db_name": event.name, "type": event.kind.word(), "seq": sequence});
                    out.write(match feed.as_str() {
                        "eventsource" => format!("data: {row}\nid: {sequence}\n\n"),
                        "continuous" => format!("{row}\n"),
                        _ => format!("{comma}{row}"),
                    })
                    .await;
                }
                if done {
                    break;
                }
            }
            if feed == "normal" || (feed == "longpoll" && any) || shutdown.has_begun() {
                break;
            }
            if !listed && !any && !greeted {
                // The head goes out with the first byte.
                out.write("\n").await;
                greeted = true;
            }
            out.rests();
            loop {
                let after = heartbeat.unwrap_or(timeout);
                tokio::select! {
                    () = shutdown.begun() => break 'feed,
                    () = waiter.woken() => {
                        if matches!(standing.holds().await, Ok(false)) {
                            break 'feed;
                        }
                    }
                    _ = moved.changed() => break,
                    () = tokio::time::sleep_until(quiet_since + after) => {
                        if heartbeat.is_none() || matches!(standing.holds().await, Ok(false)) {
                            break 'feed;
                        }
                        out.write(if feed == "eventsource" { "event: heartbeat\ndata: \n\n" } else { "\n" }).await;
                        quiet_since = Instant::now();
                    }
                }
            }
        }
        match feed.as_str() {
            "eventsource" => {}
            "continuous" => out.write(format!("{{\"last_seq\":\"{since}\"}}\n")).await,
            _ => out.write(format!("\n],\"last_seq\":\"{since}\"}}\n")).await,
        }
        Ok(())
    })
    .await?;
    answer.body.checks_itself();
    Ok(answer.uncompressed())
}
