//! What happened to a job: the events that `_scheduler/jobs` lists.

use serde_json::{Map, Value};

use crate::clock::iso8601;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Added,
    Started,
    Stopped,
    /// The reason, without credentials.
    Crashed(Box<str>),
}

/// An event, and when it happened: in seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    at: u64,
    happened: Happened,
}

/// The events of a job, oldest first; the oldest are dropped.
#[derive(Debug, Default)]
pub struct History(Vec<Event>);

impl History {
    /// Records an event, and keeps the newest `most`.
    pub fn record(&mut self, happened: Happened, at: u64, most: usize) {
        self.0.push(Event { at, happened });
        let extra = self.0.len().saturating_sub(most.max(1));
        self.0.drain(..extra);
    }

    /// The time of the last event.
    pub fn last_updated(&self) -> u64 {
        self.0.last().map_or(0, |event| event.at)
    }

    /// Whether the job was started, and neither stopped nor crashed since.
    pub fn is_started(&self) -> bool {
        self.0.last().is_some_and(|event| event.happened == Happened::Started)
    }

    /// The reason of the last event, if the job has crashed since it was started.
    pub fn last_crash(&self) -> Option<&str> {
        match &self.0.last()?.happened {
            Happened::Crashed(reason) => Some(reason),
            Happened::Added | Happened::Started | Happened::Stopped => None,
        }
    }

    /// The events as CouchDB shows them: newest first.
    pub fn to_json(&self) -> Value {
        let events = self.0.iter().rev().map(|event| {
            let mut members = Map::new();
            members.insert("timestamp".into(), iso8601(event.at).into());
            let word = match &event.happened {
                Happened::Added => "added",
                Happened::Started => "started",
                Happened::Stopped => "stopped",
                Happened::Crashed(_) => "crashed",
            };
            members.insert("type".into(), word.into());
            if let Happened::Crashed(reason) = &event.happened {
                members.insert("reason".into(), (**reason).into());
            }
            Value::Object(members)
        });
        Value::Array(events.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_shown_first() {
        let mut history = History::default();
        history.record(Happened::Added, 0, 3);
        history.record(Happened::Started, 1, 3);
        assert_eq!(history.last_crash(), None);
        history.record(Happened::Crashed("no".into()), 2, 3);
        assert_eq!((history.last_crash(), history.last_updated()), (Some("no"), 2));
        history.record(Happened::Started, 86_400, 3);
        assert_eq!(history.last_crash(), None);
        assert_eq!(
            history.to_json(),
            json!([
                {"timestamp": "1970-01-02T00:00:00Z", "type": "started"},
                {"timestamp": "1970-01-01T00:00:02Z", "type": "crashed", "reason": "no"},
                {"timestamp": "1970-01-01T00:00:01Z", "type": "started"},
            ])
        );
    }
}
