//! Replications from documents: every document of a database `_replicator` or `*/_replicator` is one
//! (CouchDB's `couch_replicator_doc_processor`).
//!
//! ```text
//! change ─> parsed ─> initializing ── id computed ─> scheduled ── job complete ─> `completed` written, row removed
//!             │            │  ^                          └─ another document has this id ─> `failed` written
//!             │            v  │ (later and later)
//!             │          error: the filter function cannot be read
//!             └─> cannot be parsed ─> `failed` written
//! ```
//! A row is kept for each document whose replication has not ended. `completed` and `failed` stand in the document
//! itself: such a document starts nothing, also after a restart, until somebody changes it. Everything else is found
//! again by reading the databases when the server starts.
//!
//! ```text
//! follow     reads the databases and their changes     body    a document's replication, owner and digest
//! identify   computes ids, and schedules the jobs      write   writes the outcome into a document
//! list       all documents whose replication runs      state   CouchDB's states, and what a document tells
//! rows       the state of each of them
//! ```

pub mod body;
mod environment;
mod follow;
mod identify;
mod list;
mod names;
mod rows;
mod state;
mod write;

pub use self::environment::{Environment, Turn};
pub use self::list::Documents;
pub use self::names::holds_replications;
pub use self::state::{Counts, State, ended};
