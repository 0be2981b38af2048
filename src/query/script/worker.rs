//! The main program of a script worker: a confined process that runs the functions of one database.
//!
//! ```text
//! settee script-worker     standard input is one end of a socket pair; nothing else is inherited
//!   begin > a thread with a large stack > confine > READY > requests until the socket ends
//! ```
//!
//! The thread runs one request at a time. Whatever a function does to this process (use up its memory, loop
//! in native code, even take it over) ends with the process: the server kills it and starts another one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use super::confine;
use super::engine::{Calls, Clock, Ended, Environment, Link, STACK, warm_up};
use super::wire::{self, Cause, Open, Run};

/// Answers are sent when they reach this size in bytes or this age.
const ENOUGH: usize = 32 << 10;
const LATE: Duration = Duration::from_millis(20);
/// Maximum number of `log` lines per request.
const LINES: usize = 1000;

/// Runs this process as a script worker until the server closes the socket. Must be called before anything
/// else, while this is the only thread.
pub fn work() -> ExitCode {
    if !is_socket() {
        return ExitCode::from(2);
    }
    confine::begin(true);
    socket().map_or(ExitCode::FAILURE, serve_on)
}

/// Whether this process was started with a socket as its standard input.
fn is_socket() -> bool {
    rustix::net::sockopt::socket_type(io::stdin()).is_ok()
}

fn socket() -> io::Result<UnixStream> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn serve_on(socket: UnixStream) -> ExitCode {
    let thread = std::thread::Builder::new().name("script".into()).stack_size(STACK);
    let served = thread.spawn(move || {
        warm_up().map_err(|ended| io::Error::other(ended.reason))?;
        let link = Rc::new(Socket::new(socket)?);
        let note = confine::lock();
        link.send(&wire::texts(wire::READY, &[&note]))?;
        Worker { environments: HashMap::new(), clock: Rc::new(Clock::default()), link }.serve()
    });
    match served.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

struct Socket {
    input: RefCell<BufReader<UnixStream>>,
    output: RefCell<BufWriter<UnixStream>>,
    lines: Cell<usize>,
}

impl Socket {
    fn new(socket: UnixStream) -> io::Result<Socket> {
        let output = RefCell::new(BufWriter::with_capacity(ENOUGH, socket.try_clone()?));
        Ok(Socket { input: RefCell::new(BufReader::with_capacity(ENOUGH, socket)), output, lines: Cell::new(0) })
    }

    fn receive(&self, payload: &mut Vec<u8>) -> io::Result<Option<u8>> {
        wire::receive(&mut *self.input.borrow_mut(), payload, wire::FRAME_LIMIT)
    }

    /// Sends a frame together with the frames written before it.
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.write(frame)?;
        self.output.borrow_mut().flush()
    }

    /// Writes a frame into the buffer; the next `send` flushes it.
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        wire::send(&mut *self.output.borrow_mut(), frame)
    }
}

impl Link for Socket {
    fn log(&self, message: &str) {
        let lines = self.lines.get();
        if lines < LINES {
            self.lines.set(lines + 1);
            // If the server is gone, reading the next request ends this process.
            let _ = self.write(&wire::texts(wire::LOG, &[message]));
        }
    }

    fn exchange(&self, part: &str) -> Result<Option<String>, ()> {
        let mut payload = Vec::new();
        self.send(&wire::texts(wire::PART, &[part])).map_err(drop)?;
        match self.receive(&mut payload).map_err(drop)? {
            Some(wire::ROW) => wire::only_text(&payload).map(|row| Some(row.to_owned())).ok_or(()),
            Some(wire::END) => Ok(None),
            _ => Err(()),
        }
    }
}

struct Worker {
    environments: HashMap<u64, Environment>,
    clock: Rc<Clock>,
    link: Rc<Socket>,
}

impl Worker {
    fn serve(mut self) -> io::Result<()> {
        let mut payload = Vec::new();
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        while let Some(kind) = self.link.receive(&mut payload)? {
            self.link.lines.set(0);
            match kind {
                wire::OPEN => {
                    let open = Open::read(&payload).ok_or_else(wrong)?;
                    let opened = self.open(&open);
                    self.answer(opened)?;
                }
                wire::RUN => {
                    let run = Run::read(&payload).ok_or_else(wrong)?;
                    let ran = self.run(&run)?;
                    if ran.is_err() {
                        self.environments.remove(&run.env);
                    }
                    self.answer(ran)?;
                }
                wire::CLOSE => {
                    let env = wire::only_number(&payload).ok_or_else(wrong)?;
                    self.environments.remove(&env);
                }
                _ => return Err(wrong()),
            }
            // Releases the memory of a large request.
            payload.clear();
            payload.shrink_to(ENOUGH);
        }
        Ok(())
    }

    /// Reports how a request ended.
    fn answer(&self, ended: Result<(), Ended>) -> io::Result<()> {
        let memory = self.environments.values().map(|environment| environment.account().used() as u64).sum();
        self.link.send(&match ended {
            Ok(()) => wire::number(wire::DONE, memory),
            Err(Ended { cause, word, reason }) => wire::failed(cause, &word, &reason, memory),
        })
    }

    fn open(&mut self, open: &Open<'_>) -> Result<(), Ended> {
        let memory = usize::try_from(open.memory).unwrap_or(usize::MAX);
        let environment = Environment::new(memory, self.clock.clone(), self.link.clone())?;
        if !open.entry.is_empty() {
            environment.with(|calls| {
                calls.start(Clock::now(), Duration::from_micros(open.limit));
                let entry = calls.entry(open.entry)?;
                let answer = calls.call(&entry, (calls.parse(open.source)?,))?;
                match answer.strip_prefix('!') {
                    // Contains the whole `[word, reason, fatal]`; the server parses it.
                    Some(told) => Err(Ended { cause: Cause::Thrown, word: String::new(), reason: told.into() }),
                    None => Ok(()),
                }
            })?;
        }
        self.environments.insert(open.env, environment);
        Ok(())
    }

    /// Runs items and sends their answers. The outer error is an error of the socket.
    fn run(&self, run: &Run<'_>) -> io::Result<Result<(), Ended>> {
        let Some(environment) = self.environments.get(&run.env) else {
            return Ok(Err(Ended::broken("no such environment")));
        };
        environment.account().set_limit(usize::try_from(run.memory).unwrap_or(usize::MAX));
        let mut answers = Answers { link: &self.link, waiting: Vec::new(), bytes: 0, sent: Clock::now(), failed: None };
        let limit = Duration::from_micros(run.limit);
        self.clock.start(Clock::now(), limit);
        let ran = environment.with(|calls| items(calls, run, limit, &mut answers));
        // `DONE` or `FAILED` follows immediately: with one write for both, the server wakes up once.
        answers.write();
        match answers.failed {
            Some(error) => Err(error),
            None => Ok(ran),
        }
    }
}

fn items(calls: &Calls<'_>, run: &Run<'_>, limit: Duration, answers: &mut Answers<'_>) -> Result<(), Ended> {
    let entry = calls.entry(run.entry)?;
    let shared = match run.shared {
        "" => calls.undefined(),
        json => calls.parse(json)?,
    };
    let text = calls.text(run.text)?;
    let mut freezer = run.frozen.then(|| calls.freezer());
    for item in &run.items {
        let now = Clock::now();
        if run.careful || now.saturating_sub(answers.sent) > LATE {
            answers.send();
            answers.sent = now;
        }
        calls.start(now, limit);
        let frozen = freezer.as_mut().and_then(|freezer| freezer.value(item));
        let is_frozen = frozen.is_some();
        let value = match frozen {
            Some(value) => value,
            None => calls.parse(item)?,
        };
        let answer = match run.frozen {
            true => calls.call(&entry, (value, is_frozen))?,
            false => calls.call(&entry, (value, text.clone(), shared.clone()))?,
        };
        answers.push(answer);
        if answers.failed.is_some() {
            break;
        }
    }
    Ok(())
}

/// Answers that wait to be sent.
struct Answers<'a> {
    link: &'a Socket,
    waiting: Vec<String>,
    bytes: usize,
    /// CPU time of the last send.
    sent: Duration,
    failed: Option<io::Error>,
}

impl Answers<'_> {
    fn push(&mut self, answer: String) {
        self.bytes += answer.len();
        self.waiting.push(answer);
        if self.bytes >= ENOUGH {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.write() {
            let sent = self.link.output.borrow_mut().flush();
            self.failed = self.failed.take().or(sent.err());
        }
    }

    /// Writes the waiting answers into the buffer. Returns `false` if there are none.
    fn write(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let texts: Vec<&str> = self.waiting.iter().map(String::as_str).collect();
        let written = self.link.write(&wire::texts(wire::ANSWERS, &texts));
        self.failed = self.failed.take().or(written.err());
        self.waiting.clear();
        self.bytes = 0;
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Not a test: the main program of the worker processes that tests of this crate start.
    #[test]
    #[ignore = "the worker process of other tests"]
    fn becomes_a_worker() {
        if is_socket() {
            confine::begin(false);
            let _ = socket().map(serve_on);
            std::process::exit(0);
        }
    }
}
