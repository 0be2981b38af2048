//! Reads `_local` documents.

use std::sync::Arc;

use http::StatusCode;

use crate::app::App;
use crate::blocking::reading;
use crate::db::record::LocalRecord;
use crate::db::{Database, LONGEST_ID};
use crate::error::Error;
use crate::http::request::{Request, etag_of};
use crate::http::response::Answer;
use crate::http::response::error::Result;
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
    // Not the revision alone, which comes back after a deletion, and after a write that names none.
    let etag = etag_of([record.revision.to_string().as_str(), &record.json]);
    if request.has_etag(&etag) {
        return Ok(Answer::not_modified(&etag));
    }
    Ok(Answer::json_text(StatusCode::OK, text(name, &record)).etag(&etag))
}

/// Fails with 400 if the name is empty or too long.
pub fn check_name(name: &str) -> crate::error::Result<()> {
    match name.len() {
        1..=LONGEST_ID => Ok(()),
        _ => Err(Error::BadRequest("Invalid _local document id.".into())),
    }
}
