//! Queries on an in-memory database.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode, Within};
use crate::error::{Error, Result};
use crate::query::mango::planner::NewIndex;
use crate::query::mango::request::FindRequest;
use crate::query::mango::selector::Selector;
use crate::query::script::{Limits, Scripts};
use crate::query::view::Views;
use crate::store::PageLimit;

fn database(options: CreateOptions) -> Arc<Database> {
    let store = Arc::new(crate::store::memory::Memory::new());
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let databases = Databases::open(store, blobs, Clock::fixed(Duration::from_secs(1))).unwrap();
    databases.create("db", options, None).unwrap()
}

fn views() -> Views {
    Views::new(Scripts::new(Limits::default()))
}

async fn fill(database: &Arc<Database>, documents: &[(&str, &str)]) {
    let edits = documents.iter().map(|(id, body)| Incoming::created(*id, *body)).collect();
    for result in database.update(edits, Mode::Interactive, &AllowAll).await.unwrap() {
        result.unwrap();
    }
}

/// The documents of a response and the members after them.
async fn ask(database: &Arc<Database>, body: Value) -> Result<(Vec<Value>, Value)> {
    let request = FindRequest::parse(&body, None)?;
    let mut search = Search::start(database.clone(), request, &views(), |_| Arc::new(|_, _| {})).await?;
    let mut documents = Vec::new();
    while let Some(texts) = fitting(search.step(u64::MAX)) {
        documents.extend(texts.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()));
    }
    let tail = search.finish().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok((documents, Value::Object(tail)))
}

fn fitting<T>(step: Result<Within<T>>) -> T {
    match step.unwrap() {
        Within::Fits(fitting) => fitting,
        Within::Large(bytes) => panic!("{bytes} bytes are too large"),
    }
}

fn ids(documents: &[Value]) -> Vec<&str> {
    documents.iter().map(|document| document["_id"].as_str().unwrap()).collect()
}

const PEOPLE: [(&str, &str); 6] = [
    ("a", r#"{"name":"Ann","age":30,"big":12345678901234567890123}"#),
    ("b", r#"{"name":"Bob","age":20,"tags":["x","y"]}"#),
    ("c", r#"{"name":"Cid","age":40,"address":{"city":"Ulm"}}"#),
    ("d", r#"{"name":"Dan"}"#),
    ("_design/js", r#"{"name":"Ann","views":{}}"#),
    ("_design/query", r#"{"language":"query","views":{}}"#),
];

#[tokio::test]
async fn documents_are_found_without_an_index() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    for (body, wanted) in [
        (json!({"selector": {}}), vec!["a", "b", "c", "d"]),
        (json!({"selector": {"age": {"$gt": 20}}}), vec!["a", "c"]),
        (json!({"selector": {"name": "Ann"}}), vec!["a"]),
        (json!({"selector": {"_id": {"$gt": "a", "$lte": "c"}}}), vec!["b", "c"]),
        (json!({"selector": {"_id": {"$gt": "a"}}, "sort": [{"_id": "desc"}]}), vec!["d", "c", "b"]),
        (json!({"selector": {"_id": {"$gt": null}}, "limit": 2, "skip": 1}), vec!["b", "c"]),
        (json!({"selector": {"_id": {"$gt": []}}}), vec!["a", "b", "c", "d"]),
        (json!({"selector": {"_id": {"$gt": {}}}}), vec!["a", "b", "c", "d"]),
        (json!({"selector": {"_id": {"$lte": []}}}), vec![]),
        (json!({"selector": {"_id": {"$lt": {}}}}), vec![]),
        (json!({"selector": {"_id": {"$gt": "B"}}}), vec!["a", "b", "c", "d"]),
        (json!({"selector": {"_id": {"$lt": 5}}}), vec![]),
        (json!({"selector": {"_id": "c"}}), vec!["c"]),
        (json!({"selector": {}, "limit": 0}), vec![]),
        (json!({"selector": {"$or": []}}), vec![]),
        (json!({"selector": {"_attachments": {"$exists": false}, "age": 20}}), vec!["b"]),
        (json!({"selector": {"_rev": {"$gt": null}, "age": 20}, "conflicts": true}), vec!["b"]),
    ] {
        let (documents, _) = ask(&database, body.clone()).await.unwrap();
        assert_eq!(ids(&documents), wanted, "{body}");
    }
}

#[tokio::test]
async fn only_the_requested_fields_are_returned() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    for (selector, fields, wanted) in [
        (json!({"_id": "b"}), json!(["name", "tags"]), json!({"name": "Bob", "tags": ["x", "y"]})),
        (json!({"_id": "c"}), json!(["address.city", "_id"]), json!({"address": {"city": "Ulm"}, "_id": "c"})),
        (json!({"_id": "d"}), json!(["age"]), json!({})),
    ] {
        let (documents, _) = ask(&database, json!({"selector": selector, "fields": fields})).await.unwrap();
        assert_eq!(documents, [wanted]);
    }
    let request = FindRequest::parse(&json!({"selector": {"_id": "a"}, "fields": ["big"]}), None).unwrap();
    let mut search = Search::start(database.clone(), request, &views(), |_| Arc::new(|_, _| {})).await.unwrap();
    // Digits that no number type can hold keep their spelling.
    assert_eq!(fitting(search.step(u64::MAX)).unwrap(), [r#"{"big":12345678901234567890123}"#]);
    let fields = json!(["address.none", "tags.0", "big", "_rev"]);
    for selector in [json!({"_id": "a"}), json!({"_id": "a", "_deleted": {"$exists": false}})] {
        let request = FindRequest::parse(&json!({"selector": selector, "fields": fields}), None).unwrap();
        let mut search = Search::start(database.clone(), request, &views(), |_| Arc::new(|_, _| {})).await.unwrap();
        let found = fitting(search.step(u64::MAX)).unwrap().remove(0);
        assert!(found.starts_with(r#"{"big":12345678901234567890123,"_rev":"1-"#), "{found}");
    }
}

#[tokio::test]
async fn bookmarks_continue_after_the_last_document() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    let body = |bookmark: &Value| json!({"selector": {}, "limit": 3, "bookmark": bookmark});
    let (documents, tail) = ask(&database, body(&Value::Null)).await.unwrap();
    assert_eq!(ids(&documents), ["a", "b", "c"]);
    let (documents, tail) = ask(&database, body(&tail["bookmark"])).await.unwrap();
    assert_eq!(ids(&documents), ["d"]);
    let (documents, last) = ask(&database, body(&tail["bookmark"])).await.unwrap();
    assert_eq!(documents, Vec::<Value>::new());
    assert_eq!(last["bookmark"], tail["bookmark"], "an empty page gives the bookmark back");
    let none = ask(&database, json!({"selector": {"name": "Zoe"}})).await.unwrap().1;
    assert_eq!(none["bookmark"], "nil");
    assert!(ask(&database, body(&json!("bad-bookmark"))).await.is_err());
}

#[tokio::test]
async fn costs_and_warnings() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    let (_, tail) = ask(&database, json!({"selector": {"name": "Zoe"}, "execution_stats": true})).await.unwrap();
    assert_eq!(tail["execution_stats"]["total_docs_examined"], 6);
    assert_eq!(tail["execution_stats"]["total_keys_examined"], 6);
    assert_eq!(tail["execution_stats"]["results_returned"], 0);
    assert_eq!(tail["warning"], "No matching index found, create an index to optimize query time.");
    let (_, tail) =
        ask(&database, json!({"selector": {"name": "Ann"}, "execution_stats": true, "r": 3})).await.unwrap();
    assert_eq!(tail["execution_stats"]["total_docs_examined"], 0);
    assert_eq!(tail["execution_stats"]["total_quorum_docs_examined"], 6);
    let names: Vec<&String> = tail.as_object().unwrap().keys().collect();
    assert_eq!(names, ["bookmark", "execution_stats", "warning"]);
    let (_, tail) = ask(&database, json!({"selector": {"$or": []}, "execution_stats": true})).await.unwrap();
    assert_eq!(tail, json!({}));
}

#[tokio::test]
async fn one_partition_is_searched() {
    let database = database(CreateOptions { partitioned: true, ..CreateOptions::default() });
    fill(&database, &[("p:1", "{}"), ("p:2", r#"{"a":1}"#), ("q:1", "{}")]).await;
    let (documents, _) = ask(&database, json!({"selector": {}, "partition": "p"})).await.unwrap();
    assert_eq!(ids(&documents), ["p:1", "p:2"]);
    let (documents, _) = ask(&database, json!({"selector": {}, "partition": "z"})).await.unwrap();
    assert_eq!(ids(&documents), Vec::<&str>::new());
}

#[tokio::test]
async fn indexes_are_created_listed_and_removed() {
    let database = database(CreateOptions::default());
    let new = |name: &str, field: &str| {
        NewIndex::parse(&json!({"index": {"fields": [field]}, "ddoc": "dd", "name": name})).unwrap()
    };
    assert!(create_index(&database, new("one", "a"), &AllowAll).await.unwrap());
    assert!(!create_index(&database, new("one", "a"), &AllowAll).await.unwrap());
    assert!(create_index(&database, new("one", "b"), &AllowAll).await.unwrap());
    assert!(create_index(&database, new("two", "a"), &AllowAll).await.unwrap());
    let names = |database: &Arc<Database>| -> Vec<String> {
        indexes(database).unwrap().into_iter().map(|index| index.name).collect()
    };
    assert_eq!(names(&database), ["one", "two"]);
    assert_eq!(delete_index(&database, "dd", "text", "one", &AllowAll).await, Err(Error::Missing));
    assert_eq!(delete_index(&database, "dd", "json", "three", &AllowAll).await, Err(Error::Missing));
    delete_index(&database, "_design/dd", "json", "one", &AllowAll).await.unwrap();
    assert_eq!(names(&database), ["two"]);
    let results = bulk_delete(&database, &["dd".into(), "_design/none".into()], &AllowAll).await.unwrap();
    assert_eq!(results[0], ("_design/dd".into(), Ok(())));
    assert!(results[1].1.is_err());
    assert_eq!(database.info().documents, 0);
    // A deleted design document can be created again.
    assert!(create_index(&database, new("one", "a"), &AllowAll).await.unwrap());
    assert_eq!(names(&database), ["one"]);
    let partitioned = NewIndex::parse(&json!({"index": {"fields": ["a"]}, "partitioned": true})).unwrap();
    assert!(matches!(create_index(&database, partitioned, &AllowAll).await, Err(Error::BadRequest(_))));
}

async fn index(database: &Arc<Database>, definition: Value) {
    let new = NewIndex::parse(&json!({"index": definition})).unwrap();
    create_index(database, new, &AllowAll).await.unwrap();
}

#[tokio::test]
async fn documents_are_found_by_an_index() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    index(&database, json!({"fields": ["age"]})).await;
    index(&database, json!({"fields": ["name", "age"]})).await;
    for (body, wanted) in [
        (json!({"selector": {"age": {"$gt": 20}}}), vec!["a", "c"]),
        (json!({"selector": {"age": {"$gte": 20}}, "sort": ["age"]}), vec!["b", "a", "c"]),
        (json!({"selector": {"age": {"$gte": 20}}, "sort": [{"age": "desc"}]}), vec!["c", "a", "b"]),
        (json!({"selector": {"age": {"$gt": null}}, "sort": ["age"], "limit": 1, "skip": 1}), vec!["a"]),
        (json!({"selector": {"age": {"$exists": true}}}), vec!["b", "a", "c"]),
        (json!({"selector": {"age": 40}}), vec!["c"]),
        (json!({"selector": {"age": 41}}), vec![]),
        (json!({"selector": {"age": {"$gt": 50, "$lt": 40}}}), vec![]),
        (json!({"selector": {"name": "Ann", "age": {"$lt": 100}}}), vec!["a"]),
        (json!({"selector": {"name": {"$beginsWith": "C"}, "age": {"$gt": 0}}}), vec!["c"]),
        (json!({"selector": {"name": {"$gt": "b"}, "age": {"$exists": true}}, "sort": ["name"]}), vec!["b", "c"]),
        (json!({"selector": {"age": {"$gt": 0}}, "fields": ["_id", "age"]}), vec!["b", "a", "c"]),
    ] {
        let (documents, tail) = ask(&database, body.clone()).await.unwrap();
        assert_eq!(ids(&documents), wanted, "{body}");
        assert!(tail.get("warning").is_none(), "{body}");
    }
    let (documents, _) = ask(&database, json!({"selector": {"age": 40}, "fields": ["age"]})).await.unwrap();
    assert_eq!(documents, [json!({"age": 40})]);
    let costs = json!({"selector": {"age": {"$lt": 35}}, "execution_stats": true, "fields": ["_id", "age"]});
    let (_, tail) = ask(&database, costs).await.unwrap();
    assert_eq!(tail["execution_stats"]["total_keys_examined"], 2);
    assert_eq!(tail["execution_stats"]["total_docs_examined"], 0);
}

#[tokio::test]
async fn an_index_is_read_in_pages() {
    let database = database(CreateOptions::default());
    let documents: Vec<(String, String)> =
        (0..50).map(|n| (format!("{n:02}"), json!({"x": n % 5}).to_string())).collect();
    let documents: Vec<(&str, &str)> = documents.iter().map(|(id, body)| (id.as_str(), body.as_str())).collect();
    fill(&database, &documents).await;
    index(&database, json!({"fields": ["x"]})).await;
    for direction in ["asc", "desc"] {
        let (mut seen, mut bookmark) = (Vec::new(), Value::Null);
        loop {
            let body =
                json!({"selector": {"x": {"$gt": 0}}, "sort": [{"x": direction}], "limit": 7, "bookmark": bookmark});
            let (documents, tail) = ask(&database, body).await.unwrap();
            if documents.is_empty() {
                break;
            }
            bookmark = tail["bookmark"].clone();
            seen.extend(
                documents.into_iter().map(|document| (document["x"].as_i64().unwrap(), document["_id"].clone())),
            );
        }
        assert_eq!(seen.len(), 40, "{direction}");
        let mut sorted = seen.clone();
        sorted.sort_by_key(|(x, id)| (*x, id.to_string()));
        if direction == "desc" {
            sorted.reverse();
        }
        assert_eq!(seen, sorted, "{direction}");
    }
}

/// The same random numbers in each run, each below the one that is given.
pub(super) fn random() -> impl FnMut(u64) -> u64 {
    let mut state = 88172645463325252_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Random edits, deletions, purges and compactions: an index returns the same documents as a scan of the
/// database.
#[tokio::test]
async fn an_index_follows_its_database() {
    let database = database(CreateOptions::default());
    index(&database, json!({"fields": ["x"], "partial_filter_selector": {"y": {"$ne": 3}}})).await;
    index(&database, json!({"fields": ["x", "y"]})).await;
    let design = indexes(&database).unwrap().into_iter().find(|index| index.partial_filter.is_some()).unwrap();
    let (partial, stored) = (design.design.unwrap(), views());
    let mut random = random();
    let values = [json!(null), json!(1), json!(1.0), json!("a"), json!("B"), json!("b"), json!([1]), json!({"k": 1})];
    for round in 0..40 {
        for _ in 0..random(12) {
            let id = format!("doc{}", random(20));
            let winner = database.winner(&id).unwrap().map(|(_, winner)| winner);
            let (x, y) = (&values[random(8) as usize], random(5));
            let json = if random(4) == 0 { json!({"y": y}) } else { json!({"x": x, "y": y}) };
            let edit = Incoming {
                id: id.clone(),
                parent: winner.as_ref().filter(|winner| !winner.deleted).map(|winner| winner.revision.clone()),
                path: (0, Vec::new()),
                deleted: winner.as_ref().is_some_and(|winner| !winner.deleted) && random(4) == 0,
                json: json.to_string(),
                attachments: Vec::new(),
            };
            if let (0, Some(winner)) = (random(8), winner) {
                let purged = (id, vec![winner.revision]);
                database.purge(vec![purged]).await.unwrap();
            } else {
                database.update(vec![edit], Mode::Interactive, &AllowAll).await.unwrap().remove(0).unwrap();
            }
        }
        if round % 10 == 9 {
            database.compact(&|_, _| {}).await.unwrap();
        }
        for (asked, use_index) in [
            (json!({"x": {"$gt": 0}, "y": {"$lt": 3}}), &partial),
            (json!({"x": {"$gte": null, "$lt": "b"}, "y": {"$lt": 3}}), &partial),
            (json!({"x": {"$gt": "a"}, "y": {"$exists": true}}), &String::new()),
            (json!({"x": 1, "y": {"$gt": 1}}), &String::new()),
        ] {
            let body = json!({"selector": asked, "limit": 100, "use_index": [use_index]});
            let request = FindRequest::parse(&body, None).unwrap();
            let mut search = Search::start(database.clone(), request, &stored, |_| Arc::new(|_, _| {})).await.unwrap();
            assert!(!search.plan().index.is_all_docs());
            let mut found = Vec::new();
            while let Some(texts) = fitting(search.step(u64::MAX)) {
                found.extend(texts);
            }
            let all = database.list(
                &crate::db::Listing::all(crate::store::Direction::Forward),
                None,
                PageLimit::entries(1000),
            );
            let selector = Selector::parse(&asked).unwrap();
            let mut wanted: Vec<String> = all
                .unwrap()
                .0
                .into_iter()
                .map(|row| database.find(&row.id, crate::db::Wanted::Winner).unwrap())
                .map(|found| crate::db::read::render::plain(&found.id, &found.revision, false, &found.body))
                .filter(|text| selector.matches(&serde_json::from_str(text).unwrap()))
                .collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{asked} in round {round}");
        }
    }
}

#[tokio::test]
async fn one_partition_is_searched_by_an_index() {
    let database = database(CreateOptions { partitioned: true, ..CreateOptions::default() });
    fill(&database, &[("p:1", r#"{"a":2}"#), ("p:2", r#"{"a":1}"#), ("q:1", r#"{"a":1}"#), ("pp:1", r#"{"a":1}"#)])
        .await;
    index(&database, json!({"fields": ["a"]})).await;
    let (documents, tail) =
        ask(&database, json!({"selector": {"a": {"$gt": 0}}, "partition": "p", "sort": ["a"]})).await.unwrap();
    assert_eq!(ids(&documents), ["p:2", "p:1"]);
    assert!(tail.get("warning").is_none());
    let global = ask(&database, json!({"selector": {"a": {"$gt": 0}}, "sort": ["a"]})).await;
    assert!(matches!(global, Err(Error::Mango { word: "no_usable_index", .. })));
}

#[tokio::test]
async fn conflicts_are_indexed_and_shown() {
    let database = database(CreateOptions::default());
    fill(&database, &[("a", r#"{"x":1}"#), ("b", r#"{"x":1}"#)]).await;
    let conflict = Incoming {
        id: "a".into(),
        parent: None,
        path: (1, vec![crate::rev::RevisionHash::parse("0")]),
        deleted: false,
        json: r#"{"x":2}"#.into(),
        attachments: Vec::new(),
    };
    database.update(vec![conflict], Mode::Replicated, &AllowAll).await.unwrap().remove(0).unwrap();
    index(&database, json!({"fields": ["_conflicts"]})).await;
    let body = json!({"selector": {"_conflicts": {"$exists": true}}, "conflicts": true});
    let (documents, tail) = ask(&database, body).await.unwrap();
    assert_eq!(ids(&documents), ["a"]);
    assert_eq!(documents[0]["_conflicts"].as_array().map(Vec::len), Some(1));
    assert!(tail.get("warning").is_none());
}

#[tokio::test]
async fn long_values_and_ids_are_indexed() {
    let database = database(CreateOptions::default());
    let (long, id) = ("x".repeat(20_000), "i".repeat(5000));
    let bodies = [json!({"a": long}).to_string(), json!({"a": format!("{long}y")}).to_string()];
    fill(&database, &[(&id, &bodies[0]), ("2", &bodies[1])]).await;
    index(&database, json!({"fields": ["a"]})).await;
    let (documents, tail) = ask(&database, json!({"selector": {"a": long}})).await.unwrap();
    assert_eq!(ids(&documents), [id.as_str()]);
    let (documents, _) =
        ask(&database, json!({"selector": {"a": {"$gt": long}}, "bookmark": tail["bookmark"]})).await.unwrap();
    assert!(ids(&documents).len() <= 1);
}
