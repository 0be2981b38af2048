//! `_scheduler`: the jobs of the replication scheduler, and the replications of `_replicator` databases
//! (`couch_replicator_httpd.erl`).

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::app::App;
use crate::app::user_store::members;
use crate::blocking::{blocking, reading};
use crate::db::read::render::Show;
use crate::db::{Database, Found, Listing, Wanted};
use crate::error::Error;
use crate::http::api::database::database;
use crate::http::api::document::include_docs::Docs;
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::replicate::documents::{State, ended, holds_replications};
use crate::store::{Direction, PageLimit};

/// Jobs in an answer, if the request does not say.
const JOBS: u64 = 100;
/// Documents that are read at once.
const PAGE: usize = 100;

/// `GET /_scheduler/jobs`.
pub fn jobs(app: &App, request: &Request) -> Result<Answer> {
    let (limit, skip) = (number(request, "limit", JOBS)?, number(request, "skip", 0)?);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let (total, jobs) = app.replications.scheduler.list(size(skip), size(limit));
    Ok(Answer::ok(&serde_json::json!({
        "total_rows": total,
        "offset": skip.min(total as u64),
        "jobs": jobs,
    })))
}

/// A whole number of the query (`couch_replicator_httpd_util:parse_int_param`).
fn number(request: &Request, name: &str, default: u64) -> Result<u64> {
    let Some(text) = request.query.get(name) else { return Ok(default) };
    let number: i128 = text.parse().map_err(|_| query_error(format!("{name} must be an integer")))?;
    u64::try_from(number).map_err(|_| query_error(format!("{name} not in range of [0,infinity]")))
}

/// `GET /_scheduler/jobs/{id}`. A `+` of the id may have been decoded to a space.
pub fn job(app: &App, id: &str) -> Result<Answer> {
    let shown = app.replications.scheduler.show(id);
    let shown = shown.or_else(|| app.replications.scheduler.show(&id.replace(' ', "+")));
    shown.map(|job| Answer::ok(&job)).ok_or_else(Failure::missing)
}

/// `GET /_scheduler/docs/{db}/{id}`.
pub async fn doc(app: &Arc<App>, name: String, id: String) -> Result<Answer> {
    if let Some(shown) = app.replications.documents.show(&name, &id) {
        return Ok(Answer::ok(&shown));
    }
    let database = replications(app, &name).await?;
    let found = reading(move || database.find(&id, Wanted::Winner)).await?;
    let shown = describe(app, &name, &found)?.map(|(_, shown)| shown);
    Ok(Answer::ok(&shown.unwrap_or_else(|| waiting(&name, &found.id))))
}

/// A document that has not been looked at yet.
fn waiting(database: &str, id: &str) -> Value {
    serde_json::json!({
        "database": database, "doc_id": id, "id": null, "source": null, "target": null, "state": null, "error_count": 0,
        "info": null, "start_time": null, "last_updated": null,
    })
}

async fn replications(app: &Arc<App>, name: &str) -> Result<Arc<Database>> {
    if !holds_replications(name) {
        return Err(Failure::bad_request("Invalid path"));
    }
    database::open(app, name, Instant::now()).await
}

/// The state of a document's replication, and what `_scheduler/docs` shows of it.
fn describe(app: &App, database: &str, found: &Found) -> Result<Option<(State, Value)>> {
    let members = members(&found.id, &found.body.json)?;
    if let Some(ended) = ended(database, &found.id, &members) {
        return Ok(Some(ended));
    }
    let Some(shown) = app.replications.documents.show(database, &found.id) else { return Ok(None) };
    let state = shown.get("state").and_then(Value::as_str).and_then(State::parse);
    Ok(state.map(|state| (state, shown)))
}

/// What a client wants to see of the documents.
struct Wish {
    states: Vec<State>,
    skip: u64,
    limit: u64,
    direction: Direction,
}

/// `GET /_scheduler/docs[/{db}]`.
pub async fn docs(app: &Arc<App>, request: &Request, name: String) -> Result<Answer> {
    let wish = Wish {
        states: states(request.query.get("states"))?,
        skip: request.query.natural("skip")?.unwrap_or(0),
        limit: request.query.natural("limit")?.unwrap_or(u64::MAX),
        direction: match request.query.flag("descending", false)? {
            true => Direction::Backward,
            false => Direction::Forward,
        },
    };
    let database = replications(app, &name).await?;
    let app = app.clone();
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        write_docs(&app, &mut out, &database, wish).await
    })
    .await
}

/// `states=a,b`; none: all.
fn states(text: Option<&str>) -> Result<Vec<State>> {
    let all = || State::ALL.map(State::word).join(",");
    let words = text.unwrap_or_default().split(',').filter(|word| !word.is_empty());
    let mut states = Vec::new();
    for word in words {
        let state = State::parse(&word.to_lowercase());
        states.push(state.ok_or_else(|| query_error(format!("Unknown states [{word}]. Choose from: [{}]", all())))?);
    }
    Ok(states)
}

async fn write_docs(app: &Arc<App>, out: &mut Sender, database: &Arc<Database>, wish: Wish) -> Result<()> {
    let total = database.info().documents;
    out.write(format!("{{\"total_rows\":{total},\"offset\":{},\"docs\":[\n", wish.skip.min(total))).await;
    let (mut left, mut to_skip, mut any) = (wish.limit, wish.skip, false);
    let mut after: Option<String> = None;
    while left > 0 {
        let (of, from, listing) = (database.clone(), after.clone(), Listing::all(wish.direction));
        let (rows, last) = blocking(move || of.list(&listing, from.as_deref(), PageLimit::entries(PAGE))).await?;
        let rows: Vec<_> = rows.into_iter().filter(|row| !row.id.starts_with("_design/")).collect();
        let count = rows.len();
        let mut docs = Docs::of(database, &Show::default(), rows.into_iter().map(|row| (row.id, row.winner)));
        for _ in 0..count {
            let Some(found) = docs.next(out).await? else { continue };
            let described = match describe(app, database.name(), &found) {
                Err(Failure::Domain(Error::Damaged(_))) | Ok(None) => continue,
                Ok(Some(described)) => described,
                Err(failure) => return Err(failure),
            };
            if !(wish.states.is_empty() || wish.states.contains(&described.0)) {
                continue;
            }
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            let comma = if std::mem::replace(&mut any, true) { ",\n" } else { "" };
            out.write(format!("{comma}{}", described.1)).await;
            left -= 1;
            if left == 0 {
                break;
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    out.write("\n]}\n").await;
    Ok(())
}
