//! View builds and documents that ask for more memory or time than they are worth.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::server::{Server, check};

/// Megabytes that a build may take beside what the server takes before it. The bound of the build itself is about 128 MB (see
/// docs/storage-format.md); a debug build, the functions' engine and the allocator have some too.
const BUILD: u64 = 300;

fn rounds(quick: u64) -> u64 {
    std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(quick)
}

fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> Value {
    let answer = client.json(method, path, body).expect("it answers");
    assert!(answer.is_ok(), "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// Puts `count` documents and a view with this map function into a database, reads the view, and tells its rows and how much
/// memory the build took.
fn build(count: u64, map: &str) -> (u64, Option<u64>) {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let server = Server::start(&data, "redb").expect("it starts");
    let mut client = server.client();
    ask(&mut client, "PUT", "/db", &json!({}));
    let docs: Vec<Value> = (0..count).map(|number| json!({"_id": format!("d{number:06}"), "number": number})).collect();
    ask(&mut client, "POST", "/db/_bulk_docs", &json!({"docs": docs}));
    ask(&mut client, "PUT", "/db/_design/all", &json!({"views": {"all": {"map": map, "reduce": "_count"}}}));
    let few = json!({"views": {"few": {"map": "function (doc) { emit(doc.number) }"}}});
    ask(&mut client, "PUT", "/db/_design/few", &few);
    let before = server.peak_memory();
    let counted = ask(&mut client, "GET", "/db/_design/all/_view/all?reduce=true", &json!({}));
    let peak = server.peak_memory().zip(before).map(|(after, before)| after - before);
    let few = ask(&mut client, "GET", "/db/_design/few/_view/few?limit=3", &json!({}));
    assert_eq!(few["total_rows"], count, "the rows of another view are all there");
    server.kill();
    check(&data).unwrap();
    let rows = counted["rows"].as_array().and_then(|rows| rows.first()).and_then(|row| row["value"].as_u64());
    (rows.unwrap_or(0), peak)
}

fn bounded(what: &str, peak: Option<u64>) {
    println!("{what}: {peak:?} MB");
    assert!(peak.is_none_or(|peak| peak < BUILD), "{what} took {peak:?} MB");
}

#[test]
fn many_rows_of_a_few_documents() {
    let documents = 30 * rounds(1);
    let (rows, peak) = build(documents, "function (doc) { for (let i = 0; i < 10000; i++) emit(i, null) }");
    assert_eq!(rows, documents * 10_000);
    bounded("300,000 rows", peak);
}

#[test]
fn large_keys() {
    let documents = 20 * rounds(1);
    let map = "function (doc) { for (let i = 0; i < 5; i++) emit('k'.repeat(1000000) + i, 1) }";
    let (rows, peak) = build(documents, map);
    assert_eq!(rows, documents * 5);
    bounded("100 MB of keys", peak);
}

/// A document that emits more than fits has no rows, and the others have theirs.
#[test]
fn one_document_emits_too_much() {
    let many =
        "function (doc) { if (doc.number == 5) for (let i = 0; i < 300000; i++) emit(i, null); else emit(1, 2) }";
    let (rows, peak) = build(50, many);
    assert_eq!(rows, 49);
    bounded("a document of too many rows", peak);
}

/// Documents that fit each by itself, and not together with others.
#[test]
fn documents_that_do_not_fit_together() {
    let (rows, peak) = build(12, "function (doc) { for (let i = 0; i < 8; i++) emit(i, 'v'.repeat(1000000)) }");
    assert_eq!(rows, 12 * 8);
    bounded("100 MB of values", peak);
}

/// A document with very many empty attachments, and a revision that takes them over: one file is written, and not one for each.
#[test]
fn thousands_of_attachments() {
    let count = 10_000 * rounds(1);
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let server = Server::start(&data, "sled").expect("it starts");
    let mut client = server.client();
    ask(&mut client, "PUT", "/db", &json!({}));
    let inline = |number: u64| (format!("a{number}"), json!({"content_type": "image/png", "data": ""}));
    let attachments: serde_json::Map<String, Value> = (0..count).map(inline).collect();
    let begun = Instant::now();
    let first = ask(&mut client, "PUT", "/db/many", &json!({"_attachments": attachments}));
    let mut doc = ask(&mut client, "GET", "/db/many", &json!({}));
    assert_eq!(doc["_attachments"].as_object().map(serde_json::Map::len), usize::try_from(count).ok());
    doc["more"] = true.into();
    assert_eq!(doc["_rev"], first["rev"]);
    ask(&mut client, "PUT", "/db/many", &doc);
    ask(&mut client, "POST", "/db/_compact", &json!({}));
    let whole = client.get("/db/many?attachments=true").expect("it answers");
    assert!(whole.is_ok() && whole.body.len() as u64 > 100 * count, "{}", whole.body.len());
    let took = begun.elapsed();
    println!("{count} attachments: {took:?}");
    assert!(took < Duration::from_secs(10) * u32::try_from(rounds(1)).unwrap_or(1), "{took:?}");
    server.kill();
    check(&data).unwrap();
}
