//! Views over a real socket: responses, errors, rows with documents.

use serde_json::{Value, json};

use super::*;

async fn filled() -> Running {
    let running = server(&[]).await;
    for (line, body) in [
        ("PUT /db", json!(null)),
        (
            "PUT /db/_design/d",
            json!({"views": {
                "k": {"map": "function (doc) { emit(doc.k, doc.n); }", "reduce": "_sum"},
                "linked": {"map": "function (doc) { if (doc.to) emit(doc._id, {_id: doc.to}); }"},
                "endless": {"map": "function (doc) { throw 'no'; }"},
            }}),
        ),
        (
            "POST /db/_bulk_docs",
            json!({"docs": [
                {"_id": "a", "k": [1, 1], "n": 1, "to": "b"},
                {"_id": "b", "k": [1, 2], "n": 2, "to": "nowhere"},
                {"_id": "c", "k": [2], "n": 4},
            ]}),
        ),
    ] {
        let reply = ask(running.address, line, &[ADMIN, JSON], body.to_string().as_bytes()).await;
        assert!(reply.status < 300, "{line}: {}", reply.text());
    }
    running
}

#[tokio::test]
async fn view_queries_return_rows_and_reductions() {
    let running = filled().await;
    for (line, body, expected) in [
        ("GET /db/_design/d/_view/k", json!(null), json!({"rows": [{"key": null, "value": 7}]})),
        (
            "GET /db/_design%2Fd/_view/k?group_level=1",
            json!(null),
            json!({"rows": [{"key": [1], "value": 3}, {"key": [2], "value": 4}]}),
        ),
        (
            "GET /db/_design/d/_view/k?reduce=false&startkey=%5B1,2%5D&limit=1",
            json!(null),
            json!({"total_rows": 3, "offset": 1, "rows": [{"id": "b", "key": [1, 2], "value": 2}]}),
        ),
        // Parameters in the query string take precedence over the body.
        (
            "POST /db/_design/d/_view/k?limit=1",
            json!({"keys": [[2], [1, 1]], "group": true, "limit": 9}),
            json!({"rows": [{"key": [2], "value": 4}]}),
        ),
        (
            "POST /db/_design/d/_view/k/queries",
            json!({"queries": [{"key": [2]}, {"reduce": false, "limit": 0}]}),
            json!({"results": [
                {"rows": [{"key": null, "value": 4}]},
                {"total_rows": 3, "offset": 0, "rows": []},
            ]}),
        ),
        ("GET /db/_design/d/_view/endless", json!(null), json!({"total_rows": 0, "offset": 0, "rows": []})),
    ] {
        let reply = ask(running.address, line, &[ADMIN, JSON], body.to_string().as_bytes()).await;
        assert_eq!((reply.status, reply.json()), (200, expected), "{line}");
    }
    let linked = ask(running.address, "GET /db/_design/d/_view/linked?include_docs=true", &[ADMIN], b"").await.json();
    let docs: Vec<&Value> = linked["rows"].as_array().unwrap().iter().map(|row| &row["doc"]).collect();
    assert_eq!((&docs[0]["n"], docs[1]), (&json!(2), &json!(null)));
    let info = ask(running.address, "GET /db/_design/d/_info", &[ADMIN], b"").await.json();
    assert_eq!(info["view_index"]["update_seq"], 4);
}

#[tokio::test]
async fn groups_of_keys_carry_the_key_that_was_asked() {
    let running = filled().await;
    // Equal in the collation: the letter with its accent, and the two after each other; an integer and a double.
    let docs = json!({"docs": [{"_id": "e", "k": "\u{e9}", "n": 8}, {"_id": "f", "k": 3, "n": 16}]}).to_string();
    assert_eq!(ask(running.address, "POST /db/_bulk_docs", &[ADMIN, JSON], docs.as_bytes()).await.status, 201);
    let keys = json!(["e\u{301}", 3.0, [2]]);
    let rows = |value: Value| value["rows"].clone();
    for (more, order) in [("", [0, 1, 2]), ("&descending=true", [2, 1, 0])] {
        let line = format!("POST /db/_design/d/_view/k?group=true{more}");
        let body = json!({ "keys": keys }).to_string();
        let reply = ask(running.address, &line, &[ADMIN, JSON], body.as_bytes()).await;
        let found = [("e\u{301}".into(), 8), (json!(3.0), 16), (json!([2]), 4)];
        let wanted: Vec<Value> = order.iter().map(|&at| json!({"key": found[at].0, "value": found[at].1})).collect();
        assert_eq!(rows(reply.json()), json!(wanted), "{line}");
    }
    // Rows that are not grouped carry their own key.
    let body = json!({ "keys": keys, "reduce": false }).to_string();
    let reply = ask(running.address, "POST /db/_design/d/_view/k", &[ADMIN, JSON], body.as_bytes()).await;
    assert_eq!(rows(reply.json())[0], json!({"id": "e", "key": "\u{e9}", "value": 8}));
}

#[tokio::test]
async fn invalid_view_queries_are_refused() {
    let running = filled().await;
    for (line, body, status, error, reason) in [
        ("GET /db/_design/d/_view/none", "", 404, "not_found", "missing_named_view"),
        ("GET /db/_design/none/_view/k", "", 404, "not_found", "missing"),
        ("PUT /db/_design/d/_view/k", "", 405, "method_not_allowed", "Only GET,POST,HEAD allowed"),
        ("GET /db/_design/d/_view/k/queries", "", 405, "method_not_allowed", "Only POST allowed"),
        ("GET /db/_design/d/_view/k?key=x", "", 400, "bad_request", "invalid UTF-8 JSON"),
        (
            "GET /db/_design/d/_view/linked?group=true",
            "",
            400,
            "query_parse_error",
            "Invalid use of grouping on a map view.",
        ),
        ("POST /db/_design/d/_view/k", "[]", 400, "bad_request", "Request body must be a JSON object"),
        ("POST /db/_design/d/_view/k", r#"{"keys":1}"#, 400, "bad_request", "`keys` member must be an array."),
        ("POST /db/_design/d/_view/k/queries", "{}", 400, "bad_request", "POST body must include `queries` parameter."),
        ("GET /db/_partition/p/_design/d/_view/k", "", 400, "bad_request", "database is not partitioned"),
        ("GET /db/_design/d/_search/k?q=1", "", 503, "service unavailable", "Search is not available"),
        ("POST /db/_temp_view", "{}", 410, "gone", "Temporary views are not supported in CouchDB"),
        ("GET /db/_index?limit=x", "", 400, "invalid_list_index_params", "Index parameter ranges: limit > 1, skip > 0"),
    ] {
        let reply = ask(running.address, line, &[ADMIN, JSON], body.as_bytes()).await;
        assert_eq!((reply.status, reply.error().as_str(), reply.reason().as_str()), (status, error, reason), "{line}");
    }
}

#[tokio::test]
async fn views_of_design_documents_in_other_languages() {
    let running = filled().await;
    let index = json!({"index": {"fields": ["n", "k"], "partial_filter_selector": {"n": {"$gt": 1}}}, "ddoc": "m", "name": "i"});
    let made = ask(running.address, "POST /db/_index", &[ADMIN, JSON], index.to_string().as_bytes()).await;
    assert_eq!(made.status, 200, "{}", made.text());
    for (line, design) in [
        ("PUT /db/_design/broken", json!({"language": "query", "views": {"v": {"map": {"none": 1}}}})),
        ("PUT /db/_design/cobol", json!({"language": "cobol", "views": {"v": {"map": "MOVE"}}})),
    ] {
        let reply = ask(running.address, line, &[ADMIN, JSON], design.to_string().as_bytes()).await;
        assert_eq!(reply.status, 201, "{line}");
    }
    for (line, status, expected) in [
        ("_design/m/_view/i", 200, json!({"rows": [{"key": null, "value": 2}]})),
        (
            "_design/m/_view/i?reduce=false&endkey=%5B3%5D",
            200,
            json!({"total_rows": 2, "offset": 0, "rows": [{"id": "b", "key": [2, [1, 2]], "value": null}]}),
        ),
        ("_design/m/_view/none", 404, json!({"error": "not_found", "reason": "missing_named_view"})),
        (
            "_design/broken/_view/v",
            500,
            json!({"error": "invalid_index", "reason": "a view of this design document is no definition of an index"}),
        ),
        ("_design/cobol/_view/v", 500, json!({"error": "unknown_query_language", "reason": "cobol"})),
        ("_design/cobol/_view/none", 404, json!({"error": "not_found", "reason": "missing_named_view"})),
    ] {
        let reply = ask(running.address, &format!("GET /db/{line}"), &[ADMIN], b"").await;
        assert_eq!((reply.status, reply.json()), (status, expected), "{line}");
    }
    for (name, language) in [("m", "query"), ("broken", "query"), ("cobol", "cobol")] {
        let info = ask(running.address, &format!("GET /db/_design/{name}/_info"), &[ADMIN], b"").await.json();
        assert_eq!(info["view_index"]["language"], language, "{info}");
    }
}
