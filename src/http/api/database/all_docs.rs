//! `_all_docs`, `_design_docs` and `_local_docs`: list documents by id.

use std::collections::VecDeque;
use std::sync::Arc;

use super::all_docs_by_key::by_keys;
use super::all_docs_params::Params;
use super::all_docs_rows::{counted, update_sequence, write_doc};
use super::local_docs::locals;
use crate::blocking::blocking;
use crate::db::record::LeafRow;
use crate::db::{Database, Listed, Listing as Walk};
use crate::http::api::document::include_docs::Docs;
use crate::http::api::query::view::MOST_QUERIES;
use crate::http::request::listing_path::DocumentList;
use crate::http::request::{Request, Verb, query_error};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::store::Direction;

/// Maximum number of ids counted to determine the `offset` of the first row; beyond that it is `null`.
const MOST_RANKED: usize = 2000;

/// `GET` and `POST` of `_all_docs` and its likes; with `partition`, only the ids in that partition.
pub async fn all_docs(
    request: &mut Request,
    database: Arc<Database>,
    list: DocumentList,
    partition: Option<String>,
) -> Result<Answer> {
    let mut params = Params::default();
    if request.verb == Verb::Post {
        request.must_be_json()?;
        let body = request.json_object().await?;
        if body.get("keys").is_some_and(|keys| !keys.is_array()) {
            return Err(Failure::bad_request("`keys` body member must be an array."));
        }
        params.read_body(&body)?;
    }
    params.read_query(&request.query)?;
    params.check()?;
    if let Some(partition) = &partition {
        super::partition::check_partition(&database, partition)?;
    }
    check_named_partition(&database, &params)?;
    let partition = partition.or_else(|| params.partition.clone());
    if let Some(partition) = &partition {
        if request.query.get("partition").is_some_and(|other| other != partition) {
            return Err(Failure::bad_request("Conflicting value for `partition` in query string"));
        }
        let most = request.settings.get("query_server_config", "partition_query_limit");
        if let Some(most) = most.and_then(|most| most.parse().ok()) {
            if params.limit.is_some_and(|limit| limit > most) {
                return Err(query_error(format!("Limit is too large, must not exceed {most}")));
            }
            params.limit.get_or_insert(most);
        }
    }
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        one(&mut out, &database, list, partition.as_deref(), params).await?;
        out.write("\n").await;
        Ok(())
    })
    .await
}

/// `POST` of `_all_docs/queries` and its likes.
pub async fn queries(request: &mut Request, database: Arc<Database>, list: DocumentList) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let Some(queries) = body.get("queries") else {
        return Err(Failure::bad_request("POST body must include `queries` parameter."));
    };
    let Some(queries) = queries.as_array() else {
        return Err(Failure::bad_request("`queries` member must be an array."));
    };
    if queries.len() > MOST_QUERIES {
        return Err(Failure::bad_request(format!("More than {MOST_QUERIES} queries at once.")));
    }
    let mut all = Vec::with_capacity(queries.len());
    for query in queries {
        let query = query.as_object().ok_or_else(|| Failure::bad_request("A query must be a JSON object."))?;
        let mut params = Params::default();
        params.read_body(query)?;
        params.read_query(&request.query)?;
        params.check()?;
        check_named_partition(&database, &params)?;
        all.push(params);
    }
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        out.write("{\"results\":[\n").await;
        for (at, params) in all.into_iter().enumerate() {
            if at > 0 {
                out.write(",\n").await;
            }
            let partition = params.partition.clone();
            one(&mut out, &database, list, partition.as_deref(), params).await?;
        }
        out.write("\n]}\n").await;
        Ok(())
    })
    .await
}

/// Refuses the parameter `partition` if it is not a partition's name, or the database has none
/// (`couch_mrview_util:validate_all_docs_args`).
fn check_named_partition(database: &Database, params: &Params) -> Result<()> {
    match &params.partition {
        Some(partition) if !database.is_partitioned() => {
            super::partition::check_partition_name(partition)?;
            Err(query_error("`partition` parameter is not supported on this db"))
        }
        Some(partition) => super::partition::check_partition_name(partition),
        None => Ok(()),
    }
}

/// Writes the response of one query.
async fn one(
    out: &mut Sender,
    database: &Arc<Database>,
    list: DocumentList,
    partition: Option<&str>,
    params: Params,
) -> Result<()> {
    if let Some(keys) = params.keys.clone() {
        return by_keys(out, database, list, keys, params).await;
    }
    let direction = if params.descending { Direction::Backward } else { Direction::Forward };
    let walk = params.walk().map(|walk| match (list, partition) {
        (DocumentList::DesignDocs, _) => walk.within("_design/"),
        (_, Some(partition)) => walk.within(&format!("{partition}:")),
        _ => walk,
    });
    if list == DocumentList::LocalDocs {
        return locals(out, database, walk, params).await;
    }
    let whole = match (list, partition) {
        (DocumentList::DesignDocs, _) => Some(Walk::all(direction).within("_design/")),
        (_, Some(partition)) => Some(Walk::all(direction).within(&format!("{partition}:"))),
        _ => None,
    };
    let (total, offset, mut page) = first_page(database, walk.clone(), whole, &params).await?;
    let offset = offset.map_or("null".to_owned(), |offset| offset.to_string());
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":{total},\"offset\":{offset}{sequence},\"rows\":[\n")).await;
    let mut left = params.limit.unwrap_or(u64::MAX);
    let mut to_skip = params.skip;
    let mut any = false;
    while left > 0 {
        let (rows, last) = page;
        let mut wanted = VecDeque::from(rows);
        let skipped = to_skip.min(wanted.len() as u64);
        to_skip -= skipped;
        wanted.drain(..skipped as usize);
        wanted.truncate(left.min(usize::MAX as u64) as usize);
        left -= wanted.len() as u64;
        let rows: Vec<(String, LeafRow)> = wanted.into_iter().map(|row| (row.id, row.winner)).collect();
        write_rows(out, database, rows, &params, &mut any).await?;
        let (Some(last), Some(walk)) = (last, walk.clone()) else { break };
        let database = database.clone();
        let limit = params.page_limit();
        page = blocking(move || database.list(&walk, Some(&last), limit)).await?;
    }
    out.write("\n]}").await;
    Ok(())
}

/// A page of rows, and the id to continue after.
type Page = (Vec<Listed>, Option<String>);

/// Reads the number of rows of the `whole` list, the offset of the first row of `walk`, and its first page.
async fn first_page(
    database: &Arc<Database>,
    walk: Option<Walk>,
    whole: Option<Walk>,
    params: &Params,
) -> crate::error::Result<(u64, Option<u64>, Page)> {
    let (database, skip, limit) = (database.clone(), params.skip, params.page_limit());
    blocking(move || {
        let total = match &whole {
            None => database.info().documents,
            Some(whole) => counted(&database, whole)?,
        };
        let rank = match (&walk, &whole) {
            (None, _) => Some(total),
            (Some(walk), None) => database.rank(&walk.start, walk.direction, MOST_RANKED)?,
            (Some(_), Some(_)) => Some(0),
        };
        let offset = rank.map(|rank| (rank + skip).min(total));
        let page = match &walk {
            Some(walk) => database.list(walk, None, limit)?,
            None => (Vec::new(), None),
        };
        Ok((total, offset, page))
    })
    .await
}

async fn write_rows(
    out: &mut Sender,
    database: &Arc<Database>,
    rows: Vec<(String, LeafRow)>,
    params: &Params,
    any: &mut bool,
) -> Result<()> {
    let mut docs = Docs::of(database, &params.show, rows.iter().filter(|_| params.include_docs).cloned());
    for (id, winner) in rows {
        let id = quote(&id);
        let rev = quote(&winner.revision.to_string());
        let comma = if std::mem::replace(any, true) { ",\n" } else { "" };
        out.write(format!("{comma}{{\"id\":{id},\"key\":{id},\"value\":{{\"rev\":{rev}}}")).await;
        if params.include_docs {
            let found = docs.next(out).await?;
            write_doc(out, database, found, &params.show).await?;
        }
        out.write("}").await;
    }
    Ok(())
}
