//! Reduce functions: CouchDB's built-in ones (`couch_query_servers:builtin_reduce`), and those of design documents.
//!
//! Whoever reduces hands over rows in ascending order, some hundred at a time, and gets a *reduction*, a JSON text that only
//! this file understands; several reductions, in the order of their rows, are merged into one, and the last one is finished
//! into what a client sees.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::{Value, json};

use super::definition::MapFunction;
use super::number::Num;
use super::read::Row;
use crate::error::{Error, Result};
use crate::json::{elements, members, push_quoted, sort_key};
use crate::query::script::{Limits, ReduceLimit, Scripts};

const SUM_ERROR: &str = "The _sum function requires that map values be numbers, arrays of numbers, or objects. Objects \
    cannot be mixed with other data structures. Objects can be arbitrarily nested, provided that the values for all \
    fields are themselves numbers, arrays of numbers, or objects.";

/// Values in `_top_N` and `_bottom_N` at most.
const MOST_RANKED: usize = 100;
/// How deep the values of `_sum` and `_stats` may nest.
const MOST_NESTED: usize = 64;

/// A reduce function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reducer {
    Sum,
    Count,
    Stats,
    Distinct,
    Top(usize),
    Bottom(usize),
    First,
    Last,
    /// JavaScript: the number in [`MapFunction::scripts`].
    Script(usize),
}

/// What a client sees of a reduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// JSON.
    Value(String),
    /// `reduce_overflow_error`, with this reason.
    Overflow(String),
}

impl Reducer {
    /// The function of this source; JavaScript goes into `scripts`.
    pub fn read(source: &str, scripts: &mut Vec<String>) -> Result<Reducer> {
        if !source.starts_with('_') {
            scripts.push(source.to_owned());
            return Ok(Reducer::Script(scripts.len() - 1));
        }
        let ranked = |rest: &str| rest.parse().ok().filter(|count| (1..=MOST_RANKED).contains(count));
        let unknown = || Error::Script {
            word: "invalid_design_doc".into(),
            reason: format!("`{source}` is not a supported reduce function."),
        };
        if let Some(rest) = source.strip_prefix("_top_") {
            return ranked(rest).map(Reducer::Top).ok_or_else(unknown);
        }
        if let Some(rest) = source.strip_prefix("_bottom_") {
            return ranked(rest).map(Reducer::Bottom).ok_or_else(unknown);
        }
        [
            ("_sum", Reducer::Sum),
            ("_count", Reducer::Count),
            ("_stats", Reducer::Stats),
            ("_approx_count_distinct", Reducer::Distinct),
            ("_first", Reducer::First),
            ("_last", Reducer::Last),
        ]
        .into_iter()
        .find_map(|(name, reducer)| source.starts_with(name).then_some(reducer))
        .ok_or_else(unknown)
    }
}

/// Reduces the rows of one map function. Calls wait for scripts: never on an async thread.
pub(super) struct Reducing<'a> {
    pub scripts: &'a Scripts,
    pub database: u64,
    pub map: &'a MapFunction,
    /// Names the view where a reduction does not shrink.
    pub context: &'a str,
}

impl Reducing<'_> {
    /// The reduction of rows, one per reducer.
    pub fn all(&self, rows: &[Row]) -> Result<Vec<String>> {
        let scripted = self.run_scripts(&self.map.scripts, rows)?;
        let limits = self.scripts.limits();
        let one = |reducer: &Reducer| match reducer {
            Reducer::Script(at) => scripted.get(*at).cloned().unwrap_or_else(|| "null".into()),
            built_in => self::built_in(*built_in, rows, &limits, self.context),
        };
        Ok(self.map.reducers.iter().map(one).collect())
    }

    /// The reduction of rows by one reducer.
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
        let bytes: usize = rows.iter().map(|row| row.id.len() + row.key.len() + row.value.len() + 16).sum();
        let mut text = String::with_capacity(bytes);
        for row in rows {
            text.push_str(if text.is_empty() { "[[[" } else { ",[[" });
            text.push_str(&row.key);
            text.push(',');
            push_quoted(&mut text, &row.id);
            text.push_str("],");
            text.push_str(&row.value);
            text.push(']');
        }
        text.push_str(if text.is_empty() { "[]" } else { "]" });
        self.scripts.reduce(self.database, functions, text, self.context).wait()
    }

    /// One reduction of several, whose rows stand in this order.
    pub fn merge(&self, reducer: usize, mut reductions: Vec<String>) -> Result<String> {
        if reductions.len() == 1 {
            return Ok(reductions.swap_remove(0));
        }
        let reducer = self.map.reducers[reducer];
        if let Reducer::Script(at) = reducer {
            // Each function is asked by itself: the others' reductions are not at hand.
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

    /// What a client sees.
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

/// A built-in function at work.
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
                *read += row.value.len() + row.key.len();
                add(sum, parse(&row.value));
            }
            State::Count(count) => *count += 1,
            State::Stats(stats) => Stats::take(stats, Stats::read(&parse(&row.value), 0)),
            State::Distinct(distinct) => distinct.insert(&sort_key(&row.key)),
            State::Ranked { top, most, values } => rank(values, *top, *most, &row.value),
            State::First(first) => {
                first.get_or_insert_with(|| row.value.clone());
            }
            State::Last(last) => *last = Some(row.value.clone()),
        }
    }

    fn merge(&mut self, reduction: &str) {
        match self {
            State::Sum { read, sum } => {
                let mut parts = elements(reduction);
                *read += parts.next().and_then(|read| read.parse().ok()).unwrap_or(0);
                add(sum, parse(parts.next().unwrap_or("0")));
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
            State::Sum { read, sum } => format!("[{read},{}]", shrunk(sum, read, limits, context)),
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

fn sum_error(cause: &Value) -> Value {
    json!({"error": "builtin_reduce_error", "reason": SUM_ERROR, "caused_by": cause})
}

fn is_error(value: &Value) -> bool {
    value.get("error").and_then(Value::as_str) == Some("builtin_reduce_error")
}

/// A sum that grows with its rows is refused (`check_sum_overflow`).
fn shrunk(mut sum: Value, read: usize, limits: &Limits, context: &str) -> Value {
    if sum.is_number() || is_error(&sum) {
        return sum;
    }
    sum.sort_all_objects();
    let output = sum.to_string().len();
    let too_large = output > limits.reduce_limit_threshold && output as f64 * limits.reduce_limit_ratio > read as f64;
    if !too_large || limits.reduce_limit == ReduceLimit::Off {
        return sum;
    }
    let reason =
        format!("Reduce output must shrink more rapidly: input size: {read} output size: {output} context: {context}");
    tracing::warn!(target: "settee::script", "builtin_reduce_error: {reason}");
    match limits.reduce_limit {
        ReduceLimit::On => json!({"error": "builtin_reduce_error", "reason": reason}),
        ReduceLimit::Off | ReduceLimit::Log => sum,
    }
}

/// `sum_values`; an error stays.
fn add(sum: &mut Value, value: Value) {
    if is_error(sum) {
        return;
    }
    if let Err(error) = add_into(sum, value, 0) {
        *sum = error;
    }
}

/// In place, so that many objects cost no more than their members together.
fn add_into(sum: &mut Value, value: Value, depth: usize) -> std::result::Result<(), Value> {
    if depth > MOST_NESTED {
        return Err(sum_error(&Value::Null));
    }
    match (&mut *sum, value) {
        (Value::Number(one), Value::Number(two)) => *sum = Num::read(one).add(Num::read(&two)).to_value(),
        (Value::Array(one), Value::Array(two)) => add_arrays(one, two)?,
        (Value::Array(one), two @ Value::Number(_)) => add_arrays(one, vec![two])?,
        (Value::Number(_), Value::Array(two)) => {
            let mut all = vec![sum.take()];
            add_arrays(&mut all, two)?;
            *sum = Value::Array(all);
        }
        (_, error @ Value::Object(_)) if is_error(&error) => return Err(error),
        (Value::Number(zero), object @ Value::Object(_)) if zero.as_i64() == Some(0) => *sum = object,
        (Value::Object(one), Value::Object(two)) => {
            for (name, value) in two {
                match one.get_mut(&name) {
                    Some(inner) => add_into(inner, value, depth + 1)?,
                    None => {
                        one.insert(name, value);
                    }
                }
            }
        }
        (_, other) => return Err(sum_error(&other)),
    }
    Ok(())
}

fn add_arrays(sums: &mut Vec<Value>, values: Vec<Value>) -> std::result::Result<(), Value> {
    for (at, value) in values.into_iter().enumerate() {
        match sums.get_mut(at) {
            None => sums.push(value),
            Some(sum) => match (Num::of(sum), Num::of(&value)) {
                (Some(one), Some(two)) => *sum = one.add(two).to_value(),
                _ => return Err(sum_error(&Value::Array(vec![value, sum.clone()]))),
            },
        }
    }
    Ok(())
}

/// Stands for statistics that cannot be made; the query fails with its reason.
const STATS_FAILED: &str = "stats_error";

#[derive(Debug, Clone)]
enum Stats {
    Of { sum: Num, count: Num, min: Num, max: Num, squares: Num },
    Each(Vec<Stats>),
    Failed(String),
}

impl Default for Stats {
    fn default() -> Stats {
        let zero = Num::Int(0);
        Stats::Of { sum: zero, count: zero, min: zero, max: zero, squares: zero }
    }
}

impl Stats {
    /// A row's value: a number, statistics that somebody made before, or arrays of these.
    fn read(value: &Value, depth: usize) -> Stats {
        match value {
            Value::Number(number) => {
                let number = Num::read(number);
                Stats::Of { sum: number, count: Num::Int(1), min: number, max: number, squares: number.square() }
            }
            Value::Array(values) if depth < MOST_NESTED => {
                Stats::Each(values.iter().map(|value| Stats::read(value, depth + 1)).collect())
            }
            Value::Object(members) => {
                let get = |name: &str| match members.get(name) {
                    Some(value) => {
                        Num::of(value).ok_or_else(|| format!("non-numeric _stats input received for {name}: {value}"))
                    }
                    None => Err(format!("user _stats input missing required field {name} ({value})")),
                };
                let read = || -> std::result::Result<Stats, String> {
                    let (sum, count) = (get("sum")?, get("count")?);
                    Ok(Stats::Of { sum, count, min: get("min")?, max: get("max")?, squares: get("sumsqr")? })
                };
                read().unwrap_or_else(Stats::Failed)
            }
            other => Stats::Failed(format!(
                "The _stats function requires that map values be numbers or arrays of numbers, not '{other}'"
            )),
        }
    }

    fn take(all: &mut Option<Stats>, more: Stats) {
        *all = Some(match all.take() {
            None => more,
            Some(before) => before.with(more),
        });
    }

    fn with(self, other: Stats) -> Stats {
        match (self, other) {
            (Stats::Failed(reason), _) | (_, Stats::Failed(reason)) => Stats::Failed(reason),
            (
                Stats::Of { sum, count, min, max, squares },
                Stats::Of { sum: sum2, count: count2, min: min2, max: max2, squares: squares2 },
            ) => Stats::Of {
                sum: sum.add(sum2),
                count: count.add(count2),
                min: min.min(min2),
                max: max.max(max2),
                squares: squares.add(squares2),
            },
            (Stats::Each(one), Stats::Each(two)) if one.len() == two.len() => {
                Stats::Each(one.into_iter().zip(two).map(|(one, two)| one.with(two)).collect())
            }
            _ => Stats::Failed(
                "The _stats function requires that map values be numbers or arrays of numbers, all of the same shape"
                    .into(),
            ),
        }
    }

    fn to_value(&self) -> std::result::Result<Value, String> {
        match self {
            Stats::Of { sum, count, min, max, squares } => Ok(json!({
                "sum": sum.to_value(),
                "count": count.to_value(),
                "min": min.to_value(),
                "max": max.to_value(),
                "sumsqr": squares.to_value(),
            })),
            Stats::Each(all) => {
                all.iter().map(Stats::to_value).collect::<std::result::Result<Vec<Value>, _>>().map(Value::Array)
            }
            Stats::Failed(reason) => Err(reason.clone()),
        }
    }

    fn encode(&self) -> String {
        match self.to_value() {
            Ok(value) => value.to_string(),
            Err(reason) => json!({ STATS_FAILED: reason }).to_string(),
        }
    }

    fn decode(reduction: &str) -> Stats {
        let value: Value = serde_json::from_str(reduction).unwrap_or_default();
        match value.get(STATS_FAILED).and_then(Value::as_str) {
            Some(reason) => Stats::Failed(reason.to_owned()),
            None => Stats::read(&value, 0),
        }
    }
}

/// Keeps the `most` greatest (or least) different values, in that order.
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

/// How many different keys, about: a HyperLogLog of 2^14 registers, estimated after Ertl (arXiv 1702.01284), whose error is
/// under one percent whatever the number. Only registers that are not zero are kept.
#[derive(Debug, Default)]
struct Distinct {
    registers: HashMap<u16, u8>,
}

impl Distinct {
    const BITS: u32 = 14;
    const REGISTERS: f64 = (1 << Distinct::BITS) as f64;
    /// Ranks that a register can have beside 0.
    const RANKS: usize = 64 - Distinct::BITS as usize + 1;

    fn insert(&mut self, key: &[u8]) {
        let hash = hash(key);
        let register = (hash >> (64 - Distinct::BITS)) as u16;
        let rank = ((hash << Distinct::BITS).leading_zeros() + 1).min(Distinct::RANKS as u32) as u8;
        self.raise(register, rank);
    }

    fn raise(&mut self, register: u16, rank: u8) {
        let kept = self.registers.entry(register).or_default();
        *kept = rank.max(*kept);
    }

    fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(self.registers.len() * 3);
        let mut all: Vec<(&u16, &u8)> = self.registers.iter().collect();
        all.sort_unstable();
        for (register, rank) in all {
            bytes.extend_from_slice(&register.to_be_bytes());
            bytes.push(*rank);
        }
        format!("\"{}\"", STANDARD_NO_PAD.encode(bytes))
    }

    fn merge(&mut self, reduction: &str) {
        let bytes = STANDARD_NO_PAD.decode(reduction.trim_matches('"')).unwrap_or_default();
        for entry in bytes.chunks_exact(3) {
            let register = u16::from_be_bytes([entry[0], entry[1]]);
            if u32::from(register) < 1 << Distinct::BITS && usize::from(entry[2]) <= Distinct::RANKS {
                self.raise(register, entry[2]);
            }
        }
    }

    fn estimate(&self) -> u64 {
        let mut counts = [0.0_f64; Distinct::RANKS + 1];
        self.registers.values().for_each(|rank| counts[usize::from(*rank)] += 1.0);
        counts[0] = Distinct::REGISTERS - self.registers.len() as f64;
        let m = Distinct::REGISTERS;
        let mut z = m * tau(1.0 - counts[Distinct::RANKS] / m);
        for count in counts[1..Distinct::RANKS].iter().rev() {
            z = 0.5 * (z + count);
        }
        z += m * sigma(counts[0] / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// FNV-1a with MurmurHash3's finish: it is stored, so it must stay the same.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: &str) -> Row {
        Row { spot: Vec::new(), id: "a".into(), key: key.into(), value: value.into() }
    }

    /// What a client sees, whether the rows are reduced at once or apart and merged.
    fn reduced(source: &str, values: &[&str]) -> String {
        let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
        let mut sources = Vec::new();
        let reducer = Reducer::read(source, &mut sources).unwrap();
        let map = MapFunction::of(vec![reducer], sources);
        let reducing = Reducing { scripts: &scripts, database: 1, map: &map, context: "d/v" };
        let rows: Vec<Row> = values.iter().map(|value| row("1", value)).collect();
        let whole = reducing.rows(0, &rows).unwrap();
        let parts: Vec<String> = rows.chunks(2).map(|rows| reducing.rows(0, rows).unwrap()).collect();
        let merged = reducing.merge(0, parts).unwrap();
        let see = |reduction| match reducing.finish(0, reduction) {
            Ok(Outcome::Value(value)) => value,
            Ok(Outcome::Overflow(reason)) => format!("overflow {reason}"),
            Err(error) => format!("error {error}"),
        };
        let (whole, merged) = (see(whole), see(merged));
        assert_eq!(whole, merged, "{source} {values:?}");
        whole
    }

    #[test]
    fn built_in_functions() {
        for (source, values, expected) in [
            ("_count", &["1", "null", "{}"][..], "3"),
            ("_sum", &["1", "2", "3"], "6"),
            ("_sum", &["1", "0.5", "-3"], "-1.5"),
            ("_sum", &["9007199254740993", "1"], "9007199254740994"),
            ("_sum", &["[1,2]", "[3]", "1"], "[5,2]"),
            (
                "_sum",
                &[r#"{"a":1,"b":{"c":2}}"#, r#"{"b":{"c":3},"d":[1]}"#, r#"{"d":[1,1]}"#],
                r#"{"a":1,"b":{"c":5},"d":[2,1]}"#,
            ),
            ("_stats", &["1", "2", "3"], r#"{"sum":6,"count":3,"min":1,"max":3,"sumsqr":14}"#),
            ("_stats", &["-1.5", "2"], r#"{"sum":0.5,"count":2,"min":-1.5,"max":2,"sumsqr":6.25}"#),
            (
                "_stats",
                &["[1,10]", "[2,20]", "[3,30]"],
                r#"[{"sum":6,"count":3,"min":1,"max":3,"sumsqr":14},{"sum":60,"count":3,"min":10,"max":30,"sumsqr":1400}]"#,
            ),
            (
                "_stats",
                &["1", r#"{"sum":5,"count":2,"min":2,"max":3,"sumsqr":13}"#, "4"],
                r#"{"sum":10,"count":4,"min":1,"max":4,"sumsqr":30}"#,
            ),
            ("_top_2", &["1", "3", "2", "3"], "[3,2]"),
            ("_bottom_2", &["1", "\"a\"", "null", "null"], "[null,1]"),
            ("_first", &["1", "3", "2"], "1"),
            ("_last", &["1", "3", "2"], "2"),
            ("_approx_count_distinct", &["1", "3", "2"], "1"),
            ("function (keys, values, rereduce) { return sum(values); }", &["1", "2", "4"], "7"),
        ] {
            assert_eq!(reduced(source, values), expected, "{source} {values:?}");
        }
    }

    #[test]
    fn what_cannot_be_reduced() {
        let sum = reduced("_sum", &["1", "\"x\"", "2"]);
        assert!(sum.starts_with(r#"{"error":"builtin_reduce_error","reason":"The _sum function"#), "{sum}");
        assert!(reduced("_stats", &["1", "null"]).starts_with("error The _stats function requires"));
        let wide: Vec<String> = (0..2000).map(|n| format!(r#"{{"member{n}":1}}"#)).collect();
        let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
        let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
        let map = MapFunction::of(vec![Reducer::Sum], Vec::new());
        let reducing = Reducing { scripts: &scripts, database: 1, map: &map, context: "d/v" };
        let rows: Vec<Row> = wide.iter().map(|value| row("1", value)).collect();
        let Outcome::Value(sum) = reducing.finish(0, reducing.rows(0, &rows).unwrap()).unwrap() else { panic!() };
        assert!(sum.contains("must shrink more rapidly"), "{sum}");
        let grows = "function () { return Array(6000).join('x'); }";
        assert!(reduced(grows, &["1", "2"]).starts_with("overflow Reduce output must shrink"));
    }

    #[test]
    fn distinct_keys_are_counted_within_two_percent() {
        let mut distinct = Distinct::default();
        for count in 1..=100_000_u64 {
            distinct.insert(&sort_key(&format!("\"key{count}\"")));
            if [1, 10, 100, 1000, 10_000, 40_000, 70_000, 100_000].contains(&count) {
                let error = (distinct.estimate() as f64 - count as f64).abs() / count as f64;
                assert!(error < 0.02, "{} for {count}", distinct.estimate());
            }
        }
        let mut again = Distinct::default();
        again.merge(&distinct.encode());
        assert_eq!(again.estimate(), distinct.estimate());
    }
}
