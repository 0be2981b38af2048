//! Targets behind something that answers in their place.

use parking_lot::Mutex;

use super::hostile::{ABOUT, JSON, Script, source};
use super::*;

const HTML: &str = "text/html";
const PAGE: &[u8] = b"<html><h1>What you ask for is not allowed</h1></html>";
const REFUSAL: &[u8] = br#"{"error":"bad_request","reason":"no"}"#;
const DONE: &[u8] = br#"{"ok":true,"id":"a","rev":"1-b"}"#;

/// Replicates one document to a target that answers `_bulk_docs` and the `PUT` of the document like this. Returns how
/// it ended, its counters, and the requests that were such writes.
async fn to(
    here: &Running,
    bulk: (u16, &'static [u8]),
    alone: (u16, &'static [u8]),
) -> (Result<Outcome, Failure>, Value) {
    let name = format!("from{}", here.app.clock.uuid());
    let from = create(here, &name);
    samples::put(&from, "a", 1).await;
    let (_, revision) = contents(&from).into_keys().next().unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = written.clone();
    let kind = |body: &[u8]| if body.first() == Some(&b'{') { JSON } else { HTML };
    let script: Script = Arc::new(move |method, path| {
        let answer = match (method, path.split('?').next().unwrap()) {
            ("GET", "/db") => (200, ABOUT),
            ("POST", "/db/_bulk_docs") => bulk,
            ("PUT", "/db/a") => alone,
            ("POST", "/db/_revs_diff") => {
                return Some((200, JSON, json!({"a": {"missing": [revision]}}).to_string().into_bytes()));
            }
            ("POST", "/db/_ensure_full_commit") | ("PUT", _) => (201, DONE),
            _ => return None,
        };
        if matches!(path.split(['?', '/']).nth(2), Some("_bulk_docs" | "a")) {
            seen.lock().push(format!("{method} {path}"));
        }
        Some((answer.0, kind(answer.1), answer.1.to_vec()))
    });
    let (address, _) = source(script).await;
    let mut parameters = Parameters::new(local(&name), remote(address, "db"));
    parameters.retries_per_request = 1;
    let progress = Progress::new();
    let ended = pass(&context(here), &parameters, &progress).await;
    let counters = progress.counters();
    let counted = json!([counters.docs_written, counters.doc_write_failures, written.lock().len()]);
    (ended, counted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_database_server_refuses_a_document() {
    let here = server(&[]).await;
    // Of each row: what `_bulk_docs` and `PUT` answer; the status with which the pass fails; what is written, refused,
    // and how many writes were sent.
    for (name, bulk, alone, failed, counted) in [
        ("refused by its server", (400, REFUSAL), (400, REFUSAL), None, [0, 1, 2]),
        ("a server without texts: too large for anybody", (413, PAGE), (413, PAGE), None, [0, 1, 2]),
        ("too large together", (413, PAGE), (201, DONE), None, [1, 0, 2]),
        ("a firewall before all writes", (400, PAGE), (201, DONE), Some(400), [0, 0, 2]),
        ("a firewall before this one", (400, REFUSAL), (400, PAGE), Some(400), [0, 0, 3]),
        ("one that forbids", (413, PAGE), (403, PAGE), Some(403), [0, 0, 3]),
        ("a sign-in page", (413, PAGE), (200, PAGE), Some(200), [0, 0, 2]),
    ] {
        let (ended, found) = to(&here, bulk, alone).await;
        assert_eq!(found, json!(counted), "{name}: {ended:?}");
        match (failed, ended) {
            (None, Ok(Outcome::Completed(_))) => {}
            (Some(wanted), Err(Failure::Status { status, .. })) if status == wanted => {}
            (_, ended) => panic!("{name}: {ended:?}"),
        }
    }
}
