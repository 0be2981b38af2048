//! `settee config import`: converts CouchDB's settings (`local.ini`, as `config.erl` reads it) to a settings file
//! of settee, and lists the settings that settee does not have.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command answers on the standard output")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::config::{catalogue, settings};

/// Sections of CouchDB that settee has no use for, and why.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("cluster", "settee is a single node"),
    ("rexi", "settee is a single node"),
    ("fabric", "settee is a single node"),
    ("mem3", "settee is a single node"),
    ("smoosh", "compaction runs by itself"),
    ("ioq", "settee has no queue for its disk"),
    ("dreyfus", "there is no text search"),
    ("nouveau", "there is no text search"),
    ("query_servers", "design functions run in settee's own workers"),
    ("native_query_servers", "design functions run in settee's own workers"),
    ("view_compaction", "compaction runs by itself"),
    ("database_compaction", "compaction runs by itself"),
];

/// Keys of CouchDB that settee has under another name, or not at all, and why.
const KEYS: &[(&str, &str, &str)] = &[
    ("couchdb", "database_dir", "the data folder is set with `data`; docs/moving.md says how to move the data"),
    ("couchdb", "view_index_dir", "indexes are in the data folder"),
    ("couchdb", "uri_file", "the address is in the log"),
    ("log", "writer", "the log goes to the standard error"),
    ("log", "file", "the log goes to the standard error; audit events have a file of their own (audit_file)"),
];

/// The result of a conversion.
#[derive(Debug, PartialEq, Eq)]
struct Imported {
    toml: String,
    /// Settings that were not converted, and those that need a look.
    notes: Vec<String>,
    taken: usize,
}

/// `settee config import`: converts `file` into the new file `to`, or to the standard output.
pub fn import(file: &Path, to: Option<&Path>) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    if text.parse::<toml::Table>().is_ok() && !text.trim().is_empty() {
        return Err(format!("{} is TOML already: use it with --config", file.display()));
    }
    let Imported { toml, notes, taken } = convert(&text);
    match to {
        None => print!("{toml}"),
        Some(to) => {
            let wrong = |error: std::io::Error| format!("{} cannot be written: {error}", to.display());
            // It may hold passwords.
            let mut new = File::options().write(true).create_new(true).mode(0o600).open(to).map_err(wrong)?;
            new.write_all(toml.as_bytes()).and_then(|()| new.sync_all()).map_err(wrong)?;
        }
    }
    for note in &notes {
        eprintln!("note: {note}");
    }
    let place = to.map(|to| format!(" into {}; start with --config {}", to.display(), to.display()));
    eprintln!("{taken} settings taken over{}", place.unwrap_or_default());
    Ok(())
}

/// Whether a text that is not TOML looks like CouchDB's settings.
pub(super) fn is_ini(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end).filter(|line| !without_comment(line).is_empty());
    let is_section = |line: &str| line.starts_with('[') && line.ends_with(']');
    let goes_on = |line: &str| line.starts_with([' ', '\t']);
    lines.next().is_some_and(is_section) && lines.all(|line| is_section(line) || line.contains('=') || goes_on(line))
}

fn convert(text: &str) -> Imported {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut notes = Vec::new();
    let mut taken = 0;
    for (section, key, value) in entries(text) {
        match translate(&section, &key, &value) {
            Ok((section, key, value, note)) => {
                notes.extend(note);
                taken += 1;
                sections.entry(section).or_default().insert(key, value);
            }
            Err(why) => notes.push(format!("[{section}] {key} is not taken over: {why}")),
        }
    }
    let mut toml = String::from("# Converted from CouchDB's settings. docs/configuration.md lists every setting.\n");
    // Keys without a section come first in TOML.
    for (key, value) in sections.remove("settee").unwrap_or_default() {
        toml += &format!("{} = {}\n", quoted_key(&key), literal(&value));
    }
    for (section, keys) in sections {
        toml += &format!("\n[{}]\n", quoted_key(&section));
        for (key, value) in keys {
            toml += &format!("{} = {}\n", quoted_key(&key), literal(&value));
        }
    }
    Imported { toml, notes, taken }
}

/// Section, key and value of each line; a later one overrides an earlier one. A line that begins with a space goes on
/// with the value before it.
fn entries(text: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        let goes_on = line.starts_with([' ', '\t']);
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_owned();
        } else if let Some((_, _, value)) = found.last_mut().filter(|_| goes_on && !line.contains('=')) {
            *value = format!("{value} {line}");
        } else if let Some((key, value)) = line.split_once('=') {
            found.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// A comment begins with `;` at the start of the line, or after a space.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with([';', '#']) {
        return "";
    }
    let comment = line.find(" ;").or_else(|| line.find("\t;"));
    comment.map_or(line, |at| &line[..at])
}

/// Section, key and value in settee, and a note for the user.
type Translated = (String, String, String, Option<String>);

/// Finds the setting of settee with the same meaning, or says why there is none.
fn translate(section: &str, key: &str, value: &str) -> Result<Translated, String> {
    let taken = |section: &str, key: &str, value: &str, note| {
        settings::check(section, key, value).map(|()| (section.to_owned(), key.to_owned(), value.to_owned(), note))
    };
    if (section, key) == ("log", "level") {
        let level = match value {
            "debug" => "debug",
            "info" | "notice" => "info",
            "warn" | "warning" => "warn",
            "none" => "off",
            _ => "error",
        };
        return taken("settee", "log", level, None);
    }
    if let Some((_, _, why)) = KEYS.iter().find(|row| (row.0, row.1) == (section, key)) {
        return Err((*why).to_owned());
    }
    if let Some((_, why)) = WITHOUT_MEANING.iter().find(|row| row.0 == section) {
        return Err((*why).to_owned());
    }
    if catalogue::FREE.contains(&section) {
        let is_plain = section == "admins" && !value.starts_with("-pbkdf2") && !value.starts_with("-hashed-");
        let note = is_plain.then(|| format!("[admins] {key}: the file holds this password as text"));
        return taken(section, key, value, note);
    }
    let is_known = |row: &&catalogue::Known| {
        row.key == key && (row.section == section || catalogue::older_name(row.section) == Some(section))
    };
    match catalogue::KNOWN.iter().find(is_known) {
        Some(_) if matches!(section, "settee") => Err("CouchDB has no such section".to_owned()),
        Some(row) => taken(row.section, key, value, None),
        None => Err("settee has no such setting".to_owned()),
    }
}

fn quoted_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.to_owned() } else { string(key) }
}

/// A value in TOML: numbers and flags bare, anything else as a string.
fn literal(value: &str) -> String {
    let is_number = value.parse::<u32>().is_ok_and(|number| number.to_string() == value);
    if is_number || matches!(value, "true" | "false") { value.to_owned() } else { string(value) }
}

fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sources::read_text;
    use crate::config::Table;

    const LOCAL_INI: &str = "; CouchDB Configuration Settings\n\
        [couchdb]\n\
        uuid = 6f2c\n\
        max_document_size = 50000000 ; bytes\n\
        database_dir = /var/lib/couchdb\n\
        [chttpd]\n\
        port = 5984\n\
        bind_address = 0.0.0.0\n\
        require_valid_user = true\n\
        [httpd]\n\
        enable_cors = true\n\
        WWW-Authenticate = Basic realm=\"couch db\"\n\
        [couch_httpd_auth]\n\
        timeout = 3600\n\
        [cors]\n\
        origins = https://a.example,\n  https://b.example\n\
        [log]\n\
        level = notice\n\
        [cluster]\n\
        n = 3\n\
        [uuids]\n\
        max_count = lots\n\
        [replicator]\n\
        no_such = 1\n\
        [admins]\n\
        ann = -pbkdf2-00,00,10\n\
        Bob B = secret\n";

    #[test]
    fn a_couchdb_file_is_converted_and_the_rest_is_named() {
        let Imported { toml, notes, taken } = convert(LOCAL_INI);
        let mut table = Table::new();
        read_text(&toml, "it", &mut table).unwrap();
        let value = |section: &str, key: &str| table[section][key].as_str();
        for (section, key, wanted) in [
            ("couchdb", "uuid", "6f2c"),
            ("couchdb", "max_document_size", "50000000"),
            ("chttpd", "port", "5984"),
            ("chttpd", "bind_address", "0.0.0.0"),
            ("chttpd", "require_valid_user", "true"),
            ("chttpd", "enable_cors", "true"),
            ("chttpd", "WWW-Authenticate", "Basic realm=\"couch db\""),
            ("chttpd_auth", "timeout", "3600"),
            ("cors", "origins", "https://a.example, https://b.example"),
            ("settee", "log", "info"),
            ("admins", "ann", "-pbkdf2-00,00,10"),
            ("admins", "Bob B", "secret"),
        ] {
            assert_eq!(value(section, key), wanted, "{section}/{key}\n{toml}");
        }
        assert_eq!(taken, 12);
        for wanted in [
            "[couchdb] database_dir is not taken over: the data folder is set with `data`",
            "[cluster] n is not taken over: settee is a single node",
            "[uuids] max_count is not taken over: [uuids] max_count: `lots` is not a whole number",
            "[replicator] no_such is not taken over: settee has no such setting",
            "[admins] Bob B: the file holds this password as text",
        ] {
            assert!(notes.iter().any(|note| note.starts_with(wanted)), "{wanted}: {notes:#?}");
        }
        assert_eq!(notes.len(), 5, "{notes:#?}");
    }

    #[test]
    fn a_couchdb_file_is_told_from_broken_toml() {
        for (text, ini) in [
            (LOCAL_INI, true),
            ("[chttpd]\nport = 5984\n", true),
            ("bind = 0.0.0.0:5984\n", false),
            ("[cors\norigins = \"x\"\n", false),
            ("", false),
        ] {
            assert_eq!(is_ini(text), ini, "{text}");
        }
    }
}
