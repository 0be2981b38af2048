//! The scheduler: which replications run now, which wait, and when those that failed are tried again
//! (CouchDB's `couch_replicator_scheduler`).
//!
//! ```text
//! add ─> pending ─> running ─┬─> completed: removed
//!          ^  ^              ├─> caught up ─> asleep ── the source has a commit ─> pending
//!          │  └── stopped ───┤
//!          └── backing off <─┴─> crashed (a job of `_replicate`: removed)
//! ```
//! A job is a row in a table and not a task: only running ones have a task and hold a slot of `max_jobs`. A
//! continuous job whose source is a database here falls asleep when it has read everything. Ten thousand sleeping
//! jobs take memory for their rows and no time: nothing polls, and no timer runs for them. They wake when
//! `_db_updates`, which the server records anyway, names their source.
//!
//! Waiting jobs are ordered by their [fair shares](shares). While more jobs wait than there are slots, a round every
//! `interval` stops those continuous jobs that have run longest, `max_churn` at most.
//!
//! ```text
//! table    rows and queues: what runs next; no clock, no tasks      history   the events of a job
//! driver   the task that starts passes, and timers                  listing   rows as JSON
//! job      a job, and the seam to what runs it                      shares, settings
//! ```

mod driver;
mod history;
pub mod job;
pub mod listing;
mod settings;
mod shares;
mod table;

pub use self::driver::{Report, Scheduler, What};
pub use self::job::{Ended, Job, JobId, JobUser, Origin, Run};
pub use self::listing::{Listed, State};
pub use self::settings::Settings;
pub use self::table::Counts;

#[cfg(test)]
mod tests;
