//! Queries on a database in memory, without a stored index.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::db::{AllowAll, CreateOptions, Database, Databases, Incoming, Mode};
use crate::error::{Error, Result};
use crate::query::planner::{self, NewIndex};

fn database(options: CreateOptions) -> Arc<Database> {
    let store = Arc::new(crate::store::memory::Memory::new());
    let blobs = Arc::new(crate::store::MemoryBlobs::new());
    let databases = Databases::open(store, blobs, Clock::fixed(Duration::from_secs(1))).unwrap();
    databases.create("db", options, None).unwrap()
}

async fn fill(database: &Arc<Database>, documents: &[(&str, &str)]) {
    let edits = documents
        .iter()
        .map(|(id, body)| Incoming {
            id: (*id).into(),
            parent: None,
            path: (0, Vec::new()),
            deleted: false,
            json: (*body).into(),
            attachments: Vec::new(),
        })
        .collect();
    for result in database.update(edits, Mode::Interactive, &AllowAll).await.unwrap() {
        result.unwrap();
    }
}

/// The documents of an answer and the members after them.
fn ask(database: &Arc<Database>, body: Value) -> Result<(Vec<Value>, Value)> {
    let request = FindRequest::parse(&body, None)?;
    let indexes = indexes(database)?;
    let plan = planner::plan(&indexes, database.is_partitioned(), &request)?;
    let mut search = Search::new(database.clone(), plan, request, |_, _, _| panic!("no index is stored"))?;
    let mut documents = Vec::new();
    while let Some(texts) = search.step()? {
        documents.extend(texts.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()));
    }
    let tail = search.finish().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok((documents, Value::Object(tail)))
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
        (json!({"selector": {"_id": {"$gt": []}}}), vec![]),
        (json!({"selector": {"_id": {"$lt": 5}}}), vec![]),
        (json!({"selector": {"_id": "c"}}), vec!["c"]),
        (json!({"selector": {}, "limit": 0}), vec![]),
        (json!({"selector": {"$or": []}}), vec![]),
        (json!({"selector": {"_attachments": {"$exists": false}, "age": 20}}), vec!["b"]),
        (json!({"selector": {"_rev": {"$gt": null}, "age": 20}, "conflicts": true}), vec!["b"]),
    ] {
        let (documents, _) = ask(&database, body.clone()).unwrap();
        assert_eq!(ids(&documents), wanted, "{body}");
    }
}

#[tokio::test]
async fn fields_are_cut_out() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    for (selector, fields, wanted) in [
        (json!({"_id": "b"}), json!(["name", "tags"]), json!({"name": "Bob", "tags": ["x", "y"]})),
        (json!({"_id": "c"}), json!(["address.city", "_id"]), json!({"address": {"city": "Ulm"}, "_id": "c"})),
        (json!({"_id": "d"}), json!(["age"]), json!({})),
    ] {
        let (documents, _) = ask(&database, json!({"selector": selector, "fields": fields})).unwrap();
        assert_eq!(documents, [wanted]);
    }
    let request = FindRequest::parse(&json!({"selector": {"_id": "a"}, "fields": ["big"]}), None).unwrap();
    let plan = planner::plan(&[], false, &request).unwrap();
    let mut search = Search::new(database, plan, request, |_, _, _| panic!("no index is stored")).unwrap();
    // Digits that no number type holds stay as they are.
    assert_eq!(search.step().unwrap().unwrap(), [r#"{"big":12345678901234567890123}"#]);
}

#[tokio::test]
async fn pages_by_bookmark() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    let body = |bookmark: &Value| json!({"selector": {}, "limit": 3, "bookmark": bookmark});
    let (documents, tail) = ask(&database, body(&Value::Null)).unwrap();
    assert_eq!(ids(&documents), ["a", "b", "c"]);
    let (documents, tail) = ask(&database, body(&tail["bookmark"])).unwrap();
    assert_eq!(ids(&documents), ["d"]);
    let (documents, last) = ask(&database, body(&tail["bookmark"])).unwrap();
    assert_eq!(documents, Vec::<Value>::new());
    assert_eq!(last["bookmark"], tail["bookmark"], "an empty page gives the bookmark back");
    let none = ask(&database, json!({"selector": {"name": "Zoe"}})).unwrap().1;
    assert_eq!(none["bookmark"], "nil");
    assert!(ask(&database, body(&json!("bad-bookmark"))).is_err());
}

#[tokio::test]
async fn costs_and_warnings() {
    let database = database(CreateOptions::default());
    fill(&database, &PEOPLE).await;
    let (_, tail) = ask(&database, json!({"selector": {"name": "Zoe"}, "execution_stats": true})).unwrap();
    assert_eq!(tail["execution_stats"]["total_docs_examined"], 6);
    assert_eq!(tail["execution_stats"]["total_keys_examined"], 6);
    assert_eq!(tail["execution_stats"]["results_returned"], 0);
    assert_eq!(tail["warning"], "No matching index found, create an index to optimize query time.");
    let (_, tail) = ask(&database, json!({"selector": {"name": "Ann"}, "execution_stats": true, "r": 3})).unwrap();
    assert_eq!(tail["execution_stats"]["total_docs_examined"], 0);
    assert_eq!(tail["execution_stats"]["total_quorum_docs_examined"], 6);
    let names: Vec<&String> = tail.as_object().unwrap().keys().collect();
    assert_eq!(names, ["bookmark", "execution_stats", "warning"]);
    let (_, tail) = ask(&database, json!({"selector": {"$or": []}, "execution_stats": true})).unwrap();
    assert_eq!(tail, json!({}));
}

#[tokio::test]
async fn one_partition() {
    let database = database(CreateOptions { partitioned: true, ..CreateOptions::default() });
    fill(&database, &[("p:1", "{}"), ("p:2", r#"{"a":1}"#), ("q:1", "{}")]).await;
    let (documents, _) = ask(&database, json!({"selector": {}, "partition": "p"})).unwrap();
    assert_eq!(ids(&documents), ["p:1", "p:2"]);
    let (documents, _) = ask(&database, json!({"selector": {}, "partition": "z"})).unwrap();
    assert_eq!(ids(&documents), Vec::<&str>::new());
}

#[tokio::test]
async fn indexes_are_made_listed_and_removed() {
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
    // A deleted design document is made anew.
    assert!(create_index(&database, new("one", "a"), &AllowAll).await.unwrap());
    assert_eq!(names(&database), ["one"]);
    let partitioned = NewIndex::parse(&json!({"index": {"fields": ["a"]}, "partitioned": true})).unwrap();
    assert!(matches!(create_index(&database, partitioned, &AllowAll).await, Err(Error::BadRequest(_))));
}
