//! The memory allocator of the program: jemalloc.
//!
//! Memory is often allocated on one thread and freed on another (documents passed to scripts, rows passed to the
//! store), where glibc's allocator spends a quarter of the time on its locks. After a load, jemalloc keeps half
//! of what mimalloc keeps, and a third less for each waiting feed: it writes nothing into memory that is free.

use std::ffi::c_char;
use std::time::Duration;

use tikv_jemalloc_sys::mallctl;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's options, which it reads by this symbol before `main`.
///
/// - `narenas_ratio:1`: one arena for each core. By default it is four, each with memory of its own.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: pages that nobody has used for a second go back to the system.
/// - `thp:never`: no huge pages, which would keep 2 MiB for a few bytes.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: Option<&'static c_char> = {
    let options = c"narenas_ratio:1,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never";
    // SAFETY: the pointer is of a static C string.
    Some(unsafe { &*options.as_ptr() })
};

/// The environment variable for options of a process, which take precedence over [`OPTIONS`].
pub const VARIABLE: &str = "_RJEM_MALLOC_CONF";

/// The pause between two rounds of [`return_memory`].
const ROUND: Duration = Duration::from_secs(1);

/// Returns unused pages to the system, for ever. jemalloc does it as memory is allocated and freed, so an idle
/// server would keep what its last requests have freed. (Its own threads for this do not exist with musl.)
pub async fn return_memory() {
    loop {
        tokio::time::sleep(ROUND).await;
        return_unused();
    }
}

/// Returns the pages that have been unused for long enough. Takes some microseconds.
fn return_unused() {
    /// `MALLCTL_ARENAS_ALL`: 4096 stands for all arenas.
    const DECAY: &std::ffi::CStr = c"arena.4096.decay";
    let none = std::ptr::null_mut();
    // SAFETY: the name is a C string; this control neither reads nor writes values, so no pointer is used.
    unsafe { mallctl(DECAY.as_ptr(), none, std::ptr::null_mut(), none, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a value of type `T` from jemalloc.
    fn read<T: Default>(name: &std::ffi::CStr) -> T {
        let mut value = T::default();
        let mut bytes = size_of::<T>();
        // SAFETY: `value` has `bytes` bytes, and the tests ask for values of the types that jemalloc's manual names.
        let failed =
            unsafe { mallctl(name.as_ptr(), (&raw mut value).cast(), &raw mut bytes, std::ptr::null_mut(), 0) };
        assert_eq!((failed, bytes), (0, size_of::<T>()), "{name:?}");
        value
    }

    #[test]
    fn jemalloc_reads_the_options() {
        assert_eq!(read::<isize>(c"opt.dirty_decay_ms"), 1000);
        assert_eq!(read::<isize>(c"opt.muzzy_decay_ms"), 0);
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(read::<u32>(c"opt.narenas") as usize <= cores.max(2), "{}", read::<u32>(c"opt.narenas"));
    }

    /// In a process of its own: other tests take and free memory, too.
    #[test]
    fn memory_that_nobody_uses_goes_back_to_the_system() {
        const ALONE: &str = "SETTEE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = std::thread::current().name().unwrap().to_owned();
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let ended = alone.args([name.as_str(), "--exact", "--nocapture"]).env(ALONE, "1").status();
            return assert!(ended.unwrap().success());
        }
        /// The bytes that jemalloc keeps although nobody uses them.
        fn kept() -> usize {
            let (mut epoch, bytes) = (1_u64, size_of::<u64>());
            // SAFETY: the control reads the 8 bytes of `epoch`.
            unsafe {
                mallctl(c"epoch".as_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), (&raw mut epoch).cast(), bytes)
            };
            read::<usize>(c"stats.arenas.4096.pdirty") * read::<usize>(c"arenas.page")
        }
        const MUCH: usize = 64 << 20;
        let until = std::time::Instant::now() + Duration::from_secs(60);
        // A process that is stopped meanwhile for more than a second keeps less.
        while kept() < MUCH / 4 {
            assert!(std::time::Instant::now() < until, "{}", kept());
            // In pieces: jemalloc returns more than 8 MiB at once.
            drop(std::hint::black_box(vec![vec![1_u8; 1 << 20]; MUCH >> 20]));
        }
        while kept() > MUCH / 16 {
            assert!(std::time::Instant::now() < until, "{}", kept());
            std::thread::sleep(Duration::from_millis(10));
            return_unused();
        }
    }
}
