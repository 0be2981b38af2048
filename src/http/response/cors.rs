//! CORS as CouchDB implements it (`chttpd_cors.erl`). The settings may change while the server runs.
//! `http::routing::cross_site` has the checks against cross-site request forgery.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::answer::Answer;
use crate::config::settings::Cors;
use crate::net::header_text::header_text;

const HEADERS: &[&str] = &[
    "accept",
    "accept-language",
    "authorization",
    "content-length",
    "content-range",
    "content-type",
    "destination",
    "expires",
    "if-match",
    "last-modified",
    "origin",
    "pragma",
    "x-couch-full-commit",
    "x-couch-id",
    "x-couch-persist",
    "x-couchdb-www-authenticate",
    "x-http-method-override",
    "x-requested-with",
    "x-couchdb-vhost-path",
];
const METHODS: &[&str] = &["CONNECT", "COPY", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE"];
const SIMPLE: &[&str] = &["cache-control", "content-language", "content-type", "expires", "last-modified", "pragma"];
const EXPOSED: &[&str] =
    &["accept-ranges", "etag", "server", "x-couch-request-id", "x-couch-update-newrev", "x-couchdb-body-time"];

fn allows(cors: &Cors, origin: &str) -> bool {
    let is_with_port = |allowed: &str| {
        is_local(allowed) && origin.strip_prefix(allowed).and_then(|rest| rest.strip_prefix(':')).is_some_and(is_port)
    };
    cors.enabled
        && cors.origins.iter().any(|allowed| allowed == "*" || allowed == origin || is_with_port(allowed.as_str()))
}

/// Whether an origin without a port is one of the browser's own machine. Such an origin is allowed with any port:
/// the ports of development servers differ, and all of them belong to the same machine. Every other origin is
/// compared literally, as in CouchDB.
fn is_local(origin: &str) -> bool {
    let is_local = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "[::1]") || host.ends_with(".localhost");
    origin.split_once("://").is_some_and(|(_, host)| is_local(host))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a page of another site sent this request and its origin is not allowed to send cookies here.
/// Browsers report this in `Sec-Fetch-Site` (Fetch Metadata); a client without that header is an old browser
/// or no browser, and counts as not foreign.
pub fn is_foreign(cors: &Cors, headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
        && !origin_of(headers).is_some_and(|origin| cors.credentials && allows(cors, &origin.to_ascii_lowercase()))
}

/// Whether a page of another origin sent this sign-in or sign-out request without permission. `preflighted`:
/// a page can send such a request only after a successful [`preflight`], so an allowed origin is enough, even
/// one that may not send cookies. A request that needs no preflight, such as a form, is also checked for
/// browsers without `Sec-Fetch-Site`: they send the `Origin` of each form, which must be this server as the
/// client sees it (`Host` or `X-Forwarded-Host`; a form cannot set the latter).
pub fn is_from_elsewhere(cors: &Cors, headers: &HeaderMap, preflighted: bool) -> bool {
    let origin = origin_of(headers);
    let elsewhere = match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(b"same-origin" | b"none") => false,
        Some(_) => true,
        None => {
            let hosts = [headers.get(header::HOST), headers.get("x-forwarded-host")];
            let is_here = |from: &str| {
                let hosts = hosts.into_iter().flatten().filter_map(header_text);
                hosts.flat_map(|host| host.split(',')).any(|host| host.trim().eq_ignore_ascii_case(from))
            };
            let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| is_here(from));
            !preflighted && origin.is_some_and(|origin| !is_own(origin))
        }
    };
    let allowed =
        || (cors.credentials || preflighted) && origin.is_some_and(|origin| allows(cors, &origin.to_ascii_lowercase()));
    elsewhere && !allowed()
}

fn origin_of(headers: &HeaderMap) -> Option<&str> {
    header_text(headers.get(header::ORIGIN)?)
}

fn grant(cors: &Cors, origin: &str) -> Vec<(HeaderName, String)> {
    let mut granted = vec![(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.to_owned())];
    if cors.credentials && origin != "*" {
        granted.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true".to_owned()));
    }
    granted
}

/// The outcome of a preflight request.
pub enum Preflight {
    /// The response to it.
    Granted(Box<Answer>),
    /// The request goes on to its route, as in CouchDB; the reason is for the log.
    Refused { origin: String, reason: String },
}

/// Answers a preflight request; `None` if the request is not a preflight.
pub fn preflight(cors: &Cors, headers: &HeaderMap) -> Option<Preflight> {
    let origin = origin_of(headers)?;
    let method = header_text(headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?)?;
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(header_text).unwrap_or("");
    Some(match check_preflight(cors, origin, method, asked) {
        Ok(methods) => Preflight::Granted(Box::new(granted(cors, origin, &methods, asked))),
        Err(reason) => Preflight::Refused { origin: origin.to_owned(), reason },
    })
}

/// Returns the allowed methods, or why the request is not allowed.
fn check_preflight<'a>(cors: &'a Cors, origin: &str, method: &str, asked: &str) -> Result<Vec<&'a str>, String> {
    if !cors.enabled {
        return Err("chttpd/enable_cors is false".into());
    }
    if !allows(cors, origin) {
        return Err("its origin is not in cors/origins".into());
    }
    let methods: Vec<&str> = match &cors.methods {
        Some(methods) => methods.iter().map(String::as_str).collect(),
        None => METHODS.to_vec(),
    };
    if !methods.contains(&method) {
        return Err(format!("the method {method:.20?} is not in cors/methods"));
    }
    let is_allowed = |name: &str| match &cors.headers {
        // CouchDB knows no `*` here; its users expect it because `origins` has one.
        Some(allowed) => allowed.iter().any(|one| one == name || one == "*"),
        None => HEADERS.contains(&name),
    };
    let mut all = asked.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
    match all.find(|name| !is_allowed(name)) {
        Some(name) => Err(format!("the request header {name:.50?} is not in cors/headers")),
        None => Ok(methods),
    }
}

fn granted(cors: &Cors, origin: &str, methods: &[&str], asked: &str) -> Answer {
    let mut answer = Answer::bytes(StatusCode::NO_CONTENT, "");
    for (name, value) in grant(cors, origin) {
        answer = answer.with_text(name, &value);
    }
    answer
        .with_text(header::ACCESS_CONTROL_MAX_AGE, &cors.max_age.to_string())
        .with_text(header::ACCESS_CONTROL_ALLOW_METHODS, &methods.join(", "))
        .with_text(header::ACCESS_CONTROL_ALLOW_HEADERS, asked)
        .with(header::VARY, HeaderValue::from_static("Origin"))
}

/// Adds the headers that let the page read the response, if its origin is allowed.
pub fn decorate(cors: &Cors, request: &HeaderMap, answer: &mut HeaderMap) {
    let Some(origin) = origin_of(request) else { return };
    // CouchDB compares the lower-cased origin here, but the literal one in a preflight; browsers send lower
    // case.
    let origin = origin.to_ascii_lowercase();
    if !allows(cors, &origin) {
        return;
    }
    let mut exposed: Vec<&str> = SIMPLE.iter().copied().filter(|name| answer.contains_key(*name)).collect();
    let simple_type = answer.get(header::CONTENT_TYPE).and_then(header_text).is_some_and(|value| {
        ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"].contains(&value)
    });
    if !simple_type && !exposed.contains(&"content-type") {
        exposed.insert(0, "content-type");
    }
    match &cors.exposed_headers {
        Some(more) => exposed.extend(more.iter().map(String::as_str)),
        None => exposed.extend(EXPOSED),
    }
    let exposed = HeaderValue::from_str(&exposed.join(", "));
    for (name, value) in grant(cors, &origin) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer.insert(name, value);
        }
    }
    if let Ok(exposed) = exposed {
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    // The answer to a preflight has it already.
    if !answer.get_all(header::VARY).iter().any(|value| value == "Origin") {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Table};

    fn cors(rows: &[(&str, &str)]) -> Cors {
        let mut table = Table::new();
        for (key, value) in rows {
            table.entry("cors".into()).or_default().insert((*key).into(), (*value).into());
        }
        Settings::new(table).unwrap().cors
    }

    fn ask(rows: &[(&'static str, &str)]) -> HeaderMap {
        rows.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn default_origins_are_local_pages_with_any_port() {
        for (origin, allowed) in [
            ("http://localhost", true),
            ("http://localhost:8100", true),
            ("http://127.0.0.1:3000", true),
            ("capacitor://localhost", true),
            ("ionic://localhost", true),
            ("tauri://localhost", true),
            ("http://tauri.localhost", true),
            ("https://tauri.localhost", true),
            ("https://tauri.localhost.evil.com", false),
            ("app://obsidian.md", true),
            ("http://localhost.evil.com", false),
            ("http://localhost:80.evil.com", false),
            ("http://localhost:", false),
            ("https://example.com", false),
            ("null", false),
        ] {
            let mut answer = HeaderMap::new();
            decorate(&cors(&[]), &ask(&[("origin", origin)]), &mut answer);
            assert_eq!(text(&answer, "access-control-allow-origin"), allowed.then_some(origin), "{origin}");
            assert_eq!(text(&answer, "access-control-allow-credentials"), allowed.then_some("true"), "{origin}");
        }
    }

    #[test]
    fn configured_origins_match_literally_and_credentials_are_opt_in() {
        let configured = cors(&[("origins", "https://a.example, https://b.example")]);
        let mut answer = HeaderMap::new();
        decorate(&configured, &ask(&[("origin", "https://b.example")]), &mut answer);
        assert_eq!(text(&answer, "access-control-allow-origin"), Some("https://b.example"));
        assert_eq!(text(&answer, "access-control-allow-credentials"), None);
        let mut answer = HeaderMap::new();
        decorate(&configured, &ask(&[("origin", "https://b.example:8080")]), &mut answer);
        assert!(answer.is_empty());
        let mut answer = HeaderMap::new();
        let open = cors(&[("origins", "*"), ("credentials", "true")]);
        decorate(&open, &ask(&[("origin", "https://any.example")]), &mut answer);
        assert_eq!(text(&answer, "access-control-allow-origin"), Some("https://any.example"));
    }

    #[test]
    fn an_answer_names_the_origin_in_vary_once() {
        for (before, after) in
            [(vec![], vec!["Origin"]), (vec!["Origin"], vec!["Origin"]), (vec!["Accept"], vec!["Accept", "Origin"])]
        {
            let mut answer = HeaderMap::new();
            for value in before {
                answer.append(header::VARY, HeaderValue::from_static(value));
            }
            decorate(&cors(&[]), &ask(&[("origin", "http://localhost")]), &mut answer);
            assert_eq!(answer.get_all(header::VARY).iter().collect::<Vec<_>>(), after);
        }
    }

    #[test]
    fn configured_origins_of_this_machine_match_with_any_port() {
        // What the set-up of Obsidian LiveSync writes.
        let configured = cors(&[("origins", "app://obsidian.md,capacitor://localhost,http://localhost")]);
        for (origin, allowed) in [
            ("app://obsidian.md", true),
            ("http://localhost", true),
            ("http://localhost:5173", true),
            ("capacitor://localhost:1", true),
            ("https://localhost:5173", false),
            ("app://obsidian.md:1", false),
            ("http://localhost.evil.com", false),
            ("http://localhost:5173.evil.com", false),
        ] {
            assert_eq!(allows(&configured, origin), allowed, "{origin}");
        }
        let one_port = cors(&[("origins", "http://localhost:5173")]);
        assert!(allows(&one_port, "http://localhost:5173") && !allows(&one_port, "http://localhost:5174"));
    }

    #[test]
    fn pages_of_other_sites_are_foreign_unless_allowed() {
        let configured = cors(&[("origins", "https://a.example"), ("credentials", "true")]);
        let open = cors(&[("origins", "*")]);
        let anybody = ask(&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]);
        assert!(is_foreign(&open, &anybody), "an allowed origin without credentials may not send cookies");
        for (headers, foreign) in [
            (&[][..], false),
            (&[("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://here.example")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://a.example")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], true),
            (&[("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(is_foreign(&configured, &ask(headers)), foreign, "{headers:?}");
        }
    }

    #[test]
    fn sign_in_forms_are_accepted_only_from_own_and_allowed_origins() {
        let configured = cors(&[("origins", "https://a.example"), ("credentials", "true")]);
        let bare = cors(&[("origins", "https://a.example")]);
        let here = ("host", "here.example");
        for (headers, form, json) in [
            (&[here][..], false, false),
            (&[here, ("origin", "https://here.example")], false, false),
            (&[here, ("origin", "https://HERE.example"), ("sec-fetch-site", "same-origin")], false, false),
            (&[here, ("sec-fetch-site", "none")], false, false),
            (&[here, ("origin", "null"), ("sec-fetch-site", "same-origin")], false, false),
            (&[here, ("origin", "https://here.example:444")], true, false),
            (&[here, ("origin", "https://evil.example")], true, false),
            (&[here, ("origin", "null")], true, false),
            (&[here, ("origin", "https://out.example"), ("x-forwarded-host", "out.example")], false, false),
            (&[here, ("sec-fetch-site", "cross-site")], true, true),
            (&[here, ("origin", "https://x.here.example"), ("sec-fetch-site", "same-site")], true, true),
            (&[here, ("origin", "https://a.example"), ("sec-fetch-site", "cross-site")], true, false),
        ] {
            assert_eq!(is_from_elsewhere(&bare, &ask(headers), false), form, "{headers:?}, a form");
            assert_eq!(is_from_elsewhere(&bare, &ask(headers), true), json, "{headers:?}, JSON");
        }
        let allowed = ask(&[here, ("origin", "https://a.example"), ("sec-fetch-site", "cross-site")]);
        assert!(!is_from_elsewhere(&configured, &allowed, false), "an origin that may send cookies");
    }

    #[test]
    fn a_star_allows_all_request_headers() {
        let asked = [
            ("origin", "http://localhost"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "X-Strange, Traceparent"),
        ];
        let answer = |headers: &str| match preflight(&cors(&[("headers", headers)]), &ask(&asked)) {
            Some(Preflight::Granted(answer)) => Some(answer),
            Some(Preflight::Refused { .. }) | None => None,
        };
        let granted = answer("*").expect("allowed");
        assert_eq!(text(&granted.headers, "access-control-allow-headers"), Some("X-Strange, Traceparent"));
        assert!(answer("accept, x-strange").is_none());
    }

    #[test]
    fn preflight_checks_method_and_headers() {
        let asks = |origin: &str, method: &str, headers: &str| {
            ask(&[
                ("origin", origin),
                ("access-control-request-method", method),
                ("access-control-request-headers", headers),
            ])
        };
        for (origin, method, headers, refused) in [
            ("http://localhost:1", "PUT", "Content-Type, Authorization", None),
            ("http://localhost:1", "PUT", "", None),
            ("http://localhost:1", "PATCH", "", Some("the method \"PATCH\" is not in cors/methods")),
            ("http://localhost:1", "PUT", "X-Strange", Some("the request header \"x-strange\" is not in cors/headers")),
            ("http://elsewhere", "PUT", "", Some("its origin is not in cors/origins")),
        ] {
            let answer = match preflight(&cors(&[]), &asks(origin, method, headers)).expect("a preflight") {
                Preflight::Granted(answer) => Ok(*answer),
                Preflight::Refused { reason, .. } => Err(reason),
            };
            assert_eq!(answer.as_ref().err().map(String::as_str), refused, "{origin} {method} {headers}");
            if let Ok(answer) = answer {
                assert_eq!(answer.status, StatusCode::NO_CONTENT);
                assert_eq!(text(&answer.headers, "access-control-allow-headers"), Some(headers));
                assert_eq!(text(&answer.headers, "access-control-max-age"), Some("600"));
                assert!(text(&answer.headers, "access-control-allow-methods").unwrap().contains("COPY, DELETE"));
            }
        }
        assert!(preflight(&cors(&[]), &ask(&[("origin", "http://localhost")])).is_none());
    }
}
