//! `_auto_purge`: purges documents that have been deleted for longer than a time to live (CouchDB:
//! `couch_auto_purge_plugin`).
//!
//! Sequences have no timestamps. A database with a time to live therefore periodically records a note: the
//! current time and sequence. A document may be purged if it was deleted at or before the sequence of a note
//! that is older than the time to live. No document is purged too early. For documents that were deleted
//! before the setting was made, the time to live starts at the first note.

use std::sync::Arc;

use crate::blocking::blocking;
use crate::db::auto_purge_record::{AutoPurge, TTL, TimeToLive};
use crate::db::{Database, Databases};
use crate::error::{Error, Result};
use crate::store::{Direction, PageLimit, keyspace};

/// Number of changes that are read at once.
const STEP: usize = 500;
/// Number of database names that are read at once.
const NAMES: usize = 500;

/// Checks an `_auto_purge` object (`chttpd_db:validate_auto_purge_props`).
pub fn check_auto_purge(properties: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    for (name, value) in properties {
        if name != TTL {
            return Err(Error::BadRequest("invalid auto purge property".into()));
        }
        if value.as_str().and_then(TimeToLive::parse).is_none() {
            return Err(Error::BadRequest(format!("{TTL} must be a valid string")));
        }
    }
    Ok(())
}

impl Database {
    fn stored_auto_purge(&self) -> Result<AutoPurge> {
        AutoPurge::of(self.store.get(&keyspace::auto_purge(self.number))?.as_deref())
    }

    /// Returns the `_auto_purge` object as JSON text. Blocks on disk I/O.
    pub fn auto_purge(&self) -> Result<String> {
        let stored = self.stored_auto_purge()?.properties;
        Ok(if stored.is_empty() { "{}".to_owned() } else { stored })
    }

    /// Purges the documents whose time to live has ended at `now` (seconds since the epoch), and records a
    /// note. Returns the number of purged documents.
    async fn purge_deleted(self: &Arc<Self>, now: u64, default: Option<TimeToLive>) -> Result<u64> {
        let database = self.clone();
        let before = blocking(move || database.stored_auto_purge()).await?;
        let Some(seconds) = before.seconds(default) else { return Ok(0) };
        let mut after = before.clone();
        let upto = after.note(now, self.info().sequence, seconds);
        let mut purged = 0;
        while after.done < upto {
            let (database, done) = (self.clone(), after.done);
            let page = blocking(move || database.changes(done, Direction::Forward, PageLimit::entries(STEP))).await?;
            let deleted = page.rows.iter().filter(|(sequence, row)| *sequence <= upto && row.winner().deleted);
            let wanted: Vec<_> = deleted
                .map(|(_, row)| (row.id.clone(), row.leaves.iter().map(|leaf| leaf.revision.clone()).collect()))
                .collect();
            if !wanted.is_empty() {
                purged += wanted.len() as u64;
                self.purge(wanted).await?;
            }
            after.done = match page.rows.last() {
                Some((sequence, _)) if !page.done => upto.min(*sequence),
                _ => upto,
            };
        }
        if after != before {
            // The setting may have changed in the meantime, so only the progress and the notes are written.
            self.put_auto_purge_notes(after.done, after.notes).await?;
        }
        Ok(purged)
    }
}

impl Databases {
    /// Processes all databases once: purges documents that have been deleted for longer than their database's
    /// time to live, or `default` if the database has none.
    pub async fn auto_purge(self: &Arc<Self>, default: Option<TimeToLive>) -> Result<()> {
        let now = self.clock().since_epoch().as_secs();
        let mut after: Option<String> = None;
        loop {
            let (databases, start) = (self.clone(), after.clone());
            let names = blocking(move || {
                let skip = usize::from(start.is_some());
                databases.names(start.as_deref(), None, true, false, skip, NAMES)
            })
            .await?;
            let Some(last) = names.last() else { return Ok(()) };
            after = Some(last.clone());
            let databases = self.clone();
            let wanting = blocking(move || databases.with_auto_purge(names, default.is_some())).await?;
            for database in wanting {
                match database.purge_deleted(now, default).await {
                    Ok(0) | Err(Error::NoDatabase) => {}
                    Ok(purged) => tracing::info!(database = database.name(), purged, "purged deleted documents"),
                    Err(error) => {
                        tracing::warn!(database = database.name(), %error, "the automatic purge of deleted documents failed")
                    }
                }
            }
        }
    }

    /// Opens the databases among `names` that have stored state, or all of them if `all`. The others are not
    /// opened.
    fn with_auto_purge(&self, names: Vec<String>, all: bool) -> Result<Vec<Arc<Database>>> {
        let numbers = self.numbers(&names)?;
        let stored = match all {
            true => vec![true; numbers.len()],
            false => {
                let wanted: Vec<_> = numbers.iter().map(|(_, number)| keyspace::auto_purge(*number)).collect();
                self.store().get_many(&wanted)?.iter().map(Option::is_some).collect()
            }
        };
        let mut wanting = Vec::new();
        for ((name, _), is_wanted) in numbers.into_iter().zip(stored) {
            if is_wanted {
                match self.get(&name) {
                    Ok(database) => wanting.push(database),
                    Err(Error::NoDatabase) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(wanting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::auto_purge_record::NOTES;

    #[test]
    fn times_to_live_are_parsed() {
        for (text, expected) in [
            ("infinity", Some(TimeToLive::Infinity)),
            ("1_sec", Some(TimeToLive::Seconds(1))),
            ("30_min", Some(TimeToLive::Seconds(1800))),
            ("8_hours", Some(TimeToLive::Seconds(28_800))),
            ("2_days", Some(TimeToLive::Seconds(172_800))),
            ("3_weeks", Some(TimeToLive::Seconds(1_814_400))),
            ("1_month", Some(TimeToLive::Seconds(2_592_000))),
            ("1_year", Some(TimeToLive::Seconds(31_536_000))),
            ("0_sec", None),
            ("-6_hour", None),
            ("5", None),
            ("5_monday", None),
            ("99999999999999999999_sec", None),
            ("999999999999999999_years", None),
            ("", None),
        ] {
            assert_eq!(TimeToLive::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn notes_are_few_and_never_purge_too_early() {
        let mut kept = AutoPurge::default();
        let seconds = 1000;
        // One change per second, so that the sequence equals the time: a purged change is at least 1000 s
        // old.
        for now in 1..20_000u64 {
            let upto = kept.note(now, now, seconds);
            assert!(upto <= now.saturating_sub(seconds));
            assert!(now < 2 * seconds || upto > now - seconds - seconds / NOTES - 1, "{upto} at {now}");
            kept.done = upto;
            assert!(kept.notes.len() as u64 <= NOTES + 2);
        }
        assert_eq!(AutoPurge::decode(&kept.encode()).unwrap(), kept);
    }
}
