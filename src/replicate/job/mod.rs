//! One pass of a replication.
//!
//! ```text
//! feed ──pages──> batches, several at a time:                       checkpoint, every 30 seconds:
//!                 which are missing? > fetch > write > through      commit > source's copy > target's copy
//! ```
//! Batches may end in any order, and count in the feed's order: `through` is the sequence up to which all
//! batches are complete.

mod batch;
mod checkpoints;
mod outcome;
mod pass;
mod run;

pub use self::outcome::{Completed, Outcome, Replication};
pub use self::run::run;
