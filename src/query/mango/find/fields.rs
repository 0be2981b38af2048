//! The `fields` of a request: the values of each document that the response contains (CouchDB's
//! `mango_fields`).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::error::Result;
use crate::json::escape::unescape;
use crate::json::push_quoted;
use crate::json::text::{skip_separators, string_end, value_end};
use crate::query::mango::error::mango;
use crate::query::mango::selector::field::index;
use crate::query::mango::selector::{FieldPath, term};

/// Maximum number of fields in a request.
const MAX_FIELDS: usize = 10_000;

/// A path of more steps leads to nothing, as in a selector: values nested deeper are not read.
const MAX_STEPS: usize = 128;

/// A list of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    names: Vec<String>,
    fields: Vec<Field>,
}

/// A field of a list. In a [`Projection`] they are in ascending order, and none is equal to another one or below it:
/// its value is part of the other's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Field {
    path: FieldPath,
    /// The first place in the list of this path, or of one below it.
    place: usize,
}

impl Field {
    fn step(&self, depth: usize) -> &str {
        self.path.steps().get(depth).map_or("", String::as_str)
    }
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
        let mut all = Vec::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            let Value::String(name) = entry else {
                return Err(mango("invalid_field", format!("Invalid JSON for field spec: {}", term(entry))));
            };
            let path = FieldPath::parse(name)?;
            if path.steps().len() <= MAX_STEPS {
                all.push(Field { path, place });
            }
            names.push(name.clone());
        }
        all.sort_unstable();
        let mut fields: Vec<Field> = Vec::with_capacity(all.len());
        for field in all {
            // What is below a path follows it.
            match fields.last_mut() {
                Some(above) if field.path.steps().starts_with(above.path.steps()) => {
                    above.place = above.place.min(field.place);
                }
                _ => fields.push(field),
            }
        }
        Ok((!names.is_empty()).then_some(Projection { names, fields }))
    }

    /// The field names as sent.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The document, a JSON object, reduced to these fields, in their order. Missing fields are left out. Values are
    /// copied from the text, so that numbers keep their spelling, and each at most once: the result is not larger
    /// than the document and the names of the fields.
    ///
    /// As in CouchDB, a step into an array creates an object with the index as a member name. If fields spell an
    /// index in several ways (`a.1`, `a.01`), only the first of them counts; CouchDB shows the element several times.
    pub fn project(&self, document: &str) -> String {
        let mut out = String::new();
        match find(document, 0, &self.fields, 0) {
            (_, Some(part)) => part.write(&mut out),
            (_, None) => out.push_str("{}"),
        }
        out
    }
}

/// What fields show of a value.
enum Part<'a> {
    /// All of it, for the field at a place of the list.
    Whole(&'a str, usize),
    /// At least one member, in the order of their places.
    Members(Vec<(&'a str, Part<'a>)>),
}

impl Part<'_> {
    /// The place of its first field in the list.
    fn place(&self) -> usize {
        match self {
            Part::Whole(_, place) => *place,
            Part::Members(members) => members.first().map_or(0, |(_, part)| part.place()),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Part::Whole(text, _) => out.push_str(text),
            Part::Members(members) => {
                for (at, (name, part)) in members.iter().enumerate() {
                    out.push(if at == 0 { '{' } else { ',' });
                    push_quoted(out, name);
                    out.push(':');
                    part.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Reads the value that starts at `at`. Returns its end, and what `fields`, which are in order and agree in their
/// first `depth` steps, show of it. Reads each byte once.
fn find<'a>(text: &'a str, at: usize, fields: &'a [Field], depth: usize) -> (usize, Option<Part<'a>>) {
    let bytes = text.as_bytes();
    if let [field] = fields
        && field.path.steps().len() == depth
    {
        let end = value_end(bytes, at);
        return (end, text.get(at..end).map(|text| Part::Whole(text, field.place)));
    }
    let indexes = match bytes.get(at) {
        Some(b'{') => None,
        Some(b'[') => Some(by_index(fields, depth)),
        _ => return (value_end(bytes, at), None),
    };
    let mut found = BTreeMap::new();
    let (mut at, mut element) = (at + 1, 0);
    loop {
        at = skip_separators(bytes, at);
        let wanted = match (bytes.get(at), &indexes) {
            (None, _) => break,
            (Some(b'}' | b']'), _) => {
                at += 1;
                break;
            }
            (Some(_), Some(indexes)) => {
                element += 1;
                indexes.get(&(element - 1)).copied()
            }
            (Some(_), None) => {
                let start = at + 1;
                at = string_end(bytes, at);
                let name = unescape(text.get(start..at - 1).unwrap_or_default());
                at = skip_separators(bytes, at);
                named(fields, depth, &name)
            }
        };
        let (end, part) = match wanted {
            Some(fields) => find(text, at, fields, depth + 1),
            None => (value_end(bytes, at), None),
        };
        if end == at {
            break;
        }
        at = end;
        if let Some(fields) = wanted {
            let step = fields.first().map_or("", |field| field.step(depth));
            // The last of several members of one name counts.
            match part {
                Some(part) => found.insert(step, part),
                None => found.remove(step),
            };
        }
    }
    let mut members: Vec<(&str, Part)> = found.into_iter().collect();
    members.sort_by_key(|(_, part)| part.place());
    (at, (!members.is_empty()).then_some(Part::Members(members)))
}

/// Those of `fields` whose next step is `name`.
fn named<'a>(fields: &'a [Field], depth: usize, name: &str) -> Option<&'a [Field]> {
    let start = fields.partition_point(|field| field.step(depth) < name);
    let (_, rest) = fields.split_at(start);
    let (named, _) = rest.split_at(rest.partition_point(|field| field.step(depth) == name));
    (!named.is_empty()).then_some(named)
}

/// The fields whose next step is an index of an array, by the index.
fn by_index(fields: &[Field], depth: usize) -> HashMap<usize, &[Field]> {
    let first = |fields: &[Field]| fields.iter().map(|field| field.place).min();
    let mut indexes: HashMap<usize, &[Field]> = HashMap::new();
    for some in fields.chunk_by(|one, next| one.step(depth) == next.step(depth)) {
        let Some(index) = some.first().and_then(|field| index(field.step(depth))) else { continue };
        let known = indexes.entry(index).or_insert(some);
        if first(some) < first(known) {
            *known = some;
        }
    }
    indexes
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
    use crate::query::mango::selector::Found;

    fn projection(fields: &Value) -> Projection {
        Projection::parse(fields).unwrap().unwrap()
    }

    /// As CouchDB does it: sets the fields one after the other.
    fn one_by_one(fields: &Value, document: &Value) -> Value {
        let mut out = Value::Object(Map::new());
        for name in fields.as_array().unwrap() {
            let path = FieldPath::parse(name.as_str().unwrap()).unwrap();
            if let Found::Value(value) = path.find(document) {
                set(&mut out, path.steps(), value.clone());
            }
        }
        out
    }

    #[test]
    fn projections() {
        let document = json!({"_id": "one", "a": {"b": 1, "c": [5, {"d": 6}]}, "e.f": 2, "g": null, "h": {}});
        for (fields, wanted) in [
            (json!(["_id"]), json!({"_id": "one"})),
            (json!(["a.b", "a.z", "z"]), json!({"a": {"b": 1}})),
            (json!(["a.c.1.d"]), json!({"a": {"c": {"1": {"d": 6}}}})),
            (json!(["a.c.9"]), json!({})),
            (json!(["a.c.-1", "a.c.x", "h.a", "g.a", "_id.0"]), json!({})),
            (json!(["e\\.f", "g"]), json!({"e.f": 2, "g": null})),
            (json!(["a.c", "a.c.0"]), json!({"a": {"c": [5, {"d": 6}]}})),
            (json!(["a.c.0", "a.c"]), json!({"a": {"c": [5, {"d": 6}]}})),
            (json!(["a", "a.b"]), json!({"a": {"b": 1, "c": [5, {"d": 6}]}})),
            (json!(["h", "a.c.+1", "a.c.x"]), json!({"h": {}, "a": {"c": {"+1": {"d": 6}}}})),
        ] {
            let shown = projection(&fields).project(&document.to_string());
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), wanted, "{fields}");
            assert_eq!(one_by_one(&fields, &document), wanted, "{fields}");
        }
        assert_eq!(Projection::parse(&json!([])).unwrap(), None);
        assert!(Projection::parse(&json!("a")).is_err());
        assert!(Projection::parse(&json!([1])).is_err());
    }

    #[test]
    fn random_projections_are_those_of_one_field_after_the_other() {
        let documents = [
            json!({"a": {"a": {"a": 1, "b": [1, [2, {"a": 3}]]}, "b": null}, "b": [{"a": 1}, [{"b": 2}], []], "0": 5}),
            json!({"b": {"0": {"a": 1}, "1": "x"}, "a": [[1, 2], {"0": [3], "b": {"a": {}}}], "1": {"a": [0]}}),
            json!({"a": "text", "b": [[["]", "}"], {"a\"b": 1}]], "0": {"0": {"0": [1]}}}),
        ];
        let mut random = super::super::tests::random();
        for _ in 0..5000 {
            let mut path = |steps: u64| -> String {
                (0..=random(steps)).map(|_| ["a", "b", "0", "1"][random(4) as usize]).collect::<Vec<_>>().join(".")
            };
            let fields: Value = (0..8).map(|_| path(4)).collect();
            for document in &documents {
                let shown = projection(&fields).project(&document.to_string());
                let wanted = one_by_one(&fields, document);
                assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), wanted, "{fields} {document}");
            }
        }
    }

    #[test]
    fn values_are_copied_as_they_are_written() {
        let document = r#"{"_id":"x","n":1.10,"a":[1e2,{"m":123456789012345678901234567890}],"\u0062":"\u0063"}"#;
        let fields = projection(&json!(["b", "a.1.m", "n", "a.0"]));
        let wanted = r#"{"b":"\u0063","a":{"1":{"m":123456789012345678901234567890},"0":1e2},"n":1.10}"#;
        assert_eq!(fields.project(document), wanted);
    }

    #[test]
    fn fields_that_overlap_are_copied_once() {
        let document = format!(r#"{{"t":[{}0],"n":1}}"#, "0,".repeat(1000));
        for fields in [vec!["t"; 10_000], [vec!["t.0", "t.1.x", "t"], vec!["t.7"; 9000]].concat()] {
            let fields = projection(&json!(fields));
            assert_eq!(fields.fields.len(), 1);
            assert_eq!(fields.project(&document), document.replace(r#","n":1"#, ""));
        }
        // An element has one name.
        let spelled: Vec<String> = (1..1000).rev().map(|zeros| format!("t.{}", "0".repeat(zeros))).collect();
        let shown = projection(&json!(spelled)).project(r#"{"t":["large",1]}"#);
        assert_eq!(shown, format!(r#"{{"t":{{"{}":"large"}}}}"#, "0".repeat(999)));
    }

    #[test]
    fn long_paths_lead_to_nothing() {
        for (steps, shows) in [(MAX_STEPS, true), (MAX_STEPS + 1, false), (100_000, false)] {
            let fields = projection(&json!([vec!["a"; steps].join("."), "b"]));
            let document = format!(r#"{{{}1{},"b":2}}"#, r#""a":{"#.repeat(steps), "}".repeat(steps));
            let document = document.replacen("{1}", "1", 1);
            assert_eq!(fields.project(&document).len() > 10, shows, "{steps}");
        }
    }

    #[test]
    fn what_is_no_json_is_read_to_its_end() {
        let fields = projection(&json!(["a.b", "c.0"]));
        for text in
            ["", "{", "{\"a", "{\"a\"", "{\"a\":{\"b", "{\"c\":[", "[", "{]", "{x:1}", "{\"a\":{\"b\":1", "{é\""]
        {
            let _ = fields.project(text);
        }
    }
}
