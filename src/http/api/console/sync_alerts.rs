//! GET `/_sync/alerts`: conditions that an admin or the user should look at. Computed at the
//! request from the state in memory.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::sync::{Readable, Scope, behind, behind_of, now};
use crate::app::App;
use crate::app::sync::Seen;
use crate::app::sync::conflict_growth::Growth;
use crate::app::sync::history::EventKind;
use crate::blocking::blocking;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// A replication that stopped longer ago than so many milliseconds is no alert any more: most probably its app was
/// reinstalled, and replicates under another id.
const FORGOTTEN: u64 = 7 * 24 * 3_600_000;
/// Milliseconds after which a refusal or a suspicious event is no alert any more.
const OLD: u64 = 24 * 3_600_000;
/// Changes by which a client is far behind.
const FAR: u64 = 1000;
/// Alerts of one kind in an answer.
const ALERTS: usize = 100;

/// GET `/_sync/alerts`.
pub async fn alerts(app: &Arc<App>, request: &Request) -> Result<Answer> {
    let scope = Scope::of(request)?;
    let seen = app.sync.list(|key| scope.holds(key));
    let (mut databases, now) = (Readable::of(app, request), now(app));
    let stopped = request.settings.number("sync", "device_stopped_after").saturating_mul(1000);
    let of_clients = blocking(move || {
        let mut alerts = Alerts::default();
        for one in &seen {
            of_client(&mut alerts, &mut databases, one, (now, stopped));
        }
        Ok::<_, Error>(alerts)
    });
    let mut alerts = of_clients.await?;
    suspicious(&mut alerts, app, &scope, now);
    if scope.is_admin && scope.user.is_none() {
        for growth in app.conflict_growth.of_open(&app.databases) {
            if scope.database.as_ref().is_none_or(|name| *name == growth.database) {
                conflicts_grow(&mut alerts, growth, now);
            }
        }
    }
    Ok(Answer::ok(&json!({ "alerts": alerts.sorted() })))
}

/// The alerts of an answer: severity, time, and the alert.
#[derive(Default)]
struct Alerts(Vec<(Severity, u64, Value)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Critical,
    Warning,
    Info,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

impl Alerts {
    fn add(&mut self, kind: &str, severity: Severity, at: u64, mut alert: Value) {
        if self.0.iter().filter(|(.., known)| known["kind"] == kind).count() < ALERTS {
            alert["kind"] = kind.into();
            alert["severity"] = severity.word().into();
            alert["at"] = at.into();
            self.0.push((severity, at, alert));
        }
    }

    /// The most urgent first, then the newest.
    fn sorted(mut self) -> Vec<Value> {
        self.0.sort_by_key(|(severity, at, _)| (*severity, std::cmp::Reverse(*at)));
        self.0.into_iter().map(|(.., alert)| alert).collect()
    }
}

/// `stopped`: milliseconds without a request after which a client that lacks changes has stopped.
fn of_client(alerts: &mut Alerts, databases: &mut Readable, seen: &Seen, (now, stopped): (u64, u64)) {
    let Seen { key, record, live } = seen;
    let Some(database) = databases.get(&key.database) else { return };
    let whose = key.user.as_deref().map_or("without a user".to_owned(), |user| format!("of {user}"));
    let alert = |count: u64, text: String| {
        let name = record.device_name.as_ref().unwrap_or(&record.agent);
        json!({"user": key.user, "device": key.device(), "client": name, "db": key.database, "count": count, "text": text})
    };
    let changes = behind(&database, seen).map_or(0, |(changes, _)| changes);
    let idle = now.saturating_sub(record.last_seen);
    let db = &key.database;
    if !live && idle >= stopped && changes > 0 {
        let text = format!(
            "A device {whose} has not synced {db} for {}, and lacks {changes} of its changes.",
            duration_text(idle)
        );
        alerts.add("device_stopped", Severity::Warning, record.last_seen, alert(changes, text));
    } else if changes >= FAR {
        let text = format!("A device {whose} is {changes} changes behind in {db}.");
        alerts.add("far_behind", Severity::Info, record.last_seen, alert(changes, text));
    }
    // The newest checkpoint was judged above, as the client's own.
    for checkpoint in record.checkpoints.iter().skip(1) {
        let idle = now.saturating_sub(checkpoint.at);
        let (changes, _) = behind_of(&database, checkpoint.sequence);
        if changes > 0 && (stopped..FORGOTTEN.max(stopped * 2)).contains(&idle) {
            let count = record.checkpoints.len();
            let text = format!(
                "One of {count} replications {whose} under the same name has not synced {db} for {}, and lacks {changes} \
                 of its changes. A device may have stopped, or its app was reinstalled.",
                duration_text(idle)
            );
            alerts.add("device_stopped", Severity::Info, checkpoint.at, alert(changes, text));
        }
    }
    let again = record.refused.iter().filter(|one| one.count >= 2 && now.saturating_sub(one.at) < OLD);
    if let Some(again) = again.max_by_key(|one| one.count) {
        let text = format!(
            "A device {whose} was refused the document {} {} times in {db}: {}",
            again.id, again.count, again.reason
        );
        alerts.add("pushes_refused", Severity::Warning, again.at, alert(record.total.refused, text));
    }
}

/// A time for people: in minutes below two hours, else in hours.
fn duration_text(milliseconds: u64) -> String {
    match milliseconds / 60_000 {
        minutes @ 0..120 => format!("{minutes} minutes"),
        minutes => format!("{} hours", minutes / 60),
    }
}

/// Patterns that may be attacks, one alert for each kind and user.
fn suspicious(alerts: &mut Alerts, app: &App, scope: &Scope, now: u64) {
    let is_new = |at: u64| now.saturating_sub(at) < OLD;
    let events = app
        .sync
        .history
        .events(|event| event.kind == EventKind::Suspicious && is_new(event.at) && scope.holds(&event.key));
    let mut told = HashSet::new();
    for event in events {
        let (pattern, _) = event.detail.split_once(':').unwrap_or((&event.detail, ""));
        if !told.insert((event.key.user.clone(), pattern.to_owned())) {
            continue;
        }
        let who = event.key.user.as_deref().unwrap_or("somebody who is not signed in");
        let text = match pattern {
            "mass_deletion" => format!("Many documents were deleted within a minute by {who}."),
            "id_scanning" => format!("Many documents that do not exist were asked for within a minute by {who}."),
            "guessing" => "Many wrong passwords came from one address within a minute.".to_owned(),
            other => format!("{other} by {who}."),
        };
        let alert = json!({"user": event.key.user, "detail": event.detail, "text": text});
        alerts.add("suspicious", Severity::Critical, event.at, alert);
    }
}

fn conflicts_grow(alerts: &mut Alerts, growth: Growth, now: u64) {
    let Growth { database, at, before, now: count } = growth;
    let hours = (now.saturating_sub(at) / 3_600_000).max(1);
    let text = format!("{database} has {count} documents in conflict; {hours} hours ago it had {before}.");
    alerts.add(
        "conflicts_grow",
        Severity::Warning,
        now,
        json!({"db": database, "count": count - before, "text": text}),
    );
}
