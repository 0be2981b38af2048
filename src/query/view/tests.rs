//! Views on the in-memory store, compared with a simple model: all rows of all documents, sorted and reduced
//! at once.

use std::sync::Arc;

use serde_json::{Value, json};

use super::reduce::Outcome;
use super::*;
use crate::clock::Clock;
use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode};
use crate::error::{Error, Result};
use crate::query::cleanup::clean_up;
use crate::query::script::{Limits, Scripts};
use crate::rev::Revision;

pub(super) struct Bench {
    pub views: Views,
    pub database: Arc<Database>,
    databases: Arc<Databases>,
}

impl Bench {
    pub fn new(partitioned: bool) -> Bench {
        let store = Arc::new(crate::store::memory::Memory::new());
        let blobs = Arc::new(crate::store::MemoryBlobs::new());
        let databases = Databases::open(store, blobs, Clock::fixed(std::time::Duration::from_secs(1))).unwrap();
        let options = CreateOptions { partitioned, ..CreateOptions::default() };
        let database = databases.create("db", options, None).unwrap();
        let scripts = Scripts::new(Limits { threads: 2, ..Limits::default() });
        Bench { views: Views::new(scripts), database, databases }
    }

    pub async fn edit(&self, id: &str, parent: Option<&Revision>, deleted: bool, json: Value) -> Revision {
        let incoming = Incoming {
            id: id.into(),
            parent: parent.cloned(),
            path: (0, Vec::new()),
            deleted,
            json: json.to_string(),
            attachments: Vec::new(),
        };
        self.database.update(vec![incoming], Mode::Interactive, &AllowAll).await.unwrap().remove(0).unwrap()
    }

    async fn fill(&self, documents: Vec<(String, Value)>) {
        for some in documents.chunks(500) {
            let edits = some.iter().map(|(id, json)| Incoming::created(id.clone(), json.to_string())).collect();
            self.database.update(edits, Mode::Interactive, &AllowAll).await.unwrap();
        }
    }

    /// Queries a view. Returns its rows as `key value id` and `offset/total`, or its groups as `key value`.
    pub async fn ask(&self, design: &str, view: &str, params: Value) -> Result<(Vec<String>, String)> {
        let definition = self.views.definition(&self.database, &format!("_design/{design}"))?;
        let place = definition.view(view)?;
        let mut asked = Params::default();
        asked.set_all(params.as_object().unwrap())?;
        let plan = asked.plan(&definition, place, None)?;
        let reading = self.views.update(&self.database, &definition, Arc::new(|_, _| {})).await?;
        let mut rows = Vec::new();
        if let Kind::Reduce { .. } = plan.kind {
            let mut groups = self.views.grouped(reading, place, &plan, view);
            return crate::blocking::blocking(move || {
                loop {
                    let page = groups.next(7)?;
                    if page.is_empty() {
                        return Ok((rows, String::new()));
                    }
                    for row in page {
                        let Outcome::Value(value) = row.outcome else { panic!("{:?}", row.outcome) };
                        rows.push(format!("{} {value}", row.key.as_deref().unwrap_or("null")));
                    }
                }
            })
            .await;
        }
        let mut found = self.views.map_rows(reading, place, &plan);
        let (total, offset) = found.total_and_offset()?;
        loop {
            let page = found.next(7)?;
            if page.is_empty() {
                return Ok((rows, format!("{offset}/{total}")));
            }
            rows.extend(page.into_iter().map(|row| format!("{} {} {}", row.key(), row.value(), row.id())));
        }
    }

    async fn rows(&self, view: &str, params: Value) -> Vec<String> {
        self.ask("d", view, params).await.unwrap().0
    }
}

fn design() -> Value {
    json!({"views": {
        "all": {"map": "function (doc) { emit(doc.k, doc.n); }"},
        "sum": {"map": "function (doc) { emit(doc.k, doc.n); }", "reduce": "_sum"},
        "count": {"map": "function (doc) { emit(doc.k, doc.n); }", "reduce": "_count"},
        "script": {
            "map": "function (doc) { emit(doc.k, doc.n); }",
            "reduce": "function (keys, values, rereduce) { return sum(values); }"
        },
        "twice": {"map": "function (doc) { emit(doc.n, 2); emit(doc.n, 1); if (doc.n > 1) throw 'no'; }"},
        "raw": {"map": "function (doc) { emit(doc._id); }", "options": {"collation": "raw"}}
    }})
}

#[tokio::test]
async fn rows_follow_their_documents() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    let a = bench.edit("a", None, false, json!({"k": "x", "n": 1})).await;
    let b = bench.edit("b", None, false, json!({"k": ["x"], "n": 2})).await;
    assert_eq!(bench.rows("all", json!({})).await, ["\"x\" 1 a", "[\"x\"] 2 b"]);
    assert_eq!(bench.rows("sum", json!({})).await, ["null 3"]);
    assert_eq!(bench.rows("twice", json!({})).await, ["1 1 a", "1 2 a"]);

    let a = bench.edit("a", Some(&a), false, json!({"k": 7, "n": 10})).await;
    assert_eq!(bench.rows("all", json!({})).await, ["7 10 a", "[\"x\"] 2 b"]);
    assert_eq!(bench.rows("twice", json!({})).await, Vec::<String>::new());
    bench.edit("b", Some(&b), true, json!({})).await;
    assert_eq!(bench.rows("script", json!({})).await, ["null 10"]);

    bench.database.purge(vec![("a".into(), vec![a])]).await.unwrap();
    assert_eq!(bench.ask("d", "all", json!({})).await.unwrap(), (Vec::new(), "0/0".to_owned()));
    assert_eq!(bench.rows("sum", json!({})).await, Vec::<String>::new());
}

#[tokio::test]
async fn ranges_groups_and_offsets_equal_the_model() {
    const COUNT: u64 = 3000;
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    let key = |n: u64| json!([n % 3, n % 50, n]);
    bench.fill((0..COUNT).map(|n| (format!("{n:05}"), json!({"k": key(n), "n": n}))).collect()).await;
    // Build the index, then change parts of it, so that blocks are split, changed and emptied.
    assert_eq!(bench.rows("sum", json!({})).await, [format!("null {}", COUNT * (COUNT - 1) / 2)]);
    bench.fill((COUNT..COUNT + 700).map(|n| (format!("{n:05}"), json!({"k": key(n % 7), "n": n}))).collect()).await;
    let mut all: Vec<(Vec<u64>, u64)> = (0..COUNT).map(|n| (vec![n % 3, n % 50, n], n)).collect();
    all.extend((COUNT..COUNT + 700).map(|n| (vec![n % 7 % 3, n % 7, n % 7], n)));
    all.sort();

    for (start, end) in [
        (None, None),
        (Some(json!([1])), Some(json!([1, {}]))),
        (Some(json!([0, 4])), Some(json!([2, 7]))),
        (Some(json!([1, 1, 1])), Some(json!([1, 1, 1]))),
        (Some(json!([0, 6, 6])), None),
        (None, Some(json!([0, 0, 2]))),
    ] {
        let inside = |key: &[u64]| {
            let key = json!(key).to_string();
            let above = start.as_ref().is_none_or(|start| crate::json::compare(&start.to_string(), &key).is_le());
            above && end.as_ref().is_none_or(|end| crate::json::compare(&key, &end.to_string()).is_le())
        };
        let within: Vec<&(Vec<u64>, u64)> = all.iter().filter(|(key, _)| inside(key)).collect();
        let before = all.iter().position(|(key, _)| inside(key)).unwrap_or(0);
        for descending in [false, true] {
            let mut params = json!({"descending": descending});
            let (low, high) = if descending { ("endkey", "startkey") } else { ("startkey", "endkey") };
            start.iter().for_each(|start| params[low] = start.clone());
            end.iter().for_each(|end| params[high] = end.clone());
            let of_map = |mut more: Value| {
                more.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
                more
            };
            let mut expected: Vec<String> =
                within.iter().map(|(key, n)| format!("{} {n} {n:05}", json!(key))).collect();
            let mut offset = before;
            if descending {
                expected.reverse();
                offset = all.len() - before - within.len();
            }
            let (rows, counts) = bench.ask("d", "all", params.clone()).await.unwrap();
            assert!(rows == expected, "{params}");
            assert_eq!(counts, format!("{offset}/{}", all.len()), "{params}");
            let (rows, _) = bench.ask("d", "all", of_map(json!({"skip": 10, "limit": 20}))).await.unwrap();
            assert_eq!(rows, expected.iter().skip(10).take(20).cloned().collect::<Vec<_>>(), "{params}");

            for level in [0, 1, 2, 3] {
                let mut groups: Vec<(Vec<u64>, u64, u64)> = Vec::new();
                for (key, n) in &within {
                    let key = &key[..level];
                    match groups.last_mut().filter(|(last, _, _)| last == key) {
                        Some((_, sum, count)) => (*sum, *count) = (*sum + n, *count + 1),
                        None => groups.push((key.to_vec(), *n, 1)),
                    }
                }
                if descending {
                    groups.reverse();
                }
                let text = |key: &[u64]| if level == 0 { "null".into() } else { json!(key).to_string() };
                let sums: Vec<String> = groups.iter().map(|(key, sum, _)| format!("{} {sum}", text(key))).collect();
                let counts: Vec<String> =
                    groups.iter().map(|(key, _, count)| format!("{} {count}", text(key))).collect();
                let asked = of_map(json!({"group_level": level}));
                assert_eq!(bench.rows("sum", asked.clone()).await, sums, "{asked}");
                assert_eq!(bench.rows("count", asked.clone()).await, counts, "{asked}");
                if level == 1 {
                    assert_eq!(bench.rows("script", asked.clone()).await, sums, "{asked}");
                }
            }
        }
    }
}

#[tokio::test]
async fn equal_definitions_share_an_index_and_cleanup_keeps_defined_indexes() {
    let bench = Bench::new(false);
    let first = bench.edit("_design/d", None, false, design()).await;
    let mut other = design();
    other["views"]["renamed"] = other["views"]["sum"].take();
    other["views"].as_object_mut().unwrap().retain(|_, view| !view.is_null());
    bench.edit("_design/other", None, false, other).await;
    bench.edit("a", None, false, json!({"k": 1, "n": 5})).await;
    let signature = |id: &str| bench.views.definition(&bench.database, id).unwrap().signature;
    assert_eq!(signature("_design/d"), signature("_design/other"));
    assert_eq!(bench.rows("sum", json!({})).await, ["null 5"]);

    let definition = bench.views.definition(&bench.database, "_design/d").unwrap();
    let meta = async || bench.views.as_it_stands(&bench.database, &definition).await.unwrap().meta;
    bench.edit("_design/d", Some(&first), false, json!({"views": {"v": {"map": "function () {}"}}})).await;
    clean_up(&bench.views, &bench.database).unwrap();
    assert_eq!(meta().await.rows.iter().map(|(rows, _)| rows).sum::<u64>(), 2, "the other one still defines it");
    let found = bench.database.find("_design/other", crate::db::Wanted::Winner).unwrap();
    bench.edit("_design/other", Some(&found.revision), true, json!({})).await;
    clean_up(&bench.views, &bench.database).unwrap();
    assert_eq!(meta().await, Meta::default());
}

#[tokio::test]
async fn an_index_read_before_its_first_build_is_empty() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, json!({"views": {"v": {"map": "function (doc) { emit(1); }"}}})).await;
    bench.edit("a", None, false, json!({})).await;
    let definition = bench.views.definition(&bench.database, "_design/d").unwrap();
    let early = bench.views.as_it_stands(&bench.database, &definition).await.unwrap();
    assert_eq!(bench.rows("v", json!({})).await.len(), 1);
    let mut spots = Spots { low: Vec::new(), high: None };
    assert_eq!(early.rows(&mut spots, crate::store::Direction::Forward, 10).unwrap(), []);
}

#[tokio::test]
async fn a_partition_query_sees_only_its_own_rows() {
    let bench = Bench::new(true);
    bench.edit("_design/d", None, false, design()).await;
    let mut global = design();
    global["options"] = json!({"partitioned": false});
    bench.edit("_design/g", None, false, global).await;
    for (id, n) in [("a:1", 1), ("a:2", 2), ("b:1", 4), ("ab:1", 8)] {
        bench.edit(id, None, false, json!({"k": n, "n": n})).await;
    }
    assert_eq!(
        bench.ask("d", "all", json!({"partition": "a", "startkey": 2})).await.unwrap(),
        (vec!["2 2 a:2".to_owned()], "1/2".to_owned())
    );
    assert_eq!(bench.rows("sum", json!({"partition": "a"})).await, ["null 3"]);
    assert_eq!(bench.rows("sum", json!({"partition": "b", "group": true})).await, ["4 4"]);
    assert_eq!(bench.rows("all", json!({"partition": "a", "keys": [2, 1, 4]})).await, ["2 2 a:2", "1 1 a:1"]);
    assert_eq!(bench.ask("g", "sum", json!({})).await.unwrap().0, ["null 15"]);
    for (design, params, reason) in [
        ("d", json!({}), "`partition` parameter is mandatory for queries to this view."),
        ("g", json!({"partition": "a"}), "`partition` parameter is not supported in this design doc"),
    ] {
        let refused = bench.ask(design, "all", params).await.err();
        assert_eq!(refused, Some(Error::QueryParse(reason.into())));
    }
}

#[tokio::test]
async fn keys_document_ids_and_ends_of_ranges() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    for (id, k) in [("a", 1), ("b", 1), ("ba", 1), ("c", 2), ("d", 3)] {
        bench.edit(id, None, false, json!({"k": k, "n": 0})).await;
    }
    for (params, ids, counts) in [
        (json!({"key": 1}), "a b ba", "0/5"),
        (json!({"keys": [3, 1, 3, 9]}), "d a b ba d", "4/5"),
        (json!({"keys": [3, 1], "descending": true}), "ba b a d", "2/5"),
        (json!({"keys": []}), "", "0/5"),
        (json!({"keys": [1, 2], "startkey_docid": "b", "endkey_docid": "b"}), "b", "1/5"),
        (json!({"keys": [2]}), "c", "3/5"),
        (json!({"startkey": 1, "startkey_docid": "b"}), "b ba c d", "1/5"),
        (json!({"startkey": 1, "endkey": 1, "endkey_docid": "b"}), "a b", "0/5"),
        (json!({"startkey": 1, "endkey": 2, "inclusive_end": false}), "a b ba", "0/5"),
        (json!({"startkey": 1, "endkey": 1, "endkey_docid": "ba", "inclusive_end": false}), "a b", "0/5"),
        (json!({"startkey": 1, "startkey_docid": "b", "descending": true}), "b a", "3/5"),
        (json!({"startkey": 3, "endkey": 1, "descending": true, "inclusive_end": false}), "d c", "0/5"),
        (json!({"startkey": 3, "endkey": 1, "endkey_docid": "b", "descending": true}), "d c ba b", "0/5"),
        (json!({"startkey": 7}), "", "5/5"),
        (json!({"skip": 9}), "", "5/5"),
        (json!({"limit": 0}), "", "0/5"),
    ] {
        let (rows, told) = bench.ask("d", "all", params.clone()).await.unwrap();
        let found: Vec<&str> = rows.iter().filter_map(|row| row.rsplit(' ').next()).collect();
        assert_eq!((found.join(" ").as_str(), told.as_str()), (ids, counts), "{params}");
    }
    assert_eq!(bench.rows("sum", json!({"keys": [2, 1, 5], "group": true})).await, ["2 0", "1 0"]);
    for (view, params, reason) in [
        (
            "all",
            json!({"startkey": 2, "endkey": 1}),
            "No rows can match your key range, reverse your start_key and end_key or set descending=true",
        ),
        (
            "all",
            json!({"startkey": 1, "endkey": 2, "descending": true}),
            "No rows can match your key range, reverse your start_key and end_key or set descending=false",
        ),
        ("all", json!({"reduce": true}), "Reduce is invalid for map-only views."),
        ("all", json!({"group": true}), "Invalid use of grouping on a map view."),
        ("all", json!({"group_level": 1}), "Invalid use of grouping on a map view."),
        ("all", json!({"limit": -1}), "Invalid value for positive integer: -1"),
        ("all", json!({"descending": "maybe"}), "Invalid boolean parameter: \"maybe\""),
        ("all", json!({"stale": "no"}), "Invalid value for `stale`."),
        ("all", json!({"keys": {}}), "`keys` must be an array of strings."),
        ("all", json!({"keys": [1, 2], "startkey": 1}), "`keys` is incompatible with `key`, `start_key` and `end_key`"),
        ("sum", json!({"keys": [1, 2]}), "Multi-key fetches for reduce views must use `group=true`"),
        ("sum", json!({"include_docs": true}), "`include_docs` is invalid for reduce"),
        ("sum", json!({"conflicts": true}), "`conflicts` is invalid for reduce views."),
        (
            "sum",
            json!({"group": false, "group_level": 2}),
            "Can't specify group=false and group_level>0 at the same time",
        ),
    ] {
        let refused = bench.ask("d", view, params.clone()).await.err();
        assert_eq!(refused, Some(Error::QueryParse(reason.into())), "{params}");
    }
    assert_eq!(bench.ask("d", "none", json!({})).await.err(), Some(Error::NotFound("missing_named_view".into())));
}

#[tokio::test]
async fn long_keys_and_ids_are_found_again() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    let long = |end: &str| format!("{}{end}", "k".repeat(5000));
    for (id, end) in [(long("1"), "x"), (long("2"), "y"), ("short".into(), "y")] {
        bench.edit(&id, None, false, json!({"k": long(end), "n": 1})).await;
    }
    assert_eq!(bench.rows("count", json!({"key": long("y")})).await, ["null 2"]);
    let found = bench.rows("all", json!({"key": long("x")})).await;
    assert_eq!(found, [format!("\"{}\" 1 {}", long("x"), long("1"))]);
    assert_eq!(bench.rows("count", json!({"group": true})).await.len(), 2);
}

#[tokio::test]
async fn a_query_reads_a_snapshot_while_the_index_changes() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    let mut revisions = Vec::new();
    for n in 0..700 {
        revisions.push(bench.edit(&format!("{n:03}"), None, false, json!({"k": n, "n": n})).await);
    }
    let definition = bench.views.definition(&bench.database, "_design/d").unwrap();
    let plan = |view: &str, params: Value| {
        let mut asked = Params::default();
        asked.set_all(params.as_object().unwrap()).unwrap();
        asked.plan(&definition, definition.view(view).unwrap(), None).unwrap()
    };
    let begin = async || bench.views.update(&bench.database, &definition, Arc::new(|_, _| {})).await.unwrap();
    let view = |name: &str| definition.view(name).unwrap();
    let mut up = bench.views.map_rows(begin().await, view("all"), &plan("all", json!({})));
    let mut down = bench.views.map_rows(begin().await, view("all"), &plan("all", json!({"descending": true})));
    let groups = plan("sum", json!({"group": true}));
    let mut groups = bench.views.grouped(begin().await, view("sum"), &groups, "sum");
    let whole = plan("sum", json!({}));
    let mut whole = bench.views.grouped(begin().await, view("sum"), &whole, "sum");
    let counted = bench.views.map_rows(begin().await, view("all"), &plan("all", json!({"startkey": 5})));
    let mut read = (Vec::new(), Vec::new());
    for n in 0..7 {
        read.0.extend(up.next(100).unwrap());
        read.1.extend(down.next(100).unwrap());
        // One row moves from ahead of the query to behind it, one the other way; one is deleted, one is
        // added.
        for (at, json) in [(690 - n, Some(json!({"k": -1}))), (n, Some(json!({"k": 1000 + n}))), (350 + n, None)] {
            let gone = json.is_none();
            bench.edit(&format!("{at:03}"), Some(&revisions[at]), gone, json.unwrap_or(json!({}))).await;
        }
        bench.edit(&format!("new{n}"), None, false, json!({"k": 300.5, "n": 1})).await;
        drop(begin().await);
    }
    let keys = |rows: &[Row]| rows.iter().map(|row| row.key().parse::<usize>().unwrap()).collect::<Vec<_>>();
    assert_eq!(keys(&read.0), (0..700).collect::<Vec<_>>());
    assert_eq!(keys(&read.1), (0..700).rev().collect::<Vec<_>>());
    assert_eq!(counted.total_and_offset().unwrap(), (700, 5));
    assert!(up.next(1).unwrap().is_empty() && down.next(1).unwrap().is_empty());
    let sums = crate::blocking::blocking(move || Ok((groups.next(1000)?, whole.next(2)?))).await.unwrap();
    assert_eq!(sums.0.len(), 700);
    assert_eq!(sums.1[0].outcome, Outcome::Value((0..700).sum::<u64>().to_string()));
    assert_eq!(bench.rows("all", json!({})).await.len(), 700);
    assert_eq!(bench.rows("all", json!({"key": 300.5})).await.len(), 7);
}

#[tokio::test]
async fn a_query_of_a_deleted_database_is_aborted() {
    let bench = Bench::new(false);
    bench.edit("_design/d", None, false, design()).await;
    bench.fill((0..20).map(|n| (format!("{n:02}"), json!({"k": n, "n": n}))).collect()).await;
    let definition = bench.views.definition(&bench.database, "_design/d").unwrap();
    let plan = |view: &str| Params::default().plan(&definition, definition.view(view).unwrap(), None).unwrap();
    let begin = async || bench.views.update(&bench.database, &definition, Arc::new(|_, _| {})).await.unwrap();
    let mut rows = bench.views.map_rows(begin().await, definition.view("all").unwrap(), &plan("all"));
    assert_eq!(rows.next(5).unwrap().len(), 5);
    let mut groups = bench.views.grouped(begin().await, definition.view("sum").unwrap(), &plan("sum"), "sum");
    let listing = crate::db::Listing::all(crate::store::Direction::Forward);
    let page = crate::store::PageLimit::entries(5);
    let (_, last) = bench.database.list(&listing, None, page).unwrap();
    bench.databases.delete("db").unwrap();
    while bench.databases.remove_some().unwrap() {}
    assert_eq!(rows.next(5).err(), Some(Error::NoDatabase));
    assert_eq!(groups.next(5).err(), Some(Error::NoDatabase));
    assert_eq!(bench.database.list(&listing, last.as_deref(), page).err(), Some(Error::NoDatabase));
}

/// Enough rows that several threads reduce them, from several runs.
#[tokio::test]
async fn many_rows_are_reduced_in_parallel_parts() {
    const DOCUMENTS: usize = 700;
    const ROWS: usize = 100;
    let bench = Bench::new(false);
    let map = "function (doc) { for (var i = 0; i < 100; i++) emit([i, doc.n], doc.n); }";
    let design = json!({"views": {"v": {"map": map, "reduce": "_sum"}}});
    bench.edit("_design/d", None, false, design).await;
    bench.fill((0..DOCUMENTS).map(|n| (format!("d{n}"), json!({"n": n}))).collect()).await;
    let sum = DOCUMENTS * (DOCUMENTS - 1) / 2;
    let (rows, _) = bench.ask("d", "v", json!({"group_level": 1})).await.unwrap();
    assert_eq!(rows, (0..ROWS).map(|n| format!("[{n}] {sum}")).collect::<Vec<_>>());
    let (rows, _) = bench.ask("d", "v", json!({"startkey": [10, 5], "endkey": [90, 5]})).await.unwrap();
    assert_eq!(rows, [format!("null {}", 80 * sum - 10 + 15)]);
    let (rows, _) = bench.ask("d", "v", json!({"reduce": false, "startkey": [50, 100], "limit": 2})).await.unwrap();
    assert_eq!(rows, ["[50,100] 100 d100", "[50,101] 101 d101"]);
    // Too many small blocks at the ends of the parts would exceed this number.
    let definition = bench.views.definition(&bench.database, "_design/d").unwrap();
    let reading = bench.views.as_it_stands(&bench.database, &definition).await.unwrap();
    let mut spots = layout::Spots { low: Vec::new(), high: None };
    let blocks = reading.index.reductions(0, &mut spots, crate::store::Direction::Forward, 0, 10_000).unwrap();
    assert!(blocks.iter().all(|(_, reduction)| reduction.is_some()));
    assert!((DOCUMENTS * ROWS / 400..DOCUMENTS * ROWS / 200).contains(&blocks.len()), "{}", blocks.len());
}
