//! `_purge`, `_purged_infos` and `_auto_purge`: removes documents as if they had never existed.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::blocking::blocking;
use crate::db::{Database, check_document_id};
use crate::http::api::document::revision::parse_revision;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::users_database;
use crate::rev::Revision;

/// `GET /{db}/_auto_purge`.
pub async fn auto_purge(database: Arc<Database>) -> Result<Answer> {
    let text = blocking(move || database.auto_purge()).await?;
    Ok(Answer::json_text(StatusCode::OK, text))
}

/// `PUT /{db}/_auto_purge`.
pub async fn set_auto_purge(request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let properties = request.json_object().await?;
    crate::db::check_auto_purge(&properties)?;
    database.put_auto_purge(Value::from(properties).to_string()).await?;
    Ok(Answer::json_text(StatusCode::CREATED, r#"{"ok":true}"#))
}

/// `GET /{db}/_purged_infos`.
pub async fn purged_infos(database: Arc<Database>) -> Result<Answer> {
    let limit = database.info().purged_infos_limit as usize;
    let purges = blocking(move || {
        let after = database.info().purge_sequence.saturating_sub(limit as u64);
        let mut all: Vec<(u64, crate::db::record::PurgeRecord)> = Vec::new();
        loop {
            let from = all.last().map_or(after, |(sequence, _)| *sequence);
            let page = database.purges(from, 1000)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    })
    .await?;
    let rows: Vec<Value> = purges
        .into_iter()
        .map(|(_, purge)| {
            let revisions: Vec<String> = purge.revisions.iter().map(Revision::to_string).collect();
            json!({"id": purge.id, "revs": revisions})
        })
        .collect();
    Ok(Answer::ok(&json!({ "purged_infos": rows })))
}

/// `POST /{db}/_purge`.
pub async fn purge(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let mut wanted = Vec::with_capacity(body.len());
    let mut named = 0;
    for (id, revisions) in body {
        let revisions = revisions.as_array().ok_or_else(|| Failure::bad_request("Invalid rev format"))?;
        let revisions: Vec<Revision> = revisions
            .iter()
            .map(|revision| parse_revision(revision.as_str().unwrap_or("")))
            .collect::<crate::error::Result<_>>()?;
        if database.is_partitioned() {
            check_document_id(&id, true)?;
        }
        named += revisions.len();
        wanted.push((id, revisions));
    }
    let most = |key, default: usize| {
        request.settings.get("purge", key).map_or(default, |said| said.parse().unwrap_or(usize::MAX))
    };
    if wanted.len() > most("max_document_id_number", usize::MAX) {
        return Err(Failure::bad_request("Exceeded maximum number of documents."));
    }
    if named > most("max_revisions_number", usize::MAX) {
        return Err(Failure::bad_request("Exceeded maximum number of revisions."));
    }
    let purged = database.purge(wanted).await?;
    users_database::purged(app, &database, &purged).await;
    let rows: serde_json::Map<String, Value> = purged
        .into_iter()
        .map(|(id, revisions)| (id, revisions.iter().map(Revision::to_string).collect::<Vec<_>>().into()))
        .collect();
    Ok(Answer::json(StatusCode::CREATED, &json!({"purge_seq": null, "purged": rows})))
}
