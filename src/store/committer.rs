//! Group commit, expectations, checksums and recovery over any [`Backend`].
//!
//! One commit is at work at a time. There is no committer thread: the caller that finds nobody at work leads, takes every
//! batch that waits (bounded), writes them as one with one sync, answers them all, and hands the lead to the first of those
//! that came meanwhile. A lone writer so pays for no hand-over between threads, and thirty-two writers share their syncs.
//!
//! ```text
//! commit ──► queue ──► leader: test expectations against {engine, earlier batches of the group}
//!                              apply all writes at once, sync once ──► answer each
//! ```
//!
//! After a failed write nothing is written until the engine has been reopened, which the next commit tries, not more than
//! once a second. Reads go on; they never see what the failed write left behind (see [`Backend`]). What happens on a full
//! device stands in `room`.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::backend::{Backend, Writes};
use super::frame::Frames;
use super::space::Space;
use super::{Batch, Direction, Durability, Entry, KeyRange, MAX_KEY, PageLimit, Result, Store, StoreError, is_empty};

mod room;

use room::Room;

/// Batches that one group takes at most.
const GROUP_BATCHES: usize = 1024;
/// Bytes of writes at which a group is full. One batch may be larger; it is then a group of its own.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes of relaxed writes after which a group is synced all the same.
const UNSYNCED_BYTES: usize = 32 << 20;
/// The pause between two tries to reopen a failed engine.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A [`Store`] made of a [`Backend`].
pub(super) struct Committer<B: Backend> {
    backend: B,
    frames: Frames,
    queue: Mutex<Queue>,
    work: Mutex<Work>,
    space: Option<Space>,
    /// The pause between two tries to reopen a failed backend.
    pause: Duration,
    /// How often it was reopened.
    reopened: AtomicU64,
    /// Moves when it begins to be reopened, and again when it is open: see [`Store::generation`].
    generation: AtomicU64,
    /// Whether `work` has a failure, for those who do not wait for it.
    failing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Somebody leads, or was told to.
    led: bool,
}

struct Waiting {
    batch: Batch,
    ticket: Arc<Ticket>,
}

/// Where one caller waits for its answer.
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

/// What only the leader touches.
#[derive(Default)]
struct Work {
    unsynced: usize,
    failure: Option<Failure>,
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
            pause: REOPEN_PAUSE,
            reopened: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// As [`Committer::new`], trying to reopen at every commit after a failure.
    pub fn eager(backend: B, frames: Frames) -> Committer<B> {
        let mut committer = Committer::new(backend, frames, None);
        committer.pause = Duration::ZERO;
        committer
    }

    /// Takes groups until the own batch is answered, then hands the lead on.
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
        // A panic of an engine must not leave thirty callers waiting for ever.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit_group(&group)));
        let answers = outcome.unwrap_or_else(|_| {
            let cause = StoreError::Unavailable("the storage engine panicked".into());
            self.fail(&mut self.work.lock(), &cause);
            vec![Err(cause); group.len()]
        });
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
        // First of all, whatever the room: an engine that has failed for want of it may find some when it is opened again.
        if let Err(error) = self.recover(&mut work) {
            return vec![Err(error); group.len()];
        }
        let room = self.room_for(&mut work, group);
        let frees = || group.iter().filter(|waiting| waiting.batch.frees);
        let ready = match &room {
            Err(error) if frees().next().is_none() || self.room_to_free(&work, frees()).is_err() => Err(error.clone()),
            // It may have failed while it was asked for room.
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
        // sled's segments are not free before what replaces them is on disk.
        sync |= work.unsynced + bytes > UNSYNCED_BYTES || (room.is_err() && bytes > 0);
        if writes.is_empty() && !(sync && work.unsynced > 0) {
            return answers;
        }
        match self.backend.apply(&writes, sync) {
            Ok(()) => {
                work.unsynced = if sync { 0 } else { work.unsynced + bytes };
                work.room.written(bytes, frees().next().is_some());
            }
            Err(error) => {
                self.fail(&mut work, &error);
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(error.clone());
                }
            }
        }
        answers
    }

    /// Reopens an engine that has failed, if it was not tried just now.
    fn recover(&self, work: &mut Work) -> Result<()> {
        let Some(failure) = &mut work.failure else { return Ok(()) };
        if failure.tried.elapsed() < self.pause {
            return Err(failure.cause.clone());
        }
        failure.tried = Instant::now();
        match self.reopen() {
            Ok(()) => {
                tracing::info!("the store has recovered from: {}", failure.cause);
                work.failure = None;
                work.room = Room::default();
                self.failing.store(false, Ordering::Release);
                if let Some(space) = &self.space {
                    work.room.reserved = space.keep_reserve();
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("the store cannot be reopened: {error}");
                failure.cause = error.clone();
                Err(error)
            }
        }
    }

    fn reopen(&self) -> Result<()> {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let reopened = self.backend.reopen().or_else(|error| match &self.space {
            // Given up only where it helps, and not for the failure itself: a restart may need it more.
            Some(space) if error == StoreError::Full && space.release_reserve() => self.backend.reopen(),
            _ => Err(error),
        });
        self.generation.fetch_add(1, Ordering::SeqCst);
        if reopened.is_ok() {
            self.reopened.fetch_add(1, Ordering::Relaxed);
        }
        reopened
    }

    /// A read. If the engine fails it, the engine is reopened for the next: nobody may come to write.
    fn reading<T>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let reopened = self.reopened.load(Ordering::Relaxed);
        let answer = read();
        if let Err(cause @ StoreError::Unavailable(_)) = &answer {
            let mut work = self.work.lock();
            if self.reopened.load(Ordering::Relaxed) == reopened {
                if work.failure.is_none() {
                    self.fail(&mut work, cause);
                }
                // Its error is logged; the caller gets that of the read.
                let _ = self.recover(&mut work);
            }
        }
        answer
    }

    fn fail(&self, work: &mut Work, cause: &StoreError) {
        tracing::error!("the engine failed, writes stop until the store has been reopened: {cause}");
        let long_ago = Instant::now().checked_sub(self.pause).unwrap_or_else(Instant::now);
        work.failure = Some(Failure { cause: cause.clone(), tried: long_ago });
        self.failing.store(true, Ordering::Release);
        work.unsynced = 0;
    }

    /// Tests a batch and adds its writes to the group's. On an error nothing of it is added.
    fn prepare(&self, batch: &Batch, writes: &mut Writes) -> Result<()> {
        let keys = batch.writes.iter().map(|(key, _)| key).chain(batch.expect.iter().map(|(key, _)| key));
        for key in keys {
            check_key(key)?;
        }
        self.test(&batch.expect, writes)?;
        let mut doomed = Vec::new();
        for range in &batch.delete_ranges {
            if is_empty(range) {
                continue;
            }
            self.backend.keys(range, usize::MAX, &mut |key| doomed.push(key.to_vec()))?;
            doomed.extend(writes.range::<Vec<u8>, _>((range.0.as_ref(), range.1.as_ref())).map(|(key, _)| key.clone()));
        }
        writes.extend(doomed.into_iter().map(|key| (key, None)));
        for (key, value) in &batch.writes {
            writes.insert(key.clone(), value.as_ref().map(|value| self.frames.seal(key, value)));
        }
        Ok(())
    }

    /// Tests expectations against the group's writes so far and, for the keys that they do not touch, the engine.
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
        self.reading(|| {
            self.backend.get_many(keys, &mut |index, found| {
                values.push(found.and_then(|found| match found {
                    Some(framed) => Ok(Some(self.frames.unseal(&keys[index], framed)?.into_owned())),
                    None => Ok(None),
                }));
            })
        })?;
        Ok(values)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
        let mut page = Vec::new();
        let mut damage = None;
        if is_empty(range) || limit.entries == 0 {
            return Ok(page);
        }
        self.reading(|| {
            self.backend.scan(range, direction, limit, &mut |key, found| {
                if damage.is_some() {
                    return;
                }
                match found.and_then(|framed| self.frames.unseal(key, framed)) {
                    Ok(value) => page.push((key.to_vec(), value.into_owned())),
                    Err(error) => damage = Some(error),
                }
            })
        })?;
        match damage {
            // What stands before the damage is served; the next page starts at it and says so.
            Some(error) if page.is_empty() => Err(error),
            _ => Ok(page),
        }
    }

    fn keys(&self, range: &KeyRange, entries: usize) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
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
            // Nobody waits here for a commit at work.
            None if self.failing.load(Ordering::Acquire) => {
                Err(StoreError::Unavailable("the store is being opened again after a failure".into()))
            }
            None => Ok(()),
        };
        self.get(super::keys::FORMAT)?;
        recovered
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
        let work = self.work.get_mut();
        if work.failure.is_none()
            && work.unsynced > 0
            && let Err(error) = self.backend.apply(&Writes::new(), true)
        {
            tracing::warn!("the last relaxed commits could not be synced: {error}");
        }
    }
}

/// Bytes that a batch makes an engine write.
fn batch_bytes(batch: &Batch) -> usize {
    batch.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

/// Engines keep keys that begin with 0xFF to themselves, and an index page of long keys must stay small.
pub(super) fn check_key(key: &[u8]) -> Result<()> {
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
