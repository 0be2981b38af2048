//! `_local` documents.

use std::sync::Arc;

use http::StatusCode;

use super::incoming;
use super::write::written;
use crate::app::App;
use crate::blocking::reading;
use crate::db::parse::Split;
use crate::db::record::LocalRecord;
use crate::db::{Database, LONGEST_ID, LocalWrite};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::policy::users_database;
use crate::rev::{Revision, RevisionHash};

/// The `N` of a revision `0-N`; `None` for any other revision.
pub fn number_of(revision: &Revision) -> Option<u64> {
    match &revision.hash {
        RevisionHash::Text(text) if revision.generation == 0 => text.parse().ok(),
        _ => None,
    }
}

/// Reads a `_local` document; `name` is its id without `_local/`.
pub async fn read(app: &App, request: &Request, database: &Arc<Database>, name: &str) -> Result<LocalRecord> {
    // 404 instead of 403: a replicator that may not read its checkpoint then continues without one.
    users_database::check_local(app, &request.user, database).map_err(|_| Error::Missing)?;
    Ok(stored(database, name).await?)
}

/// As [`read`], without an access check.
pub async fn stored(database: &Arc<Database>, name: &str) -> crate::error::Result<LocalRecord> {
    let (database, name) = (database.clone(), name.to_owned());
    reading(move || database.local(&name)).await
}

/// A `_local` document as JSON.
pub fn text(name: &str, record: &LocalRecord) -> String {
    let members = &record.json[1..record.json.len() - 1];
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{\"_id\":{},\"_rev\":\"0-{}\"{comma}{members}}}", quote(&format!("_local/{name}")), record.revision)
}

/// `GET /{db}/_local/{name}`.
pub async fn get(app: &App, request: &Request, database: Arc<Database>, name: &str) -> Result<Answer> {
    let record = read(app, request, &database, name).await?;
    let etag = format!("0-{}", record.revision);
    if request.has_etag(&etag) {
        return Ok(Answer::not_modified(&etag));
    }
    Ok(Answer::json_text(StatusCode::OK, text(name, &record)).etag(&etag))
}

/// `PUT /{db}/_local/{name}`.
pub async fn put(app: &Arc<App>, request: &mut Request, database: &Arc<Database>, name: &str) -> Result<Answer> {
    let text = request.json_text().await?;
    let split = crate::db::parse::split(text.as_bytes(), &incoming::limits(request))?;
    store(app, request, database, name, split).await
}

/// Stores a parsed document under a `_local` name. Drops inline attachments silently, as CouchDB does.
pub async fn store(
    app: &Arc<App>,
    request: &Request,
    database: &Arc<Database>,
    name: &str,
    split: Split,
) -> Result<Answer> {
    if split.deleted {
        return delete(app, request, database, name).await;
    }
    let number = write(app, request, database, name, split.body, split.rev.as_ref()).await?;
    Ok(written(request, StatusCode::CREATED, database, &format!("_local/{name}"), &format!("0-{number}")))
}

/// Fails with 400 if the name is empty or too long.
pub fn check_name(name: &str) -> crate::error::Result<()> {
    match name.len() {
        1..=LONGEST_ID => Ok(()),
        _ => Err(Error::BadRequest("Invalid _local document id.".into())),
    }
}

/// Writes a `_local` document, and notes the checkpoint if it is one. Returns the `N` of its revision.
pub async fn write(
    app: &App,
    request: &Request,
    database: &Arc<Database>,
    name: &str,
    json: String,
    rev: Option<&Revision>,
) -> Result<u64> {
    users_database::check_local(app, &request.user, database)?;
    check_name(name)?;
    let previous = match rev {
        None => None,
        Some(rev) => Some(number_of(rev).ok_or_else(|| Failure::bad_request("Invalid rev format"))?),
    };
    let sequence = crate::http::api::session::devices::sequence_of(&json);
    let number = database.write_local(name, LocalWrite::Put { json, previous }).await?;
    if let Some(sequence) = sequence {
        crate::http::api::session::devices::checkpoint(app, request, database.name(), sequence).await;
    }
    Ok(number)
}

/// `DELETE /{db}/_local/{name}`.
pub async fn delete(app: &App, request: &Request, database: &Arc<Database>, name: &str) -> Result<Answer> {
    users_database::check_local(app, &request.user, database)?;
    stored(database, name).await?;
    database.write_local(name, LocalWrite::Delete).await?;
    Ok(written(request, StatusCode::OK, database, &format!("_local/{name}"), "0-0"))
}
