//! Selectors and fields that are designed to use too much memory or time with large documents.

use std::thread;

use serde_json::{Value, json};

use crate::allowed_skips;
use crate::server::Server;

/// Requests at the same time.
const READERS: usize = 12;
/// By how many megabytes the server's peak memory may grow, in a debug build.
const MOST: u64 = 800;

/// Each reader would take some 150 MB if its document were parsed beside those of the others, and 10,000 copies of it
/// if each field made one.
#[test]
fn large_documents_that_many_select_use_bounded_memory_and_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(&dir.path().join("data"), "redb").expect("it starts");
    let mut client = server.client();
    assert!(client.json("PUT", "/db", &json!({})).expect("it answers").is_ok());
    let list = format!("[{}0]", "0,".repeat(2_000_000));
    let document = format!("{{\"n\":1.10,\"t\":{list}}}");
    let written = client.ask("PUT", "/db/large", "application/json", document.as_bytes()).expect("it answers");
    assert!(written.is_ok());
    let before = server.peak_memory();
    let many: Vec<&str> = [vec!["n", "t.0", "t.1.x"], vec!["t"; 5000], vec!["t.5"; 4000]].concat();
    let (feed, find) = ("/db/_changes?filter=_selector&include_docs=true", "/db/_find");
    for (path, selector, fields) in [
        (feed, json!({"_id": {"$gt": null}}), json!(["n"])),
        (feed, json!({"_id": {"$gt": null}}), json!(many)),
        (feed, json!({"t": {"$type": "array"}}), json!(["n"])),
        (find, json!({"t": {"$type": "array"}}), json!(["n"])),
        (find, json!({"t": {"$type": "array"}, "_deleted": {"$exists": false}}), json!(many)),
    ] {
        let wanted = if fields == json!(["n"]) { "{\"n\":1.10}".to_owned() } else { document.clone() };
        let body = json!({"selector": selector, "fields": fields});
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    let answer = server.client().json("POST", path, &body).expect("it answers");
                    let text = String::from_utf8_lossy(&answer.body);
                    assert!(
                        answer.is_ok() && text.contains(&wanted),
                        "{selector}: {}",
                        text.get(..100).unwrap_or(&text)
                    );
                });
            }
        });
    }
    let up: Value = client.get("/_up").expect("it answers").json();
    assert_eq!(up["status"], "ok");
    match server.peak_memory().zip(before) {
        Some((after, before)) => assert!(after - before < MOST, "{} MB", after - before),
        None => allowed_skips::skip("the system does not report a peak of memory"),
    }
    server.kill();
}
