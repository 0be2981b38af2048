//! Tests of the sandbox: what functions written for CouchDB see, and what hostile ones cannot do.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::error::{Error, Result};

pub(super) fn scripts() -> Scripts {
    Scripts::new(Limits { threads: 2, memory: 32 << 20, timeout: Duration::from_millis(500), ..Limits::default() })
}

pub(super) fn set(functions: &[&str]) -> Arc<MapSet> {
    Arc::new(MapSet {
        database: 1,
        signature: functions.join("\0"),
        functions: functions.iter().map(|&function| function.into()).collect(),
        lib: None,
    })
}

pub(super) fn design(source: serde_json::Value) -> Arc<Design> {
    Arc::new(Design::new(1, "_design/d".into(), "1-a".into(), source.to_string()).unwrap())
}

/// Returns the rows of one document and one function as `key:value`.
pub(super) fn rows(mapped: &Mapped, document: usize, function: usize) -> Option<Vec<String>> {
    Some(mapped.rows(document, function)?.map(|(key, value)| format!("{key}:{value}")).collect())
}

fn map_one(function: &str, document: &str) -> Result<Option<Vec<String>>> {
    let mapped = scripts().map_batch(&set(&[function]), vec![document.into()]).wait()?;
    Ok(rows(&mapped, 0, 0))
}

pub(super) fn word<R: std::fmt::Debug>(answer: Result<R>) -> String {
    match answer {
        Err(Error::Script { word, .. }) => word,
        other => format!("{other:?}"),
    }
}

#[test]
fn stored_functions_compile_in_all_common_forms() {
    for function in [
        "function (doc) { emit(doc.a, null); }",
        "function(doc){emit(doc.a, null)};",
        "function(doc){emit(doc.a, null)};\n;; // the end",
        "// before\n/* and */ function named(doc) { emit(doc.a, null) } // after",
        "(function (doc) { emit(doc.a, null); })",
        "(doc) => { emit(doc.a, null); };",
        "doc => emit(doc.a, null)",
        "var helper = function (doc) { return doc.a; }; (function (doc) { emit(helper(doc), null) })",
        "function (doc) { const { a, ...rest } = doc; emit(a ?? 1, rest?.none ?? null); }",
        "async function (doc) { emit(doc.a, null); }",
        "var x = 1; function (doc) { emit(doc.a, null) }",
        "\"use strict\";\nfunction (doc) { emit(doc.a, null) }",
        "'use strict'; function(doc) { emit(this === undefined ? doc.a : 0, null); };",
        "function helper(doc) { return doc.a; }\n\nfunction (doc) {\n  emit(helper(doc), null);\n}\n",
        "var é = '😀', f = function(){}; function /* the map */ (doc) { emit(é ? doc.a : 0, null) } // function (",
        "/* function (x) */ var r = /function [(]/; // function (\r\nfunction\t(doc) { [1].map(function () { emit(doc.a, null) }) }",
        "var anonymous = 5; function (doc) { emit(anonymous, null) } var after = 1;",
        "const five = 5; let map = null; (doc) => emit(five, null)",
    ] {
        assert_eq!(map_one(function, r#"{"_id":"x","a":5}"#).unwrap(), Some(vec!["5:null".into()]), "{function}");
    }
}

#[test]
fn declarations_before_a_function_are_its_own() {
    let set = set(&[
        "var x = 1; function (doc) { emit(x, typeof y); }",
        "var x = 2, y = 3; function help() { return x } function (doc) { emit(help(), y); }",
        "var x = 4; (function (doc) { emit(x, typeof help); })",
    ]);
    let mapped = scripts().map_batch(&set, vec![r#"{"_id":"a"}"#.into()]).wait().unwrap();
    let found = [0, 1, 2].map(|function| rows(&mapped, 0, function).unwrap().join(" "));
    assert_eq!(found, ["1:\"undefined\"", "2:3", "4:\"undefined\""]);
}

#[test]
fn compilation_errors_state_the_reason() {
    let told = |function: &str| match map_one(function, "{}") {
        Err(Error::Script { word, reason }) => format!("{word}: {reason}"),
        other => format!("{other:?}"),
    };
    let syntax = told("function (doc) { emit( }");
    assert!(syntax.starts_with("compilation_error: SyntaxError: "), "{syntax}");
    assert!(syntax.ends_with(" (function (doc) { emit( })"), "{syntax}");
    for broken in [
        "var x = 1; function (doc) { emit( }",
        "function (doc) {} var again function () {}",
        "var x; function (doc) {} x +",
    ] {
        let syntax = told(broken);
        assert!(syntax.starts_with("compilation_error: SyntaxError: "), "{syntax}");
        assert!(syntax.ends_with(&format!(" ({broken})")), "{syntax}");
    }
    assert_eq!(told("42"), "compilation_error: Expression does not eval to a function. (42)");
    assert!(told("nothing").starts_with("compilation_error: ReferenceError: "));
    let reasons = scripts()
        .compile(1, ["function(){}", "function({", "() => 1"].map(|source| ("map", source.into())).into())
        .wait()
        .unwrap();
    assert_eq!(reasons[0], None);
    assert!(reasons[1].as_ref().unwrap().starts_with("SyntaxError: "), "{reasons:?}");
    assert_eq!(reasons[2], None);
}

#[test]
fn emitted_values_follow_json_stringify() {
    let function = r#"function (doc) {
        emit(doc.none, undefined);
        emit([doc._id, doc.none], NaN);
        emit(new Date(0), function () {});
        emit({ toJSON: function () { return 'self'; } }, Infinity);
        emit('half \ud83d', '\ud83d\ude00');
        emit(1e21, new TypeError('shown'));
        emit(-0, [undefined, null]);
        emit();
    }"#;
    assert_eq!(
        map_one(function, r#"{"_id":"é"}"#).unwrap().unwrap(),
        [
            "null:null",
            "[\"é\",null]:null",
            "\"1970-01-01T00:00:00.000Z\":null",
            "\"self\":null",
            "\"half \u{FFFD}\":\"😀\"",
            "1e+21:{\"error\":\"TypeError\",\"message\":\"shown\"}",
            "0:[null,null]",
            "null:null"
        ]
    );
}

#[test]
fn a_throwing_function_loses_only_its_rows_of_that_document() {
    let set = set(&[
        "function (doc) { emit(1); if (doc.bad) doc.none.none(); emit(2); }",
        "function (doc) { emit(3); }",
        "function (doc) { if (doc.bad) { var o = {}; o.o = o; emit(o); } else emit(4); }",
        "function (doc) { if (doc.bad) emit(5n); }",
        "function (doc) { if (doc.bad) throw null; }",
        "function (doc) { (function again() { again(); })(); }",
    ]);
    let scripts = scripts();
    let documents = vec![r#"{"_id":"a"}"#.into(), r#"{"_id":"b","bad":true}"#.into()];
    // The engine itself throws null if there is no memory left for an error.
    assert_eq!(word(scripts.map_batch(&set, documents.clone()).wait()), "InternalError");
    let mut without = MapSet { signature: "w".into(), ..Arc::try_unwrap(set).unwrap() };
    without.functions.remove(4);
    let mapped = scripts.map_batch(&Arc::new(without), documents).wait().unwrap();
    let of = |document, function| rows(&mapped, document, function);
    assert_eq!(of(0, 0), Some(vec!["1:null".into(), "2:null".into()]));
    assert_eq!(of(1, 0), None);
    assert_eq!(of(1, 1), Some(vec!["3:null".into()]));
    assert_eq!((of(0, 2), of(1, 2)), (Some(vec!["4:null".into()]), None));
    assert_eq!((of(0, 3), of(1, 3)), (Some(vec![]), None));
    assert_eq!((of(0, 4), of(1, 4)), (None, None));
}

#[test]
fn a_map_function_cannot_change_the_document_for_the_next() {
    let set = set(&[
        "function (doc) { doc.values = [666]; doc.list[0] = 9; doc.deep.er.x = 2; delete doc.a; emit(doc, null); }",
        "function (doc) { doc.list.push('x'); }",
        "function (doc) { emit(doc.values, [doc.list, doc.deep, doc.a]); }",
    ]);
    let document = r#"{"_id":"x","a":1,"list":[1,2],"deep":{"er":{"x":1}}}"#;
    let mapped = scripts().map_batch(&set, vec![document.into()]).wait().unwrap();
    assert_eq!(rows(&mapped, 0, 0).unwrap(), [format!("{document}:null")]);
    assert_eq!(rows(&mapped, 0, 1), None);
    assert_eq!(rows(&mapped, 0, 2).unwrap(), [r#"null:[[1,2],{"er":{"x":1}},1]"#]);
}

#[test]
fn scripts_cannot_reach_anything_outside_the_sandbox() {
    for name in [
        "std",
        "os",
        "print",
        "console",
        "gc",
        "evalcx",
        "readline",
        "quit",
        "load",
        "process",
        "fetch",
        "XMLHttpRequest",
        "setTimeout",
        "scriptArgs",
        "Worker",
        "WeakRef",
        "map_funs",
        "map_results",
        "State",
        "Couch",
        "rows",
        "host",
        "performance",
        "navigator",
        "bjson",
        "__loadScript",
        "loadFile",
    ] {
        let function = format!("function (doc) {{ emit(typeof {name}, typeof globalThis['{name}']); }}");
        assert_eq!(map_one(&function, "{}").unwrap().unwrap(), ["\"undefined\":\"undefined\""], "{name}");
    }
    // Nor are modules available.
    let function =
        "function (doc) { emit(typeof (new Function('return import(\"std\").then(function () { emit(1) })'))()); }";
    assert_eq!(map_one(function, "{}").unwrap().unwrap(), ["\"object\":null"]);
}

#[test]
fn runaway_scripts_fail_their_call_and_later_calls_work() {
    let scripts = Scripts::new(Limits { threads: 1, processes: 1, memory: 16 << 20, ..scripts().limits() });
    let run = |function: &str| scripts.map_batch(&set(&[function]), vec![r#"{"_id":"x"}"#.into()]).wait();
    for (function, expected) in [
        ("function (doc) { while (true) {} }", "os_process_error"),
        (
            "function (doc) { while (true) { try { while (true) {} } catch (e) {} finally { continue; } } }",
            "os_process_error",
        ),
        ("function (doc) { /(a+)+$/.test('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab'); }", "os_process_error"),
        ("function (doc) { var all = []; while (true) all.push(new Array(1000).fill(all.length)); }", "InternalError"),
        ("function (doc) { while (true) emit(doc, doc); }", "InternalError"),
        ("function (doc) { var s = 'x'; while (true) { s += s; } }", ""),
        ("function (doc) { 'x'.repeat(1 << 29).split('') }", "InternalError"),
        ("function (doc) { throw ['fatal', 'my_word', 'my reason']; }", "my_word"),
        ("function (doc) { throw 'fatal_error'; }", "map_runtime_error"),
        ("(function () { while (true) {} })()", "os_process_error"),
        ("function (doc) { Promise.resolve().then(function again() { return Promise.resolve().then(again); }); }", ""),
    ] {
        let told = word(run(function));
        // On a busy machine, a script may exceed its time before its memory.
        let late = expected == "InternalError" && told == "os_process_error";
        assert!(expected.is_empty() || told == expected || late, "{function}: {told}");
        assert_eq!(rows(&run("function (doc) { emit(1); }").unwrap(), 0, 0).unwrap(), ["1:null"], "after {function}");
    }
    // Native loops, which cannot be interrupted, throw instead.
    for call in [
        "reverse.call({ length: 9e15 })",
        "join.call({ length: 9e15 }, '')",
        "fill.call(new Proxy({}, { get: () => 9e15, set: () => true }))",
    ] {
        assert_eq!(rows(&run(&format!("function (doc) {{ Array.prototype.{call}; }}")).unwrap(), 0, 0), None, "{call}");
    }
    assert_eq!(rows(&run("function (doc) { [].reverse.call(new Array(4294967295)); }").unwrap(), 0, 0), None);
}

#[test]
fn deep_documents_are_parsed_or_rejected() {
    let deep = |depth: usize| format!(r#"{{"_id":"x","deep":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let function = "function (doc) { var n = 0; for (var at = doc.deep; at; at = at[0]) n++; emit(n); }";
    assert_eq!(map_one(function, &deep(1000)).unwrap().unwrap(), ["1000:null"]);
    let far = map_one(function, &deep(1_000_000));
    assert!(!matches!(far, Ok(Some(_))), "{far:?}");
}

#[test]
fn a_dropped_call_stops_its_script() {
    let scripts =
        Scripts::new(Limits { threads: 1, processes: 1, timeout: Duration::from_secs(60), ..scripts().limits() });
    drop(scripts.map_batch(&set(&["function (doc) { while (true) {} }"]), vec!["{}".into()]));
    let mapped = scripts.map_batch(&set(&["function (doc) { emit(1); }"]), vec!["{}".into()]).wait().unwrap();
    assert_eq!(mapped.row_count(), 1);
}

#[test]
fn slow_scripts_do_not_block_others() {
    let scripts = Scripts::new(Limits { threads: 1, timeout: Duration::from_secs(60), ..scripts().limits() });
    let slow = scripts.map_batch(&set(&["function (doc) { while (true) {} }"]), vec!["{}".into()]);
    let mapped = scripts.map_batch(&set(&["function (doc) { emit(1); }"]), vec!["{}".into()]).wait().unwrap();
    assert_eq!(mapped.row_count(), 1);
    drop(slow);
}

#[test]
fn nothing_leaks_between_databases_design_documents_and_users() {
    let scripts = Scripts::new(Limits { threads: 1, processes: 1, ..scripts().limits() });
    let leak = r#"function (doc, old, user) {
        var before = typeof leaked + typeof Array.prototype.leaked + typeof require('m').leaked;
        leaked = Array.prototype.leaked = require('m').leaked = user.name;
        throw({ forbidden: before });
    }"#;
    let source = serde_json::json!({ "_id": "_design/d", "validate_doc_update": leak, "m": "exports.a = 1" });
    let told = |database: u64, id: &str, rev: &str, user: &str| {
        let design = Arc::new(Design::new(database, id.into(), rev.into(), source.to_string()).unwrap());
        let user = format!(r#"{{"name":"{user}","roles":[]}}"#);
        validate(&scripts, &design, None, &user).unwrap_err().to_string()
    };
    let clean = "undefinedundefinedundefined";
    assert_eq!(told(1, "_design/d", "1-a", "ann"), clean);
    assert_eq!(told(1, "_design/d", "1-a", "bob"), clean);
    assert_eq!(told(2, "_design/d", "1-a", "ann"), clean);
    assert_eq!(told(1, "_design/e", "1-a", "ann"), clean);
    assert_eq!(told(1, "_design/d", "2-a", "ann"), clean);
}

#[test]
fn map_functions_require_modules_of_views_lib() {
    let lib = serde_json::json!({
        "base": "exports.id = module.id; exports.twice = require('./math').twice;",
        "math": "exports.twice = function (x) { return 2 * x; };",
        "in": { "a": "exports.up = require('../math').twice(4); exports.b = require('./b');", "b": "module.exports = 'b!';" },
        "ring": "exports.early = 1; exports.other = require('./gnir').seen;",
        "gnir": "exports.seen = require('./ring').early;",
        "bad": "exports. = 1"
    });
    let scripts = scripts();
    let run = |body: &str| {
        let set = MapSet {
            database: 1,
            signature: body.into(),
            functions: vec![format!("function (doc) {{ {body} }}")],
            lib: Some(lib.to_string()),
        };
        rows(&scripts.map_batch(&Arc::new(set), vec!["{}".into()]).wait().unwrap(), 0, 0)
    };
    assert_eq!(
        run("var base = require('views/lib/base'); emit(base.id, base.twice(21));").unwrap(),
        ["\"views/lib/base\":42"]
    );
    assert_eq!(run("var a = require('views/lib/in/a'); emit(a.up, a.b);").unwrap(), ["8:\"b!\""]);
    assert_eq!(run("emit(require('views/lib/ring').other);").unwrap(), ["1:null"]);
    assert_eq!(run("emit(require('views/lib/none'));"), None);
    assert_eq!(run("emit(require('views/lib/bad'));"), None);
    assert_eq!(
        run("try { require('views/lib/none') } catch (e) { emit(e) }").unwrap()[0].split('.').next().unwrap(),
        r#"["error","invalid_require_path","Object has no property \"none\""#
    );
    assert_eq!(
        run("try { require('views/lib') } catch (e) { emit(e[2]) }").unwrap(),
        ["\"Must require a JavaScript string, not: object\":null"]
    );
}

#[test]
fn reductions_are_computed_and_limited() {
    let scripts = scripts();
    let functions = Arc::new(vec![
        "function (keys, values, rereduce) { return rereduce ? sum(values) : keys.length + ':' + keys[0][1]; }"
            .to_owned(),
        "function (keys, values) { return sum(values); }".to_owned(),
        "function (keys) { return keys.none.none; }".to_owned(),
    ]);
    let reduced = scripts.reduce(1, &functions, r#"[[["k","id1"],1],[["k","id2"],2]]"#.into(), "").wait().unwrap();
    assert_eq!(reduced, ["\"2:id1\"", "3", "null"]);
    assert_eq!(scripts.rereduce(1, &functions, "[4,5]".into(), "").wait().unwrap()[..2], ["9", "9"]);
    let wide = Arc::new(vec!["function () { return new Array(1000).fill('wazzap'); }".to_owned()]);
    let told = scripts.reduce(1, &wide, "[]".into(), "db/d/v").wait().unwrap();
    assert!(
        told[0]
            .starts_with(r#"{"reduce_overflow_error":"Reduce output must shrink more rapidly: input size: 2 output"#)
    );
    scripts.set_limits(Limits { reduce_limit: ReduceLimit::Off, ..scripts.limits() });
    assert!(scripts.reduce(1, &wide, "[]".into(), "").wait().unwrap()[0].starts_with("[\"wazzap\""));
}

#[test]
fn validation_answers_become_errors() {
    let scripts = scripts();
    let ask = |function: &str| {
        let design = design(serde_json::json!({ "_id": "_design/d", "validate_doc_update": function }));
        // Each function has its own revision, so that no compiled function is reused.
        let design = Arc::new(Design { rev: function.into(), ..Arc::try_unwrap(design).unwrap() });
        validate(&scripts, &design, Some(r#"{"_id":"n","x":0}"#), r#"{"name":"ann","roles":["r"]}"#)
    };
    assert_eq!(
        ask(
            "function (doc, old, user, security) { if (doc.x !== 1 || old.x !== 0 || user.name !== 'ann' || !security.admins) throw 1; return false; }"
        ),
        Ok(())
    );
    assert_eq!(ask("function () { throw({ forbidden: 'no' }); }"), Err(Error::Forbidden("no".into())));
    assert_eq!(ask("function () { throw({ unauthorized: 'who?' }); }"), Err(Error::Unauthorized("who?".into())));
    let thrown = |word, reason| Err(Error::Thrown { word, reason });
    assert_eq!(
        ask("function () { throw({ forbidden: { code: 1 } }); }"),
        thrown("forbidden", serde_json::json!({"code": 1}))
    );
    assert_eq!(ask("function () { throw({ unauthorized: null }); }"), thrown("unauthorized", serde_json::Value::Null));
    let script = |word: &str, reason: &str| Err(Error::Script { word: word.into(), reason: reason.into() });
    assert_eq!(ask("function () { throw({ nope: 'x' }); }"), script("unknown_error", "x"));
    assert_eq!(ask("function () { throw('text'); }"), script("unknown_error", "text"));
    assert_eq!(ask("function (doc) { doc.a.b; }"), script("TypeError", "cannot read property 'b' of undefined"));
    assert_eq!(ask("function () { throw(['error', 'mine', 'because']); }"), script("mine", "because"));
    assert_eq!(word(ask("function () { while (true) {} }")), "os_process_error");
    assert_eq!(word(ask("function ( {")), "compilation_error");
    let with_helpers = "var allowed = ['ann']; function is(name) { return allowed.indexOf(name) >= 0 }\n\
                        function (doc, old, user) { if (!is(user.name)) throw({ forbidden: 'no' }); }";
    assert_eq!(ask(with_helpers), Ok(()));
    assert_eq!(ask(&with_helpers.replace("['ann']", "[]")), Err(Error::Forbidden("no".into())));
}

#[test]
fn filters_and_views_as_filters_select_documents() {
    let scripts = scripts();
    let design = design(serde_json::json!({
        "_id": "_design/d",
        "filters": { "f": "function (doc, req) { return doc.x == req.query.x ? 'yes' : 0; }" },
        "views": { "v": { "map": "function (doc) { if (doc.x > 1) emit(null); }" } }
    }));
    let documents = || vec![r#"{"x":1}"#.to_owned(), r#"{"x":2}"#.to_owned(), r#"{"x":3}"#.to_owned()];
    let request = r#"{"query":{"x":"2"}}"#;
    assert_eq!(scripts.filter(&design, "f", documents(), request, "").wait(), Ok(vec![false, true, false]));
    assert_eq!(scripts.filter_view(&design, "v", documents()).wait(), Ok(vec![false, true, true]));
    assert_eq!(scripts.filter_view(&design, "v", Vec::new()).wait(), Ok(vec![]));
    let missing = Err(Error::NotFound("missing filters function none on design doc _design/d".into()));
    assert_eq!(scripts.filter(&design, "none", documents(), request, "").wait(), missing);
    let inherited = scripts.filter(&design, "constructor", documents(), request, "").wait();
    assert_eq!(inherited, Err(Error::NotFound("missing filters function constructor on design doc _design/d".into())));
}

#[test]
fn other_languages_are_rejected() {
    let design = design(serde_json::json!({ "_id": "_design/d", "language": "erlang", "filters": {} }));
    let told = scripts().filter_view(&design, "v", Vec::new()).wait();
    assert_eq!(told, Err(Error::Script { word: "unknown_query_language".into(), reason: "erlang".into() }));
}

/// Compares documents per second through the pool with QuickJS alone on one thread, with the same function.
/// `cargo nextest run --release --run-ignored all -E 'test(map_speed)' --no-capture`
#[test]
#[ignore = "a measurement"]
fn map_speed() {
    const DOCUMENTS: usize = 40_000;
    let function = "function (doc) { if (doc.type === 'post') { emit([doc.user, doc.at], doc.n); } }";
    let document = |n: usize| {
        format!(
            r#"{{"_id":"doc-{n:08}","_rev":"1-0123456789abcdef0123456789abcdef","type":"post","user":"user{}","at":"2026-01-01T00:00:00Z","n":{n},"tags":["a","b","c"],"body":"{}"}}"#,
            n % 100,
            "lorem ipsum ".repeat(20)
        )
    };
    let documents: Vec<String> = (0..DOCUMENTS).map(document).collect();
    let alone = {
        let runtime = rquickjs::Runtime::new().unwrap();
        let context = rquickjs::Context::full(&runtime).unwrap();
        context.with(|ctx| {
            let source = format!("var rows; function emit(k, v) {{ rows.push([k, v]); }} var f = {function}; (function (doc) {{ rows = []; f(doc); return JSON.stringify(rows); }})");
            let map: rquickjs::Function = ctx.eval(source).unwrap();
            let start = std::time::Instant::now();
            for document in &documents {
                let document = ctx.json_parse(document.clone()).unwrap();
                let _: String = map.call((document,)).unwrap();
            }
            start.elapsed()
        })
    };
    let rate = |took: Duration| DOCUMENTS as f64 / took.as_secs_f64();
    println!("QuickJS alone, one thread: {:.0} documents/s", rate(alone));
    for threads in [1, 2] {
        let scripts = Scripts::new(Limits { threads, ..Limits::default() });
        let set = set(&[function]);
        scripts.map_batch(&set, vec!["{}".into()]).wait().unwrap();
        let start = std::time::Instant::now();
        let batches: Vec<_> = documents.chunks(200).map(|batch| scripts.map_batch(&set, batch.to_vec())).collect();
        let rows: usize = batches.into_iter().map(|batch| batch.wait().unwrap().row_count()).sum();
        let took = start.elapsed();
        assert_eq!(rows, DOCUMENTS);
        println!(
            "{threads} threads: {:.0} documents/s, {:.2} of QuickJS alone",
            rate(took),
            alone.as_secs_f64() / took.as_secs_f64()
        );
    }
    let start = std::time::Instant::now();
    let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
    for n in 0..100 {
        let function = format!("function (doc) {{ emit({n}); }}");
        scripts.map_batch(&self::set(&[&function]), vec!["{}".into()]).wait().unwrap();
    }
    println!("an environment: {:?}", start.elapsed() / 100);
}

/// Returns the verdict of one design document on one document.
fn validate(scripts: &Scripts, design: &Arc<Design>, old: Option<&str>, user: &str) -> Result<()> {
    let documents = Arc::new(vec![(r#"{"_id":"n","x":1}"#.to_owned(), old.map(str::to_owned))]);
    let designs = Arc::new(vec![design.clone()]);
    scripts.validate_all(&designs, &documents, 0..1, user, r#"{"admins":{}}"#).wait()?.remove(0)
}
