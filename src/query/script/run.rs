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

use super::call::{Call, Outcome, Stop};
use super::failure::timed_out;
use super::limits::{Limits, process_memory};
use super::process::{Killed, Process};
use super::rows::TOO_LARGE;
use super::wire::Cause;
use super::worker_requests::{self, Listener};
use crate::error::{Error, Result};

/// Bytes of items that are sent at once, if they are more than one.
const CHUNK: usize = 1 << 20;

/// What a seat asks of the pool.
pub(super) trait ProcessSource: Send + Sync {
    fn limits(&self) -> Limits;

    /// Starts a process for the worker `number`, and waits until it is ready.
    fn replace(&self, number: u64, memory: u64) -> Result<Process>;

    /// Counts a process that ended without the server's doing.
    fn count_died(&self);
}

/// A thread of the pool with the worker that it owns, while it does a job.
pub(super) struct Seat {
    pub source: Arc<dyn ProcessSource>,
    pub number: u64,
    pub process: Option<Process>,
    /// Room of the job beyond the usual.
    pub room: usize,
    pub lines: usize,
}

impl Seat {
    pub fn limits(&self) -> Limits {
        self.source.limits()
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
        let ended = worker_requests::run(process, &mut listener, env, chunk, careful, limits);
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
                let reason = TOO_LARGE.into();
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
                self.source.count_died();
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
