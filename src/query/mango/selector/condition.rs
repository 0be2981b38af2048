//! The parsed form of a selector.

use serde_json::{Map, Value};

use super::erlang::term;
use super::field::FieldPath;
use super::order::{Order, compare};
use crate::error::Error;
use crate::query::mango::error::mango;
use crate::regex::Regex;

/// A node of a normalized selector.
#[derive(Debug, Clone)]
pub enum Node {
    /// `{}`: matches everything.
    Empty,
    /// All must match.
    And(Vec<Node>),
    /// At least one must match, or the list is empty.
    Or(Vec<Node>),
    /// None may match. Only inside `$elemMatch`, `$allMatch` and `$keyMapMatch`, whose arguments keep their
    /// negations.
    Nor(Vec<Node>),
    /// Must not match. Occurs only where [`Node::Nor`] may.
    Not(Box<Node>),
    /// A condition on the value at a path; the empty path is the value itself (for example an array's
    /// element).
    At(FieldPath, Condition),
    /// `{"$text": ...}`: only a full-text index can answer it.
    Text(Value),
}

/// A condition on the value at a path.
#[derive(Debug, Clone)]
pub enum Condition {
    Lt(Value),
    Lte(Value),
    Eq(Value),
    Ne(Value),
    Gte(Value),
    Gt(Value),
    In(ValueSet),
    Nin(ValueSet),
    Exists(bool),
    Type(String),
    Mod(i64, i64),
    Regex(Regex),
    BeginsWith(String),
    All(Vec<Value>),
    Size(u64),
    ElemMatch(Box<Node>),
    AllMatch(Box<Node>),
    KeyMapMatch(Box<Node>),
    /// The negation of a condition that has no opposite operator.
    Not(Box<Condition>),
}

/// The values of `$in` and `$nin`: as sent, and in collation order, so that a lookup in a long list is a
/// binary search.
#[derive(Debug, Clone)]
pub struct ValueSet {
    sent: Vec<Value>,
    ordered: Vec<Value>,
}

impl ValueSet {
    pub(crate) fn new(sent: Vec<Value>) -> ValueSet {
        let mut ordered = sent.clone();
        ordered.sort_by(compare);
        ValueSet { sent, ordered }
    }

    /// The values as the client sent them.
    pub fn values(&self) -> &[Value] {
        &self.sent
    }

    pub(crate) fn contains(&self, value: &Value, order: Order) -> bool {
        /// Up to this length, comparing with each value is faster than a binary search by collation.
        const FEW: usize = 16;
        if self.sent.len() <= FEW {
            return self.sent.iter().any(|entry| order.equal(entry, value));
        }
        let first = self.ordered.partition_point(|entry| compare(entry, value).is_lt());
        match order {
            Order::View => self.ordered.get(first).is_some_and(|entry| compare(entry, value).is_eq()),
            // Values that are equal byte by byte are also equal in the collation.
            Order::Raw => {
                let alike = self.ordered[first..].iter().take_while(|entry| compare(entry, value).is_eq());
                alike.into_iter().any(|entry| order.equal(entry, value))
            }
        }
    }
}

impl Node {
    pub(crate) fn to_json(&self) -> Value {
        let list = |nodes: &[Node]| Value::Array(nodes.iter().map(Node::to_json).collect());
        match self {
            Node::Empty => Value::Object(Map::new()),
            Node::And(nodes) => single("$and", list(nodes)),
            Node::Or(nodes) => single("$or", list(nodes)),
            Node::Nor(nodes) => single("$nor", list(nodes)),
            Node::Not(node) => single("$not", node.to_json()),
            Node::At(path, condition) => single(&path.selector_name(), condition.to_json()),
            Node::Text(text) => single("$default", single("$text", text.clone())),
        }
    }
}

impl Condition {
    fn to_json(&self) -> Value {
        match self {
            Condition::Lt(value) => single("$lt", value.clone()),
            Condition::Lte(value) => single("$lte", value.clone()),
            Condition::Eq(value) => single("$eq", value.clone()),
            Condition::Ne(value) => single("$ne", value.clone()),
            Condition::Gte(value) => single("$gte", value.clone()),
            Condition::Gt(value) => single("$gt", value.clone()),
            Condition::In(set) => single("$in", Value::Array(set.sent.clone())),
            Condition::Nin(set) => single("$nin", Value::Array(set.sent.clone())),
            Condition::Exists(exists) => single("$exists", (*exists).into()),
            Condition::Type(name) => single("$type", name.as_str().into()),
            Condition::Mod(divisor, remainder) => single("$mod", vec![*divisor, *remainder].into()),
            Condition::Regex(regex) => single("$regex", regex.source().into()),
            Condition::BeginsWith(prefix) => single("$beginsWith", prefix.as_str().into()),
            Condition::All(values) => single("$all", Value::Array(values.clone())),
            Condition::Size(size) => single("$size", (*size).into()),
            Condition::ElemMatch(node) => single("$elemMatch", node.to_json()),
            Condition::AllMatch(node) => single("$allMatch", node.to_json()),
            Condition::KeyMapMatch(node) => single("$keyMapMatch", node.to_json()),
            Condition::Not(condition) => single("$not", condition.to_json()),
        }
    }
}

/// The error for a wrong argument of an operator.
pub(crate) fn bad_argument(operator: &str, argument: &Value) -> Error {
    mango("bad_arg", format!("Bad argument for operator {operator}: {}", term(argument)))
}

/// An object with one member.
fn single(name: &str, value: Value) -> Value {
    let mut object = Map::new();
    object.insert(name.into(), value);
    Value::Object(object)
}
