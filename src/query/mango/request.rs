//! The body of `_find` and `_explain`, validated member by member (CouchDB's `mango_opts`).

use serde_json::{Map, Value, json};

use super::error::mango;
use super::find::fields::Projection;
use super::selector::{FieldPath, Selector, pretty_term, term};
use crate::error::Result;

/// Number of documents in a response if the request has no limit.
pub const DEFAULT_LIMIT: u64 = 25;

/// The direction of a sort. As in CouchDB, a sort has one direction for all its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    #[default]
    Ascending,
    Descending,
}

impl Direction {
    /// The JSON name: `asc` or `desc`.
    pub fn word(self) -> &'static str {
        match self {
            Direction::Ascending => "asc",
            Direction::Descending => "desc",
        }
    }
}

/// A sort, or the fields of an index definition: field names with one common direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sort {
    /// The field names.
    pub fields: Vec<String>,
    /// The common direction.
    pub direction: Direction,
}

impl Sort {
    /// Parses `["name", {"name": "desc"}]` (CouchDB's `mango_sort`).
    pub fn parse(value: &Value) -> Result<Sort> {
        let Value::Array(entries) = value else {
            return Err(mango(
                "invalid_sort_json",
                format!("Sort must be an array of sort specs, not: {}", pretty_term(value)),
            ));
        };
        let mut fields = Vec::with_capacity(entries.len());
        let mut directions = Vec::with_capacity(entries.len());
        for entry in entries {
            let invalid = || mango("invalid_sort_field", format!("Invalid sort field: {}", pretty_term(entry)));
            let (name, direction) = match entry {
                Value::String(name) if !name.is_empty() => (name, Direction::Ascending),
                Value::Object(members) if members.len() == 1 => {
                    let (name, direction) = members.iter().next().ok_or_else(invalid)?;
                    match direction.as_str() {
                        Some("asc") => (name, Direction::Ascending),
                        Some("desc") => (name, Direction::Descending),
                        _ => return Err(invalid()),
                    }
                }
                _ => return Err(invalid()),
            };
            FieldPath::parse(name)?;
            fields.push(name.clone());
            directions.push(direction);
        }
        let direction = directions.first().copied().unwrap_or_default();
        if directions.iter().any(|other| *other != direction) {
            return Err(mango(
                "unsupported_mixed_sort",
                "Sorts currently only support a single direction for all fields.",
            ));
        }
        Ok(Sort { fields, direction })
    }

    /// The object `{"name": "asc"}`, the form in options and stored index definitions.
    pub fn to_object(&self) -> Value {
        Value::Object(self.fields.iter().map(|name| (name.clone(), self.direction.word().into())).collect())
    }

    /// The list `[{"name": "asc"}]`.
    pub fn to_list(&self) -> Value {
        self.fields.iter().map(|name| json!({ name.as_str(): self.direction.word() })).collect()
    }
}

/// A validated `_find` or `_explain` request.
#[derive(Debug, Clone)]
pub struct FindRequest {
    /// The selector that documents have to match.
    pub selector: Selector,
    /// Empty, `[design document]` or `[design document, index name]`.
    pub use_index: Vec<String>,
    /// The bookmark of an earlier response to continue from.
    pub bookmark: Option<String>,
    /// Maximum number of documents in the response.
    pub limit: u64,
    /// Number of matching documents to skip.
    pub skip: u64,
    /// The order of the response; without fields, the order of the index.
    pub sort: Sort,
    /// The fields of each document in the response; `None` for whole documents.
    pub fields: Option<Projection>,
    /// The partition to search; `None` for the whole database.
    pub partition: Option<String>,
    /// Read quorum. Affects only `execution_stats` and `_explain`: there is one copy of each document.
    pub r: u64,
    /// Whether documents in the response have a `_conflicts` member.
    pub conflicts: bool,
    /// `stale=ok`: like `stable`, and without an update of the index.
    pub stale: bool,
    /// Whether the index is brought up to date first.
    pub update: bool,
    /// Accepted for compatibility; only `_explain` shows it.
    pub stable: bool,
    /// Whether the response contains `execution_stats`.
    pub execution_stats: bool,
    /// Whether another index may be used if `use_index` cannot be satisfied.
    pub allow_fallback: bool,
}

impl FindRequest {
    /// Parses a request body. `partition` is the one in the URL `_partition/{p}/_find`.
    pub fn parse(body: &Value, partition: Option<&str>) -> Result<FindRequest> {
        let mut members = Members::new(body)?;
        if let Some(partition) = partition {
            match members.0.get("partition") {
                None => {
                    members.0.insert("partition".into(), partition.into());
                }
                Some(Value::String(named)) if named == partition => {}
                Some(other) => {
                    return Err(mango(
                        "bad_partition",
                        format!("The partition {} is not the one in the URL.", term(other)),
                    ));
                }
            }
        }
        let request = FindRequest {
            selector: Selector::parse(&members.required("selector")?)?,
            use_index: members.optional("use_index", |value| use_index(&value))?.unwrap_or_default(),
            bookmark: members.optional("bookmark", bookmark)?.flatten(),
            limit: members.optional("limit", non_negative)?.unwrap_or(DEFAULT_LIMIT),
            skip: members.optional("skip", non_negative)?.unwrap_or(0),
            sort: members.optional("sort", |value| Sort::parse(&value))?.unwrap_or_default(),
            fields: members.optional("fields", |value| Projection::parse(&value))?.flatten(),
            partition: members.optional("partition", partition_name)?.flatten(),
            r: members.optional("r", positive)?.unwrap_or(1),
            conflicts: members.optional("conflicts", boolean)?.unwrap_or(false),
            stale: members.optional("stale", ok_or_false)?.unwrap_or(false),
            update: members.optional("update", boolean)?.unwrap_or(true),
            stable: members.optional("stable", boolean)?.unwrap_or(false),
            execution_stats: members.optional("execution_stats", boolean)?.unwrap_or(false),
            allow_fallback: members.optional("allow_fallback", boolean)?.unwrap_or(true),
        };
        members.none_left()?;
        Ok(request)
    }

    /// The names in [`FindRequest::fields`]; empty for whole documents.
    pub fn field_names(&self) -> &[String] {
        self.fields.as_ref().map_or(&[], Projection::names)
    }

    /// The options in the form that `_explain` shows.
    pub fn options_json(&self) -> Value {
        json!({
            "use_index": self.use_index,
            "bookmark": self.bookmark.as_deref().unwrap_or("nil"),
            "limit": self.limit,
            "skip": self.skip,
            "sort": self.sort.to_object(),
            "fields": self.field_names(),
            "partition": self.partition.as_deref().unwrap_or(""),
            "r": self.r,
            "conflicts": self.conflicts,
            "stale": if self.stale { json!("ok") } else { json!(false) },
            "update": self.update,
            "stable": self.stable,
            "execution_stats": self.execution_stats,
            "allow_fallback": self.allow_fallback,
        })
    }
}

/// The members of a request body that have not been read yet.
pub(crate) struct Members(Map<String, Value>);

impl Members {
    pub(crate) fn new(body: &Value) -> Result<Members> {
        match body {
            Value::Object(members) => Ok(Members(members.clone())),
            _ => Err(crate::error::Error::BadRequest("Request body must be a JSON object".into())),
        }
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<Value> {
        self.0.remove(name).ok_or_else(|| mango("missing_required_key", format!("Missing required key: {name}")))
    }

    pub(crate) fn optional<T>(&mut self, name: &str, check: impl FnOnce(Value) -> Result<T>) -> Result<Option<T>> {
        self.0.remove(name).map(check).transpose()
    }

    /// Fails if an unknown member is left.
    pub(crate) fn none_left(self) -> Result<()> {
        match self.0.keys().next() {
            Some(name) => Err(mango("invalid_key", format!("Invalid key {name} for this request."))),
            None => Ok(()),
        }
    }
}

/// Parses `use_index`: `"design"`, `"design/name"`, `"_design/design/name"` or `["design", "name"]`.
pub(crate) fn use_index(value: &Value) -> Result<Vec<String>> {
    let invalid = || mango("invalid_index_name", format!("Invalid index name: {}", term(value)));
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(name) => {
            let parts: Vec<&str> = name.split('/').collect();
            match parts.as_slice() {
                ["_design", design] | [design] => Ok(vec![(*design).to_owned()]),
                ["_design", design, index] | [design, index] => Ok(vec![(*design).to_owned(), (*index).to_owned()]),
                _ => Err(invalid()),
            }
        }
        Value::Array(parts) if parts.len() <= 2 => {
            parts.iter().map(|part| part.as_str().map(str::to_owned).ok_or_else(invalid)).collect()
        }
        _ => Err(invalid()),
    }
}

fn bookmark(value: Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        // CouchDB returns "nil" if there is no row to continue from.
        Value::String(text) if text.is_empty() || text == "nil" => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(mango("invalid_bookmark", format!("Invalid bookmark value: {other}"))),
    }
}

fn partition_name(value: Value) -> Result<Option<String>> {
    let illegal = |reason: &str| mango("illegal_partition", reason);
    match value {
        Value::String(name) if name.is_empty() => Ok(None),
        Value::String(name) if name.starts_with('_') => Err(illegal("Partition must not start with an underscore")),
        Value::String(name) if name.contains(':') => Err(illegal("Partition must not contain a colon")),
        Value::String(name) => Ok(Some(name)),
        _ => Err(illegal("Partition must be a string")),
    }
}

fn non_negative(value: Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| {
        mango("invalid_non_neg_integer", format!("{} is not an integer greater than or equal to zero", term(&value)))
    })
}

pub(crate) fn positive(value: Value) -> Result<u64> {
    value
        .as_u64()
        .filter(|number| *number > 0)
        .ok_or_else(|| mango("invalid_pos_integer", format!("{} is not an integer greater than zero", term(&value))))
}

fn boolean(value: Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| mango("invalid_boolean", format!("Invalid boolean value: {}", term(&value))))
}

fn ok_or_false(value: Value) -> Result<bool> {
    match &value {
        Value::String(word) if word == "ok" => Ok(true),
        Value::String(word) if word == "false" => Ok(false),
        Value::Bool(false) => Ok(false),
        _ => Err(mango("invalid_ok_or_false_value", format!("Invalid value: {}", term(&value)))),
    }
}

pub(crate) fn string(value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(mango("invalid_string", format!("Invalid string: {}", term(&other)))),
    }
}

pub(crate) fn non_empty_string(value: Value) -> Result<String> {
    let text = string(value)?;
    if text.is_empty() {
        return Err(mango("invalid_empty_string", "Index name or ddoc cannot be empty string"));
    }
    Ok(text)
}
