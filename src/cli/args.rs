//! The command line: subcommands, flags and their help texts.

use std::path::PathBuf;

use clap::Parser;

use super::admin_api::Target;
use super::livesync::vault::{Vault, default_vault};
use super::replicate::Asked;
use super::serve_flags::Serve;
use super::sources::{Start, read_start};
use super::stores::{Conversion, Place};
use crate::config::encryption;
use crate::store::postgres::Address;
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
    /// Requests /_up from the server at ADDR:PORT; exits with 0 if it is alive. For container health checks.
    Health {
        /// [default: 127.0.0.1, and the port that PORT names or 5984]
        #[arg(long, value_name = "ADDR:PORT", env = "SETTEE_HEALTH")]
        at: Option<String>,
        /// The data folder: if the server answers only to accounts, it is asked through the control socket
        #[arg(long, value_name = "DIR", default_value = "./data", env = "SETTEE_DATA")]
        data: PathBuf,
    },
    /// Sets the password of a server admin, and creates the admin if it does not exist. Works on the running server
    /// of the data folder, on the folder of a stopped one, or with --store in a PostgreSQL. Without --password-file, generates a password and
    /// prints it.
    Admin {
        /// The admin's name
        name: String,
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        database: Database,
        /// A file with the new password, or - for the standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Sets up Obsidian LiveSync: creates the account, the database of the vault, its rights and the settings that
    /// LiveSync wants, and prints the link and QR code that set up a device. Works on the running server of the data
    /// folder, on the folder of a stopped one, with --store in a PostgreSQL, or with --server on another machine. Can be
    /// run again.
    Livesync(LivesyncArguments),
    /// Settings files.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Verifies everything in a data folder and reports errors; exits with 1 if it finds any. Stop the server
    /// first.
    Check {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        database: Database,
        /// Copies what can be read of a damaged folder into this new folder, and reports what is lost
        #[arg(long, value_name = "NEWDIR")]
        salvage: Option<PathBuf>,
    },
    /// Backs up everything, each database from one snapshot, of a running server or a stopped server's data
    /// folder. The backup of an encrypted folder is encrypted with the same key.
    Backup {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        database: Database,
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
        /// The storage engine of the new folder: sled or redb; or the address of a PostgreSQL, which must not have a store
        /// yet [default: sled]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// The file with the backup's key [default: the encryption key]
        #[arg(long, value_name = "FILE")]
        backup_key_file: Option<PathBuf>,
    },
    /// Rewrites the store of a data folder to reclaim disk space, also while a server has the folder open; can also encrypt,
    /// decrypt or re-encrypt it. Stop the server before you change the engine, the encryption or the folder.
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
    /// Copies a store into a new one of another kind: from a data folder to a PostgreSQL, or back. Databases stay the same
    /// for their clients. FROM and TO are data folders or addresses (postgres://USER@HOST/DATABASE). Stop the servers of
    /// FROM first.
    Convert {
        /// The store that is read
        from: String,
        /// The new store
        to: String,
        /// The storage engine of a new folder: sled or redb [default: sled]
        #[arg(long, value_name = "ENGINE")]
        store: Option<String>,
        /// The file with the key of FROM [default: SETTEE_ENCRYPTION_KEY_FILE or SETTEE_ENCRYPTION_KEY]
        #[arg(long, value_name = "FILE")]
        encryption_key_file: Option<PathBuf>,
        /// The file with the key of TO [default: the key of FROM]
        #[arg(long, value_name = "FILE", conflicts_with = "to_plaintext")]
        to_key_file: Option<PathBuf>,
        /// Does not encrypt TO
        #[arg(long)]
        to_plaintext: bool,
    },
    /// Copies a database to another with all its revisions, conflicts and attachments, and goes on where the last run
    /// ended. SOURCE and TARGET are URLs (http://name:password@host:5984/database), or names of databases in the data
    /// folder of a server that is stopped. Exits with 1 if a document was refused.
    Replicate {
        /// The database that is read
        source: String,
        /// The database that is written
        target: String,
        /// Follows the source's changes until Ctrl-C
        #[arg(long)]
        continuous: bool,
        /// Creates the target if it does not exist
        #[arg(long)]
        create_target: bool,
        /// Certificate authorities to trust beside the public ones, as PEM
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// Reaches other servers through this proxy: http://, https:// or socks5://, with a user if it needs one
        #[arg(long, value_name = "URL")]
        proxy: Option<String>,
        #[command(flatten)]
        folder: Folder,
    },
    /// Generates a key for encryption at rest in a new file that only its owner may read. Keep a copy
    /// elsewhere: without the key, the data is lost.
    MakeKey {
        /// The new file, or - for the standard output
        file: PathBuf,
    },
}

#[derive(clap::Subcommand)]
enum ConfigAction {
    /// Converts CouchDB's local.ini to a settings file of settee, and lists the settings that settee does not have.
    Import {
        /// CouchDB's file
        file: PathBuf,
        /// The new settings file; must not exist [default: the standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct LivesyncArguments {
    /// The owner of the vault; created if there is no such account
    #[arg(long, value_name = "NAME", required_unless_present = "doctor")]
    user: Option<String>,
    /// The vault: the name of its database [default: notes-NAME]
    #[arg(long, value_name = "DATABASE")]
    vault: Option<String>,
    /// Shares the vault with this person, who gets an account and a link, too; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    share: Vec<String>,
    /// The URL under which devices reach the server, as https://sync.example.com [default: guessed from its settings]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Without end-to-end encryption: the server can read the notes
    #[arg(long, conflicts_with = "vault_passphrase_file")]
    plain: bool,
    /// A file with the passphrase of the vault's end-to-end encryption, or - for the standard input [default: generated
    /// for a new vault]
    #[arg(long, value_name = "FILE")]
    vault_passphrase_file: Option<PathBuf>,
    /// A file with the password of --user, or - for the standard input [default: generated for a new account]
    #[arg(long, value_name = "FILE", conflicts_with = "new_password")]
    password_file: Option<PathBuf>,
    /// Generates a new password; devices that are set up already must be set up again
    #[arg(long)]
    new_password: bool,
    /// Prints the QR code also if the standard output is not a terminal
    #[arg(long)]
    qr: bool,
    /// Writes the QR code to this SVG file
    #[arg(long, value_name = "FILE", conflicts_with = "share")]
    svg: Option<PathBuf>,
    /// Reports what LiveSync's own check of the server would complain about, and how to fix it. URL: a server with
    /// the name and password of an admin, as https://admin:secret@sync.example.com [default: that of the data
    /// folder]
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["user", "vault", "share"])]
    doctor: Option<String>,
    /// With --doctor: applies the cures
    #[arg(long, requires = "doctor", conflicts_with = "user")]
    apply: bool,
    /// The server, with the name and password of an admin in the URL or in COUCHDB_USER and COUCHDB_PASSWORD [default:
    /// the server of the data folder]
    #[arg(long, value_name = "URL", conflicts_with = "doctor")]
    server: Option<String>,
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    database: Database,
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

#[derive(Debug, clap::Args)]
struct Database {
    /// The address of a PostgreSQL, instead of a data folder: postgres://USER@HOST,HOST/DATABASE
    #[arg(long, value_name = "ADDRESS")]
    store: Option<String>,
}

/// The data folder, or the database server that was named instead.
fn place(folder: &Folder, store: Option<&str>, environment: &[(String, String)]) -> Result<Place, String> {
    match store {
        Some(store) if Address::is_one(store) => Place::read(store, environment),
        Some(store) => Ok(Place::Folder { data: folder.data.clone(), engine: Some(store.parse()?) }),
        None => Ok(Place::Folder { data: folder.data.clone(), engine: None }),
    }
}

/// A maintenance command on a data folder or a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    Check { place: Place, key: Option<Key>, salvage: Option<PathBuf> },
    Backup { place: Place, key: Option<Key>, plaintext: bool, to: PathBuf },
    Restore { from: PathBuf, backup_key: Option<Key>, place: Place, key: Option<Key> },
    Convert(Conversion),
    CompactStore { data: PathBuf, key: Option<Key>, store: Option<String>, sealing: Sealing, to: Option<PathBuf> },
    MakeKey { file: PathBuf },
    Replicate(Asked),
}

/// A command that works as a server admin, on a running server, or on the data of a stopped one.
#[derive(Debug)]
pub enum Administer {
    Admin { target: Target, name: String, password_file: Option<PathBuf> },
    Livesync(Box<Vault>),
    Doctor { target: Target, apply: bool },
}

/// The action that the command line requests.
#[derive(Debug)]
pub enum Command {
    Serve(Box<Start>),
    Health {
        at: String,
        data: PathBuf,
    },
    Upkeep(Upkeep),
    Administer(Administer),
    ImportConfig {
        file: PathBuf,
        to: Option<PathBuf>,
    },
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
            Some(Sub::Health { at, data }) => {
                let port = environment.iter().find(|(name, _)| name == "PORT").and_then(|(_, port)| port.parse().ok());
                let at = at.unwrap_or_else(|| format!("127.0.0.1:{}", port.unwrap_or(5984_u16)));
                return Command::Health { at, data };
            }
            Some(Sub::Config { action: ConfigAction::Import { file, to } }) => {
                return Command::ImportConfig { file, to };
            }
            Some(Sub::Admin { name, folder, database, password_file }) => {
                read_admin(name, folder, &database, password_file, &environment).map(Command::Administer)
            }
            Some(Sub::Livesync(arguments)) => read_livesync(arguments, &environment).map(Command::Administer),
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
        Sub::Check { folder, database, salvage } => Upkeep::Check {
            place: place(&folder, database.store.as_deref(), environment)?,
            key: key(folder.encryption_key_file)?,
            salvage,
        },
        Sub::Backup { folder, database, plaintext, to } => Upkeep::Backup {
            place: place(&folder, database.store.as_deref(), environment)?,
            key: key(folder.encryption_key_file)?,
            plaintext,
            to,
        },
        Sub::Convert { from, to, store, encryption_key_file, to_key_file, to_plaintext } => {
            let key = key(encryption_key_file)?;
            let mut to = Place::read(&to, environment)?;
            if let Place::Folder { engine, .. } = &mut to {
                *engine = store.as_deref().map(str::parse).transpose()?;
            }
            let to_key = match named(to_key_file)? {
                Some(key) => Some(key),
                None if to_plaintext => None,
                None => key.clone(),
            };
            Upkeep::Convert(Conversion { from: Place::read(&from, environment)?, key, to, to_key })
        }
        Sub::Restore { from, folder, store, backup_key_file } => Upkeep::Restore {
            from,
            backup_key: named(backup_key_file)?,
            place: place(&folder, store.as_deref(), environment)?,
            key: key(folder.encryption_key_file)?,
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
        Sub::Replicate { source, target, continuous, create_target, ca_file, proxy, folder } => {
            Upkeep::Replicate(Asked {
                source,
                target,
                continuous,
                create_target,
                data: folder.data,
                key: key(folder.encryption_key_file)?,
                ca_file,
                proxy,
            })
        }
        Sub::Serve(_) | Sub::Health { .. } | Sub::Config { .. } | Sub::Admin { .. } | Sub::Livesync(_) => {
            return Err("this is not a maintenance command".into());
        }
    })
}

fn read_target(folder: Folder, database: &Database, environment: &[(String, String)]) -> Result<Target, String> {
    let place = place(&folder, database.store.as_deref(), environment)?;
    let key = encryption::find(folder.encryption_key_file, environment, &mut Vec::new())?;
    Ok(Target::Store { place, key })
}

fn read_admin(
    name: String,
    folder: Folder,
    database: &Database,
    password_file: Option<PathBuf>,
    environment: &[(String, String)],
) -> Result<Administer, String> {
    if name.is_empty() || name.contains(':') {
        return Err(format!("`{name}` cannot be the name of an admin: it is empty or has a colon"));
    }
    Ok(Administer::Admin { target: read_target(folder, database, environment)?, name, password_file })
}

fn read_livesync(arguments: LivesyncArguments, environment: &[(String, String)]) -> Result<Administer, String> {
    let variable = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let server = arguments.server.or(arguments.doctor.clone()).filter(|url| !url.is_empty());
    let target = match server {
        Some(url) => Target::server(&url, variable("COUCHDB_USER").zip(variable("COUCHDB_PASSWORD")))?,
        None => read_target(arguments.folder, &arguments.database, environment)?,
    };
    if arguments.doctor.is_some() {
        return Ok(Administer::Doctor { target, apply: arguments.apply });
    }
    let user = arguments.user.unwrap_or_default();
    Ok(Administer::Livesync(Box::new(Vault {
        target,
        database: arguments.vault.unwrap_or_else(|| default_vault(&user)),
        user,
        share: arguments.share,
        url: arguments.url,
        plain: arguments.plain,
        vault_passphrase_file: arguments.vault_passphrase_file,
        password_file: arguments.password_file,
        new_password: arguments.new_password,
        show_qr: arguments.qr,
        svg: arguments.svg,
    })))
}
