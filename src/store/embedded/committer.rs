//! Group commit, expectations, checksums and recovery over any [`Backend`].
//!
//! Only one group of commits is written at a time. There is no committer thread: a caller that finds no
//! leader becomes the leader. It takes all waiting batches (up to a limit), writes them as one batch with one
//! sync, answers every caller, and makes the first caller that has arrived meanwhile the next leader. A
//! single writer therefore pays no thread hand-off, and thirty-two concurrent writers share their syncs.
//!
//! ```text
//! commit ──► queue ──► leader: test expectations against {engine, earlier batches of the group}
//!                              apply all writes at once, sync once ──► answer each
//! ```
//!
//! Every commit carries a record of the store's totals (see `tally`), and every durable commit is noted
//! outside the store (see `mark`). If an engine opens without something that was durable, at start or after a
//! failure, the store refuses every read and write.
//!
//! After a failed write, the store refuses writes until the engine has been reopened. Each commit tries that,
//! at most once a second. Reads go on, and never see the writes of the failed batch (see [`Backend`]). `room`
//! handles a full disk.

pub(crate) mod room;

use std::collections::VecDeque;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use self::room::Room;
use super::backend::{Backend, Writes};
use super::disk_space::Space;
use super::frame::Frames;
use super::mark::{Mark, Notes, Reached};
use super::tally::{RECORD, Tally, Totals};
use crate::store::range::{KeyRange, is_empty};
use crate::store::{Batch, Direction, Durability, Entry, MAX_KEY, PageLimit, Result, Store, StoreError};

/// The most batches in one group.
const GROUP_BATCHES: usize = 1024;
/// The most databases that [`Committer::overtaken`] checks.
const ASKED: usize = 1000;
/// Bytes of writes at which a group is full. A larger batch forms a group of its own.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes of relaxed writes after which a group is synced even if no batch asks for it.
const UNSYNCED_BYTES: usize = 32 << 20;
/// The pause between two attempts to reopen a failed engine.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A [`Store`] made of a [`Backend`].
pub(crate) struct Committer<B: Backend> {
    backend: B,
    frames: Frames,
    queue: Mutex<Queue>,
    work: Mutex<Work>,
    space: Option<Space>,
    /// Notes outside the store what has become durable.
    mark: Arc<Mark>,
    /// Why every call is refused: the engine has opened without something that was acknowledged.
    lost: RwLock<Option<StoreError>>,
    /// The pause between two attempts to reopen a failed backend.
    pause: Duration,
    /// How many times the backend has been reopened.
    reopened: AtomicU64,
    /// Incremented before and after each reopen: see [`Store::generation`].
    generation: AtomicU64,
    /// Whether `work` has a failure, readable without its lock.
    failing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    pub(crate) waiting: VecDeque<Waiting>,
    /// A caller leads, or has been told to.
    led: bool,
}

struct Waiting {
    batch: Batch,
    ticket: Arc<Ticket>,
}

/// Where a caller waits for its answer or for the lead.
#[derive(Default)]
struct Ticket {
    news: Mutex<Option<News>>,
    told: Condvar,
}

enum News {
    Done(Result<()>),
    Lead,
}

impl Ticket {
    fn tell(&self, news: News) {
        *self.news.lock() = Some(news);
        self.told.notify_one();
    }

    fn wait(&self) -> News {
        let mut news = self.news.lock();
        loop {
            match news.take() {
                Some(news) => return news,
                None => self.told.wait(&mut news),
            }
        }
    }
}

/// State that only the leader uses.
#[derive(Default)]
struct Work {
    unsynced: usize,
    failure: Option<Failure>,
    /// The totals of the store, once they are known.
    totals: Option<Totals>,
    /// What the mark must learn about databases from the commits since the last sync.
    notes: Notes,
    room: Room,
}

struct Failure {
    cause: StoreError,
    tried: Instant,
}

impl<B: Backend> Committer<B> {
    pub fn new(backend: B, frames: Frames, space: Option<Space>) -> Committer<B> {
        Committer {
            backend,
            frames,
            queue: Mutex::default(),
            work: Mutex::default(),
            space,
            mark: Arc::default(),
            lost: RwLock::default(),
            pause: REOPEN_PAUSE,
            reopened: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// As [`Committer::new`], over an engine that must have all that `mark` says was durable. If the store
    /// has no record of its totals, counts its entries and writes one.
    ///
    /// # Errors
    /// `Damaged` if something durable is missing.
    pub fn marked(backend: B, frames: Frames, space: Option<Space>, mark: Arc<Mark>) -> Result<Committer<B>> {
        let mut committer = Committer::new(backend, frames, space);
        committer.mark = mark;
        committer.settle(&mut committer.work.lock())?;
        Ok(committer)
    }

    /// As [`Committer::new`], but every commit after a failure tries to reopen, without a pause.
    pub fn eager(backend: B, frames: Frames) -> Committer<B> {
        let mut committer = Committer::new(backend, frames, None);
        committer.pause = Duration::ZERO;
        committer
    }

    /// Commits one group, which includes the caller's own batch, then hands the lead to the next waiting
    /// caller.
    fn lead(&self) {
        let mut group = Vec::new();
        {
            let mut queue = self.queue.lock();
            let mut bytes = 0;
            while let Some(next) = queue.waiting.front() {
                let size = batch_bytes(&next.batch);
                if group.len() >= GROUP_BATCHES || (!group.is_empty() && bytes + size > GROUP_BYTES) {
                    break;
                }
                bytes += size;
                group.extend(queue.waiting.pop_front());
            }
        }
        // If the engine panics, the callers of the whole group must still get an answer.
        let commit = |group: &[Waiting]| {
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit_group(group)));
            outcome.unwrap_or_else(|_| {
                let cause = StoreError::Unavailable("the storage engine panicked".into());
                self.fail(&mut self.work.lock(), &cause);
                vec![Err(cause); group.len()]
            })
        };
        let mut answers = commit(&group);
        if group.len() > 1 && matches!(answers.last(), Some(Err(StoreError::Damaged(_)))) {
            // Nothing was begun, and only one batch needs the unreadable entry: commit each batch by itself.
            answers = group.chunks(1).flat_map(commit).collect();
        }
        for (waiting, answer) in group.iter().zip(answers) {
            waiting.ticket.tell(News::Done(answer));
        }
        let mut queue = self.queue.lock();
        match queue.waiting.front() {
            Some(next) => next.ticket.tell(News::Lead),
            None => queue.led = false,
        }
    }

    fn commit_group(&self, group: &[Waiting]) -> Vec<Result<()>> {
        let mut work = self.work.lock();
        // Before the check for space: an engine that failed on a full disk may find space when it is
        // reopened.
        if let Err(error) = self.recover(&mut work) {
            return vec![Err(error); group.len()];
        }
        let room = self.room_for(&mut work, group);
        let frees = || group.iter().filter(|waiting| waiting.batch.frees);
        let ready = match &room {
            Err(error) if frees().next().is_none() || self.room_to_free(&work, frees()).is_err() => Err(error.clone()),
            // The engine may have failed while it looked for space.
            _ => self.recover(&mut work),
        };
        if let Err(error) = ready {
            return vec![Err(error); group.len()];
        }
        let mut writes = Writes::new();
        let mut bytes = 0;
        let mut sync = false;
        let mut answers = Vec::with_capacity(group.len());
        for waiting in group {
            let answer = match &room {
                Err(error) if !waiting.batch.frees => Err(error.clone()),
                _ => self.prepare(&waiting.batch, &mut writes),
            };
            if answer.is_ok() {
                bytes += batch_bytes(&waiting.batch);
                sync |= waiting.batch.durability == Durability::Synced;
            }
            answers.push(answer);
        }
        // sled's segments become free only when the data that replaces them is on disk.
        sync |= work.unsynced + bytes > UNSYNCED_BYTES || (room.is_err() && bytes > 0);
        if writes.is_empty() && !(sync && work.unsynced > 0) {
            return answers;
        }
        match self.apply(&mut work, &writes, sync) {
            Ok(()) => {
                work.unsynced = if sync { 0 } else { work.unsynced + bytes };
                work.room.written(bytes, frees().next().is_some());
                let done = group.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
                done.for_each(|(waiting, _)| work.notes.take(&waiting.batch));
                if sync {
                    self.note(&mut work, 0);
                }
            }
            Err(error) => {
                if !matches!(error, StoreError::Damaged(_)) {
                    self.fail(&mut work, &error);
                }
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(error.clone());
                }
            }
        }
        answers
    }

    /// Applies the writes together with the record of the totals after them.
    fn apply(&self, work: &mut Work, writes: &Writes, sync: bool) -> Result<()> {
        let before = match work.totals {
            Some(before) => before,
            None => {
                self.settle(work)?;
                work.totals.unwrap_or_default()
            }
        };
        let mut tally = Tally::after(&before, &self.frames);
        self.backend.apply(writes, sync, &mut tally)?;
        work.totals = Some(tally.totals);
        Ok(())
    }

    /// Notes in the mark that the whole store is on disk.
    fn note(&self, work: &mut Work, unused: u64) {
        let (position, length) = self.backend.position();
        let Totals { commits, store, .. } = work.totals.unwrap_or_default();
        let suspect = self.mark.reached().suspect;
        let reached = Reached { commits, position, length, suspect, store, unused };
        self.mark.note(reached, &std::mem::take(&mut work.notes));
    }

    /// Reads the store's totals after its engine was opened, and compares them with the mark.
    ///
    /// # Errors
    /// `Damaged` if the store is behind the mark, or if entries are missing.
    fn settle(&self, work: &mut Work) -> Result<()> {
        let settled = self.compare(work);
        *self.lost.write() = settled.as_ref().err().filter(|error| matches!(error, StoreError::Damaged(_))).cloned();
        settled
    }

    fn compare(&self, work: &mut Work) -> Result<()> {
        let reached = self.mark.reached();
        let mut record = Ok(None);
        self.backend.get_many(&[RECORD.to_vec()], &mut |_, found| {
            record = found.and_then(|found| match found {
                Some(framed) => Totals::decode(&self.frames.unseal(RECORD, framed)?).map(Some),
                None => Ok(None),
            });
        })?;
        let record = record?;
        let commits = record.map_or(0, |totals| totals.commits);
        if commits < reached.commits {
            return Err(StoreError::Damaged(format!(
                "its last commit is number {commits}, but number {} was already on disk",
                reached.commits
            )));
        }
        if record.is_some_and(|totals| reached.store != 0 && totals.store != reached.store) {
            return Err(StoreError::Damaged("it is not the store that the mark beside it was written for".into()));
        }
        if record.is_some() && self.mark.is_new() {
            tracing::warn!("the store's mark file is lost: damage to the end of the store may go unnoticed");
        }
        let overtaken = record.is_some_and(|totals| totals.commits == reached.commits) && self.overtaken()?;
        let totals = match record {
            Some(totals) if overtaken => {
                tracing::warn!(
                    "an older version of settee has written to the store without its record: counting all entries"
                );
                self.count()?.of(totals.store, totals.commits)
            }
            Some(totals) if !reached.suspect => totals,
            Some(totals) => {
                tracing::info!(
                    "the engine skips a part of its log: counting all entries to see whether one is missing"
                );
                self.found(&totals)?;
                totals
            }
            None => self.count()?.of(u64::from_be_bytes(*crate::store::crypto::master_key::random()), 0),
        };
        work.totals = Some(totals);
        let counted = (overtaken || record.is_none()) && !totals.is_empty();
        if counted && self.space.as_ref().is_none_or(|space| space.missing(0) == 0) {
            // Writes the record, or every start until the next write would count again.
            self.apply(work, &Writes::new(), true)?;
        }
        if reached.unused > 0 {
            // Clears the note of the clean stop.
            self.note(work, 0);
        }
        if self.mark.is_new() || reached.suspect || counted {
            self.note_databases(work)?;
            self.note(work, 0);
            self.mark
                .caught_up()
                .map_err(|error| super::disk_space::io_error("syncing the mark of the store", &error))?;
        }
        Ok(())
    }

    /// Whether some database is ahead of the mark although the number of commits is the same: then a version
    /// of settee without mark and record has written to the store. Checks only some databases.
    fn overtaken(&self) -> Result<bool> {
        let noted = self.mark.databases().unwrap_or_default();
        for (number, noted) in noted.into_iter().filter(|(_, noted)| noted.sequence > 0).take(ASKED) {
            if self.last_sequence(number)?.is_some_and(|last| last > noted.sequence) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last sequence of a database. `None` if it has none, or if it cannot be read.
    fn last_sequence(&self, number: u64) -> Result<Option<u64>> {
        let rows = crate::store::keyspace::kind(number, crate::store::keyspace::Kind::Sequence);
        match self.page(&rows, Direction::Backward, PageLimit::entries(1)) {
            Ok(rows) => {
                Ok(rows.first().and_then(|(key, _)| crate::store::keyspace::place_of_sequence(key)).map(|(_, at)| at))
            }
            Err(StoreError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts every entry and compares the result with the expected totals.
    fn found(&self, totals: &Totals) -> Result<()> {
        let found = self.count()?;
        match totals.missing(&found) {
            _ if totals.matches(&found) => Ok(()),
            0 if totals.is_unknown() => {
                Err(StoreError::Damaged("a part of its log is lost, and what it held is unknown".into()))
            }
            0 => Err(StoreError::Damaged("some entries are out of date, or belong to no commit".into())),
            missing => Err(StoreError::Damaged(format!("{missing} entries are missing"))),
        }
    }

    /// Computes the totals from all entries.
    fn count(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut range = clamp(&(Bound::Unbounded, Bound::Unbounded));
        loop {
            let mut last = None;
            let limit = PageLimit { entries: 1000, bytes: 1 << 20 };
            self.backend.scan(&range, Direction::Forward, limit, &mut |key, found| {
                totals.count(key, found.ok());
                last = Some(key.to_vec());
            })?;
            match last {
                Some(last) => range.0 = Bound::Excluded(last),
                None => return Ok(totals),
            }
        }
    }

    /// Notes the databases of a store that had no mark. Skips records that cannot be decoded; a failed
    /// checksum is an error.
    fn note_databases(&self, work: &mut Work) -> Result<()> {
        let mut range = crate::store::keyspace::names(None, None);
        loop {
            let page = self.page(&range, Direction::Forward, PageLimit::entries(1000))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range.0 = Bound::Excluded(last.clone());
            for (key, value) in &page {
                let Some((number, name)) = crate::store::keyspace::named(key, value) else { continue };
                work.notes.named(number, name);
                if let Some(sequence) = self.last_sequence(number)? {
                    work.notes.reached(number, sequence);
                }
            }
        }
    }

    /// Reopens a failed engine, unless the last attempt is too recent.
    fn recover(&self, work: &mut Work) -> Result<()> {
        let Some(failure) = &mut work.failure else { return Ok(()) };
        if failure.tried.elapsed() < self.pause {
            return Err(failure.cause.clone());
        }
        failure.tried = Instant::now();
        match self.reopen(work) {
            Ok(()) => {
                if let Some(failure) = work.failure.take() {
                    tracing::info!("the store has recovered from: {}", failure.cause);
                }
                work.room = Room::default();
                self.failing.store(false, Ordering::Release);
                if let Some(space) = &self.space {
                    work.room.reserved = space.keep_reserve();
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("the store cannot be reopened: {error}");
                if let Some(failure) = &mut work.failure {
                    failure.cause = error.clone();
                }
                Err(error)
            }
        }
    }

    fn page(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut page = Vec::new();
        let mut damage = None;
        let range = &clamp(range);
        if is_empty(range) || limit.entries == 0 {
            return Ok(page);
        }
        self.backend.scan(range, direction, limit, &mut |key, found| {
            if damage.is_some() {
                return;
            }
            match found.and_then(|framed| self.frames.unseal(key, framed)) {
                Ok(value) => page.push((key.to_vec(), value.into_owned())),
                Err(error) => damage = Some(error),
            }
        })?;
        match damage {
            // Return the entries before the damage. The next page starts at it and reports the error.
            Some(error) if page.is_empty() => Err(error),
            _ => Ok(page),
        }
    }

    /// Reopens the engine. Everything acknowledged before must be there, or the store refuses every call.
    fn reopen(&self, work: &mut Work) -> Result<()> {
        work.totals = None;
        work.notes = Notes::default();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let reopened = self.backend.reopen().or_else(|error| match &self.space {
            // Released only here, where it helps, and not at the failure: a restart may need it more.
            Some(space) if error == StoreError::Full && space.release_reserve() => self.backend.reopen(),
            _ => Err(error),
        });
        let reopened = reopened.inspect_err(|error| {
            if matches!(error, StoreError::Damaged(_)) {
                *self.lost.write() = Some(error.clone());
            }
        });
        let reopened = reopened.and_then(|()| self.settle(work));
        self.generation.fetch_add(1, Ordering::SeqCst);
        if reopened.is_ok() {
            self.reopened.fetch_add(1, Ordering::Relaxed);
        }
        reopened
    }

    /// Runs a read. If the engine fails, it is reopened right away, because no write may ever come to do it.
    fn reading<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(lost) = &*self.lost.read() {
            return Err(lost.clone());
        }
        let reopened = self.reopened.load(Ordering::Relaxed);
        // Engines panic on a page that makes no sense. That is damage to the requested data, and must not end
        // the thread.
        let answer = std::panic::catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(StoreError::Damaged("the storage engine panicked while reading".into())));
        if let Err(cause @ StoreError::Unavailable(_)) = &answer {
            let mut work = self.work.lock();
            if self.reopened.load(Ordering::Relaxed) == reopened {
                if work.failure.is_none() {
                    self.fail(&mut work, cause);
                }
                // `recover` logs its own error. The caller gets the error of the read.
                let _ = self.recover(&mut work);
            }
        }
        answer
    }

    fn fail(&self, work: &mut Work, cause: &StoreError) {
        tracing::error!("the storage engine failed; writes are refused until the store has been reopened: {cause}");
        let long_ago = Instant::now().checked_sub(self.pause).unwrap_or_else(Instant::now);
        work.failure = Some(Failure { cause: cause.clone(), tried: long_ago });
        self.failing.store(true, Ordering::Release);
        work.unsynced = 0;
    }

    /// Tests a batch and adds its writes to the group's. On an error it adds nothing.
    fn prepare(&self, batch: &Batch, writes: &mut Writes) -> Result<()> {
        let keys = batch.writes.iter().map(|(key, _)| key).chain(batch.expect.iter().map(|(key, _)| key));
        for key in keys {
            check_key(key)?;
        }
        self.test(&batch.expect, writes)?;
        for (key, value) in &batch.writes {
            writes.insert(key.clone(), value.as_ref().map(|value| self.frames.seal(key, value)));
        }
        Ok(())
    }

    /// Tests expectations against the group's writes so far, and against the engine for all other keys.
    fn test(&self, expect: &[(Vec<u8>, Option<Vec<u8>>)], writes: &Writes) -> Result<()> {
        let mut asked = Vec::new();
        let mut expected = Vec::new();
        for (key, value) in expect {
            match writes.get(key) {
                Some(written) => {
                    let written = written.as_ref().map(|framed| self.frames.own(key, framed)).transpose()?;
                    if written.as_deref() != value.as_deref() {
                        return Err(StoreError::Conflict);
                    }
                }
                None => {
                    asked.push(key.clone());
                    expected.push(value.as_deref());
                }
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let mut answer = Ok(());
        self.backend.get_many(&asked, &mut |index, found| {
            let found =
                found.and_then(|found| found.map(|framed| self.frames.unseal(&asked[index], framed)).transpose());
            match found {
                _ if answer.is_err() => {}
                Ok(found) if found.as_deref() == expected[index] => {}
                Ok(_) => answer = Err(StoreError::Conflict),
                Err(error) => answer = Err(error),
            }
        })?;
        answer
    }
}

impl<B: Backend> Store for Committer<B> {
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        self.get_each(keys)?.into_iter().collect()
    }

    fn get_each(&self, keys: &[Vec<u8>]) -> Result<Vec<Result<Option<Vec<u8>>>>> {
        let mut values = Vec::with_capacity(keys.len());
        let read = self.reading(|| {
            self.backend.get_many(keys, &mut |index, found| {
                values.push(found.and_then(|found| match found {
                    Some(framed) => Ok(Some(self.frames.unseal(&keys[index], framed)?.into_owned())),
                    None => Ok(None),
                }));
            })
        });
        match read {
            Ok(()) => Ok(values),
            // A page of the engine is damaged: read each key by itself, as the others may be readable.
            Err(StoreError::Damaged(_)) if keys.len() > 1 => {
                let one = |key: &Vec<u8>| match self.get_each(std::slice::from_ref(key)) {
                    Ok(mut value) => Ok(value.pop().unwrap_or(Ok(None))),
                    Err(error @ StoreError::Damaged(_)) => Ok(Err(error)),
                    Err(error) => Err(error),
                };
                keys.iter().map(one).collect()
            }
            Err(error @ StoreError::Damaged(_)) if keys.len() == 1 => Ok(vec![Err(error)]),
            Err(error) => Err(error),
        }
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        self.reading(|| self.page(range, direction, limit))
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        let range = &clamp(range);
        if !is_empty(range) {
            self.reading(|| self.backend.keys(range, entries, &mut |key| keys.push(key.to_vec())))?;
        }
        Ok(keys)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let ticket = Arc::new(Ticket::default());
        let lead = {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(Waiting { batch, ticket: ticket.clone() });
            !std::mem::replace(&mut queue.led, true)
        };
        if lead {
            self.lead();
        }
        loop {
            match ticket.wait() {
                News::Done(answer) => return answer,
                News::Lead => self.lead(),
            }
        }
    }

    fn ready(&self) -> Result<()> {
        let recovered = match self.work.try_lock() {
            Some(mut work) => self.recover(&mut work),
            // A commit is running: do not wait for it.
            None if self.failing.load(Ordering::Acquire) => {
                Err(StoreError::Unavailable("the store is being reopened after a failure".into()))
            }
            None => Ok(()),
        };
        self.get(crate::store::keyspace::FORMAT)?;
        recovered
    }

    fn complete(&self) -> Result<()> {
        let totals = self.work.lock().totals;
        // After an old entry could not be read, the totals say nothing.
        totals.filter(|totals| !totals.is_unknown()).map_or(Ok(()), |totals| self.reading(|| self.found(&totals)))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn is_short_of_room(&self) -> bool {
        self.space.as_ref().is_some_and(Space::is_short)
    }

    fn engine(&self) -> &'static str {
        self.backend.name()
    }

    fn disk_bytes(&self) -> u64 {
        self.backend.disk_bytes()
    }
}

impl<B: Backend> Drop for Committer<B> {
    fn drop(&mut self) {
        let mut work = std::mem::take(self.work.get_mut());
        if work.failure.is_some() || work.totals.is_none() {
            return;
        }
        if work.unsynced > 0
            && let Err(error) = self.apply(&mut work, &Writes::new(), true)
        {
            tracing::warn!("the last unsynced commits could not be synced: {error}");
            return;
        }
        self.note(&mut work, self.backend.unused());
        if let Err(error) = self.mark.sync() {
            tracing::warn!("the mark of the store could not be synced: {error}");
        }
    }
}

/// The range without the keys that engines reserve.
fn clamp((low, high): &KeyRange) -> KeyRange {
    let high = match high {
        Bound::Unbounded => Bound::Excluded(RECORD.to_vec()),
        bounded => bounded.clone(),
    };
    (low.clone(), high)
}

/// Bytes of keys and values that a batch makes an engine write.
fn batch_bytes(batch: &Batch) -> usize {
    batch.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

/// Checks that a key does not begin with 0xFF, which is reserved for engines, and that it is short enough: an
/// engine's index page of long keys must stay small.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.first() {
        Some(0xFF) | None => Err(StoreError::Unavailable("a key must not be empty or begin with 0xFF".into())),
        Some(_) if key.len() > MAX_KEY => {
            Err(StoreError::Unavailable(format!("a key of {} bytes is over the limit of {MAX_KEY}", key.len())))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
