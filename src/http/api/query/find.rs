//! Mango over HTTP: `_find`, `_explain`, `_index` (CouchDB's `mango_httpd`).

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::view::task;
use crate::app::App;
use crate::blocking::{PARSED_FREELY, blocking, parsing};
use crate::db::{Database, Within};
use crate::error::Error;
use crate::http::api::document::body_writer;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result, wire};
use crate::policy::confirmed::Confirmed;
use crate::query::mango::find::{self, Search};
use crate::query::mango::planner::{self, Index, NewIndex};
use crate::query::mango::request::FindRequest;

/// `POST _find`, in a partition or not.
pub async fn find(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    partition: Option<String>,
) -> Result<Answer> {
    request.must_be_json()?;
    let asked = read(request, partition.as_deref()).await?;
    let mut search =
        Search::start(database.clone(), asked, &app.views, |definition| task(app, &database, definition)).await?;
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        let (mut first, mut room) = (true, PARSED_FREELY);
        loop {
            out.load(body_writer::cost(room)).await;
            let (back, page) = parsing(room, move || {
                let page = search.step(room)?;
                Ok((search, page))
            })
            .await?;
            search = back;
            let documents = match page {
                Within::Large(bytes) => {
                    room = bytes;
                    continue;
                }
                Within::Fits(None) => break,
                Within::Fits(Some(documents)) => documents,
            };
            room = PARSED_FREELY;
            out.loaded(documents.iter().map(|document| document.len() as u64).sum());
            for document in documents {
                out.write(if first { "{\"docs\":[\r\n" } else { ",\r\n" }).await;
                out.text(document).await;
                first = false;
            }
        }
        out.write(if first { "{\"docs\":[\r\n]" } else { "\r\n]" }).await;
        for (name, value) in search.finish() {
            out.write(&format!(",\r\n\"{name}\": {value}")).await;
        }
        out.write("}\r\n").await;
        Ok(())
    })
    .await
}

/// `POST _explain`, in a partition or not.
pub async fn explain(request: &mut Request, database: Arc<Database>, partition: Option<String>) -> Result<Answer> {
    request.must_be_json()?;
    let asked = read(request, partition.as_deref()).await?;
    let explained = blocking(move || {
        planner::explain(database.name(), &find::indexes(&database)?, database.is_partitioned(), &asked)
    })
    .await?;
    Ok(Answer::ok(&explained))
}

/// The request in a body; a partition may stand in the path or in the query.
async fn read(request: &mut Request, partition: Option<&str>) -> Result<FindRequest> {
    let body = request.json().await?;
    let partition = partition.or_else(|| request.query.get("partition"));
    Ok(FindRequest::parse(&body, partition)?)
}

/// `GET _index`.
pub async fn list_indexes(request: &Request, database: Arc<Database>) -> Result<Answer> {
    let number = |name: &str| match request.query.get(name) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| wrong_range()),
    };
    let (limit, skip): (Option<i64>, Option<i64>) = (number("limit")?, number("skip")?);
    if limit.is_some_and(|limit| limit < 1) || skip.is_some_and(|skip| skip < 0) {
        return Err(wrong_range());
    }
    let indexes = blocking(move || find::indexes(&database)).await?;
    let all: Vec<Value> = std::iter::once(&Index::all_docs()).chain(&indexes).map(Index::to_json).collect();
    let total = all.len();
    let count = |number: Option<i64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let shown: Vec<Value> =
        all.into_iter().skip(count(skip).unwrap_or(0)).take(count(limit).unwrap_or(usize::MAX)).collect();
    Ok(Answer::ok(&json!({"total_rows": total, "indexes": shown})))
}

/// CouchDB answers 500, though the request is wrong.
fn wrong_range() -> Failure {
    let reason = "Index parameter ranges: limit > 1, skip > 0".into();
    Error::Mango { word: "invalid_list_index_params", reason }.into()
}

/// `POST _index`.
pub async fn create_index(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let new = NewIndex::parse(&request.json().await?)?;
    let (id, name) = (new.design.clone(), new.name.clone());
    let scripts = app.validate(&request.user);
    let validate = Confirmed::new(request.by(), &*scripts);
    let created = find::create_index(&database, new, &validate).await?;
    let result = if created { "created" } else { "exists" };
    Ok(Answer::ok(&json!({"result": result, "id": id, "name": name})))
}

/// `POST _index/_bulk_delete`.
pub async fn delete_indexes(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let ids = planner::bulk_delete_ids(&request.json().await?)?;
    let scripts = app.validate(&request.user);
    let validate = Confirmed::new(request.by(), &*scripts);
    let (mut success, mut fail) = (Vec::new(), Vec::new());
    // CouchDB lists both with the last one first.
    for (id, result) in find::bulk_delete(&database, &ids, &validate).await?.into_iter().rev() {
        match result {
            Ok(()) => success.push(json!({"id": id, "ok": true})),
            Err(error) => {
                let failure = error.into();
                let (_, word, _) = wire(&failure);
                fail.push(json!({"id": id, "error": word}));
            }
        }
    }
    Ok(Answer::ok(&json!({"success": success, "fail": fail})))
}

/// `DELETE _index/{design document}/{type}/{name}`.
pub async fn delete_index(
    app: &Arc<App>,
    request: &Request,
    database: Arc<Database>,
    design: &str,
    kind: &str,
    name: &str,
) -> Result<Answer> {
    let scripts = app.validate(&request.user);
    let validate = Confirmed::new(request.by(), &*scripts);
    find::delete_index(&database, design, kind, name, &validate).await?;
    Ok(Answer::json_text(StatusCode::OK, r#"{"ok":true}"#))
}
