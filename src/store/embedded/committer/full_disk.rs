//! Which writes the store accepts on a full disk.
//!
//! A disk counts as full when less than a margin of it is free. Below the margin, down to a floor, the store
//! accepts only writes that free space: deletions, purges, compactions. The space that they free lies within
//! the engine's files, which do not shrink by themselves:
//!
//! - sled reuses its free segments, but reports how many it has only when it is reopened.
//! - redb's file may have holes where its free pages are. Compacting the file returns space to the disk.
//!
//! Both block all reads and writes for a while. The store therefore looks for space only when a write finds no
//! room, spends at most a twentieth of the time on it, and less and less while it finds nothing (see `room`).

use std::time::{Duration, Instant};

use super::queue::{Waiting, batch_bytes};
use super::state::{Committer, Work};
use crate::store::disk_space::Space;
use crate::store::embedded::backend::{Backend, Reclaiming, Writes};
use crate::store::{Result, StoreError};

/// The least time between two warnings: near the margin small writes may fit while large ones do not.
const WARN_PAUSE: Duration = Duration::from_secs(60);

impl<B: Backend> Committer<B> {
    /// Whether there is room for a group, on the disk or within the engine's files.
    pub(super) fn room_for(&self, work: &mut Work, group: &[Waiting]) -> Result<()> {
        let (Some(space), more @ 1..) = (&self.space, 2 * bytes_of(group.iter())) else { return Ok(()) };
        if space.missing(more) == 0 {
            if work.room.warned.is_some_and(|at| at.elapsed() >= WARN_PAUSE) {
                work.room.warned = None;
            }
            if !work.room.reserved {
                // The reserve was released when the disk was full: create it again.
                work.room.reserved = space.keep_reserve();
            }
            return Ok(());
        }
        if space.missing(more) > work.room.spare {
            self.reclaim(work, space, more);
        }
        let missing = space.missing(more).saturating_sub(work.room.spare);
        if missing == 0 {
            return Ok(());
        }
        if work.room.warned.is_none() {
            work.room.warned = Some(Instant::now());
            tracing::warn!(
                missing_bytes = missing,
                "the disk of the data folder is full or nearly full: only writes that free space are accepted. \
                 docs/full-disk.md tells what to do"
            );
        }
        Err(StoreError::Full)
    }

    /// As [`Committer::room_for`], for writes that free space.
    pub(super) fn room_to_free<'a>(&self, work: &Work, these: impl Iterator<Item = &'a Waiting>) -> Result<()> {
        let Some(space) = &self.space else { return Ok(()) };
        let more = 2 * bytes_of(these);
        let fits = || space.missing_to_free(more) <= work.room.spare;
        // The reserve exists for writes that free space. It is created again when there is room.
        if fits() || (space.release_reserve() && fits()) { Ok(()) } else { Err(StoreError::Full) }
    }

    /// Queries the free space within the engine's files. If it is too little, tries to gain more, unless the
    /// last attempt is too recent.
    fn reclaim(&self, work: &mut Work, space: &Space, more: u64) {
        if work.failure.is_some() {
            return;
        }
        if work.room.may_query(Instant::now()) {
            // After an error, the last result stays, and a look may follow, which reports its error.
            let _ = self.query(work);
        }
        let begun = Instant::now();
        if space.missing(more) <= work.room.spare || !work.room.may_look(begun) {
            return;
        }
        let reclaimed = self.reclaimed(work, space);
        let missing = space.missing(more).saturating_sub(work.room.spare);
        let ended = Instant::now();
        work.room.looked(begun, ended, missing == 0);
        match reclaimed {
            Ok(()) => tracing::info!(
                missing_bytes = missing,
                spare_bytes = work.room.spare,
                took = ?(ended - begun),
                "the disk is full: the store looked for free space within its files"
            ),
            Err(error) => tracing::warn!("the disk is full, and the store could not look for free space: {error}"),
        }
    }

    fn reclaimed(&self, work: &mut Work, space: &Space) -> Result<()> {
        // An engine that cannot be opened again answers no reads either.
        let can_open = || space.has(self.backend.bytes_to_reopen());
        let done = match self.backend.reclaiming() {
            Reclaiming::Compacting => self.backend.compact(),
            Reclaiming::Reopening if work.room.written_since_open && can_open() => self.reopen_synced(work),
            // This branch syncs nothing, so there is nothing to note.
            Reclaiming::Reopening | Reclaiming::Unneeded => return Ok(()),
        };
        if let Err(error) = done {
            self.fail(work, &error);
            return Err(error);
        }
        // The engine's files have changed, so the mark must not describe the previous ones.
        self.note(work, 0);
        self.query(work)
    }

    fn query(&self, work: &mut Work) -> Result<()> {
        let begun = Instant::now();
        let spare = self.backend.spare_bytes()?;
        work.room.queried(begun, Instant::now(), spare);
        Ok(())
    }

    /// Reopens the engine after syncing everything that was not synced.
    fn reopen_synced(&self, work: &mut Work) -> Result<()> {
        self.apply(work, &Writes::new(), true)?;
        work.unsynced = 0;
        self.note(work, 0);
        self.reopen(work)
    }
}

fn bytes_of<'a>(group: impl Iterator<Item = &'a Waiting>) -> u64 {
    group.map(|waiting| batch_bytes(&waiting.batch) as u64).sum()
}
