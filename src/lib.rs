//! settee: a CouchDB-compatible sync server in one binary.
//!
//! The layers; each may use only the layers to its right:
//!
//! ```text
//! main > http > replicate > {query, auth, maintain, config} > db > store > json > rev
//! ```
//!
//! All layers may use `error`, `clock`, `tls` and `audit`; only `main` uses `log`. `tests/layers.rs` checks
//! the order of the layers.

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
pub mod http;
pub mod json;
pub mod log;
pub mod maintain;
pub mod net;
pub mod policy;
pub mod query;
pub mod rev;
pub mod server;
pub mod store;

/// Memory is often allocated on one thread and freed on another (documents passed to scripts, rows passed to
/// the store). With glibc's allocator, such workloads spend a quarter of their time on its locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
