//! A database as a whole: creation, deletion, counters, `_security` and limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::app::App;
use crate::audit::{Event, Kind};
use crate::blocking::blocking;
use crate::db::{CreateOptions, Database};
use crate::error::Error;
use crate::http::api::document::incoming::encode;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::policy::access::{Access, check_database};
use crate::policy::users_database;

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

/// How long a deletion waits for writes that began before it.
const WRITES_END: Duration = Duration::from_secs(1);

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
    // A write that came before, perhaps from the same client, is not told that the database does not exist.
    let open = app.databases.opened(&name);
    let _alone = match &open {
        Some(database) => database.end_of_writing(WRITES_END).await,
        None => None,
    };
    request.authorization.check().await?;
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
