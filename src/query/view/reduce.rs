//! Reduce functions: CouchDB's built-in ones (`couch_query_servers:builtin_reduce`), and the JavaScript ones
//! of design documents.
//!
//! The caller passes rows in ascending order, several hundred at a time, and receives a *reduction*: JSON
//! text in a format private to this module. The caller merges several reductions, in the order of their rows,
//! into one, and converts the last one into the value that a client sees.

mod distinct;
mod stats;
mod sum;

use std::sync::Arc;

use serde_json::Value;

use self::distinct::Distinct;
use self::stats::{STATS_FAILED, Stats};
use super::map_function::MapFunction;
use super::reducer::Reducer;
use super::row::Row;
use crate::error::{Error, Result};
use crate::json::{elements, members, push_quoted, sort_key};
use crate::query::script::{Limits, Scripts};

/// The result of a reduction, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The value as JSON text.
    Value(String),
    /// A `reduce_overflow_error` with this reason.
    Overflow(String),
}

/// Reduces the rows of one map function. Calls block on scripts, so they must not run on an async thread.
pub(super) struct Reducing<'a> {
    pub scripts: &'a Scripts,
    pub database: u64,
    pub map: &'a MapFunction,
    /// The view or its design document, for messages about reductions that do not shrink.
    pub context: &'a str,
}

impl Reducing<'_> {
    /// Reduces rows with every reducer. Returns one reduction per reducer.
    pub fn all(&self, rows: &[Row]) -> Result<Vec<String>> {
        let scripted = self.run_scripts(&self.map.scripts, rows)?;
        let limits = self.scripts.limits();
        let one = |reducer: &Reducer| match reducer {
            Reducer::Script(at) => scripted.get(*at).cloned().unwrap_or_else(|| "null".into()),
            built_in => self::built_in(*built_in, rows, &limits, self.context),
        };
        Ok(self.map.reducers.iter().map(one).collect())
    }

    /// Reduces rows with one reducer.
    pub fn rows(&self, reducer: usize, rows: &[Row]) -> Result<String> {
        let reducer = self.map.reducers[reducer];
        let Reducer::Script(at) = reducer else {
            return Ok(built_in(reducer, rows, &self.scripts.limits(), self.context));
        };
        let function = Arc::new(vec![self.map.scripts[at].clone()]);
        let answer = self.run_scripts(&function, rows)?;
        Ok(answer.into_iter().next().unwrap_or_else(|| "null".into()))
    }

    fn run_scripts(&self, functions: &Arc<Vec<String>>, rows: &[Row]) -> Result<Vec<String>> {
        if functions.is_empty() {
            return Ok(Vec::new());
        }
        let bytes: usize = rows.iter().map(|row| row.bytes() + 16).sum();
        let mut text = String::with_capacity(bytes);
        for row in rows {
            text.push_str(if text.is_empty() { "[[[" } else { ",[[" });
            text.push_str(row.key());
            text.push(',');
            push_quoted(&mut text, row.id());
            text.push_str("],");
            text.push_str(row.value());
            text.push(']');
        }
        text.push_str(if text.is_empty() { "[]" } else { "]" });
        self.scripts.reduce(self.database, functions, text, self.context).wait()
    }

    /// Merges reductions, given in the order of their rows.
    pub fn merge(&self, reducer: usize, mut reductions: Vec<String>) -> Result<String> {
        if reductions.len() == 1 {
            return Ok(reductions.swap_remove(0));
        }
        let reducer = self.map.reducers[reducer];
        if let Reducer::Script(at) = reducer {
            // Runs this function alone: the caller has no reductions of the other functions.
            let functions = Arc::new(vec![self.map.scripts[at].clone()]);
            let values = format!("[{}]", reductions.join(","));
            let answer = self.scripts.rereduce(self.database, &functions, values, self.context).wait()?;
            return Ok(answer.into_iter().next().unwrap_or_else(|| "null".into()));
        }
        let mut state = State::new(reducer);
        for reduction in &reductions {
            state.merge(reduction);
        }
        Ok(state.encode(&self.scripts.limits(), self.context))
    }

    /// Converts a reduction into the result for the client.
    pub fn finish(&self, reducer: usize, reduction: String) -> Result<Outcome> {
        if self.map.reducers[reducer] == Reducer::Distinct {
            let mut state = Distinct::default();
            state.merge(&reduction);
            return Ok(Outcome::Value(state.estimate().to_string()));
        }
        if let Some((name, reason)) = members(&reduction).next() {
            let reason = || crate::json::string(reason).unwrap_or_default().into_owned();
            match (self.map.reducers[reducer], &*name) {
                (Reducer::Stats, STATS_FAILED) => {
                    return Err(Error::Script { word: "invalid_value".into(), reason: reason() });
                }
                (Reducer::Script(_), "reduce_overflow_error") => return Ok(Outcome::Overflow(reason())),
                _ => {}
            }
        }
        if self.map.reducers[reducer] == Reducer::Sum {
            let mut sum = elements(&reduction);
            return Ok(Outcome::Value(sum.nth(1).unwrap_or("null").to_owned()));
        }
        Ok(Outcome::Value(reduction))
    }
}

fn built_in(reducer: Reducer, rows: &[Row], limits: &Limits, context: &str) -> String {
    let mut state = State::new(reducer);
    for row in rows {
        state.row(row);
    }
    state.encode(limits, context)
}

/// The state of a built-in function while it reduces.
enum State {
    Sum { read: usize, sum: Value },
    Count(u64),
    Stats(Option<Stats>),
    Distinct(Distinct),
    Ranked { top: bool, most: usize, values: Vec<(Vec<u8>, String)> },
    First(Option<String>),
    Last(Option<String>),
}

impl State {
    fn new(reducer: Reducer) -> State {
        match reducer {
            Reducer::Sum => State::Sum { read: 0, sum: 0.into() },
            Reducer::Count | Reducer::Script(_) => State::Count(0),
            Reducer::Stats => State::Stats(None),
            Reducer::Distinct => State::Distinct(Distinct::default()),
            Reducer::Top(most) => State::Ranked { top: true, most, values: Vec::new() },
            Reducer::Bottom(most) => State::Ranked { top: false, most, values: Vec::new() },
            Reducer::First => State::First(None),
            Reducer::Last => State::Last(None),
        }
    }

    fn row(&mut self, row: &Row) {
        match self {
            State::Sum { read, sum } => {
                *read += row.value().len() + row.key().len();
                sum::add(sum, parse(row.value()));
            }
            State::Count(count) => *count += 1,
            State::Stats(stats) => Stats::take(stats, Stats::read(&parse(row.value()), 0)),
            State::Distinct(distinct) => distinct.insert(&sort_key(row.key())),
            State::Ranked { top, most, values } => rank(values, *top, *most, row.value()),
            State::First(first) => {
                first.get_or_insert_with(|| row.value().to_owned());
            }
            State::Last(last) => *last = Some(row.value().to_owned()),
        }
    }

    fn merge(&mut self, reduction: &str) {
        match self {
            State::Sum { read, sum } => {
                let mut parts = elements(reduction);
                *read += parts.next().and_then(|read| read.parse().ok()).unwrap_or(0);
                sum::add(sum, parse(parts.next().unwrap_or("0")));
            }
            State::Count(count) => *count += reduction.parse().unwrap_or(0),
            State::Stats(stats) => Stats::take(stats, Stats::decode(reduction)),
            State::Distinct(distinct) => distinct.merge(reduction),
            State::Ranked { top, most, values } => {
                elements(reduction).for_each(|value| rank(values, *top, *most, value));
            }
            State::First(first) => {
                first.get_or_insert_with(|| reduction.to_owned());
            }
            State::Last(last) => *last = Some(reduction.to_owned()),
        }
    }

    fn encode(self, limits: &Limits, context: &str) -> String {
        match self {
            State::Sum { read, sum } => format!("[{read},{}]", sum::shrunk(sum, read, limits, context)),
            State::Count(count) => count.to_string(),
            State::Stats(None) => Stats::default().encode(),
            State::Stats(Some(stats)) => stats.encode(),
            State::Distinct(distinct) => distinct.encode(),
            State::Ranked { values, .. } => {
                let values: Vec<String> = values.into_iter().map(|(_, value)| value).collect();
                format!("[{}]", values.join(","))
            }
            State::First(value) | State::Last(value) => value.unwrap_or_else(|| "null".into()),
        }
    }
}

fn parse(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(whole) => whole.into(),
        Err(_) => serde_json::from_str(text).unwrap_or_default(),
    }
}

/// Adds a value, and keeps the `most` greatest (or smallest) distinct values, sorted in that direction.
fn rank(values: &mut Vec<(Vec<u8>, String)>, top: bool, most: usize, value: &str) {
    let key = sort_key(value);
    let found = values.binary_search_by(|(other, _)| if top { key.cmp(other) } else { other.cmp(&key) });
    if let Err(at) = found
        && at < most
    {
        values.insert(at, (key, value.to_owned()));
        values.truncate(most);
    }
}

/// Reduces rows (id, key, value) with a built-in function, to try it out. Takes time in proportion to the size of the
/// values.
///
/// # Errors
/// [`Error::Script`] if there is no such function, or it fails.
pub fn try_built_in(
    scripts: &Scripts,
    database: u64,
    source: &str,
    rows: &[(String, String, String)],
) -> Result<Outcome> {
    let map = MapFunction::of(vec![Reducer::read(source, &mut Vec::new())?], Vec::new());
    let rows: Vec<Row> = rows.iter().map(|(id, key, value)| Row::loose(id, key, value)).collect();
    let reducing = Reducing { scripts, database, map: &map, context: source };
    let reduction = reducing.rows(0, &rows)?;
    reducing.finish(0, reduction)
}

#[cfg(test)]
mod tests;
