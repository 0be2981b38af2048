//! Tests that CI notices skipped tests, and that the list of allowed skips matches the sources.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod allowed_skips;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Collects the contents of all files with one of `extensions` below `folder`.
fn read_all(folder: &Path, extensions: &[&str], found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "node_modules") {
                read_all(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a readable file")));
        }
    }
}

fn sources(folders: &[&str], extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in folders {
        read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), extensions, &mut found);
    }
    found
}

/// The names of the functions below each `#[ignore` attribute.
fn ignored(text: &str) -> Vec<&str> {
    let mut lines = text.lines();
    let mut names = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[ignore") {
            let function = lines.by_ref().find_map(|line| line.split_once("fn ").map(|(_, rest)| rest));
            names.push(function.and_then(|rest| rest.split(['(', '<']).next()).unwrap_or("no function"));
        }
    }
    names
}

#[test]
fn every_ignored_test_is_on_the_list() {
    let allowed: Vec<&str> =
        allowed_skips::entries().filter(|(kind, ..)| *kind == "ignore").map(|(_, test, _)| test).collect();
    let sources = sources(&["src", "tests"], &["rs"]);
    let mut found = Vec::new();
    for (file, text) in &sources {
        for name in ignored(text) {
            assert!(allowed.contains(&name), "{file}: {name} is ignored, and tests/allowed-skips.txt does not name it");
            found.push(name);
        }
    }
    for name in allowed {
        assert!(found.contains(&name), "tests/allowed-skips.txt names {name}, which is not an ignored test");
    }
}

#[test]
fn every_entry_of_the_list_names_a_test() {
    let rust = sources(&["src", "tests"], &["rs"]);
    let node = sources(&["protocol-tests"], &["js"]);
    for (kind, test, reason) in allowed_skips::entries() {
        assert!(!reason.is_empty(), "{test} has no reason");
        let named = match kind {
            "skip" | "ignore" => {
                let function = format!("fn {}(", test.rsplit("::").next().unwrap_or(test));
                rust.iter().any(|(_, text)| text.contains(&function))
            }
            "node" => node.iter().any(|(_, text)| text.contains(&format!("'{test}'"))),
            _ => panic!("{kind} is not a kind of skip"),
        };
        assert!(named, "tests/allowed-skips.txt names {test}, which is not a test");
    }
}

#[test]
#[ignore = "the process of the next test"]
fn skips_itself() {
    allowed_skips::skip("as the next test expects");
}

fn run_with(ci: &str) -> Output {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["skips_itself", "--exact", "--ignored", "--nocapture"])
        .env("CI", ci)
        .output()
        .expect("this binary runs")
}

#[test]
fn a_skip_that_is_not_on_the_list_fails_in_ci() {
    for ci in ["true", "1"] {
        let output = run_with(ci);
        assert!(!output.status.success(), "CI={ci}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("CI does not allow skips::skips_itself to be skipped"), "{errors}");
    }
    for ci in ["", "0", "false"] {
        let output = run_with(ci);
        assert!(output.status.success(), "CI={ci}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("SKIPPED skips::skips_itself: as the next test expects"), "{text}");
    }
}
