//! Runs a job's items in a worker, and finds out which item caused a failure.
//!
//! ```text
//! open the environment > RUN a chunk of items > answers ... DONE
//!   FAILED at an item: it exceeded its time or its memory. Memory: run it again in a fresh process, because
//!                      earlier items may have left little.
//!   the worker died: send the chunk to a fresh worker with one answer per frame, so that the next death
//!                    identifies the item
//!   an item failed: does the function run on a small document?  no: the function is the cause, the job fails
//!                                                               yes: skip the item, continue with the rest
//! ```

use std::sync::Arc;

use super::call::{Call, Outcome, Stop};
use super::failure::timed_out;
use super::limits::{Limits, process_memory};
use super::process::{Killed, Process};
use super::rows::TOO_LARGE;
use super::wire::Cause;
use super::worker_requests::{self, Listener};
use crate::error::{Error, Result};

/// Maximum size in bytes of a chunk of several items. A larger item is sent alone.
const CHUNK: usize = 1 << 20;

/// What a seat needs from the pool.
pub(super) trait ProcessSource: Send + Sync {
    fn limits(&self) -> Limits;

    /// Starts a process for the worker `number` and waits until it is ready.
    fn replace(&self, number: u64, memory: u64) -> Result<Process>;

    /// Counts a process that ended by itself.
    fn count_died(&self);
}

/// A thread of the pool and the worker process that it owns.
pub(super) struct Seat {
    pub source: Arc<dyn ProcessSource>,
    pub number: u64,
    pub process: Option<Process>,
    /// Extra memory of the current job in bytes (see `limits::room`).
    pub room: usize,
    /// Log lines of the current job so far.
    pub lines: usize,
}

impl Seat {
    pub fn limits(&self) -> Limits {
        self.source.limits()
    }

    /// Runs the items in order and returns one outcome per item.
    ///
    /// # Errors
    /// The environment cannot be created (the functions do not compile), the function exceeds its limits even
    /// on the probe, the caller is gone, or no worker can be started.
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
                    // Earlier items of this process may have left little memory.
                    if items > 1 && again != Some(failed) {
                        self.process = None;
                        (again, careful) = (Some(failed), true);
                        continue;
                    }
                    (Cause::Memory, error)
                }
                Some(Stop::Failed(Cause::Time, error)) => (Cause::Time, error),
                Some(Stop::Died) => {
                    let Death { cause, error, by_others } = self.reap()?;
                    if by_others && again == Some(failed) {
                        return Err(error);
                    }
                    // The cause is certain if the worker was killed for its CPU time, or died again in a
                    // fresh process; and if no other item could have been running.
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

    /// Runs the call's probe. Returns an error if the function exceeds its limits on it as well.
    fn judge(&mut self, call: &Call<'_>, limits: &Limits, error: &Error) -> Result<()> {
        // Suppresses log lines: they would name the probe, which is a document of no database.
        let lines = std::mem::replace(&mut self.lines, worker_requests::LINES);
        let verdict = self.run_probe(call, limits, error);
        self.lines = lines;
        verdict
    }

    fn run_probe(&mut self, call: &Call<'_>, limits: &Limits, error: &Error) -> Result<()> {
        let probe = [call.probe.unwrap_or_default().to_owned()];
        let mut again = Call { exchange: None, items: &probe, ..*call };
        for _ in 0..2 {
            let Some(env) = self.open(&again, limits)? else {
                self.reap()?;
                continue;
            };
            return match self.run(&mut again, env, &probe, true, limits, &mut Vec::new())? {
                None | Some(Stop::Failed(Cause::Thrown, _)) => Ok(()),
                Some(Stop::Failed(..)) => Err(error.clone()),
                Some(Stop::Died) => {
                    let death = self.reap()?;
                    Err(if death.by_others { death.error } else { error.clone() })
                }
            };
        }
        Err(error.clone())
    }

    /// Returns the environment for a call and creates it if there is none. Starts a worker process if needed.
    /// Tries twice.
    fn open(&mut self, call: &Call<'_>, limits: &Limits) -> Result<Option<u64>> {
        let mut tried = false;
        loop {
            if self.process.is_none() {
                let memory = process_memory(limits).saturating_add(self.room);
                self.process = Some(self.source.replace(self.number, memory as u64)?);
            }
            let Some(process) = &mut self.process else { continue };
            let opened = worker_requests::open(process, call, limits, &mut self.lines);
            match opened {
                Ok(Ok(env)) => return Ok(Some(env)),
                Ok(Err((Cause::Memory, _))) if process.items > 0 && !tried => {
                    self.process = None;
                    tried = true;
                }
                Ok(Err((_, error))) => return Err(error),
                Err(error) => {
                    tracing::debug!(target: "settee::script", "a script worker failed: {error}");
                    let death = self.reap()?;
                    if tried {
                        return Err(death.error);
                    }
                    tried = true;
                }
            }
        }
    }

    /// Runs a chunk. Returns `None` if all of its items were answered.
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
        let ended = worker_requests::run(process, &mut listener, env, chunk, careful, limits);
        let answered = outcomes.len() - before;
        match ended {
            Ok(None) if answered == chunk.len() => Ok(None),
            Ok(Some(stop)) if answered < chunk.len() => Ok(Some(stop)),
            Ok(_) => {
                tracing::warn!(target: "settee::script", "a script worker sent too few or too many answers");
                process.handle.kill(Killed::Wrong);
                Ok(Some(Stop::Died))
            }
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                self.process = None;
                let reason = TOO_LARGE.into();
                Err(Error::Script { word: "InternalError".into(), reason })
            }
            Err(error) => {
                tracing::debug!(target: "settee::script", "a script worker failed: {error}");
                if error.kind() == std::io::ErrorKind::InvalidData {
                    process.handle.kill(Killed::Wrong);
                }
                Ok(Some(Stop::Died))
            }
        }
    }

    /// Removes the dead worker process and returns why it died.
    ///
    /// # Errors
    /// The caller no longer waits for the job.
    fn reap(&mut self) -> Result<Death> {
        let died = |cause, error| Ok(Death { cause, error, by_others: false });
        let Some(process) = self.process.take() else { return died(Cause::Memory, out_of_memory()) };
        match process.reap() {
            (Killed::Time, _) => died(Cause::Time, timed_out()),
            (Killed::Cancelled | Killed::Idle, _) => {
                Err(Error::Script { word: "os_process_error".into(), reason: "caller went away".into() })
            }
            (Killed::No, true) => {
                let error =
                    Error::Internal("a script worker was killed from outside, perhaps because memory ran short".into());
                Ok(Death { cause: Cause::Memory, error, by_others: true })
            }
            (Killed::No | Killed::Wrong, _) => {
                self.source.count_died();
                died(Cause::Memory, out_of_memory())
            }
        }
    }
}

/// Why a worker died.
struct Death {
    cause: Cause,
    error: Error,
    /// Something outside killed it (the system or a person), so no item is the cause.
    by_others: bool,
}

fn out_of_memory() -> Error {
    Error::Script { word: "InternalError".into(), reason: "out of memory".into() }
}

/// Returns how many of the first items make up the next chunk.
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
