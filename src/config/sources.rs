//! Where settings come from before the server runs: a TOML file, the environment, flags.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::settings::{Settings, Table};
use super::tls::tls_of;
use super::{catalogue, encryption};
use crate::audit::trail::Place;
use crate::store::{Key, Sealing};

const AFTER_HELP: &str = "\
Settings, the later ones winning: defaults, the file of --config, the environment, flags, and what was changed over
HTTP (PUT /_node/_local/_config/{section}/{key}).

  file         TOML:  bind = \"0.0.0.0:5984\"
                      [couchdb]
                      max_document_size = \"8 MB\"
  environment  SETTEE_DATA, SETTEE_BIND, SETTEE_STORE, SETTEE_LOG, SETTEE_LOG_FORMAT, SETTEE_CONFIG;
               SETTEE_{SECTION}__{KEY}, for example SETTEE_COUCHDB__MAX_DOCUMENT_SIZE=8000000;
               COUCHDB_USER, COUCHDB_PASSWORD, COUCHDB_SECRET as the CouchDB image takes them
               SETTEE_ENCRYPTION_KEY_FILE or SETTEE_ENCRYPTION_KEY (docs/encryption.md)
  the admin    --admin NAME:PASSWORD, COUCHDB_USER and COUCHDB_PASSWORD, or [admins] in the file. If there is none,
               the first start makes one, prints its password once, and keeps only its hash.

docs/configuration.md lists every setting.";

/// The command line. Without `Debug`: it may hold a password.
#[derive(Parser)]
#[command(
    name = "settee",
    version,
    about = "A sync server for offline-first apps: it speaks the CouchDB replication protocol."
)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Line {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Runs the server (what plain `settee` does too).
    #[command(after_help = AFTER_HELP)]
    Serve(Serve),
    /// Asks the server at ADDR:PORT for /_up; the exit code says whether it answers. For container health checks.
    Health {
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5984", env = "SETTEE_HEALTH")]
        at: String,
    },
    /// Reads everything in a data folder and tells what is wrong; exits with 1 if anything is. Stop the server first.
    Check(Folder),
    /// Copies everything, each database as it is at one moment, from a running server or a folder at rest. The backup of an
    /// encrypted folder is sealed under the same key.
    Backup {
        #[command(flatten)]
        folder: Folder,
        /// Does not seal the backup of an encrypted folder
        #[arg(long)]
        plaintext: bool,
        /// A file, a folder (the file is then named after the time), or - for the standard output
        to: PathBuf,
    },
    /// Makes a new data folder from a backup. With an encryption key the folder is encrypted.
    Restore {
        /// A file that `settee backup` made, or - for the standard input
        from: PathBuf,
        #[command(flatten)]
        folder: Folder,
        /// The storage engine of the new folder: sled or redb [default: sled]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// The key that the backup is sealed under [default: the encryption key]
        #[arg(long, value_name = "FILE")]
        backup_key_file: Option<PathBuf>,
    },
    /// Rewrites the store of a data folder into a fresh one, which gives disk space back; and begins, ends or renews its
    /// encryption. Stop the server first.
    CompactStore {
        #[command(flatten)]
        folder: Folder,
        /// Converts to this engine: sled or redb [default: the one it has]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// Encrypts everything anew under the key in this file
        #[arg(long, value_name = "FILE", conflicts_with = "to_plaintext")]
        to_key_file: Option<PathBuf>,
        /// Ends the encryption
        #[arg(long)]
        to_plaintext: bool,
    },
    /// Makes a key for encryption at rest, in a new file that only you may read. Keep a copy elsewhere: without it nothing can
    /// be read.
    MakeKey {
        /// The new file, or - for the standard output
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// The data folder
    #[arg(long, value_name = "DIR", default_value = "./data", env = "SETTEE_DATA")]
    data: PathBuf,
    /// The file with the key of an encrypted folder [default: SETTEE_ENCRYPTION_KEY_FILE or SETTEE_ENCRYPTION_KEY]
    #[arg(long, value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,
}

/// Work on a data folder that is not serving it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    Check { data: PathBuf, key: Option<Key> },
    Backup { data: PathBuf, key: Option<Key>, plaintext: bool, to: PathBuf },
    Restore { from: PathBuf, backup_key: Option<Key>, data: PathBuf, key: Option<Key>, store: Option<String> },
    CompactStore { data: PathBuf, key: Option<Key>, store: Option<String>, sealing: Sealing },
    MakeKey { file: PathBuf },
}

#[derive(Default, clap::Args)]
struct Serve {
    /// The folder that holds everything [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address and port to listen on [default: 127.0.0.1:5984]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// The certificate for TLS with its chain (PEM); read anew when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Address and port for TLS [default: the address of --bind, port 6984]
    #[arg(long, value_name = "ADDR:PORT")]
    tls_bind: Option<String>,
    /// The storage engine: sled, redb, or memory, which keeps nothing [default: the folder's, or sled]
    #[arg(long, value_name = "ENGINE")]
    store: Option<String>,
    /// A file with the key of encryption at rest: an encrypted folder needs it, a new one is encrypted under it
    #[arg(long, value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A server admin; better given by COUCHDB_USER and COUCHDB_PASSWORD, which other users of the machine do not see
    #[arg(long, value_name = "NAME:PASSWORD")]
    admin: Option<String>,
    /// What is logged: off, error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// auto (pretty on a terminal), pretty or json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting by CouchDB's name, as --set chttpd/enable_cors=true; may be repeated
    #[arg(long = "set", value_name = "SECTION/KEY=VALUE")]
    sets: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Serve(Box<Start>),
    Health {
        at: String,
    },
    Upkeep(Upkeep),
    /// Print this and exit with the code: `--help`, `--version`, or a mistake.
    Say {
        text: String,
        code: i32,
    },
}

/// Where and how to run.
#[derive(Clone)]
pub struct Start {
    pub data: PathBuf,
    /// `None`: what is persisted as `chttpd/bind_address` and `port`, else the default.
    pub bind: Option<SocketAddr>,
    /// `None`: the engine that the folder has, or the default.
    pub store: Option<String>,
    /// The key of encryption at rest.
    pub key: Option<Key>,
    pub log: String,
    pub log_format: String,
    /// The file for audit events.
    pub audit: Option<Place>,
    /// Settings of file, environment and flags, without the section `admins`.
    pub base: Table,
    /// Admins of file, environment and flags: name and password, or a hash as CouchDB writes them.
    pub admins: Vec<(String, String)>,
    /// Things worth a warning once logging works.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Start {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.admins.iter().map(|(name, _)| name.as_str()).collect();
        out.debug_struct("Start").field("data", &self.data).field("bind", &self.bind).field("admins", &names).finish()
    }
}

/// The default address.
pub const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), 5984);

impl Command {
    /// Reads a command line (with the program's name first) and an environment.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Command {
        let line = match Line::try_parse_from(arguments) {
            Ok(line) => line,
            Err(refused) => return Command::Say { text: refused.render().to_string(), code: refused.exit_code() },
        };
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let read = match line.command {
            Some(Sub::Health { at }) => return Command::Health { at },
            Some(Sub::Serve(serve)) => read_start(serve, environment).map(Box::new).map(Command::Serve),
            Some(upkeep) => read_upkeep(upkeep, &environment).map(Command::Upkeep),
            None => read_start(line.serve, environment).map(Box::new).map(Command::Serve),
        };
        read.unwrap_or_else(|wrong| Command::Say {
            text: format!("settee: {wrong}\n\n`settee --help` tells more.\n"),
            code: 2,
        })
    }
}

fn read_upkeep(command: Sub, environment: &[(String, String)]) -> Result<Upkeep, String> {
    // What a server warns of in its log would only be in the way of a command's answer.
    let key = |file| encryption::find(file, environment, &mut Vec::new());
    let named = |file: Option<PathBuf>| file.map(|file| Key::read(&file)).transpose();
    Ok(match command {
        Sub::Check(folder) => Upkeep::Check { data: folder.data, key: key(folder.encryption_key_file)? },
        Sub::Backup { folder, plaintext, to } => {
            Upkeep::Backup { data: folder.data, key: key(folder.encryption_key_file)?, plaintext, to }
        }
        Sub::Restore { from, folder, store, backup_key_file } => Upkeep::Restore {
            from,
            backup_key: named(backup_key_file)?,
            data: folder.data,
            key: key(folder.encryption_key_file)?,
            store,
        },
        Sub::CompactStore { folder, store, to_key_file, to_plaintext } => Upkeep::CompactStore {
            data: folder.data,
            key: key(folder.encryption_key_file)?,
            store,
            sealing: match named(to_key_file)? {
                Some(key) => Sealing::Under(key),
                None if to_plaintext => Sealing::Plain,
                None => Sealing::Keep,
            },
        },
        Sub::MakeKey { file } => Upkeep::MakeKey { file },
        Sub::Serve(_) | Sub::Health { .. } => return Err("this is no work on a data folder".into()),
    })
}

fn read_start(serve: Serve, environment: Vec<(String, String)>) -> Result<Start, String> {
    let variable = |name: &str| {
        environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
    };
    let mut table = Table::new();
    let mut warnings = Vec::new();
    if let Some(path) = serve.config.or_else(|| variable("SETTEE_CONFIG").map(PathBuf::from)) {
        read_file(&path, &mut table)?;
    }
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
    for (key, value) in [
        ("data", serve.data),
        ("bind", serve.bind),
        ("store", serve.store),
        ("log", serve.log),
        ("log_format", serve.log_format),
    ] {
        if let Some(value) = value {
            put(&mut table, "settee", key, value);
        }
    }
    for (key, value) in [("cert_file", serve.tls_cert), ("key_file", serve.tls_key)] {
        if let Some(value) = value {
            put(&mut table, "ssl", key, value);
        }
    }
    if let Some(bind) = serve.tls_bind {
        let bind = parse_bind(&bind)?;
        put(&mut table, "ssl", "bind_address", bind.ip().to_string());
        put(&mut table, "ssl", "port", bind.port().to_string());
    }
    for set in serve.sets {
        let (name, value) = set.split_once('=').ok_or_else(|| format!("--set {set}: write SECTION/KEY=VALUE"))?;
        let (section, key) = name.split_once('/').ok_or_else(|| format!("--set {set}: write SECTION/KEY=VALUE"))?;
        let (section, key) = resolve(section, key).map_err(|wrong| format!("--set {set}: {wrong}"))?;
        put(&mut table, &section, &key, value.trim().to_owned());
    }
    if let Some(admin) = serve.admin {
        match admin.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                put(&mut table, "admins", name, password.to_owned())
            }
            _ => return Err("--admin takes NAME:PASSWORD, as in --admin alice:secret".into()),
        }
    }
    // Not among the settings: nobody is to learn over HTTP where the key lies.
    let file = table.get_mut("settee").and_then(|own| own.remove("encryption_key_file"));
    let key = match (encryption::find(serve.encryption_key_file, &environment, &mut warnings)?, file) {
        (None, Some(file)) => Some(encryption::read(Path::new(&file), &mut warnings)?),
        (key, _) => key,
    };
    finish(table, key, warnings)
}

fn finish(mut table: Table, key: Option<Key>, warnings: Vec<String>) -> Result<Start, String> {
    let admins: Vec<(String, String)> = table.remove("admins").unwrap_or_default().into_iter().collect();
    if admins.iter().any(|(name, password)| name.is_empty() || name.contains(':') || password.is_empty()) {
        return Err("[admins]: a name has no colon, and neither name nor password is empty".into());
    }
    let checked = Settings::new(table.clone())?;
    let of = |key: &str| checked.get("settee", key).unwrap_or_default().to_owned();
    let bind = match table.get("settee").and_then(|own| own.get("bind")) {
        Some(text) => Some(parse_bind(text)?),
        None if ["port", "bind_address"]
            .iter()
            .any(|key| table.get("chttpd").is_some_and(|own| own.contains_key(*key))) =>
        {
            Some(bind_of(&checked)?)
        }
        None => None,
    };
    if table.get("couchdb").is_some_and(|own| own.contains_key("database_dir")) {
        return Err("[couchdb] database_dir is only shown: name the data folder by --data or `data`".into());
    }
    tls_of(&checked, bind.unwrap_or(DEFAULT_BIND))?;
    if of("data").is_empty() {
        return Err("the data folder's name is empty: --data DIR".into());
    }
    // For clients that look there.
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
        key,
        log: of("log"),
        log_format: of("log_format"),
        audit: checked.get("settee", "audit_file").filter(|path| !path.is_empty()).map(|path| Place {
            file: PathBuf::from(path),
            bytes: checked.number("settee", "audit_file_size"),
            keep: checked.number("settee", "audit_files"),
        }),
        base: table,
        admins,
        warnings,
    })
}

/// The address that `chttpd/bind_address` and `chttpd/port` name.
pub fn bind_of(settings: &Settings) -> Result<SocketAddr, String> {
    let address = match settings.get("chttpd", "bind_address") {
        Some("any") => "0.0.0.0",
        Some(address) => address,
        None => "127.0.0.1",
    };
    let ip = address.parse().map_err(|_| format!("[chttpd] bind_address: `{address}` is not an IP address"))?;
    Ok(SocketAddr::new(ip, settings.number("chttpd", "port") as u16))
}

fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    let spelled = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => match text.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => text.to_owned(),
        },
    };
    spelled.parse().map_err(|_| format!("bind: `{text}` is not ADDRESS:PORT (127.0.0.1:5984, 0.0.0.0:5984, [::]:5984)"))
}

fn put(table: &mut Table, section: &str, key: &str, value: String) {
    table.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
}

/// A setting's exact name for one written without regard to case or `-` and `_`; the error proposes what may be meant.
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
        (Some(row), _) => format!("there is no setting {section}/{key}; is {}/{} meant?", row.section, row.key),
        (None, Some((1..=4, row))) => {
            format!("there is no setting {section}/{key}; is {}/{} meant?", row.section, row.key)
        }
        _ => format!("there is no setting {section}/{key}; docs/configuration.md lists them all"),
    })
}

/// Levenshtein's distance, for short names.
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

/// Reads a settings file's text; `shown` names the file in errors.
pub(crate) fn read_text(text: &str, shown: &str, table: &mut Table) -> Result<(), String> {
    let document: toml::Table =
        toml::from_str(text).map_err(|error| format!("the settings file {shown} is not TOML: {error}"))?;
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
            Some(items?.join(", "))
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
        if value.is_empty() || matches!(rest, "CONFIG" | "HEALTH" | "ENCRYPTION_KEY" | "ENCRYPTION_KEY_FILE") {
            continue;
        }
        let named = match rest.split_once("__") {
            Some((section, key)) => resolve(section, key).map_err(|wrong| format!("{name}: {wrong}")),
            None => resolve("settee", rest),
        };
        match named {
            Ok((section, key)) => put(table, &section, &key, value.trim().to_owned()),
            // Container schedulers put variables like SETTEE_PORT into the environment of a service called settee.
            Err(_) if !rest.contains("__") => {
                warnings.push(format!("the environment's {name} is no setting; it is ignored"))
            }
            Err(wrong) => return Err(wrong),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tls::{Certificate, Tls};
    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        Command::read(
            std::iter::once("settee").chain(arguments.iter().copied()).map(str::to_owned),
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Start {
        match read(arguments, environment) {
            Command::Serve(start) => *start,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        match read(arguments, environment) {
            Command::Say { text, code } => {
                assert_ne!(code, 0);
                text
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_settee_serves_with_the_defaults() {
        for arguments in [&[][..], &["serve"][..]] {
            let start = start(arguments, &[]);
            assert_eq!((start.data.as_path(), start.bind, start.store), (Path::new("./data"), None, None));
            assert!(start.admins.is_empty());
        }
    }

    #[test]
    fn later_sources_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settee.toml");
        std::fs::write(
            &file,
            "data = \"from-file\"\nlog = \"warn\"\nstore = \"memory\"\n[cors]\norigins = [\"http://a\", \"http://b\"]\n[admins]\nann = \"one\"\n",
        )
        .unwrap();
        let start = start(
            &["serve", "--config", file.to_str().unwrap(), "--data", "from-flag", "--set", "chttpd/enable_cors=false"],
            &[
                ("SETTEE_DATA", "from-environment"),
                ("SETTEE_LOG", "debug"),
                ("SETTEE_COUCHDB__MAX_DOCUMENT_SIZE", "1000"),
                ("COUCHDB_USER", "ben"),
                ("COUCHDB_PASSWORD", "two"),
            ],
        );
        assert_eq!(start.data, Path::new("from-flag"));
        assert_eq!((start.log.as_str(), start.store.as_deref()), ("debug", Some("memory")));
        assert_eq!(start.admins, [("ann".into(), "one".into()), ("ben".into(), "two".into())]);
        let settings = Settings::new(start.base).unwrap();
        assert_eq!(settings.cors.origins, ["http://a", "http://b"]);
        assert_eq!(settings.max_document_size, 1000);
        assert!(!settings.cors.enabled && !settings.has_admins());
    }

    #[test]
    fn a_wrong_setting_says_how_to_fix_it() {
        for (arguments, environment, says) in [
            (&["--bind", "5984"][..], &[][..], "is not ADDRESS:PORT"),
            (&["--store", "tape"][..], &[][..], "one of: sled, redb, memory"),
            (&["--set", "chttpd/enable_corz=true"][..], &[][..], "is chttpd/enable_cors meant?"),
            (&["--set", "couchdb/enable_cors=true"][..], &[][..], "is chttpd/enable_cors meant?"),
            (&["--admin", "alice"][..], &[][..], "NAME:PASSWORD"),
            (&["--nonsense"][..], &[][..], "--help"),
            (&[][..], &[("COUCHDB_USER", "ann")][..], "COUCHDB_PASSWORD is not"),
            (&[][..], &[("SETTEE_CORS__ORIGNS", "x")][..], "is cors/origins meant?"),
            (&["--tls-cert", "cert.pem"][..], &[][..], "--tls-key"),
            (&["--set", "ssl/enable=true"][..], &[][..], "cert_file is not set"),
            (&[][..], &[("SETTEE_SSL__CERT_FILE", "cert.pem")][..], "key_file is not set"),
            (&["--tls-bind", "6984"][..], &[][..], "is not ADDRESS:PORT"),
            (&["--set", "ssl/acme_domains=a.example"][..], &[][..], "acme_agree is not true"),
            (&["--tls-cert", "c", "--tls-key", "k"][..], &[("SETTEE_SSL__ACME_DOMAINS", "a")][..], "leave one"),
            (
                &["--tls-cert", "c", "--tls-key", "k", "--bind", "127.0.0.1:6984"][..],
                &[][..],
                "take another port for TLS",
            ),
            (&["--config", "/nowhere/settee.toml"][..], &[][..], "cannot be read"),
        ] {
            let text = refusal(arguments, environment);
            assert!(text.contains(says), "{arguments:?} {environment:?}: {text}");
        }
    }

    #[test]
    fn tls_is_served_when_its_files_are_named() {
        let tls = |arguments: &[&str], environment: &[(&str, &str)]| {
            let start = start(arguments, environment);
            tls_of(&Settings::new(start.base).unwrap(), start.bind.unwrap_or(DEFAULT_BIND)).unwrap()
        };
        assert_eq!(tls(&[], &[]), None);
        let files = [("SETTEE_SSL__CERT_FILE", "cert.pem"), ("SETTEE_SSL__KEY_FILE", "key.pem")];
        for (arguments, bind) in [
            (&[][..], "127.0.0.1:6984"),
            (&["--bind", "[::1]:5984"][..], "[::1]:6984"),
            (&["--tls-bind", "0.0.0.0:443"][..], "0.0.0.0:443"),
            (&["--set", "ssl/port=8443", "--set", "ssl/bind_address=any"][..], "0.0.0.0:8443"),
        ] {
            let (cert, key) = (PathBuf::from("cert.pem"), PathBuf::from("key.pem"));
            let certificate = Certificate::Files { cert, key };
            assert_eq!(tls(arguments, &files), Some(Tls { bind: bind.parse().unwrap(), certificate }));
        }
        assert_eq!(tls(&["--set", "ssl/enable=false"], &files), None);
    }

    #[test]
    fn help_names_the_ways_to_set_things() {
        let Command::Say { text, code } = read(&["--help"], &[]) else { panic!() };
        assert_eq!(code, 0);
        for word in ["--data", "--bind", "COUCHDB_USER", "SETTEE_BIND", "TOML", "docs/configuration.md"] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn the_encryption_key_is_in_no_setting_and_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let key = Key::generate();
        key.write_new(Path::new(&path("key"))).unwrap();
        std::fs::write(path("toml"), format!("encryption_key_file = {:?}", path("key"))).unwrap();
        let text = key.text().to_string();
        for (arguments, environment) in [
            (&["--encryption-key-file", &path("key")][..], &[][..]),
            (&["--config", &path("toml")][..], &[][..]),
            (&[][..], &[("SETTEE_ENCRYPTION_KEY_FILE", path("key").as_str())][..]),
            (&[][..], &[("SETTEE_ENCRYPTION_KEY", text.as_str())][..]),
        ] {
            let start = start(arguments, environment);
            assert_eq!(start.key, Some(key.clone()));
            assert!(start.warnings.is_empty(), "{:?}", start.warnings);
            let shown = format!("{start:?} {:?}", start.base);
            assert!(!shown.contains(&text) && !shown.contains(&path("key")), "{shown}");
        }
        let wrong = refusal(&[], &[("SETTEE_ENCRYPTION_KEY", "hunter2")]);
        assert!(wrong.contains("make-key") && !wrong.contains("hunter2"), "{wrong}");
        let Command::Upkeep(work) = read(&["compact-store", "--to-key-file", &path("key")], &[]) else { panic!() };
        let shown = format!("{work:?}");
        assert!(shown.contains(&key.id()) && !shown.contains(&text), "{shown}");
        refusal(&["compact-store", "--to-plaintext", "--to-key-file", &path("key")], &[]);
    }

    #[test]
    fn a_schedulers_own_variables_only_warn() {
        let start = start(&[], &[("SETTEE_PORT_5984_TCP", "tcp://10.0.0.1:5984")]);
        assert_eq!(start.warnings.len(), 1);
    }
}
