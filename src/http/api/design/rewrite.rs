//! `_rewrite`: the rules or the function of a design document turn a request into another one.
//!
//! CouchDB: `chttpd_rewrite.erl`, `src/docs/src/api/ddoc/rewrites.rst`. The new request is routed and
//! authorized like any other, for the same user. `server` does this in a loop, so that a chain of rewrites
//! does not recurse.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::{functions, show_and_update};
use crate::app::App;
use crate::blocking::blocking;
use crate::db::Database;
use crate::error::Error;
use crate::http::request::body::RequestBody;
use crate::http::request::{Request, Target};
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};
use crate::query::design;
use crate::query::script::{Response, Rewrite};

/// Default of `[chttpd] rewrite_limit`, the maximum number of rewrites per request.
const LIMIT: u32 = 100;

/// The result of a rewrite.
pub enum Rewritten {
    /// The function returned a response.
    Answer(Answer),
    /// The request was changed and now has this target.
    Target(Target),
}

/// Handles `/{db}/_design/{design}/_rewrite/...`. `count` is the number of earlier rewrites of this request.
pub async fn rewrite(
    app: &Arc<App>,
    request: &mut Request,
    database: Arc<Database>,
    name: &str,
    count: u32,
) -> Result<Rewritten> {
    let limit = request.settings.get("chttpd", "rewrite_limit").and_then(|limit| limit.parse().ok());
    if count >= limit.unwrap_or(LIMIT) {
        return Err(Failure::bad_request("Exceeded rewrite recursion limit"));
    }
    let (of, id) = (database.clone(), format!("_design/{name}"));
    let design = blocking(move || design::load(&of, &id)).await?;
    #[derive(serde::Deserialize)]
    struct Members {
        rewrites: Option<Value>,
    }
    let members: Members = serde_json::from_str(&design.source)
        .map_err(|_| Error::Damaged(format!("the body of document {}", design.id)))?;
    let prefix = format!(
        "/{}/_design/{}",
        crate::http::api::document::incoming::encode(database.name()),
        crate::http::api::document::incoming::encode(name)
    );
    match members.rewrites {
        Some(Value::Array(rules)) => {
            let at = request.segments.iter().position(|part| part == "_rewrite").map_or(0, |at| at + 1);
            let rest: Vec<&str> = request.segments.iter().skip(at).map(String::as_str).collect();
            let query: Vec<(&str, &str)> = request.query.iter().collect();
            let secure = is_secure(request);
            let Some(path) = by_rules(&rules, functions::method(request), &rest, &query, secure)? else {
                return Err(Failure::missing());
            };
            to(request, None, &absolute(&prefix, &path)).map(Rewritten::Target)
        }
        Some(Value::String(_)) => {
            let body = show_and_update::body(request).await?;
            let asked = functions::asked_to_rewrite(app, request, &database, show_and_update::told(&body))?;
            match app.scripts.rewrite(&design, &asked.request, &asked.user).await? {
                Some(rewrite) => by_function(app, request, rewrite, &database, &prefix, body),
                None => Err(crate::http::response::error::invalid_path("rewrite_error")),
            }
        }
        _ => Err(crate::http::response::error::invalid_path("rewrite_error")),
    }
}

/// Whether rewrites stay in their database (`[chttpd] secure_rewrites`): else the admin of one database could make
/// users who follow a link to it send requests to any other database.
fn is_secure(request: &Request) -> bool {
    request.settings.get("chttpd", "secure_rewrites") != Some("false")
}

/// Whether a header identifies the client, its address or its page. A function must not set these.
fn is_the_clients(app: &App, name: &HeaderName) -> bool {
    let name = name.as_str();
    let proxy = &app.auth.settings().proxy;
    let proxied = [&proxy.user_header, &proxy.roles_header, &proxy.token_header];
    matches!(name, "authorization" | "cookie" | "host" | "origin" | "referer" | "forwarded")
        || name.starts_with("sec-")
        || name.starts_with("x-forwarded-")
        || proxied.iter().any(|header| header.eq_ignore_ascii_case(name))
}

/// Applies the result of a rewrite function. `body` is the request's own body, used if the function returned
/// none.
fn by_function(
    app: &App,
    request: &mut Request,
    rewrite: Rewrite,
    database: &Database,
    prefix: &str,
    body: Option<bytes::Bytes>,
) -> Result<Rewritten> {
    let has_own_body = rewrite.body.is_some();
    let body = rewrite.body.map(bytes::Bytes::from).or(body);
    if let Some(code) = rewrite.code {
        let body = body.map(Vec::from).unwrap_or_default();
        return Ok(Rewritten::Answer(show_and_update::answer(
            request,
            Response { code, headers: rewrite.headers, body, json: false },
        )));
    }
    let Some(path) = rewrite.path else {
        let reason = "Rewrite result must produce a new path.".into();
        return Err(Error::Script { word: "rewrite_error".into(), reason }.into());
    };
    let query = match rewrite.query {
        Some(query) => query,
        None => request.query.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let query = encoded(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    for (name, value) in &rewrite.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value))
            && !is_the_clients(app, &name)
        {
            Arc::make_mut(&mut request.headers).insert(name, value);
        }
    }
    let (path, own) = path.split_once('?').map_or((path.as_str(), None), |(path, own)| (path, Some(own)));
    let path = absolute(prefix, path);
    let query = [own.unwrap_or(""), &query].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    let method = request.verb;
    let target = to(request, rewrite.method.as_deref(), &target)?;
    let to_session = target.segments.first().is_some_and(|first| first == "_session");
    let leaves = target.segments.first().is_some_and(|first| first != database.name()) && is_secure(request);
    if leaves || to_session && (has_own_body || request.verb != method) {
        let (word, reason) = ("insecure_rewrite_rule".into(), "the rewrite function leaves its database".into());
        return Err(Error::Script { word, reason }.into());
    }
    // The body is decompressed by now.
    Arc::make_mut(&mut request.headers).remove(http::header::CONTENT_ENCODING);
    request.body = RequestBody::given(body.unwrap_or_default());
    Ok(Rewritten::Target(target))
}

/// Changes the request's method, path and query.
fn to(request: &mut Request, method: Option<&str>, target: &str) -> Result<Target> {
    let bad = |reason: String| Failure::from(Error::Script { word: "rewrite_error".into(), reason });
    let uri: Uri = target.parse().map_err(|_| bad(format!("bad path {target}")))?;
    let method = method.unwrap_or(if request.head { "HEAD" } else { functions::method(request) });
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad("bad method".into()))?;
    let read = Target::read(&method, &uri, &request.headers, &request.settings)?;
    request.verb = read.verb;
    request.head = request.head || read.head;
    request.segments = read.segments.clone();
    request.query = read.query.clone();
    request.target = target.to_owned();
    Ok(read)
}

/// Resolves `path` relative to `prefix`, including `.` and `..`.
fn absolute(prefix: &str, path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/').chain(path.split('/')).filter(|part| !part.is_empty()) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let path = format!("/{}", parts.join("/"));
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// Whether the value of this query parameter is JSON.
fn is_json(name: &str) -> bool {
    matches!(name, "key" | "startkey" | "start_key" | "endkey" | "end_key" | "keys")
}

/// Returns path and query according to the first rule that matches, relative to the design document; `None`
/// if no rule matches.
fn by_rules(
    rules: &[Value],
    method: &str,
    path: &[&str],
    query: &[(&str, &str)],
    secure: bool,
) -> Result<Option<String>> {
    let mut asked = Vec::with_capacity(query.len());
    for &(name, value) in query {
        let value = if is_json(name) {
            serde_json::from_str(value).map_err(|_| crate::http::request::invalid_json())?
        } else {
            Value::String(value.to_owned())
        };
        asked.push((name.to_owned(), value));
    }
    for rule in rules.iter().filter_map(Value::as_object) {
        let of = |name: &str| rule.get(name).and_then(Value::as_str);
        if !matches!(of("method"), None | Some("*")) && of("method") != Some(method) {
            continue;
        }
        let Some(target) = of("to") else {
            let (word, reason) = ("error".into(), "invalid_rewrite_target".into());
            return Err(Error::Script { word, reason }.into());
        };
        let target = steps(target, secure)?;
        let from = steps(of("from").unwrap_or("*"), secure)?;
        let Some((bound, rest)) = bind(&from, path) else { continue };
        let mut bindings: Vec<(String, Value)> =
            bound.into_iter().rev().map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))).collect();
        bindings.extend(asked);
        let formats = rule.get("formats").and_then(Value::as_object);
        let own = rule.get("query").and_then(Value::as_object).cloned().unwrap_or_default();
        let own: Map<String, Value> =
            own.into_iter().map(|(name, value)| (name, filled(value, &bindings, formats))).collect();
        bindings.retain(|(name, _)| !own.contains_key(name));
        bindings.extend(own);
        return Ok(Some(made(&target, &rest, &bindings)));
    }
    Ok(None)
}

/// A segment of a rule's path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Text(String),
    /// `:name`
    Bind(String),
    /// `*`
    Rest,
}

fn steps(path: &str, secure: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut up = 0;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        steps.push(match part {
            "*" => Step::Rest,
            ".." => {
                up += 1;
                if up > 2 && secure {
                    let reason = "too many ../.. segments".into();
                    return Err(Error::Script { word: "insecure_rewrite_rule".into(), reason }.into());
                }
                Step::Text(part.into())
            }
            part => match part.strip_prefix(':') {
                Some(name) => Step::Bind(name.into()),
                None => Step::Text(part.into()),
            },
        });
    }
    Ok(steps)
}

/// Matches a request's path against a rule's. Returns the values of the rule's variables and the segments
/// that `*` matches, or `None` if the path does not match.
#[allow(clippy::type_complexity, reason = "the parts are named where they are used")]
fn bind<'a>(from: &'a [Step], path: &[&'a str]) -> Option<(Vec<(&'a str, &'a str)>, Vec<String>)> {
    let mut bound = Vec::new();
    let mut path = path.iter();
    for (at, step) in from.iter().enumerate() {
        if *step == Step::Rest && at + 1 == from.len() {
            return Some((bound, path.map(|part| (*part).to_owned()).collect()));
        }
        let part = path.next()?;
        match step {
            Step::Bind(name) => bound.push((name.as_str(), *part)),
            Step::Text(text) if text == part => {}
            Step::Rest if *part == "*" => {}
            Step::Text(_) | Step::Rest => return None,
        }
    }
    path.next().is_none().then(|| (bound, Vec::new()))
}

/// Replaces the variables in a value of a rule's query by their values.
fn filled(value: Value, bindings: &[(String, Value)], formats: Option<&Map<String, Value>>) -> Value {
    let look = |name: &str, text: &str| {
        let found = bindings.iter().find(|(bound, _)| bound == name).map(|(_, value)| value.clone());
        formatted(formats.and_then(|formats| formats.get(name)), found.unwrap_or_else(|| text.into()))
    };
    match value {
        Value::String(text) => match text.strip_prefix(':') {
            Some(name) => look(name, &text),
            None if text == "*" => look("*", "*"),
            None => Value::String(text),
        },
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item.as_str().and_then(|text| text.strip_prefix(':').map(|name| (name, text))) {
                Some((name, text)) => look(name, text),
                None => item,
            })
            .collect(),
        other => other,
    }
}

fn formatted(format: Option<&Value>, value: Value) -> Value {
    match (format.and_then(Value::as_str), value.as_str()) {
        (Some("int"), Some(text)) => text.parse::<i64>().map_or(value, Value::from),
        (Some("bool"), Some(text)) if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        (Some("bool"), Some(text)) if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => value,
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => items.iter().filter_map(Value::as_str).collect(),
        other => other.to_string(),
    }
}

/// Builds the new path and query.
fn made(target: &[Step], rest: &[String], bindings: &[(String, Value)]) -> String {
    let mut parts = Vec::new();
    for step in target {
        match step {
            Step::Text(text) => parts.push(escaped(text)),
            Step::Bind(name) => {
                let value = bindings.iter().find(|(bound, _)| bound == name);
                parts.push(escaped(&value.map_or_else(|| "undefined".into(), |(_, value)| as_text(value))));
            }
            Step::Rest => {
                parts.extend(rest.iter().map(|part| escaped(part)));
                break;
            }
        }
    }
    let query: Vec<(&str, String)> = bindings
        .iter()
        .filter(|(name, _)| name != "*")
        .map(|(name, value)| (name.as_str(), if is_json(name) { value.to_string() } else { as_text(value) }))
        .collect();
    let query = encoded(query.iter().map(|(name, value)| (*name, value.as_str())));
    if query.is_empty() { parts.join("/") } else { format!("{}?{query}", parts.join("/")) }
}

fn encoded<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    pairs.map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let rules = serde_json::json!([
            {"from": "foo", "to": "foo.txt"},
            {"from": "hello/:id", "to": "_update/hello/:id", "method": "PUT"},
            {"from": "/welcome/:name", "to": "_show/welcome", "query": {"name": ":name"}},
            {"from": "view/:start/:end", "to": "_list/l/v", "query": {"startkey": ":start", "endkey": ":end"},
             "formats": {"start": "int", "end": "int"}},
            {"from": "complex/:a/:b", "to": "_view/v", "query": {"key": [":a", ":b"], "limit": 5}},
            {"from": "db/*", "to": "../../*"},
        ]);
        let rules = rules.as_array().unwrap();
        let go = |method: &str, path: &str, query: &[(&str, &str)]| {
            let path: Vec<&str> = path.split('/').collect();
            let found = by_rules(rules, method, &path, query, true).unwrap();
            found.map(|found| absolute("/db/_design/d", &found))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(go("GET", "foo", &[]), some("/db/_design/d/foo.txt"));
        assert_eq!(go("GET", "hello/x", &[]), None);
        assert_eq!(go("PUT", "hello/a b", &[]), some("/db/_design/d/_update/hello/a%20b?id=a%20b"));
        assert_eq!(go("GET", "welcome/u", &[("a", "1")]), some("/db/_design/d/_show/welcome?a=1&name=u"));
        assert_eq!(
            go("GET", "view/3/8", &[("startkey", "4")]),
            some("/db/_design/d/_list/l/v?end=8&start=3&startkey=3&endkey=8")
        );
        assert_eq!(
            go("GET", "complex/x/y", &[]),
            some("/db/_design/d/_view/v?b=y&a=x&key=%5B%22x%22%2C%22y%22%5D&limit=5")
        );
        assert_eq!(go("GET", "db/_all_docs/a%b", &[]), some("/db/_all_docs/a%25b"));
        let up = [serde_json::json!({"from": "away", "to": "../../../x"})];
        let away = by_rules(&up, "GET", &["away"], &[], true);
        assert!(matches!(away, Err(Failure::Domain(Error::Script { word, .. })) if word == "insecure_rewrite_rule"));
        assert_eq!(by_rules(&up, "GET", &["away"], &[], false), Ok(some("../../../x")));
        assert_eq!(go("GET", "none", &[]), None);
    }
}
