use proptest::prelude::*;
use serde_json::{Number, Value};

use super::*;

fn ascending(rows: &[&str], key: impl Fn(&str) -> Vec<u8>) {
    for (index, a) in rows.iter().enumerate() {
        for (other, b) in rows.iter().enumerate() {
            assert_eq!(key(a).cmp(&key(b)), index.cmp(&other), "{a} {b}");
        }
    }
}

/// The values from CouchDB's documentation, `view_collation_test.exs` and `couch_ejson_compare_tests.erl`.
#[test]
#[rustfmt::skip]
fn view_order_equals_couchdbs() {
    ascending(&[
        "null", "false", "true",
        "-2", "-0.1", "0", "0.1", "1", "2", "3.0", "4",
        r#""""#, r#""a""#, r#""A""#, r#""aa""#, r#""b""#, r#""B""#, r#""ba""#, r#""bb""#, r#""\uffff""#,
        "[]", r#"["a"]"#, r#"["b"]"#, r#"["b","c"]"#, r#"["b","c","a"]"#, r#"["b","d"]"#, r#"["b","d","e"]"#, "[[]]", "[{}]",
        "{}", r#"{"a":1}"#, r#"{"a":2}"#, r#"{"b":1}"#, r#"{"b":2}"#, r#"{"b":2,"a":1}"#, r#"{"b":2,"c":2}"#,
    ], sort_key);
}

/// The values from `view_collation_raw_test.exs` and the documentation.
#[test]
#[rustfmt::skip]
fn raw_order_equals_couchdbs() {
    ascending(&[
        "1", "2", "3", "4",
        "false", "null", "true",
        "{}", r#"{"a":1}"#, r#"{"a":2}"#, r#"{"b":1}"#, r#"{"b":2}"#, r#"{"b":2,"a":1}"#, r#"{"b":2,"c":2}"#,
        "[]", r#"["a"]"#, r#"["b"]"#, r#"["b","c"]"#, r#"["b","c","a"]"#, r#"["b","d"]"#, r#"["b","d","e"]"#,
        r#""""#, r#""\u0000""#, r#""\u0000a""#, r#""\u0001""#, r#""A""#, r#""B""#, r#""a""#, r#""aa""#, r#""b""#, r#""ba""#, r#""bb""#, r#""é""#,
    ], raw_sort_key);
}

/// The sequence in CouchDB's documentation, corrected for current ICU versions.
#[test]
fn order_of_ascii_characters() {
    let sequence = "`^_-,;:!?.'\"()[]{}@*/\\&#%+<=>|~$0123456789aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ";
    // The documentation shows the order of ICU 4.8 and older, "`^_-" first. Newer versions start with "_-"
    // and sort "`" and "^" after "%".
    let newer = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ";
    let mut sorted: Vec<char> = sequence.chars().collect();
    sorted.sort_by_key(|character| sort_key(&serde_json::to_string(character).unwrap()));
    assert_eq!(sorted.into_iter().collect::<String>(), newer);
}

#[test]
fn equal_values_have_equal_keys() {
    let rows = [
        ("1", "1.0"),
        ("100", "1e2"),
        ("0", "-0"),
        ("0", "-0.0"),
        ("0", "0e7"),
        ("0.1", "1.0e-1"),
        ("12345678901234567890", "12345678901234567890"),
        ("9007199254740992", "9007199254740992.0"),
        (r#""a""#, r#""a\u200b""#),
        (r#""\u00e9""#, "\"é\""),
        ("\"e\u{301}\"", "\"é\""),
        (r#"[1,{"a":2.0}]"#, r#"[1.0,{"a":2}]"#),
    ];
    for (a, b) in rows {
        assert_eq!(sort_key(a), sort_key(b), "{a} {b}");
        assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
    }
    assert_ne!(raw_sort_key("\"e\u{301}\""), raw_sort_key("\"é\""));
}

#[test]
fn numbers_are_ordered_by_value() {
    let zeros = "0".repeat(400);
    let (huge, huger) = (format!("1{zeros}"), format!("2{zeros}"));
    let (below, far_below) = (format!("-1{zeros}"), format!("-2{zeros}"));
    #[rustfmt::skip]
    let rows = [
        far_below.as_str(), &below, "-1.7976931348623157e308", "-18446744073709551616", "-9223372036854775809", "-9223372036854775808", "-1e10", "-256", "-100.5", "-100",
        "-99.99", "-99", "-11", "-10.5", "-10", "-9", "-1.01", "-1", "-0.5", "-0.05", "-0.01", "-1e-7", "-1e-300", "0", "5e-324", "2.2250738585072014e-308", "1e-300", "1e-7",
        "0.001", "0.01", "0.0101", "0.09", "0.1", "0.10000000000000002", "0.11", "0.9", "0.99", "1", "1.0000000000000002", "1.5", "2", "9", "9.5", "10", "10.01", "11", "99", "99.5",
        "100", "101", "110", "999", "1000", "1001", "9999", "10000", "123456.789", "2147483648", "4294967296", "9007199254740991", "9007199254740992", "9007199254740993",
        "9007199254740994.0", "9223372036854775807", "9223372036854775808", "1e20", "100000000000000000001", "1e23", "100000000000000000000000", "1e24", "1.7976931348623157e308",
        &huge, &huger,
    ];
    ascending(&rows, sort_key);
    ascending(&rows, raw_sort_key);
}

/// If this fails, the collator's data or algorithm has changed: raise `COLLATION_VERSION` and set the new
/// bytes here.
#[test]
fn keys_match_the_collation_version() {
    assert_eq!(COLLATION_VERSION, 1);
    let value = r#"[null,false,true,-1.5,0,1234.5,"","aB é 日本 😀 \uffff",{"k":[]}]"#;
    assert_eq!(crate::hex::hex(&sort_key(value)), VIEW_KEY);
    assert_eq!(crate::hex::hex(&raw_sort_key(r#"[null,false,true,-1.5,"a\u0000é",{"k":[]}]"#)), RAW_KEY);
}

const VIEW_KEY: &str = "60102030407efdccff4142820d23330050010100502b2d043304fa322cfa34be040d4c5c04ffff0142880b01c5dc0e0070503f010501050060000000";
const RAW_KEY: &str = "60302040107efdccff706100ffc3a9000150706b000160000000";

#[test]
fn invalid_json_does_not_panic() {
    for text in [
        "",
        "\"",
        "\"\\",
        "[",
        "]",
        "}{",
        "-",
        "1e",
        "1e999999999999999999999",
        "--1.2.3e4e5",
        "nul",
        "é",
        "\"\\u12\"",
        "1.é",
    ] {
        sort_key(text);
        raw_sort_key(text);
    }
}

/// A simple implementation of the same comparison, on values.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => compare_strings(a, b),
        (Value::Array(a), Value::Array(b)) => {
            let differing = a.iter().zip(b).map(|(a, b)| compare_values(a, b)).find(|order| order.is_ne());
            differing.unwrap_or(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b);
            let differing = pairs
                .map(|(a, b)| compare_strings(a.0, b.0).then_with(|| compare_values(a.1, b.1)))
                .find(|order| order.is_ne());
            differing.unwrap_or(a.len().cmp(&b.len()))
        }
        _ => kind(a).cmp(&kind(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => compare_mixed(a, b.as_f64().unwrap()),
        (None, Some(b)) => compare_mixed(b, a.as_f64().unwrap()).reverse(),
        (None, None) => a.as_f64().unwrap().partial_cmp(&b.as_f64().unwrap()).unwrap(),
    }
}

fn compare_mixed(a: i64, b: f64) -> Ordering {
    if b >= 9.3e18 {
        Ordering::Less
    } else if b <= -9.3e18 {
        Ordering::Greater
    } else {
        i128::from(a).cmp(&(b.floor() as i128)).then(if b.fract() == 0.0 { Ordering::Equal } else { Ordering::Less })
    }
}

fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-20i64..20).prop_map(Number::from),
        any::<i64>().prop_map(Number::from),
        any::<f64>().prop_filter_map("finite", Number::from_f64),
        (-2000i64..2000).prop_map(|number| Number::from_f64(number as f64 / 100.0).unwrap()),
        (any::<i64>(), 0u32..63).prop_map(|(number, shift)| Number::from_f64((number >> shift) as f64).unwrap()),
    ];
    let string = prop_oneof!["[aAbBéE ]{0,3}", any::<String>(), "[a-c\u{200b}\u{301}]{0,4}"];
    let scalar = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        4 => number.prop_map(Value::Number),
        4 => string.clone().prop_map(Value::String),
    ];
    scalar.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((string.clone(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn keys_sort_like_values(a in json(), b in json()) {
        let (key_a, key_b) = (sort_key(&a.to_string()), sort_key(&b.to_string()));
        prop_assert_eq!(key_a.cmp(&key_b), compare_values(&a, &b), "{} {}", a, b);
        prop_assert!(key_a == key_b || !key_a.starts_with(&key_b) && !key_b.starts_with(&key_a));
    }

    /// The terminator of a string's key must not occur in a collation key.
    #[test]
    fn collation_keys_contain_no_zero(text in any::<String>()) {
        let mut key = Vec::new();
        let Ok(()) = COLLATOR.write_sort_key_to(&text, &mut key);
        prop_assert!(!key.contains(&END));
    }

    #[test]
    fn raw_keys_are_prefix_free_and_order_numbers_and_strings(a in json(), b in json()) {
        let (key_a, key_b) = (raw_sort_key(&a.to_string()), raw_sort_key(&b.to_string()));
        prop_assert!(key_a == key_b || !key_a.starts_with(&key_b) && !key_b.starts_with(&key_a));
        match (&a, &b) {
            (Value::String(a), Value::String(b)) => prop_assert_eq!(key_a.cmp(&key_b), a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => prop_assert_eq!(key_a.cmp(&key_b), compare_numbers(a, b)),
            _ => {}
        }
    }
}
