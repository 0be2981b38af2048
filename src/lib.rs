//! settee: a CouchDB-compatible sync server in one binary.
//!
//! The map of the house; a layer may use only what stands to its right:
//!
//! ```text
//! main > http > replicate > {query, auth, maintain} > db > store > json > rev
//! ```
//!
//! `error`, `clock`, `tls` and `audit` may be used by all, `log` is for `main`. `tests/layers.rs` holds this line.

pub mod audit;
pub mod auth;
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
pub mod query;
pub mod rev;
pub mod store;
pub mod tls;

/// What comes on one thread often goes on another (documents to scripts, rows to the store): glibc's allocator then spends
/// a quarter of the time on its locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
