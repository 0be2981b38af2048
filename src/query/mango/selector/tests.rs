//! The cases of CouchDB's `mango_selector` unit tests and Mango suites, and of PouchDB's find suite.

use serde_json::{Value, json};

use super::*;

fn parse(selector: Value) -> Selector {
    Selector::parse(&selector).unwrap_or_else(|error| panic!("{selector} is refused: {error}"))
}

/// Tests a condition on `x` against values that match and values that do not. `$not` of the condition must
/// invert each result.
fn check(condition: Value, matching: &[Value], others: &[Value]) {
    let plain = parse(json!({"x": condition}));
    let negated = parse(json!({"x": {"$not": condition}}));
    for (values, wanted) in [(matching, true), (others, false)] {
        for value in values {
            let document = json!({"x": value});
            assert_eq!(plain.matches(&document), wanted, "{condition} on {value}");
            assert_eq!(negated.matches(&document), !wanted, "$not {condition} on {value}");
            let body = document.to_string();
            assert_eq!(plain.matches_body("id", "1-a", &body).unwrap(), wanted, "{condition} on the text {body}");
        }
    }
}

#[test]
fn comparison_operators() {
    check(json!({"$lt": 5}), &[json!(4), json!(null)], &[json!(5), json!(6), json!("a")]);
    check(json!({"$lt": "hello"}), &[json!("held")], &[json!("hello"), json!("help")]);
    check(json!({"$lt": [1, 2, 3]}), &[json!([1, 2, 2]), json!([1, 2])], &[json!([1, 2, 3]), json!([1, 3])]);
    check(json!({"$lte": "hello"}), &[json!("held"), json!("hello")], &[json!("help")]);
    check(json!({"$gt": 5}), &[json!(6), json!("text"), json!([]), json!({})], &[json!(4), json!(5), json!(true)]);
    check(json!({"$gte": [1, 2, 3]}), &[json!([1, 2, 3]), json!([1, 3])], &[json!([1, 2, 2]), json!([1, 2])]);
    check(json!({"$eq": 5}), &[json!(5), json!(5.0)], &[json!(6), json!("5")]);
    check(json!({"$eq": [1, [2, 3, 4], 5]}), &[json!([1, [2, 3, 4], 5])], &[json!([1, [2, 3, 4]]), json!([1])]);
    check(json!({"$eq": {"a": {"b": 7}}}), &[json!({"a": {"b": 7}})], &[json!({"a": {"b": 8}}), json!({"a": {}})]);
    check(json!({"$ne": "hello"}), &[json!("help"), json!(1)], &[json!("hello")]);
    check(json!({"$gt": null}), &[json!(false), json!(0)], &[json!(null)]);
}

#[test]
fn strings_compare_by_collation() {
    // By bytes, "B" would sort before "a".
    check(json!({"$gt": "a"}), &[json!("B"), json!("b"), json!("A")], &[json!("a")]);
    check(json!({"$lt": "b"}), &[json!("a"), json!("A")], &[json!("B"), json!("b")]);
    check(json!({"$eq": "a"}), &[json!("a")], &[json!("A"), json!("á")]);
}

#[test]
fn ids_compare_by_bytes() {
    let many: Vec<String> = (0..100).map(|n| format!("id{n}")).collect();
    for (condition, wanted) in [
        (json!({"$gt": "B"}), true),
        (json!({"$lt": "B"}), false),
        (json!({"$gt": {}}), true),
        (json!({"$gt": []}), true),
        (json!({"$lt": 5}), false),
        (json!("a"), true),
        (json!({"$in": ["A", "a"]}), true),
        (json!({"$in": many}), false),
    ] {
        assert_eq!(parse(json!({"_id": condition})).matches(&json!({"_id": "a"})), wanted, "{condition}");
    }
    assert!(parse(json!({"_id": {"$in": many}})).matches(&json!({"_id": "id50"})));
}

#[test]
fn list_operators() {
    check(json!({"$in": []}), &[], &[json!(0), json!(true), json!("foo"), json!([])]);
    let candidates = json!({"$in": [42, false, "bar", [["nested"], "list"], {"b": 2}]});
    check(
        candidates,
        &[json!(42), json!(false), json!("bar"), json!({"b": 2}), json!([0, 42]), json!([0, [["nested"], "list"]])],
        // The array's elements are looked up, not the array itself.
        &[json!(43), json!(true), json!({"b": 2, "c": 3}), json!([["nested"], "list"])],
    );
    check(json!({"$nin": []}), &[json!(0), json!("foo")], &[]);
    check(json!({"$nin": [1, "a"]}), &[json!(2), json!([2, 3])], &[json!(1), json!([0, 1]), json!("a")]);
    check(json!({"$all": []}), &[], &[json!([]), json!([42]), json!({})]);
    check(json!({"$all": [1, 2, 3]}), &[json!([3, 2, 1]), json!([0, 3, 2, 1])], &[json!([3, 2]), json!([]), json!(1)]);
    check(json!({"$all": [[1, 2]]}), &[json!([1, 2]), json!([5, [1, 2]])], &[json!([2, 1]), json!([[2, 1]])]);
    check(json!({"$all": ["hello"]}), &[json!(["hello"])], &[json!("hello")]);
    check(json!({"$size": 3}), &[json!([0, 0, 0])], &[json!(3), json!("fun"), json!([0, 0])]);
}

#[test]
fn element_and_key_operators() {
    check(json!({"$elemMatch": {"$eq": 0}}), &[json!([0]), json!([0, 1])], &[json!([]), json!([1]), json!(0)]);
    check(json!({"$elemMatch": {"$gte": 80, "$lt": 85}}), &[json!([82, 5])], &[json!([79, 86]), json!([])]);
    check(
        json!({"$elemMatch": {"a": 1, "b": {"$gt": 1}}}),
        &[json!([{"a": 1, "b": 2}])],
        &[json!([{"a": 1}, {"b": 2}])],
    );
    check(json!({"$elemMatch": {"$not": {"$eq": 1}}}), &[json!([1, 2])], &[json!([1])]);
    check(json!({"$elemMatch": {"$nor": [{"$eq": 1}, {"$eq": 2}]}}), &[json!([1, 3])], &[json!([1, 2])]);
    check(json!({"$allMatch": {"$eq": 0}}), &[json!([0]), json!([0, 0])], &[json!([]), json!([1]), json!([0, 1])]);
    check(
        json!({"$keyMapMatch": {"$regex": "^[a-z]+$"}}),
        &[json!({"hello": 0}), json!({"a": 1, "b4": 2})],
        &[json!({"b4": 2}), json!({}), json!(["a"])],
    );
}

#[test]
fn other_operators() {
    check(json!({"$type": "null"}), &[json!(null)], &[json!(false), json!({})]);
    check(json!({"$type": "number"}), &[json!(42), json!(3.5)], &[json!("1"), json!([1])]);
    check(json!({"$type": "array"}), &[json!([])], &[json!({}), json!("hi")]);
    check(json!({"$mod": [28, 1]}), &[json!(1), json!(29), json!(57)], &[json!(58), json!("57"), json!(29.0)]);
    check(json!({"$mod": [5, -2]}), &[json!(-7)], &[json!(3), json!(-5)]);
    check(json!({"$mod": [0, 0]}), &[], &[json!(0), json!(5)]);
    check(json!({"$beginsWith": "foo"}), &[json!("foo"), json!("food")], &[json!("more food"), json!("fo"), json!(42)]);
    check(json!({"$beginsWith": "Foo"}), &[json!("Food")], &[json!("food")]);
}

#[test]
fn field_paths() {
    let document = json!({"_id": "one", "a": {"b": [{"c": 1}, 5], "x.y": 2}, "a.b": 3, "": 4});
    for (selector, wanted) in [
        (json!({"_id": "one"}), true),
        (json!({"a.b.0.c": 1}), true),
        (json!({"a": {"b": {"1": 5}}}), true),
        (json!({"a.b.2": {"$exists": true}}), false),
        // An index past an array's end, or a member of a number, does not count as missing.
        (json!({"a.b.2": {"$exists": false}}), false),
        (json!({"a.b.1.c": {"$exists": false}}), false),
        (json!({"a.z": {"$exists": false}}), true),
        (json!({"z.z": {"$exists": false}}), true),
        (json!({"a\\.b": 3}), true),
        (json!({"a.x\\.y": 2}), true),
        (json!({"a.x.y": 2}), false),
        (json!({"a": {"b": {"$size": 2}, "x\\.y": {"$gt": 1, "$lt": 3}}}), true),
        (json!({"z": {"$ne": 1}}), false),
        (json!({"$not": {"z": 1}}), false),
        (json!({"z": {"$not": {"$exists": true, "$eq": 0}}}), true),
    ] {
        assert_eq!(parse(selector.clone()).matches(&document), wanted, "{selector}");
    }
}

#[test]
fn combination_operators() {
    for (selector, document, wanted) in [
        (json!({}), json!({}), true),
        (json!({"x": {}}), json!({"x": {}}), true),
        (json!({"x": {}}), json!({"x": {"a": 1}}), false),
        (json!({"$not": {"x": {}}}), json!({"x": {"a": 1}}), true),
        (json!({"x": {"a": 1}}), json!({"x": {"a": 1, "b": 2}}), true),
        (json!({"x": {"a": 1, "b": 2}}), json!({"x": {"a": 1}}), false),
        (json!({"x": {"$and": []}}), json!({}), true),
        (json!({"x": {"$not": {"$and": []}}}), json!({}), true),
        (json!({"x": {"$or": []}}), json!({}), true),
        (json!({"x": {"$nor": []}}), json!({}), true),
        (json!({"x": {"$or": [{"$lt": 3}, {"$gt": 7}]}}), json!({"x": 2}), true),
        (json!({"x": {"$or": [{"$lt": 3}, {"$gt": 7}]}}), json!({"x": 5}), false),
        (json!({"x": {"$not": {"$or": [{"$lt": 3}, {"$gt": 7}]}}}), json!({"x": 5}), true),
        (json!({"x": {"$nor": [{"$gt": 3}, {"$lt": 1}]}}), json!({"x": 2}), true),
        (json!({"x": {"$nor": [{"$gt": 3}, {"$lt": 1}]}}), json!({}), false),
        (json!({"$nor": [{"x": 1}, {"y": 2}]}), json!({"x": 3, "y": 3}), true),
        (json!({"$or": [{"x": 1}, {"y": {"$exists": false}}], "z": 1}), json!({"z": 1}), true),
        (json!({"$or": [{"x": 1}, {"y": {"$exists": false}}], "z": 1}), json!({"z": 1, "y": 1}), false),
    ] {
        assert_eq!(parse(selector.clone()).matches(&document), wanted, "{selector} on {document}");
    }
}

#[test]
fn normalization() {
    for (selector, wanted) in [
        (json!({"a": 1}), json!({"a": {"$eq": 1}})),
        (json!({"a": {"b": {"$gt": 10}}}), json!({"a.b": {"$gt": 10}})),
        (json!({"a": 1, "b": 2}), json!({"$and": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]})),
        (json!({"a": {"$gt": 5, "$lt": 9}}), json!({"$and": [{"a": {"$gt": 5}}, {"a": {"$lt": 9}}]})),
        (json!({"$not": {"a": {"$gt": 10}}}), json!({"a": {"$lte": 10}})),
        (
            json!({"$not": {"$and": [{"a": {"$gt": 10}}, {"a": {"$lt": 5}}]}}),
            json!({"$or": [{"a": {"$lte": 10}}, {"a": {"$gte": 5}}]}),
        ),
        (json!({"$nor": [{"a": 1}, {"b": {"$in": [1]}}]}), json!({"$and": [{"a": {"$ne": 1}}, {"b": {"$nin": [1]}}]})),
        (json!({"a": {"$not": {"$not": {"$regex": "x"}}}}), json!({"a": {"$regex": "x"}})),
        (json!({"a": {"$not": {"$type": "null"}}}), json!({"a": {"$not": {"$type": "null"}}})),
        (json!({"a\\.b": 1}), json!({"a\\.b": {"$eq": 1}})),
        (json!({"a": {"$elemMatch": {"$gt": 1}}}), json!({"a": {"$elemMatch": {"": {"$gt": 1}}}})),
    ] {
        let normal = parse(selector.clone());
        assert_eq!(normal.to_json(), wanted, "{selector}");
        assert_eq!(parse(normal.to_json()).to_json(), wanted, "{selector}, read again");
    }
}

#[test]
fn errors_equal_couchdbs() {
    for (selector, word, reason) in [
        (json!([]), "invalid_selector_json", "Selector must be a JSON object, not: []"),
        (json!("abc"), "invalid_selector_json", "Selector must be a JSON object, not: <<97,98,99>>"),
        (json!({"$gt": 5}), "invalid_selector", "One or more conditions is missing a field name."),
        (json!({"a": {"$foo": 5}}), "invalid_operator", "Invalid operator: $foo"),
        (json!({"$bar": 5}), "invalid_operator", "Invalid operator: $bar"),
        (json!({"a": {"$in": 5}}), "bad_arg", "Bad argument for operator $in: 5"),
        (json!({"a": {"$nin": {"b": 1}}}), "bad_arg", "Bad argument for operator $nin: {[{<<98>>,1}]}"),
        (json!({"$or": {}}), "bad_arg", "Bad argument for operator $or: {[]}"),
        (json!({"$not": 5}), "bad_arg", "Bad argument for operator $not: 5"),
        (json!({"a": {"$exists": "true"}}), "bad_arg", "Bad argument for operator $exists: <<116,114,117,101>>"),
        (json!({"a": {"$mod": [1]}}), "bad_arg", "Bad argument for operator $mod: [1]"),
        (json!({"a": {"$mod": [1.5, 2]}}), "bad_arg", "Bad argument for operator $mod: [1.5,2]"),
        (json!({"a": {"$size": -1}}), "bad_arg", "Bad argument for operator $size: -1"),
        (json!({"a": {"$regex": "("}}), "bad_arg", "Bad argument for operator $regex: <<40>>"),
        (json!({"a": {"$regex": 1}}), "invalid_operator", "Invalid operator: $regex"),
        (json!({"a": {"$beginsWith": 1}}), "invalid_operator", "Invalid operator: $beginsWith"),
        (json!({"a": {"$elemMatch": [1]}}), "bad_arg", "Bad argument for operator $elemMatch: [1]"),
        (json!({"a": {"$where": "x"}}), "not_supported", "Unsupported operator: $where"),
        (json!({"a..b": 1}), "invalid_field_name", "Invalid field name: a..b"),
        (json!({"": 1}), "invalid_field_name", "Invalid field name: "),
    ] {
        let error = Selector::parse(&selector).expect_err("must be refused");
        assert_eq!(error, Error::Mango { word, reason: reason.into() }, "{selector}");
    }
}

#[test]
fn text_search_is_only_allowed_at_the_top_level() {
    assert!(parse(json!({"$text": "word"})).is_text_search());
    assert!(parse(json!({"$text": "word", "a": 1})).is_text_search());
    assert!(!parse(json!({"a": 1})).is_text_search());
    assert!(matches!(Selector::parse(&json!({"a": {"$text": "word"}})), Err(Error::Mango { word: "bad_field", .. })));
    assert!(matches!(Selector::parse(&json!({"$text": []})), Err(Error::Mango { word: "bad_arg", .. })));
}

#[test]
fn hostile_selectors_are_refused() {
    let mut deep = json!(1);
    for _ in 0..300 {
        deep = json!({"$not": deep.is_object().then(|| deep.clone()).unwrap_or(json!({"a": 1}))});
    }
    let wide = json!({"$or": (0..30_000).map(|n| json!({"a": n})).collect::<Vec<_>>()});
    for selector in [deep, wide] {
        assert!(matches!(Selector::parse(&selector), Err(Error::Mango { word: "invalid_selector", .. })));
    }
}

#[test]
fn patterns_match_like_pcre() {
    for (pattern, matching, others) in [
        ("^[0-9a-f]+$", vec!["3a0df5e", "ff\n"], vec!["", "3a0gf5e", "ff\nx"]),
        (r"^\w+$", vec!["word_1"], vec!["schön", "two words"]),
        (r"^\d{2,3}$", vec!["12", "123"], vec!["1", "٣٣", "1234"]),
        (r"\bcat\b", vec!["a cat."], vec!["concatenate"]),
        ("a{b", vec!["xa{b"], vec!["ab"]),
        ("{}", vec!["{}"], vec!["{"]),
        ("[[]x", vec!["[x"], vec!["x"]),
        ("^[&&a]+$", vec!["a&&"], vec!["b"]),
        ("^[]a]+$", vec!["]a"], vec!["b"]),
        (r"^[\w.-]+@x\.org$", vec!["a.b-c@x.org"], vec!["a b@x.org"]),
        (r"\Q(a)\E$", vec!["x(a)"], vec!["a"]),
        (r"\<\/a\>", vec!["</a>"], vec!["a"]),
        ("(?i)abc", vec!["ABC"], vec!["ab"]),
        // Patterns that need backtracking.
        (r"^(?!admin)\w+$", vec!["user"], vec!["administrator"]),
        (r"(?<=\$)\d+", vec!["$100"], vec!["100"]),
        (r"^(\w+) \1$", vec!["ab ab"], vec!["ab ac"]),
        ("^(?>a+)b", vec!["aab"], vec!["aac"]),
    ] {
        let selector = parse(json!({"x": {"$regex": pattern}}));
        for (texts, wanted) in [(matching, true), (others, false)] {
            for text in texts {
                assert_eq!(selector.matches(&json!({"x": text})), wanted, "{pattern} on {text:?}");
            }
        }
    }
}

#[test]
fn hostile_patterns_terminate() {
    let long = "a".repeat(10_000);
    for pattern in ["(a+)+$b", "(a|a)*b", r"^(?=(a+)+b)\1", r"(a*)*\1b", "((a{1,50}){1,50}){1,50}{1,50}"] {
        if let Ok(selector) = Selector::parse(&json!({"x": {"$regex": pattern}})) {
            selector.matches(&json!({"x": long}));
        }
    }
    assert!(Selector::parse(&json!({"x": {"$regex": "x".repeat(100_000)}})).is_err());
    assert!(Selector::parse(&json!({"x": {"$regex": "(".repeat(60_000)}})).is_err());
}

#[test]
fn only_the_needed_members_of_a_body_are_read() {
    let selector = parse(json!({"a": 1, "_id": "one", "_rev": {"$gt": null}}));
    assert!(selector.matches_body("one", "1-a", r#"{"skip": {"a": 2}, "\u0061": 1, "last": []}"#).unwrap());
    assert!(!selector.matches_body("two", "1-a", r#"{"a": 1}"#).unwrap());
    assert!(selector.wants("a") && selector.wants("_rev") && !selector.wants("skip"));
    assert!(!selector.wants_special_members());
    assert!(parse(json!({"_attachments": {"$exists": true}})).wants_special_members());
    assert!(parse(json!({"$or": [{"$eq": {}}]})).wants("anything"));
    assert!(selector.matches_body("one", "1-a", "{\"a\": ").is_err());
}

#[test]
fn integers_and_doubles_compare_exactly() {
    // 2^53 and its neighbours round to the same double.
    let numbers = json!([
        9007199254740992_i64,
        9007199254740993_i64,
        9007199254740992.0,
        9007199254740994.0,
        1e300,
        -1e300,
        u64::MAX,
        18446744073709551615.0,
        i64::MIN,
        0,
        -0.0,
        0.5,
        -0.5,
        1,
        2.5,
        3
    ]);
    let numbers = numbers.as_array().unwrap();
    for a in numbers {
        for b in numbers {
            let as_text = crate::json::compare(&a.to_string(), &b.to_string());
            assert_eq!(compare(a, b), as_text, "{a} {b}");
        }
    }
    // Sorting may panic if the order is not total.
    let many: Vec<Value> = (0..200).map(|at| numbers[at * 7 % 4].clone()).collect();
    assert!(parse(json!({"a": {"$in": many}})).matches(&json!({"a": 9007199254740993_i64})));
}

#[test]
fn documents_that_serde_json_rejects_are_matched() {
    let body = format!(r#"{{"big":{},"deep":{}1{},"n":1}}"#, "9".repeat(400), "[".repeat(300), "]".repeat(300));
    for (selector, wanted) in [
        (json!({"n": 1}), true),
        (json!({"big": {"$gt": 1e300}, "n": 1}), true),
        (json!({"big": {"$type": "string"}}), false),
        (json!({"deep": {"$size": 1}}), true),
        (json!({"$not": {"$or": [{"n": 2}, {"big": {"$lt": 0}}]}}), true),
    ] {
        assert_eq!(parse(selector.clone()).matches_body("id", "1-a", &body), Ok(wanted), "{selector}");
    }
}

#[test]
fn resources_of_a_selector_are_limited() {
    // A long name around many conditions would be copied into each path.
    let around = json!({"a".repeat(100_000): {"$or": vec![1; 1000]}});
    assert!(Selector::parse(&around).is_err());
    let around = json!({"a.b.c.d": {"$or": vec![1; 9000]}});
    assert!(Selector::parse(&around).is_ok());
    let patterns = |count: usize| json!({"$or": vec![json!({"a": {"$regex": "^a.*[b-x]$"}}); count]});
    assert!(Selector::parse(&patterns(500)).is_ok() && Selector::parse(&patterns(501)).is_err());
    assert!(Selector::parse(&json!({"a": {"$regex": "(?:abc){9000}"}})).is_err());
    let long = format!("(?#{})a", "x".repeat(60_000));
    let patterns = |count: usize| json!({"$or": vec![json!({"a": {"$regex": long}}); count]});
    assert!(Selector::parse(&patterns(4)).is_ok() && Selector::parse(&patterns(5)).is_err());
    // These would take too many steps.
    let all: Vec<u64> = (1..5000).collect();
    let elements: Vec<u64> = std::iter::repeat_n(0, 5000).chain(1..5000).collect();
    assert!(!parse(json!({"a": {"$all": all}})).matches(&json!({ "a": elements })));
    let slow = json!({"a": {"$elemMatch": {"$regex": "(?=a)(a|aa)+$"}}});
    assert!(!parse(slow.clone()).matches(&json!({"a": vec!["a".repeat(16_000) + "b"; 10]})));
    assert!(!parse(json!({"$not": slow})).matches(&json!({"a": vec!["a".repeat(16_000) + "b"; 10]})), "either way");
}

#[test]
fn a_nested_empty_selector_round_trips() {
    for selector in [json!({"$nor": [{}, {"a": 1}]}), json!({"$or": [{"a": {"$gt": 1}}, {}]})] {
        let written = parse(selector).to_json();
        assert_eq!(parse(written.clone()).to_json(), written);
    }
    for wrong in [json!({"": 1}), json!({"": {"$eq": 1}}), json!({"a": {"": {"$eq": 1}}}), json!({"a": 1, "": 2})] {
        assert!(Selector::parse(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn compiling_a_pattern_takes_linear_time() {
    for pattern in ["{".repeat(60_000), "{1".repeat(30_000), format!("[{}", "[:".repeat(30_000))] {
        let _ = Selector::parse(&json!({"a": {"$regex": pattern}}));
    }
    for (pattern, text, wanted) in [
        ("a{2}", "aa", true),
        ("a{2,}b", "aaab", true),
        ("a{,2}", "a{,2}", true),
        ("a{x}", "a{x}", true),
        ("{1", "{1", true),
    ] {
        assert_eq!(parse(json!({"a": {"$regex": pattern}})).matches(&json!({ "a": text })), wanted, "{pattern}");
    }
}

#[test]
fn a_name_that_is_a_backslash_round_trips() {
    for (given, name) in [
        (json!({"\\": 1}), "\\"),
        (json!({"a.\\": 1}), "a.\\"),
        (json!({"a.\\": {"e": 1}}), "a.\\.e"),
        (json!({"a.\\\\": {"b.c": {"$exists": true}}}), "a.\\.b.c"),
    ] {
        let selector = Selector::parse(&given).unwrap();
        let written = selector.to_json();
        assert_eq!(written.as_object().and_then(|members| members.keys().next()).map(String::as_str), Some(name));
        assert_eq!(Selector::parse(&written).unwrap().to_json(), written, "{given}");
    }
}

#[test]
fn a_name_that_begins_with_a_dollar_round_trips() {
    for (given, name) in [
        (json!({"\\$type": "note"}), "\\$type"),
        (json!({"\\$regex": "(?a"}), "\\$regex"),
        (json!({"\\$a": {"$gt": 1, "$lt": 5}}), "\\$a"),
        (json!({"\\$a": {"\\$b": 1}}), "\\$a.$b"),
        (json!({"a": {"$elemMatch": {"\\$b": 1}}}), "a"),
    ] {
        let written = parse(given.clone()).to_json();
        let text = written.to_string();
        assert!(text.contains(&serde_json::to_string(name).unwrap()), "{given}: {text}");
        assert_eq!(Selector::parse(&written).map(|again| again.to_json()), Ok(written), "{given}");
    }
    assert!(parse(parse(json!({"\\$type": "note"})).to_json()).matches(&json!({"$type": "note"})));
}
