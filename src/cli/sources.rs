//! Reads the settings that the server starts with: a TOML file, the environment, flags.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::ini;
use super::serve_flags::Serve;
use crate::audit::trail::Place;
use crate::config::settings::{Settings, Table};
use crate::config::source::{self, Source};
use crate::config::tls::tls_of;
use crate::config::{catalogue, encryption};
use crate::store::Key;
use crate::store::postgres::Address;

/// Everything that the server needs in order to start.
#[derive(Clone)]
pub struct Start {
    /// The data folder.
    pub data: PathBuf,
    /// `None`: the persisted `chttpd/bind_address` and `chttpd/port`, or else the default.
    pub bind: Option<SocketAddr>,
    /// `None`: the engine of the existing data folder, or else the default.
    pub store: Option<String>,
    /// The database server, if the store is one; `store` is then `postgres`.
    pub postgres: Option<Address>,
    /// Where the indexes of this node are, if several share the store.
    pub scratch: PathBuf,
    /// The key of encryption at rest.
    pub key: Option<Key>,
    /// The log level or tracing filter.
    pub log: String,
    /// The log format: `auto`, `pretty` or `json`.
    pub log_format: String,
    /// The file for audit events.
    pub audit: Option<Place>,
    /// Settings from the file, the environment and flags, without the section `admins`.
    pub base: Table,
    /// Where each of them comes from.
    pub sources: source::Sources,
    /// Admins from the file, the environment and flags: (name, password or CouchDB password hash).
    pub admins: Vec<(String, String)>,
    /// Warnings to log once logging is set up.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Start {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.admins.iter().map(|(name, _)| name.as_str()).collect();
        out.debug_struct("Start").field("data", &self.data).field("bind", &self.bind).field("admins", &names).finish()
    }
}

/// The default listen address.
pub const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), 5984);

/// The port of `--tls-bind` if it names only an address.
const DEFAULT_TLS_PORT: u16 = 6984;

/// Merges the settings file, the environment and the flags. An error is a sentence for the user.
pub(crate) fn read_start(serve: Serve, environment: Vec<(String, String)>) -> Result<Start, String> {
    let variable = |name: &str| {
        environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
    };
    let mut table = Table::new();
    let mut warnings = Vec::new();
    if let Some(path) = serve.config.clone().or_else(|| variable("SETTEE_CONFIG").map(PathBuf::from)) {
        read_file(&path, &mut table)?;
    }
    let (mut sources, mut noted) = (source::Sources::new(), Table::new());
    let mut note = |table: &Table, source| {
        source::note(&mut sources, &noted, table, source);
        noted = table.clone();
    };
    note(&table, Source::File);
    read_environment(&environment, &mut table, &mut warnings)?;
    match (variable("COUCHDB_USER"), variable("COUCHDB_PASSWORD")) {
        (Some(user), Some(password)) => put(&mut table, "admins", &user, password),
        (None, None) => {}
        (Some(_), None) => return Err("COUCHDB_USER is set, but COUCHDB_PASSWORD is not: set both, or neither.".into()),
        (None, Some(_)) => return Err("COUCHDB_PASSWORD is set, but COUCHDB_USER is not: set both, or neither.".into()),
    }
    if let Some(secret) = variable("COUCHDB_SECRET") {
        put(&mut table, "chttpd_auth", "secret", secret);
    }
    note(&table, Source::Environment);
    put_flags(&serve, &mut table)?;
    note(&table, Source::Argument);
    // Removed from the table, so that HTTP clients cannot read where the key file is.
    let file = table.get_mut("settee").and_then(|own| own.remove("encryption_key_file"));
    let key = match (encryption::find(serve.encryption_key_file, &environment, &mut warnings)?, file) {
        (None, Some(file)) => Some(encryption::read(Path::new(&file), &mut warnings)?),
        (key, _) => key,
    };
    let postgres = take_address(&mut table, &variable)?;
    let port = variable("PORT").and_then(|port| read_port(&port, &mut warnings));
    let start = finish(table, key, port, warnings)?;
    let scratch = serve.scratch.or_else(|| variable("SETTEE_SCRATCH").map(PathBuf::from));
    let scratch = scratch.unwrap_or_else(|| start.data.join("scratch"));
    // The address, which `finish` has put into CouchDB's keys, comes from `bind` or PORT.
    let of_bind = sources.get(&("settee".to_owned(), "bind".to_owned())).copied().unwrap_or(Source::Environment);
    for key in ["bind_address", "port"] {
        if start.base.get("chttpd").is_some_and(|own| own.contains_key(key)) {
            sources.entry(("chttpd".to_owned(), key.to_owned())).or_insert(of_bind);
        }
    }
    Ok(Start { postgres, scratch, sources, ..start })
}

/// Sets what the flags of the command line say.
fn put_flags(serve: &Serve, table: &mut Table) -> Result<(), String> {
    for (key, value) in [
        ("data", &serve.data),
        ("bind", &serve.bind),
        ("store", &serve.store),
        ("log", &serve.log),
        ("log_format", &serve.log_format),
    ] {
        if let Some(value) = value {
            put(table, "settee", key, value.clone());
        }
    }
    for (key, value) in [("cert_file", &serve.tls_cert), ("key_file", &serve.tls_key)] {
        if let Some(value) = value {
            put(table, "ssl", key, value.clone());
        }
    }
    if let Some(bind) = &serve.tls_bind {
        let bind = parse_bind(bind, DEFAULT_TLS_PORT)?;
        put(table, "ssl", "bind_address", bind.ip().to_string());
        put(table, "ssl", "port", bind.port().to_string());
    }
    for set in &serve.sets {
        let (name, value) = set.split_once('=').ok_or_else(|| format!("--set {set}: write SECTION/KEY=VALUE"))?;
        let (section, key) = name.split_once('/').ok_or_else(|| format!("--set {set}: write SECTION/KEY=VALUE"))?;
        let (section, key) = resolve(section, key).map_err(|wrong| format!("--set {set}: {wrong}"))?;
        put(table, &section, &key, value.trim().to_owned());
    }
    if let Some(admin) = &serve.admin {
        match admin.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                put(table, "admins", name, password.to_owned())
            }
            _ => return Err("--admin takes NAME:PASSWORD, as in --admin alice:secret".into()),
        }
    }
    Ok(())
}

/// The address of a database server as the store. It does not stay in the table, which admins can read, because it may
/// hold a password.
fn take_address(table: &mut Table, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<Address>, String> {
    let Some(store) = table.get_mut("settee").and_then(|own| own.get_mut("store")) else { return Ok(None) };
    if store == "postgres" {
        return Err("the store postgres needs an address: --store postgres://USER@HOST/DATABASE".into());
    }
    if !Address::is_one(store) {
        return Ok(None);
    }
    let address = Address::read(store, environment)?;
    *store = "postgres".to_owned();
    Ok(Some(address))
}

/// The port that hosts such as Cloud Run, Railway and Heroku assign. Kubernetes invents such variables, too, so that
/// a value that is no port only causes a warning.
fn read_port(text: &str, warnings: &mut Vec<String>) -> Option<u16> {
    let port = text.trim().parse().ok();
    if port.is_none() {
        warnings.push(format!("ignoring the environment variable PORT: `{text}` is not a port"));
    }
    port
}

fn finish(mut table: Table, key: Option<Key>, port: Option<u16>, mut warnings: Vec<String>) -> Result<Start, String> {
    let admins: Vec<(String, String)> = table.remove("admins").unwrap_or_default().into_iter().collect();
    if admins.iter().any(|(name, password)| name.is_empty() || name.contains(':') || password.is_empty()) {
        return Err("[admins]: a name must not contain a colon, and neither name nor password may be empty".into());
    }
    let checked = Settings::new(table.clone())?;
    let of = |key: &str| checked.get("settee", key).unwrap_or_default().to_owned();
    let bind = match table.get("settee").and_then(|own| own.get("bind")) {
        Some(text) => Some(parse_bind(text, port.unwrap_or(DEFAULT_BIND.port()))?),
        None if ["port", "bind_address"]
            .iter()
            .any(|key| table.get("chttpd").is_some_and(|own| own.contains_key(*key))) =>
        {
            Some(bind_of(&checked)?)
        }
        // The router of such a host is another machine.
        None => port.map(|port| SocketAddr::from(([0, 0, 0, 0], port))).inspect(|bind| {
            warnings
                .push(format!("listening on {bind} because the environment variable PORT is set; --bind overrides it"));
        }),
    };
    check_log(&of("log"))?;
    if table.get("couchdb").is_some_and(|own| own.contains_key("database_dir")) {
        return Err("[couchdb] database_dir is read-only: set the data folder with --data or `data`".into());
    }
    tls_of(&checked, bind.unwrap_or(DEFAULT_BIND))?;
    if of("data").is_empty() {
        return Err("the name of the data folder is empty: set it with --data DIR".into());
    }
    // Clients look for the address in CouchDB's keys.
    if let Some(bind) = bind {
        put(&mut table, "chttpd", "bind_address", bind.ip().to_string());
        put(&mut table, "chttpd", "port", bind.port().to_string());
    }
    let data = std::path::absolute(of("data")).map_err(|error| format!("the data folder: {error}"))?;
    put(&mut table, "couchdb", "database_dir", data.display().to_string());
    Ok(Start {
        data: PathBuf::from(of("data")),
        bind,
        store: checked.get("settee", "store").map(str::to_owned),
        postgres: None,
        scratch: PathBuf::new(),
        key,
        log: of("log"),
        log_format: of("log_format"),
        audit: checked.get("settee", "audit_file").filter(|path| !path.is_empty()).map(|path| Place {
            file: PathBuf::from(path),
            bytes: checked.number("settee", "audit_file_size"),
            keep: checked.number("settee", "audit_files"),
        }),
        base: table,
        sources: source::Sources::new(),
        admins,
        warnings,
    })
}

/// The listen address from `chttpd/bind_address` and `chttpd/port`.
pub fn bind_of(settings: &Settings) -> Result<SocketAddr, String> {
    let address = match settings.get("chttpd", "bind_address") {
        Some("any") => "0.0.0.0",
        Some(address) => address,
        None => "127.0.0.1",
    };
    let ip = address.parse().map_err(|_| format!("[chttpd] bind_address: `{address}` is not an IP address"))?;
    Ok(SocketAddr::new(ip, settings.number("chttpd", "port") as u16))
}

/// Parses `ADDRESS:PORT`, `ADDRESS` (with the default port) or `:PORT` (all interfaces).
fn parse_bind(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let wrong =
        || format!("bind: `{text}` is not ADDRESS:PORT or ADDRESS (127.0.0.1:5984, 0.0.0.0:5984, [::]:5984, 0.0.0.0)");
    // An IPv6 address without brackets could end in a port.
    let is_bare_v6 = text.matches(':').count() > 1 && !text.starts_with('[') && !matches!(text, "::" | "::1");
    let address = match text {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        _ if is_bare_v6 => return Err(wrong()),
        text => text.trim_matches(['[', ']']).parse().ok(),
    };
    if let Some(address) = address {
        return Ok(SocketAddr::new(address, default_port));
    }
    let spelled = match (text.strip_prefix("localhost:"), text.strip_prefix(':')) {
        (Some(port), _) => format!("127.0.0.1:{port}"),
        (None, Some(port)) => format!("0.0.0.0:{port}"),
        (None, None) => text.to_owned(),
    };
    spelled.parse().map_err(|_| wrong())
}

/// Checks the log level or filter. `tracing` takes an unknown word for the name of a module and then logs nothing else.
fn check_log(text: &str) -> Result<(), String> {
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| word.eq_ignore_ascii_case(level))
    };
    // A span's fields may hold any character; such filters are for developers.
    let parts = if text.contains('[') { "" } else { text };
    for part in parts.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let level = part.rsplit('=').next().unwrap_or(part);
        if !is_level(level) {
            return Err(format!(
                "the log level `{level}` is none of off, error, warn, info, debug, trace; a filter is written as \
                 info,settee::request=off"
            ));
        }
    }
    Ok(())
}

fn put(table: &mut Table, section: &str, key: &str, value: String) {
    table.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
}

/// Finds a setting's exact name, ignoring case and the difference between `-` and `_`. The error suggests a
/// similar name.
fn resolve(section: &str, key: &str) -> Result<(String, String), String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let (low_section, low_key) = (plain(section), plain(key));
    if catalogue::FREE.contains(&low_section.as_str()) || low_section.starts_with("cors:") {
        return Ok((low_section, key.to_owned()));
    }
    for row in catalogue::KNOWN {
        for name in [Some(row.section), catalogue::older_name(row.section)].into_iter().flatten() {
            if name == low_section && plain(row.key) == low_key {
                return Ok((name.to_owned(), row.key.to_owned()));
            }
        }
    }
    let elsewhere = catalogue::KNOWN.iter().find(|row| plain(row.key) == low_key);
    let near = catalogue::KNOWN
        .iter()
        .map(|row| (distance(&format!("{low_section}/{low_key}"), &format!("{}/{}", row.section, plain(row.key))), row))
        .min_by_key(|(distance, _)| *distance);
    Err(match (elsewhere, near) {
        (Some(row), _) => format!("there is no setting {section}/{key}; did you mean {}/{}?", row.section, row.key),
        (None, Some((1..=4, row))) => {
            format!("there is no setting {section}/{key}; did you mean {}/{}?", row.section, row.key)
        }
        _ => format!("there is no setting {section}/{key}; docs/configuration.md lists them all"),
    })
}

/// The Levenshtein distance of two names, of which only the first 100 characters count.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, one) in left.chars().take(100).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, other) in right.iter().enumerate() {
            let change = before + usize::from(one != *other);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(before + 1);
        }
    }
    row[right.len()]
}

fn read_file(path: &Path, table: &mut Table) -> Result<(), String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("the settings file {shown} cannot be read: {error}"))?;
    read_text(&text, &shown.to_string(), table)
}

/// Parses the text of a settings file into `table`; `shown` is the file's name in errors.
pub(crate) fn read_text(text: &str, shown: &str, table: &mut Table) -> Result<(), String> {
    let document: toml::Table = toml::from_str(text).map_err(|error| match ini::is_ini(text) {
        true => format!(
            "the settings file {shown} is in the format of CouchDB (INI), and settee reads TOML: `settee config import \
             {shown}` converts it"
        ),
        false => format!("the settings file {shown} is not TOML: {error}"),
    })?;
    for (name, value) in document {
        match value {
            toml::Value::Table(keys) => {
                for (key, value) in keys {
                    let (section, key) = resolve(&name, &key).map_err(|wrong| format!("{shown}: {wrong}"))?;
                    let value = scalar(value)
                        .ok_or_else(|| format!("{shown}: [{name}] {key} is not a single value or list"))?;
                    put(table, &section, &key, value);
                }
            }
            value => {
                let (section, key) = resolve("settee", &name).map_err(|wrong| format!("{shown}: {wrong}"))?;
                let value = scalar(value).ok_or_else(|| format!("{shown}: {name} is not a single value"))?;
                put(table, &section, &key, value);
            }
        }
    }
    Ok(())
}

fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.into_iter().map(scalar).collect();
            Some(items?.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn read_environment(
    environment: &[(String, String)],
    table: &mut Table,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix("SETTEE_") else { continue };
        if value.is_empty()
            || matches!(
                rest,
                "CONFIG"
                    | "CONSOLE_DIR"
                    | "HEALTH"
                    | "SCRATCH"
                    | "TEST_STORE"
                    | "ENCRYPTION_KEY"
                    | "ENCRYPTION_KEY_FILE"
            )
        {
            continue;
        }
        let named = match rest.split_once("__") {
            Some((section, key)) => resolve(section, key).map_err(|wrong| format!("{name}: {wrong}")),
            None => resolve("settee", rest),
        };
        match named {
            Ok((section, key)) => put(table, &section, &key, value.trim().to_owned()),
            // Kubernetes sets variables such as SETTEE_PORT for a service named settee: warn, but start.
            Err(_) if !rest.contains("__") => {
                warnings.push(format!("ignoring the environment variable {name}: it is not a setting"))
            }
            Err(wrong) => return Err(wrong),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
