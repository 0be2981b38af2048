//! Makes the job of a document: computes the id of the replication, and schedules the job or tries again later.
//!
//! The id may need a filter function of the source, so a task computes it and reports to the follower.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::Wish;
use super::follow::{Follower, Tasks, Work};
use super::rows::{Ends, Key, Row};
use super::write;
use crate::replicate::scheduler::{Job, JobId, Origin};
use crate::replicate::{Failure, Progress, Replication, ReplicationId};

/// The shortest time, in seconds, after which a filter function is read again.
const FILTER_CHECK: u64 = 60;
/// After a failure the id is computed again after a random time of at most so many seconds...
const ERROR_WAIT: u64 = 64;
/// ... doubled after each further failure, at most this often.
const MOST_DOUBLINGS: u32 = 12;
const DAY: u64 = 86_400;

impl Follower {
    /// Begins to compute the id of a new or changed replication. The job of the previous version of the document goes
    /// on until the id shows whether it is still the same job.
    pub(super) fn initialize(self: &Arc<Self>, tasks: &mut Tasks, key: &Key, digest: u64, wish: Wish) {
        let now = self.of.clock.since_epoch().as_secs();
        let wish = Arc::new(wish);
        let version = {
            let mut rows = self.of.rows.lock();
            let version = rows.next_version();
            let before = rows.of_key(key).map(|row| (row.job.take(), row.job_digest));
            let (job, job_digest) = before.unwrap_or((None, digest));
            let ends = Box::new(Ends::of(&wish.parameters));
            let (wish, error) = (Some(wish.clone()), None);
            let (updated, started) = (now, now);
            let row = Row { version, digest, wish, ends, job, job_digest, error, errors: 0, updated, started };
            rows.insert(key, row);
            version
        };
        self.compute_id(&tasks.work, key.clone(), version, wish);
    }

    /// Computes the id of a replication in a task. Only a filter function takes time: it is fetched from the source.
    fn compute_id(self: &Arc<Self>, work: &mpsc::UnboundedSender<Work>, key: Key, version: u64, wish: Arc<Wish>) {
        let (follower, work) = (self.clone(), work.clone());
        tokio::spawn(async move {
            let _turn = match Row::has_filter_function(&wish) {
                true => follower.of.fetches.acquire().await.ok(),
                false => None,
            };
            let id = match follower.environment.context(&wish.user).await {
                Ok(context) => ReplicationId::of(&context, &wish.parameters).await,
                Err(error) => Err(Failure::Server(error)),
            };
            let _ = work.send(Work::IdComputed(key, version, id));
        });
    }

    /// Computes the ids again whose time has come.
    pub(super) fn compute_due_ids(self: &Arc<Self>, tasks: &mut Tasks) {
        let now = Instant::now();
        while let Some((at, _, _)) = tasks.due.first()
            && *at <= now
        {
            let Some((_, key, version)) = tasks.due.pop_first() else { break };
            let wish = self.of.rows.lock().of_version(&key, version).and_then(|row| row.wish.clone());
            if let Some(wish) = wish {
                self.compute_id(&tasks.work, key, version, wish);
            }
        }
    }

    /// Schedules the job of a document, whose id is known now.
    pub(super) fn schedule(self: &Arc<Self>, tasks: &mut Tasks, key: &Key, version: u64, id: ReplicationId) {
        let (wish, started, old, digest, job_digest) = {
            let mut rows = self.of.rows.lock();
            let Some(row) = rows.of_version(key, version) else { return };
            let Some(wish) = row.wish.clone() else { return };
            (wish, row.started, row.job.clone(), row.digest, row.job_digest)
        };
        let job_id: JobId = id.to_string().into();
        let added = self.of.scheduler.add(Job {
            id: job_id.clone(),
            replication: Arc::new(Replication { id, parameters: wish.parameters.clone() }),
            origin: key.origin(),
            user: wish.user.clone(),
            added: started,
            progress: Progress::new(),
        });
        match added {
            Ok(()) => {}
            Err(Origin::Request) => {
                let reason = format!(
                    "Replication `{job_id}` specified by document `{}` already running as a transient replication, \
                     started via `_replicate` API endpoint",
                    key.id
                );
                return self.try_later(tasks, key, version, &Failure::BadRequest(reason));
            }
            Err(Origin::Document { database, id }) => {
                let reason = format!(
                    "Replication `{job_id}` specified by document `{}` already started, triggered by document `{id}` \
                     from db `{database}`",
                    key.id
                );
                self.forget(key);
                return self.write_later(key, digest, write::failed(&reason));
            }
        }
        match old {
            Some(old) if old != job_id => self.stop(key, Some(old)),
            // Somebody has changed the document, and the job is the same: if it waits after a failure, it is tried now.
            Some(_) if job_digest != digest => self.of.scheduler.retry(&job_id),
            Some(_) | None => {}
        }
        if !self.keep_job(tasks, key, version, &job_id) {
            // The document was changed or deleted in this moment.
            return self.stop(key, Some(job_id));
        }
        if self.environment.updates_docs() {
            self.write_later(key, digest, write::triggered(&job_id));
        }
    }

    /// Records the job in the document's row. A replication with a filter function is also noted for the next look at
    /// that function. Returns whether the row still has this version.
    fn keep_job(&self, tasks: &mut Tasks, key: &Key, version: u64, job: &JobId) -> bool {
        let mut rows = self.of.rows.lock();
        let total = rows.len();
        let Some(row) = rows.of_version(key, version) else { return false };
        row.job = Some(job.clone());
        row.job_digest = row.digest;
        (row.error, row.errors) = (None, 0);
        if row.wish.as_deref().is_some_and(Row::has_filter_function) {
            let range = 1 + (total as u64 / 5).min(DAY);
            let wait = Duration::from_secs(FILTER_CHECK + 1 + self.random(range));
            tasks.due.insert((Instant::now() + wait, key.clone(), version));
        } else {
            row.wish = None;
        }
        true
    }

    /// The id cannot be computed now, or a request runs the same replication: tries again later.
    pub(super) fn try_later(self: &Arc<Self>, tasks: &mut Tasks, key: &Key, version: u64, failure: &Failure) {
        let reason = failure.reason();
        let (digest, job, wait) = {
            let mut rows = self.of.rows.lock();
            let Some(row) = rows.of_version(key, version) else { return };
            let range = ERROR_WAIT << row.errors.min(MOST_DOUBLINGS);
            row.errors = row.errors.saturating_add(1);
            row.error = Some(reason.clone().into());
            row.updated = self.of.clock.since_epoch().as_secs();
            (row.digest, row.job.take(), Duration::from_secs(1 + self.random(range)))
        };
        let (database, id) = (&*key.database, &*key.id);
        tracing::warn!(database, id, reason, "a replication cannot be started and will be tried again");
        self.stop(key, job);
        tasks.due.insert((Instant::now() + wait, key.clone(), version));
        if self.environment.updates_docs() {
            self.write_later(key, digest, write::error(&reason, None));
        }
    }

    /// A random number below `range`.
    fn random(&self, range: u64) -> u64 {
        let mut bytes = [0; 8];
        self.of.clock.fill_random(&mut bytes);
        u64::from_le_bytes(bytes) % range.max(1)
    }
}
