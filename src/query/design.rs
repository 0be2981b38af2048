//! Design documents: loads the functions of a database's design documents and validates design documents when
//! they are written.
//!
//! The results are cached with the open database ([`Database::keep_designs`]) and dropped when a design
//! document is written.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::mango::selector::Selector;
use super::script::{Design, Scripts};
use crate::db::read::render;
use crate::db::{Database, Listing, Wanted};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit};

/// Design documents cached per open database; if there are more, the cache is cleared.
const KEPT: usize = 128;

/// The cached design documents of a database.
#[derive(Default)]
struct Designs {
    by_id: Mutex<HashMap<String, Arc<Design>>>,
    validators: OnceLock<Arc<Validators>>,
}

/// The validation functions that every edit of a database's documents has to pass.
#[derive(Default)]
pub struct Validators {
    /// Design documents with a `validate_doc_update` function, ordered by id.
    pub scripts: Arc<Vec<Arc<Design>>>,
    /// `validate_doc_update` of design documents with the language `query`: a selector that `{"newDoc":...,
    /// "oldDoc":...}` must match (CouchDB: `mango_native_proc.erl`). One that is not a selector rejects every
    /// edit.
    pub selectors: Vec<Result<Selector>>,
}

impl Validators {
    /// Whether the database has no validation functions.
    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty() && self.selectors.is_empty()
    }
}

fn kept(database: &Database) -> Arc<Designs> {
    // Read the generation before any document: results of an older state are then not cached.
    let generation = database.design_generation();
    if let Some(designs) = database.kept_designs().and_then(|kept| kept.downcast::<Designs>().ok()) {
        return designs;
    }
    let designs = Arc::new(Designs::default());
    database.keep_designs(generation, designs.clone());
    designs
}

/// Loads the design document with the id `_design/...`. Blocks on the store.
///
/// # Errors
/// `Missing` or `Deleted` if there is no such document.
pub fn load(database: &Database, id: &str) -> Result<Arc<Design>> {
    let designs = kept(database);
    if let Some(design) = designs.by_id.lock().get(id) {
        return Ok(design.clone());
    }
    let design = read(database, id)?;
    let mut by_id = designs.by_id.lock();
    if by_id.len() >= KEPT {
        by_id.clear();
    }
    by_id.insert(id.to_owned(), design.clone());
    Ok(design)
}

/// Loads the design document `name`, and checks that it has the function at `path`: a section and a member of
/// it. Blocks on the store.
///
/// # Errors
/// As [`load`], and `NotFound` if the section or the function is missing.
pub fn with_function(database: &Database, name: &str, path: [&str; 2]) -> Result<Arc<Design>> {
    let design = load(database, &format!("_design/{name}"))?;
    let section = crate::json::member(&design.source, path[0]);
    match section.map(|section| crate::json::member(section, path[1])) {
        Some(Some(_)) => Ok(design),
        Some(None) => Err(Error::NotFound(format!("missing json key: {}", path[1]))),
        None => Err(Error::NotFound(format!("missing json key: {}", path[0]))),
    }
}

fn read(database: &Database, id: &str) -> Result<Arc<Design>> {
    let found = database.find(id, Wanted::Winner)?;
    let source = render::plain(&found.id, &found.revision, found.deleted, &found.body);
    Ok(Arc::new(Design::new(database.number(), found.id, found.revision.to_string(), source)?))
}

/// The validation functions of the database. Blocks on the store.
pub fn validators(database: &Database) -> Result<Arc<Validators>> {
    let designs = kept(database);
    if let Some(validators) = designs.validators.get() {
        return Ok(validators.clone());
    }
    let listing = Listing::all(Direction::Forward).within("_design/");
    let (mut scripts, mut selectors) = (Vec::new(), Vec::new());
    let mut after = None;
    loop {
        let (rows, last) = database.list(&listing, after.as_deref(), PageLimit::entries(200))?;
        for row in rows {
            let design = match read(database, &row.id) {
                // Deleted since it was listed.
                Err(Error::Missing | Error::Deleted) => continue,
                design => design?,
            };
            match validator(&design.source) {
                Some(selector) if design.language() == "query" => selectors.push(Selector::parse(&selector)),
                // A value that is not a function fails to compile and therefore rejects every edit.
                Some(_) => scripts.push(design),
                None => {}
            }
        }
        after = match last {
            Some(last) => Some(last),
            None => break,
        };
    }
    Ok(designs.validators.get_or_init(|| Arc::new(Validators { scripts: Arc::new(scripts), selectors })).clone())
}

/// The validation functions, if they are cached.
pub(super) fn known_validators(database: &Database) -> Option<Arc<Validators>> {
    kept(database).validators.get().cloned()
}

fn validator(source: &str) -> Option<Value> {
    #[derive(serde::Deserialize)]
    struct Members {
        validate_doc_update: Option<Value>,
    }
    serde_json::from_str::<Members>(source).ok()?.validate_doc_update
}

/// Validates a design document before it is stored in the database of this number: the types of its fields, and that its
/// view functions compile (CouchDB: `couch_mrview:validate`).
///
/// # Errors
/// `Script` with the word `invalid_design_doc` or `compilation_error`.
pub async fn check(scripts: &Scripts, database: u64, source: &str, partitioned: bool) -> Result<()> {
    let Ok(Value::Object(design)) = serde_json::from_str(source) else {
        return Err(invalid("Document must be a JSON object".into()));
    };
    check_fields(&design)?;
    let options = design.get("options").and_then(|options| options.get("partitioned"));
    if options == Some(&Value::Bool(true)) && !partitioned {
        return Err(invalid("partitioned option cannot be true in a non-partitioned database.".into()));
    }
    if !matches!(design.get("language").and_then(Value::as_str), None | Some("javascript")) {
        return Ok(());
    }
    let (mut names, mut functions) = (Vec::new(), Vec::new());
    for (name, view) in views(&design) {
        if let Some(map) = view.get("map").and_then(Value::as_str) {
            names.push(("map", name));
            functions.push(("map", map.to_owned()));
        }
        match view.get("reduce").and_then(Value::as_str) {
            Some(reduce) if reduce.starts_with('_') => check_builtin(reduce)?,
            Some(reduce) => {
                names.push(("reduce", name));
                functions.push(("reduce", reduce.to_owned()));
            }
            None => {}
        }
    }
    if functions.is_empty() {
        return Ok(());
    }
    let reasons = scripts.compile(database, functions).await?;
    match names.into_iter().zip(reasons).find_map(|(name, reason)| Some((name, reason?))) {
        None => Ok(()),
        Some((_, reason)) if reason == "missing function" => Err(Error::NotFound(reason)),
        Some(((kind, name), reason)) => Err(Error::Script {
            word: "compilation_error".into(),
            reason: format!("Compilation of the {kind} function in the '{name}' view failed: {reason}"),
        }),
    }
}

fn invalid(reason: String) -> Error {
    Error::Script { word: "invalid_design_doc".into(), reason }
}

fn views(design: &Map<String, Value>) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let views = design.get("views").and_then(Value::as_object);
    views
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "lib")
        .filter_map(|(name, view)| Some((name, view.as_object()?)))
}

/// Validates the name of a built-in reduce function. Like CouchDB, accepts any name that starts with a known
/// one.
fn check_builtin(name: &str) -> Result<()> {
    if let Some(rank) = name.strip_prefix("_top_").or_else(|| name.strip_prefix("_bottom_")) {
        return match rank.parse::<i64>() {
            Ok(1..=100) => Ok(()),
            Ok(_) => Err(invalid("rank value must be between 1 and 100".into())),
            Err(_) => Err(invalid("invalid rank reducer".into())),
        };
    }
    let known = ["_sum", "_count", "_stats", "_approx_count_distinct", "_first", "_last"];
    if known.iter().any(|known| name.starts_with(known)) {
        return Ok(());
    }
    Err(invalid(format!("`{name}` is not a supported reduce function.")))
}

/// A JSON type that a field may have.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Object,
    Text,
    Array,
    Boolean,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Kind::Object => value.is_object(),
            Kind::Text => value.is_string(),
            Kind::Array => value.is_array(),
            Kind::Boolean => value.is_boolean(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Text => "string",
            Kind::Array => "array",
            Kind::Boolean => "boolean",
        }
    }
}

/// A path into the document: each step has a name (`*` for any) and the allowed types.
type Path = &'static [(&'static str, &'static [Kind])];

fn check_fields(design: &Map<String, Value>) -> Result<()> {
    use Kind::{Array, Boolean, Object, Text};
    const FUNCTIONS: &[Kind] = &[Object, Text];
    const PATHS: &[Path] = &[
        &[("filters", &[Object]), ("*", FUNCTIONS)],
        &[("language", &[Text])],
        &[("lists", &[Object]), ("*", FUNCTIONS)],
        &[("options", &[Object])],
        &[("options", &[Object]), ("include_design", &[Boolean])],
        &[("options", &[Object]), ("local_seq", &[Boolean])],
        &[("options", &[Object]), ("partitioned", &[Boolean])],
        &[("rewrites", &[Text, Array])],
        &[("shows", &[Object]), ("*", FUNCTIONS)],
        &[("updates", &[Object]), ("*", FUNCTIONS)],
        &[("validate_doc_update", &[Text, Object])],
        &[("views", &[Object]), ("lib", &[Object])],
    ];
    const MANGO_MAP: Path = &[("views", &[Object]), ("*", &[Object]), ("map", &[Object])];
    const SCRIPT_MAP: Path = &[("views", &[Object]), ("*", &[Object]), ("map", &[Text])];
    const REDUCE: Path = &[("views", &[Object]), ("*", &[Object]), ("reduce", &[Text])];
    for path in PATHS {
        check_path(design, path, "")?;
    }
    let mango = design.get("language").and_then(Value::as_str) == Some("query");
    check_path(design, if mango { MANGO_MAP } else { SCRIPT_MAP }, "")?;
    check_path(design, REDUCE, "")?;
    match views(design).find(|(_, view)| !view.contains_key("map")) {
        None => Ok(()),
        Some((name, _)) => Err(invalid(format!("View `{name}` must contain map function"))),
    }
}

fn check_path(at: &Map<String, Value>, path: Path, above: &str) -> Result<()> {
    let [(step, kinds), rest @ ..] = path else { return Ok(()) };
    for (name, value) in at.iter().filter(|(name, _)| *step == "*" || name == step) {
        let here = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        if !kinds.iter().any(|kind| kind.fits(value)) {
            // CouchDB lists the alternatives from last to first.
            let kinds: Vec<&str> = kinds.iter().rev().map(|kind| kind.name()).collect();
            return Err(invalid(format!("`{here}` field must have {} type", kinds.join(" or "))));
        }
        if let Value::Object(inner) = value {
            check_path(inner, rest, &here)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::script::Limits;

    #[tokio::test]
    async fn invalid_design_documents_are_rejected() {
        let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
        let told = async |design: Value| match check(&scripts, 1, &design.to_string(), false).await {
            Ok(()) => String::new(),
            Err(Error::Script { word, reason }) => format!("{word}: {reason}"),
            Err(other) => format!("{other:?}"),
        };
        use serde_json::json;
        let map = "function (doc) { emit(doc._id); }";
        for (design, expected) in [
            (json!({}), ""),
            (json!({"language": "erlang", "views": {"v": {"map": "fun() -> ok end."}}}), ""),
            (json!({"language": "query", "views": {"v": {"map": {"fields": {}}}}}), ""),
            (json!({"views": {"lib": {"a": "x", "b": {}}, "v": {"map": map, "reduce": "_stats"}}}), ""),
            (json!({"views": {"v": {"map": map, "reduce": "_top_5"}}, "rewrites": [], "shows": {"a": {"b": "c"}}}), ""),
            (json!({"views": []}), "invalid_design_doc: `views` field must have object type"),
            (json!({"views": {"v": {"map": 1}}}), "invalid_design_doc: `views.v.map` field must have string type"),
            (json!({"views": {"v": {}}}), "invalid_design_doc: View `v` must contain map function"),
            (json!({"filters": {"f": 1}}), "invalid_design_doc: `filters.f` field must have string or object type"),
            (json!({"rewrites": {}}), "invalid_design_doc: `rewrites` field must have array or string type"),
            (json!({"language": 1}), "invalid_design_doc: `language` field must have string type"),
            (
                json!({"views": {"v": {"map": map, "reduce": "_nothing"}}}),
                "invalid_design_doc: `_nothing` is not a supported reduce function.",
            ),
            (
                json!({"views": {"v": {"map": map, "reduce": "_top_101"}}}),
                "invalid_design_doc: rank value must be between 1 and 100",
            ),
            (
                json!({"options": {"partitioned": true}}),
                "invalid_design_doc: partitioned option cannot be true in a non-partitioned database.",
            ),
        ] {
            assert_eq!(told(design.clone()).await, expected, "{design}");
        }
        let broken = told(json!({"views": {"a": {"map": map}, "b": {"map": map, "reduce": "function ("}}})).await;
        let start = "compilation_error: Compilation of the reduce function in the 'b' view failed: SyntaxError: ";
        assert!(broken.starts_with(start), "{broken}");
    }
}
