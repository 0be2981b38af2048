//! The `fields` of a request: the values of each document that the response contains (CouchDB's
//! `mango_fields`).

use serde_json::{Map, Value};

use crate::error::Result;
use crate::query::mango::error::mango;
use crate::query::mango::selector::{FieldPath, Found, term};

/// Maximum number of fields in a request.
const MAX_FIELDS: usize = 10_000;

/// A list of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    names: Vec<String>,
    paths: Vec<FieldPath>,
}

impl Projection {
    /// Parses a list of field names. Returns `None` for the empty list, which selects whole documents.
    pub fn parse(value: &Value) -> Result<Option<Projection>> {
        let Value::Array(entries) = value else {
            return Err(mango("invalid_fields", format!("Fields must be an array of strings, not: {}", term(value))));
        };
        if entries.len() > MAX_FIELDS {
            return Err(mango("invalid_fields", format!("There are more than {MAX_FIELDS} fields.")));
        }
        let mut names = Vec::with_capacity(entries.len());
        let mut paths = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::String(name) = entry else {
                return Err(mango("invalid_field", format!("Invalid JSON for field spec: {}", term(entry))));
            };
            paths.push(FieldPath::parse(name)?);
            names.push(name.clone());
        }
        Ok((!names.is_empty()).then_some(Projection { names, paths }))
    }

    /// The field names as sent.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The paths of the fields.
    pub fn paths(&self) -> &[FieldPath] {
        &self.paths
    }

    /// The document reduced to these fields. Missing fields are left out.
    pub fn extract(&self, document: &Value) -> Value {
        let mut out = Value::Object(Map::new());
        for path in &self.paths {
            if let Found::Value(value) = path.find(document) {
                set(&mut out, path.steps(), value.clone());
            }
        }
        out
    }
}

/// Sets `value` at `steps` in `target` and creates the objects on the way (CouchDB's `mango_doc:set_field`).
/// As in CouchDB, a step into an array of the document creates an object with the index as a member name.
pub(crate) fn set(target: &mut Value, steps: &[String], value: Value) {
    let Some((step, further)) = steps.split_first() else { return };
    match target {
        Value::Object(members) => {
            if further.is_empty() {
                members.insert(step.clone(), value);
            } else {
                let below = members.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
                set(below, further, value);
            }
        }
        Value::Array(elements) => {
            let element = step.parse::<usize>().ok().and_then(|index| elements.get_mut(index));
            match element {
                Some(element) if further.is_empty() => *element = value,
                Some(element) => set(element, further, value),
                None => {}
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn projections() {
        let document = json!({"_id": "one", "a": {"b": 1, "c": [5, {"d": 6}]}, "e.f": 2, "g": null});
        for (fields, wanted) in [
            (json!(["_id"]), json!({"_id": "one"})),
            (json!(["a.b", "a.z", "z"]), json!({"a": {"b": 1}})),
            (json!(["a.c.1.d"]), json!({"a": {"c": {"1": {"d": 6}}}})),
            (json!(["a.c.9"]), json!({})),
            (json!(["e\\.f", "g"]), json!({"e.f": 2, "g": null})),
            (json!(["a.c", "a.c.0"]), json!({"a": {"c": [5, {"d": 6}]}})),
            (json!(["a", "a.b"]), json!({"a": {"b": 1, "c": [5, {"d": 6}]}})),
        ] {
            let projection = Projection::parse(&fields).unwrap().unwrap();
            assert_eq!(projection.extract(&document), wanted, "{fields}");
        }
        assert_eq!(Projection::parse(&json!([])).unwrap(), None);
        assert!(Projection::parse(&json!("a")).is_err());
        assert!(Projection::parse(&json!([1])).is_err());
    }
}
