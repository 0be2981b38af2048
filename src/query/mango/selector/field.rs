//! Field names as paths: `a.b` is the member `b` of the member `a`, `a\.b` is the member `a.b`, and `list.0`
//! is an element of an array.

use serde_json::Value;

use crate::error::Result;
use crate::query::mango::error::mango;

/// The steps from a document's top level to a value. Ordered step by step, like CouchDB's paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct FieldPath(Vec<String>);

/// The result of following a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    /// The path leads to this value.
    Value(&'a Value),
    /// An object on the path lacks the member.
    Missing,
    /// A value on the path is neither object nor array, or an array has no such element. CouchDB
    /// distinguishes this from [`Found::Missing`]: `$exists: false` matches only a missing member.
    BadPath,
}

impl FieldPath {
    /// Parses a field name (CouchDB's `mango_util:parse_field`).
    pub fn parse(name: &str) -> Result<FieldPath> {
        let invalid = || mango("invalid_field_name", format!("Invalid field name: {name}"));
        if !name.contains('\\') {
            let steps: Vec<String> = name.split('.').map(str::to_owned).collect();
            return if steps.iter().any(String::is_empty) { Err(invalid()) } else { Ok(FieldPath(steps)) };
        }
        // A dot after a backslash does not split. All backslashes are removed; a step is invalid only if it
        // is empty as written.
        let mut steps = Vec::new();
        let mut step = String::new();
        let mut written = 0;
        let mut before = ' ';
        for character in name.chars() {
            match character {
                '.' if before != '\\' => {
                    if written == 0 {
                        return Err(invalid());
                    }
                    steps.push(std::mem::take(&mut step));
                    written = 0;
                }
                '\\' => written += 1,
                _ => {
                    step.push(character);
                    written += 1;
                }
            }
            before = character;
        }
        if written == 0 {
            return Err(invalid());
        }
        steps.push(step);
        Ok(FieldPath(steps))
    }

    /// Whether the path is empty, that is, leads to the value itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Approximate size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|step| step.len() + size_of::<String>()).sum()
    }

    /// Whether this is `_id`, which CouchDB compares in the order of `_all_docs`.
    pub fn is_document_id(&self) -> bool {
        matches!(self.0.as_slice(), [only] if only == "_id")
    }

    /// The top-level member, if the path is not empty.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// The steps.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Appends the steps of `further`. CouchDB concatenates the names as they are written, so a step written
    /// as a single backslash escapes the dot after it. Therefore only the last step of a path can be empty.
    pub(crate) fn join(&self, further: &FieldPath) -> FieldPath {
        let (mut steps, mut further) = (self.0.clone(), further.0.iter());
        if let Some(last) = steps.last_mut().filter(|last| last.is_empty())
            && let Some(next) = further.next()
        {
            *last = format!(".{next}");
        }
        steps.extend(further.cloned());
        FieldPath(steps)
    }

    /// The field name that [`FieldPath::parse`] parses as this path.
    pub fn joined(&self) -> String {
        let written = |step: &String| if step.is_empty() { "\\".to_owned() } else { step.replace('.', "\\.") };
        self.0.iter().map(written).collect::<Vec<_>>().join(".")
    }

    /// The name of this path in a selector. A name that began with `$` would be an operator there.
    pub(crate) fn selector_name(&self) -> String {
        let name = self.joined();
        if name.starts_with('$') { format!("\\{name}") } else { name }
    }

    /// The value at this path in `value` (CouchDB's `mango_doc:get_field`).
    pub fn find<'a>(&self, value: &'a Value) -> Found<'a> {
        let mut here = value;
        for step in &self.0 {
            here = match here {
                Value::Object(members) => match members.get(step) {
                    Some(member) => member,
                    None => return Found::Missing,
                },
                Value::Array(elements) => match index(step).and_then(|index| elements.get(index)) {
                    Some(element) => element,
                    None => return Found::BadPath,
                },
                _ => return Found::BadPath,
            };
        }
        Found::Value(here)
    }
}

/// The index of an array that a step of a path names.
pub(crate) fn index(step: &str) -> Option<usize> {
    step.parse::<i64>().ok().and_then(|index| usize::try_from(index).ok())
}
