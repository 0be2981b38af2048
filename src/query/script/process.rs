//! The server's side of one script worker: starting it, asking it, its CPU time, its memory limit, its end.

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

/// The hidden first argument by which this program becomes a script worker: see [`work`].
pub const WORKER: &str = "script-worker";
/// How long a worker may take to start. Seconds only on a machine that has no time for anything.
const START: Duration = Duration::from_secs(60);
/// Read at once from a worker.
const BUFFER: usize = 64 << 10;
/// Longest frame but for answers.
const SHORT: usize = 1 << 20;

/// Why a worker was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Killed {
    /// It was not; it ended by itself.
    No = 0,
    /// It went over its CPU time, or over the time on the wall that nothing may take.
    Time = 1,
    /// Nobody waits for what it does.
    Cancelled = 2,
    /// It is not needed any more.
    Idle = 3,
    /// It sent what no worker of ours sends.
    Wrong = 4,
}

/// What the watcher needs of a worker.
pub(super) struct Handle {
    child: Mutex<Child>,
    pid: u32,
    killed: AtomicU8,
    /// Counts what a worker has answered: a new item is at work.
    beat: AtomicU64,
    /// A list function waits for its client.
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

    pub fn beat(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// CPU time that the process has used. `None` where the system does not say.
    #[cfg(target_os = "linux")]
    pub fn cpu(&self) -> Option<Duration> {
        let pid = libc::pid_t::try_from(self.pid).ok()?;
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to the places that they are given, which live as long as the calls.
        let told = unsafe {
            libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
        };
        told.then(|| Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn cpu(&self) -> Option<Duration> {
        None
    }

    /// From now on others come first.
    pub fn stand_back(&self) {
        self.alive(|pid| {
            let _ = rustix::process::setpriority_process(Some(pid), 10);
        });
    }

    /// Does something with the process while it is not reaped: its number is no other's then.
    fn alive<R>(&self, work: impl FnOnce(rustix::process::Pid) -> R) -> Option<R> {
        let mut child = self.child.lock();
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        matches!(child.try_wait(), Ok(None)).then(|| work(pid))
    }

    /// Bytes of memory that are its own, from now on at most. False if the system does not limit it.
    #[cfg(target_os = "linux")]
    pub fn limit_memory(&self, bytes: u64) -> bool {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        // Only the lower of the two limits: the upper one, which is this process's, could not be raised again. The worker
        // may not change either.
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

/// A worker and the socket to it. Dropping it kills the process and waits for its end, so that none is left behind.
pub(super) struct Process {
    pub handle: Arc<Handle>,
    input: BufReader<UnixStream>,
    output: UnixStream,
    payload: Vec<u8>,
    /// Items that it has run.
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
    /// Starts a worker. Call it on a thread that lives longer than the worker: a worker is killed when the thread that
    /// started it ends.
    pub fn start(memory: u64) -> io::Result<Process> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = command()?;
        command.env_clear();
        // Memory is taken as it is used: what is only set aside would count against the limit.
        command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
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

    /// Waits until it is confined; what it could not give up, in words.
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

    /// The next frame of the worker.
    ///
    /// # Errors
    /// It has ended, or sent what is no frame of at most `limit` bytes.
    pub fn receive(&mut self, limit: usize) -> io::Result<Answer> {
        let kind = wire::receive(&mut self.input, &mut self.payload, limit.saturating_add(SHORT))?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = Answer::read(kind, &self.payload).ok_or_else(wrong)?;
        self.payload.clear();
        self.payload.shrink_to(BUFFER);
        Ok(answer)
    }

    /// Ends it, if it has not ended. Whether something else had killed it: the system, as memory ran short, or a person.
    pub fn bury(self) -> (Killed, bool) {
        use std::os::unix::process::ExitStatusExt;
        let killed = self.handle.killed();
        self.handle.kill(Killed::Idle);
        let status = self.handle.child.lock().wait().ok();
        let by_others = killed == Killed::No && status.and_then(|status| status.signal()) == Some(libc::SIGKILL);
        (killed, by_others)
    }

    /// Items were answered, or a new one was sent.
    pub fn tick(&self) {
        self.handle.beat.fetch_add(1, Ordering::Relaxed);
    }

    /// Until `false` is given, time passes that is not the script's.
    pub fn wait(&self, waits: bool) {
        self.handle.waits.store(waits, Ordering::Relaxed);
        self.tick();
    }
}

pub(super) fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a script worker sent what it must not")
}

/// This program as a worker.
#[cfg(not(test))]
fn command() -> io::Result<Command> {
    use std::os::unix::process::CommandExt;
    // On Linux the program that runs, also when its file has been replaced since.
    let own = std::path::Path::new("/proc/self/exe");
    let program = if cfg!(target_os = "linux") && own.exists() { own.to_owned() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg0("settee").arg(WORKER);
    Ok(command)
}

/// The program of the tests, which becomes a worker by one of its tests.
#[cfg(test)]
fn command() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["query::script::worker::tests::becomes_a_worker", "--exact", "--ignored", "--nocapture"]);
    Ok(command)
}
