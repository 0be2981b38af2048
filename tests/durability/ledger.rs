//! Records the acknowledged writes of each client, and verifies them against a server.
//!
//! Each worker owns its documents and sends one request at a time. Therefore the outcome of at most one of
//! its requests is unknown: the one in flight when the server died.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::client::Client;

/// The acknowledged state of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub revision: String,
    pub deleted: bool,
    pub value: u64,
    /// Content of the attachment `a`.
    pub attachment: Option<String>,
}

/// The acknowledged state of one worker's documents and databases.
#[derive(Default)]
pub struct Ledger {
    pub documents: BTreeMap<String, Known>,
    /// The write in flight: (document ids, the value that it writes).
    pub under_way: Option<(Vec<String>, u64)>,
    /// Database name → whether it exists.
    pub databases: BTreeMap<String, bool>,
    /// The database whose creation or deletion is in flight.
    pub database_under_way: Option<String>,
    /// Number of acknowledged requests.
    pub answered: u64,
    value: u64,
}

/// Number of kinds of workers.
pub const KINDS: usize = 6;

/// Writes until an error or until `stop` is set. The kind of worker is `number % KINDS`.
pub fn work(client: &mut Client, number: usize, ledger: &mut Ledger, stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        ledger.value += 1;
        let value = ledger.value;
        let pick = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        match number % KINDS {
            0 => put(client, ledger, format!("w{number}-{}", pick % 40), value, pick.is_multiple_of(5))?,
            1 => bulk(client, ledger, number, value, true)?,
            2 => bulk(client, ledger, number, value, false)?,
            3 => attach(client, ledger, format!("w{number}-{}", pick % 20), value)?,
            4 => put(client, ledger, format!("w{number}-{}", value), value, false)?,
            _ => databases(client, ledger, number, value)?,
        }
        ledger.under_way = None;
        ledger.database_under_way = None;
        ledger.answered += 1;
    }
    Ok(())
}

fn failed(what: &str, body: &[u8]) -> ! {
    panic!("{what}: {}", String::from_utf8_lossy(body))
}

fn put(client: &mut Client, ledger: &mut Ledger, id: String, value: u64, delete: bool) -> io::Result<()> {
    let known = ledger.documents.get(&id).cloned();
    let alive = known.as_ref().filter(|known| !known.deleted);
    let deleted = delete && alive.is_some();
    let mut body = json!({"value": value, "filler": "x".repeat((value * 37 % 3000) as usize)});
    if let Some(known) = alive {
        body["_rev"] = known.revision.clone().into();
    }
    if deleted {
        body["_deleted"] = true.into();
    }
    ledger.under_way = Some((vec![id.clone()], value));
    let answer = client.json("PUT", &format!("/db/{id}"), &body)?;
    if !answer.is_ok() {
        failed("PUT", &answer.body);
    }
    let revision = answer.json()["rev"].as_str().expect("a revision").to_owned();
    ledger.documents.insert(id, Known { revision, deleted, value, attachment: None });
    Ok(())
}

fn bulk(client: &mut Client, ledger: &mut Ledger, number: usize, value: u64, new_edits: bool) -> io::Result<()> {
    let ids: Vec<String> = (0..7).map(|at| format!("w{number}-{}", (value % 5) * 7 + at)).collect();
    let docs: Vec<Value> = ids
        .iter()
        .map(|id| {
            let mut doc = json!({"_id": id, "value": value});
            let known = ledger.documents.get(id);
            if new_edits {
                if let Some(known) = known {
                    doc["_rev"] = known.revision.clone().into();
                }
            } else {
                let (generation, parent) = known.map_or((0, ""), |known| {
                    known
                        .revision
                        .split_once('-')
                        .map_or((0, ""), |(generation, hash)| (generation.parse().unwrap_or(0), hash))
                });
                let hash = format!("{value:032x}");
                let ids = if generation == 0 { json!([hash]) } else { json!([hash, parent]) };
                doc["_rev"] = format!("{}-{hash}", generation + 1).into();
                doc["_revisions"] = json!({"start": generation + 1, "ids": ids});
            }
            doc
        })
        .collect();
    let revisions: Vec<String> = docs.iter().map(|doc| doc["_rev"].as_str().unwrap_or("").to_owned()).collect();
    ledger.under_way = Some((ids.clone(), value));
    let answer = client.json("POST", "/db/_bulk_docs", &json!({"docs": docs, "new_edits": new_edits}))?;
    if !answer.is_ok() {
        failed("_bulk_docs", &answer.body);
    }
    let rows = answer.json();
    for (at, id) in ids.into_iter().enumerate() {
        let revision = if new_edits {
            rows[at]["rev"].as_str().unwrap_or_else(|| failed("_bulk_docs", &answer.body)).to_owned()
        } else {
            revisions[at].clone()
        };
        ledger.documents.insert(id, Known { revision, deleted: false, value, attachment: None });
    }
    Ok(())
}

fn attach(client: &mut Client, ledger: &mut Ledger, id: String, value: u64) -> io::Result<()> {
    use base64::Engine;
    let content = format!("{value} ").repeat((value * 7919 % 20_000) as usize);
    let data = base64::engine::general_purpose::STANDARD.encode(&content);
    let mut body =
        json!({"value": value, "_attachments": {"a": {"content_type": "application/octet-stream", "data": data}}});
    if let Some(known) = ledger.documents.get(&id) {
        body["_rev"] = known.revision.clone().into();
    }
    ledger.under_way = Some((vec![id.clone()], value));
    let answer = client.json("PUT", &format!("/db/{id}"), &body)?;
    if !answer.is_ok() {
        failed("PUT with an attachment", &answer.body);
    }
    let revision = answer.json()["rev"].as_str().expect("a revision").to_owned();
    ledger.documents.insert(id, Known { revision, deleted: false, value, attachment: Some(content) });
    Ok(())
}

fn databases(client: &mut Client, ledger: &mut Ledger, number: usize, value: u64) -> io::Result<()> {
    let name = format!("other{number}-{}", value % 6);
    let there = ledger.databases.get(&name).copied().unwrap_or(false);
    ledger.database_under_way = Some(name.clone());
    let answer = client.ask(if there { "DELETE" } else { "PUT" }, &format!("/{name}"), "application/json", b"")?;
    if !answer.is_ok() {
        failed("a database", &answer.body);
    }
    ledger.databases.insert(name.clone(), !there);
    if !there {
        ledger.database_under_way = None;
        // Gives a later deletion something to remove; `verify` does not check these documents.
        client.json("POST", &format!("/{name}/_bulk_docs"), &json!({"docs": [{"a": 1}, {"a": 2}]}))?;
    }
    Ok(())
}

/// Compares the ledgers with the server's state, and resolves the writes that were in flight. Panics on a
/// lost write.
pub fn verify(client: &mut Client, ledgers: &mut [Ledger]) {
    let info = client.get("/db").expect("the server answers").json();
    let changes = client.get("/db/_changes?include_docs=true").expect("the server answers").json();
    let number = |value: &Value| -> u64 {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.split('-').next().and_then(|number| number.parse().ok()).expect("a sequence begins with its number")
    };
    let mut found = BTreeMap::new();
    let mut last = 0;
    for row in changes["results"].as_array().expect("rows") {
        let sequence = number(&row["seq"]);
        assert!(sequence > last, "sequences rise");
        last = sequence;
        let id = row["id"].as_str().expect("an id").to_owned();
        assert!(found.insert(id.clone(), row.clone()).is_none(), "{id} stands twice in _changes");
    }
    assert!(last <= number(&info["update_seq"]), "a row above update_seq");
    let deleted = found.values().filter(|row| row["deleted"] == true).count();
    assert_eq!(info["doc_del_count"], deleted, "doc_del_count");
    assert_eq!(info["doc_count"], found.len() - deleted, "doc_count");

    for ledger in ledgers.iter_mut() {
        let (ids, value) = ledger.under_way.take().unwrap_or_default();
        let mut done = Vec::new();
        for id in &ids {
            // The write in flight was either applied or not; the server's state decides.
            let row = found.get(id).filter(|row| row["doc"]["value"] == value);
            done.push(row.is_some());
            if let Some(row) = row {
                let revision = row["changes"][0]["rev"].as_str().expect("a revision").to_owned();
                let attachment = row["doc"]["_attachments"].is_object().then(|| attachment_of(client, id));
                let deleted = row["deleted"] == true;
                ledger.documents.insert(id.clone(), Known { revision, deleted, value, attachment });
            }
        }
        assert!(done.iter().all(|each| *each == done[0]), "a request was half applied: {ids:?} {done:?}");
        for (id, known) in &ledger.documents {
            let row = found.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is lost: {known:?}"));
            assert_eq!(row["changes"][0]["rev"], known.revision, "{id} has lost a revision");
            assert_eq!(row["deleted"] == true, known.deleted, "{id}");
            assert_eq!(row["doc"]["value"], known.value, "{id}");
            if let Some(content) = &known.attachment {
                assert!(*content == attachment_of(client, id), "the attachment of {id} is another");
            }
        }
        let names = client.get("/_all_dbs").expect("the server answers").json();
        let there = |name: &str| names.as_array().is_some_and(|names| names.iter().any(|there| there == name));
        if let Some(name) = ledger.database_under_way.take() {
            ledger.databases.insert(name.clone(), there(&name));
        }
        for (name, expected) in &ledger.databases {
            assert_eq!(there(name), *expected, "database {name}");
        }
    }
}

fn attachment_of(client: &mut Client, id: &str) -> String {
    let answer = client.get(&format!("/db/{id}/a")).expect("the server answers");
    assert_eq!(answer.status, 200, "the attachment of {id}: {}", String::from_utf8_lossy(&answer.body));
    String::from_utf8(answer.body).expect("text")
}
