//! The table of jobs: rows, and the queues that say which of them runs next. Knows no clock and starts no task; the
//! driver calls it with the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{Happened, History};
use super::job::{Ended, Job, JobId, Origin};
use super::settings::Settings;
use super::shares::{Priority, Shares};

/// The wait after the first crash in a row. It doubles with each further one...
const FIRST_BACK_OFF: Duration = Duration::from_secs(30);
/// ... this often at most: 8.5 hours.
const MOST_DOUBLINGS: u32 = 10;

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people, and for other servers: since the epoch.
    pub epoch: Duration,
}

/// What a job does.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waits for a slot; its key in `pending`. `None` while an earlier pass of this id has not ended yet.
    Pending(Option<QueueKey>),
    Running(Pass),
    /// Has read its source up to this sequence. With a checkpoint still to be written, it wakes for that, too.
    Asleep {
        sequence: u64,
        checkpoint: Option<Instant>,
    },
    BackingOff {
        until: Instant,
    },
}

/// A pass that runs.
#[derive(Debug)]
pub(super) struct Pass {
    /// Never used twice.
    pub number: u64,
    pub since: Instant,
    /// The source had a commit since the pass began.
    pub moved: bool,
    pub stop: CancellationToken,
}

/// The order of waiting jobs: by shares, then the one that has waited longest.
type QueueKey = (u64, Option<Instant>, u64);

/// A job in the table.
pub(super) struct Row {
    pub job: Arc<Job>,
    pub phase: Phase,
    pub history: History,
    /// Crashes in a row.
    pub crashes: u32,
    last_started: Option<Instant>,
    /// The same for people; 0 if it has not run yet.
    pub started_on: u64,
    priority: Priority,
    share_key: Arc<str>,
    waiters: Vec<oneshot::Sender<Ended>>,
}

/// A pass to start.
pub(super) struct Start {
    pub job: Arc<Job>,
    pub pass: u64,
    pub stop: CancellationToken,
    /// How many passes run now.
    pub running: usize,
    /// The job has not run yet, or has stopped or crashed: as many others may have at the same moment.
    pub is_first: bool,
}

/// How many jobs there are, and what has happened since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: usize,
    pub running: usize,
    /// Continuous jobs that have nothing to do until their source has a commit.
    pub asleep: usize,
    pub pending: usize,
    pub crashing: usize,
    pub adds: u64,
    pub removes: u64,
    pub starts: u64,
    pub stops: u64,
    pub crashes: u64,
    pub completions: u64,
}

/// The table. See the module's documentation of [`super`] for the phases.
#[derive(Default)]
pub(super) struct Table {
    rows: HashMap<JobId, Row>,
    pending: BTreeMap<QueueKey, JobId>,
    backing_off: BTreeSet<(Instant, JobId)>,
    /// Jobs that sleep, with a checkpoint to be written.
    checkpoints: BTreeSet<(Instant, JobId)>,
    /// Name of a database here → the jobs that read it.
    by_source: HashMap<Arc<str>, BTreeSet<JobId>>,
    /// Passes of jobs that were removed, and have not ended yet.
    leaving: HashMap<JobId, u64>,
    /// Rows with a pass.
    running: usize,
    asleep: usize,
    /// Passes since the server started.
    passes: u64,
    /// When the last round was.
    round: Option<Instant>,
    shares: Shares,
    settings: Settings,
    totals: Counts,
}

impl Table {
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn get(&self, id: &str) -> Option<&Row> {
        self.rows.get(id)
    }

    /// All rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The jobs that this user has begun with `_replicate`.
    pub fn count_of_requests(&self, user: &str) -> usize {
        let is_of = |job: &Job| job.origin == Origin::Request && job.user.user.name.as_deref() == Some(user);
        self.rows.values().filter(|row| is_of(&row.job)).count()
    }

    pub fn counts(&self) -> Counts {
        let (running, asleep, crashing) = (self.running, self.asleep, self.backing_off.len());
        let total = self.rows.len();
        Counts { total, running, asleep, crashing, pending: total - running - asleep - crashing, ..self.totals }
    }

    /// Adds a job. One with the same id is removed first, unless it is the same.
    pub fn add(&mut self, job: Arc<Job>, now: Now) {
        if let Some(row) = self.rows.get(&job.id) {
            if row.job.is_same(&job) {
                return;
            }
            self.remove(&job.id.clone(), now);
        }
        let id = job.id.clone();
        let share_key = job.share_key();
        let priority = self.shares.added(&share_key, &self.settings);
        let mut history = History::default();
        history.record(Happened::Added, now.epoch.as_secs(), self.settings.max_history);
        if let Some(source) = job.local_source() {
            self.by_source.entry(source.into()).or_default().insert(id.clone());
        }
        let row = Row {
            job,
            phase: Phase::Pending(None),
            history,
            crashes: 0,
            last_started: None,
            started_on: 0,
            priority,
            share_key,
            waiters: Vec::new(),
        };
        self.rows.insert(id.clone(), row);
        self.totals.adds += 1;
        self.queue(&id);
    }

    /// Removes a job, stops it, and notifies the callers that wait for it.
    pub fn remove(&mut self, id: &str, now: Now) -> Option<Arc<Job>> {
        let row = self.rows.remove(id)?;
        self.leave_phase(&row, now);
        if let Phase::Running(pass) = &row.phase {
            pass.stop.cancel();
            self.leaving.insert(row.job.id.clone(), pass.number);
        }
        self.forget(&row);
        for waiter in row.waiters {
            let _ = waiter.send(Ended::Stopped);
        }
        self.totals.removes += 1;
        Some(row.job)
    }

    /// Queues a job that waits after a crash. Its crashes in a row stay counted.
    pub fn retry(&mut self, id: &str) {
        let Some(row) = self.rows.get_mut(id) else { return };
        let Phase::BackingOff { until } = row.phase else { return };
        let id = row.job.id.clone();
        self.backing_off.remove(&(until, id.clone()));
        self.queue(&id);
    }

    /// Subscribes to the end of a job: its completion, its next crash, or its removal.
    pub fn wait(&mut self, id: &str) -> Option<oneshot::Receiver<Ended>> {
        let row = self.rows.get_mut(id)?;
        row.waiters.retain(|waiter| !waiter.is_closed());
        let (waiter, end) = oneshot::channel();
        row.waiters.push(waiter);
        Some(end)
    }

    /// The source of jobs has a commit. `has_changes` says of a job's sequence whether there may be later ones.
    /// Returns whether a job that slept is queued now.
    pub fn wake(&mut self, source: &str, has_changes: impl Fn(u64) -> bool) -> bool {
        let Some(ids) = self.by_source.get(source) else { return false };
        let mut is_awake = false;
        let ids: Vec<JobId> = ids.iter().cloned().collect();
        for id in ids {
            let Some(row) = self.rows.get_mut(&id) else { continue };
            match &mut row.phase {
                Phase::Running(pass) => pass.moved = true,
                Phase::Asleep { sequence, .. } if has_changes(*sequence) => {
                    self.awake(&id);
                    is_awake = true;
                }
                Phase::Asleep { .. } | Phase::Pending(_) | Phase::BackingOff { .. } => {}
            }
        }
        is_awake
    }

    /// Queues a job that sleeps.
    fn awake(&mut self, id: &JobId) {
        let Some(row) = self.rows.get_mut(id) else { return };
        let Phase::Asleep { checkpoint, .. } = row.phase else { return };
        row.phase = Phase::Pending(None);
        self.asleep -= 1;
        if let Some(at) = checkpoint {
            self.checkpoints.remove(&(at, id.clone()));
        }
        self.queue(id);
    }

    /// A pass has ended. Returns the job if the table still has it for this pass, and, for a job that will not run
    /// again, what must still be reported.
    pub fn ended(
        &mut self,
        id: &JobId,
        pass: u64,
        ended: &Ended,
        now: Now,
        has_changes: impl Fn(u64) -> bool,
    ) -> Option<Arc<Job>> {
        if self.leaving.get(id) == Some(&pass) {
            self.leaving.remove(id);
            if matches!(self.rows.get(id), Some(Row { phase: Phase::Pending(None), .. })) {
                self.queue(id);
            }
            return None;
        }
        let most = self.settings.max_history;
        let row = self.rows.get_mut(id)?;
        let (ran, moved) = match &row.phase {
            Phase::Running(running) if running.number == pass => {
                (now.instant.saturating_duration_since(running.since), running.moved)
            }
            _ => return None,
        };
        self.running -= 1;
        self.shares.charge(&row.share_key, ran.min(self.settings.interval));
        row.phase = Phase::Pending(None);
        let job = row.job.clone();
        match ended {
            Ended::Completed(_) => {
                self.totals.completions += 1;
                self.take_away(id, ended);
            }
            Ended::CaughtUp { sequence } => {
                row.crashes = 0;
                if moved && has_changes(*sequence) {
                    self.queue(id);
                } else {
                    let due = job.progress.checkpoint_due().map(|due| now.instant + due.saturating_sub(now.epoch));
                    row.phase = Phase::Asleep { sequence: *sequence, checkpoint: due };
                    self.checkpoints.extend(due.map(|due| (due, id.clone())));
                    self.asleep += 1;
                }
            }
            Ended::Stopped => {
                row.crashes = 0;
                row.history.record(Happened::Stopped, now.epoch.as_secs(), most);
                self.totals.stops += 1;
                self.queue(id);
            }
            Ended::Crashed(failure) => {
                self.totals.crashes += 1;
                row.history.record(Happened::Crashed(failure.to_string().into()), now.epoch.as_secs(), most);
                if row.job.origin == Origin::Request {
                    self.take_away(id, ended);
                } else {
                    for waiter in std::mem::take(&mut row.waiters) {
                        let _ = waiter.send(ended.clone());
                    }
                    self.back_off(id, ran, now.instant);
                }
            }
        }
        Some(job)
    }

    /// Puts a job that has crashed after a run of `ran` into its queue.
    fn back_off(&mut self, id: &JobId, ran: Duration, now: Instant) {
        let Some(row) = self.rows.get_mut(id) else { return };
        if ran > self.settings.health_threshold {
            row.crashes = 0;
            self.queue(id);
            return;
        }
        row.crashes = row.crashes.saturating_add(1);
        let until = now + FIRST_BACK_OFF * (1 << (row.crashes - 1).min(MOST_DOUBLINGS));
        row.phase = Phase::BackingOff { until };
        self.backing_off.insert((until, id.clone()));
    }

    /// Removes a job that has ended by itself.
    fn take_away(&mut self, id: &JobId, ended: &Ended) {
        let Some(row) = self.rows.remove(id) else { return };
        self.forget(&row);
        for waiter in row.waiters {
            let _ = waiter.send(ended.clone());
        }
    }

    /// Puts a waiting job into the queue, unless an earlier pass of its id still runs.
    fn queue(&mut self, id: &JobId) {
        if self.leaving.contains_key(id) {
            return;
        }
        let Some(row) = self.rows.get_mut(id) else { return };
        self.passes += 1;
        let key = (self.shares.rank(row.priority), row.last_started, self.passes);
        self.pending.insert(key, id.clone());
        row.phase = Phase::Pending(Some(key));
    }

    /// Takes a row that is about to go out of the queue or counter of its phase.
    fn leave_phase(&mut self, row: &Row, now: Now) {
        match &row.phase {
            Phase::Pending(Some(key)) => drop(self.pending.remove(key)),
            Phase::Pending(None) => {}
            Phase::Running(pass) => {
                self.running -= 1;
                let ran = now.instant.saturating_duration_since(pass.since);
                self.shares.charge(&row.share_key, ran.min(self.settings.interval));
            }
            Phase::Asleep { checkpoint, .. } => {
                self.asleep -= 1;
                if let Some(at) = checkpoint {
                    self.checkpoints.remove(&(*at, row.job.id.clone()));
                }
            }
            Phase::BackingOff { until } => drop(self.backing_off.remove(&(*until, row.job.id.clone()))),
        }
    }

    fn forget(&mut self, row: &Row) {
        self.shares.removed(&row.share_key);
        if let Some(source) = row.job.local_source()
            && let Some(ids) = self.by_source.get_mut(source)
        {
            ids.remove(&row.job.id);
            if ids.is_empty() {
                self.by_source.remove(source);
            }
        }
    }

    /// What is due: queues jobs whose back-off is over, makes a round if it is time for one, and returns the passes
    /// to start.
    pub fn due(&mut self, now: Now) -> Vec<Start> {
        while let Some((until, _)) = self.backing_off.first()
            && *until <= now.instant
        {
            let Some((_, id)) = self.backing_off.pop_first() else { break };
            self.queue(&id);
        }
        while let Some((at, _)) = self.checkpoints.first()
            && *at <= now.instant
        {
            let Some((_, id)) = self.checkpoints.pop_first() else { break };
            self.awake(&id);
        }
        self.make_round(now.instant);
        let mut starts = Vec::new();
        while self.running + self.leaving.len() < self.settings.max_jobs {
            let Some((_, id)) = self.pending.pop_first() else { break };
            starts.extend(self.start(&id, now));
        }
        starts
    }

    fn start(&mut self, id: &JobId, now: Now) -> Option<Start> {
        let row = self.rows.get_mut(id)?;
        self.passes += 1;
        let stop = CancellationToken::new();
        let is_first = !row.history.is_started();
        row.phase = Phase::Running(Pass { number: self.passes, since: now.instant, moved: false, stop: stop.clone() });
        row.last_started = Some(now.instant);
        row.started_on = now.epoch.as_secs();
        if is_first {
            row.history.record(Happened::Started, now.epoch.as_secs(), self.settings.max_history);
        }
        self.running += 1;
        self.totals.starts += 1;
        Some(Start { job: row.job.clone(), pass: self.passes, stop, running: self.running, is_first })
    }

    /// Once in `interval`: charges the jobs that run, and stops some if others wait.
    fn make_round(&mut self, now: Instant) {
        let round = *self.round.get_or_insert(now);
        if now < round + self.settings.interval {
            return;
        }
        self.round = Some(now);
        let interval = self.settings.interval;
        let mut running: Vec<(Instant, JobId, bool)> = Vec::new();
        for row in self.rows.values() {
            if let Phase::Running(pass) = &row.phase {
                let ran = now.saturating_duration_since(pass.since).min(interval);
                self.shares.charge(&row.share_key, ran);
                let may_stop = row.job.is_continuous() && !pass.stop.is_cancelled();
                running.push((pass.since, row.job.id.clone(), may_stop));
            }
        }
        self.shares.next_round();
        for (_, id, _) in &running {
            if let Some(row) = self.rows.get_mut(id) {
                row.priority = self.shares.raised(row.priority, &row.share_key, &self.settings);
            }
        }
        let taken = self.running + self.leaving.len();
        let excess = taken.saturating_sub(self.settings.max_jobs);
        let slots = self.settings.max_jobs.saturating_sub(taken);
        let exchanged = self.pending.len().saturating_sub(slots).min(self.settings.max_churn.saturating_sub(excess));
        // Those that have run longest go first. One-shot jobs run to their end.
        running.retain(|(_, _, may_stop)| *may_stop);
        running.sort_unstable();
        for (_, id, _) in running.iter().take(excess + exchanged) {
            if let Some(Row { phase: Phase::Running(pass), .. }) = self.rows.get(id) {
                pass.stop.cancel();
            }
        }
    }

    /// When [`Table::due`] has something to do next, if nothing else happens before. `None`: never, as long as all
    /// jobs sleep.
    pub fn next_time(&self) -> Option<Instant> {
        let back_off = self.backing_off.first().map(|(until, _)| *until);
        let has_work = self.running > 0 || !self.pending.is_empty();
        let round = self.round.filter(|_| has_work).map(|round| round + self.settings.interval);
        let checkpoint = self.checkpoints.first().map(|(at, _)| *at);
        [back_off, checkpoint, round].into_iter().flatten().min()
    }

    /// Stops all passes: the server shuts down.
    pub fn stop_all(&mut self) {
        for row in self.rows.values() {
            if let Phase::Running(pass) = &row.phase {
                pass.stop.cancel();
            }
        }
        self.pending.clear();
        self.backing_off.clear();
        self.checkpoints.clear();
    }

    /// Checks the invariants between rows and queues.
    #[cfg(test)]
    pub fn check(&self) {
        let count = |of: fn(&Phase) -> bool| self.rows.values().filter(|row| of(&row.phase)).count();
        assert_eq!(self.running, count(|phase| matches!(phase, Phase::Running(_))));
        assert_eq!(self.asleep, count(|phase| matches!(phase, Phase::Asleep { .. })));
        assert_eq!(self.pending.len(), count(|phase| matches!(phase, Phase::Pending(Some(_)))));
        assert_eq!(self.backing_off.len(), count(|phase| matches!(phase, Phase::BackingOff { .. })));
        for (key, id) in &self.pending {
            assert!(matches!(&self.rows[id].phase, Phase::Pending(Some(own)) if own == key));
        }
        for (at, id) in &self.checkpoints {
            assert!(matches!(&self.rows[id].phase, Phase::Asleep { checkpoint: Some(own), .. } if own == at));
        }
        for (until, id) in &self.backing_off {
            assert!(matches!(&self.rows[id].phase, Phase::BackingOff { until: own } if own == until));
        }
        for row in self.rows.values() {
            if let Some(source) = row.job.local_source() {
                assert!(self.by_source[source].contains(&row.job.id));
            }
            if matches!(row.phase, Phase::Pending(None)) {
                assert!(self.leaving.contains_key(&row.job.id), "a waiting job is in no queue");
            }
        }
    }
}
