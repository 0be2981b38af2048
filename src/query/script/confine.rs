//! Confinement of a script worker: before it runs any function, it gives up access to files, network and
//! other processes.
//!
//! ```text
//! begin   end with the server; be the first victim if memory is short; forbid debugging; close other files
//! lock    set resource limits that cannot be raised again; allow only a list of system calls (seccomp)
//! ```
//!
//! The server limits the memory (`RLIMIT_DATA`, see `process`). Protections that the system lacks are skipped
//! and listed in the worker's first frame, which the server logs once.

use rustix::process::{Resource, Rlimit, setrlimit};

/// CPU limit in seconds, for a worker that the server fails to watch.
const CPU_SECONDS: u64 = 3600;

/// First step; must run before anything else. `alone`: nothing else in this process has opened files.
pub(super) fn begin(alone: bool) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
        // If the server died before this call, the socket is closed, and the first read ends this process.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        // Must precede `set_dumpable_behavior`, which makes root the owner of this process's files in /proc.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        if alone {
            // Files that the server itself inherited are open here as well. SAFETY: this process has opened
            // no files except the standard ones, so nothing owns these numbers.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = alone;
}

/// Second step; must run on the thread that runs scripts, after all threads were started. Returns a text that
/// lists the missing protections, or an empty text.
pub(super) fn lock() -> String {
    let mut missing = Vec::new();
    let limits = [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        // Open files stay open, but no more can be opened.
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
        (Resource::Cpu, CPU_SECONDS),
    ];
    for (resource, most) in limits {
        if let Err(error) = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            missing.push(format!("{resource:?} is not limited: {error}"));
        }
    }
    #[cfg(target_os = "linux")]
    {
        if let Err(error) = rustix::thread::set_no_new_privs(true) {
            missing.push(format!("no_new_privs: {error}"));
        }
        if let Err(error) = calls::allow_few() {
            missing.push(format!("no seccomp: {error}"));
        }
    }
    #[cfg(not(target_os = "linux"))]
    missing.push("this system has no seccomp".into());
    missing.join("; ")
}

#[cfg(target_os = "linux")]
mod calls {
    use std::collections::BTreeMap;

    use libc::{
        PROT_EXEC, SYS_brk, SYS_clock_gettime, SYS_close, SYS_exit, SYS_exit_group, SYS_futex, SYS_getpid,
        SYS_getrandom, SYS_gettid, SYS_gettimeofday, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
        SYS_read, SYS_readv, SYS_recvfrom, SYS_restart_syscall, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
        SYS_sched_yield, SYS_sendto, SYS_sigaltstack, SYS_tgkill, SYS_write, SYS_writev,
    };
    use seccompiler::SeccompCmpArgLen::{Dword, Qword};
    use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
    };

    /// Allows only these system calls, on all threads. All others fail with `EPERM`, so that a C library
    /// which tries alternatives goes on. Nothing can be opened, started, signalled or mapped as executable.
    pub(super) fn allow_few() -> Result<(), Box<dyn std::error::Error>> {
        let whole = [
            SYS_brk,
            SYS_clock_gettime,
            SYS_close,
            SYS_exit,
            SYS_exit_group,
            SYS_futex,
            SYS_getpid,
            SYS_getrandom,
            SYS_gettid,
            SYS_gettimeofday,
            SYS_madvise,
            SYS_mremap,
            SYS_munmap,
            SYS_read,
            SYS_readv,
            SYS_recvfrom,
            SYS_restart_syscall,
            SYS_rt_sigaction,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_sched_yield,
            SYS_sigaltstack,
            SYS_write,
            SYS_writev,
        ];
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = whole.into_iter().map(|call| (call, Vec::new())).collect();
        let only = |condition| SeccompRule::new(vec![condition]).map(|rule| vec![rule]);
        let not_executable = || SeccompCondition::new(2, Dword, MaskedEq(PROT_EXEC as u64), 0);
        rules.insert(SYS_mmap, only(not_executable()?)?);
        rules.insert(SYS_mprotect, only(not_executable()?)?);
        // `abort` signals this process. No other process can be signalled.
        rules.insert(SYS_tgkill, only(SeccompCondition::new(0, Dword, Eq, u64::from(std::process::id()))?)?);
        // Permits sending to the socket's peer, but to no other address.
        rules.insert(SYS_sendto, only(SeccompCondition::new(4, Qword, Eq, 0)?)?);
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
        let program: BpfProgram = filter.try_into()?;
        apply_filter_all_threads(&program)?;
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    /// Not a test: the process that the next test starts.
    #[test]
    #[ignore = "the confined process of another test"]
    fn tries_everything() {
        if std::env::var_os("SETTEE_TRIES_EVERYTHING").is_none() {
            return;
        }
        let other = rustix::process::getppid().expect("a parent");
        super::begin(false);
        let missing = super::lock();
        let allowed = |what: bool, name: &str| if what { format!("{name} ") } else { String::new() };
        let tried = [
            allowed(std::fs::read("/etc/hostname").is_ok() || std::fs::read("/proc/self/status").is_ok(), "read"),
            allowed(std::fs::write(std::env::temp_dir().join("settee-confined"), "x").is_ok(), "write"),
            allowed(std::fs::read_dir("/").is_ok(), "list"),
            allowed(std::net::TcpListener::bind("127.0.0.1:0").is_ok(), "listen"),
            allowed(std::net::UdpSocket::bind("127.0.0.1:0").is_ok(), "udp"),
            allowed(std::os::unix::net::UnixStream::pair().is_ok(), "socket"),
            allowed(Command::new("/bin/true").spawn().is_ok(), "exec"),
            allowed(std::thread::Builder::new().spawn(|| ()).is_ok(), "thread"),
            allowed(rustix::process::test_kill_process(other).is_ok(), "signal"),
        ];
        // Reports by the exit status: a confined process has no other output.
        std::process::exit(if missing.is_empty() && tried.concat().is_empty() { 55 } else { 56 });
    }

    #[test]
    fn a_confined_process_cannot_open_start_or_signal_anything() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["query::script::confine::tests::tries_everything", "--exact", "--ignored", "--nocapture"])
            .env("SETTEE_TRIES_EVERYTHING", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(55));
    }
}
