//! GET `/_sync/status` and `/_sync/history`: which clients replicate, their progress and their errors. Server
//! admins see all users, other users only themselves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::conflicts::limit;
use crate::app::App;
use crate::app::sync::history::{EVENTS, Event, STEP, STEPS};
use crate::app::sync::record::{CHECKPOINTS, Checkpoint, HOUR, REFUSED, Record, Sums};
use crate::app::sync::status::{ENTRIES, PER_USER};
use crate::app::sync::{Key, Seen};
use crate::auth::UserCtx;
use crate::auth::security_object::Security;
use crate::blocking::blocking;
use crate::db::{Database, Databases};
use crate::error::Error;
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// Milliseconds after its last request during which a client counts as present.
const PRESENT: u64 = 2 * 60 * 1000;
/// Up to this many sequences, the missing changes are counted; above, only an upper bound of their number is returned.
const COUNTED: u64 = 100;

/// The users whose clients a request may see and asks for.
#[derive(Clone)]
pub(super) struct Scope {
    /// `None`: everybody's.
    pub user: Option<String>,
    pub database: Option<String>,
    pub is_admin: bool,
}

impl Scope {
    pub(super) fn of(request: &Request) -> Result<Scope> {
        let (asked, database) = (request.query.get("user"), request.query.get("db").map(str::to_owned));
        if request.user.is_server_admin() {
            return Ok(Scope { user: asked.map(str::to_owned), database, is_admin: true });
        }
        let Some(own) = request.user.name.clone() else {
            return Err(Error::Unauthorized("You are not an authenticated user".into()).into());
        };
        if asked.is_some_and(|asked| asked != own) {
            return Err(Error::Forbidden("You are not a server admin.".into()).into());
        }
        Ok(Scope { user: Some(own), database, is_admin: false })
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        let is_user = self.user.is_none() || self.user == key.user;
        is_user && self.database.as_ref().is_none_or(|database| *database == key.database)
    }

    /// Everything that there is.
    pub(super) fn is_everything(&self) -> bool {
        self.user.is_none() && self.database.is_none()
    }
}

pub(super) fn now(app: &App) -> u64 {
    app.clock.since_epoch().as_millis() as u64
}

/// The databases that entries name, as far as they exist and the reader may read them.
pub(super) struct Readable {
    databases: Arc<Databases>,
    user: UserCtx,
    found: HashMap<String, Option<Arc<Database>>>,
}

impl Readable {
    pub(super) fn of(app: &App, request: &Request) -> Readable {
        Readable { databases: app.databases.clone(), user: request.user.clone(), found: HashMap::new() }
    }

    /// Blocks on the store.
    pub(super) fn get(&mut self, name: &str) -> Option<Arc<Database>> {
        if let Some(found) = self.found.get(name) {
            return found.clone();
        }
        let may_read = |database: &Database| {
            let security: Value = serde_json::from_str(&database.security()).unwrap_or_default();
            self.user.is_server_admin() || Security::stored(&security).check_member(&self.user).is_ok()
        };
        let found = self.databases.get(name).ok().filter(|database| may_read(database));
        self.found.insert(name.to_owned(), found.clone());
        found
    }
}

/// The number of changes that the client does not have yet, and whether it is counted; `None` if the client never
/// sent its position.
pub(super) fn behind(database: &Database, seen: &Seen) -> Option<(u64, bool)> {
    let record = &seen.record;
    let sent = record.sent.filter(|_| seen.live);
    let has = record.checkpoint().map(|checkpoint| checkpoint.sequence).max(record.since).max(sent)?;
    Some(behind_of(database, has))
}

/// The number of changes after a sequence, and whether it is counted.
pub(super) fn behind_of(database: &Database, has: u64) -> (u64, bool) {
    let distance = database.info().sequence.saturating_sub(has);
    if distance <= COUNTED {
        return (database.pending(has).unwrap_or(distance), true);
    }
    let info = database.info();
    (distance.min(info.documents + info.deleted), false)
}

/// GET `/_sync/status`.
pub async fn status(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let (scope, limit) = (Scope::of(request)?, limit(request, 100, 1000)?);
    let first = request.query.natural("bookmark")?.map_or(0, |first| usize::try_from(first).unwrap_or(usize::MAX));
    let (mut databases, now) = (Readable::of(app, request), now(app));
    let clients = by_client(app.sync.list(|key| scope.holds(key)));
    let (total, next) = (clients.len(), first.saturating_add(limit));
    let page: Vec<Vec<Seen>> = clients.into_iter().skip(first).take(limit).collect();
    let rows = blocking(move || {
        let rows = page.iter().map(|client| client_json(&mut databases, client, scope.is_admin, now));
        Ok::<_, Error>(rows.collect::<Vec<_>>())
    });
    Ok(Answer::ok(&json!({
        "since": app.sync.since,
        "kept": {"entries": ENTRIES, "entries_per_user": PER_USER, "refused_per_entry": REFUSED, "replications_per_entry": CHECKPOINTS},
        "total": total,
        "next": (next < total).then(|| next.to_string()),
        "rows": rows.await?,
    })))
}

/// Groups the entries by user and client, in the order of the first of each.
fn by_client(seen: Vec<Seen>) -> Vec<Vec<Seen>> {
    let mut places = HashMap::new();
    let mut clients: Vec<Vec<Seen>> = Vec::new();
    for one in seen {
        let place = *places.entry((one.key.user.clone(), one.key.client.clone())).or_insert(clients.len());
        match clients.get_mut(place) {
            Some(client) => client.push(one),
            None => clients.push(vec![one]),
        }
    }
    clients
}

fn client_json(databases: &mut Readable, client: &[Seen], is_admin: bool, now: u64) -> Value {
    let newest = &client[0];
    let live = client.iter().any(|one| one.live);
    let last_seen = newest.record.last_seen;
    let mut row = json!({
        "user": newest.key.user,
        "device": newest.key.device(),
        "device_name": newest.record.device_name,
        "client": newest.record.agent,
        "first_seen": client.iter().map(|one| one.record.first_seen).min(),
        "last_seen": last_seen,
        "live": live,
        "online": live || now.saturating_sub(last_seen) < PRESENT,
        "databases": client.iter().map(|one| database_json(databases, one)).collect::<Vec<_>>(),
    });
    if is_admin {
        row["address"] = newest.record.address.map(|address| address.to_string()).into();
    }
    row
}

fn direction(record: &Record) -> &'static str {
    match (record.pulled_at, record.pushed_at.is_some() || record.push_checkpoint.is_some()) {
        (Some(_), true) => "both",
        (None, true) => "push",
        _ => "pull",
    }
}

fn database_json(databases: &mut Readable, seen: &Seen) -> Value {
    let Seen { key, record, live } = seen;
    let database = databases.get(&key.database);
    let wire = |sequence: u64| database.as_ref().map(|database| database.wire_sequence(sequence, database.history()));
    let behind = database.as_ref().and_then(|database| behind(database, seen));
    let refused = record
        .refused
        .iter()
        .map(|one| json!({"id": one.id, "error": one.error, "reason": one.reason, "at": one.at, "count": one.count}));
    let (checkpoint, pushed) = (record.checkpoint(), record.push_checkpoint.as_ref());
    let failed = |failed: &crate::app::sync::record::Failed| json!({"at": failed.at, "status": failed.status, "reason": failed.reason});
    json!({
        "db": key.database,
        "exists": database.is_some(),
        "direction": direction(record),
        "live": live,
        "last_seen": record.last_seen,
        "last_seq": record.sent.max(record.since).and_then(wire),
        "checkpoint": checkpoint.and_then(|checkpoint| wire(checkpoint.sequence)),
        "checkpoint_at": checkpoint.map(|checkpoint| checkpoint.at),
        "checkpoint_id": checkpoint.map(|checkpoint| &checkpoint.id),
        "push_checkpoint": pushed.map(|checkpoint| &checkpoint.sequence),
        "push_checkpoint_at": pushed.map(|checkpoint| checkpoint.at),
        "update_seq": database.as_ref().map(|database| database.last_sequence()),
        "behind": behind.map(|(changes, _)| changes),
        "behind_exact": behind.is_some_and(|(_, exact)| exact),
        "documents_sent": record.total.documents_sent,
        "documents_received": record.total.documents_received,
        "bytes_sent": record.total.bytes_sent,
        "bytes_received": record.total.bytes_received,
        "errors": record.total.errors,
        "last_error": record.last_error.as_ref().map(failed),
        "replications": database.as_ref().map_or_else(Vec::new, |database| replications(database, record)),
        "refused": refused.collect::<Vec<_>>(),
        "refused_total": record.total.refused,
    })
}

/// The replications of a client that read this database, each by its own checkpoint.
fn replications(database: &Database, record: &Record) -> Vec<Value> {
    let one = |checkpoint: &Checkpoint<u64>| {
        let (changes, exact) = behind_of(database, checkpoint.sequence);
        json!({
            "checkpoint": database.wire_sequence(checkpoint.sequence, database.history()),
            "checkpoint_at": checkpoint.at,
            "checkpoint_id": checkpoint.id,
            "behind": changes,
            "behind_exact": exact,
        })
    };
    record.checkpoints.iter().map(one).collect()
}

fn bucket(at: u64, clients: u64, sums: &Sums) -> Value {
    json!({
        "at": at,
        "clients": clients,
        "pulls": sums.pulls,
        "pushes": sums.pushes,
        "documents_sent": sums.documents_sent,
        "documents_received": sums.documents_received,
        "refused": sums.refused,
        "errors": sums.errors,
        "bytes_sent": sums.bytes_sent,
        "bytes_received": sums.bytes_received,
    })
}

/// Sums of the hours from `from` to `now` over some entries.
fn hours(seen: &[Seen], from: u64, now: u64) -> Vec<Value> {
    let mut hours: BTreeMap<u64, (u64, Sums)> =
        (from / HOUR..=now / HOUR).map(|hour| (hour, Default::default())).collect();
    for (hour, sums) in seen.iter().flat_map(|one| &one.record.hours) {
        if let Some((clients, total)) = hours.get_mut(hour) {
            *clients += 1;
            total.add(*sums);
        }
    }
    hours.iter().map(|(hour, (clients, sums))| bucket(hour * HOUR, *clients, sums)).collect()
}

fn event_json(event: Event) -> Value {
    json!({
        "at": event.at,
        "kind": event.kind.word(),
        "user": event.key.user,
        "device": event.key.device(),
        "client": event.client,
        "db": event.key.database,
        "detail": event.detail,
    })
}

/// GET `/_sync/history`: steps of ten minutes of all users, or of an hour of the user or database asked for.
pub fn history(app: &App, request: &Request) -> Result<Answer> {
    let scope = Scope::of(request)?;
    let asked = match request.query.natural("hours")? {
        None => 24,
        Some(hours) if (1..=24).contains(&hours) => hours,
        Some(_) => return Err(query_error("`hours` must be from 1 to 24")),
    };
    let now = now(app);
    let from = now.saturating_sub(asked * HOUR);
    let (step, buckets) = match scope.is_everything() {
        true => {
            let steps = app.sync.history.steps(from, now).into_iter();
            (STEP, steps.map(|step| bucket(step.at, step.clients, &step.sums)).collect())
        }
        false => (HOUR, hours(&app.sync.list(|key| scope.holds(key)), from.max(app.sync.since), now)),
    };
    let events = app.sync.history.events(|event| event.at >= from && scope.holds(&event.key));
    Ok(Answer::ok(&json!({
        "step": step,
        "kept": {"steps": STEPS, "events": EVENTS},
        "buckets": buckets,
        "events": events.into_iter().map(event_json).collect::<Vec<_>>(),
    })))
}
