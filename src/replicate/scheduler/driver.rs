//! The task that starts passes when they are due, and the handle through which jobs are added and removed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::job::{Ended, Job, Origin, Run};
use super::settings::Settings;
use super::table::{Counts, Now, Start, Table};
use crate::blocking::panicked;
use crate::clock::Clock;
use crate::replicate::Failure;

/// How long a pass may take for its last checkpoint after the request to stop.
const GRACE: Duration = Duration::from_secs(5);
/// The random delay of a start grows by this with each pass that runs, up to `startup_jitter`: a single job does not
/// wait, and a server that starts with hundreds does not send hundreds of requests in one moment.
const JITTER_OF_ONE: Duration = Duration::from_millis(10);

/// Says whether a database here may have changes after a sequence. Does not wait; true when in doubt.
pub type HasChanges = Box<dyn Fn(&str, u64) -> bool + Send + Sync>;

/// What happened to the job of a document.
#[derive(Debug)]
pub struct Report {
    pub job: Arc<Job>,
    pub what: What,
}

/// What happened to a job.
#[derive(Debug)]
pub enum What {
    /// It is complete, and no longer in the table.
    Completed,
    /// It failed, and will be tried again.
    Crashed(Failure),
}

/// The scheduler of a server.
pub struct Scheduler {
    pub(super) table: Mutex<Table>,
    /// Rung when something may be due.
    changed: Notify,
    clock: Clock,
    has_changes: HasChanges,
    reports: mpsc::UnboundedSender<Report>,
}

impl Scheduler {
    /// Creates a scheduler without jobs. What happens to the jobs of documents is sent to the second part.
    pub fn new(clock: Clock, has_changes: HasChanges) -> (Arc<Scheduler>, mpsc::UnboundedReceiver<Report>) {
        let (reports, receiver) = mpsc::unbounded_channel();
        let scheduler = Scheduler { table: Mutex::default(), changed: Notify::new(), clock, has_changes, reports };
        (Arc::new(scheduler), receiver)
    }

    /// Takes changed settings.
    pub fn configure(&self, settings: Settings) {
        self.table.lock().configure(settings);
        self.changed.notify_one();
    }

    /// Adds the job of a document; one of the same document with the same id that does other work is replaced.
    ///
    /// # Errors
    /// A job with this id has another origin, which is returned.
    pub fn add(&self, job: Job) -> Result<(), Origin> {
        let mut table = self.table.lock();
        if let Some(row) = table.get(&job.id)
            && row.job.origin != job.origin
        {
            return Err(row.job.origin.clone());
        }
        table.add(Arc::new(job), self.now());
        drop(table);
        self.changed.notify_one();
        Ok(())
    }

    /// Adds the job of a request, and subscribes to its end. If a job with this id does the same work, that one goes on;
    /// if it does other work, or has other credentials, it is replaced. `permit` is called under the lock, before
    /// anything changes, with the job that has this id and a count of the jobs that the user has begun.
    ///
    /// # Errors
    /// Those of `permit`.
    pub fn join<E>(
        &self,
        job: Job,
        permit: impl FnOnce(Option<&Job>, &dyn Fn() -> usize) -> Result<(), E>,
    ) -> Result<Option<oneshot::Receiver<Ended>>, E> {
        let id = job.id.clone();
        let mut table = self.table.lock();
        let known = table.get(&id).map(|row| row.job.clone());
        let begun = || job.user.user.name.as_deref().map_or(0, |name| table.count_of_requests(name));
        permit(known.as_deref(), &begun)?;
        if known.is_none_or(|known| !known.does_the_work_of(&job)) {
            table.add(Arc::new(job), self.now());
        }
        let end = table.wait(&id);
        drop(table);
        self.changed.notify_one();
        Ok(end)
    }

    /// The job with this id.
    pub fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.table.lock().get(id).map(|row| row.job.clone())
    }

    /// Removes a job if `permit` allows it, and stops it.
    ///
    /// # Errors
    /// Those of `permit`.
    pub fn remove<E>(&self, id: &str, permit: impl FnOnce(&Job) -> Result<(), E>) -> Result<Option<Arc<Job>>, E> {
        let mut table = self.table.lock();
        let Some(row) = table.get(id) else { return Ok(None) };
        permit(&row.job)?;
        let removed = table.remove(id, self.now());
        drop(table);
        self.changed.notify_one();
        Ok(removed)
    }

    /// Removes the job of this id if it comes from `origin`, and stops it: meanwhile, somebody else may have begun a
    /// replication with the same id.
    pub fn remove_of(&self, id: &str, origin: &Origin) -> Option<Arc<Job>> {
        let is_of = |job: &Job| if job.origin == *origin { Ok(()) } else { Err(()) };
        self.remove(id, is_of).ok().flatten()
    }

    /// Starts a job now that waits after a crash.
    pub fn retry(&self, id: &str) {
        self.table.lock().retry(id);
        self.changed.notify_one();
    }

    /// A database here has a commit: wakes the jobs that read it.
    pub fn wake(&self, source: &str) {
        self.wake_if(source, |sequence| (self.has_changes)(source, sequence));
    }

    /// A database here was created or deleted: wakes the jobs that read it, whatever sequence they know.
    pub fn wake_always(&self, source: &str) {
        self.wake_if(source, |_| true);
    }

    /// Most commits concern no job: they do not wake the driver.
    fn wake_if(&self, source: &str, has_changes: impl Fn(u64) -> bool) {
        let is_awake = self.table.lock().wake(source, has_changes);
        if is_awake {
            self.changed.notify_one();
        }
    }

    /// How many jobs there are.
    pub fn counts(&self) -> Counts {
        self.table.lock().counts()
    }

    pub(super) fn now(&self) -> Now {
        Now { instant: Instant::now(), epoch: self.clock.since_epoch() }
    }

    /// Starts passes when they are due, for ever. When this is dropped, all passes are stopped.
    pub async fn drive(self: Arc<Self>, runner: Arc<dyn Run>) {
        let _stop = StopAll(self.clone());
        loop {
            let (starts, next) = {
                let mut table = self.table.lock();
                (table.due(self.now()), table.next_time())
            };
            for start in starts {
                self.start(start, runner.clone());
            }
            let timer = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = timer => {}
            }
        }
    }

    fn start(self: &Arc<Self>, start: Start, runner: Arc<dyn Run>) {
        let Start { job, pass, stop, running, is_first } = start;
        let delay = if is_first { self.jitter(running) } else { Duration::ZERO };
        if is_first {
            let (id, replication) = (&*job.id, &job.replication.parameters);
            tracing::info!(id, source = %replication.source, target = %replication.target, "replication starts");
        }
        let scheduler = self.clone();
        tokio::spawn(async move {
            let work = async {
                tokio::select! {
                    () = sleep(delay), if !delay.is_zero() => {}
                    () = stop.cancelled(), if !delay.is_zero() => return Ended::Stopped,
                    else => {}
                }
                runner.run(&job, &stop).await
            };
            let ended = tokio::select! {
                ended = AssertUnwindSafe(work).catch_unwind() => ended.unwrap_or_else(|panic| {
                    Ended::Crashed(Failure::Server(panicked(&*panic)))
                }),
                () = overdue(&stop) => Ended::Stopped,
            };
            scheduler.ended(&job, pass, ended);
        });
    }

    /// A random time, longer the more passes run.
    fn jitter(&self, running: usize) -> Duration {
        let count = u32::try_from(running).unwrap_or(u32::MAX).saturating_sub(1);
        let most = self.table.lock().settings().startup_jitter.min(JITTER_OF_ONE.saturating_mul(count));
        let mut random = [0; 8];
        self.clock.fill_random(&mut random);
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(u64::from_le_bytes(random) % most.saturating_add(1))
    }

    fn ended(&self, job: &Arc<Job>, pass: u64, ended: Ended) {
        let source = job.local_source().unwrap_or_default();
        let has_changes = |sequence| (self.has_changes)(source, sequence);
        let known = self.table.lock().ended(&job.id, pass, &ended, self.now(), has_changes);
        self.changed.notify_one();
        let Some(job) = known else { return };
        let id = &*job.id;
        let what = match ended {
            Ended::Completed(_) => {
                tracing::info!(id, "replication is complete");
                What::Completed
            }
            Ended::Crashed(failure) => {
                tracing::warn!(id, reason = failure.to_string(), "replication failed");
                What::Crashed(failure)
            }
            Ended::CaughtUp { .. } | Ended::Stopped => return,
        };
        if matches!(job.origin, Origin::Document { .. }) {
            // The receiver lives as long as the server serves.
            let _ = self.reports.send(Report { job, what });
        }
    }
}

/// Returns when the time that a pass has after the request to stop is over.
async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(GRACE).await;
}

/// Stops all passes when it is dropped.
struct StopAll(Arc<Scheduler>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.table.lock().stop_all();
    }
}
