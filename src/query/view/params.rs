//! The parameters of a view query, from query string and body; validated completely before anything runs
//! (`couch_mrview_http:parse_params`, `couch_mrview_util:validate_args`).

use serde_json::{Map, Value};

use super::definition::{Definition, View};
use super::layout::{self, Spots};
use super::map_function::MapFunction;
use crate::error::{Error, Result};
use crate::store::Direction;

/// The parameters, parsed but not validated against a view yet.
#[derive(Debug, Clone)]
pub struct Params {
    start: Option<Value>,
    end: Option<Value>,
    start_id: Option<String>,
    end_id: Option<String>,
    keys: Option<Value>,
    limit: Option<u64>,
    skip: u64,
    descending: bool,
    exclusive_end: bool,
    group: Option<bool>,
    group_level: Option<u64>,
    reduce: Option<bool>,
    update: Update,
    partition: Option<String>,
    include_docs: bool,
    /// `update_seq`: the response contains the sequence of the index.
    pub update_seq: bool,
    /// `conflicts`; `None` if not given.
    conflicts: Option<bool>,
    /// `attachments`: documents in the response contain their attachments.
    pub attachments: bool,
    /// `att_encoding_info`: documents in the response contain the encodings of their attachments.
    pub encoding_info: bool,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            start: None,
            end: None,
            start_id: None,
            end_id: None,
            keys: None,
            limit: None,
            skip: 0,
            descending: false,
            exclusive_end: false,
            group: None,
            group_level: None,
            reduce: None,
            update: Update::Wait,
            partition: None,
            include_docs: false,
            update_seq: false,
            conflicts: None,
            attachments: false,
            encoding_info: false,
        }
    }
}

/// When the index is brought up to date (`update`, `stale`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Before the response.
    Wait,
    /// Not at all.
    No,
    /// After the response.
    Later,
}

/// How the rows of a reduce query are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// All rows are one group.
    None,
    /// By this number of leading elements of the key.
    Level(u64),
    /// By the whole key.
    Exact,
}

/// The kind of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Returns rows.
    Map { include_docs: bool, conflicts: bool },
    /// Returns reductions.
    Reduce { reducer: usize, grouping: Grouping },
}

/// A validated query.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whether rows or reductions are returned.
    pub kind: Kind,
    /// When the index is brought up to date.
    pub update: Update,
    /// Maximum number of rows or groups.
    pub limit: u64,
    /// Number of rows or groups to skip.
    pub skip: u64,
    descending: bool,
    partition: Option<String>,
    /// The ranges to read, in this order.
    pub(super) stretches: Vec<Spots>,
    /// With `keys`: the key of each range, as JSON. The groups of a range have this key, even if their rows have
    /// another key that collates as equal.
    pub(super) asked: Vec<String>,
}

fn wrong<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::QueryParse(reason.into()))
}

fn flag(value: &Value) -> Result<bool> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => wrong(format!("Invalid boolean parameter: {other}")),
    }
}

fn natural(value: &Value) -> Result<u64> {
    let number = match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => number.as_i64(),
        Value::String(text) => text.parse::<i64>().ok(),
        _ => None,
    };
    match number {
        Some(number) => {
            u64::try_from(number).or_else(|_| wrong(format!("Invalid value for positive integer: {value}")))
        }
        None => wrong(format!("Invalid value for integer: {value}")),
    }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| Error::BadRequest("invalid UTF-8 JSON".into()))
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

impl Params {
    /// Sets a parameter of the query string.
    pub fn set_text(&mut self, name: &str, value: &str) -> Result<()> {
        let is_json = matches!(name, "key" | "keys" | "startkey" | "start_key" | "endkey" | "end_key");
        self.set(name, if is_json { json(value)? } else { value.into() })
    }

    /// Sets the members of a request body.
    pub fn set_all(&mut self, members: &Map<String, Value>) -> Result<()> {
        members.iter().try_for_each(|(name, value)| self.set(name, value.clone()))
    }

    fn set(&mut self, name: &str, value: Value) -> Result<()> {
        match name {
            "key" => (self.start, self.end) = (Some(value.clone()), Some(value)),
            "keys" => match value {
                // A single key becomes a range, so that grouping and the other range parameters are allowed.
                Value::Array(mut keys) if keys.len() == 1 => {
                    self.start = keys.pop();
                    self.end = self.start.clone();
                }
                keys => self.keys = Some(keys),
            },
            "startkey" | "start_key" => self.start = Some(value),
            "endkey" | "end_key" => self.end = Some(value),
            "startkey_docid" | "start_key_doc_id" => self.start_id = Some(text(value)),
            "endkey_docid" | "end_key_doc_id" => self.end_id = Some(text(value)),
            "limit" => self.limit = Some(natural(&value)?),
            "skip" => self.skip = natural(&value)?,
            "descending" => self.descending = flag(&value)?,
            "inclusive_end" => self.exclusive_end = !flag(&value)?,
            "group" => self.group = Some(flag(&value)?),
            "group_level" => self.group_level = Some(natural(&value)?),
            "reduce" => self.reduce = Some(flag(&value)?),
            "include_docs" => self.include_docs = flag(&value)?,
            "update_seq" => self.update_seq = flag(&value)?,
            "conflicts" => self.conflicts = Some(flag(&value)?),
            "attachments" => self.attachments |= flag(&value)?,
            "att_encoding_info" => self.encoding_info |= flag(&value)?,
            "sorted" => {
                // Rows are always sorted here, so the parameter has no effect.
                flag(&value)?;
            }
            "stale" => {
                self.update = match value.as_str() {
                    Some("ok") => Update::No,
                    Some("update_after") => Update::Later,
                    _ => return wrong("Invalid value for `stale`."),
                }
            }
            "stable" if matches!(text(value.clone()).as_str(), "true" | "false") => {}
            "stable" => return wrong("Invalid value for `stable`."),
            "update" => {
                self.update = match text(value).as_str() {
                    "true" => Update::Wait,
                    "false" => Update::No,
                    "lazy" => Update::Later,
                    _ => return wrong("Invalid value for `update`."),
                }
            }
            "partition" => self.partition = Some(text(value)),
            _ => {}
        }
        Ok(())
    }

    /// Validates all parameters against the view. `most` is the configured limit of rows (`query_limit`, or
    /// `partition_query_limit` in a partition).
    pub fn plan(&self, definition: &Definition, view: View, most: Option<u64>) -> Result<Plan> {
        let limit = match (self.limit, most) {
            (Some(limit), Some(most)) if limit > most => {
                return wrong(format!("Limit is too large, must not exceed {most}"));
            }
            (limit, most) => limit.or(most).unwrap_or(u64::MAX),
        };
        let grouping = match (self.group, self.group_level) {
            (Some(true), None) => Grouping::Exact,
            (Some(false), Some(1..)) => return wrong("Can't specify group=false and group_level>0 at the same time"),
            (_, None | Some(0)) => Grouping::None,
            (_, Some(level)) => Grouping::Level(level),
        };
        let reducer = match (view.reducer, self.reduce) {
            (None, Some(true)) => return wrong("Reduce is invalid for map-only views."),
            (_, Some(false)) => None,
            (reducer, _) => reducer,
        };
        let keys = self.check_combination(reducer.is_some(), grouping, definition.partitioned)?;
        let kind = match reducer {
            Some(reducer) => Kind::Reduce { reducer, grouping },
            None => Kind::Map { include_docs: self.include_docs, conflicts: self.conflicts.unwrap_or(false) },
        };
        let map = &definition.maps[view.map];
        let mut stretches = match keys {
            Some(keys) => keys.iter().map(|key| self.spots(map, Some(key), Some(key))).collect(),
            None => {
                self.check_order(map)?;
                vec![self.spots(map, self.start.as_ref(), self.end.as_ref())]
            }
        };
        let grouped = keys.filter(|_| matches!(kind, Kind::Reduce { .. }));
        let mut asked: Vec<String> = grouped.into_iter().flatten().map(Value::to_string).collect();
        if self.descending {
            stretches.reverse();
            asked.reverse();
        }
        Ok(Plan {
            kind,
            update: self.update,
            limit,
            skip: self.skip,
            descending: self.descending,
            partition: self.partition.clone(),
            stretches,
            asked,
        })
    }

    /// Rejects parameters that exclude each other or do not fit the view. Returns the value of `keys`.
    fn check_combination(
        &self,
        is_reduced: bool,
        grouping: Grouping,
        is_partitioned: bool,
    ) -> Result<Option<&Vec<Value>>> {
        if is_reduced && grouping != Grouping::Exact && matches!(self.keys, Some(Value::Array(_))) {
            return wrong("Multi-key fetches for reduce views must use `group=true`");
        }
        let keys = match &self.keys {
            None => None,
            Some(Value::Array(keys)) => Some(keys),
            Some(_) => return wrong("`keys` must be an array of strings."),
        };
        if keys.is_some_and(|keys| !keys.is_empty()) && (self.start.is_some() || self.end.is_some()) {
            return wrong("`keys` is incompatible with `key`, `start_key` and `end_key`");
        }
        if !is_reduced && grouping != Grouping::None {
            return wrong("Invalid use of grouping on a map view.");
        }
        if is_reduced && self.include_docs {
            return wrong("`include_docs` is invalid for reduce");
        }
        if is_reduced && self.conflicts.is_some() {
            return wrong("`conflicts` is invalid for reduce views.");
        }
        match (is_partitioned, &self.partition) {
            (true, None) => wrong("`partition` parameter is mandatory for queries to this view."),
            (false, Some(_)) => wrong("`partition` parameter is not supported in this design doc"),
            (_, Some(partition)) if partition.is_empty() => wrong("Invalid value for `partition`."),
            _ => Ok(keys),
        }
    }

    /// Rejects a range whose end is before its start.
    fn check_order(&self, map: &MapFunction) -> Result<()> {
        let (Some(start), Some(end)) = (&self.start, &self.end) else { return Ok(()) };
        if start == end {
            return Ok(());
        }
        let at = |key: &Value, id: &Option<String>, last: bool| {
            let mut at = layout::place(map, self.partition.as_deref(), &key.to_string());
            match id {
                Some(id) => at.extend_from_slice(id.as_bytes()),
                None => at.extend_from_slice(if last { &[0xFF] } else { &[] }),
            }
            at
        };
        let (start, end) = (at(start, &self.start_id, self.descending), at(end, &self.end_id, !self.descending));
        if self.descending != (start < end) {
            return Ok(());
        }
        let hint = !self.descending;
        wrong(format!("No rows can match your key range, reverse your start_key and end_key or set descending={hint}"))
    }

    /// The spots from one key to the other.
    fn spots(&self, map: &MapFunction, start: Option<&Value>, end: Option<&Value>) -> Spots {
        let partition = self.partition.as_deref();
        let place = |key: &Value| layout::place(map, partition, &key.to_string());
        let (start, end) = (start.map(place), end.map(place));
        let whole = whole(partition);
        let before = |place: &[u8], id: Option<&str>| {
            let mut spot = place.to_vec();
            layout::push_id(&mut spot, id.unwrap_or_default());
            spot
        };
        let behind = |place: &[u8], id: Option<&str>| match id {
            None => layout::behind(place),
            // After all rows of the document, and before longer ids that begin with its id.
            Some(_) => Some([&before(place, id)[..], &[1]].concat()),
        };
        let (start_id, end_id) = (self.start_id.as_deref(), self.end_id.as_deref());
        match self.descending {
            false => Spots {
                low: start.map_or(whole.low, |start| before(&start, start_id)),
                high: match end {
                    None => whole.high,
                    Some(end) if self.exclusive_end => Some(before(&end, end_id)),
                    Some(end) => behind(&end, end_id),
                },
            },
            true => Spots {
                low: match end {
                    None => whole.low,
                    Some(end) if self.exclusive_end => behind(&end, end_id).unwrap_or_default(),
                    Some(end) => before(&end, end_id),
                },
                high: start.map_or(whole.high, |start| behind(&start, start_id)),
            },
        }
    }
}

fn whole(partition: Option<&str>) -> Spots {
    match partition {
        None => Spots { low: Vec::new(), high: None },
        Some(partition) => {
            let prefix = layout::partition_prefix(partition);
            Spots { high: layout::behind(&prefix), low: prefix }
        }
    }
}

impl Plan {
    pub(super) fn direction(&self) -> Direction {
        if self.descending { Direction::Backward } else { Direction::Forward }
    }

    pub(super) fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }

    /// All spots that a query of this kind can see: those of the view, or of its partition.
    pub(super) fn within(&self) -> Spots {
        whole(self.partition())
    }
}
