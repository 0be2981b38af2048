//! Where blocking work runs: short reads on the calling async thread, everything else on threads that may block.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Runs a short read of a few records. A hand-off to another thread mostly costs more than such a read, so it runs on
/// the calling async thread, as long as at least one other worker thread stays free in case the disk is slow. A read
/// that would take the last free thread yields to other tasks a few times, because reads are short unless the disk is
/// slow. Then it waits for one of a few blocking threads. If reads wait for a network, each runs on a blocking thread
/// of its own.
pub async fn reading<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if WAITS.load(Ordering::Relaxed) {
        return blocking(call).await;
    }
    let others = other_workers();
    for _ in 0..TRIES {
        if let Some(_turn) = Turn::take(others) {
            return call();
        }
        if others == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    blocking_in_turn(&READS, call).await
}

/// Number of worker threads of the runtime beside this one. Kept for each thread, because asking the runtime changes a
/// counter that all threads share.
fn other_workers() -> usize {
    thread_local! {
        static OTHERS: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OTHERS.get().unwrap_or_else(|| {
        let others = Handle::current().metrics().num_workers().saturating_sub(1);
        OTHERS.set(Some(others));
        others
    })
}

/// How often a short read tries to run on an async thread.
const TRIES: u32 = 4;

/// Limits the short reads that run on blocking threads at the same time.
static READS: Semaphore = Semaphore::const_new(16);

/// Whether reads wait for a network. One flag for the process, because a process has one store.
static WAITS: AtomicBool = AtomicBool::new(false);

/// Called when a networked store is opened: from now on, no read runs on an async thread.
pub fn reads_wait_for_a_network() {
    WAITS.store(true, Ordering::Relaxed);
}

/// Permission to read on an async thread; dropping it returns the permission.
struct Turn;

/// Number of permissions in use. One count for the process, because its worker threads are shared too.
static TURNS: AtomicUsize = AtomicUsize::new(0);

impl Turn {
    fn take(most: usize) -> Option<Turn> {
        let one_more = |turns| (turns < most).then_some(turns + 1);
        TURNS.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).ok().map(|_| Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs a blocking call off the async threads.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    on_another_thread(Box::new(call)).await
}

/// Runs a blocking call off the async threads, as soon as `turns` has a permit. Hundreds of calls at the same time
/// would need hundreds of threads, and with each thread the allocator keeps about 1 MB.
pub async fn blocking_in_turn<T: Send + 'static>(
    turns: &'static Semaphore,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let turn = turns.acquire().await.expect("the semaphore is never closed");
    blocking(move || {
        let _turn = turn;
        call()
    })
    .await
}

/// A document of up to this many bytes is parsed without waiting for others.
pub const PARSED_FREELY: u64 = 256 << 10;

/// Kilobytes of larger documents that are read and parsed at the same time.
const PARSED: u32 = 16 << 10;

/// Permits for these.
static PARSING: Semaphore = Semaphore::const_new(PARSED as usize);

/// Runs a blocking call that reads documents and parses them into values, one after the other. The largest takes `bytes`
/// bytes, with its attachments, which are not read. A value may take a hundred times as much memory as its text:
/// therefore only few megabytes of large documents are parsed at the same time. That costs no time, since parsing keeps
/// a processor busy.
pub async fn parsing<T: Send + 'static>(bytes: u64, call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= PARSED_FREELY {
        return blocking(call).await;
    }
    // Most of what is larger than that is attachments.
    let kilobytes = u32::try_from(bytes.div_ceil(1024)).map_or(PARSED / 2, |kilobytes| kilobytes.min(PARSED / 2));
    let turn = PARSING.acquire_many(kilobytes).await.expect("the semaphore is never closed");
    blocking(move || {
        let _turn = turn;
        call()
    })
    .await
}

/// Boxed, so that the runtime's code for a task is compiled once for each type of result, not for each of some 150
/// closures: this takes 1 MB off the binary.
async fn on_another_thread<T: Send + 'static>(call: Box<dyn FnOnce() -> Result<T> + Send>) -> Result<T> {
    match spawn_blocking(call).await {
        Ok(result) => result,
        Err(failed) => Err(Error::Internal(format!("a domain call ended early: {failed}"))),
    }
}

/// The error of a caught panic.
pub fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    Error::Internal(format!("panicked: {said}"))
}

/// Bytes that take about a millisecond to read.
const MANY_BYTES: usize = 256 << 10;

/// Runs `work`, which takes about as long as reading `bytes` bytes. If that is more than about a millisecond,
/// another thread first takes over the other tasks of this one.
pub fn beside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes >= MANY_BYTES && has_other_threads() { tokio::task::block_in_place(work) } else { work() }
}

/// Runs work that may wait for a network, on this thread: another thread first takes over the other tasks of this one. For
/// work that borrows; other work runs in [`blocking`]. Within an async task, does not return if the runtime has ended
/// meanwhile.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    if !has_other_threads() {
        return work();
    }
    let done = tokio::task::block_in_place(work);
    // The runtime waits for its threads only for a while. If this one went on with its task, the task would find timers
    // that have ended, and panic. The process is about to end.
    while !MAY_BLOCK.get() && ENDS.load(Ordering::SeqCst) {
        std::thread::park();
    }
    done
}

fn has_other_threads() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// As [`tokio::task::spawn_blocking`]. When the runtime ends, it waits a while for `call`, so that its work is
/// completed and its resources are closed.
pub fn spawn_blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let _blocks = Blocks::begin();
        call()
    })
}

thread_local! {
    /// Whether this thread runs a call of [`spawn_blocking`], and no async task.
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Sets [`MAY_BLOCK`] until it is dropped: the thread may run async tasks later.
struct Blocks;

impl Blocks {
    fn begin() -> Blocks {
        MAY_BLOCK.set(true);
        Blocks
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        MAY_BLOCK.set(false);
    }
}

/// Whether the runtime of the process ends.
static ENDS: AtomicBool = AtomicBool::new(false);

/// Called before the runtime ends together with the process: async tasks that wait in [`in_place`] do not continue.
pub fn runtime_ends() {
    ENDS.store(true, Ordering::SeqCst);
}

/// Waits for a future on a thread that may block. The runtime runs it, so it ends with the runtime, where
/// [`Handle::block_on`] would panic.
pub fn wait<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let (done, answer) = std::sync::mpsc::sync_channel(1);
    Handle::current().spawn(async move { drop(done.send(work.await)) });
    answer.recv().unwrap_or_else(|_| Err(Error::Internal("the server has ended".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_threads_of_blocking_calls_go_on_after_the_runtime_has_ended() {
        for _ in 0..100 {
            assert!(spawn_blocking(|| MAY_BLOCK.get()).await.unwrap());
            let within = tokio::spawn(async { in_place(|| MAY_BLOCK.get()) || MAY_BLOCK.get() });
            assert!(!within.await.unwrap());
        }
        let panics = spawn_blocking(|| panic!("as it should"));
        assert!(panics.await.is_err());
        assert!(blocking(|| Ok(MAY_BLOCK.get())).await.unwrap());
        // One thread in turn runs a blocking call and then the worker whose thread is blocked in place.
        assert!(!tokio::spawn(async { in_place(|| MAY_BLOCK.get()) }).await.unwrap());
    }

    #[tokio::test]
    async fn few_large_documents_are_parsed_at_the_same_time() {
        static NOW: AtomicUsize = AtomicUsize::new(0);
        let call = |bytes| {
            parsing(bytes, move || {
                let now = NOW.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::yield_now();
                NOW.fetch_sub(1, Ordering::SeqCst);
                Ok(now)
            })
        };
        for (bytes, most) in [(1 << 20, 16), (6 << 20, 2), (8 << 20, 2), (1 << 30, 2), (u64::MAX, 2)] {
            let calls: Vec<_> = (0..50).map(|_| tokio::spawn(call(bytes))).collect();
            for call in calls {
                assert!(call.await.unwrap().unwrap() <= most, "{bytes}");
            }
        }
        // Others do not wait for them.
        let all = PARSING.acquire_many(PARSED).await.unwrap();
        assert_eq!(parsing(PARSED_FREELY, || Ok(1)).await, Ok(1));
        let large = tokio::spawn(parsing(PARSED_FREELY + 1, || Ok(2)));
        drop(all);
        assert_eq!(large.await.unwrap(), Ok(2));
    }
}
