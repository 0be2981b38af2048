//! Writes one decoded document: policy, writer, answer.

use std::sync::Arc;

use http::{StatusCode, header};

use super::incoming::{Change, Decoded, Reply};
use super::local;
use crate::app::App;
use crate::db::{Database, Incoming, LocalWrite, Mode};
use crate::error::Error;
use crate::http::api::session::devices;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::policy::authorization::By;
use crate::policy::{document_write, users_database};
use crate::rev::Revision;

/// Writes what a request has decoded to, and answers with the revision.
pub async fn write(app: &Arc<App>, by: By<'_>, database: &Arc<Database>, decoded: Decoded) -> Result<Answer> {
    let Decoded { id, change, reply } = decoded;
    let number = match change {
        Change::Document(edit, mode) => {
            let revision = commit(app, by, database, edit, mode).await;
            return if reply.batch { accepted(&id, revision) } else { Ok(written(reply, &id, &revision?.to_string())) };
        }
        Change::Local { name, json, rev, checkpoint } => {
            users_database::check_local(app, by.user, database)?;
            let number = put_local(database, &name, json, rev.as_ref()).await?;
            if let Some(checkpoint) = checkpoint {
                devices::record(app, checkpoint).await;
            }
            number
        }
        Change::DeleteLocal { name } => {
            users_database::check_local(app, by.user, database)?;
            local::stored(database, &name).await?;
            database.write_local(&name, LocalWrite::Delete).await?;
            0
        }
    };
    Ok(written(reply, &id, &format!("0-{number}")))
}

/// Writes one edit and returns its revision.
pub async fn commit(
    app: &Arc<App>,
    by: By<'_>,
    database: &Arc<Database>,
    edit: Incoming,
    mode: Mode,
) -> Result<Revision> {
    let mut results = document_write::update(app, by, database, vec![edit], mode).await?;
    Ok(results.pop().unwrap_or(Err(Error::Conflict))?)
}

/// Writes a `_local` document and returns the `N` of its revision.
async fn put_local(database: &Arc<Database>, name: &str, json: String, rev: Option<&Revision>) -> Result<u64> {
    local::check_name(name)?;
    let previous = match rev {
        None => None,
        Some(rev) => Some(local::number_of(rev).ok_or_else(|| Failure::bad_request("Invalid rev format"))?),
    };
    Ok(database.write_local(name, LocalWrite::Put { json, previous }).await?)
}

/// The answer to `batch=ok`: 202 without a revision, also for a conflict, as in CouchDB, where the client does
/// not wait for the write. settee has written the edit before it responds.
fn accepted(id: &str, revision: Result<Revision>) -> Result<Answer> {
    match revision {
        Ok(_) | Err(Failure::Domain(Error::Conflict)) => {
            Ok(Answer::json_text(StatusCode::ACCEPTED, format!("{{\"ok\":true,\"id\":{}}}", quote(id))))
        }
        Err(failure) => Err(failure),
    }
}

/// `{"ok":true,"id":...,"rev":...}` with the revision as `ETag`.
fn written(reply: Reply, id: &str, rev: &str) -> Answer {
    let text = format!("{{\"ok\":true,\"id\":{},\"rev\":{}}}", quote(id), quote(rev));
    let answer = Answer::json_text(reply.status, text).etag(rev);
    match reply.location {
        Some(location) => answer.with_text(header::LOCATION, &location),
        None => answer,
    }
}
