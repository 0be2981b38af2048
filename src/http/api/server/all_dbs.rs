//! `GET /_all_dbs` and `_dbs_info`: lists databases, with or without their counters.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::App;
use crate::blocking::blocking;
use crate::db::Databases;
use crate::http::api::database::database::info;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// `GET /_all_dbs`.
pub async fn all_dbs(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let names = names(app, request).await?;
    Ok(Answer::ok(&names))
}

async fn names(app: &Arc<App>, request: &Request) -> Result<Vec<String>> {
    let query = &request.query;
    let key = |one: &str, other: &str| -> Result<Option<String>> {
        let value = match query.json(one)? {
            Some(value) => Some(value),
            None => query.json(other)?,
        };
        Ok(value.and_then(|value| value.as_str().map(str::to_owned)))
    };
    let (mut start, mut end) = (key("startkey", "start_key")?, key("endkey", "end_key")?);
    if let Some(only) = key("key", "key")? {
        (start, end) = (Some(only.clone()), Some(only));
    }
    let descending = query.flag("descending", false)?;
    let inclusive_end = query.flag("inclusive_end", true)?;
    let skip = query.natural("skip")?.unwrap_or(0) as usize;
    let limit = query.natural("limit")?.map_or(usize::MAX, |limit| limit as usize);
    let databases: Arc<Databases> = app.databases.clone();
    Ok(blocking(move || databases.names(start.as_deref(), end.as_deref(), inclusive_end, descending, skip, limit))
        .await?)
}

/// `GET /_dbs_info`.
pub async fn dbs_info(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let names = names(app, request).await?;
    infos(app, request, names, false).await
}

/// `POST /_dbs_info`.
pub async fn dbs_info_of(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let Some(keys) = body.get("keys") else {
        return Err(Failure::bad_request("`keys` member must exist."));
    };
    let Some(keys) = keys.as_array() else {
        return Err(Failure::bad_request("`keys` member must be an array."));
    };
    if keys.len() > request.settings.max_dbs_info {
        return Err(Failure::bad_request("too_many_keys"));
    }
    let names: Option<Vec<String>> = keys.iter().map(|key| key.as_str().map(str::to_owned)).collect();
    let names = names.ok_or_else(|| Failure::bad_request("`keys` must be an array of strings."))?;
    let with_time = body.get("last_write") == Some(&Value::Bool(true));
    infos(app, request, names, with_time).await
}

/// `with_time`: with the time of the last write (docs/console-api.md), which CouchDB does not have.
async fn infos(app: &Arc<App>, request: &Request, names: Vec<String>, with_time: bool) -> Result<Answer> {
    let databases = app.databases.clone();
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        out.write("[").await;
        let mut first = true;
        for names in names.chunks(100) {
            let (databases, names) = (databases.clone(), names.to_vec());
            let rows = blocking(move || {
                Ok(names
                    .into_iter()
                    .map(|name| match databases.get(&name) {
                        Ok(database) if with_time => {
                            let time = databases.last_write(&name);
                            json!({"key": name, "info": info(&database), "last_write": time})
                        }
                        Ok(database) => json!({"key": name, "info": info(&database)}),
                        Err(_) => json!({"key": name, "error": "not_found"}),
                    })
                    .collect::<Vec<Value>>())
            })
            .await?;
            for row in rows {
                out.write(if first { "" } else { "," }).await;
                first = false;
                out.write(row.to_string()).await;
            }
        }
        out.write("]\n").await;
        Ok(())
    })
    .await
}
