//! The accepted and rejected texts were verified against jiffy, CouchDB's parser.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn ok(text: &[u8]) -> Option<String> {
    scan(text, 64).ok().map(|scanned| scanned.text)
}

#[test]
fn valid_text_is_compacted() {
    let rows: &[(&str, &str, &str)] = &[
        ("object", r#"{"a":1}"#, r#"{"a":1}"#),
        ("whitespace everywhere", " \t\r\n{ \"a\" : [ 1 , 2 ] , \"b\" : { } } \n", r#"{"a":[1,2],"b":{}}"#),
        ("whitespace in strings stays", r#"{"a b": " c "}"#, r#"{"a b":" c "}"#),
        ("empty array", " [ ] ", "[]"),
        ("scalar", " true ", "true"),
        ("false", "false", "false"),
        ("null", "null", "null"),
        (
            "numbers keep their text",
            "[1.0,1e5,1E+05,-0,-0.0,0e5,10,1e-400,5e-324]",
            "[1.0,1e5,1E+05,-0,-0.0,0e5,10,1e-400,5e-324]",
        ),
        ("integers of any size", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("escapes are kept", r#""\u00e9\ud83d\ude00\n\/\"\\\u0000""#, r#""\u00e9\ud83d\ude00\n\/\"\\\u0000""#),
        ("noncharacters", "\"\u{ffff}\u{fdd0}\"", "\"\u{ffff}\u{fdd0}\""),
        ("delete is not a control character", "\"\u{7f}\"", "\"\u{7f}\""),
        ("the last of repeated members stays, in its place", r#"{"a":1,"b":2,"a":3}"#, r#"{"b":2,"a":3}"#),
        ("repeated three times", r#"{"a":1,"a":2,"c":0,"a":3}"#, r#"{"c":0,"a":3}"#),
        ("repeated as an escape", r#"{"a":1,"\u0061":2}"#, r#"{"\u0061":2}"#),
        ("repeated in a nested object", r#"[{"x":{"a":[1],"a":[2]}}]"#, r#"[{"x":{"a":[2]}}]"#),
        ("repeated in a repeated member", r#"{"a":{"b":1,"b":2},"a":{"c":1,"c":2}}"#, r#"{"a":{"c":2}}"#),
        ("empty name", r#"{"":1,"":2}"#, r#"{"":2}"#),
        ("the same name at several depths", r#"{"a":{"a":{"a":1}}}"#, r#"{"a":{"a":{"a":1}}}"#),
    ];
    for (name, text, expected) in rows {
        assert_eq!(ok(text.as_bytes()).as_deref(), Some(*expected), "{name}");
    }
}

/// The scan accepts integers beyond a double; removing a repeated member must work whichever of the two has
/// one.
#[test]
fn repeated_members_with_huge_integers_are_removed() {
    let huge = "7".repeat(400);
    for (given, kept) in [
        (format!(r#"{{"a":{huge},"b":2,"a":3}}"#), r#"{"b":2,"a":3}"#.to_owned()),
        (format!(r#"{{"a":1,"b":2,"a":{huge}}}"#), format!(r#"{{"b":2,"a":{huge}}}"#)),
    ] {
        assert_eq!(ok(given.as_bytes()), Some(kept));
    }
}

#[test]
fn invalid_text_is_rejected() {
    let rows: &[(&str, &[u8])] = &[
        ("no text", b""),
        ("only whitespace", b"  "),
        ("two values", b"{} {}"),
        ("trailing text", b"{} x"),
        ("unclosed object", b"{\"a\":1"),
        ("unclosed array", b"[1"),
        ("crossed brackets", b"[1}"),
        ("crossed braces", b"{\"a\":1]"),
        ("comma before the end of an array", b"[1,]"),
        ("comma before the end of an object", b"{\"a\":1,}"),
        ("comma first", b"[,1]"),
        ("no comma", b"[1 2]"),
        ("no colon", b"{\"a\" 1}"),
        ("no value", b"{\"a\":}"),
        ("a name that is not a string", b"{a:1}"),
        ("leading zero", b"01"),
        ("leading plus", b"+1"),
        ("no digit after the dot", b"1."),
        ("no digit before the dot", b".5"),
        ("minus alone", b"-"),
        ("no digit in the exponent", b"1e"),
        ("beyond a double", b"1e400"),
        ("negative beyond a double", b"-1e309"),
        ("truncated literal", b"tru"),
        ("literal in another case", b"True"),
        ("unclosed string", b"\"abc"),
        ("tab in a string", b"\"\t\""),
        ("control character after eight bytes", b"\"abcdefgh\x01\""),
        ("unknown escape", b"\"\\x\""),
        ("truncated escape", b"\"\\u12\""),
        ("not hex digits", b"\"\\u00zz\""),
        ("lone high surrogate", b"\"\\ud800\""),
        ("lone low surrogate", b"\"\\udc00\""),
        ("high surrogate before something else", b"\"\\ud800\\u0041\""),
        ("surrogate in UTF-8", b"\"\xed\xa0\x80\""),
        ("overlong UTF-8", b"\"\xc0\xaf\""),
        ("truncated UTF-8", b"\"\xe2\x82\""),
        ("byte order mark", b"\xef\xbb\xbf{}"),
        ("form feed", b"\x0c1"),
        ("comment", b"/* */1"),
    ];
    for (name, text) in rows {
        assert_eq!(scan(text, 64).err(), Some(invalid()), "{name}");
    }
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(scan(nested(64).as_bytes(), 64).is_ok());
    assert!(matches!(scan(nested(65).as_bytes(), 64), Err(Error::BadRequest(reason)) if reason.contains("64")));
    assert!(scan(nested(1_000_000).as_bytes(), 64).is_err());
    assert!(scan(b"1", 0).is_ok());
}

#[test]
fn many_members_and_deep_repetition_scan_quickly() {
    let many: Vec<String> = (0..40_000).map(|member| format!("\"member-{}\":{member}", member % 30_000)).collect();
    let text = ok(format!("{{{}}}", many.join(",")).as_bytes()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 30_000);
    assert_eq!(value["member-7"], 30_007);

    let deep = format!("{}1{}", "{\"a\":0,\"a\":".repeat(60), "}".repeat(60));
    assert_eq!(ok(deep.as_bytes()).unwrap(), format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60)));
}

#[test]
fn places_point_at_the_members() {
    let scanned = scan(br#" { "a" : [1, {"x":2}], "\u0062":"}" , "":{ } } "#, 8).unwrap();
    let places = scanned.members.unwrap();
    let texts: Vec<(&str, &str)> =
        places.iter().map(|place| (&scanned.text[place.name.clone()], &scanned.text[place.value.clone()])).collect();
    assert_eq!(texts, [("a", r#"[1,{"x":2}]"#), (r"\u0062", r#""}""#), ("", "{}")]);
    assert_eq!(scan(b"{}", 8).unwrap().members.unwrap(), []);
    assert!(scan(b"[{\"a\":1}]", 8).unwrap().members.is_none());
}

/// JSON with whitespace and with few names, so that names repeat.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_string()),
        Just("true".to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u00e9\ud83d\ude00""#.to_string()),
    ];
    let space = || prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n\t\r ")];
    scalar.prop_recursive(5, 60, 24, move |inner| {
        let name = prop_oneof![Just("a"), Just("b"), Just(r"\u0061"), Just("c d"), Just("")].prop_map(String::from);
        let name = prop_oneof![name, "[a-z]{2}"];
        let member = (space(), name, space(), inner.clone())
            .prop_map(|(one, name, two, value)| format!("{one}\"{name}\"{two}:{one}{value}{two}"));
        prop_oneof![
            (space(), prop::collection::vec(inner, 0..4))
                .prop_map(|(space, values)| format!("[{space}{}{space}]", values.join(","))),
            (space(), prop::collection::vec(member, 0..24))
                .prop_map(|(space, members)| format!("{{{space}{}{space}}}", members.join(","))),
        ]
    })
}

/// The number of members at all depths.
fn names(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.values().map(names).sum::<usize>() + members.len(),
        Value::Array(elements) => elements.iter().map(names).sum(),
        _ => 0,
    }
}

proptest! {
    /// serde_json also keeps the last of repeated members: the values are equal, no name repeats, and compact
    /// text is unchanged.
    #[test]
    fn compact_text_has_the_same_value(text in json()) {
        let compact = ok(text.as_bytes()).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let found: Value = serde_json::from_str(&compact).unwrap();
        prop_assert_eq!(&found, &expected);
        let colons = scan(compact.as_bytes(), 64).unwrap();
        prop_assert_eq!(&colons.text, &compact);
        prop_assert_eq!(colons.members.is_some(), compact.starts_with('{'));
        prop_assert_eq!(count_names(&compact), names(&expected));
    }

    #[test]
    fn scan_never_panics_and_agrees_with_serde_json(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "[\\[\\]{}:,\"a0-9.eE+\\\\u -]{0,24}".prop_map(String::into_bytes),
    ]) {
        let found = ok(&bytes).is_some();
        prop_assert_eq!(found, serde_json::from_slice::<Value>(&bytes).is_ok(), "{}", String::from_utf8_lossy(&bytes));
    }
}

/// Counts the colons outside strings.
fn count_names(text: &str) -> usize {
    let (mut count, mut at, bytes) = (0, 0, text.as_bytes());
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b':' => count += 1,
            _ => {}
        }
        at += 1;
    }
    count
}
