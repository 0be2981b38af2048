//! Pushes negations down to the conditions, where most operators have an opposite that an index can serve.

use serde_json::Value;

use super::condition::{Condition, Node, bad_argument};
use crate::error::Result;

/// Resolves every `$not` and `$nor` outside element matches (CouchDB's `norm_negations`).
pub(crate) fn push_down(node: Node) -> Result<Node> {
    Ok(match node {
        Node::Not(inner) => negate(*inner)?,
        Node::Nor(nodes) => Node::And(all(nodes, negate)?),
        Node::And(nodes) => Node::And(all(nodes, push_down)?),
        Node::Or(nodes) => Node::Or(all(nodes, push_down)?),
        other => other,
    })
}

fn negate(node: Node) -> Result<Node> {
    Ok(match node {
        Node::Not(inner) => push_down(*inner)?,
        Node::Nor(nodes) => Node::Or(all(nodes, push_down)?),
        Node::And(nodes) => Node::Or(all(nodes, negate)?),
        Node::Or(nodes) => Node::And(all(nodes, negate)?),
        Node::At(path, condition) => Node::At(path, opposite(condition)),
        Node::Text(text) => {
            let text = Node::Text(text);
            return Err(bad_argument("$not", &text.to_json()));
        }
        // Only a whole selector can be empty, and that is never negated; `{"$not": {}}` compares with an
        // empty object.
        Node::Empty => return Err(bad_argument("$not", &Value::Object(Default::default()))),
    })
}

fn all(nodes: Vec<Node>, step: fn(Node) -> Result<Node>) -> Result<Vec<Node>> {
    nodes.into_iter().map(step).collect()
}

fn opposite(condition: Condition) -> Condition {
    match condition {
        Condition::Lt(value) => Condition::Gte(value),
        Condition::Lte(value) => Condition::Gt(value),
        Condition::Eq(value) => Condition::Ne(value),
        Condition::Ne(value) => Condition::Eq(value),
        Condition::Gte(value) => Condition::Lt(value),
        Condition::Gt(value) => Condition::Lte(value),
        Condition::In(set) => Condition::Nin(set),
        Condition::Nin(set) => Condition::In(set),
        Condition::Exists(exists) => Condition::Exists(!exists),
        Condition::Not(condition) => *condition,
        other @ (Condition::Type(_)
        | Condition::Mod(..)
        | Condition::Regex(_)
        | Condition::BeginsWith(_)
        | Condition::All(_)
        | Condition::Size(_)
        | Condition::ElemMatch(_)
        | Condition::AllMatch(_)
        | Condition::KeyMapMatch(_)) => Condition::Not(Box::new(other)),
    }
}
