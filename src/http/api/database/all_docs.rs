//! `_all_docs`, `_design_docs` and `_local_docs`: list documents by id.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::blocking::blocking;
use crate::db::read::render::{self, Attachments, Show};
use crate::db::record::LeafRow;
use crate::db::{Database, Found, Listing as Walk};
use crate::http::api::document::include_docs::Docs;
use crate::http::api::document::{body_writer, local};
use crate::http::api::query::view::MOST_QUERIES;
use crate::http::request::listing_path::Listing;
use crate::http::request::{Query, Request, query_error};
use crate::http::response::Answer;
use crate::http::response::body::Sender;
use crate::http::response::error::{Failure, Result};
use crate::json::quote;
use crate::store::{Direction, PageLimit};

/// Maximum size of a page of rows in bytes.
const PAGE_BYTES: usize = 256 << 10;
/// Maximum number of rows in a page, without and with their documents.
const PAGE: usize = 500;
const PAGE_WITH_DOCS: usize = 64;
/// Maximum number of ids counted to determine the `offset` of the first row; beyond that it is `null`.
const MOST_RANKED: usize = 2000;

/// The parameters of a listing, from the body and the query string, which overrides the body
/// (`couch_mrview_http:parse_body_and_query`).
#[derive(Debug, Clone, Default)]
struct Params {
    start: Option<Value>,
    end: Option<Value>,
    key: Option<Value>,
    keys: Option<Vec<Value>>,
    limit: Option<u64>,
    skip: u64,
    descending: bool,
    exclusive_end: bool,
    include_docs: bool,
    update_seq: bool,
    show: Show,
    /// The source that is being read, for error messages.
    read_from: &'static str,
}

impl Params {
    fn read_query(&mut self, query: &Query) -> Result<()> {
        self.read_from = "parameter";
        for (name, text) in query.iter() {
            let value = match name {
                "key" | "keys" | "startkey" | "start_key" | "endkey" | "end_key" => {
                    serde_json::from_str(text).map_err(|_| crate::http::request::invalid_json())?
                }
                "limit" | "skip" => match text.parse::<i64>() {
                    Ok(number) => number.into(),
                    Err(_) => return Err(query_error(format!("Invalid value for integer: {}", quote(text)))),
                },
                _ => match text {
                    _ if text.eq_ignore_ascii_case("true") => true.into(),
                    _ if text.eq_ignore_ascii_case("false") => false.into(),
                    _ => text.into(),
                },
            };
            self.set(name, value)?;
        }
        Ok(())
    }

    fn read_body(&mut self, body: &Map<String, Value>) -> Result<()> {
        self.read_from = "body member";
        body.iter().try_for_each(|(name, value)| self.set(name, value.clone()))
    }

    fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let flag = |value: &Value| match value {
            Value::Bool(flag) => Ok(*flag),
            other => Err(query_error(format!("Invalid boolean parameter: {other}"))),
        };
        let natural = |value: &Value| {
            value.as_u64().ok_or_else(|| query_error(format!("Invalid value for positive integer: {value}")))
        };
        match name {
            "key" => self.key = Some(value),
            "keys" => match value {
                Value::Array(keys) => self.keys = Some(keys),
                _ => return Err(Failure::bad_request(format!("`keys` {} must be an array.", self.read_from))),
            },
            "startkey" | "start_key" => self.start = Some(value),
            "endkey" | "end_key" => self.end = Some(value),
            "limit" => self.limit = Some(natural(&value)?),
            "skip" => self.skip = natural(&value)?,
            "descending" => self.descending = flag(&value)?,
            "inclusive_end" => self.exclusive_end = !flag(&value)?,
            "include_docs" => self.include_docs = flag(&value)?,
            "update_seq" => self.update_seq = flag(&value)?,
            "conflicts" => self.show.conflicts = flag(&value)?,
            "attachments" if flag(&value)? => self.show.attachments = Attachments::Inline,
            "att_encoding_info" => self.show.encoding_info = flag(&value)?,
            // These select how fresh a view must be. Listings only validate them (`couch_mrview_http`).
            "stale" if !matches!(value.as_str(), Some("ok" | "update_after")) => {
                return Err(query_error("Invalid value for `stale`."));
            }
            "stable" if !value.is_boolean() => return Err(query_error("Invalid value for `stable`.")),
            "update" if !value.is_boolean() && value.as_str() != Some("lazy") => {
                return Err(query_error("Invalid value for `update`."));
            }
            _ => {}
        }
        Ok(())
    }

    /// Rejects incompatible parameters.
    fn check(&self) -> Result<()> {
        if self.keys.is_some() && (self.key.is_some() || self.start.is_some() || self.end.is_some()) {
            return Err(query_error("`keys` is incompatible with `key`, `start_key` and `end_key`"));
        }
        Ok(())
    }

    /// The requested range of ids; `None` if no id can be in it. A key that is not a string sorts before all
    /// strings.
    fn walk(&self) -> Option<Walk> {
        let direction = if self.descending { Direction::Backward } else { Direction::Forward };
        let mut walk = Walk::all(direction);
        let (start, end) = match &self.key {
            Some(key) => (Some(key), Some(key)),
            None => (self.start.as_ref(), self.end.as_ref()),
        };
        match start {
            None => {}
            Some(Value::String(id)) => walk.start = Bound::Included(id.clone()),
            // Sorts before every id: a forward walk starts at the first id, a backward walk is empty.
            Some(_) if direction == Direction::Forward => {}
            Some(_) => return None,
        }
        match end {
            None => {}
            Some(Value::String(id)) if self.exclusive_end && self.key.is_none() => {
                walk.end = Bound::Excluded(id.clone())
            }
            Some(Value::String(id)) => walk.end = Bound::Included(id.clone()),
            Some(_) if direction == Direction::Forward => return None,
            Some(_) => {}
        }
        Some(walk)
    }
}

/// `GET` and `POST` of a listing; with `partition`, only the ids in that partition.
pub async fn list(
    request: &mut Request,
    database: Arc<Database>,
    listing: Listing,
    partition: Option<String>,
) -> Result<Answer> {
    let mut params = Params::default();
    if request.verb == crate::http::request::Verb::Post {
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
        super::database::check_partition(&database, partition)?;
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
        one(&mut out, &database, listing, partition.as_deref(), params).await?;
        out.write("\n").await;
        Ok(())
    })
    .await
}

/// `POST .../queries`.
pub async fn queries(request: &mut Request, database: Arc<Database>, listing: Listing) -> Result<Answer> {
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
        all.push(params);
    }
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        for (at, params) in all.into_iter().enumerate() {
            out.write(if at == 0 { "{\"results\":[\n" } else { ",\n" }).await;
            one(&mut out, &database, listing, None, params).await?;
        }
        out.write("\n]}\n").await;
        Ok(())
    })
    .await
}

/// Writes the response of one query.
async fn one(
    out: &mut Sender,
    database: &Arc<Database>,
    listing: Listing,
    partition: Option<&str>,
    params: Params,
) -> Result<()> {
    if let Some(keys) = params.keys.clone() {
        return by_keys(out, database, listing, keys, params).await;
    }
    let direction = if params.descending { Direction::Backward } else { Direction::Forward };
    let walk = params.walk().map(|walk| match (listing, partition) {
        (Listing::DesignDocs, _) => walk.within("_design/"),
        (_, Some(partition)) => walk.within(&format!("{partition}:")),
        _ => walk,
    });
    if listing == Listing::LocalDocs {
        return locals(out, database, walk, params).await;
    }
    let (total, offset, first) = {
        let (database, walk, skip) = (database.clone(), walk.clone(), params.skip);
        let whole = match (listing, partition) {
            (Listing::DesignDocs, _) => Some(Walk::all(direction).within("_design/")),
            (_, Some(partition)) => Some(Walk::all(direction).within(&format!("{partition}:"))),
            _ => None,
        };
        let limit = page_limit(&params);
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
            let first = match &walk {
                Some(walk) => database.list(walk, None, limit)?,
                None => (Vec::new(), None),
            };
            Ok((total, offset, first))
        })
        .await?
    };
    let offset = offset.map_or("null".to_owned(), |offset| offset.to_string());
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":{total},\"offset\":{offset}{sequence},\"rows\":[\n")).await;
    let mut left = params.limit.unwrap_or(u64::MAX);
    let mut to_skip = params.skip;
    let mut any = false;
    let mut page = first;
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
        let limit = page_limit(&params);
        page = blocking(move || database.list(&walk, Some(&last), limit)).await?;
    }
    out.write("\n]}").await;
    Ok(())
}

fn page_limit(params: &Params) -> PageLimit {
    PageLimit { entries: page_size(params), bytes: PAGE_BYTES }
}

fn page_size(params: &Params) -> usize {
    let page = if params.include_docs { PAGE_WITH_DOCS } else { PAGE };
    let wanted = params.limit.unwrap_or(u64::MAX).saturating_add(params.skip);
    page.min(wanted.max(1).min(page as u64) as usize)
}

/// `,"update_seq":...` if the query asks for it.
fn update_sequence(database: &Database, params: &Params) -> String {
    match params.update_seq {
        true => format!(",\"update_seq\":{}", quote(&database.wire_sequence(database.info().sequence))),
        false => String::new(),
    }
}

/// Counts the documents of a walk by reading all of its rows.
fn counted(database: &Database, walk: &Walk) -> crate::error::Result<u64> {
    let (mut count, mut after) = (0, None);
    loop {
        let (rows, last) = database.list(walk, after.as_deref(), PageLimit::entries(1000))?;
        count += rows.len() as u64;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(count),
        }
    }
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

/// `,"doc":...`
async fn write_doc(out: &mut Sender, database: &Arc<Database>, found: Option<Found>, show: &Show) -> Result<()> {
    out.write(",\"doc\":").await;
    match found {
        Some(found) => body_writer::write(out, database.blobs(), render::document(&found, show)).await,
        None => {
            out.write("null").await;
            Ok(())
        }
    }
}

/// Writes the response of a query with `keys`: a row for each key, in the order of the keys, after `skip` and
/// `limit`.
async fn by_keys(
    out: &mut Sender,
    database: &Arc<Database>,
    listing: Listing,
    mut keys: Vec<Value>,
    params: Params,
) -> Result<()> {
    if params.descending {
        keys.reverse();
    }
    let fits = |key: &Value| match (listing, key) {
        (Listing::DesignDocs, Value::String(id)) => id.starts_with("_design/"),
        (Listing::LocalDocs, Value::String(id)) => id.starts_with("_local/"),
        _ => true,
    };
    let limit = params.limit.map_or(usize::MAX, |limit| limit as usize);
    let keys: Vec<Value> = keys.into_iter().skip(params.skip as usize).take(limit).filter(fits).collect();
    let total = match listing {
        Listing::AllDocs => database.info().documents.to_string(),
        Listing::DesignDocs => {
            let database = database.clone();
            let count = blocking(move || counted(&database, &Walk::all(Direction::Forward).within("_design/"))).await?;
            count.to_string()
        }
        Listing::LocalDocs => "null".to_owned(),
    };
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":{total},\"offset\":null{sequence},\"rows\":[\n")).await;
    let mut any = false;
    for some in keys.chunks(page_size(&params).max(PAGE_WITH_DOCS)) {
        if listing == Listing::LocalDocs {
            locals_of(out, database, some, &params, &mut any).await?;
            continue;
        }
        let ids: Vec<String> = some.iter().map(|key| key.as_str().unwrap_or("").to_owned()).collect();
        let winners = {
            let (database, ids) = (database.clone(), ids.clone());
            blocking(move || database.winners(&ids)).await?
        };
        let living: Vec<(String, LeafRow)> = ids
            .iter()
            .zip(&winners)
            .filter_map(|(id, winner)| Some((id.clone(), winner.clone().filter(|winner| !winner.deleted)?)))
            .collect();
        let mut docs = Docs::of(database, &params.show, living.into_iter().filter(|_| params.include_docs));
        for (key, winner) in some.iter().zip(winners) {
            let comma = if std::mem::replace(&mut any, true) { ",\n" } else { "" };
            match winner {
                None => out.write(format!("{comma}{{\"key\":{key},\"error\":\"not_found\"}}")).await,
                Some(winner) => {
                    let rev = quote(&winner.revision.to_string());
                    let deleted = if winner.deleted { ",\"deleted\":true" } else { "" };
                    out.write(format!("{comma}{{\"id\":{key},\"key\":{key},\"value\":{{\"rev\":{rev}{deleted}}}"))
                        .await;
                    if params.include_docs {
                        let found = if winner.deleted { None } else { docs.next(out).await? };
                        write_doc(out, database, found, &params.show).await?;
                    }
                    out.write("}").await;
                }
            }
        }
    }
    out.write("\n]}").await;
    Ok(())
}

/// Writes `_local_docs`; without counts, as in CouchDB.
async fn locals(out: &mut Sender, database: &Arc<Database>, walk: Option<Walk>, params: Params) -> Result<()> {
    let sequence = update_sequence(database, &params);
    out.write(format!("{{\"total_rows\":null,\"offset\":null{sequence},\"rows\":[\n")).await;
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
    let walk = walk.and_then(|walk| {
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
    });
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

fn local_row(name: &str, record: &crate::db::record::LocalRecord, params: &Params) -> String {
    let id = quote(&format!("_local/{name}"));
    let doc = match params.include_docs {
        true => format!(",\"doc\":{}", local::text(name, record)),
        false => String::new(),
    };
    format!("{{\"id\":{id},\"key\":{id},\"value\":{{\"rev\":\"0-{}\"}}{doc}}}", record.revision)
}

async fn locals_of(
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
