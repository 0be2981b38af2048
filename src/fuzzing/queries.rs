//! Parsers of queries: selectors, indexes, views, keys, bookmarks.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::line;
use crate::db::parse;
use crate::http::request::Query;
use crate::json;
use crate::query::mango::find::Bookmark;
use crate::query::mango::planner::{self, Index, NewIndex};
use crate::query::mango::request::FindRequest;
use crate::query::mango::selector::{self, Selector};
use crate::query::script::Design;
use crate::query::view::{Definition, Params};

/// Selectors: the first line is a selector, the second a document body. The selector survives a round trip
/// through JSON, and matching a body and matching a value agree.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (selector, rest) = line(text);
    let (body, _) = line(rest);
    let Ok(selector) = serde_json::from_str::<Value>(selector) else { return };
    let Ok(selector) = Selector::parse(&selector) else { return };
    let _ = (selector.field_names(), selector.is_text_search());
    let written = selector.to_json();
    let again = Selector::parse(&written).expect("a normalised selector is a selector");
    assert_eq!(again.to_json(), written);
    let limits = parse::Limits { depth: 64, bytes: 1 << 16 };
    let Ok(split) = parse::split(body.as_bytes(), &limits) else { return };
    let matched = selector.matches_body("id", "1-a", &split.body).expect("a body of ours");
    assert_eq!(again.matches_body("id", "1-a", &split.body), Ok(matched));
    if !selector.wants_special_members() {
        let mut whole: serde_json::Map<String, Value> = json::read(&split.body).expect("an object");
        whole.insert("_id".into(), "id".into());
        whole.insert("_rev".into(), "1-a".into());
        assert_eq!(selector.matches(&Value::Object(whole)), matched);
    }
}

/// View queries: the first line is a query string, the second a request body.
pub fn views(data: &[u8]) {
    thread_local! {
        static DEFINITION: Definition = {
            let source = r#"{"views":{"m":{"map":"function (d) {}"},"r":{"map":"function (d) {}","reduce":"_sum"}}}"#;
            let design = Design::new(1, "_design/d".into(), "1-a".into(), source.into()).expect("a design document");
            Definition::read(&design, false).expect("a definition")
        };
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (query, body) = line(text);
    let mut params = Params::default();
    for (name, value) in Query::parse(query).iter() {
        if params.set_text(name, value).is_err() {
            return;
        }
    }
    if let Ok(Value::Object(members)) = serde_json::from_str(body)
        && params.set_all(&members).is_err()
    {
        return;
    }
    DEFINITION.with(|definition| {
        for view in ["m", "r"] {
            let Ok(view) = definition.view(view) else { continue };
            for most in [None, Some(10)] {
                let _ = params.plan(definition, view, most);
            }
        }
    });
}

/// Collation: the lines are JSON keys. Comparing them is a total order, text and value comparison agree, and
/// no sort key is a prefix of another, with and without ICU.
pub fn collation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = parse::Limits { depth: 64, bytes: 1 << 16 };
    let keys: Vec<String> =
        text.lines().take(6).filter_map(|line| parse::compact(line.as_bytes(), &limits).ok()).collect();
    for order in [json::sort_key, json::raw_sort_key] {
        let sorted: Vec<Vec<u8>> = keys.iter().map(|key| order(key)).collect();
        for (a, one) in keys.iter().zip(&sorted) {
            for (b, other) in keys.iter().zip(&sorted) {
                assert!(one == other || !other.starts_with(one), "no key is the beginning of another: {a} {b}");
            }
        }
    }
    let values: Vec<Option<Value>> = keys.iter().map(|key| serde_json::from_str(key).ok()).collect();
    for (a, one) in keys.iter().zip(&values) {
        for (b, other) in keys.iter().zip(&values) {
            let order = json::compare(a, b);
            assert_eq!(order, json::compare(b, a).reverse());
            if let (Some(one), Some(other)) = (one, other) {
                let by_value = selector::compare(one, other);
                assert_eq!(by_value, selector::compare(other, one).reverse());
                // As values, integers beyond 64 bits are doubles and lose precision.
                assert!(by_value == order || has_long_integer(a) || has_long_integer(b), "{a} {b}");
            }
        }
    }
    let mut sorted: Vec<&Value> = values.iter().flatten().collect();
    sorted.sort_by(|a, b| selector::compare(a, b));
    for (at, a) in sorted.iter().enumerate() {
        assert!(sorted[at..].iter().all(|b| selector::compare(a, b) != Ordering::Greater), "one order: {sorted:?}");
    }
}

fn has_long_integer(text: &str) -> bool {
    text.as_bytes().split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 18)
}

/// Bookmarks: a decoded bookmark survives encoding and decoding.
pub fn bookmarks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for columns in 0..3 {
        if let Ok(bookmark) = Bookmark::decode(text, columns) {
            assert_eq!(bookmark.key.len(), columns);
            assert_eq!(Bookmark::decode(&bookmark.encode(), columns), Ok(bookmark));
        }
    }
    // Encodes the input, to get past the base64 decoder.
    use base64::Engine;
    let coded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    if let Ok(bookmark) = Bookmark::decode(&coded, 1) {
        assert_eq!(Bookmark::decode(&bookmark.encode(), 1), Ok(bookmark));
    }
}

/// `$regex`: the first line is a pattern, the rest the text to match. Short patterns
/// that mean the same in PCRE and in the `regex` crate match the same texts; a pattern quoted by `\Q` matches
/// itself.
pub fn patterns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, tried) = line(text);
    let matches = |pattern: &str, tried: &str| {
        let selector = Selector::parse(&json!({"a": {"$regex": pattern}})).ok()?;
        Some(selector.matches(&json!({ "a": tried })))
    };
    let matched = matches(pattern, tried);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" .*+?|^()".contains(&byte);
    // Longer ones may take more steps than PCRE has; `a++` is possessive there.
    let is_short = pattern.len() <= 16 && tried.len() <= 16;
    let is_possessive = ["*+", "++", "?+"].iter().any(|repeat| pattern.contains(repeat));
    if is_short && !is_possessive && pattern.bytes().all(plain) && tried.is_ascii() && matched.is_some() {
        let simple = ::regex::Regex::new(pattern).map(|regex| regex.is_match(tried));
        assert!(simple.is_err() || simple.ok() == matched, "{pattern} on {tried}");
    }
    if !pattern.contains("\\E") {
        assert_eq!(matches(&format!("^\\Q{pattern}\\E"), &format!("{pattern}{tried}")), Some(true));
    }
}

/// `_find` and `_index`: the first line is a request, the second a document body, the third an index
/// definition. The key of a matching document is in the range that the plan scans.
pub fn finds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let mut value = || lines.next().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let (request, document, definition) = (value(), value(), value());
    let made = definition.as_ref().and_then(|definition| NewIndex::parse(definition).ok());
    let mut indexes: Vec<Index> = Vec::new();
    if let Some(new) = &made
        && let Ok(Some(design)) = new.add_to(None)
    {
        assert_eq!(new.add_to(Some(&design)), Ok(None), "it is there");
        indexes.extend(Index::of_design(&new.design, &design, false));
        let _ = planner::remove_from(&design, &new.name);
    }
    for (number, fields) in [json!(["a"]), json!(["a", "b"]), json!(["b.c", "a"])].into_iter().enumerate() {
        let index = Index::of_map(&format!("_design/{number}"), "i", &json!({ "fields": fields }), false);
        indexes.push(index.expect("an index"));
    }
    let Some(Ok(request)) = request.map(|request| FindRequest::parse(&request, None)) else { return };
    let _ = planner::explain("db", &indexes, false, &request);
    let Ok(plan) = planner::plan(&indexes, false, &request) else { return };
    let _ = planner::warnings(&plan, &request, 100, 1);
    let Some(Value::Object(members)) = document else { return };
    let mut document: Map<String, Value> = members.into_iter().filter(|(name, _)| !name.starts_with('_')).collect();
    document.insert("_id".into(), "id".into());
    document.insert("_rev".into(), "1-a".into());
    let document = Value::Object(document);
    if let Some(fields) = &request.fields {
        let shown = fields.project(&document.to_string());
        assert_eq!(fields.project(&shown), shown, "what is shown has all that is shown");
    }
    // Not covered: a sort omits documents without its fields; and ICU reorders some letters (Thai and Lao
    // vowels), so that the range of a `$beginsWith` on them misses matches, as in CouchDB.
    let special = !request.sort.fields.is_empty() || text.contains("beginsWith") || text.contains("\"_");
    if special || !request.selector.matches(&document) || is_empty_combination(&request) {
        return;
    }
    assert!(!plan.nothing, "it matches");
    if plan.index.is_all_docs() || plan.index.partial_filter.is_some() {
        return;
    }
    let key = plan.index.key_of(&document).expect("a document that matches is in the index");
    let (start, end) = (planner::start_key(&plan.ranges), planner::end_key(&plan.ranges));
    let compare = |bound: &[Value]| {
        let unequal =
            key.iter().zip(bound).map(|(one, other)| selector::compare(one, other)).find(|order| order.is_ne());
        unequal.unwrap_or(Ordering::Equal)
    };
    assert!(compare(&start).is_ge() && compare(&end).is_le(), "{key:?} lies from {start:?} to {end:?}");
}

/// Whether the whole selector is an empty `$or` or `$and`. Such a query returns nothing, as in CouchDB,
/// although the selector matches.
fn is_empty_combination(request: &FindRequest) -> bool {
    matches!(request.selector.root(), crate::query::mango::selector::condition::Node::And(nodes) | crate::query::mango::selector::condition::Node::Or(nodes) if nodes.is_empty())
}
