//! The command line: what it may ask for, and what it says of itself.

use std::path::PathBuf;

use clap::Parser;

use super::encryption;
use super::sources::{Start, read_start};
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
        /// Writes the store and all attachments to this new folder, on another device perhaps, and leaves the old folder as
        /// it is. For a full disk.
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
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
    CompactStore { data: PathBuf, key: Option<Key>, store: Option<String>, sealing: Sealing, to: Option<PathBuf> },
    MakeKey { file: PathBuf },
}

#[derive(Default, clap::Args)]
pub(super) struct Serve {
    /// The folder that holds everything [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address and port to listen on [default: 127.0.0.1:5984]
    #[arg(long, value_name = "ADDR:PORT")]
    pub bind: Option<String>,
    /// The certificate for TLS with its chain (PEM); read anew when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<String>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<String>,
    /// Address and port for TLS [default: the address of --bind, port 6984]
    #[arg(long, value_name = "ADDR:PORT")]
    pub tls_bind: Option<String>,
    /// The storage engine: sled, redb, or memory, which keeps nothing [default: the folder's, or sled]
    #[arg(long, value_name = "ENGINE")]
    pub store: Option<String>,
    /// A file with the key of encryption at rest: an encrypted folder needs it, a new one is encrypted under it
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A server admin; better given by COUCHDB_USER and COUCHDB_PASSWORD, which other users of the machine do not see
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub admin: Option<String>,
    /// What is logged: off, error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// auto (pretty on a terminal), pretty or json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting by CouchDB's name, as --set chttpd/enable_cors=true; may be repeated
    #[arg(long = "set", value_name = "SECTION/KEY=VALUE")]
    pub sets: Vec<String>,
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
        Sub::CompactStore { folder, store, to_key_file, to_plaintext, to } => Upkeep::CompactStore {
            to,
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
