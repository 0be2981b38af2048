//! The server's side of one script worker process: start, requests, CPU time, memory limit, end.

use std::io::{self, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::environments::Environments;
use super::wire::{self, Answer};
use crate::allocator;

/// The hidden first argument that makes this program a script worker: see [`super::work`].
pub const WORKER: &str = "script-worker";
/// How long a worker may take to start. It takes seconds only on an overloaded machine.
const START: Duration = Duration::from_secs(60);
/// Size of the read buffer in bytes.
const BUFFER: usize = 64 << 10;
/// Maximum size in bytes of frames other than answers.
const SHORT: usize = 1 << 20;

/// Why a worker was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Killed {
    /// It was not killed by the server.
    No = 0,
    /// It exceeded its CPU time or the maximum wall-clock time.
    Time = 1,
    /// The caller no longer waits for its job.
    Cancelled = 2,
    /// It is no longer needed.
    Idle = 3,
    /// It violated the protocol.
    Wrong = 4,
}

/// The part of a process that the watcher shares.
pub(super) struct Handle {
    child: Mutex<Child>,
    pid: u32,
    killed: AtomicU8,
    /// Changes whenever items are answered or sent: the worker has begun another item.
    beat: AtomicU64,
    /// Whether a list function waits for its client.
    waits: AtomicBool,
}

impl Handle {
    pub fn kill(&self, why: Killed) {
        let _ = self.killed.compare_exchange(Killed::No as u8, why as u8, Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.child.lock().kill();
    }

    pub fn killed(&self) -> Killed {
        match self.killed.load(Ordering::Relaxed) {
            1 => Killed::Time,
            2 => Killed::Cancelled,
            3 => Killed::Idle,
            4 => Killed::Wrong,
            _ => Killed::No,
        }
    }

    #[cfg(test)]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn beat(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// CPU time that the process has used; `None` if the system does not report it.
    #[cfg(target_os = "linux")]
    pub fn cpu(&self) -> Option<Duration> {
        let pid = libc::pid_t::try_from(self.pid).ok()?;
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write only to the given variables, which outlive the calls.
        let told = unsafe {
            libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
        };
        told.then(|| Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn cpu(&self) -> Option<Duration> {
        None
    }

    /// Lowers the priority of the process.
    pub fn stand_back(&self) {
        self.alive(|pid| {
            let _ = rustix::process::setpriority_process(Some(pid), 10);
        });
    }

    /// Calls `work` unless the process has been reaped: until then its pid cannot belong to another process.
    fn alive<R>(&self, work: impl FnOnce(rustix::process::Pid) -> R) -> Option<R> {
        let mut child = self.child.lock();
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        matches!(child.try_wait(), Ok(None)).then(|| work(pid))
    }

    /// Sets the limit of private memory in bytes. Returns `false` if the system cannot limit it.
    #[cfg(target_os = "linux")]
    pub fn limit_memory(&self, bytes: u64) -> bool {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        // Sets only the soft limit: the hard limit, which the worker inherits from this process, could not be
        // raised again once it was lowered. The worker itself may change neither.
        let maximum = getrlimit(Resource::Data).maximum;
        let current = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
        let limit = |pid| prlimit(Some(pid), Resource::Data, Rlimit { current, maximum }).is_ok();
        self.alive(limit).unwrap_or(true)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn limit_memory(&self, _bytes: u64) -> bool {
        false
    }
}

/// A worker process and the socket to it. Dropping it kills the process and waits for its end, so that no
/// process is left behind.
pub(super) struct Process {
    pub handle: Arc<Handle>,
    input: BufReader<UnixStream>,
    output: UnixStream,
    payload: Vec<u8>,
    /// Number of items that it has run.
    pub items: u64,
    pub environments: Environments,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.handle.kill(Killed::Idle);
        let _ = self.handle.child.lock().wait();
    }
}

impl Process {
    /// Starts a worker. The calling thread must outlive the worker: the system kills the worker when the
    /// thread that started it ends.
    pub fn start(memory: u64) -> io::Result<Process> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = command()?;
        command.env_clear();
        // Returns unused memory to the system: it would count against the limit.
        command.env(allocator::VARIABLE, "narenas:1,retain:false");
        if let Some(zone) = std::env::var_os("TZ") {
            command.env("TZ", zone);
        }
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        let handle = Handle {
            pid: child.id(),
            child: Mutex::new(child),
            killed: AtomicU8::new(0),
            beat: AtomicU64::new(0),
            waits: AtomicBool::new(false),
        };
        let process = Process {
            handle: Arc::new(handle),
            input: BufReader::with_capacity(BUFFER, ours.try_clone()?),
            output: ours,
            payload: Vec::new(),
            items: 0,
            environments: Environments::default(),
        };
        process.handle.limit_memory(memory);
        Ok(process)
    }

    /// Waits until the worker is confined. Returns a text that lists the missing protections.
    pub fn ready(&mut self) -> io::Result<String> {
        self.output.set_read_timeout(Some(START))?;
        let answer = self.receive(SHORT)?;
        self.output.set_read_timeout(None)?;
        match answer {
            Answer::Ready(note) => Ok(note),
            _ => Err(wrong()),
        }
    }

    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        wire::send(&mut self.output, frame)
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// The worker has ended, or sent an invalid frame or one that is longer than `limit` allows.
    pub fn receive(&mut self, limit: usize) -> io::Result<Answer> {
        let kind = wire::receive(&mut self.input, &mut self.payload, limit.saturating_add(SHORT))?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = Answer::read(kind, &self.payload).ok_or_else(wrong)?;
        self.payload.clear();
        self.payload.shrink_to(BUFFER);
        Ok(answer)
    }

    /// Ends the process. Returns why the server killed it, and whether something else killed it: the system
    /// because memory ran short, or a person.
    pub fn reap(self) -> (Killed, bool) {
        use std::os::unix::process::ExitStatusExt;
        let killed = self.handle.killed();
        self.handle.kill(Killed::Idle);
        let status = self.handle.child.lock().wait().ok();
        let by_others = killed == Killed::No && status.and_then(|status| status.signal()) == Some(libc::SIGKILL);
        (killed, by_others)
    }

    /// Notes that items were answered or sent.
    pub fn tick(&self) {
        self.handle.beat.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether the script waits for its client: that time does not count.
    pub fn wait(&self, waits: bool) {
        self.handle.waits.store(waits, Ordering::Relaxed);
        self.tick();
    }
}

pub(super) fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a script worker violated the protocol")
}

/// The command that runs this program as a worker.
#[cfg(not(test))]
fn command() -> io::Result<Command> {
    use std::os::unix::process::CommandExt;
    // On Linux, this is the running program even if its file has been replaced since.
    let own = std::path::Path::new("/proc/self/exe");
    let program = if cfg!(target_os = "linux") && own.exists() { own.to_owned() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg0("settee").arg(WORKER);
    Ok(command)
}

/// The test program; one of its tests turns it into a worker.
#[cfg(test)]
fn command() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["query::script::worker::tests::becomes_a_worker", "--exact", "--ignored", "--nocapture"]);
    Ok(command)
}
