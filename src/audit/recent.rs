//! The newest audit events, kept in memory for `GET /_node/_local/_audit`. With an audit file they begin with the end of
//! that file, so that a restart hides nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing_subscriber::fmt::MakeWriter;

use super::trail::{Trail, aside};

/// Events that are kept at most.
pub const EVENTS: usize = 2000;
/// Bytes of all kept events together, at most.
const BYTES: usize = 1 << 20;

/// The newest events. A cheap handle: clones share the events.
#[derive(Clone, Default)]
pub struct RecentEvents(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: VecDeque<Kept>,
    bytes: usize,
    last: u64,
}

#[derive(Clone)]
struct Kept {
    number: u64,
    /// Milliseconds since 1970.
    at: u64,
    /// A JSON object.
    line: Arc<str>,
}

/// Which events are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// A part of the user's name.
    pub user: &'a str,
    /// The kind of the event; empty for all.
    pub event: &'a str,
    /// The first moment, in milliseconds since 1970.
    pub from: u64,
    /// The last moment.
    pub to: u64,
    /// Only events before the one with this number.
    pub before: u64,
    /// Events at most.
    pub limit: usize,
}

/// The events that were found, newest first.
#[derive(Debug, serde::Serialize)]
pub struct Found {
    /// Each has the members of the audit log, its `number`, and `at`, its time in milliseconds since 1970.
    pub entries: Vec<Map<String, Value>>,
    /// The number before which the next call continues; `None` at the end.
    pub next: Option<u64>,
    /// How many events are kept.
    pub kept: usize,
}

impl RecentEvents {
    fn push(&self, at: u64, line: &str) {
        let mut state = self.0.lock();
        state.last += 1;
        state.bytes += line.len();
        let number = state.last;
        state.events.push_back(Kept { number, at, line: line.into() });
        while state.events.len() > EVENTS || state.bytes > BYTES {
            let Some(oldest) = state.events.pop_front() else { break };
            state.bytes -= oldest.line.len();
        }
    }

    /// Keeps the end of an audit file, and of the file before it. What cannot be read is left out.
    pub fn load(&self, file: &Path) {
        for path in [&*aside(file, 1), file] {
            let text = end_of(path, BYTES as u64).unwrap_or_default();
            for line in String::from_utf8_lossy(&text).lines() {
                if let Ok(Value::Object(event)) = serde_json::from_str(line) {
                    let at = event.get("timestamp").and_then(Value::as_str).and_then(milliseconds);
                    self.push(at.unwrap_or(0), line);
                }
            }
        }
    }

    /// Finds events.
    pub fn find(&self, wanted: Wanted<'_>) -> Found {
        let kept = self.0.lock().events.clone();
        let mut found = Found { entries: Vec::new(), next: None, kept: kept.len() };
        for Kept { number, at, line } in kept.iter().rev() {
            if *number >= wanted.before || *at < wanted.from || *at > wanted.to {
                continue;
            }
            let Ok(Value::Object(mut event)) = serde_json::from_str(line) else { continue };
            let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("");
            if !text("user").contains(wanted.user) || !wanted.event.is_empty() && text("event") != wanted.event {
                continue;
            }
            if found.entries.len() == wanted.limit {
                // There is at least one more.
                found.next = found.entries.last().and_then(|last| last.get("number")?.as_u64());
                break;
            }
            event.insert("number".into(), (*number).into());
            event.insert("at".into(), (*at).into());
            found.entries.push(event);
        }
        found
    }
}

/// The last bytes of a file, at most `most`.
fn end_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Milliseconds since 1970 of a time as the log writes it: `2026-11-29T07:52:48.123456Z`.
fn milliseconds(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<Vec<u64>> {
        text.split(separator).map(|part| part.parse().ok().filter(|number| *number < 10_000)).collect()
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let [hours, minutes, seconds] = numbers(time, ':')?[..] else { return None };
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Years that begin in March: the leap day is then the last day of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    Some((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

/// Writes each event to the newest events and to the audit file, if there is one.
#[derive(Clone)]
pub struct Recorder {
    /// The newest events.
    pub recent: RecentEvents,
    /// The audit file.
    pub trail: Option<Trail>,
}

/// Each call writes one whole line: `tracing`'s formatter passes one event per call.
impl Write for Recorder {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.recent.push(now.as_millis() as u64, String::from_utf8_lossy(line).trim_end());
        match &mut self.trail {
            Some(trail) => trail.write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.trail.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl<'a> MakeWriter<'a> for Recorder {
    type Writer = Recorder;

    fn make_writer(&'a self) -> Recorder {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::trail::Place;

    const ALL: Wanted<'static> = Wanted { user: "", event: "", from: 0, to: u64::MAX, before: u64::MAX, limit: 10 };

    fn numbers(found: &Found) -> Vec<u64> {
        found.entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect()
    }

    #[test]
    fn events_are_found_newest_first_and_page_by_page() {
        let recent = RecentEvents::default();
        for (at, user, event) in
            [(10, "ann", "sign_in"), (20, "ben", "denied"), (30, "anna", "denied"), (40, "", "denied")]
        {
            recent.push(at, &format!(r#"{{"event":"{event}","user":"{user}"}}"#));
        }
        recent.push(50, "no JSON");
        assert_eq!(numbers(&recent.find(ALL)), [4, 3, 2, 1]);
        let first = recent.find(Wanted { limit: 2, ..ALL });
        assert_eq!((numbers(&first), first.next, first.entries[0]["at"].as_u64()), (vec![4, 3], Some(3), Some(40)));
        let second = recent.find(Wanted { limit: 2, before: 3, ..ALL });
        assert_eq!((numbers(&second), second.next), (vec![2, 1], None));
        assert_eq!(numbers(&recent.find(Wanted { user: "ann", ..ALL })), [3, 1]);
        assert_eq!(numbers(&recent.find(Wanted { event: "denied", from: 20, to: 30, ..ALL })), [3, 2]);
        assert_eq!(numbers(&recent.find(Wanted { event: "den", ..ALL })), [0u64; 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let recent = RecentEvents::default();
        for _ in 0..3 * EVENTS {
            recent.push(0, "{}");
        }
        assert_eq!((recent.find(ALL).kept, recent.0.lock().last), (EVENTS, 3 * EVENTS as u64));
        for _ in 0..100 {
            recent.push(0, &"x".repeat(100_000));
        }
        assert!(recent.0.lock().bytes <= BYTES);
    }

    #[test]
    fn the_end_of_the_audit_file_is_read_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.log");
        let place = Place { file: file.clone(), bytes: 100, keep: 1 };
        let mut writer = Recorder { recent: RecentEvents::default(), trail: Some(Trail::open(place).unwrap()) };
        for number in 0..4 {
            let line = format!("{{\"timestamp\":\"2026-11-29T07:52:4{number}.5Z\",\"n\":{number}}}\n");
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(writer.recent.find(ALL).kept, 4);
        let again = RecentEvents::default();
        again.load(&file);
        let found = again.find(ALL);
        let seen: Vec<_> = found.entries.iter().map(|entry| (entry["n"].as_u64(), entry["at"].as_u64())).collect();
        let at = |second: u64| Some(1_795_938_760_500 + second * 1000);
        assert_eq!(seen, [(Some(3), at(3)), (Some(2), at(2)), (Some(1), at(1)), (Some(0), at(0))]);
        again.load(&folder.path().join("none"));
    }

    #[test]
    fn times_are_read() {
        for (text, at) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:00.000001Z", Some(951_868_800_000)),
            ("2024-02-29T23:59:59.999Z", Some(1_709_251_199_999)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-11-29 07:52:48", None),
            ("99999999999999999999-1-1T0:0:0Z", None),
            ("2026-11T07:52:48Z", None),
            ("2026-11-29T07:52:48.\u{e9}Z", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), at, "{text}");
        }
    }
}
