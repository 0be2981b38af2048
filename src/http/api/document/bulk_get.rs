//! `_bulk_get`: reads many documents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::bulk_entries::{Answers, Asked, Entry, Pages, asked};
use super::{body_writer, get};
use crate::app::App;
use crate::db::Database;
use crate::db::read::render::{self, Attachments, Show};
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result, wire};
use crate::policy::visibility::Eyes;

/// An entry whose document the reader does not see is answered without a look at it.
fn unseen(eyes: &Eyes, asked: Asked) -> Asked {
    let Asked::For { id, .. } = &asked else { return asked };
    let Err(error) = eyes.check(id) else { return asked };
    let failure = Failure::Domain(error);
    let (_, word, reason) = wire(&failure);
    let (word, reason) = (word.into_owned(), reason.into_owned());
    Asked::Wrong { id: id.as_str().into(), rev: "undefined".into(), word: word.into(), reason }
}

/// `POST /{db}/_bulk_get`.
pub async fn bulk_get(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    app.metrics.bulk_requests.fetch_add(1, Ordering::Relaxed);
    request.must_be_json()?;
    let body = request.json_object().await?;
    let Some(docs) = body.get("docs") else { return Err(Failure::bad_request("Missing JSON list of 'docs'.")) };
    let Some(docs) = docs.as_array() else { return Err(Failure::bad_request("Missing JSON list of 'docs'.")) };
    for name in ["open_revs", "new_edits", "w", "rev", "atts_since"] {
        if request.query.get(name).is_some() {
            return Err(Failure::bad_request(format!("\"{name}\" query parameter is not acceptable")));
        }
    }
    let query = get::DocQuery::parse(&request.query)?;
    let latest = query.latest;
    let eyes = Eyes::of(app, &request.user, &database)?;
    request.syncing.iter().for_each(|syncing| syncing.reads(docs.len() as u64));
    let asked = docs.iter().map(|entry| unseen(&eyes, asked(entry, database.is_partitioned()))).collect::<Vec<Asked>>();
    // Unlike `open_revs`, answers JSON to every client that accepts JSON, also by `*/*` (`bulk_get_is_multipart`).
    let kinds = match crate::http::request::accepts(&request.headers, "application/json") {
        true => None,
        false => crate::http::request::wanted(request, &["multipart/mixed", "multipart/related"]),
    };
    match kinds {
        None => {
            let show = query.show;
            Answer::stream(&request.line, "application/json", move |mut out| async move {
                let mut pages = Pages { database: database.clone(), eyes, latest, asked: asked.into() };
                let mut first = true;
                while let Some(page) = pages.next(&mut out).await? {
                    for (entry, answers) in page {
                        out.write(if first { "{\"results\":[" } else { "," }).await;
                        first = false;
                        write_result(&mut out, &mut pages, &show, entry, answers).await?;
                    }
                }
                out.write(if first { "{\"results\":[]}\n" } else { "]}\n" }).await;
                Ok(())
            })
            .await
        }
        Some(kind) => {
            let pages = Pages { database: database.clone(), eyes, latest, asked: asked.into() };
            super::multipart_out::bulk_get(request, database, kind, query.show, pages).await
        }
    }
}

async fn write_result(
    out: &mut Sender,
    pages: &mut Pages,
    show: &Show,
    mut entry: Entry,
    mut answers: Answers,
) -> Result<()> {
    out.write(format!("{{\"id\":{},\"docs\":[", entry.id)).await;
    if let Some(wrong) = &entry.wrong {
        out.write(json!({ "error": wrong }).to_string()).await;
    }
    let mut show = show.clone();
    if let Some(since) = entry.since.take() {
        show.attachments = Attachments::InlineSince(since);
    }
    let mut comma = "";
    while !answers.is_empty() {
        for answer in answers {
            out.write(comma).await;
            comma = ",";
            match answer {
                Ok(found) => {
                    out.write("{\"ok\":").await;
                    body_writer::write(out, pages.database.blobs(), render::document(&found, &show)).await?;
                    out.write("}").await;
                }
                Err(error) => out.write(json!({ "error": error }).to_string()).await,
            }
        }
        answers = pages.rest(&mut entry, out).await?;
    }
    out.write("]}").await;
    Ok(())
}
