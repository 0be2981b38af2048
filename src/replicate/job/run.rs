//! Runs one pass.

use tokio_util::sync::CancellationToken;

use super::outcome::{Outcome, Replication};
use super::pass::Pass;
use crate::replicate::context::Context;
use crate::replicate::failure::Failure;
use crate::replicate::progress::Progress;

/// Runs one pass.
///
/// - One-shot: returns when everything up to the source's sequence at the start is on the target.
/// - Continuous, the source on another server: runs until it is stopped or fails.
/// - Continuous, the source here: returns [`Outcome::CaughtUp`] when nothing is new.
///
/// Dropping the future stops it, too, and loses no data: the next pass starts at the last checkpoint.
///
/// # Errors
/// What ended it; what was read until then is on the target.
pub async fn run(
    context: &Context,
    replication: &Replication,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Outcome, Failure> {
    Pass::open(context, replication, progress)?.run(stop).await
}
