//! JavaScript of design documents: map and reduce, validation, filters, shows, lists, updates, rewrites.
//!
//! ```text
//! Scripts > pool > worker process > environment (QuickJS runtime + sandbox.js, render.js) > stored function
//! ```
//!
//! Functions run in worker processes (`worker`) that have no access to files, network or other processes,
//! and whose memory and CPU time the system limits: whatever a function does to its process ends with that
//! process. The server sends requests over a socket (`wire`), finds out which document caused a failure
//! (`run`), and shares the workers between databases (`pool`, `turns`, `watch`). An environment is one
//! QuickJS runtime for one design document revision (or one set of view functions) of one database and,
//! where a request is involved, of one user. What a script leaves behind is therefore invisible to all
//! others. All environments of a worker belong to the same database. Scripts answer in the spirit of
//! CouchDB's query server protocol (apache/couchdb `share/server`, `src/docs/src/query-server`), with JSON
//! text in both directions.
//!
//! A runaway script (endless loop, memory, recursion) fails its own call with CouchDB's error. In a view, the
//! document that the function cannot process gets no rows.

mod busy;
mod call;
mod confine;
mod counters;
mod design;
mod engine;
mod environments;
mod failure;
mod filter;
mod frozen;
mod gather;
mod limits;
mod list;
mod map_reduce;
mod memory;
mod pending;
mod pool;
mod process;
mod render;
mod request;
mod response;
mod rows;
mod run;
mod scripts;
mod threads;
mod try_function;
mod turns;
mod validate;
mod watch;
mod wire;
mod worker;
mod worker_requests;

pub use self::counters::Stats;
pub use self::design::{Design, MapSet, check_language};
pub use self::limits::{Limits, ReduceLimit};
pub use self::list::{Part, Parts, Rows, send};
pub use self::pending::Pending;
pub use self::process::WORKER;
pub use self::request::{RequestBody, RequestContext, RequestParts, request_object, rewrite_request_object};
pub use self::response::{Response, Rewrite, Updated};
pub use self::rows::{BATCH_LIMIT, DOCUMENT_LIMIT, Mapped, TOO_LARGE};
pub use self::scripts::Scripts;
pub use self::worker::work;

#[cfg(test)]
mod render_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;
