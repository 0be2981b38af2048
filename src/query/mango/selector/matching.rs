//! Matches a document against a selector (CouchDB's `mango_selector:match`).

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::condition::{Condition, Node};
use super::field::Found;
use super::order::Order;
use crate::json::within_reach;
use crate::regex::Regex;

/// Limit of steps per document. A step is a condition tested on a value, or some bytes compared. Without a
/// limit, a document and a selector of a few megabytes could take days.
const MAX_STEPS: u64 = 10_000_000;

/// Whether a document matches. If the selector needs too many steps, the document does not match, just as
/// PCRE gives up and reports no match.
pub(crate) fn matches(node: &Node, value: &Value) -> bool {
    let matcher = Matcher { left: Cell::new(MAX_STEPS) };
    matcher.node(node, value) && matcher.left.get() > 0
}

struct Matcher {
    /// Steps left. At 0 the evaluation stops, and its result does not count.
    left: Cell<u64>,
}

impl Matcher {
    /// Takes steps; returns whether any are left.
    fn take(&self, steps: u64) -> bool {
        let left = self.left.get().saturating_sub(steps);
        self.left.set(left);
        left > 0
    }

    fn node(&self, node: &Node, value: &Value) -> bool {
        match node {
            // As in CouchDB, where a text index has already matched the document.
            Node::Empty | Node::Text(_) => true,
            Node::And(nodes) => nodes.iter().all(|node| self.node(node, value)),
            // In CouchDB an empty `$or` matches everything.
            Node::Or(nodes) => nodes.is_empty() || nodes.iter().any(|node| self.node(node, value)),
            Node::Nor(nodes) => !nodes.iter().any(|node| self.node(node, value)),
            Node::Not(node) => !self.node(node, value),
            Node::At(path, condition) => match path.find(value) {
                Found::Value(found) => {
                    let order = if path.is_document_id() { Order::Raw } else { Order::View };
                    self.condition(condition, found, order)
                }
                Found::Missing => matches!(condition, Condition::Exists(false)),
                Found::BadPath => false,
            },
        }
    }

    fn condition(&self, condition: &Condition, value: &Value, order: Order) -> bool {
        if !self.take(1 + cost(condition, value) as u64) {
            return false;
        }
        match condition {
            Condition::Lt(bound) => order.compare(value, bound).is_lt(),
            Condition::Lte(bound) => order.compare(value, bound).is_le(),
            Condition::Eq(wanted) => order.equal(value, wanted),
            Condition::Ne(unwanted) => !order.equal(value, unwanted),
            Condition::Gte(bound) => order.compare(value, bound).is_ge(),
            Condition::Gt(bound) => order.compare(value, bound).is_gt(),
            Condition::In(set) => contains_any(set, value, order),
            Condition::Nin(set) => !contains_any(set, value, order),
            Condition::Exists(exists) => *exists,
            Condition::Type(name) => type_name(value) == name,
            Condition::Mod(divisor, remainder) => is_remainder(value, *divisor, *remainder),
            Condition::Regex(regex) => value.as_str().is_some_and(|text| self.regex(regex, text)),
            Condition::BeginsWith(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix.as_str())),
            Condition::All(wanted) => value.as_array().is_some_and(|elements| self.has_all(wanted, elements)),
            Condition::Size(size) => value.as_array().is_some_and(|elements| elements.len() as u64 == *size),
            Condition::ElemMatch(node) => {
                value.as_array().is_some_and(|elements| elements.iter().any(|element| self.node(node, element)))
            }
            Condition::AllMatch(node) => value.as_array().is_some_and(|elements| {
                !elements.is_empty() && elements.iter().all(|element| self.node(node, element))
            }),
            Condition::KeyMapMatch(node) => value
                .as_object()
                .is_some_and(|members| members.keys().any(|name| self.node(node, &Value::String(name.clone())))),
            Condition::Not(condition) => !self.condition(condition, value, order),
        }
    }

    fn regex(&self, regex: &Regex, text: &str) -> bool {
        let mut left = self.left.get();
        let matches = regex.is_match(text, &mut left);
        self.left.set(left);
        matches
    }

    /// `$all`: every wanted value is an element; a single wanted array may also equal the value itself.
    /// Compares exactly, as CouchDB does: 1 does not equal 1.0 here.
    fn has_all(&self, wanted: &[Value], elements: &[Value]) -> bool {
        if wanted.is_empty() {
            return false;
        }
        let is_element = |value| {
            let at = elements.iter().position(|element| element == value);
            self.take(at.unwrap_or(elements.len()) as u64) && at.is_some()
        };
        wanted.iter().all(is_element) || matches!(wanted, [Value::Array(only)] if only.as_slice() == elements)
    }
}

/// Steps that testing the value's content may cost, apart from elements that are tested one by one.
fn cost(condition: &Condition, value: &Value) -> usize {
    match (condition, value) {
        (Condition::Exists(_) | Condition::Type(_) | Condition::Size(_) | Condition::Mod(..), _) => 0,
        (Condition::In(_) | Condition::Nin(_), Value::Array(elements)) => elements.len(),
        (_, Value::Array(elements)) => elements.len() / 4,
        (_, Value::Object(members)) => members.len() / 4,
        (_, Value::String(text)) => text.len() / 16,
        (_, Value::Null | Value::Bool(_) | Value::Number(_)) => 0,
    }
}

/// `$in`: the value, or for an array one of its elements, is in the set.
fn contains_any(set: &super::condition::ValueSet, value: &Value, order: Order) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(|element| set.contains(element, order)),
        value => set.contains(value, order),
    }
}

/// `$mod`: matches integers only; a divisor of zero matches nothing.
fn is_remainder(value: &Value, divisor: i64, remainder: i64) -> bool {
    let integer = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    integer.and_then(|integer| integer.checked_rem(i128::from(divisor))) == Some(i128::from(remainder))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Reads members of the JSON object `text` into `members` and skips the others. `wanted` lists the names in
/// ascending order, for a binary search; `None` means all.
pub(crate) fn read_members(
    text: &str,
    wanted: Option<&[String]>,
    members: &mut Map<String, Value>,
) -> serde_json::Result<()> {
    if wanted.is_some_and(<[String]>::is_empty) {
        return Ok(());
    }
    let read = |text: &str, members: &mut Map<String, Value>| {
        Members { wanted, members }.deserialize(&mut serde_json::Deserializer::from_str(text))
    };
    match read(text, members) {
        Ok(()) => Ok(()),
        Err(error) => match within_reach(text) {
            // Overwrites the members that were read before the failure.
            Cow::Owned(text) => read(&text, members),
            Cow::Borrowed(_) => Err(error),
        },
    }
}

struct Members<'a> {
    wanted: Option<&'a [String]>,
    members: &'a mut Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(MemberName)? {
            if self.wanted.is_none_or(|wanted| wanted.binary_search_by(|member| member.as_str().cmp(&name)).is_ok()) {
                self.members.insert(name.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed from the text unless it contains escapes.
struct MemberName;

impl<'de> DeserializeSeed<'de> for MemberName {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for MemberName {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
