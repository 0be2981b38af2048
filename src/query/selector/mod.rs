//! Mango selectors: the conditions of `_find`, of partial indexes and of `_changes?filter=_selector`.
//!
//! A selector is JSON text, normalized in three steps, like CouchDB's `mango_selector:normalize`:
//!
//! ```text
//! {"$not": {"a": {"b": 5, "c": {"$gt": 1}}}}
//!   1 operators   $not($and[a: b: $eq 5, a: c: $gt 1])         implied $and and $eq are made explicit
//!   2 fields      $not($and[a.b $eq 5, a.c $gt 1])             field names are pushed down to the conditions
//!   3 negations   $or[a.b $ne 5, a.c $lte 1]                   negations are pushed down, for the planner
//! ```
//!
//! Steps 1 and 2 are one walk (`parse`), step 3 is `negation`. The result is a [`Node`] tree: `planner`
//! chooses an index by it, and `matching` tests a document against it. Two rules look odd, but they are
//! CouchDB's and visible to clients: every condition except `$exists: false` requires the field to be present
//! (so `$not` of `$eq` does not match a document without the field), and an empty `$or` matches everything.
//!
//! Strings compare by the collation of view keys, not by bytes, so that an index scan and a document test
//! agree. Everything that a client can make large is limited: depth and number of conditions here, patterns
//! in `pattern`.

mod erlang;
mod field;
mod matching;
mod negation;
mod order;
mod parse;
mod pattern;

use serde_json::{Map, Value};

use self::order::Order;
use self::pattern::Pattern;
use crate::error::{Error, Result};

pub use self::erlang::{pretty_term, term};
pub use self::field::{FieldPath, Found};
pub(in crate::query) use self::matching::read_members;
pub use self::order::compare;

/// A normalized selector.
#[derive(Debug, Clone)]
pub struct Selector {
    root: Node,
    /// The top-level members of a document that the selector reads, in ascending order; `None` if it may read
    /// any.
    members: Option<Vec<String>>,
}

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
    Regex(Pattern),
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
    fn new(sent: Vec<Value>) -> ValueSet {
        let mut ordered = sent.clone();
        ordered.sort_by(compare);
        ValueSet { sent, ordered }
    }

    /// The values as the client sent them.
    pub fn values(&self) -> &[Value] {
        &self.sent
    }

    fn contains(&self, value: &Value, order: Order) -> bool {
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

impl Selector {
    /// Parses and normalizes a selector. Errors are [`Error::Mango`] with CouchDB's words
    /// (`mango_error.erl`).
    pub fn parse(selector: &Value) -> Result<Selector> {
        let Value::Object(members) = selector else {
            return Err(mango(
                "invalid_selector_json",
                format!("Selector must be a JSON object, not: {}", term(selector)),
            ));
        };
        let root = if members.is_empty() { Node::Empty } else { negation::push_down(parse::parse(selector)?)? };
        if matches!(&root, Node::At(path, _) if path.is_empty()) {
            return Err(mango("invalid_selector", "One or more conditions is missing a field name."));
        }
        let mut members = Vec::new();
        let all = collect_members(&root, &mut members);
        members.sort_unstable();
        members.dedup();
        Ok(Selector { root, members: all.then_some(members) })
    }

    /// The selector that matches every document.
    pub fn everything() -> Selector {
        Selector { root: Node::Empty, members: Some(Vec::new()) }
    }

    /// The names of the fields in the selector, as CouchDB writes them; an element match counts as its field.
    pub fn field_names(&self) -> Vec<String> {
        fn collect(node: &Node, names: &mut Vec<String>) {
            match node {
                Node::Empty => {}
                Node::Text(_) => names.push("$default".into()),
                Node::And(nodes) | Node::Or(nodes) | Node::Nor(nodes) => {
                    nodes.iter().for_each(|node| collect(node, names));
                }
                Node::Not(node) => collect(node, names),
                Node::At(path, _) => names.push(path.joined()),
            }
        }
        let mut names = Vec::new();
        collect(&self.root, &mut names);
        names
    }

    /// The normalized tree.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Whether a document, as a JSON object, matches.
    pub fn matches(&self, document: &Value) -> bool {
        matching::matches(&self.root, document)
    }

    /// Whether the document with this id, revision and body (a JSON object without `_` members, as stored)
    /// matches. Parses only the members that the selector reads and skips the rest of the text.
    ///
    /// For selectors that read other `_` members (see [`Selector::wants`]), the caller builds the whole
    /// document and uses [`Selector::matches`].
    pub fn matches_body(&self, id: &str, rev: &str, body: &str) -> Result<bool> {
        let mut document = Map::new();
        for (name, value) in [("_id", id), ("_rev", rev)] {
            if self.wants(name) {
                document.insert(name.into(), value.into());
            }
        }
        matching::read_members(body, self.members.as_deref(), &mut document)
            .map_err(|error| Error::Damaged(format!("the body of document {id}: {error}")))?;
        Ok(self.matches(&Value::Object(document)))
    }

    /// The top-level members of a document that the selector reads, in ascending order; `None` if it may read
    /// any.
    pub fn members(&self) -> Option<&[String]> {
        self.members.as_deref()
    }

    /// Whether the selector reads the top-level member `name` of a document.
    pub fn wants(&self, name: &str) -> bool {
        self.members.as_ref().is_none_or(|members| members.iter().any(|member| member == name))
    }

    /// Whether it reads a `_` member other than `_id` and `_rev` (`_attachments`, `_conflicts`, `_deleted`).
    pub fn wants_special_members(&self) -> bool {
        self.members.as_ref().is_none_or(|members| {
            members.iter().any(|member| member.starts_with('_') && member != "_id" && member != "_rev")
        })
    }

    /// Whether it contains `{"$text": ...}`.
    pub fn is_text_search(&self) -> bool {
        fn searches(node: &Node) -> bool {
            match node {
                Node::Text(_) => true,
                Node::And(nodes) | Node::Or(nodes) | Node::Nor(nodes) => nodes.iter().any(searches),
                Node::Not(node) => searches(node),
                Node::Empty | Node::At(..) => false,
            }
        }
        searches(&self.root)
    }

    /// The normalized selector as JSON, as `_explain` shows it and an index definition stores it. It can be
    /// parsed again: a dot inside a field name is written `\.` (CouchDB loses this distinction).
    pub fn to_json(&self) -> Value {
        self.root.to_json()
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        self.to_json() == other.to_json()
    }
}

/// Adds the top-level members that `node` reads. Returns `false` if it may read any.
fn collect_members(node: &Node, members: &mut Vec<String>) -> bool {
    match node {
        Node::Empty | Node::Text(_) => true,
        Node::And(nodes) | Node::Or(nodes) | Node::Nor(nodes) => {
            nodes.iter().all(|node| collect_members(node, members))
        }
        Node::Not(node) => collect_members(node, members),
        Node::At(path, _) => match path.first() {
            Some(first) => {
                // Adjacent conditions often name the same member.
                if members.last().is_none_or(|last| last != first) {
                    members.push(first.to_owned());
                }
                true
            }
            None => false,
        },
    }
}

impl Node {
    fn to_json(&self) -> Value {
        let list = |nodes: &[Node]| Value::Array(nodes.iter().map(Node::to_json).collect());
        match self {
            Node::Empty => Value::Object(Map::new()),
            Node::And(nodes) => single("$and", list(nodes)),
            Node::Or(nodes) => single("$or", list(nodes)),
            Node::Nor(nodes) => single("$nor", list(nodes)),
            Node::Not(node) => single("$not", node.to_json()),
            Node::At(path, condition) => single(&path.joined(), condition.to_json()),
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
            Condition::Regex(pattern) => single("$regex", pattern.source().into()),
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

fn single(name: &str, value: Value) -> Value {
    let mut object = Map::new();
    object.insert(name.into(), value);
    Value::Object(object)
}

/// A Mango error with CouchDB's error word.
pub(crate) fn mango(word: &'static str, reason: impl Into<String>) -> Error {
    Error::Mango { word, reason: reason.into() }
}

/// The error for a wrong argument of an operator.
fn bad_argument(operator: &str, argument: &Value) -> Error {
    mango("bad_arg", format!("Bad argument for operator {operator}: {}", term(argument)))
}

#[cfg(test)]
mod tests;
