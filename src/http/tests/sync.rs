//! `/_sync`: alerts, which need time to pass.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ADMIN, JSON, ask, server_at};
use crate::clock::Clock;
use crate::server::start::Running;
use crate::store::memory::Memory;

const PHONE: &str = "X-Settee-Device: phone";

async fn call(running: &Running, request: &str, body: Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [ADMIN, PHONE, JSON];
    let reply = ask(running.address, request, &headers, body.as_bytes()).await;
    assert!(reply.status < 300, "{request}: {} {}", reply.status, reply.text());
    reply.json()
}

/// A server at a fixed time with the database `db`, which a client has begun to pull.
async fn pulled(rows: &[(&str, &str, &str)]) -> (Clock, Running) {
    let clock = Clock::fixed(Duration::from_secs(1_700_000_000));
    let running = server_at(rows, Arc::new(Memory::new()), clock.clone()).await;
    call(&running, "PUT /db", Value::Null).await;
    call(&running, "GET /db/_changes?style=all_docs&since=0", Value::Null).await;
    (clock, running)
}

/// Kind, severity and count of all alerts.
async fn alerts(running: &Running) -> Vec<(String, String, u64)> {
    let answer = call(running, "GET /_sync/alerts", Value::Null).await;
    let text = |alert: &Value, name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    let rows = answer["alerts"].as_array().expect("a list").iter();
    rows.map(|alert| (text(alert, "kind"), text(alert, "severity"), alert["count"].as_u64().unwrap_or(0))).collect()
}

fn told(kind: &str, severity: &str, count: u64) -> (String, String, u64) {
    (kind.into(), severity.into(), count)
}

#[tokio::test]
async fn a_client_that_lacks_changes_and_is_not_seen_for_a_day_has_stopped() {
    let (clock, running) = pulled(&[("audit", "mass_deletion", "3")]).await;
    clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(alerts(&running).await, [], "it lacks nothing");
    call(&running, "POST /db/_bulk_docs", json!({"docs": [{"_id": "a"}, {"_id": "b"}]})).await;
    // The push of the same client is no replicated one, but it was seen.
    assert_eq!(alerts(&running).await, []);
    clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(alerts(&running).await, [told("device_stopped", "warning", 2)]);
    let status = call(&running, "GET /_sync/status", Value::Null).await;
    assert_eq!(
        (&status["rows"][0]["online"], &status["rows"][0]["databases"][0]["behind"]),
        (&json!(false), &json!(2))
    );
    call(&running, "GET /db/_changes?style=all_docs&since=2", Value::Null).await;
    assert_eq!(alerts(&running).await, [], "it is back");
    let events = call(&running, "GET /_sync/history", Value::Null).await["events"].clone();
    let kinds: Vec<&str> =
        events.as_array().expect("a list").iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["back"], "older events are not of the last 24 hours");
}

#[tokio::test]
async fn a_client_far_behind_and_many_deletions_are_told_of_for_a_day() {
    let (clock, running) = pulled(&[("audit", "mass_deletion", "3")]).await;
    let docs: Vec<Value> = (0..1200).map(|number| json!({"_id": format!("doc{number}")})).collect();
    let written = call(&running, "POST /db/_bulk_docs", json!({ "docs": docs })).await;
    assert_eq!(alerts(&running).await, [told("far_behind", "info", 1200)]);
    let deletions: Vec<Value> =
        (0..4).map(|at| json!({"_id": written[at]["id"], "_rev": written[at]["rev"], "_deleted": true})).collect();
    call(&running, "POST /db/_bulk_docs", json!({ "docs": deletions })).await;
    let found = alerts(&running).await;
    assert_eq!(found, [told("suspicious", "critical", 0), told("far_behind", "info", 1200)]);
    clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(alerts(&running).await, [told("device_stopped", "warning", 1200)]);
}

#[tokio::test]
async fn devices_that_look_alike_are_told_apart_and_reported_after_the_time_of_the_setting() {
    let (clock, running) = pulled(&[("sync", "device_stopped_after", "3600")]).await;
    let first = call(&running, "POST /db/_bulk_docs", json!({"docs": [{"_id": "a"}]})).await;
    assert!(first[0]["ok"] == true, "{first}");
    let checkpoint = |sequence: &Value| json!({"last_seq": sequence, "history": []});
    let one = call(&running, "GET /db", Value::Null).await["update_seq"].clone();
    call(&running, "PUT /db/_local/phone", checkpoint(&one)).await;
    call(&running, "POST /db/_bulk_docs", json!({"docs": [{"_id": "b"}]})).await;
    let two = call(&running, "GET /db", Value::Null).await["update_seq"].clone();
    clock.advance(Duration::from_secs(90 * 60));
    call(&running, "GET /db/_changes?style=all_docs&since=2", Value::Null).await;
    call(&running, "PUT /db/_local/laptop", checkpoint(&two)).await;
    let status = call(&running, "GET /_sync/status", Value::Null).await;
    let database = &status["rows"][0]["databases"][0];
    assert_eq!((&database["behind"], &database["checkpoint_id"]), (&json!(0), &json!("laptop")));
    let replications = database["replications"].as_array().expect("a list");
    let shown: Vec<_> = replications.iter().map(|one| (&one["checkpoint_id"], &one["behind"])).collect();
    assert_eq!(shown, [(&json!("laptop"), &json!(0)), (&json!("phone"), &json!(1))]);
    assert_eq!(alerts(&running).await, [told("device_stopped", "info", 1)]);
    clock.advance(Duration::from_secs(8 * 24 * 3600));
    call(&running, "GET /db/_changes?style=all_docs&since=2", Value::Null).await;
    assert_eq!(alerts(&running).await, [], "a replication that stopped a week ago is most probably replaced");
}
