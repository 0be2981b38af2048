//! Endpoints of the server as a whole (`chttpd_misc.erl`).

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::app::App;
use crate::blocking::blocking;
use crate::http::api::console::files::root_page;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::store::StoreError;

/// The version of CouchDB whose API the server implements. Clients compare it.
pub const COUCHDB_VERSION: &str = "3.5.0";

/// GET `/`: the JSON `Welcome`, or the console for browsers.
pub fn welcome(app: &App, request: &Request) -> Result<Answer> {
    if wants_page(request) {
        return root_page(request);
    }
    let vendor: serde_json::Map<String, Value> = request
        .settings
        .table()
        .get("vendor")
        .map(|own| own.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect())
        .unwrap_or_else(|| {
            [("name", "settee"), ("version", env!("CARGO_PKG_VERSION"))]
                .map(|(key, value)| (key.to_owned(), value.into()))
                .into_iter()
                .collect()
        });
    Ok(Answer::ok(&json!({
        "couchdb": "Welcome",
        "version": COUCHDB_VERSION,
        "git_sha": "settee",
        "uuid": app.uuid(),
        "features": ["partitioned", "pluggable-storage-engines"],
        "vendor": vendor,
    })))
}

/// Whether the client is a browser: browsers accept `text/html`, other clients accept JSON or `*/*`.
fn wants_page(request: &Request) -> bool {
    let accept = request.header(header::ACCEPT).unwrap_or("");
    accept.contains("text/html") && !accept.contains("application/json")
}

/// GET `/favicon.ico`.
pub fn favicon() -> Result<Answer> {
    Ok(Answer::bytes(StatusCode::OK, include_str!("favicon.svg"))
        .with(header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml"))
        .with(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"))
        .with(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000")))
}

/// GET `/_up`. As in CouchDB, 404 means that the server runs but should not receive requests now. A failed
/// store is reported as 404 too, with a `status` that CouchDB does not have.
pub async fn up(app: &App, request: &Request) -> Result<Answer> {
    match request.settings.get("couchdb", "maintenance_mode") {
        Some("true") => return Ok(Answer::json(StatusCode::NOT_FOUND, &json!({"status": "maintenance_mode"}))),
        Some("nolb") => return Ok(Answer::json(StatusCode::NOT_FOUND, &json!({"status": "nolb"}))),
        _ => {}
    }
    let store = app.store.clone();
    match blocking(move || Ok(store.ready())).await? {
        // With a full disk the server still serves reads, and a restart would not free any space.
        Ok(()) | Err(StoreError::Full) => Ok(Answer::ok(&json!({"status": "ok", "seeds": {}}))),
        // The database server is away, which no restart of this server changes: 503, as for every other request.
        Err(error @ StoreError::Down(_)) => Err(crate::error::Error::from(error).into()),
        Err(error) => {
            tracing::warn!("/_up: {error}");
            let reason = "The store has failed and could not be reopened yet. The server's log has the cause.";
            Ok(Answer::json(StatusCode::NOT_FOUND, &json!({"status": "store_unavailable", "reason": reason})))
        }
    }
}

/// GET `/_uuids?count=`.
pub fn uuids(app: &App, request: &Request) -> Result<Answer> {
    let most = request.settings.uuids.max_count;
    let wrong = || Failure::bad_request("count must be a positive integer");
    let count = match request.query.get("count") {
        None => 1,
        Some(text) => {
            let digits = text.strip_prefix('+').unwrap_or(text);
            if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                match digits.parse::<usize>() {
                    Ok(count) if count <= most => count,
                    _ => return Err(Failure::bad_request("count parameter too large")),
                }
            } else {
                return Err(wrong());
            }
        }
    };
    let made: Vec<String> = (0..count).map(|_| app.uuids.make(&request.settings.uuids)).collect();
    let tag = made.last().cloned().unwrap_or_default().to_ascii_uppercase();
    Ok(Answer::ok(&json!({"uuids": made}))
        .with(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
        .with(header::EXPIRES, HeaderValue::from_static("Mon, 01 Jan 1990 00:00:00 GMT"))
        .with(header::PRAGMA, HeaderValue::from_static("no-cache"))
        .etag(&tag))
}

/// GET `/_active_tasks`: the running background tasks, and the replications that run or wait for changes, of all nodes.
pub fn active_tasks(app: &App) -> Result<Answer> {
    let mut tasks = app.own_tasks();
    tasks.extend(app.nodes.tasks_of_others());
    Ok(Answer::ok(&tasks))
}

/// GET `/_membership`.
pub fn membership(app: &App) -> Result<Answer> {
    let (all, cluster) = app.nodes.names();
    Ok(Answer::ok(&json!({"all_nodes": all, "cluster_nodes": cluster})))
}

/// POST `/_reload_query_servers`. Does nothing: there are no query servers, and worker processes begin and end by themselves.
pub fn reload_query_servers(request: &Request) -> Result<Answer> {
    request.must_be_json()?;
    Ok(Answer::ok(&json!({"ok": true})))
}
