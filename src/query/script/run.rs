//! Running a job's items in a worker, and finding out which item is to blame when a worker fails.
//!
//! ```text
//! open the environment > RUN a chunk of items > answers ... DONE
//!   FAILED at an item: it used up its time, or its memory (again in a fresh process: others may have left it little)
//!   the worker died: the chunk is sent again to a fresh one, carefully, so that the next death tells the item
//!   an item is to blame: would the function run a small document? no: the function is to blame, and the job fails
//!                                                                 yes: the item is, and the others go on without it
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Limits;
use super::failure::{failure, timed_out, worded};
use super::pool::Pool;
use super::process::{Killed, Process, wrong};
use super::wire::{self, Answer, Cause, Open, Run};
use crate::error::{Error, Result};

/// Environments that one worker keeps.
const ENVIRONMENTS: usize = 32;
/// An environment that nobody has used for so long goes.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes that the environments of a worker at rest may hold together.
const KEPT: u64 = 24 << 20;
/// An input of n bytes may need this many times n as JavaScript values, on top of the memory limit.
const INPUT_FACTOR: usize = 24;
/// As above with all that a process holds of an input beside that.
const PROCESS_FACTOR: usize = INPUT_FACTOR + 4;
/// Room for inputs that every worker has.
const SLACK: usize = 16 << 20;
/// What a worker needs beside its environments: its program, its stack, what it sends.
const PROGRAM: usize = 16 << 20;
/// Bytes of items that are sent at once, if they are more than one.
const CHUNK: usize = 1 << 20;
/// Bytes that the items sent at once may answer, unless the call says less.
pub(super) const ANSWERS: usize = 256 << 20;
/// Lines of scripts' `log` in one job that come into the server's log.
const LINES: usize = 1000;
/// What a function is tried with that a document seems to be too much for.
pub(super) const SMALL: &str = r#"{"_id":"small","_rev":"1-00000000000000000000000000000000"}"#;

/// What an environment was made for; equal keys may share one in the same worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// The map functions of a view signature.
    Map { signature: String },
    /// A list of reduce functions.
    Reduce { functions: Arc<Vec<String>> },
    /// A design document's functions, called by one user (its `userCtx`).
    Design { id: String, rev: String, user: String },
    /// Used once.
    Once,
}

impl Key {
    /// Whether `other` is what this was before the design document was changed.
    fn replaces(&self, other: &Key) -> bool {
        match (self, other) {
            (Key::Design { id, rev, .. }, Key::Design { id: other, rev: old, .. }) => id == other && rev != old,
            _ => false,
        }
    }
}

/// The environments of one worker, the least recently used first.
#[derive(Default)]
pub(super) struct Environments {
    list: Vec<(Key, u64, Instant)>,
    next: u64,
}

/// The way out of a running list function: it is handed a part of the response, and answers the next row. None after the
/// last row; an error when nobody listens any more.
pub(super) type Exchange = Box<dyn FnMut(String) -> std::result::Result<Option<String>, ()> + Send>;

/// What is to be run.
pub(super) struct Call<'a> {
    pub key: &'a Key,
    /// The entry and the JSON by which a new environment is filled.
    pub fill: Option<(&'static str, &'a str)>,
    pub entry: &'static str,
    pub text: &'a str,
    /// JSON that all items share, or nothing.
    pub shared: &'a str,
    /// JSON of each item.
    pub items: &'a [String],
    /// Items become frozen values.
    pub frozen: bool,
    /// An item that any function has time and memory for: tells whether the function or an item is to blame.
    pub probe: Option<&'static str>,
    /// After so many items that overran, the rest are not tried.
    pub most_overruns: usize,
    /// Bytes that the items sent at once may answer.
    pub most_bytes: usize,
    pub exchange: Option<Exchange>,
}

/// What became of an item.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(String),
    /// The function threw.
    Threw(Error),
    /// The function ended its environment, as CouchDB lets it.
    Fatal(Error),
    /// The item used up time or memory.
    Overran(Error),
}

impl Outcome {
    pub fn result(self) -> Result<String> {
        match self {
            Outcome::Answer(text) => Ok(text),
            Outcome::Threw(error) | Outcome::Fatal(error) | Outcome::Overran(error) => Err(error),
        }
    }
}

/// How a chunk ended before its end.
enum Stop {
    Failed(Cause, Error),
    Died,
}

/// The memory of a worker's process without room for large inputs.
pub(super) fn process_memory(limits: &Limits) -> usize {
    limits.memory.saturating_add(PROGRAM).saturating_add(SLACK)
}

/// What a job needs beyond [`process_memory`], whose longest input has `bytes`.
pub(super) fn room(bytes: usize) -> usize {
    let needed = bytes.saturating_mul(PROCESS_FACTOR);
    if needed <= SLACK { 0 } else { needed }
}

/// A thread of the pool with the worker that it owns, while it does a job.
pub(super) struct Seat {
    pub pool: Arc<Pool>,
    pub number: u64,
    pub process: Option<Process>,
    /// Room of the job beyond the usual.
    pub room: usize,
    pub lines: usize,
}

impl Seat {
    pub fn limits(&self) -> Limits {
        self.pool.limits()
    }

    /// Runs the items, in their order.
    ///
    /// # Errors
    /// The environment cannot be made (the functions do not compile), the function overruns on any item, the caller went
    /// away, or there is no worker.
    pub fn call(&mut self, mut call: Call<'_>) -> Result<Vec<Outcome>> {
        let limits = self.limits();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(call.items.len());
        let (mut careful, mut judged, mut overruns, mut again) = (false, call.probe.is_none(), 0, None);
        while outcomes.len() < call.items.len() {
            let at = outcomes.len();
            let chunk = &call.items[at..at + chunk(&call.items[at..])];
            let stop = match self.open(&call, &limits)? {
                None => Some(Stop::Died),
                Some(env) => self.run(&mut call, env, chunk, careful, &limits, &mut outcomes)?,
            };
            let failed = outcomes.len();
            let (cause, error) = match stop {
                None => continue,
                Some(Stop::Failed(Cause::Thrown, error)) => {
                    outcomes.push(Outcome::Fatal(error));
                    continue;
                }
                Some(Stop::Failed(Cause::Memory, error)) => {
                    let items = self.process.as_ref().map_or(0, |process| process.items);
                    // Others have used this process before, and may have left little.
                    if items > 1 && again != Some(failed) {
                        self.process = None;
                        (again, careful) = (Some(failed), true);
                        continue;
                    }
                    (Cause::Memory, error)
                }
                Some(Stop::Failed(Cause::Time, error)) => (Cause::Time, error),
                Some(Stop::Died) => {
                    let Grave { cause, error, by_others } = self.buried()?;
                    if by_others && again == Some(failed) {
                        return Err(error);
                    }
                    // Killed for its time, or dead of its first item in a fresh process; and no item came after it.
                    let alone = careful || failed + 1 == at + chunk.len();
                    let certain = alone && (cause == Cause::Time || again == Some(failed));
                    if !certain && call.exchange.is_none() {
                        (again, careful) = (Some(failed), true);
                        continue;
                    }
                    (cause, error)
                }
            };
            careful = true;
            if !judged {
                self.judge(&call, &limits, &error)?;
                judged = true;
            }
            outcomes.push(Outcome::Overran(error.clone()));
            if call.exchange.is_some() {
                break;
            }
            overruns += usize::from(cause == Cause::Time);
            if overruns >= call.most_overruns {
                outcomes.resize_with(call.items.len(), || Outcome::Overran(error.clone()));
            }
        }
        Ok(outcomes)
    }

    /// An error if the function overruns on an item that is not to blame for anything.
    fn judge(&mut self, call: &Call<'_>, limits: &Limits, error: &Error) -> Result<()> {
        let probe = [call.probe.unwrap_or_default().to_owned()];
        let mut again = Call { exchange: None, items: &probe, ..*call };
        for _ in 0..2 {
            let Some(env) = self.open(&again, limits)? else {
                self.buried()?;
                continue;
            };
            return match self.run(&mut again, env, &probe, true, limits, &mut Vec::new())? {
                None | Some(Stop::Failed(Cause::Thrown, _)) => Ok(()),
                Some(Stop::Failed(..)) => Err(error.clone()),
                Some(Stop::Died) => {
                    let grave = self.buried()?;
                    Err(if grave.by_others { grave.error } else { error.clone() })
                }
            };
        }
        Err(error.clone())
    }

    /// The environment for a call, made if there is none. `None`: the worker died of it, and another may be tried.
    fn open(&mut self, call: &Call<'_>, limits: &Limits) -> Result<Option<u64>> {
        let mut tried = false;
        loop {
            if self.process.is_none() {
                let memory = process_memory(limits).saturating_add(self.room);
                self.process = Some(self.pool.clone().replace(self.number, memory as u64)?);
            }
            let Some(process) = &mut self.process else { continue };
            let opened = open(process, call, limits, &mut self.lines);
            match opened {
                Ok(Ok(env)) => return Ok(Some(env)),
                Ok(Err((Cause::Memory, _))) if process.items > 0 && !tried => {
                    self.process = None;
                    tried = true;
                }
                Ok(Err((_, error))) => return Err(error),
                Err(error) => {
                    tracing::debug!(target: "settee::script", "a script worker: {error}");
                    let grave = self.buried()?;
                    if tried {
                        return Err(grave.error);
                    }
                    tried = true;
                }
            }
        }
    }

    /// Runs a chunk; `None` if all of it was answered.
    fn run(
        &mut self,
        call: &mut Call<'_>,
        env: u64,
        chunk: &[String],
        careful: bool,
        limits: &Limits,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<Option<Stop>> {
        let Some(process) = &mut self.process else { return Ok(Some(Stop::Died)) };
        let before = outcomes.len();
        let mut listener = Listener { call, outcomes, most: before + chunk.len(), lines: &mut self.lines };
        let ended = run(process, &mut listener, env, chunk, careful, limits);
        let answered = outcomes.len() - before;
        match ended {
            Ok(None) if answered == chunk.len() => Ok(None),
            Ok(Some(stop)) if answered < chunk.len() => Ok(Some(stop)),
            Ok(_) => {
                tracing::warn!(target: "settee::script", "a script worker answered too little or too much");
                process.handle.kill(Killed::Wrong);
                Ok(Some(Stop::Died))
            }
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                self.process = None;
                let reason = super::TOO_LARGE.into();
                Err(Error::Script { word: "InternalError".into(), reason })
            }
            Err(error) => {
                tracing::debug!(target: "settee::script", "a script worker: {error}");
                if error.kind() == std::io::ErrorKind::InvalidData {
                    process.handle.kill(Killed::Wrong);
                }
                Ok(Some(Stop::Died))
            }
        }
    }

    /// Why the worker died, whose process is removed. An error if nobody waits for the job any more.
    fn buried(&mut self) -> Result<Grave> {
        let died = |cause, error| Ok(Grave { cause, error, by_others: false });
        let Some(process) = self.process.take() else { return died(Cause::Memory, out_of_memory()) };
        match process.bury() {
            (Killed::Time, _) => died(Cause::Time, timed_out()),
            (Killed::Cancelled | Killed::Idle, _) => {
                Err(Error::Script { word: "os_process_error".into(), reason: "caller went away".into() })
            }
            (Killed::No, true) => {
                let error = Error::Internal("a script worker was killed by the system, perhaps for its memory".into());
                Ok(Grave { cause: Cause::Memory, error, by_others: true })
            }
            (Killed::No | Killed::Wrong, _) => {
                self.pool.stats().died();
                died(Cause::Memory, out_of_memory())
            }
        }
    }
}

/// Why a worker died.
struct Grave {
    cause: Cause,
    error: Error,
    /// Nothing that it ran is to blame.
    by_others: bool,
}

fn out_of_memory() -> Error {
    Error::Script { word: "InternalError".into(), reason: "out of memory".into() }
}

/// How many of the first items are sent at once.
fn chunk(items: &[String]) -> usize {
    let mut bytes = 0;
    items
        .iter()
        .take_while(|item| {
            bytes += item.len();
            bytes <= CHUNK
        })
        .count()
        .max(1)
}

fn micros(limit: Duration) -> u64 {
    u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)
}

/// The error of a frame `FAILED`. Without a word its reason is the sandbox's text.
fn told(cause: Cause, word: String, reason: String) -> Error {
    match (cause, word.is_empty()) {
        (Cause::Time, _) => timed_out(),
        (_, true) => failure(&reason),
        _ => worded(word, reason),
    }
}

/// Makes the environment of a call in a worker, if it has none. The outer error is the worker's end.
fn open(
    process: &mut Process,
    call: &Call<'_>,
    limits: &Limits,
    lines: &mut usize,
) -> std::io::Result<std::result::Result<u64, (Cause, Error)>> {
    let now = Instant::now();
    let list = &mut process.environments.list;
    if let Some(at) = list.iter().position(|(key, ..)| key == call.key && *key != Key::Once) {
        let (key, env, _) = list.remove(at);
        list.push((key, env, now));
        return Ok(Ok(env));
    }
    let most = list.len().saturating_sub(ENVIRONMENTS - 1);
    let mut gone = Vec::new();
    let mut at = 0;
    list.retain(|(key, env, used)| {
        at += 1;
        let goes = at <= most || *key == Key::Once || now - *used > IDLE || call.key.replaces(key);
        gone.extend(goes.then_some(*env));
        !goes
    });
    for env in gone {
        process.send(&wire::number(wire::CLOSE, env))?;
    }
    let env = process.environments.next;
    process.environments.next += 1;
    let (entry, source) = call.fill.unwrap_or(("", ""));
    let memory = limits.memory.saturating_add(source.len().saturating_mul(INPUT_FACTOR)) as u64;
    process.tick();
    process.send(&Open { env, memory, limit: micros(limits.timeout), entry, source }.frame())?;
    loop {
        match process.receive(0)? {
            Answer::Done { .. } => {
                process.environments.list.push((call.key.clone(), env, now));
                return Ok(Ok(env));
            }
            Answer::Failed { cause, word, reason, .. } => return Ok(Err((cause, told(cause, word, reason)))),
            Answer::Log(line) => log(lines, &line),
            _ => return Err(wrong()),
        }
    }
}

/// Where what a worker sends goes while it runs a chunk.
struct Listener<'a, 'b> {
    call: &'a mut Call<'b>,
    outcomes: &'a mut Vec<Outcome>,
    /// Outcomes after the chunk.
    most: usize,
    lines: &'a mut usize,
}

/// Runs a chunk in a worker. The error is the worker's end.
fn run(
    process: &mut Process,
    listener: &mut Listener<'_, '_>,
    env: u64,
    chunk: &[String],
    careful: bool,
    limits: &Limits,
) -> std::io::Result<Option<Stop>> {
    let call = &mut *listener.call;
    let most_bytes = call.most_bytes;
    let longest = chunk.iter().map(String::len).max().unwrap_or(0).saturating_add(call.shared.len());
    let memory = limits.memory.saturating_add(longest.saturating_mul(INPUT_FACTOR));
    let frame = Run {
        env,
        memory: memory as u64,
        limit: micros(limits.timeout),
        careful,
        frozen: call.frozen,
        entry: call.entry,
        text: call.text,
        shared: call.shared,
        items: chunk.iter().map(String::as_str).collect(),
    };
    process.tick();
    process.send(&frame.frame())?;
    let mut bytes = 0usize;
    loop {
        match process.receive(memory)? {
            Answer::Answers(texts) => {
                if texts.is_empty() || listener.outcomes.len() + texts.len() > listener.most {
                    return Err(wrong());
                }
                process.items += texts.len() as u64;
                process.tick();
                for text in texts {
                    bytes += text.len();
                    listener.outcomes.push(match text.strip_prefix('!') {
                        Some(told) => Outcome::Threw(failure(told)),
                        None => Outcome::Answer(text),
                    });
                }
                if bytes > most_bytes {
                    return Err(std::io::ErrorKind::FileTooLarge.into());
                }
            }
            Answer::Log(line) => log(listener.lines, &line),
            Answer::Part(part) => {
                let Some(exchange) = &mut listener.call.exchange else { return Err(wrong()) };
                process.wait(true);
                let next = exchange(part);
                process.wait(false);
                process.send(&match &next {
                    Ok(Some(row)) => wire::texts(wire::ROW, &[row]),
                    Ok(None) => wire::texts(wire::END, &[]),
                    Err(()) => wire::texts(wire::GONE, &[]),
                })?;
            }
            Answer::Done { memory } => {
                rest(process, memory)?;
                return Ok(None);
            }
            Answer::Failed { cause, word, reason, memory } => {
                process.items += 1;
                process.environments.list.retain(|(_, kept, _)| *kept != env);
                rest(process, memory)?;
                return Ok(Some(Stop::Failed(cause, told(cause, word, reason))));
            }
            Answer::Ready(_) => return Err(wrong()),
        }
    }
}

/// Lets go of environments that hold much.
fn rest(process: &mut Process, memory: u64) -> std::io::Result<()> {
    if memory > KEPT {
        for (_, env, _) in std::mem::take(&mut process.environments.list) {
            process.send(&wire::number(wire::CLOSE, env))?;
        }
    }
    Ok(())
}

fn log(lines: &mut usize, line: &str) {
    *lines += 1;
    match *lines {
        ..LINES => tracing::info!(target: "settee::script", "log: {line}"),
        LINES => tracing::info!(target: "settee::script", "log: more lines of this call are left out"),
        _ => {}
    }
}
