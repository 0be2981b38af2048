//! Tests of `source.js`: which part of a source is the function. The expectations are what CouchDB 3.5 does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::tests::{rows, scripts, set, word};
use super::{Design, Response, Scripts};
use crate::error::{Error, Result};

/// Code before a function that calls `H`.
const HELPERS: &[&str] = &[
    "function H(x) { return x }\n",
    "function H(x) { return x }; ",
    "function H(x) { return G(x) } function G(x) { return x }\n",
    "var H = function (x) { return x }\n;",
    "var H = Number;",
    "const H = x => x;\n",
    "\"use strict\"; let H = (x) => x;",
    "// (function\n/* function (x) */ var H = function (x) { return x };\n",
    "var re = /function [(]/, s = 'function (x) {'; function H(x) { return re.test(s + '(') ? x : x }\n",
    "class A { m(x) { return x } }\nfunction H(x) { return new A().m(x) }\r\n",
    "async function Z() {} function* Y() {} function H(x) { return x }\n",
    "var é = '😀\u{2028}';\u{2028}/* \r \u{2029} */ function H(x) { return é ? x : 0 }\r",
    "var n = 0; if (n++ === 0) { var H = Number }\n",
];

/// A function with `BODY`, after such code and before other code.
const SHAPES: &[&str] = &[
    "function (ARGS) { BODY }",
    "function (ARGS) { BODY };\n; // the end",
    "function (ARGS) { BODY } var after = 1; function unused() {}",
    "function () { throw 1 } function (ARGS) { BODY }",
    "function (ARGS) { function (y) { return y } BODY } // two",
    "(function (ARGS) { BODY })",
    "(function named(ARGS) { BODY });",
    "(ARGS) => { BODY }",
    "function chosen(ARGS) { BODY }\nchosen",
    "var chosen = function (ARGS) { BODY }; chosen;",
    "chosen = function (ARGS) { BODY };",
    "(function () { return function (ARGS) { BODY } })()",
    "function () { return function (ARGS) { BODY } }()",
];

/// Sources without a function that CouchDB would take, or with one whose result comes later.
const REFUSED: &[&str] = &[
    "function need(d) {}\nfunction check(ARGS) { BODY }",
    "function check(ARGS) { BODY }\nfunction need(d) {};",
    "var x = 1; function check(ARGS) { BODY }",
    "var check = function (ARGS) { BODY }",
    "function (ARGS) { BODY }; 5",
    "function (ARGS) { BODY } null",
    "function need(d) { return d }\n({ need: 1 })",
    "function H(x) { return x } async function (ARGS) { BODY }",
    "async function check(ARGS) { BODY }",
    "function* (ARGS) { BODY }",
    "(function* (ARGS) { BODY })",
    "(async function* (ARGS) { BODY })",
    "class Check {}",
    "return function (ARGS) { BODY }",
    "function (ARGS) { BODY }) || (function (ARGS) { BODY }",
    "}); (function () { function (ARGS) { BODY }",
    "function a() {} else if (0) function b() {}",
    "eval('('); function (ARGS) { BODY }",
    "function (ARGS) { BODY } while",
    " ",
];

/// Sources that are refused in every kind but maps.
const LATER: &[&str] =
    &["async function (ARGS) { BODY }", "async (ARGS) => { BODY }", "(async function (ARGS) { BODY })"];

/// Each kind of function: its arguments, and a body that returns or emits `H(5)`, or throws it.
const KINDS: &[(&str, &str, &str)] = &[
    ("map", "doc", "emit(H(5), null)"),
    ("reduce", "keys, values, rereduce", "return rereduce ? 0 : H(5)"),
    ("rereduce", "keys, values, rereduce", "return rereduce ? H(5) : 0"),
    ("filter", "doc, req", "return H(5) === doc.n"),
    ("view", "doc", "if (H(5) === doc.n) emit(null)"),
    ("show", "doc, req", "return '' + H(5)"),
    ("list", "head, req", "while (getRow()) {} return '' + H(5)"),
    ("update", "doc, req", "return [null, '' + H(5)]"),
    ("rewrite", "req", "return '' + H(5)"),
    ("validate", "doc, old, user, security", "if (doc.n === H(5)) throw({ forbidden: '5' })"),
];

/// Calls a function of this kind and returns the 5, as text.
async fn call(scripts: &Scripts, kind: &str, source: &str) -> Result<String> {
    let design = json!({
        "_id": "_design/d", "filters": { "f": source }, "views": { "f": { "map": source } }, "shows": { "f": source },
        "lists": { "f": source }, "updates": { "f": source }, "rewrites": source, "validate_doc_update": source,
    });
    // Its own revision, so that no compiled function is used again.
    let design = Arc::new(Design::new(1, "_design/d".into(), source.into(), design.to_string())?);
    let documents = || vec![json!({ "n": 4 }).to_string(), json!({ "n": 5 }).to_string()];
    let request = r#"{"query":{},"headers":{},"method":"POST","path":[]}"#;
    let reduce = || Arc::new(vec![source.to_owned()]);
    let passed = |passes: Vec<bool>| if passes == [false, true] { "5".to_owned() } else { format!("{passes:?}") };
    let text = |response: &str| Ok(String::from_utf8_lossy(&Response::read(response)?.body).into_owned());
    match kind {
        "map" => {
            let mapped = scripts.map_batch(&set(&[source]), documents()).await?;
            Ok(rows(&mapped, 0, 0).unwrap_or_default().join(" ").replace(":null", ""))
        }
        "reduce" => Ok(scripts.reduce(1, &reduce(), r#"[[["k","id"],1]]"#.into(), "").await?.remove(0)),
        "rereduce" => Ok(scripts.rereduce(1, &reduce(), "[1]".into(), "").await?.remove(0)),
        "filter" => Ok(passed(scripts.filter(&design, "f", documents(), request, "").await?)),
        "view" => Ok(passed(scripts.filter_view(&design, "f", documents()).await?)),
        "show" => text(&scripts.show(&design, "f", Some("{}"), request, "{}").await?),
        "list" => {
            let (rows, mut parts) = scripts.list(&design, "f", "{}", request, "{}");
            drop(rows);
            let mut text = String::new();
            while let Some(part) = parts.next().await {
                text += &part?.chunk;
            }
            Ok(text)
        }
        "update" => text(&scripts.update(&design, "f", Some("{}"), request, "{}").await?.response),
        "rewrite" => Ok(scripts.rewrite(&design, request, "{}").await?.and_then(|to| to.path).unwrap_or_default()),
        _ => {
            let documents = Arc::new(documents().into_iter().map(|document| (document, None)).collect::<Vec<_>>());
            let mut verdicts = scripts.validate_all(&Arc::new(vec![design]), &documents, 0..2, "{}", "{}").await?;
            match (verdicts.remove(0), verdicts.remove(0)) {
                (Ok(()), Err(Error::Forbidden(reason))) => Ok(reason),
                (Err(error), _) | (_, Err(error)) => Err(error),
                (Ok(()), Ok(())) => Ok("both documents are allowed".into()),
            }
        }
    }
}

fn filled(shape: &str, args: &str, body: &str) -> String {
    shape.replace("ARGS", args).replace("BODY", body)
}

#[tokio::test]
async fn code_before_and_after_a_function_leaves_it_the_function() {
    let scripts = scripts();
    for &(kind, args, body) in KINDS {
        for helper in HELPERS.iter().chain([&"", &"/* only a */ "]) {
            let body = if helper.contains('H') { body } else { &body.replace("H(", "Number(") };
            let shapes = SHAPES.iter().map(|shape| format!("{helper}{shape}"));
            // Strict code assigns to no name that is not declared.
            let shapes = shapes.filter(|source| !(source.contains("use strict") && source.contains(";chosen =")));
            for source in shapes {
                let source = filled(&source, args, body);
                assert_eq!(call(&scripts, kind, &source).await, Ok("5".into()), "{kind}: {source}");
            }
        }
        let body = body.replace("H(", "Number(");
        let named = filled("/* only */ function named(ARGS) { BODY } /* ; */ ;\n;", args, &body);
        assert_eq!(call(&scripts, kind, &named).await, Ok("5".into()), "{kind}: {named}");
    }
}

#[tokio::test]
async fn a_source_that_leaves_the_function_open_is_refused() {
    let scripts = scripts();
    for &(kind, args, body) in KINDS {
        let later = LATER.iter().filter(|_| !matches!(kind, "map" | "view"));
        for source in REFUSED.iter().chain(later) {
            let source = filled(source, args, &body.replace("H(", "Number("));
            assert_eq!(word(call(&scripts, kind, &source).await), "compilation_error", "{kind}: {source}");
        }
    }
    let checked = |kind| scripts.compile(1, LATER.iter().map(|source| (kind, filled(source, "", ""))).collect());
    assert!(checked("map").await.unwrap().iter().all(Option::is_none));
    assert!(checked("reduce").await.unwrap().iter().all(Option::is_some));
}

#[tokio::test]
async fn a_promise_neither_validates_nor_passes_a_filter() {
    let scripts = scripts();
    for source in [
        "async function no() { throw({ forbidden: 'no' }) }\n(function (doc) { return no() })",
        "function (doc) { return Promise.reject({ forbidden: 'no' }) }",
        "function* no() { throw({ forbidden: 'no' }) }\nfunction (doc) { return no() }",
        "(async function () { throw({ forbidden: 'no' }) }).bind(null)",
    ] {
        for kind in ["validate", "filter"] {
            let told = word(call(&scripts, kind, source).await);
            assert!(matches!(told.as_str(), "invalid_result" | "compilation_error"), "{kind}: {source}: {told}");
        }
    }
}

/// No step of finding the function takes more than linear time for its text.
#[tokio::test]
async fn long_blanks_and_comments_take_no_time() {
    let scripts = scripts();
    let blank = " ".repeat(200_000);
    let comments = "/* function ( */ // function\n".repeat(5000);
    for filler in [blank, comments] {
        let source = format!("{filler}function (doc) {{ {filler} emit(5, null) }};{filler};");
        assert_eq!(call(&scripts, "map", &source).await, Ok("5".into()));
        let source = format!("var a = 5;{filler}function (doc) {{ {filler} emit(a, null) }}{filler}var b;");
        assert_eq!(call(&scripts, "map", &source).await, Ok("5".into()));
    }
}

/// A program runs once, whatever had to be tried to parse it; and its names stay its own.
#[tokio::test]
async fn a_program_runs_once_and_keeps_its_names() {
    let scripts = scripts();
    for last in ["(function (doc) { emit(count, typeof other) })", "function (doc) { emit(count, typeof other) }"] {
        let sources = [
            format!("count = (typeof count === 'undefined' ? 0 : count) + 1; function a() {{}}\n{last}"),
            format!("var count = 7, other = 1; function b() {{}}\n{last}"),
            format!("var count = 8; {last}; function (doc) {{ emit(count, typeof b) }}"),
        ];
        let set = set(&[sources[0].as_str(), sources[1].as_str(), sources[2].as_str()]);
        let mapped = scripts.map_batch(&set, vec!["{}".into()]).await.unwrap();
        let found = [0, 1, 2].map(|function| rows(&mapped, 0, function).unwrap().join(" "));
        assert_eq!(found, ["1:\"undefined\"", "7:\"number\"", "8:\"undefined\""]);
    }
}

#[tokio::test]
async fn errors_have_their_place_in_the_source() {
    let scripts = scripts();
    for (source, line, column) in [
        ("function (doc) { doc.a.b; }", 1, 18),
        ("function h() {}\nvar é = 1; function (doc) { doc.a.b; }", 2, 30),
        ("var x = 1; function (doc) {} function (doc) { doc.a.b; }", 1, 47),
        ("function h() {}\n(function (doc) {\n doc.a.b; })", 3, 2),
        ("function h() {} (doc) => { doc.a.b }", 1, 28),
        ("function h() {}\nfunction (doc) { emit( }", 2, 24),
    ] {
        let input = json!({ "kind": "map", "source": source, "doc": {} });
        let told = scripts.try_function(1, input.to_string()).await.unwrap();
        let told: Value = serde_json::from_str(told.get()).unwrap();
        assert_eq!((&told["line"], &told["column"]), (&json!(line), &json!(column)), "{source}: {told}");
    }
}
