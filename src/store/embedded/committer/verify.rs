//! Compares an opened store with its mark and with the totals of its commits.

use std::ops::Bound;
use std::sync::Arc;

use super::state::{Committer, Work};
use crate::store::disk_space::{Space, io_error};
use crate::store::embedded::backend::{Backend, Writes};
use crate::store::embedded::frame::Frames;
use crate::store::embedded::mark::{Mark, Reached};
use crate::store::embedded::tally::{Tally, Totals};
use crate::store::range::{KeyRange, is_empty};
use crate::store::reserved_keys::{TOTALS, clamp};
use crate::store::{Direction, Entry, PageLimit, Result, StoreError, keyspace};

/// The most databases that [`Committer::overtaken`] checks.
const ASKED: usize = 1000;

impl<B: Backend> Committer<B> {
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

    /// Applies the writes together with the record of the totals after them.
    pub(super) fn apply(&self, work: &mut Work, writes: &Writes, sync: bool) -> Result<()> {
        let before = match work.totals {
            Some(before) => before,
            None => {
                self.settle(work)?;
                work.totals.unwrap_or_default()
            }
        };
        let mut tally = Tally::after(&before, &self.frames);
        let writing = self.recent.writing(writes);
        self.backend.apply(writes, sync, &mut tally)?;
        drop(writing);
        work.totals = Some(tally.totals);
        Ok(())
    }

    /// Notes in the mark that the whole store is on disk.
    pub(super) fn note(&self, work: &mut Work, unused: u64) {
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
    pub(super) fn settle(&self, work: &mut Work) -> Result<()> {
        let settled = self.compare(work);
        *self.lost.write() = settled.as_ref().err().filter(|error| matches!(error, StoreError::Damaged(_))).cloned();
        if settled.is_err() {
            // What was read since the engine was opened may be older than what was acknowledged.
            drop(self.recent.losing());
        }
        settled
    }

    pub(super) fn compare(&self, work: &mut Work) -> Result<()> {
        let reached = self.mark.reached();
        let mut record = Ok(None);
        self.backend.get_many(&[TOTALS.to_vec()], &mut |_, found| {
            record = found.and_then(|found| match found {
                Some(framed) => Totals::decode(&self.frames.unseal(TOTALS, framed)?).map(Some),
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
        // The mark of a store that was just filled knows the store, and nothing else yet.
        if record.is_some() && self.mark.is_new() && reached.store == 0 {
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
            self.mark.caught_up().map_err(|error| io_error("syncing the mark of the store", &error))?;
        }
        Ok(())
    }

    /// Whether some database is ahead of the mark although the number of commits is the same: then a version
    /// of settee without mark and record has written to the store. Checks only some databases.
    pub(super) fn overtaken(&self) -> Result<bool> {
        let noted = self.mark.databases().unwrap_or_default();
        for (number, noted) in noted.into_iter().filter(|(_, noted)| noted.sequence > 0).take(ASKED) {
            if self.last_sequence(number)?.is_some_and(|last| last > noted.sequence) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last sequence of a database. `None` if it has none, or if it cannot be read.
    pub(super) fn last_sequence(&self, number: u64) -> Result<Option<u64>> {
        let rows = keyspace::kind(number, keyspace::Kind::Sequence);
        match self.page(&rows, Direction::Backward, PageLimit::entries(1)) {
            Ok(rows) => Ok(rows.first().and_then(|(key, _)| keyspace::place_of_sequence(key)).map(|(_, at)| at)),
            Err(StoreError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts every entry and compares the result with the expected totals.
    pub(super) fn found(&self, totals: &Totals) -> Result<()> {
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
    pub(super) fn count(&self) -> Result<Totals> {
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
    pub(super) fn note_databases(&self, work: &mut Work) -> Result<()> {
        let mut range = keyspace::names(None, None);
        loop {
            let page = self.page(&range, Direction::Forward, PageLimit::entries(1000))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range.0 = Bound::Excluded(last.clone());
            for (key, value) in &page {
                let Some((number, name)) = keyspace::named(key, value) else { continue };
                work.notes.named(number, name);
                if let Some(sequence) = self.last_sequence(number)? {
                    work.notes.reached(number, sequence);
                }
            }
        }
    }

    pub(super) fn page(&self, range: &KeyRange, direction: Direction, limit: PageLimit) -> Result<Vec<Entry>> {
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
}
