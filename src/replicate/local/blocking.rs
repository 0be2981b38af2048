//! Where jobs read databases of this server.

use tokio::sync::Semaphore;

use crate::error::Result;

/// The reads of all jobs that run at the same time. Hundreds of jobs may run, and each read occupies a thread; with each
/// thread, the allocator keeps about 1 MB. One count for the process, like its threads.
static TURNS: Semaphore = Semaphore::const_new(16);

/// Runs a blocking call off the async threads, as soon as it is its turn.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let turn = TURNS.acquire().await.expect("the semaphore is never closed");
    crate::blocking::blocking(move || {
        let _turn = turn;
        call()
    })
    .await
}
