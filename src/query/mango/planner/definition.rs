//! Index definitions: parsed from `POST _index`, stored in design documents and shown by `GET _index`
//! (CouchDB's `mango_idx` and `mango_idx_view`).
//!
//! A design document of language `query` stores each index as a view whose map is the definition:
//!
//! ```json
//! {"language": "query", "views": {"by-age": {
//!     "map": {"fields": {"age": "asc"}, "partial_filter_selector": {}},
//!     "reduce": "_count", "options": {"def": {"fields": ["age"]}}}}}
//! ```

use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};

use crate::error::{Error, Result};
use crate::hex::hex;
use crate::query::mango::error::mango;
use crate::query::mango::request::{Direction, Members, Sort, non_empty_string, positive, string};
use crate::query::mango::selector::{FieldPath, Found, Selector, read_members, term};
use crate::rev::Term;

/// Maximum number of fields of an index.
const MAX_FIELDS: usize = 64;

/// An index that a query can use.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// `_design/...`; `None` for the index that every database has, its documents by id.
    pub design: Option<String>,
    /// Name of the index in the design document.
    pub name: String,
    /// The fields in order. Keys are stored ascending whatever the direction, because a scan can run both
    /// ways.
    pub fields: Sort,
    paths: Vec<FieldPath>,
    /// The top-level members of a document that the index reads, in ascending order; `None` if it may read
    /// any.
    members: Option<Vec<String>>,
    /// If set, the index contains only the documents that match it.
    pub partial_filter: Option<Selector>,
    /// Whether only queries of one partition can use it; otherwise only queries of the whole database can.
    pub partitioned: bool,
}

impl Index {
    /// The index of all documents by id, `_all_docs`.
    pub fn all_docs() -> Index {
        let fields = Sort { fields: vec!["_id".into()], direction: Direction::Ascending };
        let paths = FieldPath::parse("_id").into_iter().collect();
        Index {
            design: None,
            name: "_all_docs".into(),
            fields,
            paths,
            members: Some(Vec::new()),
            partial_filter: None,
            partitioned: false,
        }
    }

    /// Whether this is [`Index::all_docs`].
    pub fn is_all_docs(&self) -> bool {
        self.design.is_none()
    }

    /// The names of the fields, in order.
    pub fn columns(&self) -> &[String] {
        &self.fields.fields
    }

    /// CouchDB's name for the kind of index.
    pub fn kind(&self) -> &'static str {
        if self.is_all_docs() { "special" } else { "json" }
    }

    /// The indexes that a design document defines; none if its language is not `query`. Skips views that are
    /// not index definitions.
    pub fn of_design(id: &str, design: &Value, database_partitioned: bool) -> Vec<Index> {
        if design.get("language").and_then(Value::as_str) != Some("query") {
            return Vec::new();
        }
        let partitioned =
            design.pointer("/options/partitioned").and_then(Value::as_bool).unwrap_or(database_partitioned);
        let views = design.get("views").and_then(Value::as_object);
        views
            .into_iter()
            .flatten()
            .filter(|(_, view)| view.get("options").is_some_and(Value::is_object))
            .filter_map(|(name, view)| Index::of_map(id, name, view.get("map")?, partitioned).ok())
            .collect()
    }

    /// The index that a view's `map` defines (`{"fields": {...}, "partial_filter_selector": {...}}`). Returns
    /// the errors of an invalid definition.
    pub fn of_map(design: &str, name: &str, map: &Value, partitioned: bool) -> Result<Index> {
        let Value::Object(members) = map else { return Err(not_an_object(map)) };
        let fields = match members.get("fields") {
            Some(Value::Object(fields)) => {
                Sort::parse(&fields.iter().map(|(name, direction)| json!({ name.as_str(): direction })).collect())?
            }
            Some(list) => Sort::parse(list)?,
            None => return Err(mango("missing_required_key", "Missing required key: fields")),
        };
        // In text indexes of old CouchDB versions, the partial filter is named `selector`.
        let filter = ["partial_filter_selector", "selector"].iter().find_map(|name| members.get(*name));
        Index::new(Some(design.to_owned()), name.to_owned(), fields, filter, partitioned)
    }

    fn new(
        design: Option<String>,
        name: String,
        fields: Sort,
        filter: Option<&Value>,
        partitioned: bool,
    ) -> Result<Index> {
        if fields.fields.len() > MAX_FIELDS {
            return Err(mango("invalid_index", format!("An index has at most {MAX_FIELDS} fields.")));
        }
        let paths = fields.fields.iter().map(|name| FieldPath::parse(name)).collect::<Result<Vec<_>>>()?;
        let partial_filter = match filter {
            None => None,
            Some(Value::Object(members)) if members.is_empty() => None,
            Some(filter) => Some(Selector::parse(filter)?),
        };
        let mut members =
            partial_filter.as_ref().map_or(Some(Vec::new()), |filter| filter.members().map(<[_]>::to_vec));
        if let Some(members) = &mut members {
            members.extend(paths.iter().filter_map(FieldPath::first).map(str::to_owned));
            members.sort_unstable();
            members.dedup();
        }
        Ok(Index { design, name, fields, paths, members, partial_filter, partitioned })
    }

    /// The index's key for a document (CouchDB's `mango_native_proc:get_index_entries`): the values of its
    /// fields. `None` if a field is missing, the partial filter does not match, or for a design document.
    /// `document` is the whole document with `_id` and `_rev`.
    pub fn key_of(&self, document: &Value) -> Option<Vec<Value>> {
        if document.get("_id").and_then(Value::as_str).is_some_and(|id| id.starts_with("_design/")) {
            return None;
        }
        if self.partial_filter.as_ref().is_some_and(|filter| !filter.matches(document)) {
            return None;
        }
        let value = |path: &FieldPath| match path.find(document) {
            Found::Value(value) => Some(value.clone()),
            Found::Missing | Found::BadPath => None,
        };
        self.paths.iter().map(value).collect()
    }

    /// Like [`Index::key_of`], but from the body text (a JSON object without `_` members), of which it parses
    /// only the members that the index reads. Must not be used for indexes that read other `_` members; see
    /// [`Index::needs_special_members`].
    pub fn key_of_body(&self, id: &str, rev: &str, body: &str) -> Result<Option<Vec<Value>>> {
        if id.starts_with("_design/") {
            return Ok(None);
        }
        let mut document = Map::new();
        document.insert("_id".into(), id.into());
        document.insert("_rev".into(), rev.into());
        read_members(body, self.members.as_deref(), &mut document)
            .map_err(|error| Error::Damaged(format!("the body of document {id}: {error}")))?;
        Ok(self.key_of(&Value::Object(document)))
    }

    /// Whether the index reads a `_` member other than `_id` and `_rev`, for example `_attachments`.
    pub fn needs_special_members(&self) -> bool {
        let special = |path: &FieldPath| {
            path.first().is_some_and(|first| first.starts_with('_') && first != "_id" && first != "_rev")
        };
        self.paths.iter().any(special) || self.partial_filter.as_ref().is_some_and(Selector::wants_special_members)
    }

    /// The paths of the fields.
    pub fn paths(&self) -> &[FieldPath] {
        &self.paths
    }

    /// The JSON that `GET _index` and `_explain` show.
    pub fn to_json(&self) -> Value {
        let mut definition = Map::new();
        definition.insert("fields".into(), self.fields.to_list());
        if let Some(filter) = &self.partial_filter {
            definition.insert("partial_filter_selector".into(), filter.to_json());
        }
        let mut out = Map::new();
        out.insert("ddoc".into(), self.design.as_deref().map_or(Value::Null, Value::from));
        out.insert("name".into(), self.name.as_str().into());
        out.insert("type".into(), self.kind().into());
        if !self.is_all_docs() {
            out.insert("partitioned".into(), self.partitioned.into());
        }
        out.insert("def".into(), Value::Object(definition));
        Value::Object(out)
    }

    /// The key by which CouchDB sorts the indexes of a database.
    pub fn order(&self) -> (Option<&str>, &str) {
        (self.design.as_deref(), &self.name)
    }
}

fn not_an_object(value: &Value) -> Error {
    mango("invalid_index", format!("JSON indexes must be an object, not: {}", term(value)))
}

/// A validated body of `POST _index`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewIndex {
    /// `_design/...`
    pub design: String,
    /// Name of the index.
    pub name: String,
    /// The `partitioned` option; `None` means as the database.
    pub partitioned: Option<bool>,
    view: Value,
}

impl NewIndex {
    /// Parses a request body. Generates missing names from the definition, as CouchDB does.
    pub fn parse(body: &Value) -> Result<NewIndex> {
        let mut members = Members::new(body)?;
        let definition = members.required("index")?;
        let kind = members.optional("type", string)?;
        let name = members.optional("name", non_empty_string)?;
        let design = members.optional("ddoc", non_empty_string)?;
        let w = members.optional("w", positive)?;
        let partitioned = members.optional("partitioned", |value| {
            value.as_bool().ok_or_else(|| {
                mango("invalid_partitioned_value", format!("Invalid partitioned value: {}", term(&value)))
            })
        })?;
        members.none_left()?;
        match kind.as_deref() {
            None | Some("json") => {}
            Some(service @ ("text" | "nouveau")) => {
                return Err(mango("required index service unavailable", service));
            }
            Some(other) => return Err(mango("invalid_index", format!("Invalid type for index: {other}"))),
        }
        let made_name = generated_name(&definition, design.as_deref(), name.as_deref(), w, partitioned);
        let name = name.unwrap_or_else(|| made_name.clone());
        let design = match design {
            Some(design) if design.starts_with("_design/") => design,
            Some(design) => format!("_design/{design}"),
            None => format!("_design/{made_name}"),
        };
        if design == "_design/" {
            return Err(Error::IllegalDocId("Illegal document id `_design/`".into()));
        }
        let view = NewIndex::view(&design, &name, &definition)?;
        Ok(NewIndex { design, name, partitioned, view })
    }

    fn view(design: &str, name: &str, definition: &Value) -> Result<Value> {
        let Value::Object(given) = definition else { return Err(not_an_object(definition)) };
        let mut members = Members::new(definition)?;
        let fields = Sort::parse(&members.required("fields")?)?;
        let filter = members.optional("partial_filter_selector", |filter| {
            if filter.as_object().is_some_and(Map::is_empty) {
                Ok(filter)
            } else {
                Ok(Selector::parse(&filter)?.to_json())
            }
        })?;
        members.none_left()?;
        let filter = filter.unwrap_or_else(|| json!({}));
        Index::new(Some(design.to_owned()), name.to_owned(), fields.clone(), Some(&filter), false)?;
        Ok(json!({
            "map": {"fields": fields.to_object(), "partial_filter_selector": filter},
            "reduce": "_count",
            "options": {"def": given},
        }))
    }

    /// Returns the design document's body with this index added, or `None` if it already contains it.
    /// `existing` is the current body without `_` members, or `None` if there is no such document.
    pub fn add_to(&self, existing: Option<&Value>) -> Result<Option<Value>> {
        let mut design = match existing {
            None => Map::from_iter([("language".to_owned(), json!("query"))]),
            Some(Value::Object(members)) if members.get("language").and_then(Value::as_str) == Some("query") => {
                members.clone()
            }
            Some(other) => {
                let language = match other.get("language") {
                    Some(language) => format!("{{<<108,97,110,103,117,97,103,101>>,{}}}", term(language)),
                    None => "false".into(),
                };
                return Err(mango(
                    "invalid_ddoc_lang",
                    format!("Existing design doc has an invalid language: {language}"),
                ));
            }
        };
        let stored = design.get("options").and_then(|options| options.get("partitioned")).and_then(Value::as_bool);
        if stored != self.partitioned {
            if existing.is_some() {
                return Err(mango(
                    "invalid_partitioned_option",
                    format!(
                        "Requested partitioned option does not match existing value on design document {}",
                        self.design
                    ),
                ));
            }
            if let Some(partitioned) = self.partitioned {
                design.insert("options".into(), json!({"partitioned": partitioned}));
            }
        }
        let views = design.entry("views").or_insert_with(|| json!({}));
        if !views.is_object() {
            *views = json!({});
        }
        if let Value::Object(views) = views {
            if views.get(&self.name) == Some(&self.view) {
                return Ok(None);
            }
            views.insert(self.name.clone(), self.view.clone());
        }
        Ok(Some(Value::Object(design)))
    }
}

/// Returns a design document's body without the index `name`, or `None` if nothing else is left and the
/// document is to be deleted. Fails if the index does not exist (404 in CouchDB).
pub fn remove_from(design: &Value, name: &str) -> Result<Option<Value>> {
    let missing = || Error::NotFound(format!("JSON index {name} not found in this design doc."));
    let mut members = design.as_object().cloned().ok_or_else(missing)?;
    let views = members.get_mut("views").and_then(Value::as_object_mut).ok_or_else(missing)?;
    views.shift_remove(name).ok_or_else(missing)?;
    if views.is_empty() {
        members.shift_remove("views");
    }
    let only_language = members.len() == 1 && members.contains_key("language");
    Ok((!only_language).then_some(Value::Object(members)))
}

/// The name that CouchDB generates for an index without one (`mango_idx:gen_name`): the SHA-1 of the Erlang
/// term of its definition and options. The same request therefore creates the same design document here and
/// on CouchDB.
fn generated_name(
    definition: &Value,
    design: Option<&str>,
    name: Option<&str>,
    w: Option<u64>,
    partitioned: Option<bool>,
) -> String {
    let definition = definition.to_string();
    let mut out = Term::with_capacity(256 + 2 * definition.len());
    out.tuple(2);
    out.json(&definition);
    // The options, as a list sorted by name.
    let text_or_auto = |out: &mut Term, text: Option<&str>| match text {
        Some(text) => out.binary(text.as_bytes()),
        None => out.atom("auto_name"),
    };
    out.list(6);
    for option in ["ddoc", "def", "name", "partitioned", "type", "w"] {
        out.tuple(2);
        out.atom(option);
        match option {
            "ddoc" => text_or_auto(&mut out, design),
            "def" => out.json(&definition),
            "name" => text_or_auto(&mut out, name),
            "partitioned" => out.atom(match partitioned {
                Some(true) => "true",
                Some(false) => "false",
                None => "db_default",
            }),
            "type" => out.binary(b"json"),
            _ => {
                out.integer(&w.unwrap_or(2).to_string());
            }
        }
    }
    out.nil();
    hex(&Sha1::digest(out.bytes()))
}

/// The design documents named in a `POST _index/_bulk_delete` body, as sent.
pub fn bulk_delete_ids(body: &Value) -> Result<Vec<String>> {
    let mut members = Members::new(body)?;
    let ids = members.required("docids")?;
    members.optional("w", positive)?;
    members.none_left()?;
    let invalid = || {
        mango("invalid_bulk_docs", format!("Bulk Delete requires an array of non-null docids. Docids: {}", term(&ids)))
    };
    let Value::Array(entries) = &ids else { return Err(invalid()) };
    entries
        .iter()
        .map(|entry| {
            crate::query::mango::request::use_index(entry)?;
            entry.as_str().map(str::to_owned).ok_or_else(invalid)
        })
        .collect()
}
