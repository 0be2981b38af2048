//! Which clients replicate, how far they are and what went wrong: `/_sync/status`, `/_sync/history` and `/_sync/alerts`.
//!
//! All of it is in memory, begins empty with the server, and is bounded: see the constants of each file.
//!
//! ```text
//! request of a replicator ─> [status]: its entry (user, device, database) ─> [history]: sums of ten minutes, events
//! ```

pub mod client;
pub mod conflict_growth;
pub mod history;
pub mod record;
pub mod status;

pub use self::client::{Client, Key};
pub use self::status::{OpenFeed, Seen, SyncStatus, Syncing};
