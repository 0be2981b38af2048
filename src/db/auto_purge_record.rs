//! Settings and notes of automatic purging, as they are stored.

use crate::db::codec::{Reader, Writer};
use crate::error::{Error, Result};

const VERSION: u8 = 1;

/// The only property of an `_auto_purge` object.
pub(crate) const TTL: &str = "deleted_document_ttl";

/// Number of notes per time to live: the interval between notes is this fraction of it.
pub(crate) const NOTES: u64 = 16;

/// How long deleted documents are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeToLive {
    /// Never purged, even if the server has a default time to live.
    Infinity,
    /// Purged after this many seconds.
    Seconds(u64),
}

impl TimeToLive {
    /// Parses `infinity` or `<number>_<unit>`, for example `3_days`
    /// (`couch_scanner_util:parse_non_weekday_period`).
    pub fn parse(text: &str) -> Option<TimeToLive> {
        if text == "infinity" {
            return Some(TimeToLive::Infinity);
        }
        let (number, unit) = text.split_once('_')?;
        let day = 24 * 60 * 60;
        let unit = match unit.strip_suffix('s').unwrap_or(unit) {
            "sec" | "second" => 1,
            "min" | "minute" => 60,
            "hour" => 60 * 60,
            "day" => day,
            "week" => 7 * day,
            "month" => 30 * day,
            "year" => 365 * day,
            _ => return None,
        };
        let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
        number.checked_mul(unit).map(TimeToLive::Seconds)
    }
}

/// The stored state of a database: setting, progress and notes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AutoPurge {
    /// The setting, as the JSON text of an object; empty if there is none.
    pub properties: String,
    /// The sequence up to which deleted documents are purged.
    pub done: u64,
    /// Notes: (seconds since the epoch, sequence of the database at that time), oldest first.
    pub notes: Vec<(u64, u64)>,
}

impl AutoPurge {
    /// The value to be stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::version(VERSION);
        out.text(&self.properties);
        out.number(self.done);
        out.number(self.notes.len() as u64);
        for (time, sequence) in &self.notes {
            out.number(*time);
            out.number(*sequence);
        }
        out.0
    }

    pub(crate) fn decode(value: &[u8]) -> Result<AutoPurge> {
        let read = || {
            let mut fields = Reader::version(value, VERSION)?;
            let (properties, done) = (fields.text()?.to_owned(), fields.number()?);
            let count = fields.number()? as usize;
            let mut notes = Vec::with_capacity(count.min(fields.0.len()));
            for _ in 0..count {
                notes.push((fields.number()?, fields.number()?));
            }
            Some(AutoPurge { properties, done, notes })
        };
        read().ok_or_else(|| Error::Damaged("a database's _auto_purge".into()))
    }

    /// Decodes the stored value; returns the default if there is none.
    pub fn of(value: Option<&[u8]>) -> Result<AutoPurge> {
        value.map_or_else(|| Ok(AutoPurge::default()), AutoPurge::decode)
    }

    /// The database's own time to live, otherwise `default`, in seconds; `None` if nothing is to be purged.
    pub(crate) fn seconds(&self, default: Option<TimeToLive>) -> Option<u64> {
        let own: Option<serde_json::Value> = serde_json::from_str(&self.properties).ok();
        let own = own.as_ref().and_then(|own| TimeToLive::parse(own.get(TTL)?.as_str()?));
        match own.or(default)? {
            TimeToLive::Seconds(seconds) => Some(seconds),
            TimeToLive::Infinity => None,
        }
    }

    /// Adds a note unless the last one is recent, and removes notes that a later one makes unnecessary.
    /// Returns the sequence up to which deleted documents may be purged. `seconds` is the time to live.
    pub(crate) fn note(&mut self, now: u64, sequence: u64, seconds: u64) -> u64 {
        let recent = |(time, reached): &(u64, u64)| *reached == sequence || now.saturating_sub(*time) < seconds / NOTES;
        if !self.notes.last().is_some_and(recent) {
            self.notes.push((now, sequence));
        }
        let old_enough = self.notes.iter().take_while(|(time, _)| now.saturating_sub(*time) >= seconds).count();
        let upto = old_enough.checked_sub(1).map_or(self.done, |last| self.notes[last].1);
        self.notes.drain(..old_enough.saturating_sub(1));
        // After the time to live was increased, the notes are closer together than necessary.
        if self.notes.len() as u64 > 4 * NOTES {
            let mut at = 0;
            self.notes.retain(|_| {
                at += 1;
                at % 2 == 0
            });
        }
        upto.max(self.done)
    }
}
