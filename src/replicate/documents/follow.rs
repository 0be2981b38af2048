//! Follows the `_replicator` databases: reads their changes, and writes the outcome of jobs into the documents.
//! `identify` makes a job of a document.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::body::{digest, parse};
use super::environment::{Environment, Turn};
use super::list::Documents;
use super::names::holds_replications;
use super::rows::{Followed, Key};
use super::write;
use crate::blocking::blocking;
use crate::clock::iso8601;
use crate::db::{Database, DbEventKind, Wanted};
use crate::error::{Error, Result};
use crate::replicate::scheduler::listing::info;
use crate::replicate::scheduler::{JobId, Origin, Report, What};
use crate::replicate::{Failure, ReplicationId};
use crate::store::{Direction, PageLimit};

/// Changes that are read at once.
const PAGE: usize = 100;
/// Names of databases, and rows of `_db_updates`, that are read at once.
const NAMES: usize = 1000;
/// The pause after a failed read.
const AGAIN: Duration = Duration::from_secs(3);

/// What the task waits for.
pub(super) enum Work {
    /// A database was created, written or deleted.
    Moved(Arc<str>),
    /// The id of a document's replication was computed, or could not be.
    IdComputed(Key, u64, std::result::Result<ReplicationId, Failure>),
}

/// The state of the task, except for the rows.
pub(super) struct Tasks {
    pub work: mpsc::UnboundedSender<Work>,
    /// When the id of a document is to be computed again.
    pub due: BTreeSet<(Instant, Key, u64)>,
    /// Databases that could not be read.
    unread: HashSet<Arc<str>>,
    /// When they are read again. Other work does not put it off.
    retry_at: Option<Instant>,
}

/// A changed document: its id, and its body unless it was deleted.
type Changed = (String, Option<Map<String, Value>>);

/// The task that follows the databases.
pub(super) struct Follower {
    pub of: Arc<Documents>,
    pub environment: Arc<dyn Environment>,
    /// Whether this node follows the documents, and not another one.
    follows: AtomicBool,
}

impl Documents {
    /// Follows all `_replicator` databases for as long as the server runs, and wakes the jobs of databases that
    /// have commits.
    pub async fn run(self: Arc<Self>, environment: Arc<dyn Environment>, reports: mpsc::UnboundedReceiver<Report>) {
        Arc::new(Follower { of: self, environment, follows: AtomicBool::new(false) }).run(reports).await;
    }
}

impl Follower {
    async fn run(self: Arc<Self>, mut reports: mpsc::UnboundedReceiver<Report>) {
        let (sender, mut work) = mpsc::unbounded_channel();
        // Subscribe, then read, so that no change falls between.
        let events = self.clone().follow_events(sender.clone());
        let mut tasks = Tasks { work: sender, due: BTreeSet::new(), unread: HashSet::new(), retry_at: None };
        let process = async {
            loop {
                let Turn(ended) = self.environment.turn().await;
                self.follows.store(true, Ordering::Release);
                tokio::select! {
                    () = self.process_all(&mut tasks, &mut work, &mut reports) => {}
                    () = ended => {}
                }
                self.stop_all(&mut tasks, &mut work);
            }
        };
        tokio::join!(events, process);
    }

    /// Finds all documents, and follows them for as long as this node may.
    async fn process_all(
        self: &Arc<Self>,
        tasks: &mut Tasks,
        work: &mut mpsc::UnboundedReceiver<Work>,
        reports: &mut mpsc::UnboundedReceiver<Report>,
    ) {
        self.find_all(tasks).await;
        loop {
            let next = tasks.due.first().map(|(at, _, _)| *at);
            let timer = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let retry_at = tasks.retry_at;
            let retry = async {
                match retry_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(work) = work.recv() => self.process(tasks, work).await,
                Some(report) = reports.recv() => self.report(report),
                () = timer => self.compute_due_ids(tasks),
                () = retry => {
                    tasks.retry_at = None;
                    for name in std::mem::take(&mut tasks.unread) {
                        self.follow(tasks, &name).await;
                    }
                }
            }
        }
    }

    /// Stops the jobs of all documents: another node follows them from now on.
    fn stop_all(&self, tasks: &mut Tasks, work: &mut mpsc::UnboundedReceiver<Work>) {
        self.follows.store(false, Ordering::Release);
        while work.try_recv().is_ok() {}
        tasks.due.clear();
        tasks.unread.clear();
        tasks.retry_at = None;
        let names: Vec<Arc<str>> = self.of.followed.lock().keys().cloned().collect();
        names.iter().for_each(|name| self.forget_database(name));
    }

    /// Reads `_db_updates`, which the server records anyway.
    fn follow_events(self: Arc<Self>, work: mpsc::UnboundedSender<Work>) -> impl Future<Output = ()> {
        let mut moved = self.of.databases.watch_events();
        let mut done = self.of.databases.last_event();
        async move {
            loop {
                moved.borrow_and_update();
                let databases = self.of.databases.clone();
                match blocking(move || databases.events_after(done, NAMES)).await {
                    Ok(events) => {
                        let is_last = events.len() < NAMES;
                        for event in events {
                            done = event.sequence;
                            match event.kind {
                                DbEventKind::Updated => self.of.scheduler.wake(&event.name),
                                DbEventKind::Created | DbEventKind::Deleted => {
                                    self.of.scheduler.wake_always(&event.name)
                                }
                            }
                            if self.follows.load(Ordering::Acquire) && holds_replications(&event.name) {
                                let _ = work.send(Work::Moved(event.name.into()));
                            }
                        }
                        if !is_last {
                            continue;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "_db_updates cannot be read for replications and will be read again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
                if moved.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Finds the databases that are there when the server starts.
    async fn find_all(&self, tasks: &Tasks) {
        let mut start: Option<String> = None;
        loop {
            let (databases, from) = (self.of.databases.clone(), start.clone());
            let page = blocking(move || databases.names(from.as_deref(), None, true, false, 0, NAMES)).await;
            let names = match page {
                Ok(names) => names,
                Err(error) => {
                    tracing::warn!(%error, "the _replicator databases cannot be listed and will be listed again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let is_last = names.len() < NAMES;
            start = names.last().map(|last| format!("{last}\0"));
            for name in names.into_iter().filter(|name| holds_replications(name)) {
                let _ = tasks.work.send(Work::Moved(name.into()));
            }
            if is_last {
                return;
            }
        }
    }

    async fn process(self: &Arc<Self>, tasks: &mut Tasks, work: Work) {
        match work {
            Work::Moved(name) => self.follow(tasks, &name).await,
            Work::IdComputed(key, version, Ok(id)) => self.schedule(tasks, &key, version, id),
            Work::IdComputed(key, version, Err(failure)) => self.try_later(tasks, &key, version, &failure),
        }
    }

    /// Reads what is new in a database.
    async fn follow(self: &Arc<Self>, tasks: &mut Tasks, name: &Arc<str>) {
        if let Err(error) = self.read_changes(tasks, name).await {
            tracing::warn!(database = &**name, %error, "a database of replications cannot be read and will be read again");
            tasks.unread.insert(name.clone());
            tasks.retry_at.get_or_insert_with(|| Instant::now() + AGAIN);
        }
    }

    async fn read_changes(self: &Arc<Self>, tasks: &mut Tasks, name: &Arc<str>) -> Result<()> {
        let (databases, wanted) = (self.of.databases.clone(), name.clone());
        let database = match blocking(move || databases.get(&wanted)).await {
            Ok(database) => database,
            Err(Error::NoDatabase | Error::IllegalDatabaseName(_)) => {
                self.forget_database(name);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let known = self.of.followed.lock().get(name).map(|followed| (followed.number, followed.done));
        let mut done = match known {
            Some((number, done)) if number == database.number() => done,
            Some(_) => {
                self.forget_database(name);
                0
            }
            None => 0,
        };
        loop {
            let of = database.clone();
            let (changed, last, is_last) = match blocking(move || changes(&of, done)).await {
                Err(Error::NoDatabase) => return Ok(()),
                read => read?,
            };
            for (id, members) in changed {
                let key = Key { database: name.clone(), id: id.into() };
                match members {
                    Some(members) => self.changed(tasks, &key, &members),
                    None => self.forget(&key),
                }
            }
            done = last.max(done);
            self.of.followed.lock().insert(name.clone(), Followed { number: database.number(), done });
            if is_last {
                return Ok(());
            }
        }
    }

    fn forget_database(&self, name: &Arc<str>) {
        self.of.followed.lock().remove(name);
        let rows = self.of.rows.lock().remove_all(name);
        for (id, row) in rows {
            self.stop(&Key { database: name.clone(), id }, row.job);
        }
    }

    /// Forgets a document, and stops its job.
    pub(super) fn forget(&self, key: &Key) {
        let row = self.of.rows.lock().remove(key);
        if let Some(row) = row {
            self.stop(key, row.job);
        }
    }

    /// Stops the job of a document, but not one of `_replicate` that has its id by now.
    pub(super) fn stop(&self, key: &Key, job: Option<JobId>) {
        if let Some(job) = job {
            self.of.scheduler.remove_of(&job, &key.origin());
        }
    }

    /// Looks at a document that has changed.
    fn changed(self: &Arc<Self>, tasks: &mut Tasks, key: &Key, members: &Map<String, Value>) {
        let digest = digest(members);
        match members.get("_replication_state").and_then(Value::as_str) {
            Some("completed" | "failed") => return self.forget(key),
            // Left by an earlier server, or by this one before `update_docs` was turned off.
            Some("triggered" | "error") if !self.environment.updates_docs() => {
                self.write_later(key, digest, write::none());
            }
            _ => {}
        }
        let known = {
            let rows = self.of.rows.lock();
            let row = rows.get(&key.database, &key.id).filter(|row| row.digest == digest);
            row.map(|row| (row.job.clone(), row.error.is_some()))
        };
        if let Some((job, is_error)) = known {
            // Somebody has written the same content again: try at once what waits after a failure.
            let is_asked = !members.contains_key("_replication_state");
            if let Some(job) = job.filter(|_| is_asked) {
                self.of.scheduler.retry(&job);
                return;
            }
            if !(is_asked && is_error) {
                return;
            }
        }
        match parse(members, &self.environment.defaults()) {
            Ok(wish) => self.initialize(tasks, key, digest, wish),
            Err(wrong) => {
                let (database, id, reason) = (&*key.database, &*key.id, wrong.reason());
                tracing::warn!(database, id, reason, "a replication document cannot be read");
                self.forget(key);
                self.write_later(key, digest, write::failed(reason));
            }
        }
    }

    /// Processes a report about the job of a document.
    fn report(self: &Arc<Self>, report: Report) {
        let Origin::Document { database, id } = &report.job.origin else { return };
        let key = Key { database: database.clone(), id: id.clone() };
        let digest = {
            let rows = self.of.rows.lock();
            let Some(row) = rows.get(database, id) else { return };
            if row.job.as_deref() != Some(&*report.job.id) {
                return;
            }
            row.job_digest
        };
        match report.what {
            What::Completed => {
                let mut stats = info(&report.job.progress.totals());
                stats["start_time"] = iso8601(report.job.added).into();
                let documents = self.of.clone();
                tokio::spawn(async move {
                    if documents.write(&key, digest, &write::completed(stats)).await {
                        documents.forget_version(&key, digest);
                    }
                });
            }
            What::Crashed(failure) if self.environment.updates_docs() => {
                self.write_later(&key, digest, write::error(&failure.to_string(), Some(&report.job.id)));
            }
            What::Crashed(_) => {}
        }
    }

    pub(super) fn write_later(self: &Arc<Self>, key: &Key, digest: u64, fields: write::Fields) {
        let (documents, key) = (self.of.clone(), key.clone());
        tokio::spawn(async move { documents.write(&key, digest, &fields).await });
    }
}

/// A page of changed documents, without design documents; the last sequence, and whether there are no more. Blocks.
fn changes(database: &Arc<Database>, done: u64) -> Result<(Vec<Changed>, u64, bool)> {
    let page = database.changes(done, Direction::Forward, PageLimit::entries(PAGE))?;
    let mut changed = Vec::with_capacity(page.rows.len());
    let mut last = done;
    for (sequence, row) in page.rows {
        last = sequence;
        if row.id.starts_with("_design/") {
            continue;
        }
        let found = match database.find(&row.id, Wanted::Winner) {
            Ok(found) => Some(found),
            Err(Error::Missing | Error::Deleted) => None,
            Err(Error::Damaged(what)) => {
                tracing::error!(database = database.name(), what, "a replication document is damaged");
                continue;
            }
            Err(error) => return Err(error),
        };
        match found.as_ref().map(write::members).transpose() {
            Ok(members) => changed.push((row.id, members)),
            Err(error) => tracing::error!(database = database.name(), %error, "a replication document is damaged"),
        }
    }
    Ok((changed, last, page.done))
}
