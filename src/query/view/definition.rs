//! The views of a design document, and the signature of their index (`couch_mrview_util:ddoc_to_mrst`).
//!
//! Views with the same map function share their rows; they differ only in how the rows are reduced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::layout::FORMAT;
use super::map_function::MapFunction;
use super::reducer::Reducer;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::json::COLLATION_VERSION;
use crate::query::mango::planner::Index;
use crate::query::script::{Design, MapSet};

/// Signed with functions that start with a helper. An index without it may have the rows of the helper.
const HELPERS: u32 = 1;

/// A view's name and its reduce function, if it has one.
type NamedReduce<'a> = (&'a String, Option<&'a str>);

/// The views of a design document.
#[derive(Debug)]
pub struct Definition {
    /// Id of the design document, `_design/...`.
    pub id: String,
    /// The design document's language.
    pub language: String,
    /// Identifies the index. Design documents with equal views have equal signatures.
    pub signature: [u8; 16],
    /// `options.partitioned`: every query names one partition.
    pub partitioned: bool,
    /// `options.include_design`.
    pub include_design: bool,
    /// `options.local_seq`.
    pub local_seq: bool,
    pub(super) maps: Vec<MapFunction>,
    pub(super) set: Arc<MapSet>,
    /// For the language `query`: the index definition of each map, or `None` if the map is not one.
    pub(crate) mango: Option<Vec<Option<Index>>>,
    names: HashMap<String, View>,
}

/// A view, by its position in the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Index of its map function.
    pub map: usize,
    /// Index of its reducer among those of the map function, if the view has one.
    pub reducer: Option<usize>,
}

impl Definition {
    /// Parses a design document. `partitioned` says whether its database is partitioned.
    ///
    /// # Errors
    /// `Script` if a reduce function is invalid.
    pub fn read(design: &Design, partitioned: bool) -> Result<Definition> {
        let source: Value = serde_json::from_str(&design.source)
            .map_err(|error| Error::Damaged(format!("design document {}: {error}", design.id)))?;
        let none = Map::new();
        let object = |name: &str| source.get(name).and_then(Value::as_object).unwrap_or(&none);
        let (views, options) = (object("views"), object("options"));
        let option = |name: &str| options.get(name).and_then(Value::as_bool);
        let language = source.get("language").and_then(Value::as_str).unwrap_or("javascript").to_owned();
        let is_query = language == "query";
        let mut names = HashMap::new();
        let (mut maps, mut functions, mut signed) = (Vec::new(), Vec::new(), Vec::new());
        for ((source, options), of_map) in views_by_source(views, is_query) {
            let mut reduces: Vec<&str> = of_map.iter().filter_map(|(_, reduce)| *reduce).collect();
            reduces.sort_unstable();
            reduces.dedup();
            for (name, reduce) in of_map {
                let reducer = reduce.and_then(|reduce| reduces.binary_search(&reduce).ok());
                names.insert(name.clone(), View { map: maps.len(), reducer });
            }
            let raw = serde_json::from_str::<Value>(&options)
                .is_ok_and(|options| options.get("collation").and_then(Value::as_str) == Some("raw"));
            let mut scripts = Vec::new();
            let reducers =
                reduces.iter().map(|source| Reducer::read(source, &mut scripts)).collect::<Result<Vec<Reducer>>>()?;
            let mut signs = vec![json!(source), json!(options), json!(reduces)];
            if !is_query && (starts_with_helper(&source) || reduces.iter().any(|reduce| starts_with_helper(reduce))) {
                signs.push(json!(HELPERS));
            }
            signed.push(Value::Array(signs));
            functions.push(source);
            maps.push(MapFunction { raw, reducers, scripts: Arc::new(scripts) });
        }
        let lib = views.get("lib").filter(|lib| lib.is_object());
        let signed_lib = lib.map(canonical).unwrap_or_default();
        let partitioned = partitioned && option("partitioned").unwrap_or(true);
        let (include_design, local_seq) =
            (option("include_design").unwrap_or(false), option("local_seq").unwrap_or(false));
        let text = json!([
            "views",
            FORMAT,
            COLLATION_VERSION,
            language,
            signed,
            signed_lib,
            [partitioned, include_design, local_seq]
        ]);
        let signature = signature(&text);
        let set =
            MapSet { database: design.database, signature: hex(&signature), functions, lib: lib.map(Value::to_string) };
        let id = design.id.clone();
        let set = Arc::new(set);
        let mango = is_query.then(|| {
            let index = |map: &String| Index::of_map(&id, "", &serde_json::from_str(map).ok()?, partitioned).ok();
            set.functions.iter().map(index).collect()
        });
        Ok(Definition { id, language, signature, partitioned, include_design, local_seq, maps, set, mango, names })
    }

    /// The definition of a Mango index: a map without JavaScript, whose rows have the values of the index's
    /// fields as keys.
    pub fn of_index(database: u64, index: &Index) -> Definition {
        let filter = index.partial_filter.as_ref().map(|filter| filter.to_json());
        let text = json!(["mango", FORMAT, COLLATION_VERSION, index.columns(), filter, index.partitioned]);
        let signature = signature(&text);
        Definition {
            id: index.design.clone().unwrap_or_default(),
            language: "query".into(),
            signature,
            partitioned: index.partitioned,
            include_design: false,
            local_seq: false,
            maps: vec![MapFunction { raw: false, reducers: Vec::new(), scripts: Arc::default() }],
            set: Arc::new(MapSet { database, signature: hex(&signature), functions: Vec::new(), lib: None }),
            mango: Some(vec![Some(index.clone())]),
            names: HashMap::new(),
        }
    }

    /// Whether there is a view, and so an index.
    pub fn has_views(&self) -> bool {
        !self.maps.is_empty()
    }

    /// The names of the views, in order.
    pub fn view_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The view with this name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn view(&self, name: &str) -> Result<View> {
        self.names.get(name).copied().ok_or_else(|| Error::NotFound("missing_named_view".into()))
    }
}

/// Groups views by the source and options of their map functions. Ordered by these, so that the order does not depend
/// on the names.
fn views_by_source(views: &Map<String, Value>, is_query: bool) -> BTreeMap<(String, String), Vec<NamedReduce<'_>>> {
    let mut by_source: BTreeMap<(String, String), Vec<NamedReduce>> = BTreeMap::new();
    for (name, view) in views {
        let map = match view.get("map") {
            Some(Value::String(map)) if !is_query => map.clone(),
            // The order of the fields matters: the elements of a key have the same order.
            Some(map @ Value::Object(_)) if is_query => map.to_string(),
            _ => continue,
        };
        let options = view.get("options").map(canonical).unwrap_or_default();
        let reduce = view.get("reduce").and_then(Value::as_str).map(str::trim).filter(|source| !source.is_empty());
        by_source.entry((map, options)).or_default().push((name, reduce));
    }
    by_source
}

/// Whether a source may start with a function that has a name, and have another one after it.
fn starts_with_helper(source: &str) -> bool {
    let start = source.trim_start();
    let Some((_, after)) = start.split_once("function") else { return false };
    (start.starts_with("function") || start.starts_with('/'))
        && !after.trim_start().starts_with('(')
        && (after.contains("function") || after.contains("=>"))
}

/// The signature of the index with this definition.
fn signature(definition: &Value) -> [u8; 16] {
    let digest = Sha256::digest(definition.to_string());
    let mut signature = [0; 16];
    signature.copy_from_slice(&digest[..16]);
    signature
}

/// JSON text with the members of all objects sorted by name.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, String> =
                members.iter().map(|(name, value)| (name, canonical(value))).collect();
            let members: Vec<String> =
                sorted.iter().map(|(name, value)| format!("{}:{value}", crate::json::quote(name))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_start_with_a_helper_are_signed_apart() {
        for (source, helper) in [
            ("function (doc) { emit(1) }", false),
            ("function(doc) { doc.list.map(function (x) { emit(x) }) }", false),
            ("function map(doc) { emit(1) }", false),
            ("(function (doc) { emit(1) })", false),
            ("var f = function f(x) {}; function (doc) { emit(1) }", false),
            ("doc => emit(1)", false),
            ("_sum", false),
            ("function twice(x) { return 2 * x }\n(function (doc) { emit(twice(doc.n)) })", true),
            (" /* a */ function twice(x) { return 2 * x }\n(doc) => emit(twice(doc.n))", true),
            ("async function a() {} function (doc) { emit(1) }", false),
            ("function need(d) {}\nfunction map(doc) { emit(1) }", true),
        ] {
            assert_eq!(starts_with_helper(source), helper, "{source}");
        }
    }
}
