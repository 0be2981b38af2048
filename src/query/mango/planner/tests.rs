//! The cases of CouchDB's index selection, covering and explain suites.

use serde_json::{Value, json};

use super::*;
use crate::error::Error;

fn index(design: &str, fields: &[&str]) -> Index {
    let map = json!({"fields": fields});
    Index::of_map(&format!("_design/{design}"), design, &map, false).unwrap()
}

/// The indexes of CouchDB's `user_docs` suites.
fn user_indexes() -> Vec<Index> {
    vec![
        index("user_id", &["user_id"]),
        index("name", &["name.last", "name.first"]),
        index("age", &["age"]),
        index("location", &["location.state", "location.city"]),
        index("company_and_manager", &["company", "manager"]),
        index("manager", &["manager"]),
        index("favorites", &["favorites"]),
        index("twitter", &["twitter"]),
    ]
}

fn request(body: Value) -> FindRequest {
    FindRequest::parse(&body, None).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn chosen(indexes: &[Index], body: Value) -> String {
    plan(indexes, false, &request(body.clone())).unwrap_or_else(|error| panic!("{body}: {error}")).index.name
}

#[test]
fn index_choices() {
    let indexes = user_indexes();
    for (body, wanted) in [
        (json!({"selector": {"age": 123}}), "age"),
        (json!({"selector": {"age": {"$gt": 1}, "name.first": "a", "name.last": "b"}}), "name"),
        (
            json!({"selector": {"age": {"$gt": 1}, "name.first": "a", "name.last": "b"}, "use_index": "_design/age"}),
            "age",
        ),
        (
            json!({"selector": {"age": {"$gt": 1}, "name.first": "a", "name.last": "b"}, "use_index": ["age", "age"]}),
            "age",
        ),
        (
            json!({"selector": {"company": {"$gt": "a"}, "$or": [{"manager": 1}, {"manager": 2}]}}),
            "company_and_manager",
        ),
        // One alternative does not require the second field.
        (json!({"selector": {"company": {"$gt": "a"}, "$or": [{"manager": 1}, {"x": 2}]}}), "_all_docs"),
        (json!({"selector": {"manager": {"$exists": true}}}), "manager"),
        (json!({"selector": {"manager": {"$exists": false}}}), "_all_docs"),
        (json!({"selector": {"company": "Pharmex"}}), "_all_docs"),
        (json!({"selector": {"company": "Pharmex"}, "use_index": "company_and_manager"}), "_all_docs"),
        (json!({"selector": {}, "use_index": "age"}), "_all_docs"),
        (json!({"selector": {"manager": {"$gt": null}}, "sort": [{"manager": "desc"}]}), "manager"),
        (json!({"selector": {"manager": true}, "use_index": "manager", "allow_fallback": false}), "manager"),
        (json!({"selector": {"manager": true}, "use_index": [], "allow_fallback": false}), "manager"),
        // A sort excludes documents without its fields.
        (json!({"selector": {"x": 1}, "sort": ["age"]}), "age"),
        (json!({"selector": {"company": "a"}, "sort": ["manager"]}), "company_and_manager"),
        (json!({"selector": {"_id": {"$gt": null}}, "sort": ["_id"]}), "_all_docs"),
        (json!({"selector": {"favorites": {"$elemMatch": {"$eq": "x"}}}}), "favorites"),
        (json!({"selector": {"twitter": {"$regex": "x"}}}), "twitter"),
    ] {
        assert_eq!(chosen(&indexes, body.clone()), wanted, "{body}");
    }
}

#[test]
fn ties_are_broken_by_fields_then_name() {
    let indexes = [index("b", &["a", "x"]), index("c", &["a"]), index("a", &["a"])];
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1, "x": {"$exists": true}}})), "b");
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1, "x": {"$ne": 1}}})), "a");
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1}, "use_index": "c"})), "c");
}

#[test]
fn plan_errors() {
    let indexes = user_indexes();
    for (body, word, reason) in [
        (
            json!({"selector": {"_id": {"$gt": null}}, "sort": ["name"]}),
            "no_usable_index",
            "No index exists for this sort, try indexing by the sort fields.",
        ),
        (
            json!({"selector": {"company": {"$gt": null}}, "use_index": "company_and_manager", "sort": [{"company": "desc"}]}),
            "no_usable_index",
            "No index exists for this sort, try indexing by the sort fields.",
        ),
        (
            json!({"selector": {"manager": true}, "use_index": "invalid", "allow_fallback": false}),
            "invalid_index",
            "_design/invalid specified by `use_index` could not be found or it is not suitable.",
        ),
        (
            json!({"selector": {"company": "foobar"}, "use_index": [], "allow_fallback": false}),
            "invalid_index",
            "You must specify an index with the `use_index` parameter.",
        ),
        (
            json!({"selector": {"company": "foobar"}, "use_index": ["_design/x", "y"], "allow_fallback": false}),
            "invalid_index",
            "_design/x, y specified by `use_index` could not be found or it is not suitable.",
        ),
    ] {
        let error = plan(&indexes, false, &request(body.clone())).expect_err("must be refused");
        assert_eq!(error, Error::Mango { word, reason: reason.into() }, "{body}");
    }
    let text = plan(&indexes, false, &request(json!({"selector": {"$text": "x"}})));
    assert!(matches!(text, Err(Error::Mango { word: "no_usable_index", .. })));
}

#[test]
fn request_errors() {
    for (body, word) in [
        (json!({}), "missing_required_key"),
        (json!({"selector": {}, "foo": 1}), "invalid_key"),
        (json!({"selector": []}), "invalid_selector_json"),
        (json!({"selector": {}, "limit": -1}), "invalid_non_neg_integer"),
        (json!({"selector": {}, "limit": "1"}), "invalid_non_neg_integer"),
        (json!({"selector": {}, "skip": 1.5}), "invalid_non_neg_integer"),
        (json!({"selector": {}, "r": 0}), "invalid_pos_integer"),
        (json!({"selector": {}, "conflicts": 1}), "invalid_boolean"),
        (json!({"selector": {}, "sort": "a"}), "invalid_sort_json"),
        (json!({"selector": {}, "sort": [{"a": "up"}]}), "invalid_sort_field"),
        (json!({"selector": {}, "sort": [{"a": "asc", "b": "asc"}]}), "invalid_sort_field"),
        (json!({"selector": {}, "sort": [{"a": "asc"}, {"b": "desc"}]}), "unsupported_mixed_sort"),
        (json!({"selector": {}, "fields": "a"}), "invalid_fields"),
        (json!({"selector": {}, "fields": [1]}), "invalid_field"),
        (json!({"selector": {}, "use_index": "foo/bar/baz"}), "invalid_index_name"),
        (json!({"selector": {}, "use_index": ["foo", "bar", "baz"]}), "invalid_index_name"),
        (json!({"selector": {}, "use_index": 1}), "invalid_index_name"),
        (json!({"selector": {}, "partition": "_x"}), "illegal_partition"),
    ] {
        match FindRequest::parse(&body, None) {
            Err(Error::Mango { word: got, .. }) => assert_eq!(got, word, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert!(matches!(FindRequest::parse(&json!([]), None), Err(Error::BadRequest(_))));
    assert_eq!(FindRequest::parse(&json!({"selector": {}}), Some("p")).unwrap().partition.as_deref(), Some("p"));
    assert!(FindRequest::parse(&json!({"selector": {}, "partition": "q"}), Some("p")).is_err());
}

#[test]
fn key_ranges() {
    let indexes = [index("ab", &["a", "b"])];
    for (selector, start, end) in [
        (json!({"a": 1, "b": 2}), json!([1, 2]), json!([1, 2])),
        (json!({"a": {"$gt": 1, "$lt": 5}, "b": {"$exists": true}}), json!([1]), json!([5])),
        (json!({"a": {"$gte": 1, "$gt": 3, "$lte": 9, "$lt": 8}, "b": 2}), json!([3, 2]), json!([8, 2])),
        (json!({"a": {"$gte": 5, "$lte": 5}, "b": {"$ne": 1}}), json!([5]), json!([5])),
        (json!({"a": {"$beginsWith": "x"}, "b": {"$exists": true}}), json!(["x"]), json!(["x\u{FFFF}"])),
        (json!({"a": {"$in": [1]}, "b": 2}), json!([]), json!([])),
        (json!({"a": {"$lt": 5}, "b": 2}), json!([]), json!([5, 2])),
    ] {
        let plan = plan(&indexes, false, &request(json!({"selector": selector}))).unwrap();
        assert_eq!((json!(start_key(&plan.ranges)), json!(end_key(&plan.ranges))), (start, end), "{selector}");
        assert!(!plan.nothing, "{selector}");
    }
    for selector in [
        json!({"a": {"$gt": 5, "$lt": 5}, "b": 1}),
        json!({"a": {"$gt": 5, "$eq": 4}, "b": 1}),
        json!({"a": {"$lt": 5, "$eq": 5}, "b": 1}),
        json!({"a": {"$gte": 6, "$lte": 5}, "b": 1}),
        json!({"a": {"$beginsWith": "x", "$lt": "a"}, "b": 1}),
        json!({"$or": []}),
        json!({"$and": []}),
    ] {
        assert!(plan(&indexes, false, &request(json!({"selector": selector}))).unwrap().nothing, "{selector}");
    }
}

#[test]
fn covering_indexes() {
    let indexes = user_indexes();
    for (body, wanted) in [
        (json!({"selector": {"age": {"$gte": 32}}, "fields": ["_id"]}), true),
        (json!({"selector": {"company": "Lyria", "manager": true}, "fields": ["company", "_id"]}), true),
        (json!({"selector": {"name": {"first": "a", "last": "b"}}, "fields": ["_id"]}), true),
        (json!({"selector": {}, "fields": ["_id"]}), false),
        (json!({"selector": {"age": {"$gte": 32}}, "fields": ["name"]}), false),
        (json!({"selector": {"age": {"$gte": 32}}, "fields": []}), false),
        (json!({"selector": {"age": 1, "x": 1}, "fields": ["age"]}), false),
    ] {
        assert_eq!(plan(&indexes, false, &request(body.clone())).unwrap().covering, wanted, "{body}");
    }
}

#[test]
fn partial_and_partitioned_indexes() {
    let map = json!({"fields": {"a": "asc"}, "partial_filter_selector": {"kind": "x"}});
    let partial = Index::of_map("_design/part", "part", &map, false).unwrap();
    let indexes = [partial.clone()];
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1}})), "_all_docs");
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1}, "use_index": "part"})), "part");
    assert_eq!(partial.key_of(&json!({"_id": "1", "a": 5, "kind": "x"})), Some(vec![json!(5)]));
    assert_eq!(partial.key_of(&json!({"_id": "1", "a": 5, "kind": "y"})), None);
    assert_eq!(partial.key_of(&json!({"_id": "1", "kind": "x"})), None);
    assert_eq!(partial.key_of(&json!({"_id": "_design/x", "a": 5, "kind": "x"})), None);
    let key = partial.key_of_body("1", "1-a", r#"{"other": [], "kind": "x", "a": {"b": 1}}"#);
    assert_eq!(key.unwrap(), Some(vec![json!({"b": 1})]));
    assert_eq!(partial.key_of_body("1", "1-a", r#"{"kind": "x"}"#).unwrap(), None);
    assert!(!partial.needs_special_members());

    let map = json!({"fields": {"a": "asc"}});
    let local = Index::of_map("_design/local", "local", &map, true).unwrap();
    let global = Index::of_map("_design/global", "global", &map, false).unwrap();
    let indexes = [local, global];
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1}})), "global");
    assert_eq!(chosen(&indexes, json!({"selector": {"a": 1}, "partition": "p"})), "local");
}

#[test]
fn warning_texts() {
    let indexes = user_indexes();
    let texts = |body: Value, examined, returned| {
        let request = request(body);
        warnings(&plan(&indexes, false, &request).unwrap(), &request, examined, returned)
    };
    assert_eq!(texts(json!({"selector": {"age": 1}}), 10, 1), Vec::<String>::new());
    assert_eq!(
        texts(json!({"selector": {}, "use_index": "_design/age"}), 5, 5),
        [
            "_design/age was not used because it does not contain a valid index for this query.",
            "No matching index found, create an index to optimize query time."
        ]
    );
    assert_eq!(
        texts(json!({"selector": {"age": 1}, "use_index": ["name", "n"]}), 0, 0),
        ["_design/name, n was not used because it is not a valid index for this query."]
    );
    assert_eq!(texts(json!({"selector": {"age": 1}}), 11, 0).len(), 1);
    assert_eq!(texts(json!({"selector": {"age": 1}}), 101, 10).len(), 1);
    assert_eq!(texts(json!({"selector": {"age": 1}}), 100, 10).len(), 0);
}

#[test]
fn explain_responses() {
    let indexes = user_indexes();
    let body = json!({"selector": {"age": 23}, "fields": ["_id"], "sort": [{"age": "desc"}]});
    let out = explain("db", &indexes, false, &request(body)).unwrap();
    assert_eq!(
        out["index"],
        json!({
            "ddoc": "_design/age", "name": "age", "type": "json", "partitioned": false,
            "def": {"fields": [{"age": "asc"}]},
        })
    );
    assert_eq!(out["selector"], json!({"age": {"$eq": 23}}));
    assert_eq!(out["opts"]["sort"], json!({"age": "desc"}));
    assert_eq!(out["opts"]["bookmark"], json!("nil"));
    assert_eq!(
        out["mrargs"],
        json!({
            "include_docs": false, "view_type": "map", "reduce": false, "partition": null,
            "start_key": [23, "<MAX>"], "end_key": [23], "direction": "rev",
            "stable": false, "update": true, "conflicts": "undefined",
        })
    );
    assert_eq!(out["covering"], json!(true));
    assert_eq!(out["selector_hints"], json!([{"type": "json", "indexable_fields": ["age"], "unindexable_fields": []}]));

    let out = explain("db", &indexes, false, &request(json!({"selector": {"age": 23}}))).unwrap();
    let candidates: Vec<_> = out["index_candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let analysis = &entry["analysis"];
            (
                entry["index"]["name"].as_str().unwrap().to_owned(),
                analysis["usable"].as_bool().unwrap(),
                analysis["reasons"][0]["name"].as_str().unwrap().to_owned(),
                analysis["ranking"].as_u64().unwrap(),
                analysis["covering"].as_bool(),
            )
        })
        .collect();
    let names: Vec<&str> = candidates.iter().map(|entry| entry.0.as_str()).collect();
    let wanted = ["user_id", "twitter", "name", "manager", "location", "favorites", "company_and_manager", "_all_docs"];
    assert_eq!(names, wanted);
    assert_eq!(candidates[0], ("user_id".into(), false, "field_mismatch".into(), 2, Some(false)));
    assert_eq!(candidates[7], ("_all_docs".into(), true, "unfavored_type".into(), 1, None));

    let out = explain("db", &[], false, &request(json!({"selector": {"age": 23}, "sort": ["company"]}))).unwrap();
    assert_eq!(out["index"], Value::Null);
    assert_eq!(out["index_candidates"][0]["analysis"]["reasons"], json!([{"name": "field_mismatch"}]));
    assert_eq!(out["index_candidates"][0]["analysis"]["ranking"], json!(1));
    assert!(out.get("mrargs").is_none());

    let out = explain("db", &[], false, &request(json!({"selector": {"age": 23}}))).unwrap();
    assert_eq!(out["index_candidates"], json!([]));
    assert_eq!(out["mrargs"]["start_key"], Value::Null);
    assert_eq!(out["mrargs"]["end_key"], json!("<MAX>"));
}

#[test]
fn index_definitions_in_design_documents() {
    let new =
        NewIndex::parse(&json!({"index": {"fields": ["age", {"name": "asc"}]}, "name": "by", "ddoc": "dd"})).unwrap();
    assert_eq!((new.design.as_str(), new.name.as_str()), ("_design/dd", "by"));
    let body = new.add_to(None).unwrap().unwrap();
    assert_eq!(
        body,
        json!({"language": "query", "views": {"by": {
            "map": {"fields": {"age": "asc", "name": "asc"}, "partial_filter_selector": {}},
            "reduce": "_count",
            "options": {"def": {"fields": ["age", {"name": "asc"}]}},
        }}})
    );
    assert_eq!(new.add_to(Some(&body)).unwrap(), None);
    let indexes = Index::of_design("_design/dd", &body, false);
    assert_eq!(indexes.len(), 1);
    assert_eq!(
        indexes[0].to_json(),
        json!({
            "ddoc": "_design/dd", "name": "by", "type": "json", "partitioned": false,
            "def": {"fields": [{"age": "asc"}, {"name": "asc"}]},
        })
    );
    assert_eq!(remove_from(&body, "by").unwrap(), None);
    assert!(matches!(remove_from(&body, "other"), Err(Error::NotFound(_))));
    assert_eq!(
        Index::all_docs().to_json(),
        json!({"ddoc": null, "name": "_all_docs", "type": "special", "def": {"fields": [{"_id": "asc"}]}})
    );

    let filtered = NewIndex::parse(&json!({"index": {
        "fields": ["a"], "partial_filter_selector": {"$not": {"kind": "x"}}}, "ddoc": "_design/dd", "name": "two"}));
    let both = filtered.unwrap().add_to(Some(&body)).unwrap().unwrap();
    let indexes = Index::of_design("_design/dd", &both, false);
    assert_eq!(
        indexes[1].to_json()["def"],
        json!({"fields": [{"a": "asc"}], "partial_filter_selector": {"kind": {"$ne": "x"}}})
    );
    assert_eq!(remove_from(&both, "two").unwrap(), Some(body));

    let partitioned = NewIndex::parse(&json!({"index": {"fields": ["a"]}, "ddoc": "p", "partitioned": true})).unwrap();
    let body = partitioned.add_to(None).unwrap().unwrap();
    assert_eq!(body["options"], json!({"partitioned": true}));
    assert!(Index::of_design("_design/p", &body, false)[0].partitioned);

    // Views that are not index definitions, and design documents of another language, are ignored.
    let mixed = json!({"language": "query", "views": {"js": {"map": "function (doc) {}"}}});
    assert_eq!(Index::of_design("_design/x", &mixed, false), []);
    assert_eq!(Index::of_design("_design/x", &json!({"views": {}}), false), []);
}

#[test]
fn generated_names_equal_couchdbs() {
    let one = NewIndex::parse(&json!({"index": {"fields": ["foo"]}})).unwrap();
    let two = NewIndex::parse(&json!({"index": {"fields": ["bar"]}})).unwrap();
    assert_eq!(one.design, format!("_design/{}", one.name));
    assert_eq!(one.name, "a138cce43c361000dcca40cb1fbb8c6776e04ba0");
    assert_ne!(one.name, two.name);
}

#[test]
fn index_definition_errors() {
    for (body, word) in [
        (json!({}), "missing_required_key"),
        (json!({"index": {}}), "missing_required_key"),
        (json!({"index": []}), "invalid_index"),
        (json!({"index": {"fields": null}}), "invalid_sort_json"),
        (json!({"index": {"fields": "bing"}}), "invalid_sort_json"),
        (json!({"index": {"fields": [{"foo": 2}]}}), "invalid_sort_field"),
        (json!({"index": {"fields": [{"foo": "asc", "bar": "desc"}]}}), "invalid_sort_field"),
        (json!({"index": {"fields": [{"foo": "asc"}, {"bar": "desc"}]}}), "unsupported_mixed_sort"),
        (json!({"index": {"fields": [""]}}), "invalid_sort_field"),
        (json!({"index": {"fields": ["a"], "foo": 1}}), "invalid_key"),
        (json!({"index": {"fields": ["a"], "partial_filter_selector": {"a": {"$x": 1}}}}), "invalid_operator"),
        (json!({"index": {"fields": ["a"]}, "type": "geo"}), "invalid_index"),
        (json!({"index": {"fields": ["a"]}, "type": 1.5}), "invalid_string"),
        (json!({"index": {"fields": ["a"]}, "type": "text"}), "required index service unavailable"),
        (json!({"index": {"fields": ["a"]}, "name": ""}), "invalid_empty_string"),
        (json!({"index": {"fields": ["a"]}, "name": true}), "invalid_string"),
        (json!({"index": {"fields": ["a"]}, "ddoc": ["x"]}), "invalid_string"),
        (json!({"index": {"fields": ["a"]}, "w": 0}), "invalid_pos_integer"),
        (json!({"index": {"fields": ["a"]}, "partitioned": 1}), "invalid_partitioned_value"),
        (json!({"index": {"fields": ["a"]}, "x": 1}), "invalid_key"),
    ] {
        match NewIndex::parse(&body) {
            Err(Error::Mango { word: got, .. }) => assert_eq!(got, word, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert!(matches!(
        NewIndex::parse(&json!({"index": {"fields": ["a"]}, "ddoc": "_design/"})),
        Err(Error::IllegalDocId(_))
    ));
    let new = NewIndex::parse(&json!({"index": {"fields": ["a"]}, "ddoc": "js"})).unwrap();
    assert!(matches!(
        new.add_to(Some(&json!({"language": "javascript"}))),
        Err(Error::Mango { word: "invalid_ddoc_lang", .. })
    ));
    let new = NewIndex::parse(&json!({"index": {"fields": ["a"]}, "ddoc": "q", "partitioned": true})).unwrap();
    assert!(matches!(
        new.add_to(Some(&json!({"language": "query", "views": {}}))),
        Err(Error::Mango { word: "invalid_partitioned_option", .. })
    ));
    assert_eq!(bulk_delete_ids(&json!({"docids": ["_design/a", "b"]})).unwrap(), ["_design/a", "b"]);
    assert!(bulk_delete_ids(&json!({"docids": "a"})).is_err());
    assert!(bulk_delete_ids(&json!({})).is_err());
}

#[test]
fn a_partial_filter_may_name_a_field_that_begins_with_a_dollar() {
    let request =
        json!({"index": {"fields": ["a"], "partial_filter_selector": {"\\$type": "note"}}, "ddoc": "d", "name": "n"});
    let body = NewIndex::parse(&request).unwrap().add_to(None).unwrap().unwrap();
    let filter = Index::of_design("_design/d", &body, false)[0].partial_filter.clone().unwrap();
    assert!(filter.matches(&json!({"$type": "note"})) && !filter.matches(&json!({"$type": "task"})));
}
