//! The query of a request, with CouchDB's typed parameters.

use std::borrow::Cow;

use super::json_text::invalid_json;
use crate::error::Error;
use crate::http::response::error::{Failure, Result};

/// A query's parameters in their order, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=2`; `+` is a space, broken UTF-8 is replaced. As in CouchDB (`mochiweb_util:parse_qs`), `;`
    /// separates pairs as `&` does.
    pub fn parse(text: &str) -> Query {
        Query(text.split(';').flat_map(|part| form_urlencoded::parse(part.as_bytes())).map(owned).collect())
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Puts a pair in front, as partition requests do.
    pub fn put_first(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.insert(0, (name.to_owned(), value.to_owned()));
    }

    /// `true` or `false`, any case; `default` if absent (`couch_mrview_http:parse_boolean`).
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => Err(query_error(format!("Invalid boolean parameter: {}", quoted(value)))),
        }
    }

    /// A whole number (`couch_mrview_http:parse_int`).
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let wrong = |value: &str| query_error(format!("Invalid value for integer: {}", quoted(value)));
        self.get(name).map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }

    /// A whole number that is not negative (`couch_mrview_http:parse_pos_int`).
    pub fn natural(&self, name: &str) -> Result<Option<u64>> {
        let wrong = |value: &str| query_error(format!("Invalid value for positive integer: {}", quoted(value)));
        match self.integer(name)? {
            Some(number) => u64::try_from(number).map(Some).map_err(|_| wrong(self.get(name).unwrap_or(""))),
            None => Ok(None),
        }
    }

    /// A JSON value (`chttpd:qs_json_value`).
    pub fn json(&self, name: &str) -> Result<Option<serde_json::Value>> {
        self.get(name).map(|value| serde_json::from_str(value).map_err(|_| invalid_json())).transpose()
    }
}

fn owned((name, value): (Cow<'_, str>, Cow<'_, str>)) -> (String, String) {
    (name.into_owned(), value.into_owned())
}

/// 400 `query_parse_error`.
pub fn query_error(reason: impl Into<String>) -> Failure {
    Error::QueryParse(reason.into()).into()
}

/// Erlang's `~p` of a string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_separates_pairs() {
        let pairs = |text: &str| Query::parse(text).0;
        for (text, wanted) in [
            ("limit=1;skip=2", &[("limit", "1"), ("skip", "2")][..]),
            ("a=1;b=2&c=3;", &[("a", "1"), ("b", "2"), ("c", "3")]),
            ("key=%22a%3Bb%22", &[("key", "\"a;b\"")]),
            ("a;b", &[("a", ""), ("b", "")]),
            ("a=b;=&;", &[("a", "b"), ("", "")]),
        ] {
            let wanted: Vec<(String, String)> =
                wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(pairs(text), wanted, "{text}");
        }
    }

    #[test]
    fn typed_parameters() {
        let query = Query::parse("a=true&b=FALSE&c=maybe&n=12&m=-1&j=%5B1%5D&k=%5B&a=false");
        assert_eq!(query.flag("a", false), Ok(true));
        assert_eq!(query.flag("b", true), Ok(false));
        assert_eq!(query.flag("none", true), Ok(true));
        assert_eq!(query.flag("c", true), Err(query_error("Invalid boolean parameter: \"maybe\"")));
        assert_eq!(query.natural("n"), Ok(Some(12)));
        assert_eq!(query.natural("m"), Err(query_error("Invalid value for positive integer: \"-1\"")));
        assert_eq!(query.integer("c"), Err(query_error("Invalid value for integer: \"maybe\"")));
        assert_eq!(query.json("j"), Ok(Some(serde_json::json!([1]))));
        assert_eq!(query.json("k"), Err(invalid_json()));
    }
}
