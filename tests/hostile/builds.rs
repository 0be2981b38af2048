//! View builds and documents that are designed to use too much memory or time.

use serde_json::{Value, json};

use crate::allowed_skips;
use crate::client::Client;
use crate::server::{Server, check};

/// Maximum increase of the server's memory during a view build, in megabytes. The build itself is bounded to
/// about 100 MiB (docs/storage-format.md); a debug build, the JavaScript engine and the allocator add to
/// that.
const BUILD: u64 = 300;

fn rounds(quick: u64) -> u64 {
    std::env::var("SETTEE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(quick)
}

fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> Value {
    let answer = client.json(method, path, body).expect("it answers");
    assert!(answer.is_ok(), "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// Creates a database with `count` documents and a view with this map function, and queries the view. Returns
/// the number of its rows, and by how many megabytes the server's peak memory grew, if that can be read.
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

/// Prints the memory use of a build and fails if it is above `BUILD`.
fn bounded(what: &str, peak: Option<u64>) {
    let Some(peak) = peak else { return allowed_skips::skip("the system does not report a peak of memory") };
    println!("{what}: {peak} MB");
    assert!(peak < BUILD, "{what} took {peak} MB");
}

#[test]
fn many_rows_from_few_documents_use_bounded_memory() {
    let documents = 30 * rounds(1);
    let (rows, peak) = build(documents, "function (doc) { for (let i = 0; i < 10000; i++) emit(i, null) }");
    assert_eq!(rows, documents * 10_000);
    bounded("300,000 rows", peak);
}

#[test]
fn large_keys_use_bounded_memory() {
    let documents = 20 * rounds(1);
    let map = "function (doc) { for (let i = 0; i < 5; i++) emit('k'.repeat(1000000) + i, 1) }";
    let (rows, peak) = build(documents, map);
    assert_eq!(rows, documents * 5);
    bounded("100 MB of keys", peak);
}

/// A document that emits more than the limit has no rows; the other documents keep theirs.
#[test]
fn a_document_that_emits_too_much_is_left_out() {
    let many =
        "function (doc) { if (doc.number == 5) for (let i = 0; i < 300000; i++) emit(i, null); else emit(1, 2) }";
    let (rows, peak) = build(50, many);
    assert_eq!(rows, 49);
    bounded("a document of too many rows", peak);
}

/// Each document alone is within the limit of a build, but several together are not.
#[test]
fn documents_that_together_exceed_the_limit_are_all_indexed() {
    let (rows, peak) = build(12, "function (doc) { for (let i = 0; i < 8; i++) emit(i, 'v'.repeat(1000000)) }");
    assert_eq!(rows, 12 * 8);
    bounded("100 MB of values", peak);
}

/// A document has very many empty attachments, and its next revision keeps them. All have the same content,
/// so settee must write one file, not one per attachment, and send them in large pieces.
#[test]
fn thousands_of_equal_attachments_take_few_writes() {
    let count = 10_000 * rounds(1);
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let server = Server::start(&data, "sled").expect("it starts");
    let mut client = server.client();
    ask(&mut client, "PUT", "/db", &json!({}));
    let inline = |number: u64| (format!("a{number}"), json!({"content_type": "image/png", "data": ""}));
    let attachments: serde_json::Map<String, Value> = (0..count).map(inline).collect();
    let before = server.writes();
    let first = ask(&mut client, "PUT", "/db/many", &json!({"_attachments": attachments}));
    let mut doc = ask(&mut client, "GET", "/db/many", &json!({}));
    assert_eq!(doc["_attachments"].as_object().map(serde_json::Map::len), usize::try_from(count).ok());
    doc["more"] = true.into();
    assert_eq!(doc["_rev"], first["rev"]);
    ask(&mut client, "PUT", "/db/many", &doc);
    ask(&mut client, "POST", "/db/_compact", &json!({}));
    let whole = client.get("/db/many?attachments=true").expect("it answers");
    assert!(whole.is_ok() && whole.body.len() as u64 > 100 * count, "{}", whole.body.len());
    let writes = server.writes() - before;
    assert!(writes < count / 10, "{writes} calls of write for {count} attachments");
    server.kill();
    check(&data).unwrap();
}
