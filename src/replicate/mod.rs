//! Replication by the server: copies the changes of one database to another, each of them here or on another
//! server.
//!
//! ```text
//! parameters   what to replicate                     peer          one trait for both ends
//! job/         one pass: from a checkpoint to the    local/        a database of this server, without HTTP
//!              source's last change, or for ever     remote/       a database of another server
//! access       what the job's user may do here       checkpoint    _local documents on both ends
//! progress     counters, readable at any time        address       which addresses may be reached
//! host         what the jobs of one host share       session       the cookie of a user on another server
//! memory       what documents on their way may hold
//! ```
//! A pass is one future. It holds no thread, and nothing after it has returned: a continuous job whose source is
//! here ends its pass when nothing is new ([`Outcome::CaughtUp`]) and is started again after the source's next
//! commit.
//!
//! Invariants:
//! - A checkpoint is written only for changes that the target has acknowledged as durable.
//! - What was refused by the target (401, 403, 413, 415) is counted and passed over; any other failure ends the
//!   pass, and the next one starts at the last checkpoint.
//! - No password is part of an error, of a log line or of a checkpoint.

pub mod access;
pub(crate) mod address;
pub(crate) mod checkpoint;
pub mod context;
pub mod documents;
pub mod failure;
pub(crate) mod host;
pub mod job;
pub(crate) mod local;
pub(crate) mod memory;
pub mod parameters;
pub(crate) mod peer;
pub mod progress;
pub(crate) mod remote;
pub mod replication_id;
pub mod scheduler;
pub(crate) mod session;

pub use self::access::{Access, Limits};
pub use self::context::{Context, Network};
pub use self::failure::Failure;
pub use self::job::{Completed, Outcome, Replication, run};
pub use self::parameters::{Basic, Endpoint, Filter, Parameters, RemoteEndpoint};
pub use self::progress::{Counters, Progress};
#[cfg(test)]
pub(crate) use self::remote::READ_AT_ONCE;
pub use self::replication_id::ReplicationId;

use std::future::Future;
use std::pin::Pin;

/// A future of a method of a trait object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
