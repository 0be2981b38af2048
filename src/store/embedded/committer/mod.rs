//! Group commit, expectations, checksums and recovery over any [`Backend`](super::backend::Backend).
//!
//! Only one group of commits is written at a time. There is no committer thread: a caller that finds no
//! leader becomes the leader. It takes all waiting batches (up to a limit), writes them as one batch with one
//! sync, answers every caller, and makes the first caller that has arrived meanwhile the next leader. A
//! single writer therefore pays no thread hand-off, and thirty-two concurrent writers share their syncs.
//!
//! ```text
//! commit ──► queue ──► leader: test expectations against {engine, earlier batches of the group}
//!                              apply all writes at once, sync once ──► answer each
//! ```
//!
//! Every commit carries a record of the store's totals (see `tally`), and every durable commit is noted
//! outside the store (see `mark`). If an engine opens without something that was durable, at start or after a
//! failure, the store refuses every read and write.
//!
//! After a failed write, the store refuses writes until the engine has been reopened. Each commit tries that,
//! at most once a second. Reads go on, and never see the writes of the failed batch (see
//! [`Backend`](super::backend::Backend)). `full_disk` decides which writes are accepted on a full disk.

mod full_disk;
mod group;
mod queue;
mod recent_reads;
mod recovery;
mod room;
mod state;
mod store;
mod verify;

pub(crate) use self::state::Committer;

#[cfg(test)]
mod tests;
