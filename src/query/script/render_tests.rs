//! Tests of shows, lists, updates and rewrites with the functions of CouchDB's own tests
//! (`test/elixir/test/show_documents_test.exs`, `list_views_test.exs`, `update_documents_test.exs`,
//! `rewrite_js_test.exs`).

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::error::{Error, Result};

fn scripts() -> Scripts {
    Scripts::new(Limits { threads: 2, memory: 32 << 20, timeout: Duration::from_millis(500), ..Limits::default() })
}

fn design(kind: &str, functions: &[(&str, &str)]) -> Arc<Design> {
    let functions: serde_json::Map<_, _> = functions.iter().map(|&(name, fun)| (name.into(), fun.into())).collect();
    let source = serde_json::json!({ "_id": "_design/d", kind: functions });
    Arc::new(Design::new(1, "_design/d".into(), "1-a".into(), source.to_string()).unwrap())
}

fn show(function: &str, doc: Option<&str>, request: &str) -> Result<Response> {
    let answer = scripts().show(&design("shows", &[("s", function)]), "s", doc, request, "{}").wait();
    answer.and_then(|response| Response::read(&response))
}

fn shown(function: &str, request: &str) -> (String, String) {
    let response = show(function, Some(r#"{"word":"plankton"}"#), request).unwrap();
    let kind = response.headers.iter().find(|(name, _)| name == "Content-Type").unwrap().1.clone();
    (String::from_utf8(response.body).unwrap(), kind)
}

#[test]
fn shows_return_responses() {
    let plain = r#"{"query":{},"headers":{}}"#;
    let html = "text/html; charset=utf-8".to_owned();
    assert_eq!(
        shown("function(doc, req) { return 'Hello ' + doc.word; }", plain),
        ("Hello plankton".into(), html.clone())
    );
    assert_eq!(shown("function(doc, req) { return ''; }", plain).0, "");
    assert_eq!(
        shown("function(doc) { return { json: doc } }", plain),
        (r#"{"word":"plankton"}"#.into(), "application/json".into())
    );
    let mixed = show(
        r#"function(doc, req) {
            start({"X-Couch-Test-Header": "Yeah"});
            send("Hey ");
            return { headers: { "X-Couch-Test-Header-Awesome": "Oh Yeah!" }, body: "Dude" };
        }"#,
        None,
        plain,
    );
    let mixed = mixed.unwrap();
    assert_eq!(mixed.body, b"Hey Dude");
    assert!(mixed.headers.contains(&("X-Couch-Test-Header".into(), "Yeah".into())));
    assert!(mixed.headers.contains(&("X-Couch-Test-Header-Awesome".into(), "Oh Yeah!".into())));
    let ordered = r#"function(doc, req) {
        provides("text", function() { send("4, "); send("5, "); send("6, "); return "7!"; });
        send("1, "); send("2, ");
        return "3, ";
    }"#;
    assert_eq!(
        shown(ordered, r#"{"query":{"format":"text"},"headers":{}}"#),
        ("1, 2, 3, 4, 5, 6, 7!".into(), "text/plain; charset=utf-8".into())
    );
}

#[test]
fn the_response_type_follows_the_accept_header() {
    let function = r#"function(doc, req) {
        registerType("foo", "application/foo", "application/x-foo");
        provides("html", function() { return 'Ha ha, you said "' + doc.word + '".'; });
        provides("foo", function() { return "foofoo"; });
    }"#;
    let accepting = |accept: &str| serde_json::json!({ "query": {}, "headers": { "Accept": accept } }).to_string();
    let html = ("Ha ha, you said \"plankton\".".to_owned(), "text/html; charset=utf-8".to_owned());
    assert_eq!(shown(function, &accepting("text/html,application/atom+xml; q=0.9")), html);
    assert_eq!(shown(function, &accepting("*/*")), html);
    assert_eq!(shown(function, r#"{"headers":{}}"#), html);
    assert_eq!(shown(function, &accepting("application/x-foo")), ("foofoo".into(), "application/x-foo".into()));
    let refused = show(function, Some("{}"), &accepting("text/monkeys"));
    let reason = "Content-Type text/monkeys not supported, try one of: text/html; charset=utf-8, application/foo, application/x-foo";
    assert_eq!(refused, Err(Error::Script { word: "not_acceptable".into(), reason: reason.into() }));
}

#[test]
fn failing_shows_return_errors() {
    let in_document = r#"{"path":["db","_design","d","_show","s","id"],"headers":{}}"#;
    let without = r#"{"path":["db","_design","d","_show","s"],"headers":{}}"#;
    let word = |answer| match answer {
        Err(Error::Script { word, reason }) => (word, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        show("function(doc) { return doc._id }", None, in_document),
        Err(Error::NotFound("document not found".into()))
    );
    let (failed, reason) = word(show("function(doc) { return noSuchVariable; }", None, without));
    assert_eq!(failed, "render_error");
    assert!(
        reason.starts_with("function raised error: ReferenceError: noSuchVariable is not defined \nstacktrace: "),
        "{reason}"
    );
    assert_eq!(
        word(show("function() { throw(['error', 'mine', 'why']) }", None, without)),
        ("mine".into(), "why".into())
    );
    assert_eq!(
        word(show("function() { throw({ error: 'mine', reason: 'why' }) }", None, without)),
        ("mine".into(), "why".into())
    );
    assert_eq!(word(show("function() { return [1] }", None, without)).1, "undefined response from show function");
    assert_eq!(word(show("function() { return getRow() }", None, without)).0, "render_error");
    assert_eq!(word(show("function() { while (true) {} }", Some("{}"), without)).0, "os_process_error");
    let missing = scripts().show(&design("shows", &[]), "none", None, without, "{}").wait();
    assert_eq!(missing, Err(Error::NotFound("missing shows function none on design doc _design/d".into())));
}

#[test]
fn updates_return_document_and_response() {
    let update = |function: &str, doc, request: &str| {
        scripts().update(&design("updates", &[("u", function)]), "u", doc, request, "{}").wait()
    };
    let put = r#"{"method":"PUT","query":{"field":"title"}}"#;
    let inplace = "function(doc, req) { doc[req.query.field] = 1; return [doc, 'set ' + req.query.field]; }";
    assert_eq!(
        update(inplace, Some(r#"{"_id":"x"}"#), put).unwrap(),
        Updated { doc: Some(r#"{"_id":"x","title":1}"#.into()), response: r#"{"body":"set title"}"#.into() }
    );
    let none = update("function() { return [null, { code: 302, json: { ok: true } }] }", None, put).unwrap();
    assert_eq!(none, Updated { doc: None, response: r#"{"code":302,"json":{"ok":true}}"#.into() });
    let word = |answer| match answer {
        Err(Error::Script { word, reason }) => (word, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        word(update(inplace, None, r#"{"method":"GET"}"#)),
        ("method_not_allowed".into(), "Update functions do not allow GET".into())
    );
    assert_eq!(word(update("function() { return [{}, 5] }", None, put)).1, "undefined response from update function");
    assert_eq!(word(update("function() { superFail.badCrash; }", None, put)).0, "render_error");
}

#[test]
fn rewrites_return_a_request_or_a_response() {
    let rewrite = |function: &str| {
        let source = serde_json::json!({ "_id": "_design/d", "rewrites": function }).to_string();
        let design = Arc::new(Design::new(1, "_design/d".into(), function.into(), source).unwrap());
        scripts().rewrite(&design, r#"{"method":"POST","path":["a"]}"#, "{}").wait()
    };
    let to = rewrite("function (req) { return '../' + req.path[0]; }").unwrap().unwrap();
    assert_eq!((to.path.as_deref(), to.method.as_deref()), (Some("../a"), Some("POST")));
    assert_eq!(rewrite("function (req) { }"), Ok(None));
    assert_eq!(
        rewrite("function (req) { return { code: 302, headers: { Location: 'x' } }; }").unwrap().unwrap().code,
        Some(302)
    );
    let bad = |answer| matches!(answer, Err(Error::Script { word, .. }) if word == "rewrite_error");
    assert!(bad(rewrite("function (req) { return 5; }")));
    assert!(bad(rewrite("function (req) { none.none; }")));
}

/// Runs a list function on `count` rows. Returns the whole text, and the arguments of `start`.
async fn listed(function: &str, count: usize) -> Result<(String, Vec<String>)> {
    let scripts = scripts();
    let (rows, mut parts) = scripts.list(
        &design("lists", &[("l", function)]),
        "l",
        r#"{"total_rows":10,"offset":0}"#,
        r#"{"query":{},"headers":{"Accept":"text/html"}}"#,
        "{}",
    );
    let feed = async move {
        for n in 0..count {
            if rows.send(format!(r#"{{"id":"{n}","key":{n},"value":"v{n}"}}"#)).await.is_err() {
                break;
            }
        }
    };
    let read = async {
        let (mut text, mut starts) = (String::new(), Vec::new());
        while let Some(part) = parts.next().await {
            let part = part?;
            text.push_str(&part.chunk);
            starts.extend(part.response);
        }
        Ok((text, starts))
    };
    tokio::join!(feed, read).1
}

#[tokio::test]
async fn lists_return_parts() {
    let basic = "function(head, req) { send('head'); var row; while (row = getRow()) send(row.key); return 'tail'; }";
    assert_eq!(listed(basic, 10).await, Ok(("head0123456789tail".into(), vec![r#"{"headers":{}}"#.into()])));
    assert_eq!(listed(basic, 0).await.unwrap().0, "headtail");
    assert_eq!(listed(basic, 1000).await.unwrap().0.len(), 8 + 2890);
    let offered =
        "function(head, req) { provides('html', function () { send(head.total_rows); getRow(); return '!'; }) }";
    let typed = r#"{"headers":{"Content-Type":"text/html; charset=utf-8"}}"#;
    assert_eq!(listed(offered, 3).await, Ok(("10!".into(), vec![typed.into()])));
    let early = "function(req) { send('head'); var n = 0; while (row = getRow()) { if (n > 2) break; send(' ' + n++); } return ' tail'; }";
    assert_eq!(listed(early, 500).await.unwrap().0, "head 0 1 2 tail");
    let beyond = "function() { while (getRow()); getRow(); return 'after: ' + toJSON(getRow()); }";
    assert_eq!(listed(beyond, 3).await.unwrap().0, "after: null");
    let late =
        "function() { getRow(); start({ code: 400, headers: { 'X-My-Header': 'MyHeader' } }); send('bad request'); }";
    let (text, starts) = listed(late, 1).await.unwrap();
    assert_eq!((text.as_str(), starts.len()), ("bad request", 2));
    assert_eq!(starts[1], r#"{"code":400,"headers":{"X-My-Header":"MyHeader"}}"#);
    let failing = listed("function() { send('head'); getRow(); send(fooBarBam); }", 3).await;
    assert!(matches!(&failing, Err(Error::Script { word, .. }) if word == "render_error"), "{failing:?}");
    let endless = listed("function() { getRow(); while (true) {} }", 3).await;
    assert!(matches!(&endless, Err(Error::Script { word, .. }) if word == "os_process_error"), "{endless:?}");
}

#[tokio::test]
async fn a_list_waits_for_its_client_and_stops_when_it_is_gone() {
    let scripts = Scripts::new(Limits { threads: 1, processes: 2, ..scripts().limits() });
    let endless = design("lists", &[("l", "function() { while (true) { send('x'); getRow(); } }")]);
    let (rows, parts) = scripts.list(&endless, "l", "{}", "{}", "{}");
    // The function fills the channels and then waits; other scripts run meanwhile.
    for _ in 0..20 {
        rows.send("{}".into()).await.unwrap();
    }
    let set =
        MapSet { database: 1, signature: "a".into(), functions: vec!["function (doc) { emit(1) }".into()], lib: None };
    let set = Arc::new(set);
    assert_eq!(scripts.map_batch(&set, vec!["{}".into()]).await.unwrap().row_count(), 1);
    drop(parts);
    // The function was stopped, which closed the row channel.
    rows.closed().await;
}

#[tokio::test]
async fn waiting_lists_leave_workers_for_the_jobs_they_wait_for() {
    let scripts = Scripts::new(Limits { processes: 4, ..scripts().limits() });
    let function = "function () { while (getRow()) send('x'); }";
    let lists = design("lists", &[("l", function)]);
    // The rows are reductions, which other workers have to compute.
    let waiting: Vec<_> = (0..8).map(|_| scripts.list(&lists, "l", "{}", "{}", "{}")).collect();
    let functions = Arc::new(vec!["function (keys, values) { return values.length; }".to_owned()]);
    for database in [1, 2] {
        let reduced = scripts.reduce(database, &functions, r#"[[["a","1"],1]]"#.into(), "d/v");
        let reduced = tokio::time::timeout(Duration::from_secs(20), reduced).await;
        assert_eq!(reduced.expect("a worker is free").unwrap(), ["1"], "{database}");
    }
    for (rows, mut parts) in waiting {
        drop(rows);
        while let Some(part) = parts.next().await {
            part.unwrap();
        }
    }
}
