//! GET `/_node/{node}/_settings`: every setting with its documentation, default, value and source. Secrets are masked, and
//! server admins, which CouchDB has among the settings, are left out.

use serde_json::{Value, json};

use crate::app::App;
use crate::config::catalogue::{self, Known};
use crate::config::kind::Kind;
use crate::config::source::Sources;
use crate::http::api::server::config::MASK;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// Settings that can be changed over HTTP, but are read when the server starts.
const READ_AT_START: &[(&str, &str)] = &[("chttpd", "bind_address"), ("chttpd", "port"), ("couchdb", "single_node")];

/// Lists the known settings, and those that are set without being known.
pub fn list(app: &App, request: &Request) -> Result<Answer> {
    let settings = &request.settings;
    let sources = app.config.sources();
    let mut rows = Vec::with_capacity(catalogue::KNOWN.len());
    for known in catalogue::KNOWN {
        let value = settings.shown(known.section, known.key);
        rows.push(row(known, value.as_deref(), source(&sources, known.section, known.key)));
    }
    for (section, keys) in settings.table() {
        if section == "admins" {
            continue;
        }
        for (key, value) in keys.iter().filter(|(key, _)| !is_listed(section, key)) {
            let known = Known { section: "", key: "", kind: Kind::Text, default: None, secret: false, doc: "" };
            let mut row = row(&known, Some(value), source(&sources, section, key));
            row["section"] = section.as_str().into();
            row["key"] = key.as_str().into();
            row["changeable"] = (!catalogue::BLOCKED.contains(&section.as_str())).into();
            if catalogue::is_secret(section, key) {
                row["secret"] = true.into();
                row["value"] = MASK.into();
            }
            rows.push(row);
        }
    }
    Ok(Answer::ok(&json!({"settings": rows})))
}

/// Whether the key has a row of its own, by its name or by CouchDB's older one.
fn is_listed(section: &str, key: &str) -> bool {
    catalogue::KNOWN
        .iter()
        .any(|row| row.key == key && (row.section == section || catalogue::older_name(row.section) == Some(section)))
}

/// Where the value comes from, which may be set under the older name of the section.
fn source(sources: &Sources, section: &str, key: &str) -> &'static str {
    let of = |section: &str| sources.get(&(section.to_owned(), key.to_owned()));
    of(section).or_else(|| of(catalogue::older_name(section)?)).map_or("default", |source| source.word())
}

fn row(known: &Known, value: Option<&str>, source: &str) -> Value {
    let secret = known.secret || catalogue::is_secret(known.section, known.key);
    let changeable = !catalogue::BLOCKED.contains(&known.section);
    let when = match (changeable, READ_AT_START.contains(&(known.section, known.key))) {
        (false, _) => "start",
        (true, true) => "restart",
        (true, false) => "now",
    };
    let mut row = json!({
        "section": known.section,
        "key": known.key,
        "doc": known.doc,
        "default": known.default,
        "value": if secret { value.map(|_| MASK) } else { value },
        "source": if value.is_some() { source } else { "default" },
        "changeable": changeable,
        "when": when,
        "secret": secret,
    });
    let kind = match known.kind {
        Kind::Flag => "flag",
        Kind::Number { min, max } => {
            row["min"] = min.into();
            row["max"] = max.into();
            "number"
        }
        Kind::NumberOrInfinity => "number_or_infinity",
        Kind::Bytes => "bytes",
        Kind::Choice(words) => {
            row["choices"] = words.into();
            "choice"
        }
        Kind::Networks => "networks",
        Kind::Text => "text",
    };
    row["kind"] = kind.into();
    if let Some(unit) = unit(known) {
        row["unit"] = unit.into();
    }
    row
}

/// The unit of a number: the first word of its documentation, if that names one.
fn unit(known: &Known) -> Option<&'static str> {
    let first = known.doc.split(' ').next().unwrap_or("");
    match known.kind {
        Kind::Bytes => Some("bytes"),
        Kind::Number { .. } | Kind::NumberOrInfinity => {
            ["bytes", "seconds", "milliseconds"].into_iter().find(|unit| first.eq_ignore_ascii_case(unit))
        }
        Kind::Flag | Kind::Choice(_) | Kind::Networks | Kind::Text => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_a_form_needs() {
        let of =
            |section: &str, key: &str, value: Option<&str>| row(catalogue::known(section, key).unwrap(), value, "file");
        let row = of("rate_limits", "address_burst", Some("5"));
        assert_eq!(
            (&row["kind"], &row["min"], &row["when"], &row["source"]),
            (&json!("number"), &json!(1), &json!("now"), &json!("file"))
        );
        assert_eq!(of("chttpd_auth", "timeout", Some("1"))["unit"], "seconds");
        assert_eq!(of("couchdb", "max_document_size", Some("1"))["unit"], "bytes");
        assert_eq!(of("uuids", "algorithm", Some("random"))["choices"][1], "random");
        assert_eq!(of("chttpd", "port", Some("1"))["when"], "restart");
        let own = of("settee", "data", Some("x"));
        assert_eq!((&own["changeable"], &own["when"]), (&json!(false), &json!("start")));
        let secret = of("chttpd_auth", "secret", Some("hush"));
        assert_eq!((&secret["value"], &secret["secret"]), (&json!(MASK), &json!(true)));
        assert_eq!(of("chttpd_auth", "secret", None)["value"], Value::Null);
    }

    #[test]
    fn keys_that_are_read_at_the_start_are_known() {
        for (section, key) in READ_AT_START {
            assert!(catalogue::known(section, key).is_some(), "{section}/{key}");
        }
    }
}
