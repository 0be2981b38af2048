//! Writing documents over a socket: what `COPY` and `_bulk_docs` do beside the writing itself.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::store::memory::Memory;
use crate::store::range::KeyRange;
use crate::store::{Batch, Direction, Entry, PageLimit};

async fn send(running: &Running, line: &str, headers: &[&str], body: Value) -> Reply {
    let headers = [&[JSON, ADMIN], headers].concat();
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    ask(running.address, line, &headers, &body).await
}

#[tokio::test]
async fn copy_names_no_attachment_whose_content_is_gone() {
    let running = server(&[]).await;
    send(&running, "PUT /db", &[], Value::Null).await;
    let document = json!({"_attachments": {"a": {"content_type": "text/plain", "data": "aGVsbG8="}}});
    assert_eq!(send(&running, "PUT /db/source", &[], document).await.status, 201);
    assert_eq!(send(&running, "COPY /db/source", &["Destination: good"], Value::Null).await.status, 201);
    let copied = send(&running, "GET /db/good/a", &[], Value::Null).await;
    assert_eq!((copied.status, copied.body.as_slice()), (200, b"hello".as_slice()));
    // What a sweep leaves that comes between the reading of the source and the pin.
    let blobs = running.app.databases.blobs();
    for id in blobs.list(None, 9).unwrap() {
        assert!(blobs.remove_unless(&id, &|| Ok(false)).unwrap());
    }
    let refused = send(&running, "COPY /db/source", &["Destination: bad"], Value::Null).await;
    assert_eq!((refused.status, refused.error().as_str()), (500, "internal_server_error"), "{}", refused.text());
    assert_eq!(send(&running, "GET /db/bad", &[], Value::Null).await.status, 404);
}

/// Counts the commits that write `_local` documents of the first database.
struct Counting {
    inner: Memory,
    commits: AtomicU64,
}

impl Store for Counting {
    fn get_many(&self, keys: &[Vec<u8>]) -> crate::store::Result<Vec<Option<Vec<u8>>>> {
        self.inner.get_many(keys)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> crate::store::Result<Vec<Entry>> {
        self.inner.scan(range, direction, limit)
    }

    fn commit(&self, batch: Batch) -> crate::store::Result<()> {
        let is_local = |key: &[u8]| key.first() == Some(&0x10) && key.get(9) == Some(&b'l');
        if batch.writes.iter().any(|(key, _)| is_local(key)) {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.commit(batch)
    }

    fn engine(&self) -> &'static str {
        "counting"
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn bulk_docs_writes_its_local_documents_in_one_commit_and_notes_the_checkpoint() {
    let store = Arc::new(Counting { inner: Memory::new(), commits: AtomicU64::new(0) });
    let running = server_on(&[], store.clone()).await;
    send(&running, "PUT /db", &[], Value::Null).await;
    let checkpoint = |name: &str, sequence: &str| json!({"_id": format!("_local/{name}"), "last_seq": sequence});
    let docs = json!({"docs": [
        checkpoint("a", "1-x"),
        {"_id": "doc"},
        checkpoint("b", "7-x"),
        {"_id": "_local/c", "_rev": "0-4", "other": true},
        {"_id": "_local/gone", "_deleted": true},
    ]});
    let reply = send(&running, "POST /db/_bulk_docs", &["X-Settee-Device: phone"], docs).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let rows = reply.json();
    let of = |at: usize| (rows[at]["id"].as_str().unwrap(), rows[at]["rev"].as_str().unwrap());
    assert_eq!(
        [of(0), of(2), of(3), of(4)],
        [("_local/a", "0-1"), ("_local/b", "0-1"), ("_local/c", "0-5"), ("_local/gone", "0-0")]
    );
    assert_eq!(rows[1]["id"], "doc");
    assert_eq!(store.commits.load(Ordering::Relaxed), 1);
    assert_eq!(send(&running, "GET /db/_local/b", &[], Value::Null).await.json()["last_seq"], "7-x");
    let devices = send(&running, "GET /_session/devices", &[], Value::Null).await.json();
    let databases: Vec<&Value> = devices["devices"].as_array().unwrap().iter().map(|row| &row["databases"]).collect();
    assert_eq!(databases, [&json!({"db": "7-x"})], "{devices}");
}
