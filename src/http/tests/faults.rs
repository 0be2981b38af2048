//! Fault injection: the server runs a workload on a store that fails one call, at every possible write with
//! every kind of fault, and at every possible read.
//!
//! Checked each time: no acknowledged write is lost, no response is wrong, nothing panics, and the server
//! recovers without a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::*;
use crate::store::embedded::faults::{Faults, WriteFault};

/// Number of a call that never happens.
const NEVER: u64 = 1 << 40;

#[derive(Debug, Clone, PartialEq)]
struct Known {
    revision: String,
    value: u64,
    deleted: bool,
}

/// A client that remembers the responses it received.
struct Told {
    address: SocketAddr,
    known: BTreeMap<String, Known>,
    /// Values of failed writes: each may or may not have been stored.
    unsure: BTreeMap<String, u64>,
    failed: u32,
}

impl Told {
    /// Sends a request and returns the response; `None` if the server failed. It must then have answered with
    /// an error status or ended the response early.
    async fn ask(&mut self, line: &str, body: Value) -> Option<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let address = self.address;
        // Boxed: the client's buffers in every future that calls this are too large for the stack of a test.
        let reply = within(Box::pin(async move {
            let mut client = Client::connect(address).await;
            client.send(line, &[ADMIN, JSON], body.as_bytes()).await;
            client.reply(false).await
        }))
        .await;
        let answer = reply.as_ref().and_then(|reply| serde_json::from_slice(&reply.body).ok());
        match reply {
            Some(reply) if reply.status < 300 && answer.is_some() => return answer,
            Some(reply) => {
                let broke_off = reply.status == 200;
                assert!(
                    broke_off || [500, 503, 507].contains(&reply.status),
                    "{line}: {} {}",
                    reply.status,
                    reply.text()
                );
                assert!(!reply.text().contains("made to"), "{line}: the cause is for the log: {}", reply.text());
            }
            None => {}
        }
        self.failed += 1;
        None
    }

    fn remember(&mut self, id: &str, value: u64, deleted: bool, revision: Option<&Value>) {
        match revision.and_then(Value::as_str) {
            Some(revision) => {
                let revision = revision.to_owned();
                self.known.insert(id.to_owned(), Known { revision, value, deleted });
            }
            None => {
                self.unsure.insert(id.to_owned(), value);
            }
        }
    }

    async fn put(&mut self, id: &str, value: u64, more: Value) {
        if self.unsure.contains_key(id) {
            // Unknown whether this write would conflict.
            return;
        }
        let mut body = json!({"v": value});
        if let Some(known) = self.known.get(id) {
            body["_rev"] = known.revision.clone().into();
        }
        let deleted = more["_deleted"] == true;
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.ask(&format!("PUT /db/{id}"), body).await;
        self.remember(id, value, deleted, answer.as_ref().map(|answer| &answer["rev"]));
    }

    /// Checks that a document that was read is the last acknowledged one, or the one whose write failed.
    fn compare(&self, id: &str, revision: &Value, value: Option<&Value>) {
        let known = self.known.get(id);
        if known.is_some_and(|known| *revision == known.revision && value.is_none_or(|value| *value == known.value)) {
            return;
        }
        let unsure = self.unsure.get(id);
        assert!(
            unsure.is_some() && value.is_none_or(|value| Some(value) == unsure.map(|it| json!(it)).as_ref()),
            "{id}: {revision}"
        );
    }

    /// Checks rows of documents. Every acknowledged document that is not deleted must be among them.
    fn compare_rows(&self, rows: &Value, id_of: impl Fn(&Value) -> (String, Value, Option<Value>)) {
        let mut seen = BTreeMap::new();
        for row in rows.as_array().unwrap() {
            let (id, revision, value) = id_of(row);
            if !id.starts_with('_') {
                self.compare(&id, &revision, value.as_ref());
                assert!(seen.insert(id.clone(), ()).is_none(), "{id} stands twice");
            }
        }
        for (id, known) in self.known.iter().filter(|(_, known)| !known.deleted) {
            assert!(seen.contains_key(id) || self.unsure.contains_key(id), "{id} is lost: {known:?}");
        }
    }

    async fn read_all(&mut self) {
        if let Some(changes) = self.ask("GET /db/_changes", Value::Null).await {
            self.compare_rows(&changes["results"], |row| {
                (row["id"].as_str().unwrap().into(), row["changes"][0]["rev"].clone(), None)
            });
        }
        if let Some(rows) = self.ask("GET /db/_all_docs?include_docs=true", Value::Null).await {
            self.compare_rows(&rows["rows"], |row| {
                (row["id"].as_str().unwrap().into(), row["value"]["rev"].clone(), Some(row["doc"]["v"].clone()))
            });
        }
        if let Some(found) = self.ask("POST /db/_find", json!({"selector": {"v": {"$gt": 0}}, "limit": 99})).await {
            self.compare_rows(&found["docs"], |doc| {
                (doc["_id"].as_str().unwrap().into(), doc["_rev"].clone(), Some(doc["v"].clone()))
            });
        }
        for id in self.known.keys().cloned().collect::<Vec<_>>() {
            if !self.known[&id].deleted
                && !self.unsure.contains_key(&id)
                && let Some(doc) = self.ask(&format!("GET /db/{id}"), Value::Null).await
            {
                self.compare(&id, &doc["_rev"], Some(&doc["v"]));
            }
        }
    }

    /// The workload: some of every kind of operation.
    async fn work(&mut self) {
        self.put("a", 1, json!({})).await;
        self.put("a", 2, json!({})).await;
        let docs = json!([{"_id": "b", "v": 3}, {"_id": "c", "v": 4}]);
        let rows = self.ask("POST /db/_bulk_docs", json!({"docs": docs})).await;
        for (at, (id, value)) in [("b", 3), ("c", 4)].into_iter().enumerate() {
            self.remember(id, value, false, rows.as_ref().and_then(|rows| rows[at].get("rev")));
        }
        let docs = json!([{"_id": "d", "_rev": "1-x", "v": 5}, {"_id": "e", "_rev": "1-y", "v": 6}]);
        let rows = self.ask("POST /db/_bulk_docs", json!({"docs": docs, "new_edits": false})).await;
        for (id, value, revision) in [("d", 5, json!("1-x")), ("e", 6, json!("1-y"))] {
            // The response has a row for each document that was not written.
            let failed = rows.as_ref().is_none_or(|rows| rows.as_array().unwrap().iter().any(|row| row["id"] == id));
            self.failed += u32::from(failed && rows.is_some());
            self.remember(id, value, false, Some(&revision).filter(|_| !failed));
        }
        let data = json!({"_attachments": {"t": {"content_type": "image/png", "data": "aGVsbG8="}}});
        self.put("f", 7, data).await;
        if self.known.contains_key("b") {
            self.put("b", 8, json!({"_deleted": true})).await;
        }
        self.ask("PUT /db/_local/l", json!({"v": 1})).await;
        self.read_all().await;
        self.ask("POST /db/_compact", Value::Null).await;
        if let Some(known) = self.known.get("c").cloned() {
            let purged = self.ask("POST /db/_purge", json!({"c": [known.revision]})).await;
            if purged.is_none() {
                self.unsure.insert("c".into(), known.value);
            } else {
                self.known.remove("c");
            }
        }
        let made = self.ask("PUT /other", Value::Null).await;
        if made.is_some() {
            self.ask("DELETE /other", Value::Null).await;
        }
        self.put("g", 9, json!({})).await;
        self.read_all().await;
    }
}

/// Runs the workload with a fault. Returns the number of writes and of reads of the store.
async fn run(plan: impl Fn(&Faults)) -> (u64, u64) {
    let (store, faults) = Faults::store();
    let running = super::server_on(&[], store.clone()).await;
    let mut told = Told { address: running.address, known: BTreeMap::new(), unsure: BTreeMap::new(), failed: 0 };
    told.ask("PUT /db", Value::Null).await.expect("no fault is planned yet");
    let before = faults.calls();
    plan(&faults);
    told.work().await;
    let after = faults.calls();
    faults.fail_write(NEVER, WriteFault::Io);
    faults.fail_read(NEVER);
    // One fault fails one request, or two if they were in the same group commit.
    assert!(told.failed <= 2, "{} requests failed", told.failed);
    let failed = told.failed;
    told.put("last", 10, json!({})).await;
    told.read_all().await;
    assert_eq!(told.failed, failed, "it is well again");
    let app = running.app.clone();
    running.shutdown().await.unwrap();
    while app.databases.remove_some().unwrap() {}
    let found = crate::maintain::check(&*store, &**app.databases.blobs(), &mut |_| {}).unwrap();
    assert_eq!(found.problems, Vec::<String>::new());
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_recovers_from_a_failure_of_each_write() {
    let (writes, _) = run(|_| {}).await;
    assert!(writes >= 12, "{writes}");
    for nth in 0..writes {
        for fault in [WriteFault::Io, WriteFault::Full, WriteFault::Unknown, WriteFault::Panic] {
            run(|faults| faults.fail_write(nth, fault)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_recovers_from_a_failure_of_each_read() {
    let (_, reads) = run(|_| {}).await;
    assert!(reads >= 30, "{reads}");
    for nth in 0..reads {
        run(|faults| faults.fail_read(nth)).await;
    }
}

/// On a full disk, `_bulk_docs` deletes `_local` documents although it cannot write others beside them.
#[tokio::test]
async fn local_documents_are_deleted_on_a_full_disk_beside_puts_that_are_refused() {
    let (store, faults) = Faults::store();
    let running = super::server_on(&[], store).await;
    assert_eq!(send(&running, "PUT /db", ADMIN, json!({})).await.status, 201);
    assert_eq!(send(&running, "PUT /db/_local/old", ADMIN, json!({})).await.status, 201);
    // Until the `updated` row of that write is there: it would be the write that fails.
    let is_updated = |last: &u64| *last >= 2;
    within(running.app.databases.watch_events().wait_for(is_updated)).await.unwrap();
    faults.fail_write(0, WriteFault::Full);
    let docs = json!([{"_id": "_local/new"}, {"_id": "_local/old", "_rev": "0-1", "_deleted": true}]);
    let rows = send(&running, "POST /db/_bulk_docs", ADMIN, json!({"docs": docs})).await.json();
    assert_eq!((&rows[0]["error"], &rows[1]["ok"]), (&json!("insufficient_storage"), &json!(true)), "{rows}");
    for id in ["old", "new"] {
        let reply = super::ask(running.address, &format!("GET /db/_local/{id}"), &[ADMIN], b"").await;
        assert_eq!(reply.status, 404, "{id}");
    }
}
