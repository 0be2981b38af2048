//! POST `/{db}/_try`: compiles a function and calls it once, so that a design document can be tried before it is saved.
//! Nothing is written. The function runs in a worker process of the database, under the limits of every function.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::db::Database;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::query::view::{Outcome, try_built_in};

/// The body. `sandbox.js` takes the same members.
#[derive(Deserialize, Serialize)]
struct Asked<'a> {
    /// `map`, `reduce`, `filter`, `validate`; others can only be compiled.
    kind: String,
    source: String,
    /// Only compiles the function.
    #[serde(default)]
    compile: bool,
    /// The design document, for `require`.
    #[serde(borrow)]
    design: Option<&'a RawValue>,
    #[serde(borrow)]
    doc: Option<&'a RawValue>,
    #[serde(borrow)]
    old_doc: Option<&'a RawValue>,
    /// The `userCtx` that a validation function gets. If missing: that of the request's user.
    #[serde(borrow, rename(deserialize = "user_ctx", serialize = "user"))]
    user: Option<&'a RawValue>,
    /// The request object of a filter.
    #[serde(borrow)]
    req: Option<&'a RawValue>,
    /// Of a reduce function: `[[key, id], ...]`.
    #[serde(borrow)]
    keys: Option<&'a RawValue>,
    #[serde(borrow)]
    values: Option<&'a RawValue>,
    #[serde(default)]
    rereduce: bool,
    #[serde(borrow, skip_deserializing)]
    security: Option<&'a RawValue>,
}

pub async fn run(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let text = request.json_text().await?;
    let mut asked: Asked = serde_json::from_str(&text)
        .map_err(|error| Failure::bad_request(format!("the body is not as _try takes it: {error}")))?;
    check(&asked)?;
    if asked.kind == "reduce" && asked.source.trim_start().starts_with('_') {
        return Ok(Answer::ok(&built_in(app, &database, &asked)?));
    }
    let raw = |text: String| RawValue::from_string(text).ok();
    let user = raw(request.user.to_script_json(database.name()).to_string());
    let security = raw(database.security().to_string());
    let request_object = raw(r#"{"query":{}}"#.into());
    asked.user = asked.user.or(user.as_deref());
    asked.req = asked.req.or(request_object.as_deref());
    asked.security = security.as_deref();
    let input = serde_json::to_string(&asked).map_err(|error| Error::Internal(error.to_string()))?;
    match app.scripts.try_function(database.number(), input).await {
        Ok(answer) => Ok(Answer::json_text(http::StatusCode::OK, answer.get())),
        // No worker became free.
        Err(error @ Error::Script { .. }) if is_timeout(&error) => Err(error.into()),
        Err(Error::Script { word, reason }) => Ok(Answer::ok(&failed(&word, &reason))),
        Err(error) => Err(error.into()),
    }
}

fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Script { word, .. } if word == "timeout")
}

fn failed(word: &str, message: &str) -> serde_json::Value {
    json!({"ok": false, "error": word, "message": message, "logs": []})
}

/// Refuses a body that lacks what its kind of function is called with.
fn check(asked: &Asked<'_>) -> Result<()> {
    let is_object = |value: Option<&RawValue>| value.is_some_and(|value| value.get().starts_with('{'));
    let is_list = |value: Option<&RawValue>| value.is_some_and(|value| value.get().starts_with('['));
    if asked.design.is_some() && !is_object(asked.design) {
        return Err(Failure::bad_request("design is not an object"));
    }
    match asked.kind.as_str() {
        "map" | "reduce" | "filter" | "validate" | "update" | "show" | "list" | "rewrite" if asked.compile => Ok(()),
        "map" | "filter" | "validate" if !is_object(asked.doc) => Err(Failure::bad_request("doc is not an object")),
        "map" | "filter" | "validate" => Ok(()),
        "reduce" if is_list(asked.values) => Ok(()),
        "reduce" => Err(Failure::bad_request("values is not a list")),
        _ => Err(Failure::bad_request("kind is map, reduce, filter or validate; others can only be compiled")),
    }
}

/// A reduce function that the server has built in.
fn built_in(app: &App, database: &Database, asked: &Asked<'_>) -> Result<serde_json::Value> {
    let list = |value: Option<&'_ RawValue>| value.map_or("[]", |value| value.get()).to_owned();
    let (keys, values) = (list(asked.keys), list(asked.values));
    let wrong = |_| Failure::bad_request("keys is not a list of [key, id], or values is not a list");
    let keys: Vec<(&RawValue, Option<String>)> = match asked.keys {
        Some(keys) if keys.get() == "null" => Vec::new(),
        _ => serde_json::from_str(&keys).map_err(wrong)?,
    };
    let values: Vec<&RawValue> = serde_json::from_str(&values).map_err(wrong)?;
    let rows: Vec<(String, String, String)> = values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let (key, id) = keys.get(index).map_or(("null", ""), |(key, id)| (key.get(), id.as_deref().unwrap_or("")));
            (id.to_owned(), key.to_owned(), value.get().to_owned())
        })
        .collect();
    Ok(match try_built_in(&app.scripts, database.number(), asked.source.trim(), &rows) {
        Ok(_) if asked.compile => json!({"ok": true, "logs": []}),
        Ok(Outcome::Value(value)) => {
            let value: Box<RawValue> =
                RawValue::from_string(value).map_err(|error| Error::Internal(error.to_string()))?;
            json!({"ok": true, "value": value, "logs": []})
        }
        Ok(Outcome::Overflow(reason)) => failed("reduce_overflow_error", &reason),
        Err(Error::Script { word, reason }) => failed(&word, &reason),
        Err(error) => return Err(error.into()),
    })
}
