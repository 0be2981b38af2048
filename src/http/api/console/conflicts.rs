//! GET `/{db}/_conflicts` and `/_conflicts`: conflicted documents, from their index.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::{App, conflict_indexes};
use crate::blocking::blocking;
use crate::db::record::SequenceRow;
use crate::db::{ConflictIndex, ConflictQuery, Conflicted, Database, Since};
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::error::Result;
use crate::store::Direction;

/// Maximum number of revisions of one kind that a row lists; `leaves` is the number of all.
const LISTED: usize = 100;
/// The most rows of one answer.
const MOST: u64 = 1000;
/// An index that lacks no more rows than this is completed before the answer.
const AT_ONCE: u64 = 10_000;

/// The `limit` of a request, from 1 to `most`.
pub(super) fn limit(request: &Request, default: u64, most: u64) -> Result<usize> {
    match request.query.natural("limit")? {
        None => Ok(default as usize),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit as usize),
        Some(_) => Err(query_error(format!("`limit` must be from 1 to {most}"))),
    }
}

/// GET `/{db}/_conflicts`.
pub async fn of_database(app: &Arc<App>, request: &Request, db: Arc<Database>) -> Result<Answer> {
    let since = match request.query.get("since").map(|since| db.parse_since(since)).transpose()? {
        None => 0,
        Some(Since::Sequence(sequence)) => sequence,
        Some(Since::Now) => db.info().sequence,
    };
    let kind = if request.query.flag("deleted", false)? { Conflicted::Deletion } else { Conflicted::Edits };
    let direction = if request.query.flag("descending", true)? { Direction::Backward } else { Direction::Forward };
    let after = request.query.natural("bookmark")?;
    let query = ConflictQuery { kind, since, direction, after, limit: limit(request, 100, MOST)? };
    complete(app, &db).await?;
    let (reading, history) = (db.clone(), db.history());
    let (rows, next) = blocking(move || reading.conflicts(query)).await?;
    let rows: Vec<Value> =
        rows.iter().map(|(sequence, row)| row_json(&db.wire_sequence(*sequence, history), row)).collect();
    let mut answer = counts(&db.conflict_index());
    answer["update_seq"] = db.last_sequence().into();
    answer["next"] = next.map(|sequence| sequence.to_string()).into();
    answer["rows"] = rows.into();
    Ok(Answer::ok(&answer))
}

/// Completes the index of a database: now if little is missing, else in the background.
async fn complete(app: &Arc<App>, db: &Arc<Database>) -> Result<()> {
    let (done, goal) = db.conflict_index().progress();
    if done >= goal {
        return Ok(());
    }
    if goal - done <= AT_ONCE {
        return Ok(conflict_indexes::complete(app, db).await?);
    }
    let (app, db) = (app.clone(), db.clone());
    tokio::spawn(async move {
        if let Err(error) = conflict_indexes::complete(&app, &db).await {
            tracing::warn!(database = db.name(), %error, "the index of conflicts could not be completed");
        }
    });
    Ok(())
}

fn counts(index: &ConflictIndex) -> Value {
    let (done, goal) = index.progress();
    json!({
        "total_rows": index.count(Conflicted::Edits),
        "deleted_rows": index.count(Conflicted::Deletion),
        "complete": index.is_complete(),
        "progress": done.saturating_mul(100).checked_div(goal).unwrap_or(100),
    })
}

fn row_json(sequence: &str, row: &SequenceRow) -> Value {
    let others = |deleted: bool| -> Vec<String> {
        let leaves = row.leaves[1..].iter().filter(|leaf| leaf.deleted == deleted);
        leaves.take(LISTED).map(|leaf| leaf.revision.to_string()).collect()
    };
    json!({
        "id": row.id,
        "seq": sequence,
        "winner": row.winner().revision.to_string(),
        "conflicts": others(false),
        "deleted_conflicts": others(true),
        "leaves": row.leaves.len(),
    })
}

/// GET `/_conflicts`: the numbers of conflicted documents of each database.
pub async fn of_all(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let all = request.query.flag("all", false)?;
    let limit = limit(request, MOST, 10_000)?;
    let start = match request.query.json("start_key")? {
        None => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(query_error("`start_key` must be the name of a database")),
    };
    let databases = app.databases.clone();
    let sums = blocking(move || sum(&databases, all, start, limit)).await?;
    Ok(Answer::ok(&sums))
}

/// Reads the counts of all databases, and lists those from `start` on.
fn sum(
    databases: &crate::db::Databases,
    all: bool,
    start: Option<String>,
    limit: usize,
) -> crate::error::Result<Value> {
    let (mut edits, mut deletions, mut complete) = (0, 0, true);
    let (mut rows, mut next, mut last) = (Vec::new(), None, None::<String>);
    loop {
        let names = databases.names(last.as_deref(), None, true, false, usize::from(last.is_some()), 1000)?;
        for (name, index) in databases.conflict_indexes(&names)? {
            let counts = [Conflicted::Edits, Conflicted::Deletion].map(|kind| index.count(kind));
            edits += counts[0];
            deletions += counts[1];
            complete &= index.is_complete();
            let shown = all || counts != [0, 0] || !index.is_complete();
            if !shown || next.is_some() || start.as_ref().is_some_and(|start| name < *start) {
                continue;
            }
            if rows.len() == limit {
                next = Some(name);
                continue;
            }
            rows.push(json!({
                "db": name,
                "conflicts": counts[0],
                "deleted": counts[1],
                "complete": index.is_complete(),
            }));
        }
        match names.into_iter().next_back() {
            Some(name) => last = Some(name),
            None => break,
        }
    }
    Ok(json!({"total": edits, "deleted": deletions, "complete": complete, "next": next, "rows": rows}))
}
