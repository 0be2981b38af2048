//! Checks the rules of `deny.toml`: licences, banned crates, duplicate versions and sources of dependencies.
//!
//! The rules are in the format of cargo-deny, which checks the same and known vulnerabilities. CI does not run
//! cargo-deny because it would compile its 173 crates first, and its list of vulnerabilities comes from the
//! network; this test needs only what cargo has already downloaded for the build.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn read_toml(name: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).expect("a readable file").parse().expect("valid TOML")
}

/// The list of tables or strings at `section.key` of `deny.toml`.
fn rules(section: &str, key: &str) -> Vec<toml::Value> {
    let rules = read_toml("deny.toml");
    rules[section].as_table().and_then(|section| section[key].as_array()).expect("a list").clone()
}

fn text<'a>(rule: &'a toml::Value, key: &str) -> &'a str {
    rule.get(key).and_then(toml::Value::as_str).unwrap_or_else(|| panic!("{rule:?} has no {key}"))
}

fn strings(list: &toml::Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// A crate that the build of this platform, or its tests, use.
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: a folder of this repository.
    source: Option<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().filter_map(|node| node["id"].as_str()).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id)))
        .map(|package| Package {
            name: text(&package["name"]).expect("a name"),
            version: text(&package["version"]).expect("a version"),
            license: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect()
}

/// Whether the licences in `allowed` satisfy an SPDX expression. `/`, which older crates write, means `OR`.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let satisfied = alternatives(&tokens, &mut at, allowed);
    assert_eq!(at, tokens.len(), "`{expression}` is not an SPDX expression");
    satisfied
}

/// Reads `a OR b OR ...`, each of which is `c AND d AND ...`.
fn alternatives(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut any = false;
    loop {
        let mut all = true;
        loop {
            // Not short-circuited: the tokens must be read in any case.
            all &= licence(tokens, at, allowed);
            if tokens.get(*at) != Some(&"AND") {
                break;
            }
            *at += 1;
        }
        any |= all;
        if tokens.get(*at) != Some(&"OR") {
            return any;
        }
        *at += 1;
    }
}

/// Reads one licence, with its exception if it has one, or an expression in parentheses.
fn licence(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let first = *tokens.get(*at).expect("a licence");
    *at += 1;
    if first == "(" {
        let satisfied = alternatives(tokens, at, allowed);
        assert_eq!(tokens.get(*at), Some(&")"));
        *at += 1;
        return satisfied;
    }
    if tokens.get(*at) == Some(&"WITH") {
        let whole = format!("{first} WITH {}", tokens.get(*at + 1).expect("an exception"));
        *at += 2;
        return allowed.contains(&whole);
    }
    allowed.iter().any(|allowed| allowed == first)
}

#[test]
fn licences_are_allowed() {
    let allowed = strings(&toml::Value::Array(rules("licenses", "allow")));
    let exceptions = rules("licenses", "exceptions");
    let mut refused = Vec::new();
    for package in packages() {
        let exception = exceptions.iter().find(|exception| text(exception, "crate") == package.name);
        let mut allowed = allowed.clone();
        allowed.extend(exception.map(|exception| strings(&exception["allow"])).unwrap_or_default());
        if !package.license.as_deref().is_some_and(|license| satisfied(license, &allowed)) {
            refused.push(format!("{} {}: {}", package.name, package.version, package.license.unwrap_or_default()));
        }
    }
    assert!(refused.is_empty(), "deny.toml does not allow these licences:\n{}", refused.join("\n"));
}

#[test]
fn no_crate_is_banned() {
    // The lock file names the crates of all platforms.
    let lock = read_toml("Cargo.lock");
    let locked = lock["package"].as_array().expect("packages");
    for rule in rules("bans", "deny") {
        let name = text(&rule, "crate");
        assert!(!text(&rule, "reason").is_empty(), "{name} has no reason");
        assert!(!locked.iter().any(|package| text(package, "name") == name), "{name} is banned: {:?}", rule["reason"]);
    }
}

#[test]
fn versions_are_duplicated_only_where_allowed() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().push(package.version);
    }
    let skipped = rules("bans", "skip");
    let mut needed = BTreeSet::new();
    let mut refused = Vec::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let mut is_skipped = |version: &String| {
            let rule = skipped.iter().map(|rule| text(rule, "crate")).find(|rule| {
                rule.split_once('@').is_some_and(|(skipped, prefix)| {
                    skipped == name && version.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
                })
            });
            needed.extend(rule);
            rule.is_some()
        };
        if versions.iter().filter(|version| !is_skipped(version)).count() > 1 {
            refused.push(format!("{name}: {}", versions.join(", ")));
        }
    }
    assert!(refused.is_empty(), "these crates are there in several versions:\n{}", refused.join("\n"));
    let unneeded: Vec<&str> =
        skipped.iter().map(|rule| text(rule, "crate")).filter(|rule| !needed.contains(rule)).collect();
    assert!(unneeded.is_empty(), "deny.toml need not skip these any more: {}", unneeded.join(", "));
}

#[test]
fn crates_come_from_crates_io() {
    for package in packages() {
        let source = package.source.unwrap_or_else(|| CRATES_IO.to_owned());
        assert_eq!(source, CRATES_IO, "{}", package.name);
    }
}

#[test]
fn licence_expressions_are_read() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND MIT", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND LGPL-2.1", false),
        ("MIT WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("GPL-3.0 AND ISC OR MIT", true),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}
