//! Requests to a worker process: creates environments in it and runs chunks of items.

use std::time::{Duration, Instant};

use super::call::{Call, Outcome, Stop};
use super::environments::Key;
use super::failure::{failure, timed_out, worded};
use super::limits::{INPUT_FACTOR, Limits};
use super::process::{Process, wrong};
use super::wire::{self, Answer, Cause, Open, Run};
use crate::error::Error;

/// Maximum number of environments of one worker.
const ENVIRONMENTS: usize = 32;
/// Environments unused for this long are closed.
const IDLE: Duration = Duration::from_secs(10);
/// Maximum memory that the environments of an idle worker may hold together, in bytes.
const KEPT: u64 = 24 << 20;
/// Maximum number of lines of scripts' `log` per job that go to the server's log.
pub(super) const LINES: usize = 1000;

fn micros(limit: Duration) -> u64 {
    u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)
}

/// Converts a `FAILED` frame to an error. If the word is empty, the reason is the sandbox's JSON text.
fn told(cause: Cause, word: String, reason: String) -> Error {
    match (cause, word.is_empty()) {
        (Cause::Time, _) => timed_out(),
        (_, true) => failure(&reason),
        _ => worded(word, reason),
    }
}

/// Returns the number of a call's environment and creates it if the worker has none. The outer error means
/// that the worker failed.
pub(super) fn open(
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

/// Receives what a worker sends while it runs a chunk.
pub(super) struct Listener<'a, 'b> {
    pub call: &'a mut Call<'b>,
    pub outcomes: &'a mut Vec<Outcome>,
    /// Number of outcomes after the whole chunk.
    pub most: usize,
    pub lines: &'a mut usize,
}

/// Runs a chunk in a worker. An error means that the worker failed, or (`FileTooLarge`) that the answers
/// exceed the call's limit.
pub(super) fn run(
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

/// Closes all environments if they hold much memory.
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
        LINES => tracing::info!(target: "settee::script", "log: further lines of this call are omitted"),
        _ => {}
    }
}
