//! Where jobs read databases of this server.

use tokio::sync::Semaphore;

use crate::blocking::blocking_in_turn;
use crate::error::Result;

/// The reads of all jobs that run at the same time. One count for the process, like its threads.
static READS: Semaphore = Semaphore::const_new(16);

/// Runs a blocking call off the async threads, as soon as it is its turn.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    blocking_in_turn(&READS, call).await
}
