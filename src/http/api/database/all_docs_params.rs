//! The parameters of `_all_docs`, `_design_docs` and `_local_docs`.

use std::ops::Bound;

use serde_json::{Map, Value};

use crate::db::Listing as Walk;
use crate::db::read::render::{Attachments, Show};
use crate::http::request::{Query, query_error};
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::store::{Direction, PageLimit};

/// Maximum size of a page of rows in bytes.
pub(super) const PAGE_BYTES: usize = 256 << 10;
/// Maximum number of rows in a page, without and with their documents.
pub(super) const PAGE: usize = 500;
pub(super) const PAGE_WITH_DOCS: usize = 64;

/// The parameters of a listing, from the body and the query string, which overrides the body
/// (`couch_mrview_http:parse_body_and_query`).
#[derive(Debug, Clone, Default)]
pub(super) struct Params {
    pub start: Option<Value>,
    pub end: Option<Value>,
    pub keys: Option<Vec<Value>>,
    /// The partition to list; only in a database with partitions.
    pub partition: Option<String>,
    pub limit: Option<u64>,
    pub skip: u64,
    pub descending: bool,
    pub exclusive_end: bool,
    pub include_docs: bool,
    pub update_seq: bool,
    pub show: Show,
    /// The source that is being read, for error messages.
    read_from: &'static str,
}

impl Params {
    pub fn read_query(&mut self, query: &Query) -> Result<()> {
        self.read_from = "parameter";
        for (name, text) in query.iter() {
            let value = match name {
                "key" | "keys" | "startkey" | "start_key" | "endkey" | "end_key" => {
                    serde_json::from_str(text).map_err(|_| crate::http::request::invalid_json())?
                }
                "limit" | "skip" => match text.parse::<i64>() {
                    Ok(number) => number.into(),
                    Err(_) => return Err(query_error(format!("Invalid value for integer: {}", quote(text)))),
                },
                _ => text.into(),
            };
            self.set(name, value)?;
        }
        Ok(())
    }

    pub fn read_body(&mut self, body: &Map<String, Value>) -> Result<()> {
        self.read_from = "body member";
        body.iter().try_for_each(|(name, value)| self.set(name, value.clone()))
    }

    fn set(&mut self, name: &str, value: Value) -> Result<()> {
        // In a body, too, a text counts (`couch_mrview_http:parse_boolean`).
        let flag = |value: &Value| match value {
            Value::Bool(flag) => Ok(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            other => Err(query_error(format!("Invalid boolean parameter: {other}"))),
        };
        let natural = |value: &Value| {
            value.as_u64().ok_or_else(|| query_error(format!("Invalid value for positive integer: {value}")))
        };
        match name {
            // As in CouchDB, the last one of `key` and the bounds wins.
            "key" => (self.start, self.end) = (Some(value.clone()), Some(value)),
            "keys" => match value {
                Value::Array(keys) => self.keys = Some(keys),
                _ => return Err(Failure::bad_request(format!("`keys` {} must be an array.", self.read_from))),
            },
            "startkey" | "start_key" => self.start = Some(value),
            "endkey" | "end_key" => self.end = Some(value),
            "partition" => {
                self.partition = Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
            "limit" => self.limit = Some(natural(&value)?),
            "skip" => self.skip = natural(&value)?,
            "descending" => self.descending = flag(&value)?,
            "inclusive_end" => self.exclusive_end = !flag(&value)?,
            "include_docs" => self.include_docs = flag(&value)?,
            "update_seq" => self.update_seq = flag(&value)?,
            "conflicts" => self.show.conflicts = flag(&value)?,
            "attachments" if flag(&value)? => self.show.attachments = Attachments::Inline,
            "att_encoding_info" => self.show.encoding_info = flag(&value)?,
            // These select how fresh a view must be. Listings only validate them (`couch_mrview_http`).
            "stale" if !matches!(value.as_str(), Some("ok" | "update_after")) => {
                return Err(query_error("Invalid value for `stale`."));
            }
            "stable" if flag(&value).is_err() => return Err(query_error("Invalid value for `stable`.")),
            "update" if flag(&value).is_err() && value.as_str() != Some("lazy") => {
                return Err(query_error("Invalid value for `update`."));
            }
            _ => {}
        }
        Ok(())
    }

    /// Rejects incompatible parameters.
    pub fn check(&self) -> Result<()> {
        if self.keys.is_some() && (self.start.is_some() || self.end.is_some()) {
            return Err(query_error("`keys` is incompatible with `key`, `start_key` and `end_key`"));
        }
        Ok(())
    }

    /// The requested range of ids; `None` if no id can be in it. A key that is not a string sorts before all
    /// strings.
    pub fn walk(&self) -> Option<Walk> {
        let direction = if self.descending { Direction::Backward } else { Direction::Forward };
        let mut walk = Walk::all(direction);
        match &self.start {
            None => {}
            Some(Value::String(id)) => walk.start = Bound::Included(id.clone()),
            // Sorts before every id: a forward walk starts at the first id, a backward walk is empty.
            Some(_) if direction == Direction::Forward => {}
            Some(_) => return None,
        }
        match &self.end {
            None => {}
            Some(Value::String(id)) if self.exclusive_end => walk.end = Bound::Excluded(id.clone()),
            Some(Value::String(id)) => walk.end = Bound::Included(id.clone()),
            Some(_) if direction == Direction::Forward => return None,
            Some(_) => {}
        }
        Some(walk)
    }

    /// How much to read at once.
    pub fn page_limit(&self) -> PageLimit {
        PageLimit { entries: self.page_size(), bytes: PAGE_BYTES }
    }

    /// Rows to read at once.
    pub fn page_size(&self) -> usize {
        let page = if self.include_docs { PAGE_WITH_DOCS } else { PAGE };
        let wanted = self.limit.unwrap_or(u64::MAX).saturating_add(self.skip);
        page.min(wanted.max(1).min(page as u64) as usize)
    }
}
