//! Runs queries between random changes, and compares them with all rows of all documents, sorted and reduced
//! at once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tests::Bench;
use super::*;
use crate::db::Wanted;
use crate::error::{Error, Result};
use crate::json::compare;
use crate::query::script::{Limits, Scripts};
use crate::store::Direction;

/// The rows that a document emits.
type Rows = Vec<(u8, u32)>;
type Model = BTreeMap<String, Rows>;

#[derive(Debug, Clone)]
enum Step {
    /// Writes this number of documents, each with this number of rows.
    Fill(u8, u8),
    /// Writes documents, by number; `None` deletes the document.
    Edit(Vec<(u8, Option<Rows>)>),
    Purge(Vec<u8>),
    Compact,
    CompactDatabase,
    /// Loses the entries in memory.
    Reopen,
    Ask(Value),
    /// Queries the reduce view.
    Reduce(Value),
    /// Begins a query that is read while other steps run.
    Begin(bool),
    Page(usize),
}

/// Few different keys, so that rows have equal keys.
fn key(number: u8) -> Value {
    match number % 24 {
        number @ 0..6 => json!(number),
        number @ 6..9 => json!("x".repeat(number.into())),
        number @ 9..12 => json!([number / 11]),
        number => json!([number % 3, number / 2]),
    }
}

/// Some ids are prefixes of others.
fn id(number: u8) -> String {
    format!("d{}", u32::from(number % 50).pow(2) % 211)
}

fn rows() -> impl Strategy<Value = Rows> {
    proptest::collection::vec((any::<u8>(), 0..9_u32), 0..40)
}

fn params(reduced: bool) -> impl Strategy<Value = Value> {
    let some = |strategy: BoxedStrategy<Value>| proptest::option::weighted(0.4, strategy);
    let a_key = || any::<u8>().prop_map(key).boxed();
    let an_id = || any::<u8>().prop_map(|number| json!(id(number))).boxed();
    let number = |most: u32| (0..most).prop_map(|number| json!(number)).boxed();
    let flag = || any::<bool>().prop_map(|flag| json!(flag)).boxed();
    let ends = (some(a_key()), some(a_key()), some(an_id()), some(an_id()));
    let keys = proptest::option::weighted(0.2, proptest::collection::vec(a_key(), 2..5));
    let level = prop_oneof![Just(json!({})), Just(json!({"group": true})), Just(json!({"group_level": 1}))];
    (ends, keys, some(number(900)), some(number(50)), some(flag()), some(flag()), level).prop_map(
        move |((start, end, start_id, end_id), keys, skip, limit, descending, inclusive, level)| {
            let mut all = Map::new();
            let mut put = |name: &str, value: Option<Value>| {
                value.map(|value| all.insert(name.to_owned(), value));
            };
            match keys {
                // The same key twice in a row would be two groups.
                Some(mut keys) => {
                    keys.dedup();
                    put("keys", Some(json!(keys)));
                }
                None => {
                    put("startkey", start);
                    put("endkey", end);
                    put("startkey_docid", start_id);
                    put("endkey_docid", end_id);
                }
            }
            put("skip", skip);
            put("limit", limit);
            put("descending", descending);
            put("inclusive_end", inclusive);
            if reduced {
                let level = if all.contains_key("keys") { json!({"group": true}) } else { level };
                all.extend(level.as_object().cloned().unwrap_or_default());
            }
            Value::Object(all)
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let edit = (any::<u8>(), proptest::option::weighted(0.7, rows()));
    prop_oneof![
        2 => (1..50_u8, 1..60_u8).prop_map(|(documents, rows)| Step::Fill(documents, rows)),
        6 => proptest::collection::vec(edit, 1..12).prop_map(Step::Edit),
        1 => proptest::collection::vec(any::<u8>(), 1..9).prop_map(Step::Purge),
        1 => Just(Step::Compact),
        1 => Just(Step::CompactDatabase),
        1 => Just(Step::Reopen),
        6 => params(false).prop_map(Step::Ask),
        6 => params(true).prop_map(Step::Reduce),
        1 => any::<bool>().prop_map(Step::Begin),
        2 => (1..400_usize).prop_map(Step::Page),
    ]
}

fn by_text(one: &str, other: &str) -> Ordering {
    compare(one, other)
}

/// A row of the model: key, document id, value.
type Told = (String, String, u32);

fn all_rows(model: &Model) -> Vec<Told> {
    let mut all: Vec<Told> = model
        .iter()
        .flat_map(|(id, rows)| rows.iter().map(|(number, n)| (key(*number).to_string(), id.clone(), *n)))
        .collect();
    all.sort_by(|one, two| by_text(&one.0, &two.0).then((&one.1, one.2).cmp(&(&two.1, two.2))));
    all
}

fn text((key, id, n): &Told) -> String {
    format!("{key} {n} {id}")
}

/// The rows that a query selects, in its order, and the number of rows before them.
fn asked(all: &[Told], params: &Value) -> (Vec<Told>, usize) {
    let descending = params["descending"] == true;
    let inclusive = params["inclusive_end"] != false;
    let within = |start: &Value, end: &Value| {
        // Position of a row relative to an end of the range, in the order of the query.
        let place = |row: &Told, key: &Value, id: &Value, without: Ordering| {
            let by_id = || id.as_str().map_or(without, |id| row.1.as_str().cmp(id));
            let order = by_text(&row.0, &key.to_string()).then_with(by_id);
            if descending { order.reverse() } else { order }
        };
        let (start_id, end_id) = (&params["startkey_docid"], &params["endkey_docid"]);
        let (mut rows, mut before) = (Vec::new(), 0);
        let order: Vec<&Told> = if descending { all.iter().rev().collect() } else { all.iter().collect() };
        for row in order {
            // Without an id, all rows with the end's key are included; without `inclusive_end`, none are.
            let equal = |is_in: bool| if is_in { Ordering::Equal } else { Ordering::Greater };
            let begun = start.is_null() || place(row, start, start_id, Ordering::Equal).is_ge();
            let at_end = match end.is_null() {
                true => Ordering::Less,
                false => by_text(&row.0, &end.to_string()),
            };
            let at_end = if descending && !end.is_null() { at_end.reverse() } else { at_end };
            let by_id = || match end_id.as_str() {
                Some(id) if descending => id.cmp(row.1.as_str()),
                Some(id) => row.1.as_str().cmp(id),
                None => equal(inclusive),
            };
            let at_end = at_end.then_with(by_id);
            let ended = if inclusive { at_end.is_gt() } else { at_end.is_ge() };
            if begun && !ended {
                rows.push(row.clone());
            }
            before += usize::from(!begun);
        }
        (rows, before)
    };
    match params["keys"].as_array() {
        Some(keys) => {
            let mut keys: Vec<&Value> = keys.iter().collect();
            if descending {
                keys.reverse();
            }
            (keys.into_iter().flat_map(|key| within(key, key).0).collect(), 0)
        }
        None => within(&params["startkey"], &params["endkey"]),
    }
}

fn part<T: Clone>(rows: &[T], params: &Value) -> Vec<T> {
    let number = |name: &str, default: u64| params[name].as_u64().unwrap_or(default) as usize;
    rows.iter().skip(number("skip", 0)).take(number("limit", u32::MAX.into())).cloned().collect()
}

fn groups(rows: &[Told], params: &Value) -> Vec<String> {
    let key = |text: &str| -> Value {
        let key: Value = serde_json::from_str(text).unwrap();
        match (&key, &params["group_level"], &params["group"]) {
            (Value::Array(elements), Value::Number(_), _) => json!(elements[..1]),
            (_, Value::Number(_), _) | (_, _, Value::Bool(true)) => key,
            _ => Value::Null,
        }
    };
    let mut groups: Vec<(Value, u32)> = Vec::new();
    for (text, _, n) in rows {
        let key = key(text);
        match groups.last_mut().filter(|(group, _)| *group == key) {
            Some((_, sum)) => *sum += n,
            None => groups.push((key, *n)),
        }
    }
    groups.into_iter().map(|(key, sum)| format!("{key} {sum}")).collect()
}

/// A query in progress and the rows that it still has to return.
struct Under {
    rows: MapRows,
    left: Vec<String>,
}

struct World {
    bench: Bench,
    model: Model,
    under: Option<Under>,
}

impl World {
    async fn change(&mut self, id: String, rows: Option<Rows>) {
        let found = self.bench.database.find(&id, Wanted::Winner).ok().map(|found| found.revision);
        match rows {
            Some(rows) => {
                let emitted: Vec<Value> = rows.iter().map(|(number, n)| json!([key(*number), n])).collect();
                self.bench.edit(&id, found.as_ref(), false, json!({"e": emitted})).await;
                self.model.insert(id, rows);
            }
            None => {
                if let Some(found) = found {
                    self.bench.edit(&id, Some(&found), true, json!({})).await;
                }
                self.model.remove(&id);
            }
        }
    }

    async fn take(&mut self, step: Step) {
        let (database, model) = (self.bench.database.clone(), &self.model);
        match step {
            Step::Fill(documents, rows) => {
                for number in 0..documents {
                    let rows = (0..rows).map(|row| (row.wrapping_mul(number), u32::from(row % 9))).collect();
                    self.change(id(number), Some(rows)).await;
                }
            }
            Step::Edit(edits) => {
                for (number, rows) in edits {
                    self.change(id(number), rows).await;
                }
            }
            Step::Purge(numbers) => {
                for number in numbers {
                    let id = id(number);
                    let Ok(found) = database.find(&id, Wanted::Winner) else { continue };
                    database.purge(vec![(id.clone(), vec![found.revision])]).await.unwrap();
                    self.model.remove(&id);
                }
            }
            Step::Compact => {
                let definition = self.bench.views.definition(&database, "_design/d").unwrap();
                self.bench.views.compact(&database, &definition).await.unwrap();
            }
            Step::CompactDatabase => database.compact(&|_, _| {}).await.unwrap(),
            Step::Reopen => {
                self.under = None;
                self.bench.views = Views::new(Scripts::new(Limits { threads: 1, ..Limits::default() }));
            }
            Step::Ask(params) => {
                let all = all_rows(model);
                let (rows, before) = asked(&all, &params);
                match self.refused(&rows, self.bench.ask("d", "all", params.clone()).await) {
                    None => {}
                    Some((found, told)) => {
                        let expected: Vec<String> = part(&rows, &params).iter().map(text).collect();
                        assert_eq!(found, expected, "{params}");
                        if params["keys"].is_null() {
                            let skip = params["skip"].as_u64().unwrap_or(0) as usize;
                            let offset = (before + skip).min(all.len());
                            assert_eq!(told, format!("{offset}/{}", all.len()), "{params}");
                        }
                    }
                }
            }
            Step::Reduce(params) => {
                let (rows, _) = asked(&all_rows(model), &params);
                if let Some((found, _)) = self.refused(&rows, self.bench.ask("d", "sum", params.clone()).await) {
                    assert_eq!(found, part(&groups(&rows, &params), &params), "{params}");
                }
            }
            Step::Begin(descending) => {
                let definition = self.bench.views.definition(&database, "_design/d").unwrap();
                let view = definition.view("all").unwrap();
                let mut params = Params::default();
                params.set_all(json!({"descending": descending}).as_object().unwrap()).unwrap();
                let plan = params.plan(&definition, view, None).unwrap();
                let reading =
                    self.bench.views.update(&database, &definition, std::sync::Arc::new(|_, _| {})).await.unwrap();
                assert_eq!(plan.direction() == Direction::Backward, descending);
                let mut left: Vec<String> = all_rows(model).iter().map(text).collect();
                if !descending {
                    left.reverse();
                }
                self.under = Some(Under { rows: self.bench.views.map_rows(reading, view, &plan), left });
            }
            Step::Page(most) => {
                let Some(under) = &mut self.under else { return };
                let page = under.rows.next(most).unwrap();
                let last = under.left.split_off(under.left.len().saturating_sub(page.len()));
                let found: Vec<String> =
                    page.iter().map(|row| format!("{} {} {}", row.key(), row.value(), row.id())).collect();
                assert_eq!(found, last.into_iter().rev().collect::<Vec<_>>());
                assert!(!page.is_empty() || under.left.is_empty());
            }
        }
    }

    /// A range whose end is before its start is rejected, and has no rows.
    fn refused<T>(&self, rows: &[Told], answer: Result<T>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(Error::QueryParse(reason)) => {
                assert!(reason.starts_with("No rows can match") && rows.is_empty(), "{reason}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn queries_equal_the_model(steps in proptest::collection::vec(step(), 5..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let map = "function (doc) { (doc.e || []).forEach(function (e) { emit(e[0], e[1]); }); }";
            let design = json!({"views": {"all": {"map": map}, "sum": {"map": map, "reduce": "_sum"}}});
            let bench = Bench::new(false);
            bench.edit("_design/d", None, false, design).await;
            let mut world = World { bench, model: Model::new(), under: None };
            for step in steps {
                world.take(step).await;
            }
        });
    }
}
