//! `settee livesync --doctor`: what LiveSync's own check of a server reads, how it judges, and the cures.
//!
//! The plugin ("Check server requirements"; `utilCheckCouchDB.ts` in vrtmrz/obsidian-livesync) sends, with the name and
//! password from its settings:
//!
//! ```text
//! GET /_node/_local/_config                    the settings: each line below, as text
//! GET /_node/_local/_config  Origin: ORIGIN    for each of three origins: the CORS headers of the answer
//! PUT /_node/_local/_config/SECTION/KEY        the button "Fix"
//! ```
//! That needs an admin: with a member's password, which is what a device should have, the plugin says that access is
//! forbidden, and nothing else.

#![allow(clippy::print_stdout, reason = "a command answers on the standard output")]

use serde_json::Value;

use crate::cli::admin_api::AdminApi;

/// The origins of Obsidian's own pages: on computers, on iOS, on Android.
const ORIGINS: [&str; 3] = ["app://obsidian.md", "capacitor://localhost", "http://localhost"];
/// What the plugin wants, in bytes.
const REQUEST_SIZE: f64 = 4_294_967_296.0;
const DOCUMENT_SIZE: f64 = 50_000_000.0;

/// A line of the check.
pub struct Finding {
    pub what: String,
    /// `None`: all is well.
    pub complaint: Option<Complaint>,
}

/// What the plugin complains of.
pub struct Complaint {
    pub reason: String,
    /// Section, key and value of the setting that cures it.
    pub cure: Option<Cure>,
}

/// A setting to change.
pub struct Cure {
    pub section: &'static str,
    pub key: &'static str,
    pub value: String,
}

/// Runs the check, prints each line, and applies the cures if `apply`. Returns false if something is left to complain
/// of.
///
/// # Errors
/// A sentence for the user.
pub fn run(api: &AdminApi, apply: bool) -> Result<bool, String> {
    println!("LiveSync's check of {}\n", api.server);
    let findings = examine(api)?;
    let mut cured = false;
    for Finding { what, complaint } in &findings {
        let Some(Complaint { reason, cure }) = complaint else {
            println!("ok     {what}");
            continue;
        };
        println!("WRONG  {what}: {reason}");
        if let Some(Cure { section, key, value }) = cure {
            if apply {
                api.set(section, key, value)?;
                cured = true;
            }
            println!("       {}: {section}/{key} = {value}", if apply { "cured" } else { "cure" });
        }
    }
    let findings = if cured { examine(api)? } else { findings };
    let left = findings.iter().filter(|finding| finding.complaint.is_some()).count();
    match left {
        0 => println!("\nLiveSync has nothing to complain of."),
        1 => println!("\n1 line is wrong{}", if apply { "." } else { "; --apply changes the settings." }),
        _ => println!("\n{left} lines are wrong{}", if apply { "." } else { "; --apply changes the settings." }),
    }
    Ok(left == 0)
}

/// Asks the server what the plugin asks, and judges as the plugin does.
///
/// # Errors
/// A sentence for the user.
pub fn examine(api: &AdminApi) -> Result<Vec<Finding>, String> {
    let config = api.settings()?;
    let mut findings = judge(&config);
    for origin in ORIGINS {
        let reply = api.send("GET", "/_node/_local/_config", &[("Origin", origin)], None)?;
        let allowed = reply.header("access-control-allow-origin").unwrap_or("none");
        let credentials = reply.header("access-control-allow-credentials");
        let complaint = match (allowed == origin, credentials == Some("true")) {
            (true, true) => None,
            (false, _) => Some(format!("the answer allows the origin {allowed}; is a proxy changing the headers?")),
            (true, false) => Some("the answer does not allow credentials; is a proxy changing the headers?".to_owned()),
        };
        let what = format!("pages of {origin} may use the server");
        findings.push(Finding { what, complaint: complaint.map(|reason| Complaint { reason, cure: None }) });
    }
    Ok(findings)
}

/// Judges the settings.
fn judge(config: &Value) -> Vec<Finding> {
    let text = |section: &str, key: &str| config[section][key].as_str().unwrap_or_default().to_owned();
    let is_closed = text("chttpd", "require_valid_user") == "true";
    let cure = Cure { section: "chttpd", key: "require_valid_user", value: "true".into() };
    let reason = "chttpd/require_valid_user is not true".to_owned();
    let mut findings = vec![finding("requests without an account are refused", is_closed, reason, cure)];
    let asks = !text("httpd", "WWW-Authenticate").is_empty();
    findings.push(match (asks, is_closed) {
        // settee sends the header as soon as it refuses requests without an account.
        (false, false) => {
            let reason = "follows from the line above, and is cured with it".to_owned();
            Finding { what: ASKS.to_owned(), complaint: Some(Complaint { reason, cure: None }) }
        }
        _ => {
            let value = "Basic realm=\"couchdb\"".to_owned();
            let cure = Cure { section: "httpd", key: "WWW-Authenticate", value };
            finding(ASKS, asks, "httpd/WWW-Authenticate is empty".into(), cure)
        }
    });
    judge_limits(&text, &mut findings);
    judge_cors(&text, &mut findings);
    findings
}

const ASKS: &str = "a refusal asks for a password";

type Text<'a> = dyn Fn(&str, &str) -> String + 'a;

fn finding(what: &str, good: bool, reason: String, cure: Cure) -> Finding {
    Finding { what: what.to_owned(), complaint: (!good).then_some(Complaint { reason, cure: Some(cure) }) }
}

fn judge_limits(text: &Text<'_>, findings: &mut Vec<Finding>) {
    for (what, section, key, least) in [
        ("requests may have 4 GiB", "chttpd", "max_http_request_size", REQUEST_SIZE),
        ("documents may have 50 MB", "couchdb", "max_document_size", DOCUMENT_SIZE),
    ] {
        let value = text(section, key);
        // As in JavaScript: a value that is not a number is not less than one.
        let good = value.parse::<f64>().map_or(!value.is_empty(), |number| number >= least);
        let cure = Cure { section, key, value: format!("{least:.0}") };
        findings.push(finding(what, good, format!("{section}/{key} is {value}"), cure));
    }
}

fn judge_cors(text: &Text<'_>, findings: &mut Vec<Finding>) {
    for (what, section, key) in [
        ("pages of other origins may use the server (CORS)", "chttpd", "enable_cors"),
        ("pages may send passwords and cookies", "cors", "credentials"),
    ] {
        let good = text(section, key) == "true";
        let cure = Cure { section, key, value: "true".into() };
        findings.push(finding(what, good, format!("{section}/{key} is not true"), cure));
    }
    let origins = text("cors", "origins");
    // The plugin does not trim the items.
    let list: Vec<&str> = origins.split(',').collect();
    let good = origins == "*" || ORIGINS.iter().all(|origin| list.contains(origin));
    let mut whole: Vec<&str> = list.iter().map(|item| item.trim()).filter(|item| !item.is_empty()).collect();
    for origin in ORIGINS {
        if !whole.contains(&origin) {
            whole.push(origin);
        }
    }
    let cure = Cure { section: "cors", key: "origins", value: whole.join(",") };
    let reason = format!("cors/origins is {origins}");
    findings.push(finding("the origins of Obsidian are allowed", good, reason, cure));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Table};

    /// The complaints about a server with these settings, by the keys of their cures.
    fn complaints(rows: &[(&str, &str, &str)]) -> Vec<String> {
        let mut table = Table::new();
        for (section, key, value) in rows {
            table.entry((*section).into()).or_default().insert((*key).into(), (*value).into());
        }
        let config = serde_json::to_value(Settings::new(table).unwrap().whole()).unwrap();
        let wrong = judge(&config).into_iter().filter_map(|finding| finding.complaint);
        wrong.map(|wrong| wrong.cure.map_or("follows".into(), |cure| format!("{}={}", cure.key, cure.value))).collect()
    }

    #[test]
    fn of_a_new_server_only_that_it_answers_without_an_account_is_wrong() {
        assert_eq!(complaints(&[]), ["require_valid_user=true", "follows"]);
        assert_eq!(complaints(&[("chttpd", "require_valid_user", "true")]), [""; 0]);
    }

    #[test]
    fn each_line_is_judged_as_the_plugin_judges_it() {
        let closed = ("chttpd", "require_valid_user", "true");
        let all = "app://obsidian.md,capacitor://localhost,http://localhost";
        for (row, wrong) in [
            (("couchdb", "max_document_size", "8000000"), &["max_document_size=50000000"][..]),
            (("couchdb", "max_document_size", "64 MB"), &[]),
            (("chttpd", "max_http_request_size", "infinity"), &[]),
            (("chttpd", "max_http_request_size", "1000"), &["max_http_request_size=4294967296"]),
            (("chttpd", "enable_cors", "false"), &["enable_cors=true"]),
            (("cors", "credentials", "false"), &["credentials=true"]),
            (("cors", "origins", all), &["credentials=true"]),
            (
                ("cors", "origins", "https://a.example"),
                &["credentials=true", &format!("origins=https://a.example,{all}")],
            ),
            (("cors", "origins", "*"), &["credentials=true"]),
        ] {
            assert_eq!(complaints(&[closed, row]), wrong, "{row:?}");
        }
        assert_eq!(complaints(&[closed, ("cors", "origins", all), ("cors", "credentials", "true")]), [""; 0]);
    }
}
