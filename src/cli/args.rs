//! The command line: subcommands, flags and their help texts.

use std::path::PathBuf;

use clap::Parser;

use super::sources::{Serve, Start, read_start};
use crate::config::encryption;
use crate::store::{Key, Sealing};

const AFTER_HELP: &str = "\
Sources of settings, a later one overrides an earlier one: defaults, the file named by --config, the environment,
flags, and changes over HTTP (PUT /_node/_local/_config/{section}/{key}).

  file         TOML:  bind = \"0.0.0.0:5984\"
                      [couchdb]
                      max_document_size = \"8 MB\"
  environment  SETTEE_DATA, SETTEE_BIND, SETTEE_STORE, SETTEE_LOG, SETTEE_LOG_FORMAT, SETTEE_CONFIG;
               SETTEE_{SECTION}__{KEY}, for example SETTEE_COUCHDB__MAX_DOCUMENT_SIZE=8000000;
               COUCHDB_USER, COUCHDB_PASSWORD, COUCHDB_SECRET as in the CouchDB image
               SETTEE_ENCRYPTION_KEY_FILE or SETTEE_ENCRYPTION_KEY (docs/encryption.md)
  the admin    --admin NAME:PASSWORD, COUCHDB_USER and COUCHDB_PASSWORD, or [admins] in the file. If none is set,
               the first start creates an admin, prints its password once, and stores only the password's hash.

docs/configuration.md lists every setting.";

/// The parsed command line. It does not implement `Debug`, because it may hold a password.
#[derive(Parser)]
#[command(
    name = "settee",
    version,
    about = "A sync server for offline-first apps that speaks the CouchDB replication protocol."
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
    /// Runs the server (the default command).
    #[command(after_help = AFTER_HELP)]
    Serve(Serve),
    /// Requests /_up from the server at ADDR:PORT; exits with 0 if it answers. For container health checks.
    Health {
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5984", env = "SETTEE_HEALTH")]
        at: String,
    },
    /// Verifies everything in a data folder and reports errors; exits with 1 if it finds any. Stop the server
    /// first.
    Check {
        #[command(flatten)]
        folder: Folder,
        /// Copies what can be read of a damaged folder into this new folder, and reports what is lost
        #[arg(long, value_name = "NEWDIR")]
        salvage: Option<PathBuf>,
    },
    /// Backs up everything, each database from one snapshot, of a running server or a stopped server's data
    /// folder. The backup of an encrypted folder is encrypted with the same key.
    Backup {
        #[command(flatten)]
        folder: Folder,
        /// Writes an unencrypted backup of an encrypted folder
        #[arg(long)]
        plaintext: bool,
        /// A file, a folder (the file name is then the current time), or - for the standard output
        to: PathBuf,
    },
    /// Creates a new data folder from a backup. With an encryption key, the new folder is encrypted.
    Restore {
        /// A file that `settee backup` made, or - for the standard input
        from: PathBuf,
        #[command(flatten)]
        folder: Folder,
        /// The storage engine of the new folder: sled or redb [default: sled]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// The file with the backup's key [default: the encryption key]
        #[arg(long, value_name = "FILE")]
        backup_key_file: Option<PathBuf>,
    },
    /// Rewrites the store of a data folder to reclaim disk space; can also encrypt, decrypt or re-encrypt it.
    /// Stop the server first.
    CompactStore {
        #[command(flatten)]
        folder: Folder,
        /// Converts to this engine: sled or redb [default: the current engine]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// Re-encrypts everything with the key in this file
        #[arg(long, value_name = "FILE", conflicts_with = "to_plaintext")]
        to_key_file: Option<PathBuf>,
        /// Decrypts everything
        #[arg(long)]
        to_plaintext: bool,
        /// Writes the store and all attachments to this new folder, on another device perhaps, and leaves the old folder as
        /// it is. For a full disk.
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Generates a key for encryption at rest in a new file that only its owner may read. Keep a copy
    /// elsewhere: without the key, the data is lost.
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
    /// The file with the key of an encrypted folder [default: SETTEE_ENCRYPTION_KEY_FILE or
    /// SETTEE_ENCRYPTION_KEY]
    #[arg(long, value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,
}

/// A maintenance command on a data folder or a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    Check { data: PathBuf, key: Option<Key>, salvage: Option<PathBuf> },
    Backup { data: PathBuf, key: Option<Key>, plaintext: bool, to: PathBuf },
    Restore { from: PathBuf, backup_key: Option<Key>, data: PathBuf, key: Option<Key>, store: Option<String> },
    CompactStore { data: PathBuf, key: Option<Key>, store: Option<String>, sealing: Sealing, to: Option<PathBuf> },
    MakeKey { file: PathBuf },
}

/// The action that the command line requests.
#[derive(Debug)]
pub enum Command {
    Serve(Box<Start>),
    Health {
        at: String,
    },
    Upkeep(Upkeep),
    /// Print `text` and exit with `code`: `--help`, `--version`, or an error.
    Say {
        text: String,
        code: i32,
    },
}

impl Command {
    /// Parses a command line (the first argument is the program's name) and an environment.
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
            text: format!("settee: {wrong}\n\nSee `settee --help`.\n"),
            code: 2,
        })
    }
}

fn read_upkeep(command: Sub, environment: &[(String, String)]) -> Result<Upkeep, String> {
    // Discards the warnings: a maintenance command has no log, and they would clutter its output.
    let key = |file| encryption::find(file, environment, &mut Vec::new());
    let named = |file: Option<PathBuf>| file.map(|file| Key::read(&file)).transpose();
    Ok(match command {
        Sub::Check { folder, salvage } => {
            Upkeep::Check { data: folder.data, key: key(folder.encryption_key_file)?, salvage }
        }
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
        Sub::Serve(_) | Sub::Health { .. } => return Err("this is not a maintenance command".into()),
    })
}
