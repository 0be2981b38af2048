//! The filter that a request of the changes feed names: `_doc_ids`, `_design`, `_selector`, `_view`, or a function
//! of a design document.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::App;
use crate::db::Database;
use crate::http::api::design::functions;
use crate::http::request::{Request, Verb, invalid_json};
use crate::http::response::error::{Failure, Result};
use crate::query::changes_filter::Filter;
use crate::query::mango::find::Projection;
use crate::query::mango::selector::Selector;

/// Creates the filter `name` from the parameters of the request (CouchDB:
/// `couch_changes:configure_filter`).
pub async fn configure(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Filter> {
    match name {
        "" => Ok(Filter::All),
        "_doc_ids" => doc_ids(request, body),
        "_design" => Ok(Filter::Design),
        "_selector" => selector(request, body),
        "_view" => {
            let view = request.query.get("view").unwrap_or("");
            if view.is_empty() {
                return Err(Failure::bad_request("`view` filter parameter is not provided."));
            }
            let Some((design, view)) = pair(view) else {
                return Err(Failure::bad_request("`view` must be of the form `designname/viewname`"));
            };
            functions::view_filter(app, database, design, view).await.map(Filter::Script)
        }
        _ if name.starts_with('_') => Err(Failure::bad_request("unknown builtin filter name")),
        _ => {
            let Some((design, function)) = pair(name) else {
                return Err(Failure::bad_request("`filter` must be of the form `designname/filtername`"));
            };
            functions::filter(app, request, database, design, function).await.map(Filter::Script)
        }
    }
}

/// The design document and the function in a name of the form `design/function`.
fn pair(name: &str) -> Option<(&str, &str)> {
    let (design, function) = name.split_once('/')?;
    (!design.is_empty() && !function.is_empty() && !function.contains('/')).then_some((design, function))
}

fn doc_ids(request: &Request, body: &Map<String, Value>) -> Result<Filter> {
    let ids = if request.verb == Verb::Post {
        texts(body.get("doc_ids"))
    } else {
        let value: Value =
            serde_json::from_str(request.query.get("doc_ids").unwrap_or("null")).map_err(|_| invalid_json())?;
        texts(Some(&value))
    };
    match ids {
        Some(ids) => Ok(Filter::DocIds(Arc::new(ids.into_iter().collect()))),
        None => Err(Failure::bad_request("`doc_ids` filter parameter is not a list of doc ids.")),
    }
}

fn selector(request: &Request, body: &Map<String, Value>) -> Result<Filter> {
    if request.verb != Verb::Post {
        return Err(Failure::bad_request("Selector must be specified in POST payload"));
    }
    match body.get("selector") {
        Some(selector @ Value::Object(_)) => match Selector::parse(selector) {
            Ok(selector) => Ok(Filter::Selector(Arc::new(selector))),
            Err(error) => Err(Failure::bad_request(error.to_string())),
        },
        _ => Err(Failure::bad_request("Selector error: expected a JSON object")),
    }
}

/// The `fields` beside a selector: what the feed shows of each document (CouchDB: `couch_changes:check_fields`).
pub fn fields(filter: &Filter, body: &Map<String, Value>) -> Result<Option<Projection>> {
    match body.get("fields").filter(|_| matches!(filter, Filter::Selector(_))) {
        None => Ok(None),
        Some(fields @ Value::Array(_)) => {
            Projection::parse(fields).map_err(|error| Failure::bad_request(error.to_string()))
        }
        Some(_) => Err(Failure::bad_request("Selector error: fields must be JSON array")),
    }
}

/// A JSON value that is a list of texts.
pub(crate) fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}
