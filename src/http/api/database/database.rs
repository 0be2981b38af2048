//! A database as a whole: creation, deletion, counters, `_security` and limits.

use std::sync::Arc;
use std::time::Instant;

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::app::App;
use crate::audit::{Event, Kind};
use crate::blocking::blocking;
use crate::db::{CreateOptions, Database, Databases, check_document_id};
use crate::error::Error;
use crate::http::api::document::incoming::encode;
use crate::http::api::document::revision::parse_revision;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::access::{Access, check_database};
use crate::policy::users_database;
use crate::rev::Revision;

/// The database of a path. A name that no database can have is one that is not there, as in CouchDB; only making one
/// says what is wrong with it. `received`: when the request came; what the database has in memory is as of then.
pub async fn open(app: &Arc<App>, name: &str, received: Instant) -> Result<Arc<Database>> {
    if let Some(database) = app.databases.opened_as_of(name, received) {
        return Ok(database);
    }
    let (databases, name) = (app.databases.clone(), name.to_owned());
    Ok(blocking(move || databases.get(&name)).await.map_err(not_there)?)
}

fn not_there(error: Error) -> Error {
    match error {
        Error::IllegalDatabaseName(_) | Error::DatabaseNameTooLong(_) => Error::NoDatabase,
        other => other,
    }
}

fn ok(status: StatusCode) -> Answer {
    Answer::json_text(status, r#"{"ok":true}"#)
}

/// A positive number among the query's parameters, as `q` and `n` are.
fn count(request: &Request, name: &str, default: u32) -> Result<u32> {
    match request.query.get(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 && number <= 1024 => Ok(number),
            _ => Err(Failure::bad_request(format!("The `{name}` value should be a positive integer."))),
        },
    }
}

/// Databases that keep to one shape (`couch_partition:validate_dbname`).
const SYSTEM: [&str; 3] = ["_users", "_replicator", "_global_changes"];

/// `PUT /{db}`.
pub async fn create(app: &Arc<App>, request: &Request, name: String) -> Result<Answer> {
    let partitioned = match request.query.get("partitioned") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Failure::bad_request("Invalid `partitioned` parameter")),
    };
    if partitioned && name.rsplit('/').next().is_some_and(|name| SYSTEM.contains(&name)) {
        return Err(Failure::bad_request("Cannot partition a system database"));
    }
    let options = CreateOptions { partitioned, q: count(request, "q", 2)?, n: count(request, "n", 1)? };
    let security = crate::app::default_security(app).to_string();
    let databases = app.databases.clone();
    let location = format!("/{}", encode(&name));
    let made = blocking(move || databases.create(&name, options, Some(&security))).await?;
    Event { database: Some(made.name()), ..request.by().event(Kind::DatabaseCreated) }.record();
    users_database::settle(app, &made).await?;
    Ok(ok(StatusCode::CREATED).with_text(header::LOCATION, &request.absolute_uri(&location)))
}

/// `DELETE /{db}`.
pub async fn delete(app: &Arc<App>, request: &Request, name: String) -> Result<Answer> {
    if request.query.get("rev").is_some() {
        return Err(Failure::bad_request(
            "You tried to DELETE a database with a ?=rev parameter. Did you mean to DELETE a document instead?",
        ));
    }
    // Only a server admin removes a database. For the owner of a vault it is replaced by an empty one with the same
    // rights.
    let is_emptied = !request.user.is_server_admin();
    request.standing.check().await?;
    let (databases, deleted) = (app.databases.clone(), name.clone());
    let made = blocking(move || {
        let security = match is_emptied {
            true => Some(databases.get(&deleted)?.security()),
            false => None,
        };
        databases.delete(&deleted)?;
        Ok(security.map(|security| databases.create(&deleted, CreateOptions::default(), Some(&security))))
    });
    let made = made.await.map_err(not_there)?;
    // The database is gone, even if the empty one could not be created.
    app.removal.notify_one();
    Event { database: Some(&name), ..request.by().event(Kind::DatabaseDeleted) }.record();
    if let Some(made) = made {
        made?;
        Event { database: Some(&name), ..request.by().event(Kind::DatabaseCreated) }.record();
    }
    Ok(ok(StatusCode::OK))
}

/// Bytes of a row of the changes order with its keys, and of the counters themselves: about this much.
const ROW_BYTES: u64 = 96;

/// A database's counters as CouchDB's `GET /{db}` shows them.
pub fn info(database: &Database) -> Value {
    let info = database.info();
    let (q, n) = database.shape();
    let active = info.external + info.records;
    // In addition to the live data: old bodies until they are compacted away, and each document's row in the
    // changes order.
    let file = active + info.old + ROW_BYTES * (info.documents + info.deleted) + ROW_BYTES;
    let mut props = serde_json::Map::new();
    if database.is_partitioned() {
        props.insert("partitioned".into(), true.into());
    }
    json!({
        "instance_start_time": (database.created() / 1000).to_string(),
        "db_name": database.name(),
        "purge_seq": format!("{}-{}", info.purge_sequence, database.instance()),
        "update_seq": database.wire_sequence(info.sequence, info.histories.mark()),
        "sizes": {"file": file, "external": info.external, "active": active},
        "props": props,
        "doc_del_count": info.deleted,
        "doc_count": info.documents,
        "disk_format_version": 8,
        "compact_running": database.is_compacting(),
        "cluster": {"q": q, "n": n, "w": 1, "r": 1},
    })
}

/// `GET /{db}`.
pub fn get_info(database: &Database) -> Answer {
    Answer::ok(&info(database))
}

/// `GET /{db}/_security`. With `chttpd/admin_only_security`, only for admins of the database: the object names its users.
pub fn security(request: &Request, database: &Database) -> Result<Answer> {
    let text = database.security();
    if request.settings.flag("chttpd", "admin_only_security") && !request.user.is_server_admin() {
        let object = serde_json::from_str(&text).map_err(|_| Error::Damaged("the _security of a database".into()))?;
        check_database(Access::ManageDatabase, &request.user, &object)?;
    }
    Ok(Answer::json_text(StatusCode::OK, text.as_bytes()))
}

/// `PUT /{db}/_security`.
pub async fn set_security(app: &App, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    users_database::check_security_editable(app, &database)?;
    let body = request.json().await?;
    // The setting may have changed while the body came.
    users_database::check_security_editable(app, &database)?;
    crate::auth::security_object::Security::parse(&body)?;
    database.put_security(body.to_string()).await?;
    Event { database: Some(database.name()), ..request.by().event(Kind::SecurityChanged) }.record();
    Ok(ok(StatusCode::OK))
}

/// A JSON number in the body, at least `least`.
async fn number(request: &mut Request, least: u32, wrong: &'static str) -> Result<u32> {
    match request.json().await?.as_u64().and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number >= least => Ok(number),
        _ => Err(Failure::bad_request(wrong)),
    }
}

/// `GET /{db}/_revs_limit`.
pub fn revs_limit(database: &Database) -> Answer {
    Answer::ok(&database.info().revs_limit)
}

/// `PUT /{db}/_revs_limit`.
pub async fn set_revs_limit(request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let limit = number(request, 1, "`_revs_limit` must be a positive integer").await?;
    database.set_revs_limit(limit).await?;
    Ok(ok(StatusCode::OK))
}

/// `GET /{db}/_purged_infos_limit`.
pub fn purged_infos_limit(database: &Database) -> Answer {
    Answer::ok(&database.info().purged_infos_limit)
}

/// `PUT /{db}/_purged_infos_limit`.
pub async fn set_purged_infos_limit(request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    let limit = number(request, 1, "`purged_infos_limit` must be positive integer").await?;
    database.set_purged_infos_limit(limit).await?;
    Ok(ok(StatusCode::OK))
}

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
    Ok(ok(StatusCode::CREATED))
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

/// `POST /{db}/_compact`: begins; `compact_running` tells when it is done.
pub async fn compact(app: &Arc<App>, request: &mut Request, database: Arc<Database>) -> Result<Answer> {
    request.must_be_json()?;
    if !database.is_compacting() {
        app.compact_asked(database);
    }
    Ok(ok(StatusCode::ACCEPTED))
}

/// `POST /{db}/_ensure_full_commit`: whatever was acknowledged is on disk already.
pub fn ensure_full_commit(request: &Request, database: &Database) -> Result<Answer> {
    request.must_be_json()?;
    let text = json!({"ok": true, "instance_start_time": (database.created() / 1000).to_string()});
    Ok(Answer::json(StatusCode::CREATED, &text))
}

/// The ranges that `q` shards would have.
fn shard_ranges(q: u32) -> Vec<String> {
    let step = (1_u64 << 32) / u64::from(q);
    (0..u64::from(q))
        .map(|at| {
            let end = if at + 1 == u64::from(q) { u64::from(u32::MAX) } else { (at + 1) * step - 1 };
            format!("{:08x}-{end:08x}", at * step)
        })
        .collect()
}

/// `GET /{db}/_shards`.
pub fn shards(database: &Database) -> Answer {
    let shards: serde_json::Map<String, Value> =
        shard_ranges(database.shape().0).into_iter().map(|range| (range, json!([crate::app::node::NODE]))).collect();
    Answer::ok(&json!({ "shards": shards }))
}

/// `GET /{db}/_shards/{id}`.
pub fn shard_of(database: &Database, id: &str) -> Answer {
    let (q, _) = database.shape();
    let hash = u64::from(crc32fast::hash(id.as_bytes()));
    let step = (1_u64 << 32) / u64::from(q);
    let at = (hash / step).min(u64::from(q) - 1) as usize;
    Answer::ok(&json!({"range": shard_ranges(q)[at], "nodes": [crate::app::node::NODE]}))
}

/// `POST /{db}/_sync_shards`.
pub fn sync_shards() -> Answer {
    ok(StatusCode::ACCEPTED)
}

/// `GET /{db}/_partition/{partition}`.
pub async fn partition(database: Arc<Database>, partition: String) -> Result<Answer> {
    check_partition(&database, &partition)?;
    let held = {
        let (database, partition) = (database.clone(), partition.clone());
        blocking(move || database.partition(&partition)).await?
    };
    Ok(Answer::ok(&json!({
        "db_name": database.name(),
        "doc_count": held.documents,
        "doc_del_count": held.deleted,
        "partition": partition,
        "sizes": {"active": held.bytes, "external": held.bytes},
    })))
}

/// Refuses what is no partition, and any on a database without them.
pub fn check_partition(database: &Database, partition: &str) -> Result<()> {
    if !database.is_partitioned() {
        return Err(Failure::bad_request("database is not partitioned"));
    }
    check_partition_name(partition)
}

/// Refuses a text that is not the name of a partition (`couch_partition:validate_partition`).
pub fn check_partition_name(partition: &str) -> Result<()> {
    let reason = match partition {
        "" => "Partition must not be empty",
        _ if partition.starts_with('_') => "Partition must not start with an underscore",
        _ if partition.contains(':') => "Partition must not contain a colon",
        _ => return Ok(()),
    };
    Err(Failure::Refused { status: StatusCode::BAD_REQUEST, word: "illegal_partition", reason: reason.into() })
}

/// `GET /_all_dbs`.
pub async fn all_dbs(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let names = names(app, request).await?;
    Ok(Answer::ok(&names))
}

async fn names(app: &Arc<App>, request: &Request) -> Result<Vec<String>> {
    let query = &request.query;
    let key = |one: &str, other: &str| -> Result<Option<String>> {
        let value = match query.json(one)? {
            Some(value) => Some(value),
            None => query.json(other)?,
        };
        Ok(value.and_then(|value| value.as_str().map(str::to_owned)))
    };
    let (mut start, mut end) = (key("startkey", "start_key")?, key("endkey", "end_key")?);
    if let Some(only) = key("key", "key")? {
        (start, end) = (Some(only.clone()), Some(only));
    }
    let descending = query.flag("descending", false)?;
    let inclusive_end = query.flag("inclusive_end", true)?;
    let skip = query.natural("skip")?.unwrap_or(0) as usize;
    let limit = query.natural("limit")?.map_or(usize::MAX, |limit| limit as usize);
    let databases: Arc<Databases> = app.databases.clone();
    Ok(blocking(move || databases.names(start.as_deref(), end.as_deref(), inclusive_end, descending, skip, limit))
        .await?)
}

/// `GET /_dbs_info`.
pub async fn dbs_info(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let names = names(app, request).await?;
    infos(app, request, names, false).await
}

/// `POST /_dbs_info`.
pub async fn dbs_info_of(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    request.must_be_json()?;
    let body = request.json_object().await?;
    let Some(keys) = body.get("keys") else {
        return Err(Failure::bad_request("`keys` member must exist."));
    };
    let Some(keys) = keys.as_array() else {
        return Err(Failure::bad_request("`keys` member must be an array."));
    };
    if keys.len() > request.settings.max_dbs_info {
        return Err(Failure::bad_request("too_many_keys"));
    }
    let names: Option<Vec<String>> = keys.iter().map(|key| key.as_str().map(str::to_owned)).collect();
    let names = names.ok_or_else(|| Failure::bad_request("`keys` must be an array of strings."))?;
    let with_time = body.get("last_write") == Some(&Value::Bool(true));
    infos(app, request, names, with_time).await
}

/// `with_time`: with the time of the last write (docs/console-api.md), which CouchDB does not have.
async fn infos(app: &Arc<App>, request: &Request, names: Vec<String>, with_time: bool) -> Result<Answer> {
    let databases = app.databases.clone();
    Answer::stream(&request.line, "application/json", move |mut out| async move {
        out.write("[").await;
        let mut first = true;
        for names in names.chunks(100) {
            let (databases, names) = (databases.clone(), names.to_vec());
            let rows = blocking(move || {
                Ok(names
                    .into_iter()
                    .map(|name| match databases.get(&name) {
                        Ok(database) if with_time => {
                            let time = databases.last_write(&name);
                            json!({"key": name, "info": info(&database), "last_write": time})
                        }
                        Ok(database) => json!({"key": name, "info": info(&database)}),
                        Err(_) => json!({"key": name, "error": "not_found"}),
                    })
                    .collect::<Vec<Value>>())
            })
            .await?;
            for row in rows {
                out.write(if first { "" } else { "," }).await;
                first = false;
                out.write(row.to_string()).await;
            }
        }
        out.write("]\n").await;
        Ok(())
    })
    .await
}
