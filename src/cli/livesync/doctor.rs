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

use std::fmt;

use serde_json::Value;

use crate::cli::admin_api::AdminApi;
use crate::cli::other_server::shown;

/// The origins of Obsidian's own pages: on computers, on iOS, on Android.
const ORIGINS: [&str; 3] = ["app://obsidian.md", "capacitor://localhost", "http://localhost"];
/// What the plugin wants, in bytes.
const REQUEST_SIZE: f64 = 4_294_967_296.0;
const DOCUMENT_SIZE: f64 = 50_000_000.0;
const ENABLE_CORS: &str = "enable_cors";

/// A line of the check. Shown without its cure.
pub struct Finding {
    pub what: String,
    /// `None`: all is well.
    pub complaint: Option<Complaint>,
}

/// What the plugin complains of.
pub struct Complaint {
    pub reason: String,
    pub cure: Option<Cure>,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.complaint {
            None => write!(out, "ok     {}", self.what),
            Some(Complaint { reason, .. }) => write!(out, "WRONG  {}: {reason}", self.what),
        }
    }
}

impl Complaint {
    /// Whether it is of a setting without which the answers lack CORS headers.
    fn is_of_cors(&self) -> bool {
        self.cure.as_ref().is_some_and(|Cure { setting, .. }| setting.section == "cors" || setting.key == ENABLE_CORS)
    }
}

/// The setting that cures a complaint: the one that the plugin's button writes.
pub struct Cure {
    pub setting: Setting,
    /// Set before it, so that the cure does no harm elsewhere.
    pub first: Option<Setting>,
}

/// A setting with its value, as `chttpd/enable_cors = true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    section: &'static str,
    key: &'static str,
    value: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} = {}", self.section, self.key, self.value)
    }
}

impl Cure {
    fn of(section: &'static str, key: &'static str, value: impl Into<String>) -> Cure {
        Cure { setting: Setting { section, key, value: value.into() }, first: None }
    }

    /// Changes the settings. `done` gets each one that is changed.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn apply(&self, api: &AdminApi, mut done: impl FnMut(&Setting)) -> Result<(), String> {
        for setting in self.first.iter().chain([&self.setting]) {
            api.set(setting.section, setting.key, &setting.value)?;
            done(setting);
        }
        Ok(())
    }
}

/// Runs the check, prints each line, and applies the cures if `apply`. Returns false if something is left to complain
/// of.
///
/// # Errors
/// A sentence for the user.
pub fn run(api: &AdminApi, apply: bool) -> Result<bool, String> {
    println!("LiveSync's check of {}\n", api.server);
    let findings = examine(api)?;
    let mut has_changed = false;
    for finding in &findings {
        println!("{finding}");
        let Some(cure) = finding.complaint.as_ref().and_then(|complaint| complaint.cure.as_ref()) else { continue };
        if apply {
            let applied = cure.apply(api, |setting| {
                has_changed = true;
                println!("       set {setting}");
            });
            if let Err(why) = applied {
                println!("       not cured: {why}");
            }
        } else {
            println!("       cure: {}", cure.setting);
            if let Some(first) = &cure.first {
                println!("       and before it: {first}");
            }
        }
    }
    if !has_changed {
        println!("\n{}", conclusion(&findings, apply));
        return Ok(are_fine(&findings));
    }
    let findings = examine(api)?;
    println!("\nAfter these changes:\n");
    findings.iter().filter(|finding| finding.complaint.is_some()).for_each(|finding| println!("{finding}"));
    println!("{}", conclusion(&findings, apply));
    Ok(are_fine(&findings))
}

fn are_fine(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.complaint.is_none())
}

/// The last line of the check.
fn conclusion(findings: &[Finding], has_applied: bool) -> String {
    let complaints: Vec<&Complaint> = findings.iter().filter_map(|finding| finding.complaint.as_ref()).collect();
    let lines = match complaints.len() {
        0 => return "LiveSync has nothing to complain of.".into(),
        1 => "1 line is wrong".to_owned(),
        more => format!("{more} lines are wrong"),
    };
    match complaints.iter().any(|complaint| complaint.cure.is_some()) {
        false => format!("{lines}, and no setting of the server cures that."),
        true if has_applied => format!("{lines}."),
        true => format!("{lines}. The same command with --apply changes the settings that are named as cures."),
    }
}

/// Asks the server what the plugin asks, and judges as the plugin does.
///
/// # Errors
/// A sentence for the user.
pub fn examine(api: &AdminApi) -> Result<Vec<Finding>, String> {
    let config = api.settings()?;
    let mut findings = judge(&config);
    let is_explained = findings.iter().filter_map(|finding| finding.complaint.as_ref()).any(Complaint::is_of_cors);
    let mut wrong = Vec::new();
    for origin in ORIGINS {
        let reply = api.send("GET", "/_node/_local/_config", &[("Origin", origin)], None)?;
        let allowed = reply.header("access-control-allow-origin");
        let credentials = reply.header("access-control-allow-credentials");
        match (allowed == Some(origin), credentials == Some("true")) {
            (true, true) => {}
            (false, _) => {
                wrong.push(format!("to {origin}, the answer allows {}", allowed.map_or("no origin".into(), shown)))
            }
            (true, false) => wrong.push(format!("to {origin}, the answer allows no credentials")),
        }
    }
    let reason = match (is_explained, api.is_remote()) {
        (true, _) => "follows from the settings above, and is cured with them".to_owned(),
        (false, true) => format!("{}; does a proxy change the headers?", wrong.join("; ")),
        (false, false) => wrong.join("; "),
    };
    let complaint = (!wrong.is_empty()).then_some(Complaint { reason, cure: None });
    findings.push(Finding { what: format!("pages of {} may use the server", ORIGINS.join(", ")), complaint });
    Ok(findings)
}

/// Judges the settings.
fn judge(config: &Value) -> Vec<Finding> {
    let text = |section: &str, key: &str| config[section][key].as_str().unwrap_or_default().to_owned();
    let is_closed = text("chttpd", "require_valid_user") == "true";
    let mut cure = Cure::of("chttpd", "require_valid_user", "true");
    if text("chttpd", "require_valid_user_except_for_up") != "true" {
        // So that monitors and proxies, which have no account, still see whether the server is alive.
        cure.first = Some(Cure::of("chttpd", "require_valid_user_except_for_up", "true").setting);
    }
    let reason = value_of("chttpd", "require_valid_user", &text("chttpd", "require_valid_user"));
    let mut findings = vec![finding("requests without an account are refused", is_closed, reason, cure)];
    let asks = !text("httpd", "WWW-Authenticate").is_empty();
    findings.push(match (asks, is_closed) {
        // settee sends the header as soon as it refuses requests without an account.
        (false, false) => {
            let reason = "follows from the line above, and is cured with it".to_owned();
            Finding { what: ASKS.to_owned(), complaint: Some(Complaint { reason, cure: None }) }
        }
        _ => {
            let cure = Cure::of("httpd", "WWW-Authenticate", "Basic realm=\"couchdb\"");
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

/// The value of a setting, as the reason of a complaint.
fn value_of(section: &str, key: &str, value: &str) -> String {
    format!("{section}/{key} is {}", if value.is_empty() { "not set" } else { value })
}

fn judge_limits(text: &Text<'_>, findings: &mut Vec<Finding>) {
    for (what, section, key, least) in [
        ("requests may have 4 GiB", "chttpd", "max_http_request_size", REQUEST_SIZE),
        ("documents may have 50 MB", "couchdb", "max_document_size", DOCUMENT_SIZE),
    ] {
        let value = text(section, key);
        // As in JavaScript: a value that is not a number is not less than one.
        let good = value.parse::<f64>().map_or(!value.is_empty(), |number| number >= least);
        let cure = Cure::of(section, key, format!("{least:.0}"));
        findings.push(finding(what, good, value_of(section, key, &value), cure));
    }
}

fn judge_cors(text: &Text<'_>, findings: &mut Vec<Finding>) {
    for (what, section, key) in [
        ("pages of other origins may use the server (CORS)", "chttpd", ENABLE_CORS),
        ("pages may send passwords and cookies", "cors", "credentials"),
    ] {
        let value = text(section, key);
        let cure = Cure::of(section, key, "true");
        findings.push(finding(what, value == "true", value_of(section, key, &value), cure));
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
    let cure = Cure::of("cors", "origins", whole.join(","));
    findings.push(finding("the origins of Obsidian are allowed", good, value_of("cors", "origins", &origins), cure));
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
        wrong
            .map(|wrong| {
                wrong.cure.map_or("follows".into(), |cure| format!("{}={}", cure.setting.key, cure.setting.value))
            })
            .collect()
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
