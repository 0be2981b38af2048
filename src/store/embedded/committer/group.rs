//! One group of commits: takes waiting batches, tests their expectations, and writes them with one sync.

use std::panic::AssertUnwindSafe;

use super::queue::{News, Waiting, batch_bytes};
use super::state::Committer;
use crate::store::embedded::backend::{Backend, Writes};
use crate::store::reserved_keys::check_key;
use crate::store::{Batch, Durability, Result, StoreError};

/// The most batches in one group.
const GROUP_BATCHES: usize = 1024;
/// Bytes of writes at which a group is full. A larger batch forms a group of its own.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes of relaxed writes after which a group is synced even if no batch asks for it.
const UNSYNCED_BYTES: usize = 32 << 20;

impl<B: Backend> Committer<B> {
    /// Commits one group, which includes the caller's own batch, then hands the lead to the next waiting
    /// caller.
    pub(super) fn lead(&self) {
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
