//! Writes of single documents: `PUT`, `POST`, `DELETE`, `COPY`.

use std::sync::Arc;

use super::incoming::{self, Copied};
use super::local;
use super::refusal;
use super::write::write;
use crate::app::App;
use crate::blocking::blocking;
use crate::db::{Database, check_document_id};
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result, wire};
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// The number of times `COPY` reads its source before it reports missing attachments as damage.
const COPY_ATTEMPTS: usize = 3;

/// `PUT /{db}/{id}`.
pub async fn put(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    let syncing = request.syncing.clone().filter(|_| !id.starts_with("_local/")).map(|syncing| (syncing, id.clone()));
    let answer = match incoming::put(request, &database, id.clone()).await {
        Ok(decoded) => {
            let mode = decoded.mode();
            write(app, request.by(), &database, decoded).await.map_err(|failure| match failure {
                Failure::Domain(error) => refusal::of_one(request, database.name(), &id, error, mode).into(),
                other => other,
            })
        }
        Err(failure) => Err(failure),
    };
    if let Some((syncing, id)) = syncing {
        let bytes = request.header(http::header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0);
        let refused: Vec<_> = answer.as_ref().err().map(|failure| refused_row(&id, failure)).into_iter().collect();
        syncing.pushed(1, bytes, &refused);
    }
    answer
}

/// Id, error and reason of a document that was not written.
fn refused_row(id: &str, failure: &Failure) -> [String; 3] {
    let (_, word, reason) = wire(failure);
    [id.to_owned(), word.into_owned(), reason.into_owned()]
}

/// `POST /{db}`.
pub async fn post(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let decoded = incoming::post(app, request, &database).await?;
    write(app, request.by(), &database, decoded).await
}

/// `DELETE /{db}/{id}`.
pub async fn delete(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    if id.starts_with("_local/") {
        return write(app, request.by(), &database, incoming::delete(request, id)?).await;
    }
    let eyes = Eyes::of(app, &request.user, &database)?;
    eyes.check_own(&id)?;
    let decoded = incoming::delete(request, id)?;
    // A missing document is 404, not 409.
    eyes.see(super::open_revs::find(&database, &decoded.id, None).await?)?;
    write(app, request.by(), &database, decoded).await
}

/// `COPY /{db}/{id}` with `Destination: id[?rev=...]`.
pub async fn copy(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    let mut copy = incoming::copy(request, &database)?;
    let copied = match id.strip_prefix("_local/") {
        Some(name) => {
            let json = local::read(app, request, &database, name).await?.json;
            Copied { json, deleted: false, attachments: Vec::new() }
        }
        None => {
            let rev = copy.source_rev.take();
            copied(app, request, &database, (&id, rev), &copy.target).await?
        }
    };
    let decoded = copy.of(copied, &database)?;
    write(app, request.by(), &database, decoded).await
}

/// Reads the body of a revision to be copied, and pins its attachments. If the content of one is gone, the
/// revision was compacted or purged after it was read, so it is read again.
async fn copied(
    app: &App,
    request: &Request,
    database: &Arc<Database>,
    (id, rev): (&str, Option<Revision>),
    target: &str,
) -> Result<Copied> {
    let eyes = Eyes::of(app, &request.user, database)?;
    eyes.check(id)?;
    for _ in 0..COPY_ATTEMPTS {
        let found = eyes.see(super::open_revs::find(database, id, rev.clone()).await?)?;
        let (body, deleted) = (found.body, found.deleted);
        if body.attachments.is_empty() || target.starts_with("_local/") {
            return Ok(Copied { json: body.json, deleted, attachments: Vec::new() });
        }
        check_document_id(target, database.is_partitioned())?;
        let (of, attachments) = (database.clone(), body.attachments);
        if let Some(sources) = blocking(move || of.pin_attachments(&attachments)).await? {
            return Ok(Copied { json: body.json, deleted, attachments: sources });
        }
    }
    Err(Error::Damaged(format!("the content of an attachment of {id}")).into())
}

/// `POST /{db}/{id}`: the form that old browsers send.
pub async fn form(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    incoming::check_form(request, &database, &id)?;
    Eyes::of(app, &request.user, &database)?.check_own(&id)?;
    let decoded = incoming::form(request, &database, id).await?;
    write(app, request.by(), &database, decoded).await
}
