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
//! agree. Everything that a client can make large is limited: depth, conditions and patterns in `parse`, the
//! steps per document in `matching`.

pub mod condition;
pub(crate) mod erlang;
pub(crate) mod field;
pub(crate) mod matching;
pub(crate) mod negation;
pub(crate) mod order;
pub(crate) mod parse;

use serde_json::{Map, Value};

use self::condition::Node;
use crate::error::{Error, Result};
use crate::query::mango::error::mango;

pub use self::erlang::{pretty_term, term};
pub use self::field::{FieldPath, Found};
pub(crate) use self::matching::read_members;
pub use self::order::compare;

/// A normalized selector.
#[derive(Debug, Clone)]
pub struct Selector {
    root: Node,
    /// The top-level members of a document that the selector reads, in ascending order; `None` if it may read
    /// any.
    members: Option<Vec<String>>,
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
        let root =
            if members.is_empty() { Node::Empty } else { self::negation::push_down(self::parse::parse(selector)?)? };
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
        self::matching::matches(&self.root, document)
    }

    /// Whether the document with this id, revision and body (a JSON object without `_` members, as stored)
    /// matches. Parses only the members that the selector reads and skips the rest of the text.
    ///
    /// For selectors that read other `_` members (see [`Selector::wants_special_members`]), the caller renders
    /// the whole document and uses [`Selector::matches_text`].
    pub fn matches_body(&self, id: &str, rev: &str, body: &str) -> Result<bool> {
        let mut document = Map::new();
        for (name, value) in [("_id", id), ("_rev", rev)] {
            if self.wants(name) {
                document.insert(name.into(), value.into());
            }
        }
        self::matching::read_members(body, self.members.as_deref(), &mut document)
            .map_err(|error| Error::Damaged(format!("the body of document {id}: {error}")))?;
        Ok(self.matches(&Value::Object(document)))
    }

    /// Whether the document with this text (a JSON object with all members) matches. Parses only the members that the
    /// selector reads.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub fn matches_text(&self, document: &str) -> serde_json::Result<bool> {
        let mut members = Map::new();
        self::matching::read_members(document, self.members.as_deref(), &mut members)?;
        Ok(self.matches(&Value::Object(members)))
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

    /// Whether the selector reads a `_` member other than `_id` and `_rev` (`_attachments`, `_conflicts`, `_deleted`).
    pub fn wants_special_members(&self) -> bool {
        self.members.as_ref().is_none_or(|members| {
            members.iter().any(|member| member.starts_with('_') && member != "_id" && member != "_rev")
        })
    }

    /// Whether the selector contains `{"$text": ...}`.
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

#[cfg(test)]
mod tests;
