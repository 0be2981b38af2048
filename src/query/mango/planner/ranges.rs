//! Derives the range of an index to scan from a selector's conditions (CouchDB's `mango_idx_view`).
//!
//! Only conditions that every matching document must satisfy narrow a range: those at the top level and
//! inside `$and`. All conditions are tested on each document afterwards, so a range may be too wide but never
//! too narrow.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::query::mango::selector::condition::{Condition, Node};
use crate::query::mango::selector::{FieldPath, compare};

/// The values of one field that can match.
#[derive(Debug, Clone, PartialEq)]
pub enum Range {
    /// No value can match.
    Empty,
    /// All values between two ends.
    Between(Low, High),
}

/// The lower end of a range.
#[derive(Debug, Clone, PartialEq)]
pub enum Low {
    /// No lower bound.
    Min,
    /// Exclusive.
    Above(Value),
    /// Inclusive.
    From(Value),
    /// The range is this one value; the upper end is [`High::Exactly`] too.
    Exactly(Value),
}

/// The upper end of a range.
#[derive(Debug, Clone, PartialEq)]
pub enum High {
    /// No upper bound.
    Max,
    /// Exclusive.
    Below(Value),
    /// Inclusive.
    To(Value),
    /// The range is this one value.
    Exactly(Value),
}

impl Low {
    fn value(&self) -> Option<&Value> {
        match self {
            Low::Min => None,
            Low::Above(value) | Low::From(value) | Low::Exactly(value) => Some(value),
        }
    }
}

impl High {
    fn value(&self) -> Option<&Value> {
        match self {
            High::Max => None,
            High::Below(value) | High::To(value) | High::Exactly(value) => Some(value),
        }
    }
}

impl Range {
    /// All values.
    pub fn all() -> Range {
        Range::Between(Low::Min, High::Max)
    }

    fn exactly(value: &Value) -> Range {
        Range::Between(Low::Exactly(value.clone()), High::Exactly(value.clone()))
    }
}

/// The fields that an index could narrow, in CouchDB's order.
pub fn indexable_paths(node: &Node) -> Vec<FieldPath> {
    fn collect(node: &Node, paths: &mut Vec<FieldPath>) {
        match node {
            Node::And(nodes) => nodes.iter().for_each(|node| collect(node, paths)),
            Node::At(path, condition) if is_indexable(condition) => paths.push(path.clone()),
            _ => {}
        }
    }
    let mut paths = Vec::new();
    collect(node, &mut paths);
    paths.sort();
    paths.dedup();
    paths
}

fn is_indexable(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::Lt(_)
            | Condition::Lte(_)
            | Condition::Eq(_)
            | Condition::Gt(_)
            | Condition::Gte(_)
            | Condition::BeginsWith(_)
            | Condition::Exists(_)
    )
}

/// The range of each indexable field. If one is empty, nothing can match, and only that one is returned.
pub fn field_ranges(node: &Node) -> Vec<(FieldPath, Range)> {
    let mut ranges = BTreeMap::new();
    narrow_all(node, &mut ranges);
    if let Some((path, _)) = ranges.iter().find(|(_, range)| **range == Range::Empty) {
        return vec![((*path).clone(), Range::Empty)];
    }
    ranges.into_iter().map(|(path, range)| (path.clone(), range)).collect()
}

/// Narrows all fields in one walk; one walk per field would take quadratic time.
fn narrow_all<'n>(node: &'n Node, ranges: &mut BTreeMap<&'n FieldPath, Range>) {
    match node {
        Node::And(nodes) => nodes.iter().for_each(|node| narrow_all(node, ranges)),
        Node::At(path, condition) if is_indexable(condition) => {
            let range = ranges.entry(path).or_insert_with(Range::all);
            *range = narrow(condition, std::mem::replace(range, Range::Empty));
        }
        _ => {}
    }
}

/// Position of a value relative to a range.
enum Place {
    Before,
    AtLow,
    Inside,
    AtHigh,
    After,
}

fn place(value: &Value, low: &Low, high: &High) -> Place {
    match low.value().map(|low| compare(value, low)) {
        Some(Ordering::Less) => return Place::Before,
        Some(Ordering::Equal) => return Place::AtLow,
        Some(Ordering::Greater) | None => {}
    }
    match high.value().map(|high| compare(value, high)) {
        Some(Ordering::Less) | None => Place::Inside,
        Some(Ordering::Equal) => Place::AtHigh,
        Some(Ordering::Greater) => Place::After,
    }
}

fn narrow(condition: &Condition, range: Range) -> Range {
    let Range::Between(low, high) = range else { return Range::Empty };
    let low_included = matches!(low, Low::From(_) | Low::Exactly(_));
    let high_included = matches!(high, High::To(_) | High::Exactly(_));
    match condition {
        Condition::Lt(value) => match place(value, &low, &high) {
            Place::Before | Place::AtLow => Range::Empty,
            Place::Inside | Place::AtHigh => Range::Between(low, High::Below(value.clone())),
            Place::After => Range::Between(low, high),
        },
        Condition::Lte(value) => match place(value, &low, &high) {
            Place::AtLow if low_included => Range::exactly(value),
            Place::Before | Place::AtLow => Range::Empty,
            Place::Inside => Range::Between(low, High::To(value.clone())),
            Place::AtHigh | Place::After => Range::Between(low, high),
        },
        Condition::Eq(value) => match place(value, &low, &high) {
            Place::AtLow if low_included => Range::exactly(value),
            Place::AtHigh if high_included => Range::exactly(value),
            Place::Inside => Range::exactly(value),
            Place::Before | Place::AtLow | Place::AtHigh | Place::After => Range::Empty,
        },
        Condition::Gte(value) => match place(value, &low, &high) {
            Place::Before | Place::AtLow => Range::Between(low, high),
            Place::Inside => Range::Between(Low::From(value.clone()), high),
            Place::AtHigh if high_included => Range::exactly(value),
            Place::AtHigh | Place::After => Range::Empty,
        },
        Condition::Gt(value) => match place(value, &low, &high) {
            Place::Before => Range::Between(low, high),
            Place::AtLow | Place::Inside => Range::Between(Low::Above(value.clone()), high),
            Place::AtHigh | Place::After => Range::Empty,
        },
        Condition::BeginsWith(prefix) => {
            // U+FFFF sorts above every other character.
            let range = narrow(&Condition::Gte(prefix.as_str().into()), Range::Between(low, high));
            narrow(&Condition::Lte(format!("{prefix}\u{FFFF}").into()), range)
        }
        _ => Range::Between(low, high),
    }
}

/// The start key of an index scan, from the ranges of the index's leading fields. The scan includes documents at
/// an exclusive end; the selector rejects those.
pub fn start_key(ranges: &[Range]) -> Vec<Value> {
    ranges
        .iter()
        .map_while(|range| match range {
            Range::Between(low, _) => low.value().cloned(),
            Range::Empty => None,
        })
        .collect()
}

/// The end key of a scan. Keys that begin with it are in the range too (CouchDB appends its highest key).
pub fn end_key(ranges: &[Range]) -> Vec<Value> {
    ranges
        .iter()
        .map_while(|range| match range {
            Range::Between(_, high) => high.value().cloned(),
            Range::Empty => None,
        })
        .collect()
}
