//! Parses a selector's JSON into its tree: adds implied operators and pushes field names down to the
//! conditions.

use serde_json::{Map, Value};

use super::condition::{Condition, Node, ValueSet, bad_argument};
use super::field::FieldPath;
use super::term;
use crate::error::Result;
use crate::query::mango::error::mango;
use crate::regex::Regex;

/// Maximum nesting of objects and arrays of conditions.
const MAX_DEPTH: usize = 100;
/// Maximum number of conditions in a selector.
const MAX_NODES: usize = 20_000;
/// Maximum total length in bytes of all conditions' field paths, each with the names around it.
const MAX_NAMES: usize = 4 << 20;
/// Maximum number of regular expressions. Each takes up to 64 KiB when compiled.
const MAX_PATTERNS: usize = 500;
/// Maximum total length of the regular expressions, in bytes. Compiling one with thousands of named groups takes
/// quadratic time: a tenth of a second for 64 KiB.
const MAX_PATTERN_BYTES: usize = 256 << 10;

/// Parses a selector (CouchDB's `norm_ops` and `norm_fields`).
pub(crate) fn parse(selector: &Value) -> Result<Node> {
    Parser { nodes: 0, names: 0, patterns: 0, pattern_bytes: 0 }.node(
        selector,
        &FieldPath::default(),
        Place { depth: 0, in_element: false },
    )
}

struct Parser {
    nodes: usize,
    /// Total bytes of the paths so far.
    names: usize,
    patterns: usize,
    pattern_bytes: usize,
}

fn too_large() -> crate::error::Error {
    mango("invalid_selector", "The selector has too many conditions or nests them too deeply.")
}

#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    /// Whether this is inside `$elemMatch`, `$allMatch` or `$keyMapMatch`. There a normalized selector writes
    /// the element itself as the field with the empty name.
    in_element: bool,
}

impl Parser {
    fn node(&mut self, value: &Value, path: &FieldPath, place: Place) -> Result<Node> {
        self.nodes += 1;
        if place.depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(too_large());
        }
        match value {
            Value::Object(members) if members.len() == 1 => {
                let (name, argument) = members.iter().next().expect("an object of one member has one");
                self.member(name, argument, path, place)
            }
            Value::Object(members) if members.len() > 1 => {
                let below = Place { depth: place.depth + 1, ..place };
                let mut nodes = Vec::with_capacity(members.len());
                for (name, argument) in members {
                    self.nodes += 1;
                    nodes.push(self.member(name, argument, path, below)?);
                }
                Ok(Node::And(nodes))
            }
            bare => Ok(Node::At(self.copy(path)?, Condition::Eq(bare.clone()))),
        }
    }

    fn member(&mut self, name: &str, argument: &Value, path: &FieldPath, place: Place) -> Result<Node> {
        if !name.starts_with('$') {
            // In a normalized selector, an empty selector inside another one is a field with the empty name.
            let normalised = place.depth > 0 && path.is_empty() && is_operator(argument);
            if name.is_empty() && (place.in_element || normalised) {
                return self.node(argument, path, Place { depth: place.depth + 1, ..place });
            }
            let path = path.join(&FieldPath::parse(name)?);
            self.count(&path)?;
            return self.node(argument, &path, Place { depth: place.depth + 1, ..place });
        }
        Ok(match name {
            "$and" => Node::And(self.list(name, argument, path, place)?),
            "$or" => Node::Or(self.list(name, argument, path, place)?),
            "$nor" => Node::Nor(self.list(name, argument, path, place)?),
            "$not" => {
                self.object(name, argument)?;
                Node::Not(Box::new(self.node(argument, path, Place { depth: place.depth + 1, ..place })?))
            }
            "$text" => match argument {
                Value::String(_) | Value::Number(_) | Value::Bool(_) => text(argument, path)?,
                _ => return Err(bad_argument(name, argument)),
            },
            // Clients do not send this operator; it replaces `$text` in a normalized selector.
            "$default" => match argument.as_object().filter(|members| members.len() == 1) {
                Some(members) if members.contains_key("$text") => text(&members["$text"], path)?,
                _ => return Err(bad_field(argument)),
            },
            _ => {
                let condition = self.condition(name, argument, place)?;
                Node::At(self.copy(path)?, condition)
            }
        })
    }

    fn copy(&mut self, path: &FieldPath) -> Result<FieldPath> {
        self.count(path)?;
        Ok(path.clone())
    }

    /// Counts a path: a long name around many conditions is copied into each of their paths.
    fn count(&mut self, path: &FieldPath) -> Result<()> {
        self.names += path.bytes();
        if self.names > MAX_NAMES { Err(too_large()) } else { Ok(()) }
    }

    fn regex(&mut self, source: &str) -> Result<Option<Regex>> {
        self.patterns += 1;
        self.pattern_bytes = self.pattern_bytes.saturating_add(source.len());
        if self.patterns > MAX_PATTERNS || self.pattern_bytes > MAX_PATTERN_BYTES {
            return Err(mango("invalid_selector", "The selector has too many or too long regular expressions."));
        }
        Ok(Regex::compile(source).ok())
    }

    fn list(&mut self, name: &str, argument: &Value, path: &FieldPath, place: Place) -> Result<Vec<Node>> {
        let Value::Array(values) = argument else { return Err(bad_argument(name, argument)) };
        let below = Place { depth: place.depth + 1, ..place };
        values.iter().map(|value| self.node(value, path, below)).collect()
    }

    fn object<'v>(&self, name: &str, argument: &'v Value) -> Result<&'v Map<String, Value>> {
        argument.as_object().ok_or_else(|| bad_argument(name, argument))
    }

    fn element(&mut self, name: &str, argument: &Value, place: Place) -> Result<Box<Node>> {
        self.object(name, argument)?;
        let below = Place { depth: place.depth + 1, in_element: true };
        Ok(Box::new(self.node(argument, &FieldPath::default(), below)?))
    }

    fn condition(&mut self, name: &str, argument: &Value, place: Place) -> Result<Condition> {
        let bad = || bad_argument(name, argument);
        let unknown = || mango("invalid_operator", format!("Invalid operator: {name}"));
        let values = || argument.as_array().cloned().ok_or_else(bad);
        Ok(match name {
            "$lt" => Condition::Lt(argument.clone()),
            "$lte" => Condition::Lte(argument.clone()),
            "$eq" => Condition::Eq(argument.clone()),
            "$ne" => Condition::Ne(argument.clone()),
            "$gte" => Condition::Gte(argument.clone()),
            "$gt" => Condition::Gt(argument.clone()),
            "$in" => Condition::In(ValueSet::new(values()?)),
            "$nin" => Condition::Nin(ValueSet::new(values()?)),
            "$exists" => Condition::Exists(argument.as_bool().ok_or_else(bad)?),
            "$type" => Condition::Type(argument.as_str().ok_or_else(bad)?.to_owned()),
            "$mod" => match argument.as_array().map(Vec::as_slice) {
                Some([divisor, remainder]) => {
                    Condition::Mod(divisor.as_i64().ok_or_else(bad)?, remainder.as_i64().ok_or_else(bad)?)
                }
                _ => return Err(bad()),
            },
            // CouchDB reports these two as unknown operators if the argument is not a string.
            "$regex" => {
                let source = argument.as_str().ok_or_else(unknown)?;
                Condition::Regex(self.regex(source)?.ok_or_else(bad)?)
            }
            "$beginsWith" => Condition::BeginsWith(argument.as_str().ok_or_else(unknown)?.to_owned()),
            "$all" => Condition::All(values()?),
            "$size" => Condition::Size(argument.as_u64().ok_or_else(bad)?),
            "$elemMatch" => Condition::ElemMatch(self.element(name, argument, place)?),
            "$allMatch" => Condition::AllMatch(self.element(name, argument, place)?),
            "$keyMapMatch" => Condition::KeyMapMatch(self.element(name, argument, place)?),
            "$where" | "$geoWithin" | "$geoIntersects" | "$near" | "$nearSphere" => {
                return Err(mango("not_supported", format!("Unsupported operator: {name}")));
            }
            _ => return Err(unknown()),
        })
    }
}

fn is_operator(argument: &Value) -> bool {
    let members = argument.as_object().filter(|members| members.len() == 1);
    members.is_some_and(|members| members.keys().all(|name| name.starts_with('$')))
}

/// `$text` is allowed only at the top level.
fn text(argument: &Value, path: &FieldPath) -> Result<Node> {
    if path.is_empty() { Ok(Node::Text(argument.clone())) } else { Err(bad_field(argument)) }
}

fn bad_field(argument: &Value) -> crate::error::Error {
    mango(
        "bad_field",
        format!(
            "Invalid field normalization on selector: {{[{{<<36,100,101,102,97,117,108,116>>,{}}}]}}",
            term(argument)
        ),
    )
}
