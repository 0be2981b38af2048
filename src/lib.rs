//! settee: a CouchDB-compatible sync server in one binary.
//!
//! ```text
//! program > cli, server > http > policy > app > config > replicate > {query, auth, maintain, net} > db > store > rev > json
//!
//! cli/       command line, offline commands      query/     views, Mango, scripts, indexes
//! server/    starting, background jobs           auth/      users, passwords, sessions, tokens
//! http/      connections to handlers             maintain/  backup, restore, check, sweep
//! policy/    rules beyond the database           net/       outgoing HTTP, TLS, ACME
//! app/       what every handler can reach        db/        databases: write, read, upkeep
//! config/    settings                            store/     the storage interface and its engines
//! replicate/ replication by the server           rev/       revision trees
//! audit/     the audit log                       json/      documents as JSON text
//! fuzzing/   entry points of the fuzzer          regex/     CouchDB's regular expressions
//! log/       the log on a terminal                console/  the web page at /_utils/: HTML, CSS, JavaScript
//! ```
//!
//! Each layer uses only layers to its right. All may use `allocator`, `error`, `clock`, `audit`, `log`,
//! `hex`, `regex`, `bounded_map` and `blocking`; the linker uses `musl_memory`. `tests/layers.rs` checks this, the order inside
//! the folders, and that no two files import each other. `docs/architecture.md` has the rest of the map.

pub mod allocator;
pub mod app;
pub mod audit;
pub mod auth;
pub mod blocking;
pub(crate) mod bounded_map;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod hex;
pub mod http;
pub mod json;
pub mod log;
pub mod maintain;
#[cfg(any(test, all(target_env = "musl", not(debug_assertions))))]
mod musl_memory;
pub mod net;
pub mod policy;
pub mod program;
pub mod query;
pub(crate) mod regex;
pub mod replicate;
pub mod rev;
pub mod server;
pub mod store;
