//! `_local_docs`: lists `_local` documents by id.

use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};

use super::all_docs_params::{PAGE, PAGE_BYTES, Params};
use super::all_docs_rows::update_sequence;
use crate::blocking::blocking;
use crate::db::record::LocalRecord;
use crate::db::{Database, Listing as Walk};
use crate::http::api::document::{body_writer, local};
use crate::http::response::body::Sender;
use crate::http::response::error::Result;
use crate::json::quote;
use crate::store::{Direction, PageLimit};

/// Writes `_local_docs`; without counts, as in CouchDB.
pub(super) async fn locals(
    out: &mut Sender,
    database: &Arc<Database>,
    walk: Option<Walk>,
    params: Params,
) -> Result<()> {
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":null,\"offset\":null{sequence},\"rows\":[\n")).await;
    let walk = walk.and_then(stored_walk);
    let mut left = params.limit.unwrap_or(u64::MAX);
    let mut to_skip = params.skip;
    let mut any = false;
    let mut after: Option<String> = None;
    while let (Some(walk), true) = (&walk, left > 0) {
        out.load(body_writer::UNKNOWN).await;
        let page = {
            let (database, walk, after) = (database.clone(), walk.clone(), after.clone());
            let limit = PageLimit { entries: PAGE, bytes: PAGE_BYTES };
            blocking(move || database.list_local(&walk, after.as_deref(), limit)).await?
        };
        out.loaded(page.iter().map(|(name, record)| (name.len() + 2 * record.json.len()) as u64).sum());
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (name, record) in page {
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            let comma = if std::mem::replace(&mut any, true) { ",\n" } else { "" };
            out.text(format!("{comma}{}", local_row(&name, &record, &params))).await;
        }
    }
    out.write("\n]}").await;
    Ok(())
}

/// The same walk over the ids as they are stored, without `_local/`; `None` if no id can be in it.
fn stored_walk(walk: Walk) -> Option<Walk> {
    let strip = |bound: Bound<String>| match bound {
        // Ids are stored without `_local/`. A bound without this prefix lies before or after all of them.
        Bound::Included(id) if id.starts_with("_local/") => Bound::Included(id["_local/".len()..].to_owned()),
        Bound::Excluded(id) if id.starts_with("_local/") => Bound::Excluded(id["_local/".len()..].to_owned()),
        other => other,
    };
    let outside = |bound: &Bound<String>, above: bool| match bound {
        Bound::Included(id) | Bound::Excluded(id) if !id.starts_with("_local/") => (id.as_str() > "_local/") == above,
        _ => false,
    };
    let (low, high) = match walk.direction {
        Direction::Forward => (&walk.start, &walk.end),
        Direction::Backward => (&walk.end, &walk.start),
    };
    if outside(low, true) || outside(high, false) {
        return None;
    }
    let open = |bound: &Bound<String>| match bound {
        Bound::Included(id) | Bound::Excluded(id) if !id.starts_with("_local/") => Bound::Unbounded,
        other => strip(other.clone()),
    };
    Some(Walk { start: open(&walk.start), end: open(&walk.end), direction: walk.direction })
}

fn local_row(name: &str, record: &LocalRecord, params: &Params) -> String {
    let id = quote(&format!("_local/{name}"));
    let doc = match params.include_docs {
        true => format!(",\"doc\":{}", local::text(name, record)),
        false => String::new(),
    };
    format!("{{\"id\":{id},\"key\":{id},\"value\":{{\"rev\":\"0-{}\"}}{doc}}}", record.revision)
}

pub(super) async fn locals_of(
    out: &mut Sender,
    database: &Arc<Database>,
    keys: &[Value],
    params: &Params,
    any: &mut bool,
) -> Result<()> {
    for key in keys {
        let name = key.as_str().and_then(|id| id.strip_prefix("_local/")).unwrap_or("");
        out.load(if params.include_docs { body_writer::UNKNOWN } else { 0 }).await;
        let record = local::stored(database, name).await;
        out.loaded(record.as_ref().map_or(0, |record| 2 * record.json.len() as u64));
        let comma = if std::mem::replace(any, true) { ",\n" } else { "" };
        match record {
            Ok(record) => out.text(format!("{comma}{}", local_row(name, &record, params))).await,
            Err(crate::error::Error::Missing) => {
                out.write(format!("{comma}{}", json!({"key": key, "error": "not_found"}))).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
