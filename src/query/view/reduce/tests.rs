//! Built-in functions and scripts, applied to all rows at once and to parts that are merged.

use super::*;

fn row(key: &str, value: &str) -> Row {
    Row::loose("a", key, value)
}

/// The client's result of a reduction; asserts that reducing in parts and merging yields the same.
fn reduced(source: &str, values: &[&str]) -> String {
    let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
    let mut sources = Vec::new();
    let reducer = Reducer::read(source, &mut sources).unwrap();
    let map = MapFunction::of(vec![reducer], sources);
    let reducing = Reducing { scripts: &scripts, database: 1, map: &map, context: "d/v" };
    let rows: Vec<Row> = values.iter().map(|value| row("1", value)).collect();
    let whole = reducing.rows(0, &rows).unwrap();
    let parts: Vec<String> = rows.chunks(2).map(|rows| reducing.rows(0, rows).unwrap()).collect();
    let merged = reducing.merge(0, parts).unwrap();
    let see = |reduction| match reducing.finish(0, reduction) {
        Ok(Outcome::Value(value)) => value,
        Ok(Outcome::Overflow(reason)) => format!("overflow {reason}"),
        Err(error) => format!("error {error}"),
    };
    let (whole, merged) = (see(whole), see(merged));
    assert_eq!(whole, merged, "{source} {values:?}");
    whole
}

#[test]
fn built_in_functions() {
    for (source, values, expected) in [
        ("_count", &["1", "null", "{}"][..], "3"),
        ("_sum", &["1", "2", "3"], "6"),
        ("_sum", &["1", "0.5", "-3"], "-1.5"),
        ("_sum", &["9007199254740993", "1"], "9007199254740994"),
        ("_sum", &["[1,2]", "[3]", "1"], "[5,2]"),
        (
            "_sum",
            &[r#"{"a":1,"b":{"c":2}}"#, r#"{"b":{"c":3},"d":[1]}"#, r#"{"d":[1,1]}"#],
            r#"{"a":1,"b":{"c":5},"d":[2,1]}"#,
        ),
        ("_stats", &["1", "2", "3"], r#"{"sum":6,"count":3,"min":1,"max":3,"sumsqr":14}"#),
        ("_stats", &["-1.5", "2"], r#"{"sum":0.5,"count":2,"min":-1.5,"max":2,"sumsqr":6.25}"#),
        (
            "_stats",
            &["[1,10]", "[2,20]", "[3,30]"],
            r#"[{"sum":6,"count":3,"min":1,"max":3,"sumsqr":14},{"sum":60,"count":3,"min":10,"max":30,"sumsqr":1400}]"#,
        ),
        (
            "_stats",
            &["1", r#"{"sum":5,"count":2,"min":2,"max":3,"sumsqr":13}"#, "4"],
            r#"{"sum":10,"count":4,"min":1,"max":4,"sumsqr":30}"#,
        ),
        ("_top_2", &["1", "3", "2", "3"], "[3,2]"),
        ("_bottom_2", &["1", "\"a\"", "null", "null"], "[null,1]"),
        ("_first", &["1", "3", "2"], "1"),
        ("_last", &["1", "3", "2"], "2"),
        ("_approx_count_distinct", &["1", "3", "2"], "1"),
        ("function (keys, values, rereduce) { return sum(values); }", &["1", "2", "4"], "7"),
    ] {
        assert_eq!(reduced(source, values), expected, "{source} {values:?}");
    }
}

#[test]
fn invalid_values_and_growing_reductions_are_errors() {
    let sum = reduced("_sum", &["1", "\"x\"", "2"]);
    assert!(sum.starts_with(r#"{"error":"builtin_reduce_error","reason":"The _sum function"#), "{sum}");
    assert!(reduced("_stats", &["1", "null"]).starts_with("error The _stats function requires"));
    let wide: Vec<String> = (0..2000).map(|n| format!(r#"{{"member{n}":1}}"#)).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let scripts = Scripts::new(Limits { threads: 1, ..Limits::default() });
    let map = MapFunction::of(vec![Reducer::Sum], Vec::new());
    let reducing = Reducing { scripts: &scripts, database: 1, map: &map, context: "d/v" };
    let rows: Vec<Row> = wide.iter().map(|value| row("1", value)).collect();
    let Outcome::Value(sum) = reducing.finish(0, reducing.rows(0, &rows).unwrap()).unwrap() else { panic!() };
    assert!(sum.contains("must shrink more rapidly"), "{sum}");
    let grows = "function () { return Array(6000).join('x'); }";
    assert!(reduced(grows, &["1", "2"]).starts_with("overflow Reduce output must shrink"));
}
