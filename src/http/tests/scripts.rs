//! Functions of design documents over a real socket: shows, lists, updates, rewrites, filters, validation,
//! and functions that do not end.

use serde_json::{Value, json};

use super::*;

/// Request line, request body, expected status, and a text that the response body must contain.
struct Row(&'static str, &'static str, u16, &'static str);

async fn send(running: &Running, line: &str, body: &str) -> Reply {
    ask(running.address, line, &[ADMIN, "Content-Type: application/json"], body.as_bytes()).await
}

async fn put(running: &Running, path: &str, body: Value) -> Reply {
    send(running, &format!("PUT {path}"), &body.to_string()).await
}

fn design() -> Value {
    json!({
        "validate_doc_update": "function (doc, old, user) { if (doc.bad) throw({ forbidden: 'not by ' + user.name }); }",
        "views": {
            "v": { "map": "function (doc) { if (doc.n >= 0) emit(doc.n, null); }" }
        },
        "filters": { "even": "function (doc, req) { return doc.n % req.query.by == 0; }" },
        "shows": {
            "hello": "function (doc, req) { return doc ? 'Hello ' + doc._id : 'New ' + req.id; }",
            "headers": "function (doc, req) { return { json: req }; }",
            "endless": "function () { while (true) {} }"
        },
        "lists": {
            "keys": "function (head, req) { send(head.total_rows + ':'); while (row = getRow()) send(row.key); return '.'; }",
            "late": "function () { getRow(); start({ code: 400, headers: { 'X-Mine': 'yes' } }); send('late'); }",
            "fails": "function () { send('head'); getRow(); none.none; }"
        },
        "updates": {
            "set": "function (doc, req) { if (!doc) return [null, 'none']; doc.by = req.body; return [doc, 'set']; }",
            "bad": "function (doc) { doc.bad = true; return [doc, 'never']; }"
        },
        "rewrites": [
            { "from": "hi/:who", "to": "_show/hello/:who" },
            { "from": "all/*", "to": "../../*" },
            { "from": "round", "to": "_rewrite/round" }
        ]
    })
}

async fn house() -> Running {
    let running = server(&[("couchdb", "os_process_timeout", "300")]).await;
    assert_eq!(put(&running, "/db", json!(null)).await.status, 201);
    assert_eq!(put(&running, "/db/_design/d", design()).await.status, 201);
    let endless = json!({ "views": { "endless": { "map": "function (doc) { while (true) {} }" } } });
    assert_eq!(put(&running, "/db/_design/endless", endless).await.status, 201);
    for n in 0..3 {
        assert_eq!(put(&running, &format!("/db/doc{n}"), json!({ "n": n })).await.status, 201);
    }
    running
}

#[tokio::test]
async fn design_functions_produce_the_response() {
    let running = house().await;
    for Row(line, body, status, holds) in [
        Row("GET /db/_design/d/_show/hello/doc1", "", 200, "Hello doc1"),
        Row("GET /db/_design/d/_show/hello/a/b", "", 200, "New a/b"),
        Row("GET /db/_design/d/_show/none", "", 404, "missing json key: none"),
        Row("GET /db/_design/d/_show", "", 404, "Invalid path."),
        Row("GET /db/_design/none/_show/hello", "", 404, "missing"),
        Row("GET /db/_design/d/_show/endless", "", 500, "OS process timed out."),
        Row("GET /db/_design/d/_list/keys/v", "", 200, "3:012."),
        Row("GET /db/_design/d/_list/keys/v?descending=true&limit=2", "", 200, "3:21."),
        Row("POST /db/_design/d/_list/keys/v", r#"{"keys":[2,0]}"#, 200, "3:20."),
        Row("GET /db/_design/d/_list/keys/d/v", "", 200, "3:012."),
        Row("GET /db/_design/d/_list/keys/_all_docs?startkey=%22doc1%22&endkey=%22doc2%22", "", 200, "5:doc1doc2."),
        Row("GET /db/_design/d/_list/late/v", "", 400, "late"),
        Row("GET /db/_design/d/_list/fails/v", "", 200, "head\n{\"code\":500,\"error\":\"render_error\""),
        Row("GET /db/_design/d/_list/keys/v?startkey=2&endkey=1", "", 400, "No rows can match"),
        Row("GET /db/_design/d/_list/keys/none", "", 404, "missing_named_view"),
        Row("GET /db/_design/d/_list/keys", "", 404, "Invalid path."),
        Row("PUT /db/_design/d/_list/keys/v", "", 405, "Only GET,POST,HEAD allowed"),
        Row("POST /db/_design/d/_update/set/doc1", "me", 201, "set"),
        Row("GET /db/doc1", "", 200, "\"by\":\"me\""),
        Row("POST /db/_design/d/_update/set/none", "", 200, "none"),
        Row("POST /db/_design/d/_update/bad/doc1", "", 403, "not by ann"),
        Row("GET /db/_design/d/_update/set/doc1", "", 405, "Update functions do not allow GET"),
        Row("GET /db/_design/d/_rewrite/hi/doc2", "", 200, "Hello doc2"),
        Row("GET /db/_design/d/_rewrite/all/doc2", "", 200, "\"n\":2"),
        Row("GET /db/_design/d/_rewrite/none", "", 404, "missing"),
        Row("GET /db/_design/d/_rewrite/round", "", 400, "Exceeded rewrite recursion limit"),
        Row("GET /db/_changes?filter=d/even&by=2", "", 200, "\"id\":\"doc2\""),
        Row("GET /db/_changes?filter=_view&view=d/v", "", 200, "\"id\":\"doc0\""),
        Row("GET /db/_changes?filter=d/none", "", 404, "missing json key: none"),
        Row("GET /db/_design/endless/_view/endless", "", 500, "OS process timed out."),
        Row("PUT /db/x", r#"{"bad":1}"#, 403, "not by ann"),
        Row(
            "POST /db/_bulk_docs",
            r#"{"new_edits":false,"docs":[{"_id":"x","_rev":"1-a","bad":1}]}"#,
            201,
            "not by ann",
        ),
        Row("PUT /db/_design/x", r#"{"views":{"v":{"map":"function ("}}}"#, 400, "compilation_error"),
        Row("PUT /db/_design/x", r#"{"views":[]}"#, 400, "`views` field must have object type"),
    ] {
        let reply = within(send(&running, line, body)).await;
        let text = reply.text();
        assert!(reply.status == status && text.contains(holds), "{line}: {} {text}", reply.status);
        assert!(!text.contains("doc1\"") || !line.contains("by=2"), "{line}: {text}");
    }
}

#[tokio::test]
async fn the_request_object_contains_no_credentials() {
    let running = house().await;
    let headers = [ADMIN, "Cookie: Other=sesame", "X-Auth-CouchDB-Token: sesame", "X-Foo: bar"];
    let reply = ask(running.address, "GET /db/_design/d/_show/headers?q=1", &headers, b"").await;
    let text = reply.text();
    assert_eq!(reply.status, 200, "{text}");
    assert!(!text.contains("sesame") && !text.contains("YW5uOnNlY3JldA"), "{text}");
    let object = reply.json();
    assert_eq!((&object["headers"]["X-Foo"], &object["query"]["q"]), (&json!("bar"), &json!("1")));
    assert_eq!(object["userCtx"], json!({"db": "db", "name": "ann", "roles": ["_admin"]}));
    assert_eq!((&object["method"], &object["body"]), (&json!("GET"), &json!("undefined")));
}

#[tokio::test]
async fn a_reason_that_is_no_text_stays_the_value_that_was_thrown() {
    let running = house().await;
    let function = "function (doc) { if (doc.why) throw({ forbidden: doc.why }); }";
    assert_eq!(put(&running, "/db/_design/why", json!({"validate_doc_update": function})).await.status, 201);
    for why in [json!({"code": 7, "fields": ["a"]}), json!([1]), json!(5), json!(true)] {
        let refused = put(&running, "/db/not", json!({"why": why})).await;
        assert_eq!((refused.status, refused.json()), (403, json!({"error": "forbidden", "reason": why})));
        for (doc, row) in [
            (json!({"docs": [{"_id": "not", "why": why}]}), json!({"id": "not", "error": "forbidden", "reason": why})),
            (
                json!({"new_edits": false, "docs": [{"_id": "not", "_rev": "1-a", "why": why}]}),
                json!({"id": "not", "rev": "1-a", "error": "forbidden", "reason": why}),
            ),
        ] {
            let body = doc.to_string();
            let reply = ask(running.address, "POST /db/_bulk_docs", &[ADMIN, JSON], body.as_bytes()).await;
            assert_eq!(reply.json(), json!([row]), "{body}");
        }
    }
}

#[tokio::test]
async fn a_body_without_bytes_is_not_a_missing_body() {
    let running = house().await;
    for (headers, body) in
        [(&[ADMIN][..], "undefined"), (&[ADMIN, "Content-Length: 0"], ""), (&[ADMIN, "Transfer-Encoding: chunked"], "")]
    {
        let chunks: &[u8] = if headers.len() > 1 && headers[1].starts_with('T') { b"0\r\n\r\n" } else { b"" };
        let reply = ask(running.address, "POST /db/_design/d/_show/headers", headers, chunks).await;
        assert_eq!((reply.status, &reply.json()["body"]), (200, &json!(body)), "{headers:?}");
    }
}

#[tokio::test]
async fn a_selector_as_validate_doc_update_refuses_other_documents() {
    let running = house().await;
    let selector = json!({"newDoc": {"n": {"$type": "number"}}});
    let design = json!({"language": "query", "validate_doc_update": selector});
    assert_eq!(put(&running, "/db/_design/q", design).await.status, 201);
    assert_eq!(put(&running, "/db/fits", json!({"n": 1})).await.status, 201);
    let refused = put(&running, "/db/not", json!({"n": "1"})).await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "document is not valid"));
    assert_eq!(put(&running, "/db/both", json!({"n": 1, "bad": true})).await.reason(), "not by ann");
}

#[tokio::test]
async fn show_responses_have_an_etag() {
    let running = house().await;
    let shown = send(&running, "GET /db/_design/d/_show/hello/doc1", "").await;
    let tag = shown.header("etag").unwrap().to_owned();
    let line = "GET /db/_design/d/_show/hello/doc1";
    let again = ask(running.address, line, &[ADMIN, &format!("If-None-Match: {tag}")], b"").await;
    assert_eq!(again.status, 304);
    assert_eq!(send(&running, "POST /db/_design/d/_update/set/doc1", "x").await.status, 201);
    let changed = ask(running.address, line, &[ADMIN, &format!("If-None-Match: {tag}")], b"").await;
    assert_eq!(changed.status, 200);
}

/// Validation receives the history as CouchDB passes it: the new document with the revisions that the client named, the
/// old one with its own.
#[tokio::test]
async fn documents_of_functions_have_their_history() {
    let running = server(&[]).await;
    assert_eq!(put(&running, "/db", json!(null)).await.status, 201);
    let mut revisions = Vec::new();
    let mut path = "/db/doc".to_owned();
    for n in 0..25 {
        let reply = put(&running, &path, json!({ "n": n })).await;
        assert_eq!(reply.status, 201);
        let rev = reply.json()["rev"].as_str().expect("a revision").to_owned();
        path = format!("/db/doc?rev={rev}");
        revisions.insert(0, rev.split_once('-').expect("a generation").1.to_owned());
    }
    let design = json!({
        "validate_doc_update": "function (doc, old) { if (doc.tell) throw({ forbidden: JSON.stringify([doc, old]) }); }",
        "filters": { "new": "function (doc) { return doc._revisions.start === 25 && doc._revisions.ids.length === 20; }" },
        "shows": { "history": "function (doc) { return JSON.stringify(doc._revisions.ids.length); }" }
    });
    assert_eq!(put(&running, "/db/_design/d", design).await.status, 201);
    let told = |reply: Reply| {
        assert_eq!(reply.status, 403, "{}", reply.text());
        serde_json::from_str::<Value>(&reply.reason()).expect("what the function saw")
    };
    let parent = json!({"start": 25, "ids": [revisions[0]]});
    let seen = told(put(&running, &path, json!({"tell": 1})).await);
    assert_eq!(seen[0]["_revisions"], parent, "the revision that the edit is based on");
    assert_eq!(seen[0]["_rev"], format!("25-{}", revisions[0]));
    assert_eq!(seen[1]["_revisions"], json!({"start": 25, "ids": revisions[..20]}), "the newest 20");
    let seen = told(put(&running, "/db/new", json!({"tell": 1})).await);
    assert_eq!((&seen[0]["_revisions"], &seen[0]["_rev"], &seen[1]), (&json!(null), &json!(null), &json!(null)));
    let named = json!({"start": 25, "ids": revisions[..3]});
    let seen = told(put(&running, "/db/doc", json!({"tell": 1, "_revisions": named})).await);
    assert_eq!(seen[0]["_revisions"], named, "all that the client names");
    // A replicated document has its whole path.
    let mut brought: Vec<&str> = revisions.iter().map(String::as_str).collect();
    brought.insert(0, "ffff");
    let brought = json!({"start": 26, "ids": brought});
    let edit = json!({"_id": "doc", "tell": 1, "_revisions": brought});
    let body = json!({"new_edits": false, "docs": [edit]}).to_string();
    let refused = send(&running, "POST /db/_bulk_docs", &body).await.json();
    let seen: Value = serde_json::from_str(refused[0]["reason"].as_str().expect("refused")).expect("JSON");
    assert_eq!((&seen[0]["_revisions"], &seen[1]["_revisions"]["start"]), (&brought, &json!(25)));
    let changes = send(&running, "GET /db/_changes?filter=d/new", "").await.json();
    assert_eq!(changes["results"].as_array().map(Vec::len), Some(1), "{changes}");
    assert_eq!(send(&running, "GET /db/_design/d/_show/history/doc", "").await.text(), "20");
}
