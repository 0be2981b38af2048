//! The parameters of `_changes`.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::db::read::render::{Attachments, Show};
use crate::http::api::feed::{Kind, Waiting};
use crate::http::request::Request;
use crate::http::response::error::{Failure, Result};

/// A feed's parameters.
pub(super) struct Params {
    pub kind: Kind,
    pub waiting: Waiting,
    pub since: Option<String>,
    /// settee's own: the sequence up to which deleted documents are left out.
    pub tombstones_since: Option<String>,
    pub limit: u64,
    pub descending: bool,
    pub all_leaves: bool,
    pub include_docs: bool,
    pub show: Show,
    /// A sequence in every this many rows. A continuous feed that asks for this also has a line of its progress after
    /// so many sequences without a row.
    pub seq_interval: Option<NonZeroU64>,
    pub filter: String,
}

impl Params {
    pub fn parse(request: &Request) -> Result<Params> {
        let most = Duration::from_millis(request.settings.changes_timeout);
        let mut params = Params {
            kind: Kind::Normal,
            waiting: Waiting { heartbeat: None, timeout: most },
            since: None,
            tombstones_since: None,
            limit: u64::MAX,
            descending: false,
            all_leaves: false,
            include_docs: false,
            show: Show::default(),
            seq_interval: None,
            filter: String::new(),
        };
        for (name, value) in request.query.iter() {
            let yes = value == "true";
            match name.to_ascii_lowercase().as_str() {
                "feed" => params.kind = kind(value)?,
                "descending" if yes => params.descending = true,
                "since" | "last-event-id" => params.since = Some(value.to_owned()),
                "tombstones_since" => params.tombstones_since = Some(value.to_owned()),
                "limit" => params.limit = natural(value, "limit")?,
                "style" => match value {
                    "main_only" => params.all_leaves = false,
                    "all_docs" => params.all_leaves = true,
                    _ => return Err(Failure::bad_request("Supported `style` values: main_only, all_docs")),
                },
                "heartbeat" => params.waiting.heartbeat = Some(heartbeat(value, most)?),
                "timeout" => params.waiting.timeout = most.min(Duration::from_millis(natural(value, "timeout")?)),
                "include_docs" if yes => params.include_docs = true,
                "conflicts" if yes => params.show.conflicts = true,
                "attachments" if yes => params.show.attachments = Attachments::Inline,
                "att_encoding_info" if yes => params.show.encoding_info = true,
                "filter" => params.filter = value.to_owned(),
                "seq_interval" => match value.parse() {
                    Ok(every) => params.seq_interval = Some(every),
                    Err(_) => return Err(Failure::bad_request("invalid_seq_interval")),
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

fn kind(value: &str) -> Result<Kind> {
    match value {
        "normal" => Ok(Kind::Normal),
        "longpoll" => Ok(Kind::Longpoll),
        "continuous" | "live" => Ok(Kind::Continuous),
        "eventsource" => Ok(Kind::EventSource),
        _ => Err(Failure::bad_request("Supported `feed` types: normal, continuous, live, longpoll, eventsource")),
    }
}

fn heartbeat(value: &str, most: Duration) -> Result<Duration> {
    if value == "true" {
        return Ok(most);
    }
    match value.parse::<i64>() {
        Ok(beat) if beat > 0 => Ok(most.min(Duration::from_millis(beat.unsigned_abs()))),
        Ok(_) => Err(Failure::bad_request("The heartbeat value should be a positive integer (in milliseconds).")),
        Err(_) => {
            Err(Failure::bad_request("Invalid heartbeat value. Expecting a positive integer value (in milliseconds)."))
        }
    }
}

fn natural(value: &str, name: &str) -> Result<u64> {
    match value.parse::<i128>() {
        Ok(number) if number >= 0 => Ok(u64::try_from(number).unwrap_or(u64::MAX)),
        Ok(_) => Err(Failure::bad_request(format!("The {name} value should be a non-negative integer"))),
        Err(_) => Err(Failure::bad_request(format!("The {name} parameter should be a non-negative integer"))),
    }
}
