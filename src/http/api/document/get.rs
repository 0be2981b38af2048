//! Reads documents: `GET /{db}/{id}` with all its parameters.

use std::sync::Arc;

use http::StatusCode;

use super::open_revs::{Leaves, missing};
use super::revision::parse_revision;
use super::{body_writer, multipart_out};
use crate::app::App;
use crate::app::answer_budget::Held;
use crate::blocking::{blocking, reading};
use crate::db::read::render::{self, Attachments, Show};
use crate::db::{Database, Found, InMemory, Wanted, Within, check_has_partition};
use crate::error::Error;
use crate::http::request::{Query, Request, invalid_json};
use crate::http::response::Answer;
use crate::http::response::error::Result;
use crate::policy::visibility::Eyes;
use crate::rev::Revision;

/// The parameters of a document read (CouchDB: `chttpd_db:parse_doc_query`).
#[derive(Debug, Clone, Default)]
pub struct DocQuery {
    pub rev: Option<Revision>,
    /// `None` also for an empty list, which CouchDB takes as if it were not there.
    pub open_revs: Option<OpenRevs>,
    pub latest: bool,
    pub show: Show,
}

/// The value of `open_revs`.
#[derive(Debug, Clone)]
pub enum OpenRevs {
    All,
    These(Vec<Revision>),
}

impl DocQuery {
    /// Parses the query string. Ignores unknown parameters.
    pub fn parse(query: &Query) -> Result<DocQuery> {
        let mut parsed = DocQuery::default();
        let show = &mut parsed.show;
        for (name, value) in query.iter() {
            let yes = value == "true";
            match name {
                "attachments" if yes && show.attachments == Attachments::Stubs => {
                    show.attachments = Attachments::Inline;
                }
                "meta" if yes => {
                    (show.revs_info, show.conflicts, show.deleted_conflicts) = (true, true, true);
                }
                "revs" if yes => show.revs = true,
                "local_seq" if yes => show.local_seq = true,
                "revs_info" if yes => show.revs_info = true,
                "conflicts" if yes => show.conflicts = true,
                "deleted_conflicts" if yes => show.deleted_conflicts = true,
                "att_encoding_info" if yes => show.encoding_info = true,
                "latest" if yes => parsed.latest = true,
                "rev" => parsed.rev = Some(parse_revision(value)?),
                "open_revs" if value == "all" => parsed.open_revs = Some(OpenRevs::All),
                "open_revs" => {
                    let these = revisions(value)?;
                    parsed.open_revs = (!these.is_empty()).then_some(OpenRevs::These(these));
                }
                "atts_since" => show.attachments = Attachments::InlineSince(revisions(value)?),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The revision to read without `open_revs`.
    pub fn wanted(&self) -> Wanted<'_> {
        match &self.rev {
            Some(revision) if self.latest => Wanted::Latest(revision),
            Some(revision) => Wanted::Revision(revision),
            None => Wanted::Winner,
        }
    }
}

fn revisions(text: &str) -> Result<Vec<Revision>> {
    let list: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| invalid_json())?;
    list.iter().map(|revision| Ok(parse_revision(revision.as_str().unwrap_or(""))?)).collect()
}

/// `GET /{db}/{id}` of an ordinary document.
pub async fn get(app: &Arc<App>, request: &mut Request, database: Arc<Database>, id: String) -> Result<Answer> {
    let eyes = Eyes::of(app, &request.user, &database)?;
    eyes.check(&id)?;
    check_has_partition(&id, database.is_partitioned())?;
    let query = DocQuery::parse(&request.query)?;
    request.syncing.iter().for_each(|syncing| syncing.reads(1));
    match &query.open_revs {
        Some(OpenRevs::All) => Box::pin(open_revisions(request, database, id, None, query, eyes)).await,
        Some(OpenRevs::These(these)) => {
            let these = these.clone();
            Box::pin(open_revisions(request, database, id, Some(these), query, eyes)).await
        }
        None => one(request, database, id, query, eyes).await,
    }
}

async fn one(
    request: &mut Request,
    database: Arc<Database>,
    id: String,
    query: DocQuery,
    eyes: Eyes,
) -> Result<Answer> {
    let (found, held) = load(request, &database, id, &query).await?;
    let found = eyes.see(found)?;
    let show = query.show;
    // A document of which this user sees only the public part has no ETag: the same browser may hold the whole of it for
    // another user.
    let tagged = is_determined_by_revision(&found, &show) && eyes.check_own(&found.id).is_ok();
    let etag = found.revision.to_string();
    if tagged && request.has_etag(&etag) {
        return Ok(Answer::not_modified(&etag));
    }
    let answer = if show.attachments == Attachments::Stubs {
        match body_writer::text(render::document(&found, &show)) {
            Some(text) => {
                drop(found);
                Answer::json_text(StatusCode::OK, text).holding(held)
            }
            None => return Err(Error::Internal("a document without inline attachments is one text".into()).into()),
        }
    } else if crate::http::request::wanted(request, &["multipart/related"]).is_some() {
        Box::pin(multipart_out::document(request, database, found, held, show)).await?
    } else {
        Box::pin(Answer::stream(&request.line, "application/json", move |mut out| async move {
            out.holds(held);
            body_writer::write(&mut out, database.blobs(), render::document(&found, &show)).await?;
            out.write("\n").await;
            Ok(())
        }))
        .await?
    };
    Ok(if tagged { answer.etag(&etag) } else { answer })
}

/// Whether the revision determines the response, and so is its ETag. `revs_info` and `local_seq` show what changes
/// without the revision, and so do the two lists of conflicts, unless they are empty and left out.
fn is_determined_by_revision(found: &Found, show: &Show) -> bool {
    let other_leaf = |deleted: bool| {
        found.tree.leaves().into_iter().any(|leaf| leaf.deleted == deleted && leaf.revision != found.revision)
    };
    let shows_conflicts = show.conflicts && other_leaf(false) || show.deleted_conflicts && other_leaf(true);
    !(show.revs_info || show.local_seq || shows_conflicts)
}

/// Documents up to this size in bytes, with their attachments, are loaded without a memory reservation.
const SMALL: u64 = 64 << 10;

/// Loads the requested document, and returns it with its memory reservation, unless it is small.
pub(crate) async fn load(
    request: &Request,
    database: &Arc<Database>,
    id: String,
    query: &DocQuery,
) -> Result<(Found, Option<Arc<Held>>)> {
    let (mut most, mut held) = (SMALL, None::<Arc<Held>>);
    loop {
        // A large document is decoded on another thread.
        let found = if database.is_shared() && held.is_none() {
            Box::pin(database.find_within_as_task(&id, query.wanted(), most)).await?
        } else {
            match database.find_in_memory(&id, query.wanted(), most)? {
                InMemory::All(found) => found,
                InMemory::NotAll(known) => {
                    let (database, query, id) = (database.clone(), query.clone(), id.clone());
                    reading(move || database.find_from(&id, known, query.wanted(), most)).await?
                }
            }
        };
        match found {
            Within::Fits(found) => {
                if let Some(held) = &held {
                    held.shrink(body_writer::cost_of([&found]));
                }
                return Ok((found, held));
            }
            Within::Large(bytes) => {
                // If the document has grown since the last attempt, release that reservation first.
                drop(held.take());
                held = Some(Arc::new(request.line.take(body_writer::cost(bytes)).await?));
                most = bytes;
            }
        }
    }
}

async fn open_revisions(
    request: &mut Request,
    database: Arc<Database>,
    id: String,
    these: Option<Vec<Revision>>,
    query: DocQuery,
    eyes: Eyes,
) -> Result<Answer> {
    let latest = query.latest;
    let all = these.is_none();
    let opened = {
        let database = database.clone();
        blocking(move || database.open_revisions(&id, these.as_deref(), latest)).await?
    };
    let mut leaves = Leaves { database, eyes, opened, wanted: all };
    if crate::http::request::wanted(request, &["multipart/mixed"]).is_some() {
        return multipart_out::open_revisions(request, leaves, query.show).await;
    }
    let show = query.show;
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        let mut comma = "";
        // Loaded before the first byte is written, so that a failure becomes a proper error response.
        let mut next = leaves.next(&mut out).await?;
        out.write("[").await;
        while let Some(group) = next {
            for answer in group {
                out.write(comma).await;
                comma = ",";
                match answer {
                    Ok(found) => {
                        out.write("{\"ok\":").await;
                        body_writer::write(&mut out, leaves.database.blobs(), render::document(&found, &show)).await?;
                        out.write("}").await;
                    }
                    Err(revision) => out.write(missing(&revision)).await,
                }
            }
            next = leaves.next(&mut out).await?;
        }
        out.write("]\n").await;
        Ok(())
    })
    .await
}
