use super::*;

#[test]
fn strings_are_quoted_like_couchdb() {
    let rows = [
        ("", r#""""#),
        ("plain é 😀 /", r#""plain é 😀 /""#),
        ("a\"b\\c", r#""a\"b\\c""#),
        ("\u{8}\u{c}\n\r\t", r#""\b\f\n\r\t""#),
        ("\u{0}\u{1f}\u{7f}", "\"\\u0000\\u001F\u{7f}\""),
    ];
    for (text, expected) in rows {
        assert_eq!(quote(text), expected);
        assert_eq!(string(expected).unwrap(), text);
    }
    assert_eq!(string("1"), None);
    assert_eq!(string("\""), None);
}

#[test]
fn members_and_elements() {
    let object = r#"{"a":1,"\u0062":[1,{"x":"]}"}],"c":{"d":{}},"e":"\"}","f":-1.5e3,"g":null}"#;
    let found: Vec<(String, &str)> = members(object).map(|(name, value)| (name.into_owned(), value)).collect();
    let expected = [
        ("a", "1"),
        ("b", r#"[1,{"x":"]}"}]"#),
        ("c", r#"{"d":{}}"#),
        ("e", r#""\"}""#),
        ("f", "-1.5e3"),
        ("g", "null"),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_string(), value)));
    assert_eq!(member(object, "b"), Some(r#"[1,{"x":"]}"}]"#));
    assert_eq!(member(object, "x"), None);
    let found: Vec<&str> = elements(r#"[1,"a,]",[2,3],{"b":[4]},null]"#).collect();
    assert_eq!(found, ["1", r#""a,]""#, "[2,3]", r#"{"b":[4]}"#, "null"]);
    let spaced: Vec<&str> = elements(" [ 1 , 2 ] ".trim()).collect();
    assert_eq!(spaced, ["1", "2"]);
}

#[test]
fn other_kinds_and_invalid_json_end_the_iteration() {
    for text in [
        "", "{}", "[]", "1", "null", "\"a\"", "{", "[", "{\"", "{\"a", "{\"a\"", "{\"a\":", "[,", "[1", "{1:2}", "[}",
        "{\"a\\",
    ] {
        assert!(members(text).count() <= 1, "{text}");
        assert!(elements(text).count() <= 1, "{text}");
    }
    assert_eq!(members("[1]").count(), 0);
    assert_eq!(elements("{\"a\":1}").count(), 0);
}
