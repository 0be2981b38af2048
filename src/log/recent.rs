//! The newest lines of the log, kept in memory for `GET /_node/_local/_logs`.
//!
//! The thread that writes the log moves each line here, so that requests pay nothing for it.
//! A line is parsed only when somebody reads it. Its form depends on the format of the log, of which there are three
//! (see [`parse`]).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::Level;

/// Lines that are kept at most.
pub const LINES: usize = 2000;
/// Bytes of all kept lines together, at most.
const BYTES: usize = 1 << 20;
/// Bytes of one line that are kept.
const LONGEST: usize = 16 << 10;

/// The newest lines. A cheap handle: clones share the lines.
#[derive(Clone, Default)]
pub struct RecentLines(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lines: VecDeque<Kept>,
    bytes: usize,
    last: u64,
}

#[derive(Clone)]
struct Kept {
    id: u64,
    /// Milliseconds since 1970.
    at: u64,
    level: Level,
    text: Arc<str>,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// This level and more severe ones.
    pub level: Level,
    /// Only lines after the one with this id. Without it, the newest lines are found.
    pub after: Option<u64>,
    /// The most lines to return.
    pub limit: usize,
    /// A text that the line contains, in any case of letters.
    pub text: &'a str,
}

/// The lines that were found, oldest first.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The lines.
    pub lines: Vec<LogLine>,
    /// The id after which the next call continues.
    pub next: u64,
    /// How many lines are kept.
    pub kept: usize,
}

/// One line of the log.
#[derive(Debug, Serialize, PartialEq)]
pub struct LogLine {
    /// Counts up from the start of the process.
    pub id: u64,
    /// When it was written, in milliseconds since 1970.
    pub at: u64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// The part of the server that wrote it; empty if that is not known.
    pub target: String,
    /// The message, with its fields unless `fields` has them.
    pub text: String,
    /// The fields, if the log is written as JSON.
    pub fields: Map<String, Value>,
}

impl RecentLines {
    /// Keeps a line that was written at `at`, in milliseconds since 1970.
    pub(super) fn push(&self, level: Level, at: u64, line: &[u8]) {
        if reads_log(level, line) {
            return;
        }
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        let text: Arc<str> = text.trim_end().into();
        let mut state = self.0.lock();
        state.last += 1;
        state.bytes += text.len();
        let id = state.last;
        state.lines.push_back(Kept { id, at, level, text });
        while state.lines.len() > LINES || state.bytes > BYTES {
            let Some(oldest) = state.lines.pop_front() else { break };
            state.bytes -= oldest.text.len();
        }
    }

    /// Finds lines.
    pub fn find(&self, wanted: Wanted<'_>) -> Found {
        let (kept, last) = {
            let state = self.0.lock();
            (state.lines.clone(), state.last)
        };
        // An id that is not assigned yet comes from an earlier process.
        let after = wanted.after.filter(|after| *after <= last).unwrap_or(0);
        let text = wanted.text.to_lowercase();
        let fits = |line: &&Kept| {
            line.id > after
                && line.level <= wanted.level
                && (text.is_empty() || line.text.to_lowercase().contains(&text))
        };
        let total = kept.len();
        let mut found: Vec<&Kept> = match wanted.after {
            Some(_) => kept.iter().filter(fits).take(wanted.limit.saturating_add(1)).collect(),
            None => {
                let mut newest: Vec<&Kept> = kept.iter().rev().filter(fits).take(wanted.limit).collect();
                newest.reverse();
                newest
            }
        };
        // There is more: the next call continues after the last line of this one.
        let next = if found.len() > wanted.limit {
            found.truncate(wanted.limit);
            found.last().map_or(after, |line| line.id)
        } else {
            last
        };
        Found { lines: found.into_iter().map(shown).collect(), next, kept: total }
    }
}

/// Whether the line is that of a request for these lines. A console that follows the log makes such a request every
/// other second, which would push everything else out.
fn reads_log(level: Level, line: &[u8]) -> bool {
    let has = |part: &[u8]| memchr::memmem::find(line, part).is_some();
    level == Level::INFO && has(b"/_node/") && has(b"/_logs")
}

fn shown(line: &Kept) -> LogLine {
    let (target, text, fields) = parse(&line.text);
    LogLine { id: line.id, at: line.at, level: word(line.level), target, text, fields }
}

/// A level in lower case.
fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}

/// Target, text and fields of a line. The formats are:
///
/// ```text
/// {"timestamp":"...","level":"INFO","message":"...","target":"settee","a":1}
/// 2026-11-29T07:52:48.123456Z  INFO settee: message a=1       with colours on a terminal
/// 07:52:48 GET /notes 200 1.2 ms ann                          a request, on a terminal
/// ```
fn parse(line: &str) -> (String, String, Map<String, Value>) {
    if let Ok(Value::Object(mut fields)) = serde_json::from_str(line) {
        let mut take = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (target, text) = (take("target"), take("message"));
        fields.remove("timestamp");
        fields.remove("level");
        return (target, text, fields);
    }
    let line = without_colours(line);
    let mut words = line.splitn(2, ' ');
    let (first, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if first.len() == 8 && first.bytes().filter(|byte| *byte == b':').count() == 2 {
        return ("settee::request".into(), rest.to_owned(), Map::new());
    }
    if first.ends_with('Z') && first.contains('T') {
        let rest = rest.trim_start();
        let rest = rest.split_once(' ').map_or(rest, |(_level, rest)| rest.trim_start());
        if let Some((target, text)) = rest.split_once(": ") {
            return (target.to_owned(), text.to_owned(), Map::new());
        }
    }
    (String::new(), line, Map::new())
}

/// Removes the colours of a terminal: `ESC [ ... m`.
fn without_colours(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        text.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(limit: usize) -> Wanted<'static> {
        Wanted { level: Level::TRACE, after: None, limit, text: "" }
    }

    fn texts(found: &Found) -> Vec<&str> {
        found.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_and_bytes_are_bounded() {
        let recent = RecentLines::default();
        for number in 0..3 * LINES {
            recent.push(Level::INFO, 0, format!("line {number}\n").as_bytes());
        }
        let found = recent.find(any(usize::MAX));
        assert_eq!((found.lines.len(), found.kept, found.next), (LINES, LINES, 3 * LINES as u64));
        assert_eq!(found.lines[0].text, format!("line {}", 2 * LINES));
        for _ in 0..1000 {
            recent.push(Level::INFO, 0, "\u{e9}".repeat(LONGEST).as_bytes());
        }
        let state = recent.0.lock();
        assert!(state.bytes <= BYTES && state.bytes == state.lines.iter().map(|line| line.text.len()).sum::<usize>());
        assert!(state.lines.len() > 60);
    }

    #[test]
    fn readers_follow_by_the_id() {
        let recent = RecentLines::default();
        for (level, text) in
            [(Level::INFO, "one"), (Level::WARN, "two"), (Level::ERROR, "Three"), (Level::DEBUG, "four")]
        {
            recent.push(level, 5, text.as_bytes());
        }
        assert_eq!(texts(&recent.find(any(2))), ["Three", "four"], "the newest, oldest first");
        let warnings = recent.find(Wanted { level: Level::WARN, ..any(10) });
        assert_eq!((texts(&warnings), warnings.next, warnings.lines[0].at), (vec!["two", "Three"], 4, 5));
        let some = recent.find(Wanted { after: Some(1), ..any(2) });
        assert_eq!((texts(&some), some.next), (vec!["two", "Three"], 3), "there is more");
        let rest = recent.find(Wanted { after: Some(some.next), ..any(2) });
        assert_eq!((texts(&rest), rest.next), (vec!["four"], 4));
        assert_eq!(texts(&recent.find(Wanted { text: "tHr", ..any(10) })), ["Three"]);
        assert_eq!(recent.find(Wanted { after: Some(99), ..any(10) }).lines.len(), 4, "an id of an earlier process");
        assert_eq!(recent.find(any(0)).lines, []);
    }

    #[test]
    fn requests_for_the_log_are_not_kept() {
        let recent = RecentLines::default();
        let request = "2026-11-29T07:52:48.1Z  INFO settee::request: request method=GET path=\"/_node/_local/_logs\"";
        recent.push(Level::INFO, 0, request.as_bytes());
        recent.push(Level::WARN, 0, b"/_node/_local/_logs failed");
        recent.push(Level::INFO, 0, b"GET /db/_logs");
        assert_eq!(recent.find(any(9)).lines.len(), 2);
    }

    #[test]
    fn every_format_is_taken_apart() {
        let of = |line: &str| parse(line);
        let (target, text, fields) =
            of(r#"{"timestamp":"2026-11-29T07:52:48Z","level":"INFO","message":"hello","target":"settee","n":1}"#);
        assert_eq!(
            (target.as_str(), text.as_str(), fields["n"].as_u64(), fields.len()),
            ("settee", "hello", Some(1), 1)
        );
        for (line, target, text) in [
            ("2026-11-29T07:52:48.123456Z  INFO settee::a: hello n=1 why=x: y", "settee::a", "hello n=1 why=x: y"),
            (
                "\u{1b}[2m2026-11-29T07:52:48.1Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m \u{1b}[2mx::y\u{1b}[0m\u{1b}[2m:\u{1b}[0m hi",
                "x::y",
                "hi",
            ),
            ("07:52:48 GET /notes 200 1.2 ms ann", "settee::request", "GET /notes 200 1.2 ms ann"),
            ("12 lines of the log were dropped", "", "12 lines of the log were dropped"),
            ("2026-11-29T07:52:48Z", "", "2026-11-29T07:52:48Z"),
            ("\u{1b}[", "", ""),
            ("", "", ""),
        ] {
            assert_eq!(of(line), (target.into(), text.into(), Map::new()), "{line:?}");
        }
    }
}
