//! `_revs_diff` and `_missing_revs`: which revisions the database does not have.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::revision::parse_revision;
use crate::app::App;
use crate::blocking::blocking;
use crate::db::{Database, MissingRevisions};
use crate::http::request::{Request, lone_surrogates};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// The body of `_revs_diff` and `_missing_revs`: `{id: [rev, ...], ...}`; and whether ids have marks for halves of
/// surrogate pairs.
async fn wanted_revisions(request: &mut Request) -> Result<(Vec<(String, Vec<Revision>)>, bool)> {
    request.must_be_json()?;
    let (body, marked) = request.marked_json_object().await?;
    let mut wanted = Vec::with_capacity(body.len());
    for (id, revisions) in body {
        let revisions = revisions.as_array().ok_or_else(|| Failure::bad_request("Invalid rev format"))?;
        let parsed = revisions
            .iter()
            .map(|revision| parse_revision(revision.as_str().unwrap_or("")))
            .collect::<crate::error::Result<Vec<_>>>()?;
        wanted.push((id, parsed));
    }
    Ok((wanted, marked))
}

fn texts(revisions: &[Revision]) -> Vec<String> {
    revisions.iter().map(Revision::to_string).collect()
}

/// What is missing of the revisions that a request names: all of them, of a document that the reader does not see.
async fn missing_of(
    app: &App,
    request: &mut Request,
    database: Arc<Database>,
) -> Result<(Vec<MissingRevisions>, bool)> {
    let (wanted, marked) = wanted_revisions(request).await?;
    let eyes = Eyes::of(app, &request.user, &database)?;
    let (seen, unseen): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(id, _)| eyes.check_own(id).is_ok());
    let mut missing = blocking(move || database.revisions_missing(&seen)).await?;
    missing.extend(unseen.into_iter().filter(|(_, revs)| !revs.is_empty()).map(|(id, revs)| (id, revs, Vec::new())));
    Ok((missing, marked))
}

/// The answer with the halves of surrogate pairs in the place of their marks.
fn respond(answer: &Value, marked: bool) -> Answer {
    match marked {
        true => Answer::json_text(StatusCode::OK, lone_surrogates::unmark(&answer.to_string())),
        false => Answer::ok(answer),
    }
}

/// `POST /{db}/_revs_diff`.
pub async fn revs_diff(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let (missing, marked) = missing_of(app, request, database).await?;
    let mut answer = serde_json::Map::new();
    for (id, missing, ancestors) in missing {
        let mut row = json!({"missing": texts(&missing)});
        if !ancestors.is_empty() {
            row["possible_ancestors"] = texts(&ancestors).into();
        }
        answer.insert(id, row);
    }
    Ok(respond(&answer.into(), marked))
}

/// `POST /{db}/_missing_revs`.
pub async fn missing_revs(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let (missing, marked) = missing_of(app, request, database).await?;
    let rows: serde_json::Map<String, Value> =
        missing.into_iter().map(|(id, missing, _)| (id, texts(&missing).into())).collect();
    Ok(respond(&json!({ "missing_revs": rows }), marked))
}
