//! The flags of `settee serve`.

use std::path::PathBuf;

// The flags of the server. Not a doc comment: clap would use it as the help text of the command.
#[derive(Default, clap::Args)]
pub(crate) struct Serve {
    /// The data folder [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address and port to listen on: ADDR:PORT, ADDR, or :PORT for all interfaces [default: 127.0.0.1:5984]
    #[arg(long, value_name = "ADDR:PORT")]
    pub bind: Option<String>,
    /// The TLS certificate with its chain (PEM); reloaded when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<String>,
    /// The private key of the TLS certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<String>,
    /// Address and port for TLS [default: the address of --bind, port 6984]
    #[arg(long, value_name = "ADDR:PORT")]
    pub tls_bind: Option<String>,
    /// The storage engine: sled, redb, or memory, which persists nothing; or a PostgreSQL that several servers may share:
    /// postgres://USER@HOST,HOST/DATABASE [default: the folder's engine, or sled]
    #[arg(long, value_name = "ENGINE")]
    pub store: Option<String>,
    /// With a PostgreSQL: where this server keeps its indexes, which can be made again; each server needs its own
    /// [default: scratch in the data folder]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// A file with the key of encryption at rest: required for an encrypted folder; encrypts a new folder
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
    /// A settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A server admin. Prefer COUCHDB_USER and COUCHDB_PASSWORD: other users of the machine can see flags
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub admin: Option<String>,
    /// The log level: off, error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// The log format: auto (pretty on a terminal), pretty or json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Sets one setting by its CouchDB name, as in --set chttpd/enable_cors=true; may be repeated
    #[arg(long = "set", value_name = "SECTION/KEY=VALUE")]
    pub sets: Vec<String>,
}
