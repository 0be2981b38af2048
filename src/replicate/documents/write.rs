//! Writes the outcome of a replication into its document.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::body::{STATE, digest};
use super::list::Documents;
use super::rows::Key;
use crate::blocking::blocking;
use crate::clock::iso8601;
use crate::db::{AllowAll, Database, Found, Incoming, Mode, Source, Wanted};
use crate::error::{Error, Result};

/// The pause after a write that failed; it doubles with each further one, up to [`LONGEST`].
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);

/// Members to set, or to remove (`None`).
pub(super) type Fields = Vec<(&'static str, Option<Value>)>;

/// The members of a replication that is complete. `stats`: its counters and when it was started.
pub(super) fn completed(stats: Value) -> Fields {
    vec![
        ("_replication_state", Some("completed".into())),
        ("_replication_state_reason", None),
        ("_replication_stats", Some(stats)),
    ]
}

/// The members of a replication that cannot run.
pub(super) fn failed(reason: &str) -> Fields {
    vec![
        ("_replication_state", Some("failed".into())),
        ("_replication_stats", None),
        ("_replication_state_reason", Some(reason.into())),
    ]
}

/// The members of a replication that was scheduled, with `update_docs`.
pub(super) fn triggered(id: &str) -> Fields {
    vec![
        ("_replication_state", Some("triggered".into())),
        ("_replication_state_reason", None),
        ("_replication_id", Some(id.into())),
        ("_replication_stats", None),
    ]
}

/// The members of a replication that failed and will be tried again, with `update_docs`.
pub(super) fn error(reason: &str, id: Option<&str>) -> Fields {
    vec![
        ("_replication_state", Some("error".into())),
        ("_replication_state_reason", Some(reason.into())),
        ("_replication_stats", None),
        ("_replication_id", Some(id.into())),
    ]
}

/// Removes the state that an earlier server has written.
pub(super) fn none() -> Fields {
    STATE.iter().map(|name| (*name, None)).collect()
}

impl Documents {
    /// Writes members into a document, unless its body is no longer the one with this digest. Tries again until it
    /// is written, or the document has changed, or is gone: returns whether it was written.
    pub(super) async fn write(&self, key: &Key, expected: u64, fields: &Fields) -> bool {
        let mut pause = AGAIN;
        loop {
            let attempt = {
                let _turn = self.writes.acquire().await;
                self.write_once(key, expected, fields).await
            };
            match attempt {
                Ok(written) => return written,
                Err(Error::NoDatabase | Error::Missing | Error::Deleted | Error::IllegalDatabaseName(_)) => {
                    return false;
                }
                Err(Error::Conflict) => {}
                Err(error) => {
                    let (database, id) = (&*key.database, &*key.id);
                    tracing::warn!(database, id, %error, "the state of a replication cannot be written and will be written again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    async fn write_once(&self, key: &Key, expected: u64, fields: &Fields) -> Result<bool> {
        let (databases, name, id) = (self.databases.clone(), key.database.clone(), key.id.clone());
        let read = move || {
            let database = databases.get(&name)?;
            let found = database.find(&id, Wanted::Winner)?;
            Ok((database, found))
        };
        let (database, found) = blocking(read).await?;
        let members = members(&found)?;
        if digest(&members) != expected {
            return Ok(false);
        }
        let now = iso8601(self.clock.since_epoch().as_secs());
        let Some(changed) = with(members, fields, &now) else { return Ok(true) };
        write_body(&database, found, changed).await?;
        Ok(true)
    }
}

/// The members of a body.
pub(super) fn members(found: &Found) -> Result<Map<String, Value>> {
    crate::json::read(&found.body.json).map_err(|_| Error::Damaged(format!("the body of document {}", found.id)))
}

/// The members with those of `fields`; `None` if nothing changes. The time is written with each new state.
fn with(mut members: Map<String, Value>, fields: &Fields, now: &str) -> Option<Map<String, Value>> {
    let mut any = false;
    for (name, value) in fields {
        match value {
            None => any |= members.shift_remove(*name).is_some(),
            Some(value) if members.get(*name) == Some(value) => {}
            Some(value) => {
                any = true;
                members.insert((*name).to_owned(), value.clone());
                if *name == "_replication_state" {
                    members.insert("_replication_state_time".to_owned(), now.into());
                }
            }
        }
    }
    any.then_some(members)
}

async fn write_body(database: &Arc<Database>, found: Found, members: Map<String, Value>) -> Result<()> {
    let stubs = found.body.attachments.iter().map(|attachment| {
        let name = attachment.name.clone();
        (name, Source::Stub { revpos: None })
    });
    let edit = Incoming {
        id: found.id.clone(),
        parent: Some(found.revision.clone()),
        path: (0, Vec::new()),
        deleted: false,
        json: Value::Object(members).to_string(),
        attachments: stubs.collect(),
    };
    let written = database.update(vec![edit], Mode::Interactive, &AllowAll).await?;
    written.into_iter().next().unwrap_or(Err(Error::Conflict)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_are_written_once_with_their_time() {
        let body = json!({"source": "a", "_replication_stats": {"x": 1}});
        let members = body.as_object().unwrap().clone();
        let failed = with(members, &failed("no"), "T").unwrap();
        assert_eq!(
            Value::Object(failed.clone()),
            json!({"source": "a", "_replication_state": "failed", "_replication_state_time": "T", "_replication_state_reason": "no"})
        );
        assert_eq!(with(failed.clone(), &super::failed("no"), "U"), None);
        let again = with(failed, &super::failed("other"), "U").unwrap();
        assert_eq!(again["_replication_state_time"], "T", "the state is the same");
        assert_eq!(with(again, &none(), "V").unwrap(), json!({"source": "a"}).as_object().unwrap().clone());
    }
}
