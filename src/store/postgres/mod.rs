//! The networked store: an ordered map and attachments in PostgreSQL, which several settees can share.
//!
//! ```text
//! Store's calls (threads that may block) ──► runtime.rs (threads of their own) ──► pool of connections
//!   get_many, scan    reads.rs     each call in one statement, so it sees one snapshot
//!                     lookups.rs   combines the keys of waiting calls into one statement
//!   commit            commits.rs   combines the waiting batches into one transaction: one call of the function
//!                                  `commit` of schema.rs, which tests all expectations in the server
//!                     slot.rs      finds out the outcome of a commit whose connection was lost
//!                     marks.rs     keeps in the slot which databases have no event in `_db_updates` yet
//!   all calls         hosts.rs     which host takes writes;  supervision.rs  gives up a server that is silent or was replaced
//!   tell, listen      notices.rs   one connection that listens, one message for many commits
//!   blobs             blobs.rs     attachments in pieces of 256 KiB
//! ```
//!
//! No stored data is cached here, so none can be stale. `docs/scaling.md` describes how to run it.

mod address;
mod arrays;
mod blobs;
mod commits;
mod connection;
mod connections;
mod encode;
mod errors;
mod hosts;
mod leases;
mod lookups;
mod marks;
mod measured_size;
mod notices;
mod open;
mod reads;
mod runtime;
mod schema;
mod slot;
#[cfg(test)]
mod small_disk;
mod store;
mod supervision;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
mod tls;
mod warnings;

pub use self::address::Address;
pub use self::open::{Options, PostgresError, Shared, open};
