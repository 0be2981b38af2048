//! JavaScript of design documents: map and reduce, validation, filters, shows, lists, updates, rewrites.
//!
//! ```text
//! Scripts -> pool -> worker process -> environment (a QuickJS runtime + sandbox.js, render.js) -> the stored function
//! ```
//!
//! Functions run in worker processes (`worker`), which have no file, no network and no other process, and memory and CPU
//! time that the system limits: what a function does to its process ends with it. The server asks over a socket (`wire`),
//! finds out which document a failure is owed to (`run`), and shares the workers between databases (`pool`, `watch`). An
//! environment is one QuickJS runtime for one design document revision (or one set of view functions) of one database
//! and, where a request is involved, one user: nothing that a script leaves behind is seen by another of these. A worker
//! has environments of one database only. What a script answers is CouchDB's query server protocol in spirit
//! (apache/couchdb `share/server`, `src/docs/src/query-server`), as JSON texts in and out.
//!
//! A runaway script (endless loop, memory, recursion) fails its own call with CouchDB's error, or costs a view the rows
//! of the document that it cannot get through.

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
mod tests;
#[cfg(test)]
mod worker_tests;
