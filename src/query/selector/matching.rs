//! A document against a selector (CouchDB's `mango_selector:match`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::field::Found;
use super::order::Order;
use super::{Condition, Node};

pub(super) fn node_matches(node: &Node, value: &Value) -> bool {
    match node {
        // A text index has found the document; there is nothing to test again.
        Node::Empty | Node::Text(_) => true,
        Node::And(nodes) => nodes.iter().all(|node| node_matches(node, value)),
        // An empty list of alternatives matches everything in CouchDB.
        Node::Or(nodes) => nodes.is_empty() || nodes.iter().any(|node| node_matches(node, value)),
        Node::Nor(nodes) => !nodes.iter().any(|node| node_matches(node, value)),
        Node::Not(node) => !node_matches(node, value),
        Node::At(path, condition) => match path.find(value) {
            Found::Value(found) => {
                let order = if path.is_document_id() { Order::Raw } else { Order::View };
                condition_matches(condition, found, order)
            }
            Found::Missing => matches!(condition, Condition::Exists(false)),
            Found::BadPath => false,
        },
    }
}

fn condition_matches(condition: &Condition, value: &Value, order: Order) -> bool {
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
        Condition::Regex(pattern) => value.as_str().is_some_and(|text| pattern.matches(text)),
        Condition::BeginsWith(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix.as_str())),
        Condition::All(wanted) => value.as_array().is_some_and(|elements| has_all(wanted, elements)),
        Condition::Size(size) => value.as_array().is_some_and(|elements| elements.len() as u64 == *size),
        Condition::ElemMatch(node) => {
            value.as_array().is_some_and(|elements| elements.iter().any(|element| node_matches(node, element)))
        }
        Condition::AllMatch(node) => value
            .as_array()
            .is_some_and(|elements| !elements.is_empty() && elements.iter().all(|element| node_matches(node, element))),
        Condition::KeyMapMatch(node) => value
            .as_object()
            .is_some_and(|members| members.keys().any(|name| node_matches(node, &Value::String(name.clone())))),
        Condition::Not(condition) => !condition_matches(condition, value, order),
    }
}

/// `$in`: the value is one of the set; of an array, any element.
fn contains_any(set: &super::ValueSet, value: &Value, order: Order) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(|element| set.contains(element, order)),
        value => set.contains(value, order),
    }
}

/// `$all`: every wanted value is an element; a single wanted array may also be the value itself. Exact equality, as
/// in CouchDB: 1 is not 1.0 here.
fn has_all(wanted: &[Value], elements: &[Value]) -> bool {
    if wanted.is_empty() {
        return false;
    }
    wanted.iter().all(|value| elements.contains(value))
        || matches!(wanted, [Value::Array(only)] if only.as_slice() == elements)
}

/// `$mod`: integers only; a divisor of zero matches nothing.
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

/// Reads the members `wanted` (`None`: all) of the JSON object `text` into `members`, skipping over the others.
pub(in crate::query) fn read_members(
    text: &str,
    wanted: Option<&[String]>,
    members: &mut Map<String, Value>,
) -> serde_json::Result<()> {
    if wanted.is_some_and(<[String]>::is_empty) {
        return Ok(());
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    Members { wanted, members }.deserialize(&mut reader)
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
            if self.wanted.is_none_or(|wanted| wanted.iter().any(|member| *member == name)) {
                self.members.insert(name.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed from the text unless it has escapes.
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
